"""`mazevault status` never says "healthy" while an environment has nobody who may act, and names each environment in trouble."""

from __future__ import annotations

from typing import Any

import pytest

from cli.stack.status import DEGRADED, ERROR, HEALTHY, Overview, _judged

GATEWAY = {
    "name": "gw-npr-primary", "environment": "NPR", "health": "healthy", "activation_status": "active", "health_score": 0.98,
    "heartbeat_age_seconds": 3.0, "why": [],
}  # fmt: skip


def environment(code: str = "NPR", **other: Any) -> dict[str, Any]:
    well = {
        "state": "PRIMARY_ACTIVE", "active_gateway": f"gw-{code.lower()}-primary", "epoch": 1, "may_act": True, "next": "",
        "standby_gateway": f"gw-{code.lower()}-dr", "headline": f"{code} is on its primary gateway gw-{code.lower()}-primary",
    }  # fmt: skip
    return {**well, **other}


def judged(*gateways: dict[str, Any], **environments: dict[str, Any]) -> Overview:
    return _judged(list(gateways) or [GATEWAY], environments)


def test_healthy_when_every_environment_is_at_home_and_somebody_may_act() -> None:
    assert judged(NPR=environment(), PRO=environment("PRO")).code == HEALTHY


def test_nobody_who_may_act_is_told_first_with_the_next_step_and_the_status_2() -> None:
    idle = environment(
        "PRO", may_act=False, headline="PRO: nobody may act, the lease of gw-pro-primary ended 30 s ago",
        next="look at gw-pro-primary, or POST admin/failover/PRO/plan",
    )  # fmt: skip
    found = judged(NPR=environment(), PRO=idle)
    assert (found.code, found.sentence) == (DEGRADED, idle["headline"])
    assert f"  next: {idle['next']}" in found.lines()


@pytest.mark.parametrize(
    "row",
    [{"state": "HOLD", "headline": "NPR is held and nobody gets a lease: gw-npr-dr has seen epoch 7", "next": "resume"},
     {"active_gateway": None, "headline": "NPR has no active gateway", "next": "enrol one"}],
    ids=["held", "nobody"],
)  # fmt: skip
def test_what_waits_for_a_person_is_an_error_with_its_reason(row: dict[str, Any]) -> None:
    found = judged(NPR=environment(**row))
    assert (found.code, found.sentence) == (ERROR, row["headline"])


def test_a_move_under_way_and_an_ill_gateway_are_both_in_the_first_line() -> None:
    moving = environment(state="FO_DRAINING", headline="NPR: activate-dr is under way")
    found = judged({**GATEWAY, "health": "degraded"}, NPR=moving)
    assert (found.code, found.sentence) == (DEGRADED, "NPR: activate-dr is under way; gw-npr-primary is not healthy")


def test_a_cold_standby_is_no_trouble() -> None:
    assert judged({**GATEWAY, "health": "silent", "activation_status": "cold"}, NPR=environment()).code == HEALTHY
