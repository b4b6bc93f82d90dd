"""How an environment stands in one sentence: never "all well" while nobody may act."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from failover.machine import State
from failover.standing import StandingFacts, standing_of
from gateways.acting import Acting, ActingFacts, watched_from

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
WELL = ActingFacts(
    environment="NPR", now=NOW, active="gw-npr-primary", on_dr=False, lease_until=NOW + timedelta(seconds=30),
    switched_at=NOW - timedelta(days=1), started_at=NOW - timedelta(hours=1), watched_since=NOW - timedelta(hours=1),
)  # fmt: skip
MOVE = "POST admin/failover/NPR/plan and then POST admin/failover/NPR/activate-dr"
OF_ENVIRONMENT = frozenset({"state", "hold_reason", "under_way", "waits_for"})


def at(**other: Any) -> Acting:
    of_environment = {name: value for name, value in other.items() if name in OF_ENVIRONMENT}
    acting = replace(WELL, **{name: value for name, value in other.items() if name not in OF_ENVIRONMENT})
    return standing_of(StandingFacts(**{"environment": "NPR", "state": State.PRIMARY_ACTIVE, "acting": acting, **of_environment}))


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def test_well_on_either_side() -> None:
    assert at() == Acting(True, None, "NPR is on its primary gateway gw-npr-primary")
    assert at(active="gw-npr-dr", on_dr=True).headline == "NPR is on its DR gateway gw-npr-dr"


def test_a_lease_that_ended_is_told_at_once_with_its_age_and_the_way_out() -> None:
    found = at(lease_until=ago(30))
    assert (found.may_act, found.lease_ended_seconds) == (False, 30.0)
    assert found.headline == "NPR: nobody may act, the lease of gw-npr-primary ended 30 s ago"
    assert found.next_step == f"look at gw-npr-primary, or {MOVE}"
    assert "failback" in at(lease_until=ago(1), on_dr=True, active="gw-npr-dr").next_step
    assert at(lease_until=ago(0.1)).next_step == found.next_step


def test_a_gateway_that_was_stopped_in_order_is_to_be_started_again() -> None:
    found = at(lease_until=ago(4), stopped_at=ago(4), started_at=None)
    assert found.headline == "NPR: nobody may act, gw-npr-primary was stopped in order 4 s ago"
    assert found.next_step == f"start gw-npr-primary again, or {MOVE}"
    just = at(lease_until=ago(4), stopped_at=ago(4), started_at=None, watched_since=ago(1))
    assert just.headline == found.headline, "whoever said goodbye does not come back by itself"


@pytest.mark.parametrize(("name", "told"), [("switched_at", "become active"), ("started_at", "started")])
@pytest.mark.parametrize(("since", "trouble"), [(5, False), (11, True)])
def test_a_gateway_that_begins_may_take_a_moment_to_get_its_lease(name: str, told: str, since: float, trouble: bool) -> None:
    found = at(lease_until=None, **{name: ago(since)})
    assert found.may_act is False and found.headline.startswith("NPR: nobody may act")
    assert ("POST" in found.next_step) is trouble and (f"has just {told}" in found.headline) is not trouble


def test_a_gateway_that_waits_for_its_former_process_says_so_and_for_how_long() -> None:
    found = at(lease_until=ago(20), waits_until=NOW + timedelta(seconds=12))
    assert "gw-npr-primary has just started and waits for its lease" in found.headline and "12 s more" in found.headline
    assert found.next_step == "wait 12 s"
    assert "POST" in at(lease_until=ago(20), waits_until=ago(1)).next_step


@pytest.mark.parametrize(("since", "trouble"), [(1, False), (19, False), (21, True)])
def test_a_primary_that_was_away_waits_for_its_gateways_before_it_advises_a_move(since: float, trouble: bool) -> None:
    found = at(lease_until=ago(300), watched_since=ago(since))
    assert ("POST" in found.next_step) is trouble and ("the Primary was away" in found.headline) is not trouble


def test_a_primary_that_has_not_looked_for_a_while_was_away() -> None:
    assert watched_from(ago(9), ago(3600), NOW) == NOW
    assert watched_from(ago(3), ago(3600), NOW) == ago(3600)
    assert watched_from(None, None, NOW) is None


def test_a_block_after_a_restore_is_told_with_its_end() -> None:
    found = at(lease_until=ago(90), blocked_until=NOW + timedelta(seconds=12))
    assert found.headline.startswith("NPR: nobody may act for 12 s more")


def test_a_hold_names_its_reason_and_the_next_step() -> None:
    found = at(state=State.HOLD, hold_reason="gw-npr-dr has seen epoch 7", lease_until=ago(5))
    assert found.headline == "NPR is held and nobody gets a lease: gw-npr-dr has seen epoch 7"
    assert "resume" in found.next_step


def test_a_move_under_way_says_what_it_waits_for() -> None:
    found = at(state=State.FENCING, under_way="activate-dr", waits_for="gw-npr-primary to confirm", lease_until=ago(5))
    assert found.headline == "NPR: activate-dr is under way; it waits for gw-npr-primary to confirm"


def test_an_environment_without_a_gateway_says_what_it_needs() -> None:
    found = standing_of(StandingFacts(environment="NPR", state=State.UNASSIGNED, acting=None))
    assert not found.may_act and "enrol" in found.next_step
