"""What Prometheus sees of changes that were begun in a vault and of which nobody knows yet what became (ADR 30)."""

from __future__ import annotations

from collections.abc import Iterator

from django.db.models import Count, Min
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.clock import now
from vault.models import VaultClaim

IN_DOUBT, OLDEST = "mazevault_vault_changes_in_doubt", "mazevault_vault_changes_in_doubt_oldest_seconds"


class ClaimCollector(Collector):
    """Claims that were looked into in vain: how many, and since when the oldest one was begun. One statement."""

    def collect(self) -> Iterator[Metric]:
        found = VaultClaim.objects.filter(looks__gt=0).aggregate(count=Count("id"), oldest=Min("begun_at"))
        age = (now() - found["oldest"]).total_seconds() if found["oldest"] else 0.0
        yield GaugeMetricFamily(IN_DOUBT, "Changes of a vault whose end nobody could find out yet", value=found["count"])
        yield GaugeMetricFamily(OLDEST, "Age of the oldest of them in seconds", value=max(0.0, age))
