"""What people ask of an environment: plan, activate-dr, failback, cancel, force, resume. Each use case is one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from common import audit
from common.api import rfc3339
from common.clock import database_now
from common.errors import Conflict, NotFound, ValidationFailed
from common.failpoints import reach
from failover import driver, preflight
from failover.facts import checks_of, estimate_of, living_gateway, move_facts
from failover.kinds import KINDS, Kind
from failover.machine import Event, State, move_for, require_move
from failover.models import EnvironmentState, Operation, Plan
from failover.preflight import Check, Level
from failover.selectors import operation_row
from failover.transitions import Step, carry_out, open_operation, state_of
from gateways import generation, losses, routes, signs
from gateways.models import Gateway, Route
from protocol.vocabulary import Role

PLAN_LIFE = timedelta(minutes=10)


@dataclass(frozen=True)
class Asked:
    """Who asks, from where, and why."""

    actor: str
    address: str
    reason: str = ""


@dataclass(frozen=True)
class Wish:
    """What comes with a move: a plan's id and the waivable checks the caller goes past. Both may be absent."""

    plan: uuid.UUID | None = None
    waive: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class Answer:
    """`accepted` is False when the goal was reached already and nothing was begun."""

    accepted: bool
    operation: Operation | None


def make_plan(code: str, kind_name: str, asked: Asked) -> Plan:
    """Checks and estimate for a move, stored with a digest of the world. Changes nothing else."""
    kind = _kind(kind_name)
    environment = routes.environment_of(code)
    answered = _asked_just_now(kind, environment.code)
    with transaction.atomic():
        route = Route.objects.select_related("active_gateway").get(environment=environment)
        moment = database_now()
        facts = move_facts(kind, route, moment, answered)
        checks = [_state_check(kind, state_of(environment.code)), *checks_of(kind, facts)]
        plan = Plan.objects.create(
            environment=environment, kind=kind.name, digest=preflight.digest(facts, checks, route.epoch),
            checks=preflight.as_rows(checks), estimate=asdict(estimate_of(facts)), created_by=asked.actor,
            created_at=moment, expires_at=moment + PLAN_LIFE,
        )  # fmt: skip
        _audit(asked, "failover.planned", environment.code, {"plan": str(plan.id), "kind": kind.name})
    return plan


def request(code: str, kind_name: str, wish: Wish, asked: Asked) -> Answer:
    """Begin a move, or say that it is under way or done. Raises `Conflict` with the reason and loses nothing.

    The same wish while it is open gives the same operation; a reached goal begins nothing; another open operation, a failing
    hard check or an outdated plan is refused.
    """
    kind = _kind(kind_name)
    environment = routes.environment_of(code)
    with transaction.atomic():
        route = routes.lock_route(environment.code)
        state, current = state_of(environment.code), open_operation(environment.code)
        if current:
            if current.kind == kind.name:
                return Answer(True, current)
            raise Conflict(
                f"the operation {current.kind} of {environment.code} is open; wait for its end or cancel it",
                code="OPERATION_OPEN", extra={"operation": operation_row(current, route)},
            )  # fmt: skip
        _refuse_before_epochs_are_heard(environment.code)
        if state.state == kind.goal.value:
            return Answer(False, None)
        _refuse_state(kind, state)
        operation = _open(kind, route, wish, asked, requires_plan=environment.requires_plan)
        carry_out(Step(route, state, operation, require_move(State(state.state), kind.event), asked.actor, asked.reason))
        reach(f"{kind.name}:requested:before-commit")
    reach(f"{kind.name}:requested:after-commit")
    driver.drive(environment.code)
    _let_target_answer(operation)
    operation.refresh_from_db()
    return Answer(True, operation)


def cancel(code: str, asked: Asked) -> Operation:
    """Undo an open operation while nothing irrevocable has happened."""
    environment = routes.environment_of(code)
    with transaction.atomic():
        route = routes.lock_route(environment.code)
        state, operation = state_of(environment.code), open_operation(environment.code)
        if operation is None:
            raise Conflict(f"no operation of {environment.code} is open", code="NO_OPERATION")
        if route.fence_operation == operation.id and route.fence_acknowledged_at:
            raise Conflict("the active gateway has confirmed that it no longer acts; the move can only go on", code="TOO_LATE")
        if route.danger:
            raise Conflict(f"the environment is being frozen: {route.danger}; nothing is taken back now", code="TOO_LATE")
        move = move_for(State(state.state), Event.CANCEL)
        if move is None:
            raise Conflict(f"in the state {state.state} it is too late to cancel", code="TOO_LATE")
        carry_out(Step(route, state, operation, move, asked.actor, asked.reason))
    driver.witness.forget(operation.id)
    return operation


def force(code: str, confirm: str, asked: Asked) -> Operation:
    """Do not wait any longer for the old gateway. The time in which two may act is stored and shown."""
    environment = routes.environment_of(code)
    _require_confirmation(environment.code, confirm, asked)
    with transaction.atomic():
        route = routes.lock_route(environment.code)
        state, operation = state_of(environment.code), open_operation(environment.code)
        move = move_for(State(state.state), Event.FORCE)
        if operation is None or move is None:
            raise Conflict(
                f"nothing waits in the state {state.state}; only a drain or a fence can be forced", code="NOTHING_TO_FORCE"
            )
        carry_out(Step(route, state, operation, move, asked.actor, asked.reason))
    driver.drive(environment.code)
    operation.refresh_from_db()
    return operation


def resume(code: str, gateway_name: str, confirm: str, asked: Asked) -> EnvironmentState:
    """Leave HOLD: the named gateway becomes active in an epoch above everything that was seen, once old leases have ended."""
    environment = routes.environment_of(code)
    _require_confirmation(environment.code, confirm, asked)
    with transaction.atomic():
        route = routes.lock_route(environment.code)
        state = state_of(environment.code)
        if state.state != State.HOLD.value:
            raise Conflict(f"{environment.code} is not held; it is in the state {state.state}", code="NOT_HELD")
        chosen = _usable(environment.code).filter(name=gateway_name).first()
        if chosen is None:
            raise ValidationFailed(
                f"gateway: {environment.code} has no usable gateway of this name; {_told_usable(environment.code)}"
            )
        event = Event.RESUME_ON_PRIMARY if chosen.role == Role.PRIMARY else Event.RESUME_ON_DR
        until = routes.longest_old_lease(route)
        carry_out(Step(route, state, None, require_move(State.HOLD, event), asked.actor, asked.reason))
        routes.block_lease(route, until)
    return state


def accept_loss(code: str, identifier: str, confirm: str, asked: Asked) -> None:
    """Close a loss manifest of a gateway that will never return. Raises `Conflict` while writes of it wait for a decision."""
    environment = routes.environment_of(code)
    _require_confirmation(environment.code, confirm, asked)
    try:
        wanted = uuid.UUID(identifier)
    except ValueError:
        raise NotFound("there is no such loss manifest of this environment") from None
    losses.accept_loss(environment.code, wanted, actor=asked.actor, address=asked.address, reason=asked.reason)


def _usable(code: str) -> QuerySet[Gateway]:
    return Gateway.objects.filter(environment_id=code, decommissioned_at=None, banned_at=None, held_at=None)


def _told_usable(code: str) -> str:
    names = list(_usable(code).order_by("name").values_list("name", flat=True))
    return f"usable are {', '.join(names)}" if names else "none is usable: release one that is held, or enrol one"


def _asked_just_now(kind: Kind, code: str) -> dict[uuid.UUID, bool]:
    """Ask both sides for a sign of life and wait a moment: what they said a minute ago tells nothing of one that died since."""
    route = Route.objects.select_related("active_gateway").get(environment_id=code)
    sides = [side for side in (route.active_gateway, living_gateway(code, kind.target_role)) if side is not None]
    questions = [(side.id, signs.ask(side)) for side in sides]
    signs.wait_for(questions)
    return {gateway: signs.has_answered(gateway, number) for gateway, number in questions}


def _let_target_answer(operation: Operation) -> None:
    """A living target answers within milliseconds, so whoever asked sees how the move goes on; the driver waits for others."""
    if operation.target and operation.target_question and operation.finished_at is None:
        signs.wait_for([(operation.target.id, operation.target_question)])
        driver.drive(operation.environment_id)


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise NotFound(f"there is no move {name}; there are {', '.join(KINDS)}")
    return KINDS[name]


def _refuse_before_epochs_are_heard(code: str) -> None:
    """What a database that was put back says of an environment may be of the past: nothing is begun on it, or called reached."""
    awaited = generation.awaited_of(code)
    if awaited is not None:
        names, until = awaited
        raise Conflict(
            f"the Primary's database was put back or promoted, and {', '.join(names)} has not said since then which epoch it has "
            f"seen; ask again when it has, or after {rfc3339(until)}",
            code="EPOCHS_AWAITED", retry_after=5,
        )  # fmt: skip


def _refuse_state(kind: Kind, state: EnvironmentState) -> None:
    check = _state_check(kind, state)
    if not check.passed:
        code = "ENVIRONMENT_HELD" if state.state == State.HOLD.value else "RESOURCE_CONFLICT"
        raise Conflict(f"{check.sentence}; {check.fix}", code=code)


def _state_check(kind: Kind, state: EnvironmentState) -> Check:
    possible = move_for(State(state.state), kind.event) is not None
    fixes = {
        State.HOLD.value: "find out which gateway acted last and resume it on that one: POST "
        f"admin/failover/{state.environment_id}/resume",
        State.UNASSIGNED.value: "enrol a primary gateway first",
        kind.goal.value: "there is nothing to do",
    }
    reason = f": {state.hold_reason}" if state.hold_reason else ""
    return Check(
        "state", Level.HARD, possible, f"the environment is in the state {state.state}{reason}",
        "" if possible else fixes.get(state.state, "wait for the open operation"),
    )  # fmt: skip


def _open(kind: Kind, route: Route, wish: Wish, asked: Asked, *, requires_plan: bool) -> Operation:
    facts = move_facts(kind, route, database_now())
    checks = checks_of(kind, facts)
    plan = _valid_plan(kind, route, wish, preflight.digest(facts, [_PASSED_STATE, *checks], route.epoch))
    if requires_plan and plan is None:
        raise Conflict(
            f"{route.environment_id} demands a plan: POST admin/failover/{route.environment_id}/plan, then name it in plan_id",
            code="PLAN_REQUIRED",
        )
    _refuse_failing(checks, wish, planned=plan is not None)
    operation = Operation(
        environment_id=route.environment_id, kind=kind.name, plan=plan, checks=preflight.as_rows(checks),
        waived=_passed_over(checks, wish), source=route.active_gateway,
        target=living_gateway(route.environment_id, kind.target_role), epoch_before=route.epoch,
        requested_by=asked.actor, reason=asked.reason,
    )  # fmt: skip
    operation.target_question = signs.ask(operation.target) if operation.target else None
    operation.source_question = signs.ask(operation.source) if operation.source else None
    operation.save()
    _audit(asked, "failover.requested", route.environment_id, {
        "operation": str(operation.id), "kind": kind.name, "waived": operation.waived, "reason": asked.reason,
    })  # fmt: skip
    return operation


def _passed_over(checks: list[Check], wish: Wish) -> list[str]:
    """What is gone past at the start. A check that the move waits for is so only where the wait itself is waived."""
    named = {name for name in preflight.WAITED_FOR if name in wish.waive}
    failing = {check.name for check in preflight.failed(checks, Level.WAIVABLE)} - preflight.WAITED_FOR
    return [check.name for check in checks if check.name in failing | named]


_PASSED_STATE = Check("state", Level.HARD, True, "")


def _valid_plan(kind: Kind, route: Route, wish: Wish, digest: str) -> Plan | None:
    if wish.plan is None:
        return None
    plan = Plan.objects.filter(id=wish.plan, environment_id=route.environment_id, kind=kind.name).first()
    if plan is None:
        raise ValidationFailed(f"plan_id: there is no such plan for {kind.name} of {route.environment_id}")
    if plan.expires_at <= database_now() or plan.digest != digest:
        raise Conflict("the world moved since this plan was made; make a new one", code="PLAN_OUTDATED")
    return plan


def _refuse_failing(checks: list[Check], wish: Wish, *, planned: bool) -> None:
    """Without a plan only hard checks refuse; with one, every failing waivable check must be waived by name."""
    unknown = sorted(set(wish.waive) - {check.name for check in checks if check.level is Level.WAIVABLE})
    if unknown:
        raise ValidationFailed(f"waive: {unknown[0]} is not a check that can be waived")
    failing = preflight.failed(checks, Level.HARD)
    if planned:
        excused = {*wish.waive, *preflight.WAITED_FOR}
        failing += [check for check in preflight.failed(checks, Level.WAIVABLE) if check.name not in excused]
    if failing:
        raise Conflict(
            "; ".join(f"{check.sentence} ({check.fix})" for check in failing), code="CHECKS_FAILED",
            extra={"checks": preflight.as_rows(failing)},
        )  # fmt: skip


def _require_confirmation(code: str, confirm: str, asked: Asked) -> None:
    if confirm != code:
        raise ValidationFailed(f"confirm: type the name of the environment, {code}, to confirm")
    if not asked.reason.strip():
        raise ValidationFailed("reason: say why, for the audit")


def _audit(asked: Asked, action: str, code: str, details: Mapping[str, Any]) -> None:
    audit.record(
        actor=asked.actor, action=action, entity="environment", entity_id=code, severity=audit.Severity.WARNING,
        environment=code, address=asked.address, details=details,
    )  # fmt: skip
