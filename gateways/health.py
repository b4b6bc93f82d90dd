"""The health score of a gateway and its label: pure, explained, never NaN (DESIGN §7, reliability §4.6).

score = age factor x weighted parts, then the lowest cap of the hard faults. A part that is not configured is left out and the
other weights are scaled up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from protocol.timing import TimeProfile
from protocol.vocabulary import BreakerState, HealthLabel

WEIGHTS: Mapping[str, float] = {
    "database": 0.20,
    "gateway_key_vault": 0.15,
    "project_key_vaults": 0.15,
    "write_queue": 0.15,
    "tasks": 0.10,
    "latency_and_clock": 0.10,
    "certificate": 0.10,
    "cache": 0.05,
}
_WORTH = tuple(WEIGHTS.values())
CAPS: Mapping[str, float] = {
    "stopped": 0.0, "certificate_expired": 0.0, "wrong_epoch": 0.1, "database_down": 0.2, "gateway_key_vault_down": 0.3,
    "breaker_open": 0.5, "version_unsupported": 0.5,
}  # fmt: skip
"""No score is above the lowest cap of the hard faults there are; lowest first."""
QUEUE_FULL = 1000
"""Queued writes at which the part is worth nothing (the seed's alert line)."""
TASKS_NEEDED = 5
"""Fewer finished tasks than this say nothing about success."""
LATENCY_GOOD_MS, LATENCY_BAD_MS = 200.0, 2000.0
SKEW_GOOD_SECONDS, SKEW_BAD_SECONDS = 30.0, 300.0
CERTIFICATE_DAYS = 30.0
DEGRADED_SCORE, UNHEALTHY_SCORE, RECOVERED_SCORE = 0.70, 0.40, 0.85
DEGRADED_LOOKS, UNHEALTHY_LOOKS, RECOVERED_LOOKS = 2, 3, 5
"""How many judgements in a row move the label down, further down, and up again."""


@dataclass(frozen=True)
class HealthFacts:
    """What is known of one gateway. `None` in a probe means not configured; in `age_seconds`, never heard."""

    age_seconds: float | None
    database: bool | None = None
    gateway_key_vault: bool | None = None
    project_key_vaults: tuple[bool, ...] = ()
    cache: bool | None = None
    write_queue_depth: int = 0
    tasks_succeeded: int = 0
    tasks_failed: int = 0
    latency_p95_ms: float | None = None
    clock_skew_seconds: float = 0.0
    certificate_days_left: float | None = None
    breaker: str = BreakerState.CLOSED.value
    acts_on_wrong_epoch: bool = False
    version_supported: bool = True
    stopped: bool = False
    """Whether its process said goodbye: it answers nothing, however young its last heartbeat is."""


@dataclass(frozen=True)
class Health:
    """`score` 0.00 to 1.00; `parts` 0 to 1 before weighting, with the age factor; `caps` by name; `why` for people."""

    score: float
    parts: dict[str, float]
    caps: tuple[str, ...]
    why: tuple[str, ...]


@dataclass(frozen=True)
class LabelMemory:
    """A label and how often in a row the score asked for another one."""

    label: HealthLabel
    below_degraded: int = 0
    below_unhealthy: int = 0
    above_recovered: int = 0
    low_since: float | None = None
    """Unix seconds at which the score fell below the unhealthy line."""

    @staticmethod
    def from_json(label: str, stored: Mapping[str, Any]) -> LabelMemory:
        names = ("below_degraded", "below_unhealthy", "above_recovered", "low_since")
        return LabelMemory(HealthLabel(label), **{name: stored[name] for name in names if name in stored})

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "label"}


def score(facts: HealthFacts, profile: TimeProfile) -> Health:
    """Score one gateway. A gateway that was never heard scores 0."""
    if facts.age_seconds is None:
        return Health(0.0, {"age": 0.0}, (), ("never heard from",))
    parts = {name: value for name, value in _parts(facts).items() if value is not None}
    caps = list(_caps(facts))
    shown = {name: round(part, 2) for name, part in {"age": age_factor(facts.age_seconds, profile), **parts}.items()}
    return Health(
        score=_weighed(parts, facts, profile),
        parts=shown,
        caps=tuple(name for name, _, _ in caps),
        why=(*_complaints(facts, shown), *(sentence for _, _, sentence in caps)),
    )


class Bare(NamedTuple):
    """`HealthFacts` as a scrape of thousands reads them, in this order; of project vaults only how many answer and do not."""

    age: float | None
    database: bool | None
    key_vault: bool | None
    vaults_ok: int
    vaults_bad: int
    cache: bool | None
    queue: int
    succeeded: int
    failed: int
    latency_ms: float | None
    skew: float
    days_left: float | None
    breaker: str
    wrong_epoch: bool
    version_supported: bool
    stopped: bool


def score_alone(bare: Bare, profile: TimeProfile) -> float:
    """The score without its reasons: the same sum, without a dictionary of parts for each gateway."""
    age, database, key_vault, vaults_ok, vaults_bad, cache, queue, succeeded, failed, latency, skew, days, *_ = bare
    if age is None:
        return 0.0
    weight = weighted = 0.0
    for worth, part in zip(_WORTH, (
        database, key_vault, vaults_ok / (vaults_ok + vaults_bad) if vaults_ok or vaults_bad else None,
        _queue_room(queue), _task_success(succeeded, failed), _latency_and_clock(latency, skew), _certificate(days), cache,
    ), strict=True):  # fmt: skip
        if part is not None:
            weight += worth
            weighted += worth * part
    value = age_factor(age, profile) * (weighted / weight)
    return round(min(1.0, max(0.0, min(value, _lowest_cap(bare)))), 2)


def _lowest_cap(bare: Bare) -> float:
    if bare.stopped or (bare.days_left is not None and bare.days_left <= 0):
        return CAPS["stopped"]
    if bare.wrong_epoch:
        return CAPS["wrong_epoch"]
    if bare.database is False:
        return CAPS["database_down"]
    if bare.key_vault is False:
        return CAPS["gateway_key_vault_down"]
    if bare.breaker == BreakerState.OPEN or not bare.version_supported:
        return CAPS["breaker_open"]
    return 1.0


def _weighed(parts: Mapping[str, float], facts: HealthFacts, profile: TimeProfile) -> float:
    weight = sum(WEIGHTS[name] for name in parts)
    weighted = sum(WEIGHTS[name] * value for name, value in parts.items()) / weight
    value = min([age_factor(facts.age_seconds or 0.0, profile) * weighted, *(cap for _, cap, _ in _caps(facts))])
    return round(min(1.0, max(0.0, value)), 2)


def age_factor(age_seconds: float, profile: TimeProfile) -> float:
    """1 up to the full age, falling evenly to 0 at the zero age; an old report proves nothing about now."""
    span = profile.heartbeat_zero_age - profile.heartbeat_full_age
    return min(1.0, max(0.0, (profile.heartbeat_zero_age - age_seconds) / span))


def next_label(memory: LabelMemory, value: float, age_seconds: float | None, now: datetime, profile: TimeProfile) -> LabelMemory:
    """The label after one more judgement. Falls only after several low ones, rises only after several good ones."""
    if age_seconds is None or age_seconds >= profile.heartbeat_zero_age:
        return LabelMemory(HealthLabel.SILENT)
    low_since = (memory.low_since or now.timestamp()) if value < UNHEALTHY_SCORE else None
    counted = LabelMemory(
        label=memory.label,
        below_degraded=memory.below_degraded + 1 if value < DEGRADED_SCORE else 0,
        below_unhealthy=memory.below_unhealthy + 1 if value < UNHEALTHY_SCORE else 0,
        above_recovered=memory.above_recovered + 1 if value >= RECOVERED_SCORE else 0,
        low_since=low_since,
    )
    label = _moved(counted, value, now.timestamp(), profile.label_dwell)
    return counted if label is memory.label else LabelMemory(label=label, low_since=low_since)


def _moved(memory: LabelMemory, value: float, now: float, dwell: float) -> HealthLabel:
    if memory.label is HealthLabel.SILENT:
        return HealthLabel.HEALTHY if value >= DEGRADED_SCORE else HealthLabel.DEGRADED
    if memory.label is HealthLabel.HEALTHY:
        return HealthLabel.DEGRADED if memory.below_degraded >= DEGRADED_LOOKS else memory.label
    if memory.above_recovered >= RECOVERED_LOOKS:
        return HealthLabel.HEALTHY
    lasted = memory.low_since is not None and now - memory.low_since >= dwell
    if memory.label is HealthLabel.DEGRADED and memory.below_unhealthy >= UNHEALTHY_LOOKS and lasted:
        return HealthLabel.UNHEALTHY
    return memory.label


def _parts(facts: HealthFacts) -> dict[str, float | None]:
    vaults = facts.project_key_vaults
    return {
        "database": _flag(facts.database),
        "gateway_key_vault": _flag(facts.gateway_key_vault),
        "project_key_vaults": sum(vaults) / len(vaults) if vaults else None,
        "write_queue": _queue_room(facts.write_queue_depth),
        "tasks": _task_success(facts.tasks_succeeded, facts.tasks_failed),
        "latency_and_clock": _latency_and_clock(facts.latency_p95_ms, facts.clock_skew_seconds),
        "certificate": _certificate(facts.certificate_days_left),
        "cache": _flag(facts.cache),
    }


def _caps(facts: HealthFacts) -> Iterator[tuple[str, float, str]]:
    days = facts.certificate_days_left
    table = (
        ("stopped", facts.stopped, "it was stopped in order"),
        ("certificate_expired", days is not None and days <= 0, "its certificate has expired"),
        ("wrong_epoch", facts.acts_on_wrong_epoch, "it believes to be active in an epoch that is not its own"),
        ("database_down", facts.database is False, "its database does not answer"),
        ("gateway_key_vault_down", facts.gateway_key_vault is False, "its own Key Vault does not answer"),
        ("breaker_open", facts.breaker == BreakerState.OPEN, "its circuit breaker to the Primary was open"),
        ("version_unsupported", not facts.version_supported, "its version is not supported by this Primary"),
    )
    return ((name, CAPS[name], sentence) for name, holds, sentence in table if holds)


def _complaints(facts: HealthFacts, parts: Mapping[str, float]) -> Iterator[str]:
    return (_COMPLAINTS[name](facts) for name in _COMPLAINTS if parts.get(name, 1.0) < 1.0)


_COMPLAINTS: Mapping[str, Callable[[HealthFacts], str]] = {
    "age": lambda facts: f"last heartbeat {facts.age_seconds or 0:.0f} s ago",
    "project_key_vaults": lambda _: "some project Key Vaults do not answer",
    "write_queue": lambda facts: f"{facts.write_queue_depth} writes wait in its queue",
    "tasks": lambda facts: f"{facts.tasks_failed} tasks failed lately",
    "latency_and_clock": lambda facts: _told_of_time(facts),
    "certificate": lambda facts: f"its certificate lives {facts.certificate_days_left or 0:.0f} more days",
    "cache": lambda _: "its cache does not answer",
}
"""Sentences are made for parts that are not full only: most heartbeats have nothing to complain about."""


def _told_of_time(facts: HealthFacts) -> str:
    """Only what is not good: a clock that is right is no complaint because answers are slow."""
    skew, latency = abs(facts.clock_skew_seconds), facts.latency_p95_ms or 0.0
    told = [f"clock off by {skew:.1f} s"] if not skew <= SKEW_GOOD_SECONDS else []
    return ", ".join([*told, *([f"slowest answers of the Primary {latency:.0f} ms"] if not latency <= LATENCY_GOOD_MS else [])])


def _flag(value: bool | None) -> float | None:
    return None if value is None else float(value)


def _queue_room(depth: int) -> float:
    return max(0.0, 1 - depth / QUEUE_FULL)


def _latency_and_clock(latency_ms: float | None, skew: float) -> float:
    if 0.0 <= (latency_ms or 0.0) <= LATENCY_GOOD_MS and abs(skew) <= SKEW_GOOD_SECONDS:
        return 1.0
    return min(
        _falling(latency_ms or 0.0, LATENCY_GOOD_MS, LATENCY_BAD_MS), _falling(abs(skew), SKEW_GOOD_SECONDS, SKEW_BAD_SECONDS)
    )


def _task_success(succeeded: int, failed: int) -> float:
    total = succeeded + failed
    return 1.0 if total < TASKS_NEEDED else succeeded / total


def _falling(value: float, good: float, bad: float) -> float:
    """1 up to `good`, evenly down to 0 at `bad`; anything that is no number counts as bad."""
    if not math.isfinite(value):
        return 0.0
    return min(1.0, max(0.0, (bad - value) / (bad - good)))


def _certificate(days: float | None) -> float | None:
    return None if days is None else min(1.0, max(0.0, days / CERTIFICATE_DAYS))
