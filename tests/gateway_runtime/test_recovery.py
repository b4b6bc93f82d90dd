"""How soon a gateway is itself again after its Primary was away (DESIGN §7, §9)."""

from __future__ import annotations

import time
from typing import Any

import pytest

from common.clock import boottime
from gateway_runtime.breaker import FAILURES_TO_OPEN, PAUSE_CAP
from gateway_runtime.client import PrimaryRefused
from gateway_runtime.models import PendingWrite
from gateway_runtime.node import Node
from gateway_runtime.supervisor import EXPELLED, RETRY_CAP, Supervisor
from protocol.messages import AskDirective, Directive
from protocol.timing import SHORT, STANDARD, TimeProfile
from protocol.vocabulary import Assignment, BreakerState
from tests.gateway_runtime.conftest import Site, take_lock
from tests.gateway_runtime.test_node import directive

pytestmark = pytest.mark.django_db


class Primary:
    """Answers each directive call and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[AskDirective] = []
        self.epoch = 0

    def call(self, _path: str, message: Any, _kind: Any, *, timeout: float) -> Directive:
        assert timeout > message.wait
        self.asked.append(message)
        return Directive(revision="r", assigned_role=Assignment.STANDBY, epoch=1, poll_tasks=False, next_heartbeat_seconds=1)


def supervisor(timing: TimeProfile = STANDARD) -> tuple[Supervisor, Primary]:
    made, primary = Supervisor(), Primary()
    made.timing, made.node, made.channel = timing, Node(timing), primary  # type: ignore[assignment]
    return made, primary


def test_a_directive_call_waits_at_the_primary_while_all_is_well() -> None:
    made, primary = supervisor()
    made.directive_step()
    assert primary.asked[-1].wait == STANDARD.directive_wait


def test_the_call_that_tries_whether_the_primary_is_back_does_not_wait_there() -> None:
    made, primary = supervisor()
    breaker = made.node.breaker
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(time.monotonic())
    assert breaker.state is BreakerState.OPEN
    made.directive_step()
    assert primary.asked[-1].wait == 0
    breaker.allows(time.monotonic() + PAUSE_CAP)
    assert breaker.state is BreakerState.HALF_OPEN
    made.directive_step()
    assert primary.asked[-1].wait == 0
    breaker.succeeded(time.monotonic())
    made.directive_step()
    assert primary.asked[-1].wait == STANDARD.directive_wait


@pytest.mark.parametrize("timing", [SHORT, STANDARD], ids=lambda timing: timing.name)
def test_no_pause_after_an_outage_is_longer_than_one_renewal_of_the_lease(timing: TimeProfile) -> None:
    made, _ = supervisor(timing)

    def fails() -> float:
        raise OSError("a failure nobody foresaw")

    pauses = [made._one_step("test", fails, attempt)[0] for attempt in range(12)]
    assert max(pauses) <= min(RETRY_CAP, timing.lease_renew)
    breaker, now = made.node.breaker, 0.0
    for _ in range(50):
        while breaker.state is not BreakerState.OPEN:
            breaker.failed(now)
        waited = 0.0
        while not breaker.allows(now + waited):
            waited += 0.05
        assert waited <= min(PAUSE_CAP, timing.lease_renew) + 0.05
        now += waited


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_primary_is_asked_again_when_it_said_and_not_earlier(status: int) -> None:
    made, _ = supervisor(STANDARD)

    def busy() -> float:
        raise PrimaryRefused(status, "UNAVAILABLE", "this node is busy", retry_after=9.0)

    pauses = [made._one_step("heartbeat", busy, 0)[0] for _ in range(50)]
    assert min(pauses) >= 9.0 and max(pauses) <= 13.5
    assert max(pauses) - min(pauses) > 0.5, "those who were told the same do not come back at once"


@pytest.mark.parametrize("code", sorted(EXPELLED))
def test_an_expelled_gateway_serves_and_promises_nothing_more(site: Site, code: str) -> None:
    secret, ann, node = site.secret(), site.person(), site.supervisor.node
    node.obey(directive())
    assert node.take_lease(epoch=1, ttl=60, sent_boot=boottime(), sent_wall=time.time())
    site.primary.refuse_message = (403, code)
    take_lock(site.supervisor.one_process)
    site.supervisor._one_step("lease", site.supervisor.lease_step, 0)
    assert node.lease_seconds_left() == 0 and not node.wants_lease()
    assert [ann.get(f"secrets/{secret.id}")[1]["code"], ann.put(f"secrets/{secret.id}", {"value": "x"})[1]["code"]] == [
        "NOT_ACTIVE", "NOT_ACTIVE"
    ]  # fmt: skip
    site.primary.down = True
    site.supervisor.one_process.give_up()
    site.restart()
    assert ann.get(f"secrets/{secret.id}")[0] == 503, "a restart without the Primary remembers it"


def test_a_change_that_meets_the_expulsion_is_not_promised(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    site.primary.refuse_message = (403, "GATEWAY_BANNED")
    answer = ann.response("put", f"secrets/{secret.id}", {"value": "two"})
    assert (answer.status_code, answer.json()["code"]) == (503, "NOT_ACTIVE") and int(answer["Retry-After"]) >= 1
    row = PendingWrite.objects.get()
    assert (row.outcome, row.promised, row.sealed_body) == ("refused", False, None)
    assert ann.get(f"secrets/{secret.id}")[1]["code"] == "NOT_ACTIVE"


def test_any_other_refusal_and_a_new_directive_let_the_gateway_serve(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    site.primary.refuse_message = (403, "CERTIFICATE_EXPIRED")
    site.supervisor._one_step("uploads", site.supervisor.replica_step, 0)
    assert ann.get(f"secrets/{secret.id}")[0] == 200
    site.supervisor.node.expel("for the test")
    assert ann.get(f"secrets/{secret.id}")[0] == 503
    site.supervisor.node.obey(directive())
    assert ann.get(f"secrets/{secret.id}")[0] == 200
