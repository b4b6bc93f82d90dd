"""How a heartbeat, a lease and a scrape grow with what is stored: milliseconds and the exponent of the growth (0 is none).

Real PostgreSQL, the product's own views in this process, no network. Sizes by argument: `MAZEVAULT_BENCH_SECRETS` and
`MAZEVAULT_BENCH_TASKS`, each a list of numbers.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

from benchmarks.reconcile import cast, on_a_database

SECRETS = [10, 1000, 10_000]
TASKS = [0, 10_000, 300_000]
ROUNDS = 15
_SECRETS = """
INSERT INTO vault_secret (id, project_id, environment_id, key, type, description, tags, metadata, ttl_hours, rotation, status,
                          version, created_by, created_at, updated_at)
SELECT gen_random_uuid(), project_id, environment_id, 'grown/' || %s || '/' || i, 'general', '', '[]', '{}', 0, NULL, 'active', 1,
       'x', now(), now() FROM (SELECT * FROM vault_secret LIMIT 1) one, generate_series(1, %s) AS i
RETURNING id
"""
_NOTED = "INSERT INTO common_change (scope, kind, entity_id) SELECT 'NPR', 'secret', id FROM vault_secret WHERE key LIKE %s"
_TASKS = """
INSERT INTO gateways_task (id, environment_id, kind, payload, state, created_by, created_at, not_before, attempts, epoch,
                           gateway_id, claim, finished_at, duration_seconds, detail, result)
SELECT gen_random_uuid(), 'NPR', 'sync.run', '{}', 'succeeded', 'user:x', now(), now(), 1, 1, %s, gen_random_uuid(),
       now() - interval '1 day', 1.0, 'done', '{}' FROM generate_series(1, %s)
"""


def growth() -> dict[str, object]:
    """Cost of each operation at each size, and the exponents."""
    return on_a_database(_measure)


def exponent(sizes: list[int], costs: list[float]) -> float:
    """The slope of cost over size, both as logarithms, by least squares. Sizes below one count as one."""
    points = [(math.log(max(1, size)), math.log(cost)) for size, cost in zip(sizes, costs, strict=True)]
    middle_x, middle_y = (sum(one[axis] for one in points) / len(points) for axis in (0, 1))
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return round(sum((x - middle_x) * (y - middle_y) for x, y in points) / spread, 3) if spread else 0.0


def _measure() -> dict[str, object]:
    made = cast()
    by_secrets = _series("MAZEVAULT_BENCH_SECRETS", SECRETS, lambda more: _grow_secrets(more), made)
    by_tasks = _series("MAZEVAULT_BENCH_TASKS", TASKS, lambda more: _sql(_TASKS, made["gateway"].id, more), made)
    return {
        "by_secrets": by_secrets, "by_old_tasks": by_tasks,
        "method": f"milliseconds, the best of {ROUNDS}; each heartbeat finds a new head and compares its copy with it",
    }  # fmt: skip


def _series(variable: str, usual: list[int], grow: Callable[[int], object], made: dict[str, Any]) -> dict[str, object]:
    sizes = [int(one) for one in os.environ.get(variable, "").split(",") if one] or usual
    rows, have = list[dict[str, float]](), 0
    for size in sizes:
        if size > have:
            grow(size - have)
            have = size
        _sql("ANALYZE")
        rows.append(_costs(made))
    operations = list(rows[0])
    return {
        "sizes": sizes,
        "milliseconds": {name: [row[name] for row in rows] for name in operations},
        "exponents": {name: exponent(sizes, [row[name] for row in rows]) for name in operations},
    }


def _costs(made: dict[str, Any]) -> dict[str, float]:
    from django.db import transaction

    from common import feed
    from gateways import copy_digests, selectors
    from gateways.models import CopyDigest
    from orchestrator.metrics import exposition
    from protocol.replica import ReplicaKind

    gateway, secret = made["gateway"], made["secrets"][0]

    def changed() -> dict[str, Any]:
        with transaction.atomic():
            feed.note(["NPR"], ReplicaKind.SECRET, secret.id)
        copy_digests.advance_all()
        row = CopyDigest.objects.get(pk="NPR")
        return {"replica_position": row.position, "replica_digest": row.digest}

    return {
        "heartbeat": _best(lambda copy: gateway.heartbeat(**copy), changed),
        "lease": _best(lambda _: gateway.renew_lease(), dict),
        "scrape": _best(lambda _: exposition(), dict),
        "gateway_health": _best(lambda _: selectors.gateway_health(), dict),
    }


def _best(work: Callable[[Any], object], prepare: Callable[[], Any]) -> float:
    best = math.inf
    for _ in range(ROUNDS):
        ready = prepare()
        began = time.perf_counter()
        work(ready)
        best = min(best, time.perf_counter() - began)
    return round(best * 1000, 2)


def _grow_secrets(more: int) -> None:
    from gateways import copy_digests

    name = str(time.monotonic_ns())
    _sql(_SECRETS, name, more)
    _sql(_NOTED, f"grown/{name}/%")
    copy_digests.advance_all()


def _sql(text: str, *values: Any) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(text, values)
