"""What retention has removed and how large the growing tables are, for a scrape: two statements."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common import retention


class RetentionCollector(Collector):
    """For the tables of one kind of node."""

    def __init__(self, mode: str) -> None:
        self._mode = mode

    def collect(self) -> Iterator[Metric]:
        removed = CounterMetricFamily(
            "mazevault_retention_rows_removed", "Rows removed because their time was over", labels=["table"]
        )
        rows = GaugeMetricFamily(
            "mazevault_table_rows", "About how many rows a growing table has, as PostgreSQL last counted", labels=["table"]
        )
        for table, total in retention.removed().items():
            removed.add_metric([table], total)
        for table, count in retention.table_rows(self._mode):
            rows.add_metric([table], count)
        yield removed
        yield rows
