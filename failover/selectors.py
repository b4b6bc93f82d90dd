"""Reads of the failover app, in the shape the API answers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings

from common.api import rfc3339
from common.snapshot import snapshot
from failover.facts import living_gateway
from failover.machine import FENCING, State, fence_ends_at
from failover.models import EnvironmentState, Operation, Plan, Transition
from failover.transitions import open_operation, state_of
from gateways.models import Gateway, LossManifest, Route
from protocol.vocabulary import Role

HISTORY_LENGTH = 200


def status_row(code: str) -> dict[str, Any]:
    """Where an environment stands, as of one moment: a move goes on between two reads, and one that ended is no state of it."""
    state_of(code)  # makes the row, which a snapshot cannot
    with snapshot():
        return _row_of(code)


def _row_of(code: str) -> dict[str, Any]:
    route = Route.objects.select_related("active_gateway").get(environment_id=code)
    state, operation = state_of(code), open_operation(code)
    active = route.active_gateway
    return {
        "environment": code,
        "state": state.state,
        "state_since": rfc3339(state.since),
        "epoch": route.epoch,
        "active_gateway": active.name if active else None,
        "active_role": active.role if active else None,
        "standby_gateway": _standby_name(code, active),
        "dr_active": bool(active and active.role == Role.DR_STANDBY),
        "lease_until": rfc3339(route.lease_until),
        "switched_at": rfc3339(route.switched_at),
        "requires_plan": route.environment.requires_plan,
        "loss_manifest_open": LossManifest.objects.filter(environment_id=code, closed_at=None).exists(),
        "hold_reason": state.hold_reason,
        "operation": operation_row(operation, route) if operation else None,
        "last_operation": _last_operation(code, route),
    }


def operation_row(operation: Operation, route: Route) -> dict[str, Any]:
    """One operation; `waits_for` and `waits_until` say what an open one needs to go on."""
    waits_for, waits_until = _waiting(operation, route)
    return {
        "id": str(operation.id),
        "kind": operation.kind,
        "step": _step_of(operation),
        "waits_for": waits_for,
        "waits_until": waits_until,
        "outcome": operation.outcome or None,
        "source_gateway": operation.source.name if operation.source else None,
        "target_gateway": operation.target.name if operation.target else None,
        "epoch_before": operation.epoch_before,
        "epoch_after": operation.epoch_after,
        "requested_by": operation.requested_by,
        "reason": operation.reason,
        "plan_id": str(operation.plan_id) if operation.plan_id else None,
        "passed_over": operation.waived,
        "forced_by": operation.forced_by or None,
        "split_risk_until": rfc3339(operation.split_risk_until),
        "opened_at": rfc3339(operation.opened_at),
        "finished_at": rfc3339(operation.finished_at),
    }


def plan_row(plan: Plan) -> dict[str, Any]:
    blocking = [check for check in plan.checks if check["level"] == "hard" and not check["passed"]]
    waivable = [check for check in plan.checks if check["level"] == "waivable" and not check["passed"]]
    return {
        "plan_id": str(plan.id),
        "environment": plan.environment_id,
        "kind": plan.kind,
        "verdict": "refused" if blocking else "needs_waiver" if waivable else "green",
        "checks": plan.checks,
        "estimate": plan.estimate,
        "created_at": rfc3339(plan.created_at),
        "expires_at": rfc3339(plan.expires_at),
    }


def history_rows(code: str) -> list[dict[str, Any]]:
    """The newest steps of an environment, newest first."""
    rows = Transition.objects.filter(environment_id=code).order_by("-id")[:HISTORY_LENGTH]
    return [
        {
            "id": row.id,
            "at": rfc3339(row.at),
            "from": row.from_state,
            "event": row.event,
            "to": row.to_state,
            "epoch": row.epoch,
            "operation": str(row.operation_id) if row.operation_id else None,
            "actor": row.actor,
            "sentence": row.sentence,
        }
        for row in rows
    ]


def _standby_name(code: str, active: Gateway | None) -> str | None:
    role = Role(active.role).counterpart if active else Role.DR_STANDBY
    found = living_gateway(code, role.value)
    return found.name if found else None


def _step_of(operation: Operation) -> str:
    if operation.finished_at:
        return operation.outcome
    return EnvironmentState.objects.get(environment_id=operation.environment_id).state


def _waiting(operation: Operation, route: Route) -> tuple[str | None, str | None]:
    if operation.finished_at:
        return None, None
    state, timing = State(_step_of(operation)), settings.MAZEVAULT.timing
    source = operation.source.name if operation.source else "the active gateway"
    if state in FENCING:
        end = fence_ends_at(route.lease_until, timedelta(seconds=timing.fence_wait), route.lease_blocked_until)
        return f"{source} to confirm that it no longer acts, or the end of its lease", rfc3339(end)
    if state is State.DRAINING:
        limit = operation.step_since + timedelta(seconds=timing.drain_limit)
        return f"{source} to finish its work", rfc3339(limit)
    return "the next step of the driver", None


def _last_operation(code: str, route: Route) -> dict[str, Any] | None:
    finished = Operation.objects.select_related("source", "target").filter(environment_id=code, finished_at__isnull=False)
    last = finished.order_by("-finished_at").first()
    return operation_row(last, route) if last else None
