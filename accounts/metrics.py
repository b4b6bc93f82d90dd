"""What Prometheus sees of sign-in with Entra, from the database at scrape time (DESIGN §11)."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from accounts import secret_watch
from common.clock import now


class EntraCollector(Collector):
    """One gauge, left out while nobody could say."""

    def collect(self) -> Iterator[Metric]:
        left = secret_watch.days_left(now())
        if left is not None:
            gauge = GaugeMetricFamily(secret_watch.METRIC, "Days until the client secret of the app registration ends")
            gauge.add_metric([], left)
            yield gauge
