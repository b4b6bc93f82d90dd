"""How soon a gateway is itself again after its Primary was away (DESIGN §7, §9)."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gateway_runtime.breaker import FAILURES_TO_OPEN, PAUSE_CAP
from gateway_runtime.node import Node
from gateway_runtime.supervisor import RETRY_CAP, Supervisor
from protocol.messages import AskDirective, Directive
from protocol.timing import SHORT, STANDARD, TimeProfile
from protocol.vocabulary import Assignment, BreakerState

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
