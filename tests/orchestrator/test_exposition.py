"""What a scrape of either kind of node says when its database is away, and of audit, moves and workers."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError, connection
from django.test import RequestFactory
from prometheus_client.parser import text_string_to_metric_families

from common import audit, audit_metrics
from common.clock import now
from failover.models import EnvironmentState
from gateway_runtime import api
from orchestrator import metrics, workers_seen
from tests.conftest import Person
from tests.fakes.gateway import FakeGateway
from tests.gateway_runtime.conftest import Site, as_gateway, site  # noqa: F401  fixtures

pytestmark = pytest.mark.django_db


def series(text: bytes) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for one in family.samples:
            found.setdefault(one.name, {})[tuple(value for _, value in sorted(one.labels.items()))] = one.value
    return found


def away(*_: Any) -> Any:
    raise OperationalError("connection refused")


@pytest.fixture
def gateway(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:  # noqa: F811
    monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, metrics_token="scrape"))
    monkeypatch.setattr(site.supervisor, "certificate_expires_at", lambda: now() + timedelta(days=60))
    return site


def scraped() -> tuple[int, dict[str, dict[tuple[str, ...], float]]]:
    answer = api.metrics(RequestFactory().get("/metrics", headers={"Authorization": "Bearer scrape"}))
    return answer.status_code, series(answer.content)


class TestAtThePrimary:
    def test_a_scrape_tells_a_database_that_is_away_from_a_primary_that_is(
        self, anybody: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, metrics_token="scrape-me"))
        headers = {"Authorization": "Bearer scrape-me"}
        assert series(anybody.client.get("/metrics", headers=headers).content)["mazevault_database_up"] == {(): 1.0}
        monkeypatch.setattr(metrics, "text_of_moves", away)
        answer = anybody.client.get("/metrics", headers=headers)
        assert (answer.status_code, series(answer.content)) == (200, {"mazevault_database_up": {(): 0.0}})

    def test_an_environment_in_hold_and_a_move_that_is_open_are_told(self, npr: tuple[FakeGateway, FakeGateway]) -> None:
        EnvironmentState.objects.update_or_create(environment_id="PRO", defaults={"state": "HOLD"})
        with connection.cursor() as cursor:
            cursor.execute("""
                INSERT INTO failover_operation (id, environment_id, kind, waived, checks, epoch_before, requested_by, reason,
                                                forced_by, forced_reason, outcome, opened_at, step_since)
                VALUES (gen_random_uuid(), 'NPR', 'activate-dr', '[]', '[]', 1, 'a', '', '', '', '',
                        clock_timestamp() - interval '300 seconds', clock_timestamp())""")
        found = series(metrics.exposition())
        assert found["mazevault_failover_held"] == {("NPR",): 0.0, ("PRO",): 1.0}
        ages = found["mazevault_failover_operation_seconds"]
        assert 300 <= ages["NPR",] < 330 and ages["PRO",] == 0.0

    def test_a_worker_is_as_old_as_its_last_word(self, db: None, monkeypatch: pytest.MonkeyPatch) -> None:
        kept: dict[str, Any] = {}
        redis = SimpleNamespace(get=kept.get, set=lambda key, value, seconds: kept.update({key: value}))
        monkeypatch.setattr(workers_seen, "cache", redis)
        monkeypatch.setattr(workers_seen, "_own", lambda: redis)
        found = fresh(monkeypatch)
        assert (found["mazevault_cache_up"], "mazevault_worker_age_seconds" in found) == ({(): 1.0}, False)
        workers_seen.leave_word()
        assert 0 <= fresh(monkeypatch)["mazevault_worker_age_seconds"][()] < 30
        kept[workers_seen.KEY] = (now() - timedelta(seconds=500)).timestamp()
        assert 500 <= fresh(monkeypatch)["mazevault_worker_age_seconds"][()] < 530
        redis.get = away
        found = fresh(monkeypatch)
        assert (found["mazevault_cache_up"], "mazevault_worker_age_seconds" in found) == ({(): 0.0}, False)


def fresh(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[tuple[str, ...], float]]:
    monkeypatch.setattr(workers_seen, "_prober", workers_seen.health.Prober("workers", workers_seen._look))
    return series(metrics.exposition())


class TestAtAGateway:
    def test_a_scrape_tells_a_database_that_is_away_and_what_the_process_knows_itself(
        self, gateway: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        status, found = scraped()
        known = gateway.supervisor.known_identity()
        assert (status, found["mazevault_database_up"]) == (200, {(): 1.0})
        assert found["mazevault_gateway_info"] == {(known.environment, known.name, known.role): 1.0}
        assert "mazevault_gateway_write_queue_size" in found
        monkeypatch.setattr(api, "_queue_metrics", away)
        status, found = scraped()
        assert (status, found["mazevault_database_up"]) == (200, {(): 0.0})
        assert "mazevault_gateway_heartbeat_failures" in found and "mazevault_gateway_write_queue_size" not in found

    def test_a_denial_by_a_vault_that_never_happened_is_told_as_none(self, gateway: Site) -> None:
        denied = scraped()[1]["mazevault_gateway_keyvault_denied_total"]
        assert {("KEY_VAULT_ACCESS_DENIED",), ("KEY_VAULT_ROLE_MISSING",), ("KEY_VAULT_POLICY_DENIED",)} <= set(denied)


def test_the_oldest_entry_without_a_place_in_the_chain_counts() -> None:
    def told() -> float:
        [family] = audit_metrics.UnsealedCollector().collect()
        return float(family.samples[0].value)

    audit.chain_all_pending()
    assert told() == 0.0
    for entity in ("one", "two"):
        audit.commit(actor="a", action="b.c", entity="thing", entity_id=entity)
        time.sleep(0.02)
    assert 0.04 <= told() < 30
    audit.chain_all_pending()
    assert told() == 0.0
