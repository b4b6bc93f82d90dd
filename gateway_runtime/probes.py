"""Measurements a gateway makes of its own surroundings. Each answers with a `Probe`; none raises."""

from __future__ import annotations

import time
from collections.abc import Callable

from django.conf import settings
from django.core.cache import cache
from django.db import connection

from protocol.messages import Probe


def database() -> Probe:
    """A round trip to the gateway's own PostgreSQL."""

    def ask() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    return _measured(ask)


def cache_server() -> Probe:
    """A round trip to the gateway's Redis or Valkey; not configured means left out of the score."""
    if not settings.MAZEVAULT.redis_url:
        return Probe(ok=None)
    return _measured(lambda: cache.get("probe"))


def _measured(ask: Callable[[], object]) -> Probe:
    began = time.monotonic()
    try:
        ask()
    except Exception as error:  # whatever a driver raises, the finding is the same: it does not answer
        return Probe(ok=False, detail=type(error).__name__)
    return Probe(ok=True, latency_ms=round((time.monotonic() - began) * 1000, 2))
