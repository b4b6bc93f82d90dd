"""How an environment stands in one sentence: never "all well" while nobody may act."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from failover.machine import State
from failover.standing import Standing, StandingFacts, standing_of

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
WELL = StandingFacts(
    environment="NPR", state=State.PRIMARY_ACTIVE, now=NOW, active="gw-npr-primary", on_dr=False,
    lease_until=NOW + timedelta(seconds=30), switched_at=NOW - timedelta(days=1),
)  # fmt: skip


def at(**other: Any) -> Standing:
    return standing_of(StandingFacts(**{**vars(WELL), **other}))


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def test_well_on_either_side() -> None:
    assert at() == Standing(True, None, "NPR is on its primary gateway gw-npr-primary")
    assert at(active="gw-npr-dr", on_dr=True).headline == "NPR is on its DR gateway gw-npr-dr"


def test_a_lease_that_ended_is_told_with_its_age_and_the_way_out() -> None:
    found = at(lease_until=ago(30))
    assert (found.may_act, found.lease_ended_seconds) == (False, 30.0)
    assert found.headline == "NPR: nobody may act, the lease of gw-npr-primary ended 30 s ago"
    assert (
        found.next_step == "look at gw-npr-primary, or POST admin/failover/NPR/plan and then POST admin/failover/NPR/activate-dr"
    )
    assert "failback" in at(lease_until=ago(1), on_dr=True, active="gw-npr-dr").next_step


@pytest.mark.parametrize(("since", "trouble"), [(5, False), (11, True)])
def test_a_gateway_that_has_just_become_active_may_take_a_moment_to_get_its_lease(since: float, trouble: bool) -> None:
    found = at(lease_until=None, switched_at=ago(since))
    assert found.may_act is False and bool(found.next_step) is trouble


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
    assert "enrol" in at(state=State.UNASSIGNED, active=None, lease_until=None).next_step
