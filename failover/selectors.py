"""Reads of the failover app, in the shape the API answers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import Case, DateTimeField, Exists, F, Func, OuterRef, QuerySet, Subquery, Value, When

from accounts.names import names_of
from common.api import rfc3339
from common.clock import database_now
from common.snapshot import snapshot
from failover.facts import told_of_drain, told_of_silence
from failover.machine import DRAINING, FENCING, PREFLIGHT, State, fence_ends_at
from failover.models import EnvironmentState, Operation, Plan, Transition
from failover.standing import StandingFacts, standing_of
from failover.transitions import state_of
from failover.waits import drain_deadline, silent_from
from gateways import instances, lease_blocks
from gateways.acting import ActingFacts, watched_from
from gateways.models import Gateway, LossManifest, Route, SignOfLife
from protocol.vocabulary import Role

HISTORY_LENGTH = 200


def status_row(code: str) -> dict[str, Any]:
    """Where an environment stands, as of one moment: a move goes on between two reads, and one that ended is no state of it."""
    with snapshot():
        state = EnvironmentState.objects.filter(environment_id=code).first()
        if state is not None:
            return _row_of(code, state)
    state_of(code)  # makes the row, which a snapshot cannot
    return status_row(code)


def _row_of(code: str, state: EnvironmentState) -> dict[str, Any]:
    route = _routes().get(environment_id=code)
    operation, last = _operations(code)
    active = route.active_gateway
    shown = operation_row(operation, route) if operation else None
    return {
        "environment": code,
        "state": state.state,
        "state_since": rfc3339(state.since),
        "epoch": route.epoch,
        "active_gateway": active.name if active else None,
        "active_role": active.role if active else None,
        "standby_gateway": route.standby,
        "dr_active": bool(active and active.role == Role.DR_STANDBY),
        "lease_until": rfc3339(route.lease_until),
        **_standing(route, state, operation, shown),
        "switched_at": rfc3339(route.switched_at),
        "requires_plan": route.environment.requires_plan,
        "loss_manifest_open": route.loses,
        "hold_reason": state.hold_reason,
        "operation": shown,
        "last_operation": operation_row(last, route) if last else None,
    }


def _routes() -> QuerySet[Any]:
    """Routes with everything of their environment that a status shows beside its operations, and the database's clock."""
    role = Case(When(active_gateway__role=Role.DR_STANDBY, then=Value(Role.PRIMARY.value)), default=Value(Role.DR_STANDBY.value))
    living = Gateway.objects.filter(environment=OuterRef("environment"), role=OuterRef("standby_role"), decommissioned_at=None)
    lost = LossManifest.objects.filter(environment=OuterRef("environment"), closed_at=None)
    return (
        Route.objects.select_related("active_gateway__status", "environment")
        .annotate(standby_role=role, **instances.life_of_active())
        .annotate(
            standby=Subquery(living.values("name")[:1]),
            loses=Exists(lost),
            seen_at=Func(function="clock_timestamp", output_field=DateTimeField()),
        )
    )


def _operations(code: str) -> tuple[Operation | None, Operation | None]:
    """The open operation and the one that ended last, in one statement."""
    rows = Operation.objects.select_related("source", "target").filter(environment_id=code)
    newest = list(rows.order_by(F("finished_at").desc(nulls_first=True))[:2])
    under_way = next((one for one in newest if one.finished_at is None), None)
    return under_way, next((one for one in newest if one.finished_at is not None), None)


def operation_row(operation: Operation, route: Route) -> dict[str, Any]:
    """One operation; `waits_for` and `waits_until` say what an open one needs to go on."""
    waits_for, waits_until = _waiting(operation, route)
    names = names_of([operation.requested_by, operation.forced_by])
    return {
        "id": str(operation.id),
        "kind": operation.kind,
        "step": _step_of(operation),
        "waits_for": waits_for,
        "waits_until": waits_until,
        "draining": _draining(operation, route),
        "outcome": operation.outcome or None,
        "source_gateway": operation.source.name if operation.source else None,
        "target_gateway": operation.target.name if operation.target else None,
        "epoch_before": operation.epoch_before,
        "epoch_after": operation.epoch_after,
        "requested_by": operation.requested_by,
        "requested_by_name": names.get(operation.requested_by),
        "reason": operation.reason,
        "plan_id": str(operation.plan_id) if operation.plan_id else None,
        "passed_over": operation.waived,
        "forced_by": operation.forced_by or None,
        "forced_by_name": names.get(operation.forced_by),
        "split_risk_until": rfc3339(operation.split_risk_until),
        "fence_last_sequence": operation.fence_last_sequence,
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
    rows = list(Transition.objects.filter(environment_id=code).order_by("-id")[:HISTORY_LENGTH])
    names = names_of(row.actor for row in rows)
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
            "actor_name": names.get(row.actor),
            "sentence": row.sentence,
        }
        for row in rows
    ]


def _step_of(operation: Operation) -> str:
    if operation.finished_at:
        return operation.outcome
    return EnvironmentState.objects.get(environment_id=operation.environment_id).state


def _waiting(operation: Operation, route: Route) -> tuple[str | None, str | None]:
    """What an open operation needs to go on, and until when it waits for that at most."""
    if operation.finished_at:
        return None, None
    row = EnvironmentState.objects.get(environment_id=operation.environment_id)
    state = State(row.state)
    if state in PREFLIGHT:
        return _told_of_target(operation)
    if state in DRAINING:
        return _told_of_source(operation, route, row), rfc3339(drain_deadline(row))
    if state in FENCING:
        wait = timedelta(seconds=settings.MAZEVAULT.timing.fence_wait)
        end = fence_ends_at(route.lease_until, wait, route.lease_blocked_until)
        return f"{_source_name(operation)} to confirm that it no longer acts, or the end of its lease", rfc3339(end)
    return "the next step of the driver", None


def _told_of_target(operation: Operation) -> tuple[str, str | None]:
    if operation.target is None:
        return "the next step of the driver", None
    sign = SignOfLife.objects.filter(gateway=operation.target).first()
    asked = max(sign.asked_at, operation.opened_at) if sign and sign.asked_at else operation.opened_at
    until = asked + timedelta(seconds=settings.MAZEVAULT.timing.sign_of_life)
    return f"{operation.target.name} to give a sign of life; {told_of_silence(operation.target, database_now())}", rfc3339(until)


def _told_of_source(operation: Operation, route: Route, row: EnvironmentState) -> str:
    """A drain, and what to do when nobody is there who could finish it."""
    name, told = _source_name(operation), told_of_drain(route)
    if told:
        return f"{name} to finish its work: {told}"
    silence = told_of_silence(operation.source, database_now()) if operation.source else f"{name} is unknown"
    return (
        f"{name} to finish its work; it has not answered yet ({silence}). "
        f"If it is silent until {rfc3339(silent_from(route, row))} the move goes on without it; "
        f"force does so now (POST admin/failover/{route.environment_id}/force)"
    )


def _draining(operation: Operation, route: Route) -> dict[str, Any] | None:
    """The wait for the old gateway's queue in numbers; null outside of a drain."""
    if operation.finished_at or route.drain_operation != operation.id:
        return None
    row = EnvironmentState.objects.get(environment_id=operation.environment_id)
    if State(row.state) not in DRAINING:
        return None
    return {
        "reason": f"{_source_name(operation)} brings the writes it has accepted to the Primary and takes nothing new",
        "writes": route.drain_queue_depth,
        "oldest_seconds": route.drain_oldest_seconds,
        "running": route.drain_running_tasks,
        "reported_at": rfc3339(route.drain_reported_at),
        "until": rfc3339(drain_deadline(row)),
    }


def _source_name(operation: Operation) -> str:
    return operation.source.name if operation.source else "the active gateway"


def _standing(
    route: Any, state: EnvironmentState, operation: Operation | None, shown: dict[str, Any] | None
) -> dict[str, Any]:  # fmt: skip
    """Whether anybody may act now, and the sentence about it."""
    found = standing_of(
        StandingFacts(
            environment=route.environment_id,
            state=State(state.state),
            acting=_acting(route) if route.active_gateway else None,
            hold_reason=state.hold_reason,
            under_way=operation.kind if operation else "",
            waits_for=shown["waits_for"] or "" if shown else "",
        )
    )
    return {"may_act": found.may_act, "lease_ended_seconds": found.lease_ended_seconds, "headline": found.headline,
            "next": found.next_step}  # fmt: skip


def _acting(route: Any) -> ActingFacts:
    moment, active, status = route.seen_at, route.active_gateway, getattr(route.active_gateway, "status", None)
    return ActingFacts(
        environment=route.environment_id, now=moment, active=active.name, on_dr=active.role == Role.DR_STANDBY,
        lease_until=route.lease_until, blocked_until=lease_blocks.shown_until(route.lease_blocked_until, moment),
        switched_at=route.switched_at, stopped_at=route.stopped_at, started_at=route.started_at, waits_until=route.waits_until,
        watched_since=watched_from(status.judged_at, status.watched_since, moment) if status else None,
    )  # fmt: skip
