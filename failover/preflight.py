"""May this environment be moved? Named checks over plain facts: hard, waivable, informing (reliability §4.5). Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum

from integrations.sync.copy_state import CopyState
from protocol.timing import TimeProfile

TARGET_SCORE = 0.70
STABLE_BEATS = 5
WAITED_FOR = frozenset({"source_queue"})
"""Checks that a move waits for by itself, so that they refuse nothing: waived by name, nobody waits."""
CERTIFICATE_DAYS = 1.0


class Level(StrEnum):
    HARD = "hard"
    WAIVABLE = "waivable"
    INFO = "info"


@dataclass(frozen=True)
class Check:
    """One line of a plan. `fix` says what to do when it did not pass."""

    name: str
    level: Level
    passed: bool
    sentence: str
    fix: str = ""


@dataclass(frozen=True)
class SideFacts:
    """One gateway of the environment as the checks see it. Ages and durations are seconds."""

    name: str
    banned: bool
    held: bool
    age: float | None
    score: float
    good_beats: int
    stable_for: float
    certificate_days: float | None
    version: str
    queue_depth: int
    queue_oldest: float
    key_vault: bool | None
    cold: bool = False
    unapplied_writes: int = 0
    """Writes of it that have arrived and that the Primary has not come to yet."""
    undecided_writes: int = 0
    """Writes of it that wait for a person: conflicts and quarantined ones."""
    recent_dead_letters: int = 0
    """Writes of it that could not be applied, not decided on, younger than the last move."""
    drained: bool = False
    """An administrator told it to take nothing new; it would be active and serve no writes and no tasks."""
    copy_age: float | None = None
    """How old its copy of the environment's secrets was at its last heartbeat; None when it was not complete then."""
    stopped: bool = False
    """Whether it said goodbye and was not started since."""
    answers: bool | None = None
    """Whether it gave a sign of life when it was asked a moment ago; None when nobody asked."""


@dataclass(frozen=True)
class MoveFacts:
    """The environment before a move. `source` is active now, `target` is to be; None when nobody is enrolled there."""

    source: SideFacts | None
    target: SideFacts | None
    target_role: str
    since_switch: float | None
    lease_seconds: float
    """Seconds the source's lease may live on, as stored."""
    vault_copies: tuple[CopyState, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """What a move would cost if it began now."""

    writes_at_risk: int
    oldest_write_seconds: float
    seconds_to_serve: float
    way: str


def failover_checks(facts: MoveFacts, timing: TimeProfile) -> list[Check]:
    """Checks before the DR gateway is activated. A dead or silent primary stops nothing."""
    target = facts.target
    if target is None:
        return [_missing(facts.target_role)]
    start = "start it (a cold standby needs its start steps and a fresh bootstrap token), wait for its heartbeat and repeat"
    return [
        *_target_basics(target, timing.standby_fresh_age, start),
        *_answers(target, start),
        _score(target, Level.WAIVABLE),
        _copy(target, timing, Level.WAIVABLE),
        _version(target, facts.source),
        _key_vault(target),
        *map(_vault_copy, facts.vault_copies),
        _cooldown(facts, timing),
        *_queue_of_source(facts.source, timing.queue_wait),
    ]


def failback_checks(facts: MoveFacts, timing: TimeProfile) -> list[Check]:
    """Checks before the primary gateway takes over again. An unhealthy primary is refused."""
    target = facts.target
    if target is None:
        return [_missing(facts.target_role)]
    start = "bring the primary gateway back and wait for its heartbeat"
    stable = target.good_beats >= STABLE_BEATS and target.stable_for >= timing.failback_stable
    return [
        *_target_basics(target, timing.standby_fresh_age, start),
        *_answers(target, start),
        _score(target, Level.HARD),
        Check("target_queue", Level.HARD, target.queue_depth == 0 and target.unapplied_writes == 0,
              f"{target.queue_depth} writes of its earlier life wait at {target.name} and {target.unapplied_writes} here to be "
              "applied",
              "let it upload them, and wait until they are applied, before it becomes active again"),
        Check("target_conflicts", Level.WAIVABLE, target.undecided_writes == 0,
              f"{target.undecided_writes} writes of {target.name} wait for a decision; the move changes nothing about them, they "
              "stay where they are until somebody decides",
              "resolve them in GET admin/writes, or move first and decide afterwards"),
        Check("target_dead_letters", Level.WAIVABLE, target.recent_dead_letters == 0,
              f"{target.recent_dead_letters} writes of {target.name} could not be applied since the last move",
              "look at them in GET admin/writes?outcome=dead_letter; retry or discard them"),
        _copy(target, timing, Level.HARD),
        Check("target_stable", Level.WAIVABLE, stable,
              f"{target.name} has been well for {target.good_beats} heartbeats and {target.stable_for:.0f} s",
              f"wait for {STABLE_BEATS} good heartbeats over {timing.failback_stable:g} s"),
        _version(target, facts.source),
        _cooldown(facts, timing),
        *_queue_of_source(facts.source, timing.drain_limit),
    ]  # fmt: skip


def failed(checks: Iterable[Check], level: Level) -> list[Check]:
    return [check for check in checks if check.level is level and not check.passed]


def estimate(facts: MoveFacts, timing: TimeProfile) -> Estimate:
    """Writes that exist only at the source, and how long nobody would be active."""
    source = facts.source
    fresh = source is not None and not source.banned and _is_there(source, timing)
    return Estimate(
        writes_at_risk=source.queue_depth if source else 0,
        oldest_write_seconds=source.queue_oldest if source else 0.0,
        seconds_to_serve=round(2.0 if fresh else max(0.0, facts.lease_seconds) + timing.fence_wait, 1),
        way="the active gateway confirms" if fresh else "the lease of the active gateway runs out",
    )


_OF_NOW = WAITED_FOR | {"target_answers"}
"""What the move itself looks at again until it goes on, so that a plan does not grow old by it."""


def _is_there(source: SideFacts, timing: TimeProfile) -> bool:
    """What it said when it was asked, or else how old its last heartbeat is."""
    if source.answers is not None:
        return source.answers
    return source.age is not None and source.age <= timing.heartbeat_full_age


def digest(facts: MoveFacts, checks: Iterable[Check], epoch: int) -> str:
    """A fingerprint of what a plan was made for; another one means that the world moved."""
    names = [facts.source.name if facts.source else None, facts.target.name if facts.target else None]
    outcome = [[check.name, check.passed] for check in checks if check.level is not Level.INFO and check.name not in _OF_NOW]
    return hashlib.sha256(json.dumps([names, epoch, outcome]).encode()).hexdigest()[:32]


def as_rows(checks: Iterable[Check]) -> list[dict[str, object]]:
    return [asdict(check) for check in checks]


def _target_basics(target: SideFacts, fresh: float, start: str) -> list[Check]:
    heard = f"its last heartbeat is {target.age:.0f} s old" if target.age is not None else "it was never heard from"
    heard = f"it was stopped in order and not started since; {heard}" if target.stopped else heard
    days = target.certificate_days
    return [
        Check("target_enrolled", Level.HARD, True, f"{target.name} is enrolled"),
        Check("target_allowed", Level.HARD, not (target.banned or target.held or target.drained),
              f"{target.name} is {_kept_from_serving(target)}",
              "look into the cause, then release it (POST gateways/{id}/release), end its drain (POST gateways/{id}/drain with "
              '{"draining": false}) or enrol another gateway'),
        Check("target_heartbeat", Level.HARD, target.age is not None and target.age < fresh and not target.stopped,
              f"{target.name}: {heard}; it must be younger than {fresh:g} s", start),
        Check("target_certificate", Level.HARD, days is not None and days > CERTIFICATE_DAYS,
              f"the certificate of {target.name} lives {days or 0:.1f} more days",
              "let it renew its certificate, or enrol it again"),
    ]  # fmt: skip


def _kept_from_serving(target: SideFacts) -> str:
    if target.banned:
        return "banned"
    return "held" if target.held else "drained" if target.drained else "neither banned nor held nor drained"


def _missing(role: str) -> Check:
    return Check(
        "target_enrolled", Level.HARD, False, f"no gateway is enrolled in the role {role}",
        f"create a bootstrap token with this environment and the role {role}, and start a gateway with it",
    )  # fmt: skip


def _score(target: SideFacts, level: Level) -> Check:
    return Check(
        "target_score", level, target.score >= TARGET_SCORE,
        f"the health score of {target.name} is {target.score:.2f}; {TARGET_SCORE:.2f} is wanted",
        "see its parts and why in GET admin/gateway-health",
    )  # fmt: skip


def _copy(target: SideFacts, timing: TimeProfile, level: Level) -> Check:
    """Without a copy the target would be active and answer nobody (reliability §4.5, data caught up)."""
    age = target.copy_age
    most = f"; it may be {timing.heartbeat_full_age:g} s old"
    told = "was not complete when it last spoke" if age is None else f"was complete {age:.0f} s before it last spoke{most}"
    return Check(
        "target_copy", level, age is not None and age <= timing.heartbeat_full_age, f"the copy of {target.name} {told}",
        "wait until it has read its environment from the Primary",
    )  # fmt: skip


def _version(target: SideFacts, source: SideFacts | None) -> Check:
    same = source is None or _line(source.version) == _line(target.version)
    other = source.version if source else "none"
    return Check(
        "same_version", Level.WAIVABLE, same, f"{target.name} runs {target.version}, the active gateway {other}",
        "bring both to the same minor version",
    )  # fmt: skip


def _line(version: str) -> list[str]:
    return version.split(".")[:2]


def _key_vault(target: SideFacts) -> Check:
    words = {None: "is not configured", True: "answers", False: "does not answer"}
    return Check(
        "target_key_vault", Level.WAIVABLE, target.key_vault is not False,
        f"the Key Vault of {target.name} {words[target.key_vault]}", "check the vault and the managed identity of its region",
    )  # fmt: skip


def _vault_copy(copy: CopyState) -> Check:
    """What the DR region's vault lacks, nobody has there when the first region is gone."""
    return Check(
        f"vault_copy:{copy.rule}", Level.WAIVABLE, copy.current,
        f"the copy in {copy.target} {_copy_told(copy)}" + (f"; it may be {copy.allowed:.0f} s behind" if copy.lag else ""),
        "run the rule, or look at its last run, in GET projects/sync-rules/{id}/runs; let it push, or set dr_copy to false in "
        "its setup where it keeps no copy any more",
    )  # fmt: skip


def _copy_told(copy: CopyState) -> str:
    """Everything that keeps it from being one; "is current" where nothing does."""
    told = ["was never complete"] if copy.lag is None else [f"is {copy.lag:.0f} s behind"] if copy.lag else []
    told += [f"lacks {copy.left_out} secrets that the last run left alone"] if copy.left_out else []
    told += ["is no longer kept, since its rule does not push"] if not copy.pushes else []
    told += ["its rule is paused"] if copy.paused else []
    return " and ".join(told) or "is current"


def _cooldown(facts: MoveFacts, timing: TimeProfile) -> Check:
    since = facts.since_switch
    told = "the environment was never moved" if since is None else f"the last move was {since:.0f} s ago"
    return Check(
        "cooldown", Level.WAIVABLE, since is None or since >= timing.cooldown, f"{told}; {timing.cooldown:g} s are advised",
        "wait, or go on if you know why it must move again",
    )  # fmt: skip


def _answers(target: SideFacts, start: str) -> list[Check]:
    """Only where it was asked; a move asks by itself and waits for the answer."""
    if target.answers is None:
        return []
    told = f"{target.name} gave {'a' if target.answers else 'no'} sign of life when it was asked just now"
    return [Check("target_answers", Level.HARD, target.answers, told, start)]


def _queue_of_source(source: SideFacts | None, wait: float) -> list[Check]:
    if source is None:
        return []
    oldest = f", the oldest {source.queue_oldest:.0f} s old" if source.queue_oldest else ""
    told = f"every write that {source.name} has spoken of has arrived here"
    if source.queue_depth:
        told = f"{source.queue_depth} accepted writes of {source.name} have not arrived here{oldest}"
    return [
        Check("source_queue", Level.WAIVABLE, source.queue_depth == 0, told,
              f"the move waits for them by itself, at most {wait:g} s, if {source.name} answers; waive source_queue to go on at "
              "once: what has not arrived by then is listed in a loss manifest")
    ]  # fmt: skip
