"""`mazevault keys`: keys at rest of one node, and the Primary's authorities, by the node's own `manage.py keys` while it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from cli.stack.layout import ROOT, StackError, layout_from, read_run_file
from cli.stack.stack import Stack

app = typer.Typer(no_args_is_help=True, help="Show or rotate the keys at rest, and the generations of the authorities.")
Node = Annotated[str, typer.Option("--node", help="a gateway's name, for its own keys")]


@app.command()
def status(node: Node = "primary", output: Annotated[str, typer.Option("--output", "-o", help="text or json")] = "text") -> None:
    """Show the keys of each environment and what retired ones still hold."""
    _run(node, ["status", "--output", output])


@app.command("list")
def list_authorities(output: Annotated[str, typer.Option("--output", "-o", help="text or json")] = "text") -> None:
    """Show the generations of every authority, and the days each has left."""
    _run("primary", ["list", "--output", output])


@app.command()
def rotate(
    master: Annotated[bool, typer.Option("--master", help="wrap all keys under the current master key")] = False,
    environment: Annotated[str, typer.Option("--environment", help="give NPR, PRO or platform a new key")] = "",
    authority: Annotated[str, typer.Option("--authority", help="next generation of NPR, PRO, PLATFORM, ROOT, CHANNEL")] = "",
    now: Annotated[bool, typer.Option("--now", help="with --authority: it signs at once, because a key leaked")] = False,
    grace: Annotated[str, typer.Option("--grace", help="with --now: hours the present one is still trusted (24)")] = "",
    confirm: Annotated[str, typer.Option("--confirm", help="with --now: the authority's name once more")] = "",
    reason: Annotated[str, typer.Option("--reason", help="for the audit trail")] = "",
    root_key: Annotated[list[str] | None, typer.Option("--root-key", help="file with a root's key that is not kept here")] = None,
    import_root: Annotated[str, typer.Option("--import-root", help="with ROOT: a root certificate made elsewhere")] = "",
    passphrase_file: Annotated[list[str] | None, typer.Option("--passphrase-file", help="passphrase of each key file")] = None,
    node: Node = "primary",
) -> None:
    """Change the master key, an environment's key at rest, or an authority. It can be ended anywhere; run it again to go on."""
    files = [("--root-key", one) for one in root_key or []] + [("--passphrase-file", one) for one in passphrase_file or []]
    words = {"--environment": environment, "--authority": authority, "--grace": grace, "--confirm": confirm, "--reason": reason}
    brought = [part for name, given in files for part in (name, _file(given))]
    flags = [*(["--master"] if master else []), *(["--now"] if now else [])]
    _run(node, ["rotate", *flags, *_options(words | {"--import-root": _file(import_root)}), *brought])


@app.command("export-root")
def export_root(
    out: Annotated[str, typer.Option("--out", help="a new file")],
    passphrase_file: Annotated[str, typer.Option("--passphrase-file", help="file with a passphrase of 12 characters or more")],
) -> None:
    """Write the root's key, encrypted, into a file for the safe."""
    _run("primary", ["export-root", *_options({"--out": _file(out), "--passphrase-file": _file(passphrase_file)})])


@app.command("remove-root")
def remove_root(confirm: Annotated[str, typer.Option("--confirm", help="ROOT")] = "") -> None:
    """Forget the root's key here; new generations then need the key from the safe."""
    _run("primary", ["remove-root", *_options({"--confirm": confirm})])


def _options(wish: Mapping[str, str]) -> list[str]:
    return [part for name, value in wish.items() if value for part in (name, value)]


def _file(name: str) -> str:
    """As seen from this shell; the node's command runs in another folder."""
    return str(Path(name).resolve()) if name else ""


def _run(node: str, arguments: list[str]) -> None:
    try:
        environ = _environment(node, os.environ)
    except StackError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    argv = [sys.executable, str(ROOT / "manage.py"), "keys", *arguments]
    raise typer.Exit(subprocess.run(argv, env=environ, cwd=ROOT, check=False).returncode)


def _environment(node: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of this shell when it has a node's own, else those of a node of the running stack."""
    if environ.get("DATABASE_URL") and (environ.get("MAZEVAULT_MASTER_KEY") or environ.get("MAZEVAULT_MASTER_KEY_FILE")):
        return dict(environ)
    layout = layout_from(environ)
    found = read_run_file(layout)
    if found is None:
        raise StackError(
            "nothing runs here and this shell has no DATABASE_URL and MAZEVAULT_MASTER_KEY; start it with: ./mazevault up"
        )
    names = ["primary", *(spec.name for spec in layout.gateways)]
    if node not in names:
        raise StackError(f"there is no node {node}; there are: {', '.join(names)}")
    return Stack(layout, environ, lambda _line: None).attached(found).environment_of(node)
