"""The failover machine: one table of allowed moves, and one pure question, "what happens next?" (DESIGN §8, reliability §4.2).

Nothing here reads a clock, a row or a setting. `failover.driver` gathers the facts, asks, and carries out the actions of the
row it gets, in one transaction. The diagram in docs/architecture.md is printed from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class State(StrEnum):
    """Where an environment stands. Only the two ACTIVE states are restful; HOLD waits for a person."""

    UNASSIGNED = "UNASSIGNED"
    PRIMARY_ACTIVE = "PRIMARY_ACTIVE"
    FO_PREFLIGHT = "FO_PREFLIGHT"
    FO_DRAINING = "FO_DRAINING"
    FENCING = "FENCING"
    PROMOTING = "PROMOTING"
    DR_ACTIVE = "DR_ACTIVE"
    FB_PREFLIGHT = "FB_PREFLIGHT"
    DRAINING = "DRAINING"
    FENCING_DR = "FENCING_DR"
    PROMOTING_PRIMARY = "PROMOTING_PRIMARY"
    HOLD = "HOLD"


class Event(StrEnum):
    """What moves an environment: wishes of people, answers of gateways, time, and danger."""

    PRIMARY_READY = "primary_ready"
    ACTIVATE_DR = "activate_dr"
    FAILBACK = "failback"
    CHECKS_PASSED = "checks_passed"
    CHECKS_FAILED = "checks_failed"
    TARGET_SILENT = "target_silent"
    SOURCE_SILENT = "source_silent"
    DRAINED = "drained"
    DRAIN_WAIVED = "drain_waived"
    DRAIN_TIMED_OUT = "drain_timed_out"
    DRAIN_PASSED_OVER = "drain_passed_over"
    FENCE_ACKNOWLEDGED = "fence_acknowledged"
    LEASE_RAN_OUT = "lease_ran_out"
    FORCE = "force"
    PROMOTED = "promoted"
    CANCEL = "cancel"
    DANGER = "danger"
    RESUME_ON_PRIMARY = "resume_on_primary"
    RESUME_ON_DR = "resume_on_dr"


class Action(StrEnum):
    """What a move changes besides the state, in the same transaction."""

    STOP_LEASE = "stop_lease"
    ALLOW_LEASE = "allow_lease"
    ORDER_DRAIN = "order_drain"
    UNDO_DRAIN = "undo_drain"
    RECORD_RISK = "record_risk"
    PROMOTE_PRIMARY = "promote_primary"
    PROMOTE_DR = "promote_dr"
    LIFT_HOLD = "lift_hold"
    CLOSE_COMPLETED = "close_completed"
    CLOSE_CANCELLED = "close_cancelled"
    CLOSE_ABORTED = "close_aborted"


class Sign(StrEnum):
    """What is known of the gateway that is to become active: alive now, asked and not yet silent for long, or silent."""

    FRESH = "fresh"
    AWAITED = "awaited"
    SILENT = "silent"


class LeaseTime(StrEnum):
    """How a process knows whether the old lease has ended, since the database's clock may have leapt."""

    STORED = "stored"
    """It watched that clock since before the lease was given: the stored end is right."""
    WAITED_FOR = "waited for"
    """It has waited for a whole lease by its own clock: the lease has ended, whatever the stored end says."""
    NOT_WATCHED = "not watched"
    """Neither yet."""


@dataclass(frozen=True)
class Move:
    """One row. `sentence` is what the operator reads in history, log and audit."""

    state: State
    event: Event
    to: State
    actions: tuple[Action, ...]
    sentence: str


@dataclass(frozen=True)
class StepFacts:
    """What the driver knows when it asks for the next step. Times are the database's."""

    state: State
    now: datetime
    fence_wait: timedelta
    danger: bool = False
    primary_ready: bool = False
    checks_passed: bool = False
    lease_until: datetime | None = None
    """Stored end of the lease of the gateway that is to be fenced; None when it never had one in this epoch."""
    lease_blocked_until: datetime | None = None
    """Until then a lease nobody here knows of may live (a restored database, a gateway that began a new life)."""
    fence_acknowledged: bool = False
    """The acknowledgement of exactly this operation and epoch is stored."""
    drained: bool = False
    drain_deadline: datetime | None = None
    drain_waived: bool = False
    """The person who asked does not want to wait for the writes and the work of the old gateway."""
    held_to_plan: bool = False
    """A plan was named that does not waive the wait: what does not arrive in time undoes the move."""
    source_silent: bool = False
    """The old gateway does not answer, so there is nobody to wait for."""
    target_sign: Sign = Sign.FRESH
    forced: bool = False
    """A person has forced this operation: nobody's sign of life is asked for any more."""
    lease_time: LeaseTime = LeaseTime.STORED


class NotAllowed(Exception):
    """There is no row for this event in this state."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"{event.value} is not possible in the state {state.value}")
        self.state, self.event = state, event


S, E, A = State, Event, Action
_HOLDABLE = [state for state in State if state is not State.HOLD]

TABLE: tuple[Move, ...] = (
    Move(S.UNASSIGNED, E.PRIMARY_READY, S.PRIMARY_ACTIVE, (A.PROMOTE_PRIMARY,),
         "the first primary gateway has registered and takes over the environment"),
    Move(S.PRIMARY_ACTIVE, E.ACTIVATE_DR, S.FO_PREFLIGHT, (), "activation of the DR gateway was requested"),
    Move(S.FO_PREFLIGHT, E.CHECKS_PASSED, S.FO_DRAINING, (A.ORDER_DRAIN,),
         "the checks passed; the primary gateway takes nothing new and brings its queue to the Primary"),
    Move(S.FO_PREFLIGHT, E.SOURCE_SILENT, S.FENCING, (A.STOP_LEASE,),
         "the checks passed; the primary gateway does not answer and is not waited for; it gets no more lease"),
    Move(S.FO_PREFLIGHT, E.DRAIN_WAIVED, S.FENCING, (A.STOP_LEASE,),
         "the checks passed and the wait for the queue was waived; the primary gateway is told to fence itself"),
    Move(S.FO_PREFLIGHT, E.CHECKS_FAILED, S.PRIMARY_ACTIVE, (A.CLOSE_ABORTED,),
         "a hard check failed; nothing was changed"),
    Move(S.FO_PREFLIGHT, E.TARGET_SILENT, S.PRIMARY_ACTIVE, (A.CLOSE_ABORTED,),
         "the DR gateway gave no sign of life; nothing was changed"),
    Move(S.FO_PREFLIGHT, E.CANCEL, S.PRIMARY_ACTIVE, (A.CLOSE_CANCELLED,), "cancelled before anything was changed"),
    Move(S.FO_DRAINING, E.DRAINED, S.FENCING, (A.STOP_LEASE,),
         "the primary gateway is empty; it gets no more lease and is told to fence itself"),
    Move(S.FO_DRAINING, E.SOURCE_SILENT, S.FENCING, (A.STOP_LEASE,),
         "the primary gateway does not answer and is not waited for; it gets no more lease"),
    Move(S.FO_DRAINING, E.DRAIN_PASSED_OVER, S.FENCING, (A.STOP_LEASE,),
         "the primary gateway was not empty in time; without a plan the move goes on and the rest is listed as missing"),
    Move(S.FO_DRAINING, E.DRAIN_TIMED_OUT, S.PRIMARY_ACTIVE, (A.UNDO_DRAIN, A.CLOSE_ABORTED),
         "the primary gateway was not empty in time, as the plan wants it; it goes on serving"),
    Move(S.FO_DRAINING, E.TARGET_SILENT, S.PRIMARY_ACTIVE, (A.UNDO_DRAIN, A.CLOSE_ABORTED),
         "the DR gateway gave no sign of life; the primary gateway goes on serving"),
    Move(S.FO_DRAINING, E.FORCE, S.FENCING, (A.STOP_LEASE, A.RECORD_RISK),
         "forced: the move goes on although the primary gateway did not say that it is empty"),
    Move(S.FO_DRAINING, E.CANCEL, S.PRIMARY_ACTIVE, (A.UNDO_DRAIN, A.CLOSE_CANCELLED),
         "cancelled; the primary gateway goes on serving"),
    Move(S.FENCING, E.FENCE_ACKNOWLEDGED, S.PROMOTING, (), "the primary gateway confirmed that it no longer acts"),
    Move(S.FENCING, E.LEASE_RAN_OUT, S.PROMOTING, (),
         "the primary gateway did not answer; its lease and the allowance for drifting clocks have run out"),
    Move(S.FENCING, E.TARGET_SILENT, S.PRIMARY_ACTIVE, (A.ALLOW_LEASE, A.UNDO_DRAIN, A.CLOSE_ABORTED),
         "the DR gateway gave no sign of life; the primary gateway may renew its lease in the same epoch"),
    Move(S.FENCING, E.FORCE, S.PROMOTING, (A.RECORD_RISK,),
         "forced: the DR gateway is promoted while the primary gateway may still act until its lease ends"),
    Move(S.FENCING, E.CANCEL, S.PRIMARY_ACTIVE, (A.ALLOW_LEASE, A.UNDO_DRAIN, A.CLOSE_CANCELLED),
         "cancelled; the primary gateway may renew its lease in the same epoch"),
    Move(S.PROMOTING, E.PROMOTED, S.DR_ACTIVE, (A.PROMOTE_DR, A.CLOSE_COMPLETED),
         "the DR gateway is active in a new epoch"),
    Move(S.DR_ACTIVE, E.FAILBACK, S.FB_PREFLIGHT, (), "failback to the primary gateway was requested"),
    Move(S.FB_PREFLIGHT, E.CHECKS_PASSED, S.DRAINING, (A.ORDER_DRAIN,),
         "the checks passed; the DR gateway finishes its work and takes no more"),
    Move(S.FB_PREFLIGHT, E.SOURCE_SILENT, S.FENCING_DR, (A.STOP_LEASE,),
         "the checks passed; the DR gateway does not answer and is not waited for; it gets no more lease"),
    Move(S.FB_PREFLIGHT, E.DRAIN_WAIVED, S.FENCING_DR, (A.STOP_LEASE,),
         "the checks passed and the wait for the queue was waived; the DR gateway is told to fence itself"),
    Move(S.FB_PREFLIGHT, E.CHECKS_FAILED, S.DR_ACTIVE, (A.CLOSE_ABORTED,), "a hard check failed; nothing was changed"),
    Move(S.FB_PREFLIGHT, E.TARGET_SILENT, S.DR_ACTIVE, (A.CLOSE_ABORTED,),
         "the primary gateway gave no sign of life; nothing was changed"),
    Move(S.FB_PREFLIGHT, E.CANCEL, S.DR_ACTIVE, (A.CLOSE_CANCELLED,), "cancelled before anything was changed"),
    Move(S.DRAINING, E.DRAINED, S.FENCING_DR, (A.STOP_LEASE,),
         "the DR gateway is empty; it gets no more lease and is told to fence itself"),
    Move(S.DRAINING, E.SOURCE_SILENT, S.FENCING_DR, (A.STOP_LEASE,),
         "the DR gateway does not answer and is not waited for; it gets no more lease"),
    Move(S.DRAINING, E.TARGET_SILENT, S.DR_ACTIVE, (A.UNDO_DRAIN, A.CLOSE_ABORTED),
         "the primary gateway gave no sign of life; the DR gateway goes on serving"),
    Move(S.DRAINING, E.DRAIN_TIMED_OUT, S.DR_ACTIVE, (A.UNDO_DRAIN, A.CLOSE_ABORTED),
         "the DR gateway was not empty in time; it goes on serving"),
    Move(S.DRAINING, E.FORCE, S.FENCING_DR, (A.STOP_LEASE, A.RECORD_RISK),
         "forced: the failback goes on although the DR gateway did not say that it is empty"),
    Move(S.DRAINING, E.CANCEL, S.DR_ACTIVE, (A.UNDO_DRAIN, A.CLOSE_CANCELLED), "cancelled; the DR gateway goes on serving"),
    Move(S.FENCING_DR, E.FENCE_ACKNOWLEDGED, S.PROMOTING_PRIMARY, (), "the DR gateway confirmed that it no longer acts"),
    Move(S.FENCING_DR, E.LEASE_RAN_OUT, S.PROMOTING_PRIMARY, (),
         "the DR gateway did not answer; its lease and the allowance for drifting clocks have run out"),
    Move(S.FENCING_DR, E.TARGET_SILENT, S.DR_ACTIVE, (A.ALLOW_LEASE, A.UNDO_DRAIN, A.CLOSE_ABORTED),
         "the primary gateway gave no sign of life; the DR gateway may renew its lease in the same epoch"),
    Move(S.FENCING_DR, E.FORCE, S.PROMOTING_PRIMARY, (A.RECORD_RISK,),
         "forced: the primary gateway is promoted while the DR gateway may still act until its lease ends"),
    Move(S.FENCING_DR, E.CANCEL, S.DR_ACTIVE, (A.ALLOW_LEASE, A.UNDO_DRAIN, A.CLOSE_CANCELLED),
         "cancelled; the DR gateway may renew its lease in the same epoch"),
    Move(S.PROMOTING_PRIMARY, E.PROMOTED, S.PRIMARY_ACTIVE, (A.PROMOTE_PRIMARY, A.CLOSE_COMPLETED),
         "the primary gateway is active in a new epoch"),
    *(Move(state, E.DANGER, S.HOLD, (A.CLOSE_ABORTED,), "two truths were seen; nothing moves until a person decides")
      for state in _HOLDABLE),
    Move(S.HOLD, E.RESUME_ON_PRIMARY, S.PRIMARY_ACTIVE, (A.LIFT_HOLD, A.PROMOTE_PRIMARY),
         "an operator decided: the primary gateway is active in an epoch above everything seen"),
    Move(S.HOLD, E.RESUME_ON_DR, S.DR_ACTIVE, (A.LIFT_HOLD, A.PROMOTE_DR),
         "an operator decided: the DR gateway is active in an epoch above everything seen"),
)  # fmt: skip
_BY_KEY: Mapping[tuple[State, Event], Move] = {(move.state, move.event): move for move in TABLE}

RESTFUL = frozenset({State.UNASSIGNED, State.PRIMARY_ACTIVE, State.DR_ACTIVE, State.HOLD})
"""States in which no operation is open."""
PREFLIGHT = frozenset({State.FO_PREFLIGHT, State.FB_PREFLIGHT})
DRAINING = frozenset({State.FO_DRAINING, State.DRAINING})
FENCING = frozenset({State.FENCING, State.FENCING_DR})
PROMOTION = frozenset({State.PROMOTING, State.PROMOTING_PRIMARY})


def move_for(state: State, event: Event) -> Move | None:
    """The row of the table, or None when the event is not possible in this state."""
    return _BY_KEY.get((state, event))


def require_move(state: State, event: Event) -> Move:
    """The row of the table. Raises `NotAllowed`."""
    found = move_for(state, event)
    if found is None:
        raise NotAllowed(state, event)
    return found


def next_step(facts: StepFacts) -> Event | None:
    """What happens next without anybody asking, or None while there is something to wait for."""
    if facts.state is State.HOLD:
        return None
    if facts.danger:
        return Event.DANGER
    if facts.state is State.UNASSIGNED:
        return Event.PRIMARY_READY if facts.primary_ready else None
    if facts.state in PREFLIGHT:
        return _next_of_preflight(facts)
    if facts.state in DRAINING:
        return _next_of_drain(facts)
    if facts.state in FENCING:
        return _next_of_fence(facts)
    return Event.PROMOTED if facts.state in PROMOTION else None


def fence_ends_at(lease_until: datetime | None, fence_wait: timedelta, blocked_until: datetime | None = None) -> datetime | None:
    """The moment after which, strictly, nobody can hold an old lease any more. None: there never was one."""
    known = lease_until + fence_wait if lease_until else None
    return max((moment for moment in (known, blocked_until) if moment), default=None)


def _next_of_preflight(facts: StepFacts) -> Event | None:
    if not facts.checks_passed:
        return Event.CHECKS_FAILED
    if facts.target_sign is not Sign.FRESH:
        return Event.TARGET_SILENT if facts.target_sign is Sign.SILENT else None
    if facts.drain_waived:
        return Event.DRAIN_WAIVED
    return Event.SOURCE_SILENT if facts.source_silent else Event.CHECKS_PASSED


def _next_of_drain(facts: StepFacts) -> Event | None:
    """Nobody is fenced for a target that is not there, so its sign of life comes first."""
    if facts.target_sign is not Sign.FRESH:
        return Event.TARGET_SILENT if facts.target_sign is Sign.SILENT else None
    if facts.drained:
        return Event.DRAINED
    if facts.source_silent:
        return Event.SOURCE_SILENT
    if facts.drain_deadline is None or facts.now <= facts.drain_deadline:
        return None
    goes_on = facts.state is State.FO_DRAINING and not facts.held_to_plan
    return Event.DRAIN_PASSED_OVER if goes_on else Event.DRAIN_TIMED_OUT


def _next_of_fence(facts: StepFacts) -> Event | None:
    """Once the old gateway has confirmed the move can only go on; until then it waits for a living target."""
    if facts.fence_acknowledged:
        return Event.FENCE_ACKNOWLEDGED
    if facts.target_sign is Sign.SILENT and not facts.forced:
        return Event.TARGET_SILENT
    ran_out = _lease_ran_out(facts)
    return Event.LEASE_RAN_OUT if ran_out and (facts.forced or facts.target_sign is Sign.FRESH) else None


def _lease_ran_out(facts: StepFacts) -> bool:
    end = fence_ends_at(facts.lease_until, facts.fence_wait, facts.lease_blocked_until)
    if end is None or facts.lease_time is LeaseTime.WAITED_FOR:
        return True
    return facts.lease_time is LeaseTime.STORED and facts.now > end
