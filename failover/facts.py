"""Rows turned into the plain facts that the pure modules judge. Reads only."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Count, Q

from failover import preflight
from failover.kinds import KINDS, Kind
from failover.preflight import Check, Estimate, MoveFacts, SideFacts
from gateways import losses, sightings
from gateways.heartbeats import judge
from gateways.models import Gateway, GatewayStatus, ReceivedWrite, Route, SignOfLife
from gateways.sightings import Sighting
from integrations import copies
from protocol.vocabulary import StandbyMode, WriteOutcome


def living_gateway(code: str, role: str) -> Gateway | None:
    """The gateway enrolled in a role of an environment."""
    living = Gateway.objects.select_related("status")
    return living.filter(environment_id=code, role=role, decommissioned_at__isnull=True).first()


def move_facts(kind: Kind, route: Route, moment: datetime, answered: Mapping[uuid.UUID, bool] | None = None) -> MoveFacts:
    """Source, target and lease as they are now. `answered`: which gateways were asked for a sign of life, and gave it."""
    target = living_gateway(route.environment_id, kind.target_role)
    left = (route.lease_until - moment).total_seconds() if route.lease_until else 0.0
    moved_before = route.epoch > 1 and route.switched_at is not None
    asked = answered or {}
    return MoveFacts(
        source=_with_queue(_side(route.active_gateway, asked), route.active_gateway) if route.active_gateway else None,
        target=_with_writes(_side(target, asked), target, route) if target else None,
        target_role=kind.target_role,
        since_switch=(moment - route.switched_at).total_seconds() if moved_before and route.switched_at else None,
        lease_seconds=left,
        vault_copies=copies.copies_of(route.environment_id, moment),
    )


def checks_of(kind: Kind, facts: MoveFacts) -> list[Check]:
    judge_move = preflight.failover_checks if kind is KINDS["activate-dr"] else preflight.failback_checks
    return judge_move(facts, settings.MAZEVAULT.timing)


def estimate_of(facts: MoveFacts) -> Estimate:
    return preflight.estimate(facts, settings.MAZEVAULT.timing)


def _with_queue(side: SideFacts, gateway: Gateway) -> SideFacts:
    """What the gateway has accepted and the Primary does not hold: by its own word, or by the number of its last write."""
    return replace(side, queue_depth=max(side.queue_depth, losses.outstanding_of(gateway)))


def _with_writes(side: SideFacts, gateway: Gateway, route: Route) -> SideFacts:
    """What the inbox holds of a gateway that is to become active."""
    kept = losses.unresolved(ReceivedWrite.objects.filter(gateway=gateway)).exclude(outcome=WriteOutcome.DEAD_LETTER)
    counts = kept.aggregate(waiting=Count("id", filter=Q(outcome=WriteOutcome.RECEIVED)), all=Count("id"))
    dead = ReceivedWrite.objects.filter(gateway=gateway, outcome=WriteOutcome.DEAD_LETTER, resolution="")
    if route.switched_at:
        dead = dead.filter(settled_at__gte=route.switched_at)
    return replace(
        side, unapplied_writes=counts["waiting"], undecided_writes=counts["all"] - counts["waiting"],
        recent_dead_letters=dead.count(),
    )  # fmt: skip


def told_of_silence(gateway: Gateway, moment: datetime) -> str:
    """How long nothing was heard of a gateway, in words."""
    status = GatewayStatus.objects.filter(gateway=gateway).first()
    sign = SignOfLife.objects.filter(gateway=gateway).first()
    heard = [at for at in (status.heartbeat_at if status else None, sign.answered_at if sign else None) if at]
    if not heard:
        return f"{gateway.name} was never heard of"
    return f"{gateway.name} was last heard of {max(0.0, (moment - max(heard)).total_seconds()):.0f} s ago"


def told_of_drain(route: Route) -> str:
    """What the draining gateway last said it still holds, in words."""
    if route.drain_reported_at is None or route.active_gateway is None:
        return ""
    running = f" and {route.drain_running_tasks} calls run" if route.drain_running_tasks else ""
    oldest = f", the oldest {route.drain_oldest_seconds:.0f} s old" if route.drain_queue_depth else ""
    return f"{route.drain_queue_depth} writes wait at {route.active_gateway.name}{oldest}{running}"


def _side(gateway: Gateway, answered: Mapping[uuid.UUID, bool]) -> SideFacts:
    seen = sightings.of(gateway.id)
    assert seen is not None  # noqa: S101  gateways are never deleted
    report = _newest_report(seen)
    stable = (seen.moment - seen.stable_since).total_seconds() if seen.stable_since else 0.0
    vault = report.get("gateway_key_vault")
    return SideFacts(
        name=gateway.name,
        banned=gateway.banned_at is not None,
        held=gateway.held_at is not None,
        drained=gateway.drained_at is not None,
        age=seen.age_seconds,
        score=judge(seen).health.score,
        good_beats=seen.good_in_row,
        stable_for=max(0.0, stable),
        certificate_days=seen.certificate_days_left,
        version=gateway.version,
        queue_depth=report.get("write_queue_depth", 0),
        queue_oldest=report.get("write_queue_oldest_seconds", 0.0),
        key_vault=vault["ok"] if vault else None,
        copy_age=report.get("replica_age_seconds") if report.get("replica_complete") else None,
        cold=gateway.standby_mode == StandbyMode.COLD,
        stopped=seen.stopped,
        answers=answered.get(gateway.id),
    )


def _newest_report(seen: Sighting) -> dict[str, Any]:
    """Its last heartbeat, with what a younger sign of life says of queue and copy."""
    report = dict(seen.report)
    sign = SignOfLife.objects.filter(gateway_id=seen.id).first()
    if sign and sign.answered_at and (seen.heartbeat_at is None or sign.answered_at > seen.heartbeat_at):
        report.update({name: value for name, value in sign.report.items() if name != "number"})
    return report
