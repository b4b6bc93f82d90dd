"""The five fleet metrics of the seed, computed from the database at scrape time (DESIGN §11)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateways import sightings
from gateways.dispatch import DURATION_BUCKETS
from gateways.heartbeats import judge
from gateways.models import DurationTally, GatewayEnvironment, Route, TaskTally, WriteTally
from gateways.settlement import KEPT
from protocol.vocabulary import Role, WriteOutcome

OPEN = (WriteOutcome.RECEIVED, *KEPT)
_OPEN_WRITES = """
SELECT environment_id AS code, outcome, count(*) AS writes,
       extract(epoch FROM clock_timestamp() - min(received_at))::float8 AS oldest
  FROM gateways_receivedwrite WHERE outcome = 'received' GROUP BY 1, 2
UNION ALL
SELECT environment_id, outcome, count(*), extract(epoch FROM clock_timestamp() - min(received_at))::float8
  FROM gateways_receivedwrite WHERE outcome IN ('conflict', 'quarantined', 'dead_letter') AND resolution = '' GROUP BY 1, 2
"""
"""Each half has an index of its own that holds the open writes only."""
LABELS = ["gateway", "environment", "role"]
HEALTH_SCORE = "mazevault_gateway_health_score"
HEARTBEAT_AGE = "mazevault_gateway_heartbeat_age_seconds"
FAILOVER_ACTIVE = "mazevault_gateway_failover_active"
TASKS = "mazevault_gateway_tasks"  # the exposition format adds _total to a counter's name
WRITES = "mazevault_gateway_writes"
WRITES_OPEN = "mazevault_gateway_writes_open"
WRITES_OPEN_OLDEST = "mazevault_gateway_writes_open_oldest_seconds"
TASK_DURATION = "mazevault_gateway_task_duration_seconds"


class FleetCollector(Collector):
    """Reads the database once a scrape; holds nothing between scrapes, so any replica gives the same answer."""

    def collect(self) -> Iterator[Metric]:
        yield from _health()
        yield _failover()
        yield _tasks()
        yield _durations()
        yield _writes()
        yield from _open_writes()


def _health() -> Iterator[Metric]:
    score = GaugeMetricFamily(HEALTH_SCORE, "Health score per gateway (0.0-1.0)", labels=LABELS)
    age = GaugeMetricFamily(HEARTBEAT_AGE, "Seconds since last heartbeat", labels=LABELS)
    for seen in sorted(sightings.of_all(), key=lambda one: one.name):
        judged, labels = judge(seen), [seen.name, seen.environment_id, seen.role]
        score.add_metric(labels, judged.health.score)
        age.add_metric(labels, judged.age_seconds if judged.age_seconds is not None else float("inf"))
    yield score
    yield age


def _failover() -> Metric:
    active = GaugeMetricFamily(FAILOVER_ACTIVE, "1 if DR is active for environment", labels=["environment"])
    for route in Route.objects.select_related("active_gateway").order_by("environment_id"):
        on_dr = route.active_gateway is not None and route.active_gateway.role == Role.DR_STANDBY
        active.add_metric([route.environment_id], 1 if on_dr else 0)
    return active


def _tasks() -> Metric:
    tasks = CounterMetricFamily(TASKS, "Total tasks by environment and status", labels=["environment", "status"])
    for tally in TaskTally.objects.order_by("environment_id", "status"):
        tasks.add_metric([tally.environment_id, tally.status], tally.total)
    return tasks


def _writes() -> Metric:
    """A counter by outcome; what arrives again is counted as a duplicate."""
    family = CounterMetricFamily(WRITES, "Writes of gateways by environment and outcome", labels=["environment", "outcome"])
    for tally in WriteTally.objects.order_by("environment_id", "outcome"):
        family.add_metric([tally.environment_id, tally.outcome], tally.total)
    return family


def _open_writes() -> Iterator[Metric]:
    """Writes that wait for their turn or for a person, and how long the oldest one of an environment has waited."""
    count = GaugeMetricFamily(WRITES_OPEN, "Writes not settled by environment and outcome", labels=["environment", "outcome"])
    age = GaugeMetricFamily(WRITES_OPEN_OLDEST, "Age of the oldest write not settled", labels=["environment"])
    found = {(row["code"], row["outcome"]): (row["writes"], row["oldest"]) for row in sightings.read(_OPEN_WRITES, {})}
    for code in GatewayEnvironment.objects.order_by("code").values_list("code", flat=True):
        oldest = [found[code, outcome][1] for outcome in OPEN if (code, outcome) in found]
        age.add_metric([code], max(0.0, *oldest) if oldest else 0.0)
        for outcome in OPEN:
            count.add_metric([code, outcome.value], found.get((code, outcome), (0, None))[0])
    yield count
    yield age


def _durations() -> Metric:
    family = HistogramMetricFamily(TASK_DURATION, "Task execution duration", labels=LABELS)
    bounds = [str(float(bucket)) for bucket in DURATION_BUCKETS] + ["+Inf"]
    series: dict[tuple[str, str, str], list[DurationTally]] = defaultdict(list)
    for row in DurationTally.objects.select_related("gateway").order_by("gateway__name"):
        series[row.gateway.name, row.gateway.environment_id, row.gateway.role].append(row)
    for labels, rows in series.items():  # gateways that had one name after the other are one series
        running, buckets = 0, []
        for bound in bounds:
            running += sum(row.total for row in rows if row.upper_bound == bound)
            buckets.append((bound, running))
        family.add_metric(list(labels), buckets, sum_value=sum(row.seconds for row in rows))
    return family
