"""Why a write waits here, and why this gateway may not act: sentences for people, with a moment since when. Pure."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from protocol.vocabulary import Assignment, WriteOutcome

_KEPT = {
    WriteOutcome.CONFLICT: "the secret was changed in between; a person decides",
    WriteOutcome.QUARANTINED: "it is of an epoch or a life of this gateway that has ended; a person decides",
    WriteOutcome.DEAD_LETTER: "it cannot be applied; a person decides",
}


@dataclass(frozen=True)
class Waiting:
    """What is known of a write. `away_since`: since when the Primary does not answer this gateway; None while it does."""

    outcome: WriteOutcome
    accepted_at: datetime
    settled_at: datetime | None = None
    detail: str = ""
    behind: uuid.UUID | None = None
    """An earlier write of the same secret that is still open."""
    away_since: datetime | None = None


@dataclass(frozen=True)
class Why:
    """Both None for what has ended as it was wished."""

    because: str | None = None
    since: datetime | None = None


def of_write(facts: Waiting) -> Why:
    """Why a write is not applied (yet), and since when that is so."""
    if facts.outcome is WriteOutcome.QUEUED:
        if facts.away_since is not None:
            return Why("the Primary does not answer this gateway, which brings it there when it does", facts.away_since)
        if facts.behind is not None:
            return Why(f"an earlier change of the same secret comes first: {facts.behind}", facts.accepted_at)
        return Why("it is on its way to the Primary", facts.accepted_at)
    if facts.outcome is WriteOutcome.RECEIVED:
        return Why("the Primary holds it and has not come to it yet", facts.accepted_at)
    if facts.outcome is WriteOutcome.APPLIED:
        return Why()
    return Why(facts.detail or _KEPT.get(facts.outcome, f"it was {facts.outcome.value}"), facts.settled_at or facts.accepted_at)


@dataclass(frozen=True)
class Rights:
    """What decides whether this gateway may act and what it does for callers. `usable`: credentials count and its copy is whole;
    None when its database did not say."""

    holds_lease: bool
    assigned: Assignment
    stopping: bool
    usable: bool | None
    has_room: bool
    away_seconds: float | None


def may_act_not(facts: Rights) -> str:
    """Why it may do nothing outside now; empty while it may."""
    if facts.holds_lease:
        return ""
    if facts.stopping:
        return "it is stopping"
    if facts.assigned is Assignment.FENCED:
        return "it was told to act no longer: its environment is being moved, or was"
    if facts.assigned is Assignment.STANDBY:
        return "it is not the active gateway of its environment"
    if facts.away_seconds is not None:
        return f"it holds no lease, and the Primary does not answer, for {facts.away_seconds:.0f} s now"
    return "it has just started or become active, and waits for its lease"


def answers_reads(facts: Rights) -> bool:
    return facts.assigned in (Assignment.ACTIVE, Assignment.DRAINING) and bool(facts.usable)


def takes_changes(facts: Rights) -> bool:
    return facts.assigned is Assignment.ACTIVE and bool(facts.usable) and facts.has_room and not facts.stopping
