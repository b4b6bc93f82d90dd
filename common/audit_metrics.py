"""What Prometheus sees of the audit trail of any node: how long the oldest entry waits for its place in the chain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import LiteralString

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.statements import fetch

UNSEALED = "mazevault_audit_unsealed_oldest_seconds"
_OLDEST: LiteralString = """
SELECT greatest(0, extract(epoch FROM clock_timestamp() - e.at))::float8
  FROM common_auditpending p JOIN common_auditentry e ON e.id = p.entry_id ORDER BY p.entry_id LIMIT 1
"""


class UnsealedCollector(Collector):
    """0 when every entry has its place. One statement, however many wait."""

    def collect(self) -> Iterator[Metric]:
        found = fetch(_OLDEST, {})
        text = "Age of the oldest audit entry that has no place in the chain yet"
        yield GaugeMetricFamily(UNSEALED, text, value=found[0][0] if found else 0.0)
