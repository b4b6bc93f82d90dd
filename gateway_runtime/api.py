"""What a gateway answers to people and probes near it: mode, health, metrics. No secrets here."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import LiteralString

from django.conf import settings
from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common import health as node_health
from common.api import guarded
from common.audit_metrics import UnsealedCollector
from common.clock import now
from common.direct import answering_within, open_connection
from common.errors import AuthenticationRequired
from common.exposition import database_up
from common.outages import is_outage
from common.retained import GATEWAY
from common.retention_metrics import RetentionCollector
from gateway_runtime import current, replica, state, why, write_queue
from gateway_runtime.models import WriteTally
from gateway_runtime.supervisor import Supervisor, days_left
from integrations.azure import denials
from vault.metrics import ClaimCollector

PREFIX = "mazevault_gateway_"


@guarded
def root(request: HttpRequest) -> HttpResponse:
    """Answer `{"mode":"gateway"}` (seed §10.1)."""
    return _answer({"mode": settings.MAZEVAULT.mode})


@guarded
def health(request: HttpRequest) -> HttpResponse:
    """200 with `"status":"ok"` while the gateway's database answers.

    `may_act` says whether it holds the lease, in which epoch, and `because` why not; `serving` is the same under the name that
    existing readers know. Being cut off from the Primary is no illness: the gateway goes on (`answers_reads`, `takes_changes`),
    so a liveness probe must not end it. Anybody may ask, so it does not say which gateway this is.
    """
    database, cache, usable, room = node_health.found(node_health.database, node_health.cache_server, usable_copy, room_in_queue)
    body: dict[str, object] = {
        "status": "ok" if database else "error",
        "mode": settings.MAZEVAULT.mode,
        "version": settings.MAZEVAULT.version,
        "database": "ok" if database else "unreachable",
        "cache": "not configured" if not settings.MAZEVAULT.redis_url else "ok" if cache else "unreachable",
        **_standing(current.supervisor, usable, room),
    }
    return _answer(body, status=200 if database else 503)


@guarded
def live(request: HttpRequest) -> HttpResponse:
    """For a liveness probe: the front answers it; this answers where none stands before."""
    status, body = node_health.liveness()
    return _answer(body, status=status)


@guarded
def ready(request: HttpRequest) -> HttpResponse:
    """For a readiness probe: 503 with the reasons when the gateway's database or its migrations are missing."""
    status, body = node_health.readiness()
    return _answer(body, status=status)


@guarded
def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus text for the token of METRICS_TOKEN_FILE (DESIGN §5, §11)."""
    expected = settings.MAZEVAULT.metrics_token
    presented = request.META.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ").strip()
    if not expected or not hmac.compare_digest(presented.encode(), expected.encode()):
        raise AuthenticationRequired("send an Authorization: Bearer header with the token of METRICS_TOKEN_FILE")
    return HttpResponse(exposition(), content_type=CONTENT_TYPE_LATEST)


def exposition() -> bytes:
    """What this process knows, and what its database does. Without a database the first part, and that it does not answer."""
    own = _generated(_ProcessCollector(current.supervisor))
    try:
        stored = _generated(
            _QueueCollector(current.supervisor), ClaimCollector(), RetentionCollector(GATEWAY), UnsealedCollector()
        )
    except DatabaseError as error:
        if not is_outage(error):
            raise
        return own + database_up(False).encode()
    return own + database_up(True).encode() + stored


def _generated(*collectors: Collector) -> bytes:
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return bytes(generate_latest(registry))


class _ProcessCollector(Collector):
    """The gateway's own state at scrape time, of which the database is no part."""

    def __init__(self, supervisor: Supervisor | None) -> None:
        self._supervisor = supervisor

    def collect(self) -> Iterator[Metric]:
        if self._supervisor is None or self._supervisor.identity is None:
            return
        node, identity = self._supervisor.node, self._supervisor.identity
        info = GaugeMetricFamily(PREFIX + "info", "1, with who this gateway is", labels=["gateway", "environment", "role"])
        info.add_metric([identity.name, identity.environment, identity.role], 1)
        yield info
        values = (
            ("heartbeat_failures", "Consecutive failed heartbeats to Primary", node.heartbeats.count),
            ("circuit_breaker_state", "Primary connectivity: 0 closed, 1 half-open, 2 open", node.breaker.state.metric),
            ("certificate_days_left", "Days until the gateway certificate expires",
             days_left(self._supervisor.certificate_expires_at())),
        )  # fmt: skip
        for name, text, value in values:
            yield GaugeMetricFamily(PREFIX + name, text, value=value)
        yield _denied_metric()


class _QueueCollector(Collector):
    """The queue of writes and the copy of the environment, of a gateway that is registered."""

    def __init__(self, supervisor: Supervisor | None) -> None:
        self._supervisor = supervisor

    def collect(self) -> Iterator[Metric]:
        if self._supervisor is not None and self._supervisor.identity is not None:
            yield from _queue_metrics()


def _denied_metric() -> Metric:
    text = "Calls that Key Vault or Resource Manager denied"
    denied = CounterMetricFamily(PREFIX + "keyvault_denied", text, labels=["code"])
    for code, total in denials.totals().items():
        denied.add_metric([code], total)
    return denied


def _queue_metrics() -> Iterator[Metric]:
    moment = now()
    queue, copy = write_queue.depth(), replica.report(moment)
    values = (
        ("write_queue_size", "Writes accepted here that have not ended", queue.writes),
        ("write_queue_oldest_seconds", "Age of the oldest of them", queue.oldest_seconds(moment)),
        ("write_queue_bytes", "Bytes of their contents", queue.size),
        ("replica_age_seconds", "Seconds since the copy of the environment was known to be complete; -1 for never", copy.age),
    )
    for name, text, value in values:
        yield GaugeMetricFamily(PREFIX + name, text, value=value)
    writes = CounterMetricFamily(PREFIX + "writes", "Writes by what became of them; queued is a promise", labels=["outcome"])
    for row in WriteTally.objects.order_by("outcome"):
        writes.add_metric([row.outcome], row.total)
    yield writes


def _standing(supervisor: Supervisor | None, usable: bool, room: bool) -> dict[str, object]:
    if supervisor is None or supervisor.identity is None:
        told = {"because": "it has not registered at the Primary yet", "answers_reads": False, "takes_changes": False}
        return {"registered": False, "serving": False, "may_act": False, **told, "primary": "unknown", "epoch": 0}
    standing, away = supervisor.node.standing(), supervisor.node.breaker.silence(time.monotonic())
    facts = why.Rights(standing.serving, standing.assigned, standing.stopping, usable, room, away)
    return {
        "registered": True, "serving": standing.serving, "may_act": standing.serving, "because": why.may_act_not(facts),
        "answers_reads": why.answers_reads(facts), "takes_changes": why.takes_changes(facts),
        "primary": "ok" if away is None else "unreachable", "epoch": standing.epoch,
    }  # fmt: skip


_STORED: LiteralString = """
SELECT n.replica_complete_at, coalesce(b.writes, 0), coalesce(b.size, 0)
  FROM gateway_runtime_nodestate n LEFT JOIN gateway_runtime_backlog b ON b.id = 1 WHERE n.id = 1
"""


def _stored() -> tuple[datetime | None, int, int]:
    """How old the copy is, and what waits in the queue; on a connection of its own, as every question for health."""
    with open_connection() as asked, answering_within(asked, node_health.CUT_SECONDS):
        return asked.execute(_STORED).fetchone() or (None, 0, 0)


def _copy_is_usable() -> bool:
    """Whether the copy is whole and young enough for credentials to count, as who reads secrets is asked."""
    age = state.age_of_time(_stored()[0], now())
    return age is not None and age < settings.MAZEVAULT.own_gateway.offline_auth_max


def _queue_has_room() -> bool:
    return write_queue.has_room(*_stored()[1:])


usable_copy = node_health.Prober("copy of the environment", _copy_is_usable)
room_in_queue = node_health.Prober("queue of writes", _queue_has_room)


def _answer(body: dict[str, object], status: int = 200) -> HttpResponse:
    return HttpResponse(json.dumps(body, separators=(",", ":")), status=status, content_type="application/json")
