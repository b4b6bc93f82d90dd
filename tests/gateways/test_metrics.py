"""The scrape: written by hand, and yet what the client library and the judge of heartbeats would say (DESIGN §11)."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from common.exposition import escaped, head, histogram, number
from gateways import heartbeats, metrics, sightings
from gateways.models import DurationTally, Gateway, GatewayEnvironment, GatewayStatus, ReceivedWrite
from orchestrator.metrics import exposition
from tests.conftest import fleet_of
from tests.fakes.gateway import FakeGateway

SEED = 7
ODD = 'a"b\\c\nd%s'


def families() -> dict[str, dict[tuple[str, ...], float]]:
    """Every series of the scrape by name and labels, as Prometheus reads them."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(exposition().decode()):
        for one in family.samples:
            key = tuple(f"{name}={value}" for name, value in sorted(one.labels.items()))
            series = found.setdefault(one.name, {})
            assert key not in series, f"{one.name} {key} is there twice"
            series[key] = one.value
    return found


def any_report(dice: random.Random) -> dict[str, Any]:
    """What a gateway may say of itself, also what it never should."""

    def probe() -> dict[str, Any] | None:
        return dice.choice([None, {"ok": True}, {"ok": False}, {"ok": None}])

    whole = {
        "database": probe(), "gateway_key_vault": probe(), "cache": probe(),
        "project_key_vaults": [{"ok": dice.choice([True, False, None])} for _ in range(dice.randrange(4))],
        "write_queue_depth": dice.choice([0, 3, 700, 5000]), "primary_latency_p95_ms": dice.choice([None, 20.0, 900.0, 9000.0]),
        "breaker": dice.choice(["closed", "open", "half_open"]), "reported_role": dice.choice(["active", "standby", "fenced"]),
        "epoch": dice.randrange(3), "version": dice.choice(["1.5.0", "0.9.0", settings.MAZEVAULT.version]),
    }  # fmt: skip
    return {name: value for name, value in whole.items() if dice.random() < 0.8}


def test_the_score_of_the_scrape_is_that_of_the_judge_for_whatever_is_reported(npr: tuple[FakeGateway, FakeGateway]) -> None:
    dice = random.Random(SEED)
    for _ in range(60):
        for gateway in npr:
            with connection.cursor() as cursor:
                cursor.execute(
                    "UPDATE gateways_gatewaystatus SET report = %s::jsonb, clock_skew_seconds = %s,"
                    " heartbeat_at = now() - %s * interval '1 second' WHERE gateway_id = %s",
                    [json.dumps(any_report(dice)), dice.choice([0.0, -50.0, 400.0]), dice.choice([0, 80, 130, 900]), gateway.id],
                )
                cursor.execute(
                    "UPDATE gateways_gatewaycertificate SET not_after = now() + %s * interval '1 day' WHERE gateway_id = %s",
                    [dice.choice([-1, 3, 17, 90]), gateway.id],
                )
        seen = {one.name: heartbeats.judge(one) for one in sightings.of_all()}
        scores = families()[metrics.HEALTH_SCORE]
        assert len(scores) == 2
        for name, judged in seen.items():
            key = next(key for key in scores if f"gateway={name}" in key)
            assert math.isclose(scores[key], judged.health.score, abs_tol=0.0101), (name, judged)


def test_a_gateway_that_was_never_heard_scores_nothing_and_is_infinitely_old(npr: tuple[FakeGateway, FakeGateway]) -> None:
    GatewayStatus.objects.all().delete()
    found = families()
    assert set(found[metrics.HEALTH_SCORE].values()) == {0.0}
    assert set(found[metrics.HEARTBEAT_AGE].values()) == {math.inf}


class _Library(Collector):
    """The same series by the client library."""

    def collect(self) -> Any:
        gauge = GaugeMetricFamily("g", "what it is", labels=["a", "b"])
        for value in (0, 1, 0.97, 1e5, 123456.5, 7654321.25, 1e21, math.inf, -3.5):
            gauge.add_metric([ODD, str(value)], value)
        yield gauge
        yield HistogramMetricFamily("h", "durations", labels=["a", "r"])
        for counts in ([3, 4, 9], [3, 4, 2_000_000]):
            family = HistogramMetricFamily(f"h{counts[-1]}", "durations", labels=["a", "r"])
            family.add_metric([ODD, "x"], list(zip(["0.5", "1.0", "+Inf"], counts, strict=True)), sum_value=12.5)
            yield family


def test_what_is_written_by_hand_is_what_the_library_writes() -> None:
    registry = CollectorRegistry()
    registry.register(_Library())
    lines = [head("g", "gauge", "what it is")]
    for value in (0, 1, 0.97, 1e5, 123456.5, 7654321.25, 1e21, math.inf, -3.5):
        lines.append(f'g{{a="{escaped(ODD)}",b="{value}"}} {number(value)}\n')
    lines.append(head("h", "histogram", "durations"))
    for counts in ((3, 4, 9), (3, 4, 2_000_000)):
        lines.append(head(f"h{counts[-1]}", "histogram", "durations"))
        lines.append(histogram(f"h{counts[-1]}", f'a="{escaped(ODD)}"', 'r="x"', ("0.5", "1.0", "+Inf"), counts, 12.5))
    assert "".join(lines).encode() == generate_latest(registry)


def test_durations_are_cumulative_and_gateways_of_one_name_are_one_series(npr: tuple[FakeGateway, FakeGateway]) -> None:
    for bound, total in (("0.05", 2), ("1.0", 3), ("+Inf", 1)):
        DurationTally.objects.create(gateway_id=npr[0].id, upper_bound=bound, total=total, seconds=0.5)
    series = {key[2]: value for key, value in families()["mazevault_gateway_task_duration_seconds_bucket"].items()}
    assert (series["le=0.05"], series["le=0.5"], series["le=1.0"], series["le=+Inf"]) == (2, 2, 5, 6)
    found = families()
    assert list(found["mazevault_gateway_task_duration_seconds_count"].values()) == [6]
    assert list(found["mazevault_gateway_task_duration_seconds_sum"].values()) == [1.5]


def test_every_environment_says_what_is_open_in_it_also_nothing(npr: tuple[FakeGateway, FakeGateway]) -> None:
    found = families()
    for code in GatewayEnvironment.objects.values_list("code", flat=True):
        counts = [value for key, value in found[metrics.WRITES_OPEN].items() if f"environment={code}" in key]
        assert len(counts) == len(metrics.OPEN) and set(counts) == {0.0}
        assert found[metrics.WRITES_OPEN_OLDEST][f"environment={code}",] == 0.0
    assert not ReceivedWrite.objects.exists()


def test_cold_standbys_are_told_and_no_others(npr: tuple[FakeGateway, FakeGateway]) -> None:
    assert metrics.COLD not in families()
    Gateway.objects.filter(pk=npr[1].id).update(standby_mode="cold")
    name = Gateway.objects.get(pk=npr[1].id).name
    assert families()[metrics.COLD] == {("environment=NPR", f"gateway={name}", "role=dr-standby"): 1.0}


@pytest.mark.parametrize("more", [0, 1])
def test_a_scrape_takes_the_same_statements_whatever_there_is(more: int, npr: tuple[FakeGateway, FakeGateway]) -> None:
    if more:
        fleet_of("PRO")
    exposition()
    with CaptureQueriesContext(connection) as told:
        exposition()
    assert len(told) == 16, [one["sql"][:80] for one in told.captured_queries]
