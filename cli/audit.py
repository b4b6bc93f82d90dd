"""`mazevault audit`: check the audit trail of the running nodes or of an export, and write an export.

Checking needs public keys only and no database: a running node first exports itself, then the files are checked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cli.stack import control
from cli.stack.layout import ROOT, Layout, StackError, layout_from, read_run_file
from protocol.audit_evidence import Evidence, Report, check, pin_of_pem
from protocol.audit_files import FORMATS, read_export

app = typer.Typer(no_args_is_help=True, help="Check the audit trail, or write it out.")

EXPORT_SECONDS = 3600.0


@app.command()
def verify(
    paths: Annotated[list[Path] | None, typer.Argument(help="exports to check together; the running nodes when left out")] = None,
    ca: Annotated[Path | None, typer.Option("--ca", help="the root certificate, from a safe place")] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="text or json")] = "text",
) -> None:
    """Find every edit, insertion, reorder, deletion and tail cut. Exit status: 0 sound, 1 not sound or not readable."""
    if output not in ("text", "json"):
        _fail("--output must be text or json")
    if paths:
        _tell(_checked(paths, _pin(ca)), output)
        return
    with tempfile.TemporaryDirectory(prefix="mazevault-audit-") as folder:
        nodes = _running_nodes()
        for name, environment in nodes.items():
            _export(environment, Path(folder) / name, "jsonl")
        _tell(_checked([Path(folder)], _pin(ca or _ca_of_the_stack())), output)


@app.command()
def export(
    folder: Annotated[Path | None, typer.Argument(help="a new folder")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="the same, as an option")] = None,
    form: Annotated[str, typer.Option("--format", help="jsonl or csv")] = "jsonl",
) -> None:
    """Write the audit trail of this node, or of every node of the running stack in a folder each."""
    if form not in FORMATS:
        _fail(f"--format must be one of {', '.join(FORMATS)}")
    out = _one_folder(folder, out)
    if out.exists() and any(out.iterdir()):
        _fail(f"{out} is not empty; name a new folder")
    nodes = _running_nodes()
    for name, environment in nodes.items():
        typer.echo(f"{name}: {_export(environment, out / name if len(nodes) > 1 else out, form)}")


def _one_folder(folder: Path | None, out: Path | None) -> Path:
    """Where an export goes: never to standard output, since it is several files that prove each other."""
    if folder and out and folder != out:
        _fail(f"one folder, please: {folder} or {out}")
    named = folder or out
    if named is None:
        _fail(
            "name a new folder for it: ./mazevault audit export FOLDER. An export is several files that prove each other, so it "
            "does not go to standard output; when it is made, ./mazevault audit verify FOLDER checks it"
        )
    return named


def _checked(paths: list[Path], pin: str) -> Report:
    try:
        shown = [read_export(path) for given in paths for path in _exports_in(given)]
        return check(_told_apart(shown), pin)
    except (ValueError, OSError) as error:
        _fail(str(error))


def _exports_in(path: Path) -> list[Path]:
    if path.is_file() or (path / "manifest.json").exists():
        return [path]
    found = sorted(one.parent for one in path.glob("*/manifest.json"))
    return found or [path]


def _told_apart(shown: list[Evidence]) -> list[Evidence]:
    names = [one.node for one in shown]
    if len(set(names)) != len(names):
        _fail("two of these exports are of the same node; check them one after the other")
    return shown


def _tell(report: Report, output: str) -> NoReturn:
    if output == "json":
        typer.echo(json.dumps(report.as_json(), indent=1))
    else:
        for line in report.lines():
            typer.echo(line)
    raise typer.Exit(0 if report.sound else 1)


def _pin(ca: Path | None) -> str:
    try:
        return pin_of_pem(ca.read_text()) if ca else ""
    except (OSError, ValueError) as error:
        _fail(f"{ca} is not a certificate: {error}")


def _running_nodes() -> dict[str, Mapping[str, str]]:
    """Each node to ask with the variables it runs with: the stack of this machine, else the node this shell is set up for."""
    layout = _layout()
    found = read_run_file(layout)
    if found is None or control.ask(layout, "ping", "primary") is None:
        if not os.environ.get("DATABASE_URL") and not os.environ.get("DATABASE_URL_FILE"):
            _fail("nothing runs here; start it with ./mazevault up, set DATABASE_URL and the node's keys, or name an export")
        return {os.environ.get("GATEWAY_NAME") or "primary": dict(os.environ)}
    names = ["primary", *(gateway["name"] for gateway in found["gateways"])]
    return {name: _environment_of(layout, name) for name in names}


def _environment_of(layout: Layout, name: str) -> Mapping[str, str]:
    answer = control.ask(layout, "environment", name) or "error: the stack does not answer"
    if answer.startswith("error:"):
        _fail(answer.removeprefix("error: "))
    return {**os.environ, **json.loads(answer)}


def _ca_of_the_stack() -> Path | None:
    found = read_run_file(_layout())
    return Path(found["ca_file"]) if found else None


def _export(environment: Mapping[str, str], out: Path, form: str) -> str:
    argv = [sys.executable, str(ROOT / "manage.py"), "audit", "export", "--out", str(out), "--format", form]
    done = subprocess.run(argv, env=dict(environment), capture_output=True, text=True, timeout=EXPORT_SECONDS, check=False)
    if done.returncode:
        _fail((done.stderr or done.stdout).strip().splitlines()[-1])
    return done.stdout.strip()


def _layout() -> Layout:
    try:
        return layout_from(os.environ)
    except StackError as error:
        _fail(str(error))


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"error: {sentence}", err=True)
    raise typer.Exit(1)
