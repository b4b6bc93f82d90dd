"""What people do to a gateway: ban, release from hold, drain, decommission. Each acts on the gateway's next request (I14)."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet

from common import audit
from common.clock import database_now
from common.errors import Conflict, NotFound
from gateways import routes
from gateways.models import Gateway, GatewayCertificate, Route


def ban(identifier: uuid.UUID, *, reason: str, actor: str, address: str, now: datetime) -> Gateway:
    """Refuse everything this gateway says from now on and revoke its certificates. Its lease ends by time."""

    def apply(gateway: Gateway) -> None:
        gateway.banned_at = gateway.banned_at or now
        _revoke_certificates(gateway, "banned", now)

    return _change(identifier, "gateway.banned", apply, reason=reason, actor=actor, address=address)


def hold(code: str, gateways: QuerySet[Gateway], reason: str, now: datetime, why: str = "") -> bool:
    """Quarantine those of these gateways of one environment that are not held yet: no task, no promotion, until a person looked.

    Begins with the route's lock, as everything that changes what a gateway may do, and wakes its directive call with the commit.
    `why` is a `quarantine.Reason`, empty for the reasons without one.
    """
    with transaction.atomic():
        routes.lock_route(code)
        held = gateways.filter(held_at=None).update(held_at=now, held_code=why, held_reason=reason)
        if held:
            routes.wake(code)
    return bool(held)


def release(identifier: uuid.UUID, *, reason: str, actor: str, address: str, now: datetime) -> Gateway:
    """Take back a hold after somebody looked into its cause."""

    def apply(gateway: Gateway) -> None:
        gateway.held_at, gateway.held_reason, gateway.held_code = None, "", ""
        gateway.released_at = database_now()  # what was heard of its instances before proves nothing any more

    return _change(identifier, "gateway.released", apply, reason=reason, actor=actor, address=address)


def drain(identifier: uuid.UUID, *, draining: bool, reason: str, actor: str, address: str, now: datetime) -> Gateway:
    """Offer the gateway no new tasks (or offer them again). It keeps its lease and goes on serving reads."""

    def apply(gateway: Gateway) -> None:
        gateway.drained_at = now if draining else None

    action = "gateway.drained" if draining else "gateway.undrained"
    return _change(identifier, action, apply, reason=reason, actor=actor, address=address)


def decommission(identifier: uuid.UUID, *, reason: str, actor: str, address: str, now: datetime) -> Gateway:
    """End a gateway for good; its name and role become free. Refused for the active one and for the target of an open move."""

    def apply(gateway: Gateway) -> None:
        gateway.decommissioned_at = now
        _revoke_certificates(gateway, "decommissioned", now)

    with transaction.atomic():
        _refuse_if_needed(identifier)
        return _change(identifier, "gateway.decommissioned", apply, reason=reason, actor=actor, address=address)


def living_gateway(identifier: uuid.UUID) -> Gateway:
    """The gateway with this id unless it was decommissioned; `NotFound` otherwise."""
    gateway = Gateway.objects.select_related("status").filter(id=identifier, decommissioned_at__isnull=True).first()
    if gateway is None:
        raise NotFound("there is no gateway with this id")
    return gateway


def _refuse_if_needed(identifier: uuid.UUID) -> None:
    """The route is locked before the gateway, as in every step of a move, and stays locked until the gateway has ended."""
    gateway = living_gateway(identifier)
    route = Route.objects.select_for_update().get(environment_id=gateway.environment_id)
    if route.active_gateway_id == gateway.id:
        raise Conflict(
            f"{gateway.name} is the active gateway of {gateway.environment_id}; move the environment away from it first"
        )
    moving = route.drain_operation is not None or (route.fence_operation is not None and not route.lease_open)
    if moving and not route.danger:
        raise Conflict(f"{gateway.name} is about to become active in {gateway.environment_id}; cancel that or wait for its end",
                       code="OPERATION_OPEN")  # fmt: skip


def _change(
    identifier: uuid.UUID, action: str, apply: Callable[[Gateway], None], *, reason: str, actor: str, address: str
) -> Gateway:
    with transaction.atomic():
        gateway = Gateway.objects.select_for_update().filter(id=identifier, decommissioned_at__isnull=True).first()
        if gateway is None:
            raise NotFound("there is no gateway with this id")
        apply(gateway)
        gateway.save()
        audit.record(
            actor=actor,
            action=action,
            entity="gateway",
            entity_id=str(gateway.id),
            severity=audit.Severity.WARNING,
            environment=gateway.environment_id,
            address=address,
            details={"name": gateway.name, "reason": reason},
        )
        routes.wake(gateway.environment_id)
    return gateway


def _revoke_certificates(gateway: Gateway, why: str, now: datetime) -> None:
    GatewayCertificate.objects.filter(gateway=gateway, revoked_at__isnull=True).update(revoked_at=now, revoked_reason=why)
