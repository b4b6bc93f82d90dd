"""`mazevault keys`: the keys at rest of one node, shown or changed by the node's own `manage.py keys` while it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from cli.stack.layout import ROOT, StackError, layout_from, read_run_file
from cli.stack.stack import Stack

app = typer.Typer(no_args_is_help=True, help="Show or rotate the keys at rest.")
Node = Annotated[str, typer.Option("--node", help="a gateway's name, for its own keys")]


@app.command()
def status(node: Node = "primary", output: Annotated[str, typer.Option("--output", "-o", help="text or json")] = "text") -> None:
    """Show the keys of each environment and what retired ones still hold."""
    _run(node, ["status", "--output", output])


@app.command()
def rotate(
    master: Annotated[bool, typer.Option("--master", help="wrap all keys under the current master key")] = False,
    environment: Annotated[str, typer.Option("--environment", help="give NPR, PRO or platform a new key")] = "",
    node: Node = "primary",
) -> None:
    """Change the master key or an environment's key. It can be ended anywhere; run it again to go on."""
    wish = ["--master"] if master else []
    _run(node, ["rotate", *wish, *(["--environment", environment] if environment else [])])


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
