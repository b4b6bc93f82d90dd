"""Outcomes of tasks reach the Primary, whatever one of them is like (DESIGN §2, §7)."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from common.clock import boottime
from gateway_runtime import results
from gateway_runtime.client import PrimaryRefused, PrimaryUnreachable, _refusal_of
from gateway_runtime.frames import TaskImpossible
from gateway_runtime.models import Effect
from gateway_runtime.results import ASIDE_SECONDS, BATCH_BYTES, LARGEST_RESULT, Reports
from gateways.models import Task
from protocol.messages import TaskResult, TaskResults, TaskVerdicts, encode
from protocol.vocabulary import ResultVerdict, TaskOutcome
from tests.conftest import Person
from tests.fakes.gateway import FakeGateway
from tests.fakes.primary import RealPrimary
from tests.gateways.test_dispatch import offer

pytestmark = pytest.mark.django_db


@dataclass
class Listener:
    """Stands where the channel stands; `refuse` may object to a message."""

    refuse: Callable[[TaskResults], None] = lambda _message: None
    heard: list[list[TaskResult]] = field(default_factory=list)

    def call(self, _path: str, message: TaskResults, _kind: Any, *, timeout: float) -> TaskVerdicts:
        self.heard.append(message.results)
        self.refuse(message)
        return TaskVerdicts(verdicts={one.task: ResultVerdict.ACCEPTED for one in message.results})


def ended(result: Any = None, task: str = "", claim: str = "") -> Effect:
    """Something this gateway has done and not told yet."""
    return Effect.objects.create(
        task=task or uuid.uuid4(), claim=claim or uuid.uuid4(), kind="gateway.probe", epoch=1, started_at=datetime.now(UTC),
        started_boot=boottime(), ended_boot=boottime(), outcome="succeeded", result=result or {},
    )  # fmt: skip


def refusing(task: Effect, status: int, *, only_successes: bool = False) -> Callable[[TaskResults], None]:
    def refuse(message: TaskResults) -> None:
        for one in message.results:
            if one.task == str(task.task) and not (only_successes and one.outcome is TaskOutcome.FAILED):
                raise PrimaryRefused(status, "NO", "it does not fit")

    return refuse


def told() -> list[bool]:
    return [effect.reported_at is not None for effect in Effect.objects.order_by("started_at")]


def test_outcomes_are_told_once_in_one_message() -> None:
    ended(), ended()
    listener, reports = Listener(), Reports()
    assert (reports.send(listener), reports.send(listener)) == (2, 0)
    assert told() == [True, True] and len(listener.heard) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_result_the_primary_does_not_take_is_told_as_a_failure_and_the_others_as_they_are(status: int) -> None:
    before, bad, after = ended({"n": 1}), ended({"n": 2}), ended({"n": 3})
    listener = Listener(refusing(bad, status, only_successes=True))
    assert Reports().send(listener) == 3
    bad.refresh_from_db()
    assert told() == [True, True, True]
    assert (bad.outcome, bad.result, bad.retry) == ("failed", {}, False)
    assert bad.detail == f"the result could not be reported: {status} NO: it does not fit"
    assert {effect.outcome for effect in Effect.objects.exclude(id=bad.id)} == {"succeeded"} and before.task != after.task


@pytest.mark.parametrize("status", [413, 500, 503])
def test_a_result_the_primary_fails_on_waits_and_holds_up_no_other(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = ended({"n": 1}), ended({"n": 2})
    listener, reports = Listener(refusing(bad, status)), Reports()
    assert reports.send(listener) == 1
    bad.refresh_from_db()
    good.refresh_from_db()
    assert (bad.reported_at, bad.outcome, bad.result) == (None, "succeeded", {"n": 1}) and good.reported_at
    messages = len(listener.heard)
    ended()
    assert reports.send(listener) == 1 and len(listener.heard) == messages + 1
    listener.refuse = lambda _message: None
    assert reports.send(listener) == 0
    later = results.time.monotonic() + ASIDE_SECONDS + 1
    monkeypatch.setattr(results.time, "monotonic", lambda: later)
    assert reports.send(listener) == 1 and told() == [True, True, True]


@pytest.mark.parametrize("status", [401, 403, 404, 409, 429])
def test_a_refusal_of_the_gateway_itself_changes_no_outcome(status: int) -> None:
    effect = ended({"n": 1})
    with pytest.raises(PrimaryRefused):
        Reports().send(Listener(refusing(effect, status)))
    effect.refresh_from_db()
    assert (effect.outcome, effect.result, effect.reported_at) == ("succeeded", {"n": 1}, None)


def test_without_an_answer_everything_is_told_again() -> None:
    def lose(_message: TaskResults) -> None:
        raise PrimaryUnreachable("lost")

    ended(), ended()
    reports = Reports()
    with pytest.raises(PrimaryUnreachable):
        reports.send(Listener(lose))
    assert reports.send(Listener()) == 2


def test_large_results_go_in_several_messages() -> None:
    for _ in range(5):
        ended({"text": "x" * 400_000})
    listener, reports = Listener(), Reports()
    while reports.send(listener):
        pass
    assert [len(message) for message in listener.heard] == [2, 2, 1]
    assert max(len(encode(TaskResults(results=message))) for message in listener.heard) <= BATCH_BYTES


def test_a_result_that_could_not_be_told_is_not_stored() -> None:
    assert results.fitting({"text": "x" * (LARGEST_RESULT - 20)})
    with pytest.raises(TaskImpossible, match="at most"):
        results.fitting({"text": "x" * LARGEST_RESULT})


def test_what_stands_before_the_primary_may_refuse_a_long_message_in_its_own_words() -> None:
    refused = _refusal_of(httpx.Response(413, content=b"<html>413 Request Entity Too Large</html>"))
    assert isinstance(refused, PrimaryRefused) and refused.status == 413
    assert isinstance(_refusal_of(httpx.Response(502, content=b"<html>")), PrimaryUnreachable)


def test_a_result_above_the_longest_message_ends_its_task_at_the_real_primary(
    npr: tuple[FakeGateway, FakeGateway], admin: Person
) -> None:
    offer(admin), offer(admin)
    first, second = npr[0].claim(limit=2).tasks
    ended({"grants": ["x" * 500] * 4000}, first.id, first.claim)
    ended({"ok": True}, second.id, second.claim)
    reports = Reports()
    while reports.send(RealPrimary(npr[0])):
        pass
    assert dict(Task.objects.values_list("id", "state")) == {
        uuid.UUID(first.id): "failed", uuid.UUID(second.id): "succeeded",
    }  # fmt: skip
    assert "could not be reported" in Task.objects.get(id=first.id).detail
