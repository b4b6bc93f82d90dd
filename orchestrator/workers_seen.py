"""Whether beat and a worker of the Primary run: each half minute beat sends a job, and what it leaves in Redis is what is seen.

A Primary does all its work without them too (`orchestrator.loops`), so this is a warning and no fault. Redis holds nothing else
of ours that is missed (I19): where it was emptied, nothing is said until the next job.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from django.core.cache import BaseCache, cache, caches
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common import health
from common.clock import now

KEY, KEPT_SECONDS = "a-worker-was-seen-at", 86_400
"""A worker that was not seen for a day is none that anybody waits for."""
CACHE_UP, AGE = "mazevault_cache_up", "mazevault_worker_age_seconds"


def leave_word() -> None:
    cache.set(KEY, now().timestamp(), KEPT_SECONDS)


class WorkerCollector(Collector):
    """No statement. Waits for Redis no longer than a question for health does (0.6 s)."""

    def collect(self) -> Iterator[Metric]:
        [answers] = health.found(_prober)
        yield GaugeMetricFamily(CACHE_UP, "1 if Redis answers", value=int(answers))
        if answers and _seen:
            age = max(0.0, now().timestamp() - _seen[0])
            yield GaugeMetricFamily(AGE, "Seconds since beat and a worker were seen at work", value=age)


_seen: list[float] = []
"""The time found at the last question, if there was one."""


@lru_cache(maxsize=1)
def _own() -> BaseCache:
    """One for all scrapes: the framework makes one for each thread, and so a connection for each question."""
    made: BaseCache = caches.create_connection("default")
    return made


def _look() -> bool:
    found = _own().get(KEY)
    _seen[:] = [found] if isinstance(found, float) else []
    return True


_prober = health.Prober("cache with the word of workers", _look)
