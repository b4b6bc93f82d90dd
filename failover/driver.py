"""Takes the next step of each environment: read, ask the table, carry out, commit (DESIGN §8).

Runs in every Primary process and in Celery, any number of times and side by side: a step begins with the route's lock, and a
lock that somebody else holds means that somebody else takes this step. A crash anywhere is just a step not yet taken.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.conf import settings
from django.db import DatabaseError, InterfaceError, transaction
from django.db.models import Exists, OuterRef, Q

from common.clock import boottime, database_now, now
from common.errors import Conflict
from common.failpoints import reach
from common.locks import try_transaction_lock
from common.outages import cause_of, is_outage
from failover import machine, preflight
from failover.facts import checks_of, living_gateway, move_facts
from failover.kinds import KINDS
from failover.machine import FENCING, PREFLIGHT, PROMOTION, RESTFUL, Event, LeaseTime, Sign, State, StepFacts
from failover.models import EnvironmentState, Operation
from failover.preflight import Level
from failover.transitions import Step, carry_out, open_operation, state_of
from failover.waits import ASKING, drain_deadline, sign_of_target, source_is_silent
from failover.witness import ClockWitness
from gateways import generation, losses, routes
from gateways.models import Gateway, GatewayEnvironment, Route
from protocol.vocabulary import Role

log = logging.getLogger("mazevault.failover")

LONGEST_RUN = 8
"""Most steps of one environment in a row, so that no environment starves another."""
DRIVER = "system"
QUEUE = "source_queue"
"""Name of the check whose waiver means: do not wait for the old gateway's writes."""
_MOVING = [state.value for state in State if state not in RESTFUL]
witness = ClockWitness()


def drive_all() -> int:
    """Take every step that can be taken now. Returns how many were taken; one environment's trouble stops no other. Raises what
    the database raises while it is away."""
    taken = 0
    witness.look(now())
    for code in _environments_to_look_at():
        try:
            taken += drive(code)
        except (DatabaseError, InterfaceError, Conflict) as error:
            if is_outage(error):  # of no environment: told once, by who called
                raise
            log.error("%s: the next step could not be taken: %s", code, error if isinstance(error, Conflict) else cause_of(error))
        except Exception:  # a fault in one environment stops the others' moves least of all; the traceback is kept
            log.exception("%s: the next step failed", code)
    return taken


def drive(code: str) -> int:
    """Take the steps of one environment until there is something to wait for.

    The database is looked at first: one that was promoted a moment ago does not know the last leases, and blocks new ones.
    """
    generation.look()
    for taken in range(LONGEST_RUN):
        if not step(code):
            return taken
    return LONGEST_RUN


def step(code: str) -> bool:
    """Take one step in one transaction. False when there is nothing to do, or somebody else is doing it."""
    with transaction.atomic():
        if not try_transaction_lock(f"failover:{code}"):
            return False
        route = routes.lock_route(code)
        state, operation = state_of(code), open_operation(code)
        _freeze_when_nobody_can_be_promoted(route, state, operation)
        event = machine.next_step(_facts(route, state, operation))
        if event is None:
            return False
        _pass_over_what_is_left(route, operation, event)
        name = f"{state.state}:{event.value}"
        carry_out(Step(route, state, operation, machine.require_move(State(state.state), event), DRIVER))
        if operation and operation.finished_at:
            witness.forget(operation.id)
        reach(f"{name}:before-commit")
    reach(f"{name}:after-commit")
    return True


def _freeze_when_nobody_can_be_promoted(route: Route, state: EnvironmentState, operation: Operation | None) -> None:
    """Past the fence nothing is taken back by itself: if the target was banned meanwhile, a person decides who goes on."""
    if State(state.state) not in PROMOTION or operation is None or operation.target is None or route.danger:
        return
    target = Gateway.objects.select_for_update().get(pk=operation.target.pk)
    if not (target.banned_at or target.decommissioned_at or target.held_at):
        return
    how = "banned" if target.banned_at else "decommissioned" if target.decommissioned_at else "held"
    sentence = f"{target.name} was {how} while it was to become active"
    routes.freeze_because(target, sentence, {"operation": str(operation.id), "target": target.name}, actor=DRIVER)
    route.refresh_from_db(fields=["danger", "lease_open"])


def _environments_to_look_at() -> list[str]:
    """Those in motion, in danger, or not begun although their primary gateway has spoken. One statement, however many rest."""
    spoken = Gateway.objects.filter(
        environment=OuterRef("pk"), role=Role.PRIMARY.value, decommissioned_at=None, banned_at=None, held_at=None,
        status__heartbeat_at__isnull=False,
    )  # fmt: skip
    not_begun = Q(failover__state=State.UNASSIGNED.value) | Q(failover=None)
    due = Q(failover__state__in=_MOVING) | Q(route__danger__gt="") | (not_begun & Exists(spoken))
    known = GatewayEnvironment.objects.filter(due).exclude(failover__state=State.HOLD.value)
    return list(known.order_by("code").values_list("code", flat=True))


def _facts(route: Route, row: EnvironmentState, operation: Operation | None) -> StepFacts:
    state, timing, asked = State(row.state), settings.MAZEVAULT.timing, boottime()
    moment = database_now()
    if not witness.look(moment, asked):
        log.error("%s: the database's clock leapt; where a lease runs out, a whole one is waited for", route.environment_id)
    mine = operation is not None and route.fence_operation == operation.id
    return StepFacts(
        state=state,
        now=moment,
        fence_wait=generation.longest_times()[1] if state in FENCING else timedelta(seconds=timing.fence_wait),
        danger=bool(route.danger),
        primary_ready=state is State.UNASSIGNED and _primary_is_ready(route.environment_id),
        checks_passed=state in PREFLIGHT and operation is not None and _checks_pass(route, operation),
        lease_until=route.lease_until,
        lease_blocked_until=route.lease_blocked_until,
        fence_acknowledged=mine and route.fence_acknowledged_at is not None,
        drained=operation is not None and _is_drained(route, operation),
        drain_deadline=drain_deadline(row),
        drain_waived=operation is not None and QUEUE in operation.waived,
        held_to_plan=operation is not None and operation.plan_id is not None,
        source_silent=operation is not None and source_is_silent(route, row, operation, moment),
        target_sign=sign_of_target(operation, moment) if operation and state in ASKING else Sign.FRESH,
        forced=operation is not None and bool(operation.forced_by),
        lease_time=_lease_time(route, operation, moment) if operation and state in FENCING else LeaseTime.STORED,
    )


def _lease_time(route: Route, operation: Operation, moment: datetime) -> LeaseTime:
    """By which clock the wait for the old lease may end (`failover.witness`)."""
    longest, wait = generation.longest_times()
    end = machine.fence_ends_at(route.lease_until, wait, route.lease_blocked_until)
    # asked first: the wait begins with the first look
    waited = witness.has_waited(operation.id, route.lease_blocked_until, longest, route.lease_blocks)
    if waited:
        return LeaseTime.WAITED_FOR
    return LeaseTime.STORED if end is None or witness.has_watched_since(end - longest, moment) else LeaseTime.NOT_WATCHED


def _primary_is_ready(code: str) -> bool:
    gateway = living_gateway(code, Role.PRIMARY.value)
    if gateway is None or gateway.banned_at or gateway.held_at:
        return False
    status = getattr(gateway, "status", None)
    return status is not None and status.heartbeat_at is not None


def _checks_pass(route: Route, operation: Operation) -> bool:
    """Look again at the hard checks, since time has passed between the request and this step."""
    kind = KINDS[operation.kind]
    checks = checks_of(kind, move_facts(kind, route, database_now()))
    operation.checks = preflight.as_rows(checks)
    target = living_gateway(route.environment_id, kind.target_role)
    same_target = target is not None and target.id == operation.target_id
    return same_target and not preflight.failed(checks, Level.HARD)


def _is_drained(route: Route, operation: Operation) -> bool:
    return (
        route.drain_operation == operation.id
        and route.drain_reported_at is not None
        and route.drain_queue_depth == 0
        and route.drain_running_tasks == 0
    )


def _pass_over_what_is_left(route: Route, operation: Operation | None, event: Event) -> None:
    """A move that goes on without the old gateway's writes says so like any other check that was passed over."""
    if operation is None or route.active_gateway is None or QUEUE in operation.waived:
        return
    left = event is Event.SOURCE_SILENT and losses.outstanding_of(route.active_gateway) > 0
    if left or event is Event.DRAIN_PASSED_OVER:
        operation.waived = [*operation.waived, QUEUE]
