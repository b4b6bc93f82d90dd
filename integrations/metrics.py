"""What Prometheus sees of sync rules and rotations, from the database at scrape time (DESIGN §11)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from django.db.models import OuterRef, Subquery
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from integrations import tallies
from integrations.models import OperationTally, RunState, SyncRule, SyncRun
from protocol.sync import RunPhase

SYNC_OPERATIONS, ROTATIONS = "mazevault_sync_operations", "mazevault_rotation_operations"
SYNC_RULES = "mazevault_sync_rules"
NEVER, PAUSED = "never", "paused"


class SyncCollector(Collector):
    """Steps and rotations as counters, rules by how their last run ended as a gauge."""

    def collect(self) -> Iterator[Metric]:
        steps = CounterMetricFamily(SYNC_OPERATIONS, "Steps of sync runs by kind and result", labels=["kind", "result"])
        ends = CounterMetricFamily(ROTATIONS, "Rotations of secrets by result", labels=["result"])
        for row in OperationTally.objects.order_by("operation", "kind", "result"):
            if row.operation == tallies.SYNC:
                steps.add_metric([row.kind, row.result], row.total)
            else:
                ends.add_metric([row.result], row.total)
        yield steps
        yield ends
        yield _rules()


def _rules() -> Metric:
    """A rule that is paused counts as such, whatever its last run did."""
    gauge = GaugeMetricFamily(SYNC_RULES, "Sync rules by how their last run ended", labels=["state"])
    last = SyncRun.objects.filter(rule=OuterRef("id"), phase=RunPhase.APPLY).order_by("-created_at")
    rules = SyncRule.objects.filter(deleted_at=None, project__deleted_at=None).annotate(last=Subquery(last.values("state")[:1]))
    found = Counter(PAUSED if paused else state or NEVER for paused, state in rules.values_list("paused", "last"))
    for state in (*RunState.values, NEVER, PAUSED):
        gauge.add_metric([state], found[state])
    return gauge
