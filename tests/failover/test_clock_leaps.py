"""The database's clock leaps while a lease lives: nobody is promoted before it has ended, whichever process looks (I1)."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db.models.functions import Now

from common import clock
from failover import driver, witness
from failover.machine import Sign, State
from failover.operations import Asked, Wish, request
from failover.transitions import state_of
from failover.witness import MOST_WAITS, ClockWitness
from gateways.models import PrimaryNode, Route
from tests.conftest import Person

AT = datetime(2030, 1, 1, tzinfo=UTC)
ONE = uuid.UUID(int=1)


class Clocks:
    """The database's clock and the boot clock of every process of this test, each set apart from the real ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = self.own = 0.0
        boot, database_now = clock.boottime, driver.database_now
        for module in (driver, witness):
            monkeypatch.setattr(module, "boottime", lambda: boot() + self.own)
        monkeypatch.setattr(driver, "database_now", lambda: database_now() + timedelta(seconds=self.database))
        monkeypatch.setattr(driver, "now", lambda: database_now() + timedelta(seconds=self.database))
        monkeypatch.setattr(driver, "sign_of_target", lambda *_: Sign.FRESH)  # the target answers as ever

    def pass_by(self, seconds: float) -> None:
        self.database += seconds
        self.own += seconds


@pytest.fixture
def clocks(npr: Any, monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """The active gateway has just renewed, and goes silent; its environment is to move."""
    made = Clocks(monkeypatch)
    npr[0].renew_lease()
    driver.drive_all()
    request("NPR", "activate-dr", Wish(waive=("source_queue",)), Asked("user:admin", ""))
    driver.drive_all()
    assert state() is State.FENCING
    return made


def state() -> State:
    driver.drive_all()
    return State(state_of("NPR").state)


def longest() -> float:
    return settings.MAZEVAULT.timing.lease_ttl + settings.MAZEVAULT.timing.fence_wait


def test_without_a_leap_the_stored_end_counts(clocks: Clocks) -> None:
    clocks.pass_by(longest() - 5)
    assert state() is State.FENCING
    clocks.pass_by(6)
    assert state() is State.DR_ACTIVE


def test_a_leap_that_this_process_saw_costs_a_whole_lease_from_there(clocks: Clocks) -> None:
    clocks.database += 3600
    assert state() is State.FENCING
    clocks.pass_by(longest() - 1)
    assert state() is State.FENCING
    clocks.pass_by(2)
    assert state() is State.DR_ACTIVE


def test_a_process_that_looks_first_after_the_leap_waits_for_a_whole_lease(
    clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Celery child, a process that serves people, a restarted one: it cannot know whether the clock leapt."""
    clocks.database += longest() + 1
    monkeypatch.setattr(driver, "witness", ClockWitness())
    assert state() is State.FENCING
    clocks.pass_by(longest() - 1)
    assert state() is State.FENCING
    clocks.pass_by(2)
    assert state() is State.DR_ACTIVE


def test_a_leap_between_the_last_renewal_and_the_order_to_stop_is_seen_by_who_watched(
    npr: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Clocks(monkeypatch)
    npr[0].renew_lease()
    driver.drive_all()
    made.database += longest() + 1
    Route.objects.filter(pk="NPR").update(lease_until=Now() + timedelta(seconds=settings.MAZEVAULT.timing.lease_ttl))
    request("NPR", "activate-dr", Wish(waive=("source_queue",)), Asked("user:admin", ""))
    assert state() is State.FENCING


def test_a_clock_that_was_put_back_costs_no_more_than_a_whole_lease(clocks: Clocks) -> None:
    clocks.database -= 3600
    assert state() is State.FENCING
    clocks.pass_by(longest() + 1)
    assert state() is State.DR_ACTIVE


def test_a_node_with_shorter_times_waits_for_what_one_with_longer_times_gave(
    clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease was given for longer than this process would give one: it was restarted with other times (I1)."""
    PrimaryNode.objects.update_or_create(
        id=1, defaults={"longest_lease_seconds": longest() + 40, "longest_fence_wait_seconds": 30, "timeline": 1}
    )
    Route.objects.filter(pk="NPR").update(lease_until=Now() + timedelta(seconds=longest() + 20))
    monkeypatch.setattr(driver, "witness", ClockWitness())
    assert state() is State.FENCING
    clocks.pass_by(longest() + 39)
    assert state() is State.FENCING, "its own longest lease is over, that of the other node is not"
    clocks.pass_by(2)
    assert state() is State.DR_ACTIVE


def test_a_confirmed_fence_needs_no_clock(clocks: Clocks, npr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "witness", ClockWitness())
    order = npr[0].told_to_fence()
    npr[0].acknowledge_fence(order.operation, order.epoch)
    assert state() is State.DR_ACTIVE


class TestWitness:
    def at(self, monkeypatch: pytest.MonkeyPatch, own: float) -> None:
        monkeypatch.setattr(witness, "boottime", lambda: own)

    def test_a_slow_answer_of_the_database_is_no_leap(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = ClockWitness()
        self.at(monkeypatch, 100.0)
        assert made.look(AT)
        self.at(monkeypatch, 130.0)  # asked at 110, answered then, and this process was woken at 130
        assert made.look(AT + timedelta(seconds=10), asked=110.0)
        assert not made.look(AT + timedelta(seconds=10), asked=129.0)

    def test_it_knows_since_when_it_watches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = ClockWitness()
        self.at(monkeypatch, 100.0)
        assert not made.has_watched_since(AT, AT)
        made.look(AT)
        self.at(monkeypatch, 160.0)
        later = AT + timedelta(seconds=60)
        assert made.look(later) and made.has_watched_since(AT, later)
        assert not made.has_watched_since(AT - timedelta(seconds=1), later)
        assert not made.look(later + timedelta(seconds=2)) and not made.has_watched_since(AT, later + timedelta(seconds=2))

    def test_it_remembers_a_bounded_number_of_waits_and_forgets_what_ended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made, second = ClockWitness(), timedelta(seconds=1)
        self.at(monkeypatch, 100.0)
        for number in range(MOST_WAITS + 1):
            assert not made.has_waited(uuid.UUID(int=number + 1), None, second)
        self.at(monkeypatch, 102.0)
        assert not made.has_waited(ONE, None, second), "the oldest was forgotten, so it waits anew"
        last = uuid.UUID(int=MOST_WAITS + 1)
        assert made.has_waited(last, None, second) and not made.has_waited(last, AT, second)
        made.forget(last)
        assert not made.has_waited(last, None, second)


def test_the_state_shown_to_people_goes_on_meanwhile(clocks: Clocks, admin: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "witness", ClockWitness())
    assert state() is State.FENCING
    status, body = admin.get("admin/failover/NPR")
    assert (status, body["state"]) == (200, "FENCING") and body["operation"]["kind"] == "activate-dr"
