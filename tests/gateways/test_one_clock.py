"""Two processes of the Primary whose machines are an hour apart, or a minute and a half: the same answers (docs/adr/0033)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F
from django.utils.dateparse import parse_datetime

from accounts.models import Session
from common import clock
from common.clock import database_now, now
from gateways import dispatch, heartbeats
from gateways.models import GatewayStatus, Route, Task
from tests.conftest import Person
from tests.fakes.gateway import FakeGateway

Pair = tuple[FakeGateway, FakeGateway]
APART = [3600.0, 95.0, -95.0, -3600.0]
SILENT = timedelta(minutes=25)


@contextmanager
def machine(monkeypatch: pytest.MonkeyPatch, ahead: float) -> Iterator[None]:
    """What is done inside is done by a process whose machine's clock is ahead by so many seconds, and knows nothing yet."""
    real, boot = time.time, clock.boottime
    with monkeypatch.context() as there:
        there.setattr(clock, "process_clock", lambda: real() + ahead)
        there.setattr(clock, "boottime", lambda: boot() + abs(ahead))
        clock.carried.forget()
        yield
    clock.carried.forget()


@pytest.fixture
def as_seen(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, Callable[[], Any]], Any]:
    def look(ahead: float, what: Callable[[], Any]) -> Any:
        with machine(monkeypatch, ahead):
            return what()

    return look


@pytest.mark.parametrize("ahead", APART)
def test_a_heartbeat_that_one_process_took_is_as_old_for_another(npr: Pair, admin: Person, as_seen: Any, ahead: float) -> None:
    _, standby = npr
    as_seen(ahead, standby.heartbeat)
    check = as_seen(-ahead, lambda: plan(admin)["target_heartbeat"])
    assert check["passed"], check
    GatewayStatus.objects.update(heartbeat_at=F("heartbeat_at") - SILENT, watched_since=F("watched_since") - SILENT)
    for here in (ahead, 0.0, -ahead):
        assert not as_seen(here, lambda: plan(admin)["target_heartbeat"])["passed"], "a dead standby is dead for everybody"
        age = as_seen(here, lambda: admin.get("admin/gateway-health")[1])[0]["heartbeat_age_seconds"]
        assert age == pytest.approx(SILENT.total_seconds(), abs=20)


@pytest.mark.parametrize("ahead", APART)
def test_leases_claims_tokens_and_sessions_last_as_long_for_everybody(
    npr: Pair, admin: Person, as_seen: Any, ahead: float
) -> None:
    first, _ = npr
    assert as_seen(ahead, first.renew_lease).verdict == "granted"
    assert 0 < (Route.objects.get(environment_id="NPR").lease_until - database_now()).total_seconds() < 60
    task = dispatch.create_task("NPR", "gateway.probe", {}, actor="user:x", address="")
    [offer] = as_seen(ahead, first.claim).tasks
    for here in (ahead, -ahead):
        as_seen(here, lambda: dispatch.sweep(now()))
        as_seen(here, heartbeats.count_missed)
    assert str(Task.objects.get(id=task.id).claim) == offer.claim, "the claim lives"
    made = as_seen(ahead, lambda: admin.post("users/tokens", {"name": f"ci {ahead}", "duration": "30m"})[1])
    assert as_seen(-ahead, lambda: Person(made["token"]).get("auth/me")[0]) == 200
    expires = parse_datetime(made["expires_at"])
    assert expires is not None and 1700 < (expires - database_now()).total_seconds() <= 1800
    Session.objects.update(expires_at=database_now())
    assert as_seen(-abs(ahead), lambda: admin.get("auth/me")[0]) == 401, "an ended session has ended for the slowest clock too"


def plan(admin: Person) -> dict[str, Any]:
    return {check["name"]: check for check in admin.post("admin/failover/NPR/plan")[1]["checks"]}
