"""`GET /metrics`: Prometheus text computed from the database at scrape time, so that any replica answers the same."""

from __future__ import annotations

import hmac

from django.conf import settings
from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from accounts.authentication import bearer_text, principal_of_bearer
from accounts.metrics import EntraCollector
from accounts.roles import METRICS_READ
from common.api import guarded
from common.audit_metrics import UnsealedCollector
from common.errors import AuthenticationRequired, PermissionRefused
from common.exposition import database_up
from common.outages import is_outage
from common.retained import PRIMARY
from common.retention_metrics import RetentionCollector
from failover.metrics import text_of_moves
from gateways.authority_report import AuthorityCollector
from gateways.metrics import FleetCollector, text_of_fleet
from integrations.metrics import SyncCollector
from orchestrator.workers_seen import WorkerCollector
from vault.metrics import ClaimCollector


@guarded
def primary_metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus text for a bearer with `metrics:read` or the token of METRICS_TOKEN_FILE (DESIGN §5)."""
    _require_reader(request)
    return HttpResponse(exposition_or_outage(), content_type=CONTENT_TYPE_LATEST)


def exposition_or_outage() -> bytes:
    """Without a database nothing is known but that: a scrape tells it apart from a Primary that is away itself."""
    try:
        return exposition()
    except DatabaseError as error:
        if not is_outage(error):
            raise
        return database_up(False).encode()


def exposition() -> bytes:
    """The text itself: a constant number of statements, however many gateways there are."""
    registry = CollectorRegistry()
    registry.register(UnsealedCollector())
    registry.register(WorkerCollector())
    registry.register(FleetCollector())
    registry.register(AuthorityCollector())
    registry.register(EntraCollector())
    registry.register(SyncCollector())
    registry.register(ClaimCollector())
    registry.register(RetentionCollector(PRIMARY))
    return (text_of_fleet() + text_of_moves() + database_up(True)).encode() + generate_latest(registry)


def _require_reader(request: HttpRequest) -> None:
    presented = bearer_text(request)
    if not presented:
        raise AuthenticationRequired("send an Authorization: Bearer header with a token that may read metrics")
    expected = settings.MAZEVAULT.metrics_token
    if expected and hmac.compare_digest(presented.encode(), expected.encode()):
        return
    if METRICS_READ not in principal_of_bearer(request).permissions:
        raise PermissionRefused("reading metrics needs the permission metrics:read")
