"""What a gateway allows itself: lease, fence, running effects, over crashes and overtaking answers (DESIGN §7, §8, I1, I4)."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from common.clock import boottime
from gateway_runtime import node as nodes
from gateway_runtime import work
from gateway_runtime.models import NodeState
from gateway_runtime.node import MayNotAct, Node
from protocol.messages import Directive, FenceOrder
from protocol.timing import SHORT
from protocol.vocabulary import Assignment

pytestmark = pytest.mark.django_db
ONE, TWO = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))


def directive(role: Assignment = Assignment.ACTIVE, epoch: int = 1, **more: Any) -> Directive:
    return Directive(revision="r", assigned_role=role, epoch=epoch, poll_tasks=True, next_heartbeat_seconds=1, **more)


def active(epoch: int = 1) -> Node:
    """A node that holds the lease of this epoch."""
    node = Node(SHORT)
    node.obey(directive(epoch=epoch))
    assert lease(node, epoch)
    return node


def lease(node: Node, epoch: int = 1, *, age: float = 0.0, ttl: float = SHORT.lease_ttl) -> bool:
    return node.take_lease(epoch=epoch, ttl=ttl, sent_boot=boottime() - age, sent_wall=time.time() - age)


def order(operation: str = ONE, epoch: int = 1, number: int = 1, **more: Any) -> FenceOrder:
    return FenceOrder(operation=operation, epoch=epoch, number=number, **more)


def may_act(node: Node) -> bool:
    try:
        with node.effect():
            return True
    except MayNotAct:
        return False


def crashed() -> Node:
    """A new process of the same gateway: memory is gone, the database is not."""
    return Node(SHORT)


def test_without_a_lease_nothing_may_be_done() -> None:
    node = Node(SHORT)
    node.obey(directive())
    assert not may_act(node)
    lease(node)
    assert may_act(node)


def test_a_lease_counts_from_the_moment_its_request_was_sent() -> None:
    node = Node(SHORT)
    node.obey(directive())
    lease(node, age=SHORT.lease_ttl - SHORT.effect_deadline + 0.1)
    assert node.lease_seconds_left() > 0 and not may_act(node)


def test_a_new_process_has_no_lease() -> None:
    active()
    assert crashed().lease_seconds_left() == 0


def test_a_directive_of_a_lower_epoch_is_refused_also_after_a_crash() -> None:
    active(epoch=5)
    node = crashed()
    assert not node.obey(directive(epoch=4))
    assert node.obey(directive(epoch=5))


def test_a_directive_that_comes_late_opens_nothing_again() -> None:
    node = Node(SHORT)
    node.obey(directive(Assignment.ACTIVE, number=3, primary_generation="g"))
    node.obey(directive(Assignment.DRAINING, number=5, primary_generation="g"))
    assert not node.obey(directive(Assignment.ACTIVE, number=4, primary_generation="g"))
    assert NodeState.objects.get().assigned_role == Assignment.DRAINING.value
    assert node.obey(directive(Assignment.ACTIVE, number=5, primary_generation="g")), "the same moment, read twice"
    assert node.obey(directive(Assignment.ACTIVE, number=2, primary_generation="of a restored database"))
    assert node.obey(directive(Assignment.ACTIVE, epoch=2, number=1, primary_generation="of a restored database"))


def test_losing_the_role_ends_the_lease_at_once() -> None:
    node = active()
    node.obey(directive(Assignment.STANDBY))
    assert not may_act(node)


def test_a_fence_discards_grants_of_its_epoch_also_after_a_crash_and_a_higher_epoch_lifts_it() -> None:
    node = active()
    assert node.fence(order(), 1)
    for process in (node, crashed()):
        assert not lease(process) and not process.wants_lease() and not may_act(process)
    node = crashed()
    node.obey(directive(epoch=2))
    assert lease(node, 2) and may_act(node)


def test_the_fence_is_committed_before_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    node = active()
    with node.effect():
        assert not node.fence(order(), 0.05)
        assert NodeState.objects.get().fenced_epoch == 1


def test_a_fence_waits_for_running_effects() -> None:
    node = active()
    began, done = threading.Event(), threading.Event()

    def effect() -> None:
        with node.effect():
            began.set()
            done.wait(5)

    thread = threading.Thread(target=effect)
    thread.start()
    began.wait(5)
    assert not node.fence(order(), 0.1)
    done.set()
    assert node.fence(order(), 5)
    thread.join()


def _fence(node: Node) -> bool:
    return node.fence(order(), 0.05)


def _give_back(node: Node) -> bool:
    return node.stop_acting(0.05)[1]


def at(monkeypatch: pytest.MonkeyPatch, boot: float) -> None:
    monkeypatch.setattr(nodes, "boottime", lambda: boot)


@pytest.mark.parametrize("give_up", [_fence, _give_back])
@pytest.mark.parametrize("restarts", [1, 2, 3])
def test_after_a_process_that_did_not_end_in_order_nothing_is_given_up_before_its_lease_would_have_ended(
    restarts: int, give_up: Callable[[Node], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    active()
    for _ in range(restarts):
        began, node = boottime(), crashed()
        work.close_interrupted()
    node.obey(directive())
    lease(node)
    assert node.running_effects() == 1
    assert not give_up(node)
    at(monkeypatch, began + SHORT.lease_ttl + SHORT.drift - 0.01)
    assert not give_up(node)
    at(monkeypatch, boottime() + SHORT.lease_ttl + SHORT.drift)
    assert give_up(node)


def test_a_call_without_an_answer_is_remembered_over_a_crash() -> None:
    active().mind_unseen_end(boottime())
    assert not _fence(crashed())


@pytest.mark.parametrize("give_up", [_fence, _give_back])
def test_a_call_that_failed_without_an_answer_counts_as_running_until_its_deadline(
    give_up: Callable[[Node], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = active()
    node.mind_unseen_end(boottime())
    assert not give_up(node)
    at(monkeypatch, boottime() + SHORT.effect_deadline + 0.1)
    assert give_up(node)


def test_a_start_after_an_end_in_order_waits_for_nothing() -> None:
    node = active()
    assert node.stop_acting(0)[1]
    node.end()
    assert crashed().fence(order(), 0.0)


def test_the_first_process_of_a_database_waits_for_nothing() -> None:
    assert active().fence(order(), 0.0)


def test_a_process_whose_place_was_taken_ends_nothing_in_order() -> None:
    old, new = active(), crashed()
    old.end()
    assert NodeState.objects.get().process is not None
    assert not _fence(crashed())
    new.end()
    assert not _fence(crashed())


def test_a_cancel_lifts_the_fence_in_the_same_epoch() -> None:
    node = active()
    node.fence(order(), 1)
    node.lift_fence(order(cancelled=True))
    assert node.wants_lease() and lease(node) and may_act(node)
    assert crashed().wants_lease() is False, "no directive yet"


def test_a_cancel_covers_earlier_orders_whose_cancel_was_never_heard() -> None:
    active().fence(order(ONE, number=1), 1)
    node = crashed()
    node.obey(directive())
    node.lift_fence(order(TWO, number=2, cancelled=True))
    assert node.wants_lease()


def test_a_late_cancel_lifts_no_later_fence() -> None:
    node = active()
    node.fence(order(TWO, number=2), 1)
    node.lift_fence(order(ONE, number=1, cancelled=True))
    assert not node.wants_lease()


def test_an_order_that_was_overtaken_by_a_later_one_is_outdated() -> None:
    node = active()
    node.fence(order(TWO, number=2), 1)
    assert node.is_outdated(order(ONE, number=1))
    assert not node.is_outdated(order(TWO, number=2))
    assert not node.is_outdated(order(ONE, epoch=2, number=3))


def test_a_stopping_node_takes_no_lease_and_does_nothing() -> None:
    node = active()
    assert node.stop_acting(1) == (1, True)
    assert not lease(node) and not may_act(node) and not node.wants_lease()


def test_a_wall_clock_that_ran_ahead_ends_the_lease() -> None:
    node = Node(SHORT)
    node.obey(directive())
    node.take_lease(epoch=1, ttl=SHORT.lease_ttl, sent_boot=boottime(), sent_wall=time.time() - 1.5)
    assert not may_act(node) and node.lease_seconds_left() == 0


def test_standing_says_what_others_are_told() -> None:
    node = active()
    assert (node.standing().role, node.standing().serving) == (Assignment.ACTIVE, True)
    node.drop_lease("for the test")
    assert (node.standing().role, node.standing().serving) == (Assignment.STANDBY, False)
    node.fence(order(), 1)
    assert node.standing().role is Assignment.FENCED
