"""Many at once, on real connections: one token gives one certificate, two operators begin one operation (I5, I11)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection
from django.http import HttpResponse
from django.test import Client

from common.direct import open_connection
from failover import driver, selectors
from failover.models import EnvironmentState, Operation
from gateways.models import BootstrapTokenRow, Gateway, GatewayCertificate, Route, Task
from protocol.messages import Registered, TaskOffers
from tests.conftest import Person, fleet_of
from tests.fakes.gateway import FakeGateway

RACERS = 100
pytestmark = [pytest.mark.usefixtures("committed_primary"), pytest.mark.xdist_group("races")]


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Run all calls at the same moment, each on a connection of its own, and return their results in order."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        try:
            barrier.wait(30)
            return call()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(run, call) for call in calls]]


def registered(racer: FakeGateway, token: str) -> Any:
    """What the Primary answers in the end: like a gateway, a racer who hears 503 on a crowded machine asks again."""
    for _ in range(30):
        answer = racer.register(token)
        if isinstance(answer, Registered) or answer.status_code != 503:
            break
        time.sleep(1)
    return answer


def race_for_one_token(number: int) -> None:
    owner = FakeGateway(f"gw-{number}", role="primary" if number % 2 else "dr-standby")
    token = owner.new_token()
    racers = [FakeGateway(owner.name, role=owner.role) for _ in range(RACERS)]
    answers = at_once(*(lambda racer=racer: registered(racer, token) for racer in racers))
    won = [answer for answer in answers if isinstance(answer, Registered)]
    lost = Counter(answer.json()["code"] for answer in answers if isinstance(answer, HttpResponse))
    assert len(won) == 1
    assert lost == {"TOKEN_USED": RACERS - 1}
    gateway = Gateway.objects.get(name=owner.name)
    assert GatewayCertificate.objects.filter(gateway=gateway).count() == 1
    assert BootstrapTokenRow.objects.get(name=owner.name).gateway_id == gateway.id
    assert gateway.held_at is not None, "a token in two hands is an alarm"
    Gateway.objects.filter(pk=gateway.pk).update(decommissioned_at=gateway.enrolled_at)


@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.long)])
def test_a_hundred_racers_on_one_token_get_one_certificate(rounds: int) -> None:
    for number in range(rounds):
        race_for_one_token(number)


@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.long)])
def test_the_same_gateway_repeating_its_registration_at_once_gets_one_certificate(rounds: int) -> None:
    for number in range(rounds):
        gateway = FakeGateway(f"gw-{number}")
        token = gateway.new_token()
        twins = [FakeGateway(gateway.name, keys=gateway.keys, generation=gateway.generation) for _ in range(8)]
        answers = at_once(*(lambda twin=twin: twin.register(token) for twin in twins))
        assert len({answer.certificate for answer in answers}) == 1
        row = Gateway.objects.get(name=gateway.name)
        assert (GatewayCertificate.objects.filter(gateway=row).count(), row.held_at) == (1, None)
        Gateway.objects.filter(pk=row.pk).update(decommissioned_at=row.enrolled_at)


@pytest.mark.parametrize("rounds", [10, pytest.param(200, marks=pytest.mark.long)])
def test_two_operators_pressing_at_once_begin_one_operation(rounds: int, person: Any) -> None:
    admin = person("admin")
    fleet_of("NPR")
    for number in range(rounds):
        presses = [lambda: Person(admin.token).post("admin/failover/NPR/activate-dr")] * 2
        answers = at_once(*presses)
        assert [status for status, _ in answers] == [202, 202], answers
        assert len({body["operation"]["id"] for _, body in answers}) == 1
        assert Operation.objects.count() == number + 1
        assert admin.post("admin/failover/NPR/cancel")[0] == 200


@pytest.mark.parametrize("rounds", [5, pytest.param(100, marks=pytest.mark.long)])
def test_many_drivers_take_each_step_once(rounds: int, person: Any) -> None:
    admin = person("admin")
    first, second = fleet_of("NPR")
    for number in range(rounds):
        active, kind = (first, "activate-dr") if number % 2 == 0 else (second, "failback")
        for gateway in (first, second):
            gateway.take_over()
        assert active.renew_lease().verdict == "granted"
        assert admin.post(f"admin/failover/NPR/{kind}")[0] == 202
        at_once(*[driver.drive_all] * 4)
        drain = active.take_over().drain
        if drain:
            active.report_drained(drain.operation, drain.epoch)
            at_once(*[driver.drive_all] * 4)
        order = active.told_to_fence()
        active.acknowledge_fence(order.operation, order.epoch)
        at_once(*[driver.drive_all] * 4)
        driver.drive_all()
        assert Route.objects.get(pk="NPR").epoch == number + 2
    assert EnvironmentState.objects.get(pk="NPR").state in ("DR_ACTIVE", "PRIMARY_ACTIVE")


@pytest.mark.parametrize("rounds", [5, pytest.param(100, marks=pytest.mark.long)])
def test_each_task_is_given_out_once(rounds: int, person: Any) -> None:
    admin = person("admin")
    first, _ = fleet_of("NPR")
    for _ in range(rounds):
        for _ in range(4):
            admin.post("admin/tasks", {"environment": "NPR", "kind": "gateway.probe"})
        twins = [replace(first, sequence=first.sequence + 1000 * (index + 1), client=Client()) for index in range(8)]
        offers = at_once(*(lambda twin=twin: twin.claim(limit=1) for twin in twins))
        first.sequence += 10_000
        given = [task.id for offer in offers if isinstance(offer, TaskOffers) for task in offer.tasks]
        assert len(given) == len(set(given)) == 4
    assert Task.objects.filter(state="claimed").count() == 4 * rounds


def test_a_step_and_a_cancel_at_once_never_both_happen(person: Any) -> None:
    admin = person("admin")
    first, _ = fleet_of("NPR")
    for _ in range(10):
        first.take_over()
        if Route.objects.get(pk="NPR").active_gateway_id != first.row.pk:
            break
        admin.post("admin/failover/NPR/activate-dr")
        order = first.told_to_fence()
        results = at_once(
            lambda: first.acknowledge_fence(order.operation, order.epoch).detail,
            lambda: Person(admin.token).post("admin/failover/NPR/cancel")[0],
            driver.drive_all,
        )
        driver.drive_all()
        route = Route.objects.get(pk="NPR")
        cancelled = results[1] == 200
        assert cancelled == (route.epoch == 1), (results, route.epoch)
        if not cancelled:
            assert results[0] == "stored"


def test_the_status_is_of_one_moment_while_a_move_goes_on(admin: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """The move changes the state after the first read of the answer: the answer is the older state as a whole."""
    fleet_of("NPR")
    asked = selectors._operations

    def moved_meanwhile(code: str) -> tuple[Operation | None, Operation | None]:
        with open_connection() as other:
            other.execute("UPDATE failover_environmentstate SET state = 'FENCING' WHERE environment_id = %s", [code])
        return asked(code)

    monkeypatch.setattr(selectors, "_operations", moved_meanwhile)
    standing = selectors._standing
    seen = list[str]()

    def noted(route: Any, state: Any, *others: Any) -> Any:
        seen.append(selectors.state_of("NPR").state)
        return standing(route, state, *others)

    monkeypatch.setattr(selectors, "_standing", noted)
    row = selectors.status_row("NPR")
    assert (row["state"], seen) == ("PRIMARY_ACTIVE", ["PRIMARY_ACTIVE"])
    assert selectors.state_of("NPR").state == "FENCING"
