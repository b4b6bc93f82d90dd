"""What the database knows of gateways at one moment of its own clock: one statement, however many gateways there are.

Everything that is judged of a gateway (score, label, directive, metrics) is computed from these facts. The statement costs the
same whatever was done before: it reads current rows, the newest certificate and sixteen counters of minutes.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from common.statements import fetch_named, plain
from protocol.vocabulary import HealthLabel

TASK_WINDOW = timedelta(minutes=15)
"""Task success is judged over this time (reliability §4.6), in whole minutes."""

_GATEWAY = ("id", "name", "environment_id", "role", "standby_mode", "generation", "version", "enrolled_at", "created_at",
            "banned_at", "drained_at", "held_at", "held_reason", "held_code", "orders")  # fmt: skip
_STATUS = ("heartbeat_at", "report", "clock_skew_seconds", "score", "label", "label_memory", "stable_since", "good_in_row",
           "consecutive_failures", "highest_epoch", "judged_at", "watched_since", "resync_ordered_at", "resync_begun_at",
           "resync_ended_at")  # fmt: skip
_ROUTE = ("epoch", "active_gateway_id", "lease_open", "fence_operation", "fence_number", "fence_cancelled", "drain_operation",
          "danger", "orders", "lease_until", "lease_blocked_until", "switched_at")  # fmt: skip


@dataclass(frozen=True)
class RouteFacts:
    """The part of a `Route` that decides what its gateways are told; the names are the row's."""

    epoch: int
    active_gateway_id: uuid.UUID | None
    lease_open: bool
    fence_operation: uuid.UUID | None
    fence_number: int
    fence_cancelled: bool
    drain_operation: uuid.UUID | None
    danger: str
    orders: int
    lease_until: datetime | None = None
    lease_blocked_until: datetime | None = None
    switched_at: datetime | None = None


@dataclass(frozen=True)
class Sighting:
    """One gateway at `moment`. The names are those of the rows; a gateway that never sent a heartbeat has `heard` False."""

    moment: datetime
    id: uuid.UUID
    name: str
    environment_id: str
    role: str
    standby_mode: str
    generation: uuid.UUID
    version: str
    enrolled_at: datetime
    created_at: datetime
    banned_at: datetime | None
    drained_at: datetime | None
    held_at: datetime | None
    held_reason: str
    held_code: str
    orders: int
    heard: bool
    heartbeat_at: datetime | None
    report: dict[str, Any]
    clock_skew_seconds: float
    score: float
    label: str
    label_memory: dict[str, Any]
    stable_since: datetime | None
    good_in_row: int
    consecutive_failures: int
    highest_epoch: int
    judged_at: datetime | None
    watched_since: datetime | None
    resync_ordered_at: datetime | None
    resync_begun_at: datetime | None
    resync_ended_at: datetime | None
    certificate_from: datetime | None
    certificate_until: datetime | None
    renewal_ordered_at: datetime | None
    tasks_good: int
    tasks_bad: int
    route: RouteFacts | None
    stopped: bool = False
    """Whether its process said goodbye, and no other one came since."""

    @property
    def certificate_days_left(self) -> float | None:
        return (self.certificate_until - self.moment).total_seconds() / 86400 if self.certificate_until else None

    @property
    def age_seconds(self) -> float | None:
        """Seconds since the last heartbeat, None when there was none."""
        return max(0.0, (self.moment - self.heartbeat_at).total_seconds()) if self.heartbeat_at else None


COLUMNS = f"""
    clock_timestamp() AS moment, {", ".join(f"g.{name}" for name in _GATEWAY)},
    s.gateway_id IS NOT NULL AS heard, {", ".join(f"s.{name}" for name in _STATUS)},
    c.not_before AS certificate_from, c.not_after AS certificate_until, c.renewal_ordered_at,
    coalesce(e.ended, false) AS stopped, coalesce(t.good, 0)::bigint AS tasks_good, coalesce(t.bad, 0)::bigint AS tasks_bad,
    r.environment_id AS route_of, {", ".join(f"r.{name} AS route_{name}" for name in _ROUTE)}
"""
SOURCES = f"""
    gateways_gateway g
    LEFT JOIN gateways_gatewaystatus s ON s.gateway_id = g.id
    LEFT JOIN gateways_gatewaypresence e ON e.gateway_id = g.id AND e.generation = g.generation
    LEFT JOIN gateways_route r ON r.environment_id = g.environment_id
    LEFT JOIN LATERAL (SELECT not_before, not_after, renewal_ordered_at FROM gateways_gatewaycertificate
                        WHERE gateway_id = g.id AND revoked_at IS NULL ORDER BY not_after DESC, issued_at DESC LIMIT 1) c ON true
    LEFT JOIN LATERAL (SELECT sum(good) AS good, sum(bad) AS bad FROM gateways_taskminute
                        WHERE gateway_id = g.id
                          AND minute > statement_timestamp() - interval '{int(TASK_WINDOW.total_seconds())} seconds') t ON true
"""  # noqa: S608  constants of this module
LIVING = "g.decommissioned_at IS NULL"
_DEFAULTS = {"report": {}, "clock_skew_seconds": 0.0, "score": 0.0, "label": HealthLabel.SILENT.value, "label_memory": {},
             "good_in_row": 0, "consecutive_failures": 0, "highest_epoch": 0}  # fmt: skip
_NAMES = frozenset(field.name for field in fields(Sighting))


def of(gateway: uuid.UUID) -> Sighting | None:
    """One gateway now, living or not; None when there is no such gateway."""
    rows = fetch_named(f"SELECT {COLUMNS} FROM {SOURCES} WHERE g.id = %(gateway)s", {"gateway": gateway})  # noqa: S608
    return sighting(rows[0]) if rows else None


def of_all() -> list[Sighting]:
    """Every living gateway, by environment and with the primary one first."""
    text = f"SELECT {COLUMNS} FROM {SOURCES} WHERE {LIVING} ORDER BY g.environment_id, g.role DESC, g.name"  # noqa: S608
    return [sighting(row) for row in fetch_named(text, {})]


def sighting(row: dict[str, Any]) -> Sighting:
    """The facts in a row of `COLUMNS`; columns beyond them are left alone."""
    facts = {name: row[name] for name in _NAMES if name in row}
    facts |= {name: empty for name, empty in _DEFAULTS.items() if facts[name] is None}
    facts |= {name: plain(facts[name]) for name in ("report", "label_memory")}
    route = RouteFacts(**{name: row[f"route_{name}"] for name in _ROUTE}) if row["route_of"] else None
    return Sighting(**facts, route=route)
