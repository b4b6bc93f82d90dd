"""Tasks: created by people, claimed by the active gateway, answered, retried, buried (DESIGN §2, reliability §4.4).

PostgreSQL is the queue. A claim and a result are judged under the route's row lock, so a failover and a claim never overlap.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.db import connection, transaction

from common import audit
from common.clock import database_now
from common.errors import Conflict, PermissionRefused, ValidationFailed
from gateways import left_undone, routes
from gateways.directives import polls_tasks
from gateways.kinds import KINDS, TaskKind, check_payload, kind_of
from gateways.models import Gateway, RejectedResult, Route, Task
from protocol.messages import OfferedTask, TaskResult
from protocol.vocabulary import ResultVerdict, TaskOutcome, TaskState

log = logging.getLogger("mazevault.gateways.dispatch")

RETRY_BASE, RETRY_CAP = timedelta(seconds=2), timedelta(minutes=5)
"""First and longest pause before a failed task is offered again (reliability §5, poison)."""
DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Upper bounds in seconds of `mazevault_gateway_task_duration_seconds`; an effect may take at most 10 s."""

_CLAIM = """
WITH due AS MATERIALIZED (
    SELECT id FROM gateways_task
     WHERE environment_id = %(environment)s AND state = 'pending' AND not_before <= clock_timestamp() AND kind = %(kind)s
     ORDER BY created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE gateways_task SET state = 'claimed', gateway_id = %(gateway)s, epoch = %(epoch)s, attempts = attempts + 1,
       claim = gen_random_uuid(), claim_until = clock_timestamp() + %(seconds)s * interval '1 second'
 WHERE id IN (SELECT id FROM due)
RETURNING id, kind, payload, claim, attempts
"""
"""Materialized: a plan that ran the inner query once for each row would claim more than the limit."""
_TALLY = """
INSERT INTO gateways_tasktally (environment_id, status, total) VALUES (%s, %s, 1)
ON CONFLICT (environment_id, status) DO UPDATE SET total = gateways_tasktally.total + 1
"""
_COUNT_END = """
INSERT INTO gateways_taskminute (gateway_id, minute, good, bad) VALUES (%s, date_trunc('minute', clock_timestamp()), %s, %s)
ON CONFLICT (gateway_id, minute) DO UPDATE SET good = gateways_taskminute.good + excluded.good,
                                               bad = gateways_taskminute.bad + excluded.bad
"""
_COUNT_DURATION = """
INSERT INTO gateways_durationtally (gateway_id, upper_bound, total, seconds) VALUES (%s, %s, 1, %s)
ON CONFLICT (gateway_id, upper_bound) DO UPDATE SET total = gateways_durationtally.total + 1,
                                                    seconds = gateways_durationtally.seconds + excluded.seconds
"""


def create_task(code: str, kind_name: str, payload: Mapping[str, Any], *, actor: str, address: str) -> Task:
    """Offer the work that a person asks for. Bad kind or payload is refused by name."""
    return offer(code, kind_of(kind_name), payload, actor=actor, address=address)


def offer(
    code: str, kind: TaskKind, payload: Mapping[str, Any], *, actor: str, address: str, pause: timedelta = timedelta(0)
) -> Task:
    """Offer work of any kind to whichever gateway is active, after a pause. A bad payload is refused by name."""
    environment = routes.environment_of(code)
    check_payload(kind, payload)
    with transaction.atomic():
        task = Task.objects.create(
            environment=environment, kind=kind.name, payload=dict(payload), created_by=actor, not_before=database_now() + pause
        )
        audit.record(
            actor=actor,
            action="task.created",
            entity="task",
            entity_id=str(task.id),
            environment=environment.code,
            address=address,
            details={"kind": kind.name},
        )
        _tally(environment.code, "created")
        routes.wake(environment.code)
    return task


def claim(gateway: Gateway, epoch: int, limit: int) -> list[OfferedTask]:
    """Take up to `limit` tasks. A standby, a fenced, a draining or an outdated gateway is refused here, whatever it believes."""
    with transaction.atomic():
        refuse_unless_active(gateway, epoch)
        offers: list[OfferedTask] = []
        for kind in sorted(KINDS.values(), key=lambda one: one.long):
            room = limit - len(offers)
            offers += _claim_of_kind(gateway, epoch, kind.name, kind.claim_seconds, min(room, 1) if kind.long else room)
            if offers and kind.long and offers[-1].kind == kind.name:
                break
        if offers:
            routes.wake(gateway.environment_id)  # who waits has heard that there is work; the next one is news again
    return offers


def refuse_unless_active(gateway: Gateway, epoch: int) -> None:
    """Only the active gateway in the epoch of its environment does work. Shares the route's lock until the transaction ends (I3).

    Raises `PermissionRefused` (NOT_ACTIVE, GATEWAY_HELD) or `Conflict` (STALE_EPOCH).
    """
    route = _shared_route(gateway)
    if not polls_tasks(gateway, route):
        raise PermissionRefused("only the active gateway of the environment takes tasks", code="NOT_ACTIVE")
    if epoch != route.epoch:
        raise Conflict(f"the environment is in epoch {route.epoch}, not {epoch}", code="STALE_EPOCH")
    if gateway.held_at:
        raise PermissionRefused("this gateway is held until an operator releases it", code="GATEWAY_HELD")


def is_claimed(task: Task | None, gateway: Gateway, claim: str, epoch: int) -> bool:
    """Whether a message of this gateway speaks for the claim that counts now; ask after `refuse_unless_active`."""
    if task is None:
        return False
    return (task.state, str(task.claim), task.gateway_id, task.epoch) == (TaskState.CLAIMED, claim, gateway.id, epoch)


def note_progress(task: uuid.UUID | None) -> None:
    """The work of a task gets on, so that its attempts are not used up by crashes."""
    if task:
        Task.objects.filter(id=task).update(attempts=1)


def extend_claim(task: Task) -> None:
    """Whoever works on a task is heard of: its claim lasts as long again from now."""
    seconds = timedelta(seconds=KINDS[task.kind].claim_seconds)
    claimed = Task.objects.filter(id=task.id, state=TaskState.CLAIMED, claim=task.claim)
    claimed.update(claim_until=database_now() + seconds)


def take_results(gateway: Gateway, results: Iterable[TaskResult]) -> dict[str, ResultVerdict]:
    """Store what came back, each result in its own transaction; repeating a report changes nothing.

    Raises `ValidationFailed` before anything is stored when one holds what no column takes.
    """
    results = list(results)
    for one in results:
        if _has_nul(one.result):
            raise ValidationFailed(f"results: the result of task {one.task} holds a NUL; take it out or replace it")
    return {result.task: _take_result(gateway, result) for result in results}


def _has_nul(value: object) -> bool:
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
    if isinstance(value, list):
        return any(map(_has_nul, value))
    return isinstance(value, str) and "\0" in value


def sweep(now: datetime) -> int:
    """Return tasks whose claim ran out to the queue, or bury them after their last attempt. Returns how many moved."""
    moved = 0
    for task_id in Task.objects.filter(state=TaskState.CLAIMED, claim_until__lt=now).values_list("id", flat=True)[:500]:
        with transaction.atomic():
            task = (
                Task.objects.select_for_update(skip_locked=True)
                .filter(pk=task_id, state=TaskState.CLAIMED, claim_until__lt=now)
                .first()
            )
            if task:
                task.claim = None  # what its holder still says of it is kept as evidence, not taken for a repetition
                _give_back(task, now, "the claim ran out without an answer")
                moved += 1
    return moved


def orphan_tasks_of_past_epochs(code: str, epoch: int, now: datetime) -> int:
    """At a promotion: claims of earlier epochs are void. Runs in the promoting transaction."""
    orphans = Task.objects.select_for_update().filter(environment_id=code, state=TaskState.CLAIMED, epoch__lt=epoch)
    count = 0
    for task in orphans:
        _give_back(task, now, f"epoch {task.epoch} ended before an answer came", at_once=True)
        count += 1
    return count


def _shared_route(gateway: Gateway) -> Route:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM gateways_route WHERE environment_id = %s FOR SHARE", [gateway.environment_id])
    return Route.objects.get(environment_id=gateway.environment_id)


def _claim_of_kind(gateway: Gateway, epoch: int, kind: str, seconds: float, limit: int) -> list[OfferedTask]:
    if limit <= 0:
        return []
    values: dict[str, Any] = {"gateway": gateway.id, "epoch": epoch, "seconds": seconds, "environment": gateway.environment_id}
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, {**values, "kind": kind, "limit": limit})
        rows = cursor.fetchall()
    return [
        OfferedTask(
            id=str(identifier),
            kind=name,
            payload=payload if isinstance(payload, dict) else msgspec.json.decode(payload),
            epoch=epoch,
            claim=str(claim_id),
            claim_seconds=seconds,
            attempt=attempts,
        )
        for identifier, name, payload, claim_id, attempts in rows
    ]


def _take_result(gateway: Gateway, result: TaskResult) -> ResultVerdict:
    with transaction.atomic():
        route = _shared_route(gateway)
        task = Task.objects.select_for_update().filter(id=result.task, environment_id=gateway.environment_id).first()
        if task is None:
            return ResultVerdict.UNKNOWN_TASK
        verdict = _judge_result(gateway, route, task, result)
        if verdict is ResultVerdict.ACCEPTED:
            _apply_result(task, result)
        elif verdict is not ResultVerdict.DUPLICATE:
            _keep_as_evidence(gateway, task, result, verdict)
    return verdict


def _judge_result(gateway: Gateway, route: Route, task: Task, result: TaskResult) -> ResultVerdict:
    """A result counts only in its epoch, from its claimant, for its claim (I3)."""
    if str(task.claim) == result.claim and task.state != TaskState.CLAIMED:
        return ResultVerdict.DUPLICATE
    if str(task.answered_claim) == result.claim:
        return ResultVerdict.DUPLICATE
    if result.epoch != route.epoch or route.active_gateway_id != gateway.id:
        return ResultVerdict.REJECTED_STALE_EPOCH
    if str(task.claim) != result.claim or task.gateway_id != gateway.id or task.epoch != result.epoch:
        return ResultVerdict.REJECTED_STALE_CLAIM
    return ResultVerdict.ACCEPTED


def _apply_result(task: Task, result: TaskResult) -> None:
    now = database_now()
    task.detail, task.result, task.answered_claim = result.detail, result.result, task.claim
    if result.outcome is TaskOutcome.SUCCEEDED:
        task.state, task.finished_at, task.duration_seconds = TaskState.SUCCEEDED.value, now, result.duration_seconds
        task.claim_until = None
        task.save()
        _count_end(task)
        _tally(task.environment_id, TaskState.SUCCEEDED.value)
        _count_duration(task, result.duration_seconds)
        left_undone.tell_kept(task)
    elif result.outcome is TaskOutcome.REFUSED:
        # Nothing was tried, so no attempt is used up: the gateway had no right to act at that moment.
        task.attempts = max(0, task.attempts - 1)
        _requeue(task, now, RETRY_BASE, result.detail)
    elif not result.retry:
        _finish(task, TaskState.FAILED, now, result.detail)
    else:
        _give_back(task, now, result.detail)


def _give_back(task: Task, now: datetime, why: str, *, at_once: bool = False) -> None:
    kind = KINDS.get(task.kind)
    if kind is None or (not kind.idempotent and at_once):
        _finish(task, TaskState.NEEDS_REVIEW, now, f"{why}; whether it was done is not known")
    elif task.attempts >= kind.attempts and not at_once:
        _finish(task, TaskState.DEAD_LETTER, now, f"{why}; attempt {task.attempts} of {kind.attempts} was the last")
    else:
        pause = timedelta(0) if at_once else min(RETRY_BASE * 2 ** max(0, task.attempts - 1), RETRY_CAP)
        _requeue(task, now, pause, why)


def _requeue(task: Task, now: datetime, pause: timedelta, why: str) -> None:
    task.state, task.not_before, task.detail = TaskState.PENDING.value, now + pause, why
    task.claim = task.claim_until = None
    task.save()
    _tally(task.environment_id, "retried")
    routes.wake(task.environment_id)


def _finish(task: Task, state: TaskState, now: datetime, why: str) -> None:
    task.state, task.finished_at, task.detail, task.claim_until = state.value, now, why, None
    task.save()
    _count_end(task)
    _tally(task.environment_id, state.value)
    left_undone.tell(task, why)
    log.warning("task %s (%s) ended as %s: %s", task.id, task.kind, state.value, why)


def _keep_as_evidence(gateway: Gateway, task: Task, result: TaskResult, verdict: ResultVerdict) -> None:
    """Once, however often it is repeated."""
    if RejectedResult.objects.filter(task=task, gateway=gateway, verdict=verdict.value, body__claim=result.claim).exists():
        return
    RejectedResult.objects.create(
        task=task, gateway=gateway, epoch=result.epoch, verdict=verdict.value, body=msgspec.to_builtins(result)
    )
    _tally(task.environment_id, "rejected")
    log.warning("result of task %s from %s rejected: %s", task.id, gateway.name, verdict.value)


def _tally(code: str, status: str) -> None:
    _execute(_TALLY, [code, status])


def _count_end(task: Task) -> None:
    """What health looks at: how the tasks of the last minutes ended at each gateway."""
    good, bad = task.state == TaskState.SUCCEEDED, task.state in (TaskState.FAILED, TaskState.DEAD_LETTER)
    if task.gateway_id and (good or bad):
        _execute(_COUNT_END, [task.gateway_id, int(good), int(bad)])


def _count_duration(task: Task, seconds: float) -> None:
    bound = next((str(float(bucket)) for bucket in DURATION_BUCKETS if seconds <= bucket), "+Inf")
    _execute(_COUNT_DURATION, [task.gateway_id, bound, seconds])


def _execute(text: str, values: list[Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(text, values)
