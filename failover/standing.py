"""How an environment stands in one sentence for people: who may act, since when nobody may, what to do next. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from failover.machine import State
from gateways.acting import Acting, ActingFacts, post, told_of


@dataclass(frozen=True)
class StandingFacts:
    """An environment as stored. `acting` is None without an active gateway."""

    environment: str
    state: State
    acting: ActingFacts | None
    hold_reason: str = ""
    under_way: str = ""
    """Kind of the open operation; empty when there is none."""
    waits_for: str = ""


def standing_of(facts: StandingFacts) -> Acting:
    """The first of these that is true: held, without a gateway, moving, and then what is true of its active gateway."""
    acting = told_of(facts.acting) if facts.acting else None
    may_act, ended = (acting.may_act, acting.lease_ended_seconds) if acting else (False, None)
    code = facts.environment
    if facts.state is State.HOLD:
        reason = facts.hold_reason or "two truths were seen"
        step = f"find out which gateway acted last, then {post(code, 'resume')}"
        return Acting(may_act, ended, f"{code} is held and nobody gets a lease: {reason}", step)
    if acting is None:
        return Acting(False, None, f"{code} has no active gateway", "enrol a gateway in the role primary")
    if facts.under_way:
        waits = f"; it waits for {facts.waits_for}" if facts.waits_for else ""
        return Acting(may_act, ended, f"{code}: {facts.under_way} is under way{waits}")
    return acting
