"""Rows turned into the plain facts that the pure modules judge. Reads only."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from django.conf import settings

from failover import preflight
from failover.kinds import KINDS, Kind
from failover.preflight import Check, Estimate, MoveFacts, SideFacts
from gateways import losses, sightings
from gateways.heartbeats import judge
from gateways.models import Gateway, ReceivedWrite, Route
from integrations import copies
from protocol.vocabulary import StandbyMode, WriteOutcome


def living_gateway(code: str, role: str) -> Gateway | None:
    """The gateway enrolled in a role of an environment."""
    living = Gateway.objects.select_related("status")
    return living.filter(environment_id=code, role=role, decommissioned_at__isnull=True).first()


def move_facts(kind: Kind, route: Route, moment: datetime) -> MoveFacts:
    """Source, target and lease as they are now."""
    target = living_gateway(route.environment_id, kind.target_role)
    left = (route.lease_until - moment).total_seconds() if route.lease_until else 0.0
    moved_before = route.epoch > 1 and route.switched_at is not None
    return MoveFacts(
        source=_side(route.active_gateway) if route.active_gateway else None,
        target=_with_writes(_side(target), target, route) if target else None,
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


def _with_writes(side: SideFacts, gateway: Gateway, route: Route) -> SideFacts:
    """What the inbox holds of a gateway that is to become active."""
    open_writes = losses.unresolved(ReceivedWrite.objects.filter(gateway=gateway)).exclude(outcome=WriteOutcome.DEAD_LETTER)
    dead = ReceivedWrite.objects.filter(gateway=gateway, outcome=WriteOutcome.DEAD_LETTER, resolution="")
    if route.switched_at:
        dead = dead.filter(settled_at__gte=route.switched_at)
    return replace(side, unresolved_writes=open_writes.count(), recent_dead_letters=dead.count())


def _side(gateway: Gateway) -> SideFacts:
    seen = sightings.of(gateway.id)
    assert seen is not None  # noqa: S101  gateways are never deleted
    report = seen.report
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
    )
