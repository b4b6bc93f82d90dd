"""A gateway that says nothing falls; one that was not listened to does not (DESIGN §7)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db.models import F

from gateways.heartbeats import count_missed
from gateways.models import GatewayStatus
from protocol.vocabulary import HealthLabel
from tests.fakes.gateway import FakeGateway

pytestmark = pytest.mark.django_db
TIMING = settings.MAZEVAULT.timing
LOOK = timedelta(seconds=5)
TIMES = ("heartbeat_at", "judged_at", "watched_since", "stable_since")


@pytest.fixture
def gateway(primary: None) -> FakeGateway:
    made = FakeGateway("gw-npr-primary").enrol()
    made.heartbeat()
    return made


def pass_time(by: timedelta) -> None:
    """Times are the database's, so what is stored moves back instead of a clock going on."""
    GatewayStatus.objects.update(**{name: F(name) - by for name in TIMES})
    for row in GatewayStatus.objects.exclude(label_memory={}):
        since: Any = row.label_memory.get("low_since")
        row.label_memory["low_since"] = since - by.total_seconds() if since else None
        row.save(update_fields=["label_memory"])


def watch(seconds: float) -> None:
    """Judge every five seconds for so long, as the loop of a Primary does."""
    for _ in range(int(seconds // LOOK.total_seconds()) + 1):
        pass_time(LOOK)
        count_missed()


def status(gateway: FakeGateway) -> GatewayStatus:
    return GatewayStatus.objects.get(gateway_id=gateway.id)


def test_a_silent_gateway_falls_and_its_missed_heartbeats_are_counted(gateway: FakeGateway) -> None:
    watch(TIMING.heartbeat_zero_age + 2 * TIMING.heartbeat_interval)
    found = status(gateway)
    assert found.label == HealthLabel.SILENT
    assert found.consecutive_failures == 4


def test_a_punctual_gateway_is_never_judged_low(gateway: FakeGateway) -> None:
    watch(TIMING.heartbeat_interval)
    assert (status(gateway).label, status(gateway).consecutive_failures) == (HealthLabel.HEALTHY, 0)


def test_while_the_primary_was_away_nobody_was_silent(gateway: FakeGateway) -> None:
    watch(TIMING.heartbeat_interval)
    pass_time(timedelta(hours=1))
    watch(TIMING.heartbeat_full_age - 2 * LOOK.total_seconds())
    assert (status(gateway).label, status(gateway).consecutive_failures) == (HealthLabel.HEALTHY, 0)
    watch(TIMING.heartbeat_zero_age)
    assert status(gateway).label == HealthLabel.SILENT
    assert status(gateway).consecutive_failures > 0
