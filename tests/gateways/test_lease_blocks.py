"""A block of leases ends in real time, however far the database's clock was put back (I1, ADR 6)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings
from django.db.models.functions import Now

from common.clock import boottime, database_now
from common.models import AuditEntry
from failover.witness import ClockWitness
from gateways import generation, lease_blocks, routes
from gateways.models import PrimaryNode, Route
from orchestrator import loops
from tests.conftest import Person
from tests.failover.test_api import state_of
from tests.fakes.gateway import FakeGateway

Pair = tuple[FakeGateway, FakeGateway]


class Clock:
    """This process's boot clock, moved by a test."""

    def __init__(self) -> None:
        self.seconds = boottime()

    def __call__(self) -> float:
        return self.seconds

    def go_on(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(lease_blocks, "boottime", made)
    monkeypatch.setattr(lease_blocks, "witness", lease_blocks.BlockWitness())
    yield made


@pytest.fixture
def blocked(npr: Pair) -> Pair:
    """A block was asked for, and then the database's clock was put back by a day."""
    routes.block_lease(routes_of_npr(), database_now() + timedelta(days=1))
    Route.objects.filter(pk="NPR").update(lease_until=Now() - timedelta(hours=1))
    return npr


def routes_of_npr() -> Route:
    return Route.objects.get(pk="NPR")


def test_it_lasts_until_an_unknown_lease_must_have_ended_and_no_longer(blocked: Pair, clock: Clock) -> None:
    first, longest = blocked[0], lease_blocks.longest().total_seconds()
    assert lease_blocks.end_overdue() == 0 and first.renew_lease().verdict == "held"
    clock.go_on(longest - 0.1)
    assert lease_blocks.end_overdue() == 0 and first.renew_lease().verdict == "held"
    clock.go_on(0.2)
    assert lease_blocks.end_overdue() == 1 and first.renew_lease().verdict == "granted"
    assert AuditEntry.objects.filter(action="failover.block_ended", entity_id="NPR").count() == 1
    assert lease_blocks.end_overdue() == 0


def test_its_end_is_shown_by_the_longest_times_of_all_nodes(blocked: Pair) -> None:
    moment = database_now()
    ends, longest = moment + timedelta(days=1), lease_blocks.longest()
    assert lease_blocks.shown_until(ends, moment) == moment + longest
    PrimaryNode.objects.filter(id=1).update(longest_block_seconds=longest.total_seconds() + 30)
    assert lease_blocks.shown_until(ends, moment) == moment + lease_blocks.longest_ever() > moment + longest
    assert lease_blocks.shown_until(moment + longest, moment) == moment + longest
    assert lease_blocks.shown_until(None, moment) is None


def test_a_node_with_shorter_times_does_not_cut_it_short(blocked: Pair, clock: Clock) -> None:
    longest = lease_blocks.longest().total_seconds()
    PrimaryNode.objects.filter(id=1).update(longest_block_seconds=longest + 30)
    generation.keep_watch()
    assert PrimaryNode.objects.get(id=1).longest_block_seconds == longest + 30, "that of a node with longer times stays"
    lease_blocks.end_overdue()
    clock.go_on(longest + 29)
    assert lease_blocks.end_overdue() == 0 and blocked[0].renew_lease().verdict == "held"
    clock.go_on(5)
    assert lease_blocks.end_overdue() == 1


def test_nodes_tell_each_other_their_longest_times_and_forget_those_of_nodes_that_are_gone(npr: Pair) -> None:
    PrimaryNode.objects.filter(id=1).update(longest_block_seconds=0, longest_lease_seconds=0, longest_fence_wait_seconds=0)
    generation.keep_watch()
    own = PrimaryNode.objects.get(id=1)
    timing = settings.MAZEVAULT.timing
    assert own.longest_block_seconds == generation.longest_block_seconds()
    assert (own.longest_lease_seconds, own.longest_fence_wait_seconds) == (
        timing.lease_ttl + timing.fence_wait, timing.fence_wait,
    )  # fmt: skip
    PrimaryNode.objects.filter(id=1).update(longest_lease_seconds=500, longest_fence_wait_seconds=9)
    generation.keep_times()
    assert generation.longest_times() == (timedelta(seconds=500), timedelta(seconds=9))
    PrimaryNode.objects.filter(id=1).update(longest_seen_at=Now() - timedelta(seconds=generation.KEPT_SECONDS + 1))
    generation.keep_times()
    assert generation.longest_times() == (
        timedelta(seconds=timing.lease_ttl + timing.fence_wait), timedelta(seconds=timing.fence_wait),
    )  # fmt: skip


def test_a_renewal_with_shorter_times_makes_no_promised_lease_shorter(npr: Pair) -> None:
    first = npr[0]
    PrimaryNode.objects.filter(id=1).update(longest_lease_seconds=400)
    promised = database_now() + timedelta(seconds=300)
    Route.objects.filter(pk="NPR").update(lease_until=promised)
    assert first.renew_lease().verdict == "granted" and routes_of_npr().lease_until == promised
    Route.objects.filter(pk="NPR").update(lease_until=database_now() + timedelta(days=1))
    assert first.renew_lease().verdict == "granted"
    left = routes_of_npr().lease_until - database_now()
    assert left < timedelta(seconds=401), "no end is later than any lease can be"


def test_one_that_was_asked_for_again_lasts_anew_though_its_end_is_the_same(blocked: Pair, clock: Clock) -> None:
    first, longest = blocked[0], lease_blocks.longest().total_seconds()
    lease_blocks.end_overdue()
    clock.go_on(longest - 1)
    lease_blocks.end_overdue()
    for ask in (
        lambda: routes.block_lease(routes_of_npr(), database_now()),
        lambda: routes.block_all_leases(database_now()),
        lambda: routes.block_lease_after_rebirth(first.row),
    ):
        before = routes_of_npr().lease_blocked_until
        ask()
        assert routes_of_npr().lease_blocked_until == before
        lease_blocks.end_overdue()
        clock.go_on(longest - 1)
        assert lease_blocks.end_overdue() == 0
    clock.go_on(2)
    assert lease_blocks.end_overdue() == 1


def test_a_wait_of_a_move_begins_anew_with_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen, operation, end = Clock(), ClockWitness(), uuid.uuid4(), datetime(2026, 1, 1, tzinfo=UTC)
    monkeypatch.setattr("failover.witness.boottime", clock)
    longest = timedelta(seconds=60)
    assert not seen.has_waited(operation, end, longest, 1)
    clock.go_on(61)
    assert not seen.has_waited(operation, end, longest, 2), "another block with the same end"
    assert seen.has_waited(operation, end, longest, 1)
    clock.go_on(61)
    assert seen.has_waited(operation, end, longest, 2)


def test_people_are_told_how_long_it_lasts_at_most_in_real_time(blocked: Pair, admin: Person) -> None:
    longest = lease_blocks.longest().total_seconds()
    told = state_of(admin)["headline"]
    assert f"nobody may act for {longest:.0f} s more at most" in told, told


def test_every_primary_watches(db: None) -> None:
    assert lease_blocks.end_overdue in [use_case for _, use_case, _ in loops.LOOPS]


def test_one_that_ends_by_itself_is_left_alone(npr: Pair, clock: Clock) -> None:
    routes.block_lease(routes_of_npr(), database_now() - timedelta(seconds=1))
    clock.go_on(1000)
    assert lease_blocks.end_overdue() == 0 and routes_of_npr().lease_blocked_until is not None
