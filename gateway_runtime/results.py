"""What became of tasks, told to the Primary until it has confirmed it. One result that it refuses holds up no other.

Results go in batches of limited size; a refused batch goes one by one, and what the Primary cannot take is told as a failure.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from common.clock import now as clock_now
from gateway_runtime.client import Channel, PrimaryRefused
from gateway_runtime.frames import TaskImpossible
from gateway_runtime.models import Effect
from protocol import paths
from protocol.messages import TaskResult, TaskResults, TaskVerdicts
from protocol.vocabulary import TaskOutcome

log = logging.getLogger("mazevault.gateway.results")

BATCH_RESULTS = 50
"""Most results in one message (`protocol.messages.TaskResults`)."""
LARGEST_RESULT = BATCH_BYTES = 1024 * 1024
"""Most bytes of a result, and of the results of one message. Sealed they are a third longer; 2 MiB is the most that travels."""
ASIDE_SECONDS = 60.0
"""After so long a result that made the Primary fail is told again."""
REPORT_SECONDS = 10
UNFIT = frozenset({400, 413, 422})
"""HTTP statuses that speak of the message itself. Any other refusal speaks of this gateway or of the moment."""


def fitting(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result that can be told. Raises `TaskImpossible` for a larger one."""
    size = _size_of(result)
    if size > LARGEST_RESULT:
        raise TaskImpossible(f"the result has {size} bytes, and at most {LARGEST_RESULT} can be reported")
    return dict(result)


class Reports:
    """Tells outcomes; remembers which ones made the Primary fail, so that the others come first."""

    def __init__(self) -> None:
        self._aside: dict[uuid.UUID, float] = {}

    def send(self, channel: Channel) -> int:
        """Tell the oldest outcomes that are not confirmed yet. Safe to repeat. Returns how many were told.

        Raises `PrimaryUnreachable` when no answer came, `PrimaryRefused` when this gateway is refused and not what it tells.
        """
        batch = self._next_batch(time.monotonic())
        if not batch:
            return 0
        try:
            return _tell(channel, batch)
        except PrimaryRefused as refused:
            if not _is_about_results(refused):
                raise
        return sum(self._send_one(channel, effect) for effect in batch)

    def _next_batch(self, now: float) -> list[Effect]:
        self._aside = {effect: until for effect, until in self._aside.items() if until > now}
        waiting = Effect.objects.filter(reported_at=None).exclude(outcome="").exclude(id__in=self._aside).order_by("started_at")
        return _of_one_message(list(waiting[:BATCH_RESULTS]))

    def _send_one(self, channel: Channel, effect: Effect) -> int:
        try:
            return _tell(channel, [effect])
        except PrimaryRefused as refused:
            if not _is_about_results(refused):
                raise
            return (
                self._send_as_failure(channel, effect, refused) if refused.status in UNFIT else self._set_aside(effect, refused)
            )

    def _send_as_failure(self, channel: Channel, effect: Effect, why: PrimaryRefused) -> int:
        """Nothing of it is committed before the Primary took it: it may refuse whatever this gateway says."""
        effect.outcome, effect.result, effect.retry = TaskOutcome.FAILED.value, {}, False
        effect.detail = f"the result could not be reported: {why}"[:2000]
        try:
            told = _tell(channel, [effect])
        except PrimaryRefused as refused:
            if not _is_about_results(refused):
                raise
            return self._set_aside(effect, refused)
        log.error("task %s: %s", effect.task, effect.detail)
        return told

    def _set_aside(self, effect: Effect, why: PrimaryRefused) -> int:
        self._aside[effect.id] = time.monotonic() + ASIDE_SECONDS
        log.error("the Primary does not take the outcome of task %s, next try in %g s: %s", effect.task, ASIDE_SECONDS, why)
        return 0


def _is_about_results(refused: PrimaryRefused) -> bool:
    return refused.status in UNFIT or refused.status >= 500


def _of_one_message(effects: list[Effect]) -> list[Effect]:
    """As many of the first ones as fit together; one at least."""
    size, batch = 0, list[Effect]()
    for effect in effects:
        size += _size_of(effect.result)
        if batch and size > BATCH_BYTES:
            break
        batch.append(effect)
    return batch


def _size_of(result: Mapping[str, Any]) -> int:
    return len(msgspec.json.encode(result))


def _tell(channel: Channel, effects: list[Effect]) -> int:
    message = TaskResults(results=[_result_of(effect) for effect in effects])
    answer = channel.call(paths.TASK_RESULTS, message, TaskVerdicts, timeout=REPORT_SECONDS)
    for effect in effects:
        verdict = answer.verdicts.get(str(effect.task))
        if verdict:
            effect.reported_at, effect.verdict = clock_now(), verdict.value
            effect.save()
    return len(effects)


def _result_of(effect: Effect) -> TaskResult:
    return TaskResult(
        task=str(effect.task),
        claim=str(effect.claim),
        epoch=effect.epoch,
        outcome=TaskOutcome(effect.outcome),
        duration_seconds=effect.duration_seconds,
        detail=effect.detail,
        result=effect.result,
        retry=effect.retry,
    )
