"""`mazevault simulate`: how a fleet of many gateways behaves, over the real wire or in virtual time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from cli.simulation.faults import Fault, FaultsInvalid, parse_faults

ALL = ",".join(fault.value for fault in Fault)
VIRTUAL_SECONDS, REAL_SECONDS = 3600.0, 120.0
"""How long a run is when nobody says so: of virtual time, and of real time after enrolment."""
MOST = 20_000


def simulate(
    gateways: Annotated[
        int, typer.Option(min=2, max=MOST, help="an even number: each environment has a primary and a DR one")
    ] = 100,
    seconds: Annotated[
        float | None,
        typer.Option(min=10, max=86400, help="length of the run; 120 when left out, 3600 with --virtual"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="the same seed brings the same faults; with --virtual the same log")] = 1,
    faults: Annotated[str, typer.Option(help="some of these with commas between them, or none")] = ALL,
    virtual: Annotated[bool, typer.Option("--virtual", help="decisions only, in virtual time; no server, no socket")] = False,
    waiting: Annotated[
        int | None, typer.Option(min=0, max=MOST, help="so many gateways keep a waiting call; all when left out")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="write every event here; with --virtual only")] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="text or json")] = "text",
) -> None:
    """Simulate many gateways and the faults they must outlive. Exit status 1 when an invariant or a limit does not hold."""
    if output not in ("text", "json"):
        _fail("--output must be text or json")
    if gateways % 2:
        _fail(f"--gateways is {gateways}; give an even number, since each environment has a primary and a DR gateway")
    try:
        chosen = parse_faults(faults)
    except FaultsInvalid as error:
        _fail(str(error))
    if virtual and waiting is not None:
        _fail("--waiting is for real runs; with --virtual every gateway keeps a waiting call")
    if log is not None and not virtual:
        _fail("--log is for --virtual; a real run leaves the logs of the Primary only while it runs")
    if virtual:
        _virtual(gateways, seconds or VIRTUAL_SECONDS, seed, chosen, log, output)
    else:
        _real(gateways, seconds or REAL_SECONDS, seed, chosen, gateways if waiting is None else min(waiting, gateways), output)


def _virtual(gateways: int, seconds: float, seed: int, faults: tuple[Fault, ...], log: Path | None, output: str) -> None:
    from cli.simulation.virtual.run import run, shown, summary  # what it needs of the product takes a moment to import

    try:
        found = run(gateways, seconds, seed, faults, log)
    except OSError as error:
        _fail(f"--log: {log} cannot be written: {error.strerror or error}")
    _say(output, summary(found), shown(found))
    raise typer.Exit(1 if found.broken else 0)


def _real(gateways: int, seconds: float, seed: int, faults: tuple[Fault, ...], waiting: int, output: str) -> None:
    from cli.simulation.limits import TooFewFiles
    from cli.simulation.real.outcome import shown, summary
    from cli.simulation.real.run import run
    from cli.stack.layout import StackError
    from cli.stack.primary_client import PrimaryError

    def tell(line: str) -> None:
        typer.echo(line, err=output == "json")

    try:
        found = run(gateways, seconds, seed, faults, waiting, tell)
    except (TooFewFiles, StackError, PrimaryError) as error:
        _fail(str(error))
    _say(output, summary(found), shown(found))
    raise typer.Exit(1 if found.problems else 0)


def _say(output: str, plain: Mapping[str, Any], lines: list[str]) -> None:
    typer.echo(json.dumps(plain, indent=2) if output == "json" else "\n".join(lines))


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"error: {sentence}", err=True)
    raise typer.Exit(1)
