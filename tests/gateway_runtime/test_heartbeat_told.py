"""A gateway's log has a heartbeat a minute, however often one is sent (seed §10.3, §11)."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from common import logs
from gateway_runtime.supervisor import TOLD_SECONDS
from protocol.vocabulary import Assignment, BreakerState
from tests.gateway_runtime.conftest import Site

pytestmark = pytest.mark.django_db


def test_an_answered_heartbeat_is_told_once_a_minute(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    sent: Any = SimpleNamespace(reported_role=Assignment.ACTIVE, epoch=1, write_queue_depth=0, breaker=BreakerState.CLOSED)
    with caplog.at_level(logging.INFO):
        for moment in (0.0, 5.0, 53.9, 57.0, 60.0, 114.0):
            site.supervisor._tell_heartbeat(sent, moment)
    told = [record.getMessage() for record in caplog.records if "heartbeat" in record.getMessage()]
    assert len(told) == 3
    assert told[0].startswith("heartbeat answered by the Primary: ") and "0 queued writes" in told[0]
    assert 54.0 <= TOLD_SECONDS <= 60 * 0.95, "pauses of a minute are jittered by a twentieth"


def test_a_registered_gateway_logs_under_its_name(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, str] = {}
    monkeypatch.setattr(logs, "_node", known)
    identity = site.supervisor.known_identity()
    monkeypatch.setattr("gateway_runtime.identity.tls_files", lambda *_: (None, None))
    monkeypatch.setattr("gateway_runtime.supervisor.Channel", lambda **_: site.supervisor.channel)
    site.supervisor._use(identity)
    assert known == {"gateway": identity.name, "environment": identity.environment}
