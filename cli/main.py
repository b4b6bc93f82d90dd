"""`mazevault`: run the stack of this machine and look at it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Annotated, NoReturn

import typer

from cli import audit, keys
from cli.stack import control
from cli.stack.layout import ROOT, Layout, StackError, layout_from, read_run_file
from cli.stack.primary_client import PrimaryError
from cli.stack.stack import Interrupted, Stack, stop_on_signals
from cli.stack.status import HEALTHY, Overview, overview
from common.files import open_private

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(keys.app, name="keys")
app.add_typer(audit.app, name="audit")
DOWN_SECONDS = 15.0
"""Ending takes at most 10 s."""


@app.command()
def up(detach: Annotated[bool, typer.Option("--detach", "-d", help="return when it is ready")] = False) -> None:
    """Start the stack: Primary, worker, beat, the four gateways and a local Azure. Ctrl-C ends it."""
    layout = _layout()
    if control.ask(layout, "ping", "primary") is not None:
        _fail(f"a stack runs already with the data in {layout.var}; see ./mazevault status, or end it with ./mazevault down")
    if detach:
        _up_detached(layout)
    else:
        _up_here(layout)


@app.command()
def down() -> None:
    """End the stack."""
    layout = _layout()
    answer = control.ask(layout, "down")
    if answer is None:
        layout.run_file.unlink(missing_ok=True)
        typer.echo("nothing runs")
        return
    deadline = time.monotonic() + DOWN_SECONDS
    while answer and control.ask(layout, "ping", "primary") is not None and time.monotonic() < deadline:
        time.sleep(0.1)
    if control.ask(layout, "ping", "primary") is not None:
        _fail(f"the stack does not answer; end its processes by the numbers under pids in {layout.run_file}")
    typer.echo("down")


@app.command()
def status(output: Annotated[str, typer.Option("--output", "-o", help="text or json")] = "text") -> None:
    """Show the fleet. Exit status: 0 healthy, 1 error, 2 degraded, DR active or nobody who may act."""
    if output not in ("text", "json"):
        _fail("--output must be text or json")
    layout = _layout()
    found = read_run_file(layout)
    if found is None:
        _say_status(Overview(1, "nothing runs; start it with: ./mazevault up"), output)
    else:
        _say_status(overview(found), output)


@app.command()
def logs(
    name: Annotated[str, typer.Argument(help="a process such as primary or gw-npr-primary; all when left out")] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=100000)] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f")] = False,
) -> None:
    """Show the logs."""
    layout = _layout()
    files = sorted(layout.logs.glob(f"{name or '*'}.log"))
    if not files or "/" in name or "*" in name:
        known = ", ".join(path.stem for path in sorted(layout.logs.glob("*.log"))) or "none yet"
        _fail(f"there is no log {name!r}; there are: {known}")
    command = ["tail", "-n", str(lines), *(["-F"] if follow else []), *map(str, files)]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@app.command()
def start(name: str) -> None:
    """Start one process of the running stack again."""
    _tell("start", name)


@app.command()
def stop(name: str) -> None:
    """Stop one process of the running stack."""
    _tell("stop", name)


@app.command()
def restart(name: str) -> None:
    """Stop and start one process of the running stack."""
    _tell("restart", name)


@app.command()
def doctor(
    output: Annotated[str, typer.Option("--output", "-o", help="text or json")] = "text",
    sign_in_as: Annotated[str, typer.Option("--as", help="sign in at the sandbox as this user, for the last checks")] = "",
    url: Annotated[str, typer.Option(help="of the Primary; otherwise the stack that runs here")] = "",
    ca_file: Annotated[str, typer.Option(help="what the Primary's certificate is checked with")] = "",
) -> None:
    """Check sign-in with Entra step by step. Exit status 1 when something is wrong; each finding names cause, fix and owner."""
    options = {"--url": url, "--ca-file": ca_file, "--as": sign_in_as}
    more = [word for name, value in options.items() if value for word in (name, value)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])])
    command = [sys.executable, "-m", "cli.doctor", "-o", output, *more]
    raise typer.Exit(subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode)


def _up_here(layout: Layout) -> None:
    began = time.monotonic()
    asked = stop_on_signals()
    stack = Stack(layout, os.environ, lambda line: _progress(began, line), asked=asked)
    try:
        stack.up()
        _welcome(stack, time.monotonic() - began)
        stack.watch(asked)
    except (StackError, PrimaryError) as error:
        _fail(str(error), stack)
    except Interrupted:
        pass
    typer.echo("ending all processes")
    stack.down()


def _up_detached(layout: Layout) -> None:
    layout.run_file.unlink(missing_ok=True)  # of a stack that was killed; the new one writes its own when it is ready
    log = layout.logs / "stack.log"
    with open_private(log, "wb") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "cli", "up"], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=stream,
            stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, "MAZEVAULT_VAR": str(layout.var)},
        )  # fmt: skip
    while not layout.run_file.exists():  # it gives up by itself, with the reason
        if child.poll() is not None:
            _fail(f"the stack did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.1)
    typer.echo(log.read_text(errors="replace"), nl=False)


def _welcome(stack: Stack, seconds: float) -> None:
    shown = stack.describe()
    typer.echo(f"ready after {seconds:.1f} s (time profile {shown['time_profile']})")
    typer.echo(f"  Primary         {', '.join(shown['primary_urls'])}")
    typer.echo(f"  CA file         {shown['ca_file']}")
    typer.echo(f"  administrator   {shown['admin_email']}, password in {shown['admin_password_file']}")
    for gateway in shown["gateways"]:
        typer.echo(f"  {gateway['name']:<15} {gateway['url']}  {gateway['environment']} {gateway['role']}")
    typer.echo(f"  Azure sandbox   {shown['sandbox_url']}  sign in: {shown['primary_url']}/api/v1/auth/sso/entra/login")
    typer.echo(f"  logs            {shown['logs']}")
    typer.echo("./mazevault down ends it, and so does Ctrl-C where it runs in the foreground; ./mazevault status shows it")


def _progress(began: float, line: str) -> None:
    typer.echo(f"[{time.monotonic() - began:5.1f} s] {line}")


def _say_status(found: Overview, output: str) -> None:
    if output == "json":
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        for line in found.lines():
            typer.echo(line)
    raise typer.Exit(found.code if found.code != HEALTHY else 0)


def _tell(verb: str, name: str) -> None:
    answer = control.ask(_layout(), verb, name)
    if answer is None:
        _fail("nothing runs; start it with: ./mazevault up")
    if answer.startswith("error:"):
        _fail(answer.removeprefix("error: "))
    typer.echo(answer)


def _layout() -> Layout:
    try:
        return layout_from(os.environ)
    except StackError as error:
        _fail(str(error))


def _fail(sentence: str, stack: Stack | None = None) -> NoReturn:
    typer.echo(f"error: {sentence}", err=True)
    if stack:
        stack.down()
    raise typer.Exit(1)
