"""One run in virtual time, and what is shown of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cli.simulation.faults import Fault
from cli.simulation.virtual.world import Outcome, World


@dataclass(frozen=True)
class Run:
    """An outcome and what it took to get it; `cpu_seconds` are of this process."""

    outcome: Outcome
    cpu_seconds: float
    planned: float
    """Seconds the run was to last; a broken one ends earlier."""
    faults: tuple[Fault, ...]

    @property
    def broken(self) -> str:
        return self.outcome.broken


def run(gateways: int, seconds: float, seed: int, faults: Sequence[Fault], log: Path | None) -> Run:
    """Simulate, with every line of the log in `log` if that is given. Raises `OSError` where it cannot be written."""
    began = time.process_time()
    with log.open("w", encoding="utf-8") if log else contextlib.nullcontext() as stream:

        def write(line: str) -> None:
            if stream is not None:
                stream.write(line + "\n")

        outcome = World(gateways, seconds, seed, faults, write=write).run()
    return Run(outcome, round(time.process_time() - began, 1), seconds, tuple(faults))


def summary(found: Run) -> dict[str, Any]:
    """As JSON. Everything but `cpu_seconds` is the same for the same seed."""
    plain = asdict(found.outcome)
    plain["tail"] = list(found.outcome.tail) if found.broken else []
    return {**plain, "holds": not found.broken, "cpu_seconds": found.cpu_seconds, "again": again(found)}


def again(found: Run) -> str:
    """The command that tells this run once more."""
    outcome, faults = found.outcome, ",".join(fault.value for fault in found.faults) or "none"
    return (
        f"./mazevault simulate --virtual --gateways {outcome.gateways} --seconds {found.planned:g} --seed {outcome.seed} "
        f"--faults {faults}"
    )


def shown(found: Run) -> list[str]:
    """For people; the last line is the verdict."""
    outcome = found.outcome
    lines = [f"virtual time: {outcome.gateways} gateways, {outcome.seconds:.0f} s, seed {outcome.seed}"]
    lines += [f"  {spell.begins:7.0f} s to {spell.ends:6.0f} s  {spell.fault.value}" for spell in outcome.spells]
    lines += [
        f"messages {outcome.messages}, {outcome.mean_per_second} a second; most in one second {outcome.peak_per_second}, "
        f"at {outcome.peak_at} s; refused because they came twice {outcome.refused_twice}",
        f"moves {_counted(outcome.moves)}",
        f"writes {_counted(outcome.writes)}",
        f"events {outcome.events}, checks {outcome.checks}, processor {found.cpu_seconds} s",
        f"log {outcome.log_lines} lines, sha256 {outcome.log_digest}",
    ]
    if found.broken:
        return [*lines, "the end of the log:", *outcome.tail, f"again with: {again(found)}", f"BROKEN {found.broken}"]
    return [*lines, "every invariant held"]


def _counted(found: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in found.items()) or "none"
