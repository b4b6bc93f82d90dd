"""Reads of the fleet for people: plain dictionaries in the shape the API answers."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from accounts.names import names_of
from common.api import rfc3339
from common.errors import NotFound
from gateways import instances, lease_blocks, sightings
from gateways.acting import Acting, ActingFacts, told_of, watched_from
from gateways.directives import assignment_of
from gateways.heartbeats import judge
from gateways.models import BootstrapTokenRow, GatewayCertificate, RejectedResult, Task
from gateways.sightings import RouteFacts, Sighting
from protocol.vocabulary import ActivationStatus, Assignment, HealthLabel, Role, StandbyMode

FAILURE_THRESHOLD = 3
"""Missed heartbeats after which a gateway counts as failed (seed §10.2: alert above 3)."""


CERTIFICATES_SHOWN = 50
"""Newest certificates of a gateway that are shown with it."""


def gateway_health() -> list[dict[str, Any]]:
    """The rows of `GET admin/gateway-health`, one a gateway, from two statements."""
    gateways, told = sightings.of_all(), instances.told_of_all()
    return [_health_row(seen, told.get(seen.id, instances.Told())) for seen in gateways]


def gateway_rows() -> list[dict[str, Any]]:
    """All living gateways, from one statement."""
    return [_gateway_row(seen) for seen in sightings.of_all()]


def gateway_row(identifier: uuid.UUID, *, with_certificates: bool = False) -> dict[str, Any]:
    """One gateway as the API shows it. Raises `NotFound`."""
    seen = sightings.of(identifier)
    if seen is None:
        raise NotFound("there is no such gateway")
    row = _gateway_row(seen)
    if with_certificates:
        certificates = GatewayCertificate.objects.filter(gateway_id=identifier).order_by("-issued_at")
        row["certificates"] = [_certificate_row(one) for one in certificates[:CERTIFICATES_SHOWN]]
    return row


def _gateway_row(gateway: Sighting) -> dict[str, Any]:
    """Nothing in it is secret."""
    return {
        "id": str(gateway.id),
        "name": gateway.name,
        "environment": gateway.environment_id,
        "role": gateway.role,
        "standby_mode": gateway.standby_mode,
        "assigned_role": assignment_of(gateway, gateway.route).value,
        "version": gateway.version,
        "generation": str(gateway.generation),
        "enrolled_at": rfc3339(gateway.enrolled_at),
        "created_at": rfc3339(gateway.created_at),
        "banned_at": rfc3339(gateway.banned_at),
        "drained_at": rfc3339(gateway.drained_at),
        "held_at": rfc3339(gateway.held_at),
        "held_reason": gateway.held_reason,
    }


def token_rows(rows: Iterable[BootstrapTokenRow], moment: datetime) -> list[dict[str, Any]]:
    """Bootstrap tokens without their secrets."""
    found = list(rows)
    names = names_of(row.created_by for row in found)
    return [_token_row(row, moment, names) for row in found]


def _token_row(row: BootstrapTokenRow, moment: datetime, names: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "name": row.name,
        "environment": row.environment_id,
        "role": row.role,
        "standby_mode": row.standby_mode,
        "state": _token_state(row, moment),
        "created_by": row.created_by,
        "created_by_name": names.get(row.created_by),
        "created_at": rfc3339(row.created_at),
        "expires_at": rfc3339(row.expires_at),
        "used_at": rfc3339(row.used_at),
        "revoked_at": rfc3339(row.revoked_at),
        "gateway_id": str(row.gateway_id) if row.gateway_id else None,
    }


def tasks() -> QuerySet[Task]:
    """Tasks with what their rows show, counted by the statement that finds them."""
    rejected = RejectedResult.objects.filter(task=OuterRef("pk")).order_by().values("task").annotate(n=Count("pk")).values("n")
    counted = Coalesce(Subquery(rejected), 0, output_field=IntegerField())
    return Task.objects.select_related("gateway").annotate(rejections=counted)


def task_rows(tasks: Iterable[Task]) -> list[dict[str, Any]]:
    found = list(tasks)
    names = names_of(task.created_by for task in found)
    return [_task_row(task, names) for task in found]


def _task_row(task: Task, names: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": str(task.id),
        "environment": task.environment_id,
        "kind": task.kind,
        "payload": task.payload,
        "state": task.state,
        "attempts": task.attempts,
        "epoch": task.epoch,
        "gateway": task.gateway.name if task.gateway else None,
        "created_by": task.created_by,
        "created_by_name": names.get(task.created_by),
        "created_at": rfc3339(task.created_at),
        "not_before": rfc3339(task.not_before),
        "claim_until": rfc3339(task.claim_until),
        "finished_at": rfc3339(task.finished_at),
        "duration_seconds": task.duration_seconds,
        "detail": task.detail,
        "result": task.result,
        "rejected_results": task.rejections if hasattr(task, "rejections") else task.rejected_results.count(),
    }


def activation_status(gateway: Sighting, label: HealthLabel) -> ActivationStatus:
    """One word for people, from the route first and from silence second; a cold standby's silence is no failure."""
    assigned = assignment_of(gateway, gateway.route)
    silent = label is HealthLabel.SILENT or gateway.consecutive_failures >= FAILURE_THRESHOLD
    if gateway.banned_at:
        return ActivationStatus.BANNED
    if assigned is Assignment.STANDBY and gateway.standby_mode == StandbyMode.COLD and silent:
        return ActivationStatus.COLD
    if gateway.stopped:
        return ActivationStatus.STOPPED
    if silent and gateway.heartbeat_at is not None:
        return ActivationStatus.FAILED
    return ActivationStatus(assigned.value)


def _acting(gateway: Sighting, lives: instances.Told) -> Acting | None:
    """Whether it may act now; None for a gateway that is not the active one of its environment."""
    route = gateway.route
    if route is None or route.active_gateway_id != gateway.id:
        return None
    acting = _told_of_acting(gateway, route, lives)
    if acting.may_act or route.lease_open:
        return acting
    code = gateway.environment_id
    return replace(
        acting, headline=f"{code}: nobody may act, and no lease is given now", next_step=f"see GET admin/failover/{code}"
    )


def _told_of_acting(gateway: Sighting, route: RouteFacts, told: instances.Told) -> Acting:
    return told_of(ActingFacts(
        environment=gateway.environment_id, now=gateway.moment, active=gateway.name, on_dr=gateway.role == Role.DR_STANDBY,
        lease_until=route.lease_until, blocked_until=lease_blocks.shown_until(route.lease_blocked_until, gateway.moment),
        switched_at=route.switched_at, stopped_at=told.stopped_at, started_at=told.started_at, waits_until=told.waits_until,
        watched_since=watched_from(gateway.judged_at, gateway.watched_since, gateway.moment),
    ))  # fmt: skip


def _health_row(gateway: Sighting, told: instances.Told) -> dict[str, Any]:
    judged, report, days = judge(gateway), gateway.report, gateway.certificate_days_left
    acting = _acting(gateway, told)
    set_aside = [f"{'quarantined' if gateway.held_code else 'held'}: {gateway.held_reason}"] if gateway.held_at else []
    idle = [acting.headline] if acting and not acting.may_act else []
    label = HealthLabel.DEGRADED if idle and judged.label is HealthLabel.HEALTHY else judged.label
    return {
        "id": str(gateway.id),
        "name": gateway.name,
        "environment": gateway.environment_id,
        "role": gateway.role,
        "health_score": judged.health.score,
        "health": label.value,
        "activation_status": activation_status(gateway, judged.label).value,
        "last_heartbeat": rfc3339(gateway.heartbeat_at),
        "heartbeat_age_seconds": round(judged.age_seconds, 3) if judged.age_seconds is not None else None,
        "consecutive_failures": gateway.consecutive_failures,
        "parts": judged.health.parts,
        "caps": list(judged.health.caps),
        "why": [*idle, *judged.health.why, *set_aside, *told.complaints],
        "headline": acting.headline if acting else _told_of_standby(gateway, judged.label, told),
        "next": acting.next_step if acting else "",
        "may_act": bool(acting and acting.may_act),
        "lease_until": rfc3339(gateway.route.lease_until) if acting and gateway.route else None,
        "lease_ended_seconds": acting.lease_ended_seconds if acting else None,
        "stopped_at": rfc3339(told.stopped_at),
        "reported_role": report.get("reported_role"),
        "assigned_role": assignment_of(gateway, gateway.route).value,
        "epoch": report.get("epoch", 0),
        "version": gateway.version,
        "write_queue": {
            "depth": report.get("write_queue_depth", 0),
            "oldest_seconds": report.get("write_queue_oldest_seconds", 0),
            "last_sequence": report.get("write_queue_last_sequence", 0),
        },
        "certificate_days_left": round(days, 2) if days is not None else None,
    }


def _told_of_standby(gateway: Sighting, label: HealthLabel, told: instances.Told) -> str:
    if told.stopped_at:
        return f"{gateway.name} was stopped in order {max(0.0, (gateway.moment - told.stopped_at).total_seconds()):.0f} s ago"
    word = activation_status(gateway, label)
    return f"{gateway.name} is {'on standby' if word is ActivationStatus.STANDBY else word.value}"


def _certificate_row(certificate: GatewayCertificate) -> dict[str, Any]:
    return {
        "serial": certificate.serial,
        "fingerprint_sha256": certificate.fingerprint,
        "not_before": rfc3339(certificate.not_before),
        "not_after": rfc3339(certificate.not_after),
        "revoked_at": rfc3339(certificate.revoked_at),
        "revoked_reason": certificate.revoked_reason,
    }


def _token_state(row: BootstrapTokenRow, moment: datetime) -> str:
    if row.used_at:
        return "used"
    if row.revoked_at:
        return "revoked"
    return "expired" if row.expires_at <= moment else "unused"
