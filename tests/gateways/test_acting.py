"""Whether anybody may act is said alike by the status, by the health of the fleet and by the scrape, at once (N1)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F
from django.db.models.functions import Now

from gateways import heartbeats
from gateways.models import GatewayInstance, GatewayStatus, Route
from tests.conftest import Person
from tests.fakes.gateway import FakeGateway
from tests.gateways.test_metrics import families

Pair = tuple[FakeGateway, FakeGateway]


def let_the_lease_end(pair: Pair) -> None:
    past = Now() - timedelta(seconds=3)
    Route.objects.filter(pk="NPR").update(lease_until=past, switched_at=Now() - timedelta(hours=1))
    GatewayInstance.objects.update(first_heard_at=Now() - timedelta(hours=1))


def stop_in_order(pair: Pair) -> None:
    pair[0].release_lease()


def start_again(pair: Pair) -> None:
    let_the_lease_end(pair)
    pair[0].release_lease()
    pair[0].restarted().directive()


def be_killed_and_started(pair: Pair) -> None:
    let_the_lease_end(pair)
    pair[0].restarted().heartbeat()


def be_away(pair: Pair) -> None:
    let_the_lease_end(pair)
    GatewayStatus.objects.update(judged_at=Now() - timedelta(minutes=5), watched_since=Now() - timedelta(hours=1))


def hold_the_lease(pair: Pair) -> None:
    pair[0].renew_lease()


CASES: tuple[tuple[Callable[[Pair], None], bool, str, str], ...] = (
    (hold_the_lease, True, "NPR is on its primary gateway gw-npr-primary", ""),
    (let_the_lease_end, False, "the lease of gw-npr-primary ended 3 s ago", "activate-dr"),
    (stop_in_order, False, "gw-npr-primary was stopped in order", "start gw-npr-primary again"),
    (start_again, False, "gw-npr-primary has just started and waits for its first lease", "wait"),
    (be_killed_and_started, False, "gw-npr-primary has just started and waits for its lease", "wait"),
    (be_away, False, "the Primary was away", "wait"),
)


@pytest.mark.parametrize(("happens", "may_act", "headline", "step"), CASES, ids=[case[0].__name__ for case in CASES])
def test_everybody_says_the_same_of_who_may_act(
    npr: Pair, admin: Person, happens: Callable[[Pair], None], may_act: bool, headline: str, step: str
) -> None:
    hold_the_lease(npr)
    happens(npr)
    status, row = admin.get("admin/failover/NPR")[1], health(admin, "gw-npr-primary")
    for told in (status, row):
        assert (told["may_act"], headline in told["headline"], step in told["next"]) == (may_act, True, True), told
    assert families()["mazevault_gateway_may_act"] == {("environment=NPR",): float(may_act)}
    assert may_act or (row["why"][0] == row["headline"] and row["health"] != "healthy")
    other = health(admin, "gw-npr-dr")
    assert (other["may_act"], other["lease_until"], other["headline"]) == (False, None, "gw-npr-dr is on standby")


def test_a_gateway_that_was_stopped_is_shown_so_at_once_and_no_move_goes_to_it(npr: Pair, admin: Person) -> None:
    npr[1].release_lease()
    row = health(admin, "gw-npr-dr")
    assert (row["activation_status"], row["health"], row["health_score"]) == ("stopped", "silent", 0.0)
    assert row["stopped_at"] and row["headline"].startswith("gw-npr-dr was stopped in order") and "stopped" in row["caps"]
    scores = families()["mazevault_gateway_health_score"]
    assert next(value for labels, value in scores.items() if "gateway=gw-npr-dr" in labels) == 0.0
    status, refused = admin.post("admin/failover/NPR/activate-dr")
    assert (status, refused["code"]) == (409, "CHECKS_FAILED") and "stopped in order" in refused["error"]
    npr[1].restarted().heartbeat()
    row = health(admin, "gw-npr-dr")
    assert (row["activation_status"], row["health"], row["stopped_at"]) == ("standby", "healthy", None)


def test_the_label_of_a_stopped_gateway_falls_with_the_next_look(npr: Pair) -> None:
    npr[1].release_lease()
    GatewayStatus.objects.update(judged_at=F("judged_at") - timedelta(seconds=5))
    assert heartbeats.count_missed() == 1
    assert GatewayStatus.objects.get(gateway_id=npr[1].id).label == "silent"


def health(admin: Person, name: str) -> dict[str, Any]:
    return next(dict(row) for row in admin.get("admin/gateway-health")[1] if row["name"] == name)
