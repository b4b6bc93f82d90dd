"""The five fleet metrics of the seed, computed from the database at scrape time (DESIGN §11)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import accumulate
from operator import itemgetter
from typing import LiteralString

from django.conf import settings
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from common.exposition import escaped, head, histogram, number
from common.statements import fetch
from gateways import sightings
from gateways.dispatch import DURATION_BUCKETS
from gateways.health import Bare, score_alone
from gateways.settlement import KEPT
from protocol.vocabulary import Role, WriteOutcome

OPEN = (WriteOutcome.RECEIVED, *KEPT)
_NAME = itemgetter(0)
_FLEET: LiteralString = (
    """
SELECT g.name, g.environment_id, g.role, g.standby_mode = 'cold',
       CASE WHEN s.heartbeat_at IS NOT NULL
            THEN greatest(0, extract(epoch FROM clock_timestamp() - s.heartbeat_at))::float8 END,
       (s.report #>> '{database,ok}')::boolean, (s.report #>> '{gateway_key_vault,ok}')::boolean,
       coalesce(jsonb_array_length(jsonb_path_query_array(s.report, '$.project_key_vaults[*] ? (@.ok == true)')), 0),
       coalesce(jsonb_array_length(jsonb_path_query_array(s.report, '$.project_key_vaults[*] ? (@.ok == false)')), 0),
       (s.report #>> '{cache,ok}')::boolean,
       coalesce((s.report ->> 'write_queue_depth')::bigint, 0), coalesce(t.good, 0)::bigint, coalesce(t.bad, 0)::bigint,
       (s.report ->> 'primary_latency_p95_ms')::float8, coalesce(s.clock_skew_seconds, 0.0),
       (extract(epoch FROM c.not_after - clock_timestamp()) / 86400)::float8,
       coalesce(s.report ->> 'breaker', 'closed'),
       coalesce(s.report ->> 'reported_role', '') = 'active'
       AND NOT coalesce(r.active_gateway_id = g.id AND r.epoch = coalesce((s.report ->> 'epoch')::bigint, 0), false),
       split_part(coalesce(s.report ->> 'version', g.version), '.', 1) = %(major)s::text, coalesce(e.ended, false)
  FROM """
    + sightings.SOURCES
    + """ WHERE """
    + sightings.LIVING
)
"""What `health` judges of each gateway, without reports being read whole."""
_DURATIONS: LiteralString = """
SELECT g.name, g.environment_id, g.role, sum(d.seconds)::float8, array_agg(d.upper_bound::text), array_agg(d.total)
  FROM gateways_durationtally d JOIN gateways_gateway g ON g.id = d.gateway_id GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
_ROUTES: LiteralString = """
SELECT r.environment_id, g.role = %(dr)s::text, r.active_gateway_id IS NOT NULL,
       coalesce(r.lease_until > clock_timestamp(), false)
  FROM gateways_route r LEFT JOIN gateways_gateway g ON g.id = r.active_gateway_id ORDER BY 1
"""
_TASKS: LiteralString = "SELECT environment_id, status, total FROM gateways_tasktally ORDER BY 1, 2"
_WRITES: LiteralString = "SELECT environment_id, outcome, total FROM gateways_writetally ORDER BY 1, 2"
_OPEN_WRITES: LiteralString = """
SELECT code, NULL, 0, NULL FROM gateways_gatewayenvironment
UNION ALL
SELECT environment_id, outcome, count(*), extract(epoch FROM clock_timestamp() - min(received_at))::float8
  FROM gateways_receivedwrite WHERE outcome = 'received' GROUP BY 1, 2
UNION ALL
SELECT environment_id, outcome, count(*), extract(epoch FROM clock_timestamp() - min(received_at))::float8
  FROM gateways_receivedwrite WHERE outcome IN ('conflict', 'quarantined', 'dead_letter') AND resolution = '' GROUP BY 1, 2
"""
"""Every environment, and what is open in it; each half of that has an index of its own that holds the open writes only."""
HEALTH_SCORE = "mazevault_gateway_health_score"
HEARTBEAT_AGE = "mazevault_gateway_heartbeat_age_seconds"
COLD = "mazevault_gateway_cold"
FAILOVER_ACTIVE = "mazevault_gateway_failover_active"
MAY_ACT = "mazevault_gateway_may_act"
TASKS = "mazevault_gateway_tasks"  # the exposition format adds _total to a counter's name
WRITES = "mazevault_gateway_writes"
WRITES_OPEN = "mazevault_gateway_writes_open"
WRITES_OPEN_OLDEST = "mazevault_gateway_writes_open_oldest_seconds"
TASK_DURATION = "mazevault_gateway_task_duration_seconds"


class FleetCollector(Collector):
    """Counters of what was done. Holds nothing between scrapes, so any replica answers the same."""

    def collect(self) -> Iterator[Metric]:
        yield _tasks()
        yield _writes()


def text_of_fleet() -> str:
    """What has a series for each gateway or environment: four statements and no object of a library, however many there are."""
    scores, ages, cold, timing = [], [], [], settings.MAZEVAULT.timing
    for name, code, role, is_cold, *facts in sorted(
        fetch(_FLEET, {"major": settings.MAZEVAULT.version.split(".", 1)[0]}), key=_NAME
    ):
        labels = f'{{environment="{escaped(code)}",gateway="{escaped(name)}",role="{escaped(role)}"}} '
        bare = Bare._make(facts)
        scores.append(f"{HEALTH_SCORE}{labels}{score_alone(bare, timing)!r}\n")
        if is_cold:
            cold.append(f"{COLD}{labels}1.0\n")
        ages.append(f"{HEARTBEAT_AGE}{labels}{number(math.inf if bare.age is None else bare.age)}\n")
    return "".join([
        head(HEALTH_SCORE, "gauge", "Health score per gateway (0.0-1.0)"), *scores,
        head(HEARTBEAT_AGE, "gauge", "Seconds since last heartbeat"), *ages,
        head(COLD, "gauge", "1 for a cold standby, which is off until it is needed"), *cold,
        head(TASK_DURATION, "histogram", "Task execution duration"), *_durations(), *_failover(), *_open_writes(),
    ])  # fmt: skip


def _failover() -> Iterator[str]:
    rows = fetch(_ROUTES, {"dr": Role.DR_STANDBY.value})
    yield head(FAILOVER_ACTIVE, "gauge", "1 if DR is active for environment")
    for code, on_dr, _, _ in rows:
        yield f'{FAILOVER_ACTIVE}{{environment="{escaped(code)}"}} {"1.0" if on_dr else "0.0"}\n'
    yield head(MAY_ACT, "gauge", "1 if a gateway holds the lease of the environment, 0 if nobody may act")
    for code, _, is_assigned, lives in rows:
        if is_assigned:
            yield f'{MAY_ACT}{{environment="{escaped(code)}"}} {"1.0" if lives else "0.0"}\n'


def _tasks() -> Metric:
    tasks = CounterMetricFamily(TASKS, "Total tasks by environment and status", labels=["environment", "status"])
    for code, status, total in fetch(_TASKS, {}):
        tasks.add_metric([code, status], total)
    return tasks


def _writes() -> Metric:
    """A counter by outcome; what arrives again is counted as a duplicate."""
    family = CounterMetricFamily(WRITES, "Writes of gateways by environment and outcome", labels=["environment", "outcome"])
    for code, outcome, total in fetch(_WRITES, {}):
        family.add_metric([code, outcome], total)
    return family


def _open_writes() -> Iterator[str]:
    """Writes that wait for their turn or for a person, and how long the oldest one of an environment has waited."""
    environments, found = list[str](), dict[str, dict[str, tuple[int, float]]]()
    for code, outcome, writes, oldest in fetch(_OPEN_WRITES, {}):
        if outcome is None:
            environments.append(code)
        else:
            found.setdefault(code, {})[outcome] = writes, max(0.0, oldest)
    environments.sort()
    yield head(WRITES_OPEN, "gauge", "Writes not settled by environment and outcome")
    for code in environments:
        yield _counts(code, found[code]) if code in found else _nothing_open(code)
    yield head(WRITES_OPEN_OLDEST, "gauge", "Age of the oldest write not settled")
    for code in environments:
        oldest = max(age for _, age in found[code].values()) if code in found else 0.0
        yield f'{WRITES_OPEN_OLDEST}{{environment="{escaped(code)}"}} {number(oldest)}\n'


@lru_cache(maxsize=65_536)
def _nothing_open(code: str) -> str:
    return _counts(code, {})


def _counts(code: str, found: Mapping[str, tuple[int, float]]) -> str:
    name = f'{WRITES_OPEN}{{environment="{escaped(code)}",outcome='
    return "".join(f'{name}"{outcome.value}"}} {number(found.get(outcome.value, (0, 0.0))[0])}\n' for outcome in OPEN)


def _durations() -> Iterator[str]:
    bounds = (*(str(float(bucket)) for bucket in DURATION_BUCKETS), "+Inf")
    for name, code, role, seconds, found, totals in fetch(_DURATIONS, {}):
        counted = dict.fromkeys(bounds, 0)
        for bound, total in zip(found, totals, strict=True):  # gateways that had one name after the other are one series
            counted[bound] += total
        before, behind = f'environment="{escaped(code)}",gateway="{escaped(name)}"', f'role="{escaped(role)}"'
        yield histogram(TASK_DURATION, before, behind, bounds, tuple(accumulate(counted.values())), seconds)
