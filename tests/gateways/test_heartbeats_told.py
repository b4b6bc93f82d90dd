"""The Primary's log tells of heartbeats once a minute, whatever number of gateways there is."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from common.clock import now
from gateways import heartbeats_told
from gateways.models import GatewayStatus
from orchestrator import loops
from tests.fakes.gateway import FakeGateway


def test_one_line_tells_how_many_were_heard_and_who_was_not(
    npr: tuple[FakeGateway, FakeGateway], caplog: pytest.LogCaptureFixture
) -> None:
    GatewayStatus.objects.update(heartbeat_at=now())
    with caplog.at_level(logging.INFO), CaptureQueriesContext(connection) as seen:
        heartbeats_told.tell()
    assert len(seen) == 1
    GatewayStatus.objects.filter(gateway_id=npr[1].id).update(heartbeat_at=now() - timedelta(seconds=500))
    with caplog.at_level(logging.INFO):
        heartbeats_told.tell()
    first, second = [record.getMessage() for record in caplog.records if record.name == heartbeats_told.log.name]
    assert first == "heartbeats: 2 of 2 gateways heard within 120 s"
    name = GatewayStatus.objects.get(gateway_id=npr[1].id).gateway.name
    assert second == f"heartbeats: 1 of 2 gateways heard within 120 s; not heard: {name}"


def test_of_many_silent_ones_the_first_are_named() -> None:
    assert heartbeats_told._named([f"g{i:02}" for i in range(12)]).endswith("g09 and 2 more")


def test_the_primary_tells_once_a_minute() -> None:
    assert [pause for _, use_case, pause in loops.LOOPS if use_case is heartbeats_told.tell] == [60.0]
