"""What Prometheus sees of sync rules and rotations, from the database at scrape time (DESIGN §11)."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.statements import fetch
from integrations import tallies
from integrations.models import RunState
from protocol.sync import RunPhase

SYNC_OPERATIONS, ROTATIONS = "mazevault_sync_operations", "mazevault_rotation_operations"
SYNC_RULES = "mazevault_sync_rules"
NEVER, PAUSED = "never", "paused"
_TALLIES = "SELECT operation, kind, result, total FROM integrations_operationtally ORDER BY operation, kind, result"
_RULES = """
SELECT CASE WHEN r.paused THEN %(paused)s::text ELSE coalesce(last.state, %(never)s::text) END AS ended, count(*)
  FROM integrations_syncrule r JOIN accounts_project p ON p.id = r.project_id AND p.deleted_at IS NULL
  LEFT JOIN LATERAL (SELECT state FROM integrations_syncrun WHERE rule_id = r.id AND phase = %(phase)s
                      ORDER BY created_at DESC LIMIT 1) last ON true
 WHERE r.deleted_at IS NULL GROUP BY 1
"""


class SyncCollector(Collector):
    """Steps and rotations as counters, rules by how their last run ended as a gauge."""

    def collect(self) -> Iterator[Metric]:
        steps = CounterMetricFamily(SYNC_OPERATIONS, "Steps of sync runs by kind and result", labels=["kind", "result"])
        ends = CounterMetricFamily(ROTATIONS, "Rotations of secrets by result", labels=["result"])
        for operation, kind, result, total in fetch(_TALLIES, {}):
            if operation == tallies.SYNC:
                steps.add_metric([kind, result], total)
            else:
                ends.add_metric([result], total)
        yield steps
        yield ends
        yield _rules()


def _rules() -> Metric:
    """A rule that is paused counts as such, whatever its last run did."""
    gauge = GaugeMetricFamily(SYNC_RULES, "Sync rules by how their last run ended", labels=["state"])
    found = dict(fetch(_RULES, {"paused": PAUSED, "never": NEVER, "phase": RunPhase.APPLY.value}))
    for state in (*RunState.values, NEVER, PAUSED):
        gauge.add_metric([state], found.get(state, 0))
    return gauge
