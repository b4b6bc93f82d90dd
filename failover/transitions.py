"""Carrying out one row of the table: actions, new state, history and audit, all in the caller's transaction.

The only module that writes `EnvironmentState`. The caller holds the route's lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta

from django.conf import settings

from common import audit
from common.clock import database_now
from common.errors import Conflict
from failover.facts import living_gateway, told_of_drain, told_of_silence
from failover.machine import FENCING, Action, Event, Move, State, fence_ends_at
from failover.models import EnvironmentState, Operation, Transition
from gateways import dispatch, doubts, losses, replicas, routes, surveys
from gateways.acting import post
from gateways.models import Gateway, Route
from protocol.vocabulary import Role

log = logging.getLogger("mazevault.failover")

CRITICAL = frozenset({Event.DANGER, Event.FORCE, Event.RESUME_ON_PRIMARY, Event.RESUME_ON_DR})


class Step:
    """One move about to be made."""

    def __init__(self, route: Route, state: EnvironmentState, operation: Operation | None, move: Move, actor: str,
                 reason: str = "") -> None:  # fmt: skip
        self.route, self.state, self.operation, self.move = route, state, operation, move
        self.actor, self.reason = actor, reason
        self.moment = database_now()


def state_of(code: str) -> EnvironmentState:
    """The state row of an environment; it begins as UNASSIGNED."""
    row, _ = EnvironmentState.objects.get_or_create(environment_id=code)
    return row


def ensure_states(codes: Iterable[str]) -> None:
    """The state rows of environments, in one statement. Safe to repeat and to race."""
    EnvironmentState.objects.bulk_create([EnvironmentState(environment_id=code) for code in codes], ignore_conflicts=True)


def open_operation(code: str) -> Operation | None:
    return Operation.objects.select_related("source", "target").filter(environment_id=code, finished_at__isnull=True).first()


def carry_out(step: Step) -> None:
    """Do the actions of the move, then write state, history and audit."""
    for action in step.move.actions:
        _ACTIONS[action](step)
    step.state.state, step.state.since = step.move.to.value, step.moment
    if step.move.to is State.HOLD:
        step.state.hold_reason = step.route.danger
    step.state.save()
    if step.operation:
        step.operation.step_since = step.moment
        step.operation.save()
    _tell(step)


def _tell(step: Step) -> None:
    move, code, sentence = step.move, step.route.environment_id, _told(step)
    Transition.objects.create(
        environment_id=code, operation=step.operation, from_state=move.state.value, event=move.event.value,
        to_state=move.to.value, epoch=step.route.epoch, actor=step.actor, sentence=sentence, at=step.moment,
    )  # fmt: skip
    audit.record(
        actor=step.actor,
        action=f"failover.{move.event.value}",
        entity="environment",
        entity_id=code,
        severity=audit.Severity.CRITICAL if move.event in CRITICAL else audit.Severity.WARNING,
        environment=code,
        details={
            "from": move.state.value,
            "to": move.to.value,
            "epoch": step.route.epoch,
            "operation": str(step.operation.id) if step.operation else None,
            "active_gateway": step.route.active_gateway.name if step.route.active_gateway else None,
            "reason": step.reason,
            "sentence": sentence,
        },
    )
    log.warning("%s: %s -> %s (epoch %s): %s", code, move.state.value, move.to.value, step.route.epoch, sentence)


def _told(step: Step) -> str:
    """The row's sentence with the names and numbers of this time."""
    detail = _DETAILS.get(step.move.event, lambda _step: "")(step)
    return f"{step.move.sentence}: {detail}" if detail else step.move.sentence


def _last_write(step: Step) -> str:
    last = step.route.fence_last_sequence
    return "" if last is None else f"the last write it accepted has the number {last}"


def _waited_for(step: Step) -> str:
    return told_of_drain(step.route)


def _silent_target(step: Step) -> str:
    target = step.operation.target if step.operation else None
    return told_of_silence(target, step.moment) if target else ""


def _silent_source(step: Step) -> str:
    source = step.operation.source if step.operation else None
    return told_of_silence(source, step.moment) if source else ""


def _failing(step: Step) -> str:
    rows = step.operation.checks if step.operation else []
    return "; ".join(row["sentence"] for row in rows if row["level"] == "hard" and not row["passed"])[:400]


_DETAILS: Mapping[Event, Callable[[Step], str]] = {
    Event.DANGER: lambda step: (
        f"{step.route.danger}; find out which gateway acted last, then {post(step.route.environment_id, 'resume')}"
    ),
    Event.CHECKS_FAILED: _failing,
    Event.FENCE_ACKNOWLEDGED: _last_write,
    Event.DRAIN_TIMED_OUT: _waited_for,
    Event.DRAIN_PASSED_OVER: _waited_for,
    Event.TARGET_SILENT: _silent_target,
    Event.SOURCE_SILENT: _silent_source,
}


def _stop_lease(step: Step) -> None:
    routes.stop_lease(step.route, _operation(step).id)


def _allow_lease(step: Step) -> None:
    routes.allow_lease(step.route)


def _order_drain(step: Step) -> None:
    routes.order_drain(step.route, _operation(step).id)


def _undo_drain(step: Step) -> None:
    routes.undo_drain(step.route)


def _record_risk(step: Step) -> None:
    operation = _operation(step)
    operation.forced_by, operation.forced_reason = step.actor, step.reason
    if step.move.state in FENCING:
        drift = timedelta(seconds=settings.MAZEVAULT.timing.drift)
        operation.split_risk_until = fence_ends_at(step.route.lease_until, drift, step.route.lease_blocked_until)


def _promote(step: Step, role: Role) -> None:
    """The operation's own target, or the gateway enrolled in the role when there is no operation."""
    target = step.operation.target if step.operation else living_gateway(step.route.environment_id, role.value)
    if target is None:
        raise Conflict(f"no gateway is enrolled in the role {role.value}")
    fresh = Gateway.objects.select_for_update().get(pk=target.pk)
    if fresh.banned_at or fresh.decommissioned_at or fresh.held_at:
        raise Conflict(f"{fresh.name} was banned, held or decommissioned meanwhile")
    if step.route.active_gateway_id != fresh.id:
        losses.open_manifest(step.route, step.operation.id if step.operation else None, step.moment)
    if step.operation:
        step.operation.fence_last_sequence = step.route.fence_last_sequence
    routes.promote(step.route, fresh, step.operation.id if step.operation else None)
    dispatch.orphan_tasks_of_past_epochs(step.route.environment_id, step.route.epoch, step.moment)
    if step.route.epoch > 1:
        surveys.offer(step.route, step.moment, forced=bool(step.operation and step.operation.forced_by))


def _lift_hold(step: Step) -> None:
    code = step.route.environment_id
    routes.lift_freeze(step.route, doubts.epoch_floor(code, step.route.epoch))
    step.state.hold_reason = ""
    replicas.order_resync_of_all(code, step.moment, "an operator resumed the environment")


def _close(step: Step, outcome: str) -> None:
    if step.operation is None:
        return
    step.operation.finished_at, step.operation.outcome = step.moment, outcome
    step.operation.epoch_after = step.route.epoch


def _operation(step: Step) -> Operation:
    if step.operation is None:
        raise RuntimeError(f"{step.move.event.value} needs an operation")
    return step.operation


_ACTIONS: Mapping[Action, Callable[[Step], None]] = {
    Action.STOP_LEASE: _stop_lease,
    Action.ALLOW_LEASE: _allow_lease,
    Action.ORDER_DRAIN: _order_drain,
    Action.UNDO_DRAIN: _undo_drain,
    Action.RECORD_RISK: _record_risk,
    Action.PROMOTE_PRIMARY: lambda step: _promote(step, Role.PRIMARY),
    Action.PROMOTE_DR: lambda step: _promote(step, Role.DR_STANDBY),
    Action.LIFT_HOLD: _lift_hold,
    Action.CLOSE_COMPLETED: lambda step: _close(step, "completed"),
    Action.CLOSE_CANCELLED: lambda step: _close(step, "cancelled"),
    Action.CLOSE_ABORTED: lambda step: _close(step, "aborted"),
}
