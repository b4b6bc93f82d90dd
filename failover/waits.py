"""Who a move waits for, how long, and when somebody counts as silent: rows turned into the facts of the machine.

The only thing changed here is the question for a sign of life, which is put again while the answer matters.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings

from failover.machine import DRAINING, FENCING, PREFLIGHT, Sign, State
from failover.models import EnvironmentState, Operation
from gateways import signs
from gateways.models import Route, SignOfLife

ASKING = PREFLIGHT | DRAINING | FENCING
"""States in which a move still depends on a target that is alive."""


def drain_deadline(row: EnvironmentState) -> datetime | None:
    """Until when the old gateway is waited for; None outside of a drain."""
    timing = settings.MAZEVAULT.timing
    limits = {State.FO_DRAINING: timing.queue_wait, State.DRAINING: timing.drain_limit}
    limit = limits.get(State(row.state))
    return row.since + timedelta(seconds=limit) if limit else None


def silent_from(route: Route, row: EnvironmentState) -> datetime:
    """When a draining gateway that says nothing more counts as silent. A living one reports several times a second."""
    heard = max(row.since, route.drain_reported_at or row.since)
    return heard + timedelta(seconds=settings.MAZEVAULT.timing.sign_of_life)


def source_is_silent(route: Route, row: EnvironmentState, operation: Operation, moment: datetime) -> bool:
    """Whether nobody is there to wait for: an active gateway that lives keeps its lease, answers, and reports its drain."""
    if operation.source is None:
        return True
    lease_ended = route.lease_until is None or route.lease_until <= moment
    if State(row.state) in DRAINING:
        reported = route.drain_operation == operation.id and route.drain_reported_at is not None
        return moment > silent_from(route, row) or (lease_ended and not reported and not _source_answered(operation))
    if State(row.state) not in PREFLIGHT or _source_answered(operation):
        return False
    found = SignOfLife.objects.filter(gateway=operation.source).first()
    return lease_ended or (found is not None and signs.is_silent(found, operation.opened_at, moment, _bound()))


def _source_answered(operation: Operation) -> bool:
    asked = operation.source_question
    return asked is not None and operation.source is not None and signs.has_answered(operation.source.id, asked)


def sign_of_target(operation: Operation, moment: datetime) -> Sign:
    """What is known of the target now; the question is put again while it matters, so that an answer never grows old."""
    if operation.target is None:
        return Sign.SILENT
    if operation.target_question is None:
        operation.target_question = signs.ask(operation.target)
        operation.save(update_fields=["target_question"])
    found = SignOfLife.objects.get(gateway=operation.target)
    if signs.is_due_again(found, moment, _bound()):
        signs.ask(operation.target)
    if signs.is_of_now(found, operation.target_question, moment, _bound()):
        return Sign.FRESH
    return Sign.SILENT if signs.is_silent(found, operation.opened_at, moment, _bound()) else Sign.AWAITED


def _bound() -> timedelta:
    return timedelta(seconds=settings.MAZEVAULT.timing.sign_of_life)
