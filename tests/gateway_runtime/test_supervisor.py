"""What a gateway tells its Primary: fences, leases and heartbeats, and when it must keep silent (DESIGN §7, §8, I2)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from django.db import DatabaseError

from common.clock import boottime
from gateway_runtime import node as nodes
from gateway_runtime import state, work
from gateway_runtime.client import CallsPaused, PrimaryUnreachable
from gateway_runtime.models import Effect, NodeState
from gateway_runtime.node import Node
from gateway_runtime.state import OneProcess
from gateway_runtime.supervisor import Supervisor
from protocol import paths
from protocol.messages import Acknowledged, LeaseAnswer
from protocol.timing import SHORT
from protocol.vocabulary import Assignment, LeaseVerdict
from tests.gateway_runtime.conftest import Site, take_lock
from tests.gateway_runtime.test_node import directive, lease, may_act, order

pytestmark = pytest.mark.django_db
QUICK = replace(SHORT, effect_deadline=0.2)


@dataclass
class Primary:
    """Grants leases, takes acknowledgements, remembers what was said."""

    said: list[str] = field(default_factory=list)
    verdict: LeaseVerdict = LeaseVerdict.GRANTED
    ttl: float = SHORT.lease_ttl
    epoch: int = 1

    def call(self, path: str, _message: Any, kind: Any, *, timeout: float) -> Any:
        self.said.append(path)
        if kind is LeaseAnswer:
            return LeaseAnswer(verdict=self.verdict, epoch=self.epoch, ttl_seconds=self.ttl)
        return Acknowledged()


class Process(Supervisor):
    """A process of the gateway, up to the point where its loops would begin."""

    def __init__(self) -> None:
        super().__init__()
        self.timing = QUICK
        self.primary = Primary()
        self.channel = self.primary  # type: ignore[assignment]

    def begin(self) -> Process:
        take_lock(self.one_process)
        self.node = Node(self.timing)
        work.close_interrupted()
        return self

    def serve(self) -> Process:
        self._obey(directive())
        self.lease_step()
        assert may_act(self.node)
        return self

    def told(self, path: str) -> int:
        return self.primary.said.count(path)

    def fence(self, **more: Any) -> None:
        self._obey(directive(fence=order(**more)))

    def lose_lock(self) -> None:
        """The session ends, and this process does not know yet."""
        assert self.one_process._connection is not None
        self.one_process._connection.close()


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process().begin()
    yield made
    made.one_process.give_up()


@pytest.fixture
def other() -> Iterator[Process]:
    """One that has not begun yet."""
    made = Process()
    yield made
    made.one_process.give_up()


class TestSignOfLife:
    def test_is_given_once_for_each_number(self, process: Process) -> None:
        for number in (0, 3, 3, 4):
            process._obey(directive(sign=number))
        assert process.told(paths.SIGN_OF_LIFE) == 2

    def test_that_did_not_arrive_is_given_again(self, process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
        def lost(*_args: Any, **_more: Any) -> Any:
            raise PrimaryUnreachable("cut")

        with monkeypatch.context() as cut:
            cut.setattr(process.primary, "call", lost)
            with pytest.raises(PrimaryUnreachable):
                process._obey(directive(sign=3))
        process._obey(directive(sign=3))
        assert process.told(paths.SIGN_OF_LIFE) == 1

    def test_is_not_given_to_a_primary_whose_database_is_older_than_what_was_seen(self, process: Process) -> None:
        process._obey(directive(epoch=5))
        process._obey(directive(epoch=4, sign=3))
        assert process.told(paths.SIGN_OF_LIFE) == 0


class TestFence:
    def test_is_confirmed_once_when_nothing_runs(self, process: Process) -> None:
        process.serve().fence()
        process.fence()
        assert process.told(paths.FENCE_ACKNOWLEDGE) == 1 and process._settled == "r"
        assert not may_act(process.node)

    def test_is_not_confirmed_while_an_effect_runs(self, process: Process) -> None:
        process.serve()
        with process.node.effect():
            process.fence()
            assert process.told(paths.FENCE_ACKNOWLEDGE) == 0 and process._settled == ""
            assert NodeState.objects.get().fenced_epoch == 1
        process.fence()
        assert process.told(paths.FENCE_ACKNOWLEDGE) == 1

    def test_is_not_confirmed_while_a_call_without_an_answer_may_land(self, process: Process) -> None:
        process.serve().node.mind_unseen_end(boottime() + 0.5)
        process.fence()
        assert process.told(paths.FENCE_ACKNOWLEDGE) == 0

    def test_is_not_confirmed_after_a_crash_before_the_lost_lease_has_ended(
        self, process: Process, other: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        process.serve().one_process.give_up()
        Effect.objects.create(
            task=uuid.uuid4(), claim=uuid.uuid4(), kind="x", epoch=1, started_at="2026-01-01T00:00Z", started_boot=boottime()
        )
        other.begin().one_process.give_up()
        other.begin().fence()
        assert other.told(paths.FENCE_ACKNOWLEDGE) == 0
        later = boottime() + QUICK.lease_ttl + QUICK.drift
        monkeypatch.setattr(nodes, "boottime", lambda: later)
        other.fence()
        assert other.told(paths.FENCE_ACKNOWLEDGE) == 1 and not may_act(process.node), "by then the old lease is over"

    def test_is_not_confirmed_by_a_process_whose_lock_another_one_has(self, process: Process, other: Process) -> None:
        process.serve().lose_lock()
        other.begin().serve()
        process.fence()
        assert process.told(paths.FENCE_ACKNOWLEDGE) == 0 and may_act(other.node)


class TestLock:
    def test_who_lost_it_to_another_process_loses_its_lease_with_the_next_step(self, process: Process, other: Process) -> None:
        process.serve().lose_lock()
        other.begin()
        renewals = process.told(paths.LEASE_RENEW)
        process.lease_step()
        assert not may_act(process.node) and process.told(paths.LEASE_RENEW) == renewals

    def test_that_was_refused_is_not_held(self, process: Process, other: Process) -> None:
        assert not other.one_process.take() and not other.one_process.still_held()

    def test_who_lost_it_knows_at_the_second_look_as_well(self, process: Process, other: Process) -> None:
        process.serve().lose_lock()
        other.begin()
        before = list(process.primary.said)
        for _ in range(3):
            assert (process.lease_step(), process.directive_step(), process.heartbeat_step()) == (1.0, 1.0, 1.0)
        assert not may_act(process.node) and process.primary.said == before

    def test_a_grant_that_comes_after_the_loss_is_not_used(
        self, process: Process, other: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        process._obey(directive())
        answer = process.primary.call

        def slow(*args: Any, **more: Any) -> Any:
            process.lose_lock()
            other.begin()
            return answer(*args, **more)

        monkeypatch.setattr(process.primary, "call", slow)
        process.lease_step()
        assert not may_act(process.node)

    def test_who_takes_it_again_goes_on(self, process: Process) -> None:
        process.serve().lose_lock()
        process.lease_step()
        assert may_act(process.node)
        process.fence()
        assert process.told(paths.FENCE_ACKNOWLEDGE) == 1, "nobody else was there"

    def test_who_takes_it_again_keeps_the_promises_of_the_one_in_between(self, process: Process, other: Process) -> None:
        process.serve().lose_lock()
        other.begin().node.fence(order(), 0)
        other.one_process.give_up()
        process.lease_step()
        assert not may_act(process.node) and not lease(process.node)
        assert process.node.running_effects() == 1, "and the one in between may live on"

    def test_a_promise_outlives_a_database_that_goes_back_under_the_process(self, process: Process) -> None:
        before = dict(NodeState.objects.values().get())
        process.serve().fence()
        NodeState.objects.update(**{name: value for name, value in before.items() if name != "id"})
        process.lose_lock()
        process.lease_step()
        assert process.node.standing().fenced is not None and NodeState.objects.get().fenced_epoch == 1
        assert process._settled == "" and process.wake_heartbeat.is_set()

    def test_an_epoch_outlives_it_and_nothing_is_accepted_before_the_next_directive(self, process: Process) -> None:
        process.primary.epoch = 5
        process._obey(directive(epoch=5))
        NodeState.objects.update(highest_epoch=3, assigned_epoch=3, assigned_role="active")
        process.lose_lock()
        process.lease_step()
        row = NodeState.objects.get()
        assert (row.highest_epoch, state.standing_of(row)) == (5, Assignment.STANDBY) and not may_act(process.node)
        assert not process.node.obey(directive(epoch=4))
        process._obey(directive(epoch=5))
        process.lease_step()
        assert may_act(process.node) and state.standing_of(NodeState.objects.get()) is Assignment.ACTIVE

    def test_without_a_look_at_what_is_committed_it_is_not_kept(
        self, process: Process, other: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        process.serve().lose_lock()

        def away(_process: uuid.UUID) -> bool:
            raise DatabaseError

        monkeypatch.setattr(state, "begin_process", away)
        with pytest.raises(DatabaseError):
            process.lease_step()
        monkeypatch.undo()
        assert not may_act(process.node)
        take_lock(other.one_process)

    def test_no_lease_is_held_longer_than_the_next_process_would_wait(self, process: Process) -> None:
        process.primary.ttl = 3600
        process.serve()
        assert process.node.lease_seconds_left() <= QUICK.lease_ttl


class TestStop:
    def test_gives_the_lease_back_and_the_next_process_waits_for_nothing(self, process: Process, other: Process) -> None:
        process.serve().shut_down()
        assert process.told(paths.LEASE_RELEASE) == 1
        process.one_process.give_up()
        other.begin().fence()
        assert other.told(paths.FENCE_ACKNOWLEDGE) == 1

    def test_what_is_heard_after_goodbye_is_not_what_the_next_process_goes_by(self, process: Process) -> None:
        """The Primary answers the call that waits at once: this instance is nobody's any more. With the Primary away that would
        keep the next process from taking changes."""
        process.serve().shut_down()
        process._obey(directive(Assignment.DRAINING, waits="another instance may still act"))
        assert state.standing_of(state.this_life()) is Assignment.ACTIVE

    def test_gives_nothing_back_while_an_effect_runs(self, process: Process, other: Process) -> None:
        process.serve()
        with process.node.effect():
            process.shut_down()
        assert process.told(paths.LEASE_RELEASE) == 0
        process.one_process.give_up()
        other.begin().fence()
        assert other.told(paths.FENCE_ACKNOWLEDGE) == 0

    def test_gives_nothing_back_that_another_process_uses(self, process: Process, other: Process) -> None:
        process.serve().lose_lock()
        other.begin().serve()
        process.shut_down()
        assert process.told(paths.LEASE_RELEASE) == 0 and NodeState.objects.get().process is not None

    def test_without_its_database_it_ends_too(self, process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(_process: uuid.UUID) -> None:
            raise DatabaseError

        monkeypatch.setattr(state, "end_process", away)
        process.serve().shut_down()
        assert process.told(paths.LEASE_RELEASE) == 1


def test_a_process_waits_until_the_other_one_has_ended(process: Process, other: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        process.one_process.give_up()
        return False

    monkeypatch.setattr(other.stop, "wait", wait)
    other._become_the_only_process()
    assert set(waits) == {1} and other.one_process.still_held()
    assert isinstance(other.one_process, OneProcess)


@pytest.mark.parametrize(("failure", "count"), [(PrimaryUnreachable("away"), 1), (CallsPaused("paused"), 0)], ids=str)
def test_a_heartbeat_counts_as_failed_once_an_interval_and_only_when_it_was_sent(
    site: Site, monkeypatch: pytest.MonkeyPatch, failure: Exception, count: int
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(site.primary, "call", fail)
    monkeypatch.setattr(site.supervisor, "_report", lambda: None)
    for _ in range(5):
        with pytest.raises(type(failure)):
            site.supervisor.heartbeat_step()
    assert site.supervisor.node.heartbeats.count == count
