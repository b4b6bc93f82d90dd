"""`make bench`: measure, print JSON, write table and chart. All in one run, so that ratios mean something on a noisy machine."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import typer

from benchmarks import channel, copy, front, growth, lane, limits, reconcile, report, stack, sync
from benchmarks.goals import outcomes

BENCHMARKS: dict[str, Callable[[], Mapping[str, object]]] = {
    "lane": lane.lane,
    "limits": limits.here,
    "reconcile": reconcile.reconcile,
    "copy": copy.copy,
    "envelope": channel.envelope,
    "front": front.front,
    "growth": growth.growth,
    "stack": stack.stack,
    "sync": sync.sync,
}
RATIOS = ("lane", "limits", "reconcile")
"""What the goals are judged by."""


def main(
    names: list[str] = typer.Argument(None, help=f"of {', '.join(BENCHMARKS)}; all when none is named"),  # noqa: B008
    check: bool = typer.Option(False, "--check", help="exit with status 1 when a ratio is far below its goal"),
    write: bool = typer.Option(False, "--write", help="put table and chart into docs/performance.md"),
) -> None:
    """Measure and print JSON. `--check` and `--write` measure what the goals need."""
    unknown = sorted(set(names or []) - BENCHMARKS.keys())
    if unknown:
        raise typer.BadParameter(f"there is no benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    run = measured(names or (RATIOS if check else tuple(BENCHMARKS)))
    if write:
        report.write(run)
    print(json.dumps(run, indent=2))
    if check:
        raise typer.Exit(judged(run["results"]))


def measured(names: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """All that was asked for, one after the other and each in a process of its own, with what the machine is."""
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 2)}
    results = {}
    for name in names:
        print(f"measuring {name}", file=sys.stderr)
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            results[name] = alone.apply(BENCHMARKS[name])
    return {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine, "results": results}


def judged(results: Mapping[str, Any]) -> int:
    """Say of every goal how it stands; 1 when one of them is missed by more than the margin."""
    found = outcomes(results)
    print(report.table(found), file=sys.stderr)
    missed = [one for one in found if not one.passes_check]
    for one in missed:
        print(f"bench-check: {one.goal.title}: {one.ratio:.3f} of {one.goal.other_title}, at least {one.goal.check:g} is asked",
              file=sys.stderr)  # fmt: skip
    return 1 if missed else 0


if __name__ == "__main__":
    typer.run(main)
