"""Tasks are begun in their epoch, under their claim, or not at all (DESIGN §7, I3)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import pytest

from common.clock import boottime
from gateway_runtime import node as nodes
from gateway_runtime import work
from gateway_runtime.frames import Executor, TaskFrame
from gateway_runtime.models import Effect
from gateway_runtime.node import Node
from gateway_runtime.results import LARGEST_RESULT
from gateways.models import Task
from protocol.messages import OfferedTask
from tests.conftest import Person
from tests.fakes.gateway import FakeGateway
from tests.fakes.primary import RealPrimary
from tests.gateway_runtime.test_node import active, directive, lease
from tests.gateways.test_dispatch import offer

pytestmark = pytest.mark.django_db


@pytest.fixture(params=[False, True], ids=["one call", "steps"])
def done(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """Every task of the kind `test` that is worked on; it answers with its payload."""
    seen: list[Mapping[str, Any]] = []

    def act(_frame: TaskFrame, payload: Mapping[str, Any]) -> dict[str, Any]:
        seen.append(payload)
        return {"text": "x" * payload.get("size", 1)}

    monkeypatch.setattr(work, "EXECUTORS", {"test": Executor(act, steps=request.param)})
    return seen


def task(epoch: int = 1, claim_seconds: float = 60, **payload: Any) -> OfferedTask:
    return OfferedTask(
        id=str(uuid.uuid4()), kind="test", payload=payload, epoch=epoch, claim=str(uuid.uuid4()), claim_seconds=claim_seconds,
        attempt=1,
    )  # fmt: skip


def do(node: Node, offered: OfferedTask, age: float = 0.0) -> Effect:
    work.do_task(node, None, offered, boottime() - age)
    return Effect.objects.get(claim=offered.claim)


Done = list[Mapping[str, Any]]


def test_a_task_of_this_epoch_is_done(done: Done) -> None:
    effect = do(active(), task(text="a"))
    assert (effect.outcome, len(done)) == ("succeeded", 1)


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_task_of_another_epoch_is_refused_and_not_touched(done: Done, epoch: int) -> None:
    effect = do(active(epoch=2), task(epoch=epoch))
    assert (effect.outcome, done) == ("refused", []) and f"belongs to epoch {epoch}" in effect.detail


def test_a_task_without_a_lease_is_refused_and_not_touched(done: Done) -> None:
    node = active()
    node.drop_lease("for the test")
    assert (do(node, task()).outcome, done) == ("refused", [])


@pytest.mark.parametrize(("age", "outcome"), [(59, "succeeded"), (60, "refused"), (3600, "refused")])
def test_a_claim_that_ran_out_before_its_task_was_begun_is_not_used(done: Done, age: float, outcome: str) -> None:
    assert do(active(), task(claim_seconds=60), age).outcome == outcome
    assert len(done) == (outcome == "succeeded")


def test_a_claim_is_used_once(done: Done) -> None:
    node, offered = active(), task()
    do(node, offered), do(node, offered)
    assert len(done) == 1


def test_a_result_that_is_too_long_to_be_told_is_a_failure_that_no_retry_heals(done: Done) -> None:
    effect = do(active(), task(size=LARGEST_RESULT))
    assert (effect.outcome, effect.retry, effect.result) == ("failed", False, {}) and "at most" in effect.detail


class TestClaims:
    @pytest.fixture
    def node(self, npr: tuple[FakeGateway, FakeGateway]) -> Node:
        node = active(npr[0].epoch)
        lease(node, ttl=60)
        return node

    def test_no_task_is_claimed_before_it_can_be_begun(
        self, node: Node, npr: tuple[FakeGateway, FakeGateway], admin: Person
    ) -> None:
        for _ in range(3):
            offer(admin, targets=["database"])
        channel, states = RealPrimary(npr[0]), []
        while work.claim_and_do(node, channel):
            states.append(Task.objects.filter(state="claimed").count())
        assert states == [1, 2, 3], "each one was done before the next was claimed"
        assert Effect.objects.filter(outcome="succeeded").count() == 3

    def test_a_claim_is_as_old_as_the_question_for_it(
        self, node: Node, npr: tuple[FakeGateway, FakeGateway], admin: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        offer(admin)
        node.obey(directive(epoch=npr[0].epoch))
        primary = RealPrimary(npr[0])

        class Slow:
            """A machine that sleeps while the answer is on its way, and wakes with a lease (its clocks agree)."""

            def call(self, *args: Any, **more: Any) -> Any:
                answer = primary.call(*args, **more)
                later = boottime() + 3600
                for module in (nodes, work):
                    monkeypatch.setattr(module, "boottime", lambda: later)
                node.take_lease(epoch=npr[0].epoch, ttl=60, sent_boot=later, sent_wall=nodes.time.time())
                return answer

        assert work.claim_and_do(node, Slow())
        assert Effect.objects.get().outcome == "refused"
