"""What a real run came to, whether it held, and how it is shown."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from cli.simulation.faults import Spell

HEARD_AGAIN_SECONDS = 60.0
"""After a restart the whole fleet must have been heard within this time."""


@dataclass(frozen=True)
class Restart:
    """Seconds from the kill until the port was open again, and from then on until nine tenths, then all gateways were heard."""

    away_seconds: float
    most_heard_seconds: float
    all_heard_seconds: float
    silent: int
    """Gateways that were not heard within the longest wait; those a fault has cut off are not counted."""


@dataclass(frozen=True)
class Outcome:
    """What a real run came to. `problems` is empty when everything held."""

    seed: int
    gateways: int
    environments: int
    waiting: int
    seconds: float
    enrol_seconds: float
    ready_seconds: float
    """From the last enrolment until every environment had an active gateway with a lease."""
    quiet: dict[str, Any]
    """Before the first fault: messages a second, processor time of each process in ms a message."""
    mean_per_second: float
    peak_per_second: int
    kinds: dict[str, int]
    statuses: dict[str, int]
    without_answer: int
    sent_twice: int
    taken_twice: int
    latency_ms: dict[str, dict[str, float]]
    least_lease_left_seconds: float | None
    restarts: list[Restart]
    memory_mb: dict[str, float]
    simulator_memory_mb: float
    load_average: float
    cores: int
    spells: list[Spell]
    problems: list[str] = field(default_factory=list)
    last_refusal: str = ""


def problems_of(found: Outcome) -> list[str]:
    """What did not hold."""
    problems = []
    nameless = sum(count for status, count in found.statuses.items() if status.startswith("5") and status.isdecimal())
    if nameless:
        problems.append(f"{nameless} answers of the 5xx kind named no pause: {found.statuses}")
    if found.taken_twice:
        problems.append(f"{found.taken_twice} messages were taken twice")
    for restart in found.restarts:
        if restart.silent or restart.all_heard_seconds > HEARD_AGAIN_SECONDS:
            problems.append(
                f"after a restart not everybody was heard within {HEARD_AGAIN_SECONDS:g} s: the last one after "
                f"{restart.all_heard_seconds} s, {restart.silent} not at all"
            )
    return problems


def summary(found: Outcome) -> dict[str, Any]:
    """As JSON."""
    return {**asdict(found), "holds": not found.problems}


def shown(found: Outcome) -> list[str]:
    """For people; the last line is the verdict."""
    quiet = found.quiet
    lines = [
        f"{found.gateways} gateways in {found.environments} environments, {found.waiting} with a waiting call, "
        f"seed {found.seed}; {found.cores} cores, load average {found.load_average}",
        f"enrolled in {found.enrol_seconds} s ({found.gateways / max(0.1, found.enrol_seconds):.0f} a second), "
        f"every environment served {found.ready_seconds} s later",
        f"quiet: {quiet['messages_per_second']} messages a second; processor in ms a message {quiet['cpu_ms_a_message']}",
        f"messages a second: mean {found.mean_per_second}, most {found.peak_per_second}",
        f"answers {found.statuses}, without answer {found.without_answer}, sent twice {found.sent_twice}",
        f"latency in ms {found.latency_ms}",
        f"least lease left of gateways that no fault cut off: {found.least_lease_left_seconds} s",
        f"memory in MB {found.memory_mb}; the simulator {found.simulator_memory_mb}",
    ]
    lines += [
        f"restart: away {one.away_seconds} s, then nine tenths heard after {one.most_heard_seconds} s, "
        f"all after {one.all_heard_seconds} s"
        for one in found.restarts
    ]
    return [*lines, *(f"BROKEN {problem}" for problem in found.problems), *([] if found.problems else ["everything held"])]


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = [ordered[min(len(ordered) - 1, math.floor(len(ordered) * share))] for share in (0.5, 0.99)]
    return {"p50": round(at[0] * 1000, 1), "p99": round(at[1] * 1000, 1)}
