"""A gateway that says nothing falls; one that was not listened to does not (DESIGN §7)."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.conf import settings

from common.clock import now
from gateways.heartbeats import count_missed
from gateways.models import GatewayStatus
from protocol.vocabulary import HealthLabel
from tests.fakes.gateway import FakeGateway

pytestmark = pytest.mark.django_db
TIMING = settings.MAZEVAULT.timing
LOOK = timedelta(seconds=5)


@pytest.fixture
def gateway(primary: None) -> FakeGateway:
    made = FakeGateway("gw-npr-primary").enrol()
    made.heartbeat()
    return made


def watch(start: datetime, seconds: float) -> datetime:
    """Judge every five seconds for so long, as the loop of a Primary does; returns the last moment."""
    moment = start
    while moment < start + timedelta(seconds=seconds):
        moment += LOOK
        count_missed(moment)
    return moment


def status(gateway: FakeGateway) -> GatewayStatus:
    return GatewayStatus.objects.get(gateway_id=gateway.id)


def test_a_silent_gateway_falls_and_its_missed_heartbeats_are_counted(gateway: FakeGateway) -> None:
    watch(now(), TIMING.heartbeat_zero_age + 2 * TIMING.heartbeat_interval)
    found = status(gateway)
    assert found.label == HealthLabel.SILENT
    assert found.consecutive_failures == 4


def test_a_punctual_gateway_is_never_judged_low(gateway: FakeGateway) -> None:
    watch(now(), TIMING.heartbeat_interval)
    assert (status(gateway).label, status(gateway).consecutive_failures) == (HealthLabel.HEALTHY, 0)


def test_while_the_primary_was_away_nobody_was_silent(gateway: FakeGateway) -> None:
    moment = watch(now(), TIMING.heartbeat_interval)
    back = moment + timedelta(hours=1)
    last = watch(back, TIMING.heartbeat_full_age - LOOK.total_seconds())
    assert (status(gateway).label, status(gateway).consecutive_failures) == (HealthLabel.HEALTHY, 0)
    watch(last, TIMING.heartbeat_zero_age)
    assert status(gateway).label == HealthLabel.SILENT
    assert status(gateway).consecutive_failures > 0
