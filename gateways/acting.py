"""Whether the active gateway of an environment may act now, and the sentence about it where it may not. Pure.

`GET admin/failover/{env}`, `GET admin/gateway-health`, the metric and `mazevault status` all say what is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

FIRST_LEASE = timedelta(seconds=10)
"""A gateway that has just become active, or has just started, needs a moment to ask for its first lease."""
REUNION = timedelta(seconds=20)
"""After a Primary was away its gateways come back spread over so long (`gateways.instances.LONGEST_RETRY`, and a few seconds)."""
UNWATCHED = timedelta(seconds=8)
"""When nobody judged a gateway for longer than this, no Primary was running: it was not the gateway that was silent."""


@dataclass(frozen=True)
class ActingFacts:
    """What is stored of an environment and of the process of its active gateway. Times are the database's."""

    environment: str
    now: datetime
    active: str
    on_dr: bool
    lease_until: datetime | None
    blocked_until: datetime | None = None
    switched_at: datetime | None = None
    stopped_at: datetime | None = None
    """When its process said goodbye, if it did and no other one came since."""
    started_at: datetime | None = None
    """When its present process was first heard."""
    waits_until: datetime | None = None
    """Until when its newest process waits for the lease of a former one, which may still act."""
    watched_since: datetime | None = None
    """From when on a Primary has listened without a break."""


@dataclass(frozen=True)
class Acting:
    """`next_step` says what a person does now, if only to wait; it is empty while a gateway may act."""

    may_act: bool
    lease_ended_seconds: float | None
    headline: str
    next_step: str = ""


def told_of(facts: ActingFacts) -> Acting:
    """All well, or why nobody may act: the first of these that is true."""
    if facts.lease_until is not None and facts.lease_until > facts.now:
        where = "its DR gateway" if facts.on_dr else "its primary gateway"
        return Acting(True, None, f"{facts.environment} is on {where} {facts.active}")
    ended = max(0.0, _since(facts, facts.lease_until)) if facts.lease_until else None
    headline, step = _told_of_wait(facts) or _told_of_trouble(facts, ended)
    return Acting(False, round(ended, 1) if ended is not None else None, f"{facts.environment}: {headline}", step)


def _told_of_wait(facts: ActingFacts) -> tuple[str, str] | None:
    """What passes by itself; None when nothing of the kind is the reason."""
    name, blocked = facts.active, _left(facts, facts.blocked_until)
    if blocked:
        return f"nobody may act for {blocked:.0f} s more at most, until a lease of the past must have ended", "wait"
    waits = _left(facts, facts.waits_until)
    if waits:
        told = f"nobody may act yet: {name} has just started and waits for its lease, since its former process may act for "
        return f"{told}{waits:.0f} s more at most", f"wait {waits:.0f} s"
    if facts.stopped_at is not None:
        return None
    for moment, told in ((facts.started_at, "has just started"), (facts.switched_at, "has just become active")):
        if moment and _since(facts, moment) < FIRST_LEASE.total_seconds():
            return f"nobody may act yet: {name} {told} and waits for its first lease", "wait a few seconds"
    if facts.watched_since and _since(facts, facts.watched_since) < REUNION.total_seconds():
        left = REUNION.total_seconds() - _since(facts, facts.watched_since)
        return f"nobody may act yet: the Primary was away, and {name} has not asked it for its lease again", f"wait {left:.0f} s"
    return None


def _told_of_trouble(facts: ActingFacts, ended: float | None) -> tuple[str, str]:
    """What a person has to do something about."""
    name, code, kind = facts.active, facts.environment, "failback" if facts.on_dr else "activate-dr"
    move = f"{post(code, 'plan')} and then {post(code, kind)}"
    if facts.stopped_at is not None:
        ago = max(0.0, _since(facts, facts.stopped_at))
        return f"nobody may act, {name} was stopped in order {ago:.0f} s ago", f"start {name} again, or {move}"
    if ended is not None:
        return f"nobody may act, the lease of {name} ended {ended:.0f} s ago", f"look at {name}, or {move}"
    return f"nobody may act, {name} holds no lease", f"look at {name}, or {move}"


def post(code: str, verb: str) -> str:
    return f"POST admin/failover/{code}/{verb}"


def _since(facts: ActingFacts, moment: datetime) -> float:
    return (facts.now - moment).total_seconds()


def _left(facts: ActingFacts, moment: datetime | None) -> float:
    """Seconds until a moment; 0 when it is over, or is none."""
    return max(0.0, (moment - facts.now).total_seconds()) if moment else 0.0


def watched_from(judged_at: datetime | None, watched_since: datetime | None, now: datetime) -> datetime | None:
    """From when on a Primary has listened without a break, by what it noted of one gateway; None when nothing was noted."""
    is_interrupted = judged_at is not None and now - judged_at > UNWATCHED
    return now if is_interrupted else watched_since
