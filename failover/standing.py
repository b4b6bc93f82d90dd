"""How an environment stands in one sentence for people: who may act, since when nobody may, what to do next. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from failover.machine import State

FIRST_LEASE = timedelta(seconds=10)
"""A gateway that has just become active needs a moment to ask for its first lease; until then its lack is no trouble."""


@dataclass(frozen=True)
class StandingFacts:
    """An environment as stored. Times are the database's."""

    environment: str
    state: State
    now: datetime
    active: str | None
    on_dr: bool
    lease_until: datetime | None
    blocked_until: datetime | None = None
    switched_at: datetime | None = None
    hold_reason: str = ""
    under_way: str = ""
    """Kind of the open operation; empty when there is none."""
    waits_for: str = ""


@dataclass(frozen=True)
class Standing:
    """`next_step` is empty when a person has nothing to do."""

    may_act: bool
    lease_ended_seconds: float | None
    headline: str
    next_step: str = ""


def standing_of(facts: StandingFacts) -> Standing:
    """The first of these that is true: held, without a gateway, moving, nobody may act, all well."""
    lives = facts.lease_until is not None and facts.lease_until > facts.now
    ended = (facts.now - facts.lease_until).total_seconds() if facts.lease_until and not lives else None
    headline, step = _told(facts, lives, ended)
    return Standing(lives, round(ended, 1) if ended is not None else None, headline, step)


def _told(facts: StandingFacts, lives: bool, ended: float | None) -> tuple[str, str]:
    code = facts.environment
    if facts.state is State.HOLD:
        reason = facts.hold_reason or "two truths were seen"
        return (
            f"{code} is held and nobody gets a lease: {reason}",
            f"find out which gateway acted last, then {_post(code, 'resume')}",
        )
    if facts.active is None:
        return f"{code} has no active gateway", "enrol a gateway in the role primary"
    if facts.under_way:
        waits = f"; it waits for {facts.waits_for}" if facts.waits_for else ""
        return f"{code}: {facts.under_way} is under way{waits}", ""
    if lives:
        where = "its DR gateway" if facts.on_dr else "its primary gateway"
        return f"{code} is on {where} {facts.active}", ""
    return _nobody_may_act(facts, ended)


def _nobody_may_act(facts: StandingFacts, ended: float | None) -> tuple[str, str]:
    code, kind = facts.environment, "failback" if facts.on_dr else "activate-dr"
    if facts.blocked_until and facts.blocked_until > facts.now:
        left = (facts.blocked_until - facts.now).total_seconds()
        return (f"{code}: nobody may act for {left:.0f} s more at most, until a lease of the past must have ended", "wait")
    move = f"look at {facts.active}, or {_post(code, 'plan')} and then {_post(code, kind)}"
    if ended is not None:
        return f"{code}: nobody may act, the lease of {facts.active} ended {ended:.0f} s ago", move
    if facts.switched_at and facts.now - facts.switched_at < FIRST_LEASE:
        return f"{code}: {facts.active} has just become active and asks for its first lease", ""
    return f"{code}: nobody may act, {facts.active} holds no lease", move


def _post(code: str, verb: str) -> str:
    return f"POST admin/failover/{code}/{verb}"
