"""What a gateway says about itself: stored, judged, labelled (DESIGN §7)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.conf import settings
from django.db import transaction
from django.db.models import Count, Q
from django.utils.dateparse import parse_datetime

from common import audit
from common.clock import now as clock_now
from common.errors import ValidationFailed
from gateways import health, losses, replicas, routes
from gateways.models import Gateway, GatewayCertificate, GatewayStatus, Route, Task
from protocol.messages import Heartbeat
from protocol.vocabulary import Assignment, HealthLabel, TaskState

log = logging.getLogger("mazevault.gateways.heartbeats")

JUDGE_SECONDS = 3.0
"""Shortest time between two looks at a silent gateway, whatever number of processes look."""
UNWATCHED_SECONDS = 8.0
"""When nobody judged a gateway for longer than this, no Primary was running, so it was not the gateway that was silent."""
HIGHEST_BELIEVED = 2**40
"""An environment that moves each second gets there in thirty thousand years. A report beyond it is no sign of an older database,
and counting on from it would lead to numbers that no message can carry."""
TASK_WINDOW = timedelta(minutes=15)
"""Task success is judged over this time (reliability §4.6)."""


@dataclass(frozen=True)
class Judged:
    """One gateway with its score at a moment and the label the hysteresis gives it."""

    gateway: Gateway
    status: GatewayStatus
    health: health.Health
    label: HealthLabel
    age_seconds: float | None
    certificate_days_left: float | None


def take_heartbeat(gateway: Gateway, beat: Heartbeat, moment: datetime) -> None:
    """Store a heartbeat and what follows from it. A higher epoch than ours freezes the environment (I4)."""
    if beat.epoch > HIGHEST_BELIEVED:
        _hold_for_its_epoch(gateway, beat.epoch, moment)
        raise ValidationFailed(f"epoch: no environment has come to {beat.epoch}; this gateway is held until somebody looks at it")
    sent = parse_moment("sent_at", beat.sent_at)
    parse_moment("certificate_expires_at", beat.certificate_expires_at)
    with transaction.atomic():
        status, _ = GatewayStatus.objects.select_for_update(of=("self",)).get_or_create(gateway=gateway)
        status.heartbeat_at = moment
        status.report = msgspec.to_builtins(beat)
        status.clock_skew_seconds = (sent - moment).total_seconds()
        status.consecutive_failures = 0
        status.highest_epoch = max(status.highest_epoch, beat.epoch)
        _relabel(status, judge_facts(gateway, status, moment), moment)
        replicas.take_position(gateway, status, beat, moment)
        losses.take_report(gateway, beat.write_queue_last_sequence)
        status.save()
        if gateway.version != beat.version:
            Gateway.objects.filter(pk=gateway.pk).update(version=beat.version)
        refuse_a_higher_epoch(gateway, beat.epoch)
    replicas.compare(gateway, beat, moment)
    losses.close_finished(gateway.environment_id)


def _hold_for_its_epoch(gateway: Gateway, epoch: int, moment: datetime) -> None:
    """It proves nothing about our database, and what it says next may be as wrong: an administrator releases it."""
    with transaction.atomic():
        why = f"it reported the epoch {epoch}, which no environment has come to"
        if Gateway.objects.filter(pk=gateway.pk, held_at=None).update(held_at=moment, held_reason=why):
            audit.record(
                actor=f"gateway:{gateway.id}", action="gateway.held", entity="gateway", entity_id=str(gateway.id),
                severity=audit.Severity.CRITICAL, environment=gateway.environment_id, details={"reported_epoch": epoch},
            )  # fmt: skip
            routes.wake(gateway.environment_id)


def refuse_a_higher_epoch(gateway: Gateway, epoch: int) -> None:
    """A gateway that has seen a later epoch than ours proves that this database is older than the world: freeze (I4)."""
    route = Route.objects.filter(environment_id=gateway.environment_id).first()
    if route is not None and epoch > route.epoch:
        sentence = f"{gateway.name} has seen epoch {epoch}, but this Primary knows only {route.epoch}: its database is older"
        routes.freeze_because(gateway, sentence, {"reported_epoch": epoch, "known_epoch": route.epoch})


def judge(gateway: Gateway, moment: datetime) -> Judged:
    """Score and label of a gateway now. Reads only; a gateway that was never heard scores 0."""
    status = getattr(gateway, "status", None) or GatewayStatus(gateway=gateway)
    facts = judge_facts(gateway, status, moment)
    result = health.score(facts, settings.MAZEVAULT.timing)
    silent = facts.age_seconds is None or facts.age_seconds >= settings.MAZEVAULT.timing.heartbeat_zero_age
    label = HealthLabel.SILENT if silent else HealthLabel(status.label)
    return Judged(gateway, status, result, label, facts.age_seconds, facts.certificate_days_left)


def judge_facts(gateway: Gateway, status: GatewayStatus, moment: datetime) -> health.HealthFacts:
    """Turn rows into the facts the pure score needs."""
    report = status.report or {}
    succeeded, failed = _task_counts(gateway, moment)
    age = (moment - status.heartbeat_at).total_seconds() if status.heartbeat_at else None
    believed = report.get("reported_role")
    return health.HealthFacts(
        age_seconds=max(0.0, age) if age is not None else None,
        database=_ok(report, "database"),
        gateway_key_vault=_ok(report, "gateway_key_vault"),
        project_key_vaults=tuple(probe["ok"] for probe in report.get("project_key_vaults", []) if probe["ok"] is not None),
        cache=_ok(report, "cache"),
        write_queue_depth=report.get("write_queue_depth", 0),
        tasks_succeeded=succeeded,
        tasks_failed=failed,
        latency_p95_ms=report.get("primary_latency_p95_ms"),
        clock_skew_seconds=status.clock_skew_seconds,
        certificate_days_left=_certificate_days(gateway, moment),
        breaker=report.get("breaker", "closed"),
        acts_on_wrong_epoch=believed == Assignment.ACTIVE and not _is_route_of(gateway, report.get("epoch", 0)),
        version_supported=_same_major(report.get("version", gateway.version)),
    )


def count_missed(moment: datetime) -> int:
    """Count heartbeats that are overdue and let labels fall with them. Returns how many gateways changed label."""
    changed = 0
    for gateway in Gateway.objects.filter(decommissioned_at__isnull=True).select_related("status"):
        if not hasattr(gateway, "status"):
            continue
        with transaction.atomic():
            status = GatewayStatus.objects.select_for_update().get(gateway=gateway)
            if status.judged_at and (moment - status.judged_at).total_seconds() < JUDGE_SECONDS:
                continue  # another process has just judged it; a second look would count twice in the label's memory
            before = status.label
            silent = _silent_seconds(status, moment)
            if silent > settings.MAZEVAULT.timing.heartbeat_full_age:
                _relabel(status, judge_facts(gateway, status, moment), moment)
            status.consecutive_failures = max(0, int(silent // settings.MAZEVAULT.timing.heartbeat_interval) - 1)
            status.judged_at = moment
            status.save(update_fields=[
                "label", "label_memory", "score", "consecutive_failures", "good_in_row", "stable_since", "judged_at",
                "watched_since",
            ])  # fmt: skip
        if status.label != before:
            changed += 1
            log.warning("gateway %s is now %s (was %s), silent for %.0f s", gateway.name, status.label, before, silent)
    return changed


def parse_moment(field: str, text: str) -> datetime:
    """An RFC 3339 time with zone, or `ValidationFailed` naming the field."""
    try:
        moment = parse_datetime(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValidationFailed(f"{field} must be a time such as 2026-03-19T12:00:00Z")
    return moment


def _silent_seconds(status: GatewayStatus, moment: datetime) -> float:
    """How long the gateway has been silent while somebody listened. Notes on the row when listening began again."""
    if status.judged_at is None or (moment - status.judged_at).total_seconds() > UNWATCHED_SECONDS:
        status.watched_since = moment
    heard = [at for at in (status.heartbeat_at, status.watched_since) if at]
    return (moment - max(heard)).total_seconds() if status.heartbeat_at and heard else 0.0


def _relabel(status: GatewayStatus, facts: health.HealthFacts, moment: datetime) -> None:
    result = health.score(facts, settings.MAZEVAULT.timing)
    memory = health.LabelMemory.from_json(status.label, status.label_memory)
    following = health.next_label(memory, result.score, facts.age_seconds, moment, settings.MAZEVAULT.timing)
    status.label, status.label_memory = following.label.value, following.to_json()
    status.score = result.score
    good = result.score >= health.RECOVERED_SCORE
    status.good_in_row = status.good_in_row + 1 if good else 0
    status.stable_since = (status.stable_since or moment) if good else None


def _task_counts(gateway: Gateway, moment: datetime) -> tuple[int, int]:
    counts = Task.objects.filter(gateway=gateway, finished_at__gte=moment - TASK_WINDOW).aggregate(
        good=Count("id", filter=Q(state=TaskState.SUCCEEDED)),
        bad=Count("id", filter=Q(state__in=[TaskState.FAILED, TaskState.DEAD_LETTER])),
    )
    return counts["good"], counts["bad"]


def _certificate_days(gateway: Gateway, moment: datetime) -> float | None:
    newest = (
        GatewayCertificate.objects.filter(gateway=gateway, revoked_at__isnull=True)
        .order_by("-not_after")
        .values_list("not_after", flat=True)
        .first()
    )
    return (newest - moment).total_seconds() / 86400 if newest else None


def _is_route_of(gateway: Gateway, epoch: int) -> bool:
    return Route.objects.filter(environment_id=gateway.environment_id, active_gateway=gateway, epoch=epoch).exists()


def _ok(report: Mapping[str, Any], part: str) -> bool | None:
    probe = report.get(part)
    return probe["ok"] if probe else None


def _same_major(version: str) -> bool:
    return version.split(".", 1)[0] == settings.MAZEVAULT.version.split(".", 1)[0]


def current_age(gateway: Gateway) -> float | None:
    """Seconds since the last heartbeat, or None when there was none."""
    status = getattr(gateway, "status", None)
    return (clock_now() - status.heartbeat_at).total_seconds() if status and status.heartbeat_at else None
