"""Route, lease, fence and epoch grants of an environment, and their guarded updates (DESIGN §7, §8).

The only module that changes a `Route`. It knows no failover states: the failover app decides, this module carries out in
the caller's transaction. Row order is always the route first, so two callers cannot deadlock.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import Exists, F, Value
from django.db.models.functions import Coalesce, Greatest, Now

from common import audit
from common.clock import database_now
from common.errors import NotFound
from common.grouped import Grouped
from common.statements import run
from gateways.desks import Desk, RequestDesk, at_once
from gateways.models import EpochGrant, Gateway, GatewayEnvironment, GatewayPresence, Route
from gateways.node_times import longest_times
from protocol.vocabulary import LeaseVerdict

log = logging.getLogger("mazevault.gateways.routes")

DIRECTIVE_CHANNEL = "mazevault_directive"
"""NOTIFY channel that wakes waiting directive calls; the payload is the environment's code."""
TWO_LIVES = "two_lives"
"""`Gateway.held_code` of one whose identity two machines use: it gets no lease and nothing it says of one counts."""
MAXIMUM_SKEW_SECONDS = 300.0
"""A gateway whose wall clock is further off gets no lease (reliability §4.3)."""

RENEW = Grouped("renew", """
WITH asked AS MATERIALIZED (SELECT * FROM {asked}), held AS MATERIALIZED (
    SELECT asked.* FROM asked JOIN gateways_route r ON r.environment_id = asked.environment
      JOIN gateways_gatewaypresence p ON p.gateway_id = asked.gateway {hold}
), granted AS (
UPDATE gateways_route r
   SET lease_until = LEAST(GREATEST(r.lease_until, clock_timestamp() + held.ttl * interval '1 second'),
                           clock_timestamp() + GREATEST(held.ttl, (SELECT longest_lease_seconds FROM gateways_primarynode
                                                                    WHERE id = 1)) * interval '1 second'),
       lease_sequence = GREATEST(r.lease_sequence, held.sequence)
  FROM held
 WHERE r.environment_id = held.environment AND r.active_gateway_id = held.gateway AND r.epoch = held.epoch
   AND r.lease_open AND r.danger = '' AND (r.lease_blocked_until IS NULL OR r.lease_blocked_until < clock_timestamp())
   AND EXISTS (SELECT 1 FROM gateways_gateway WHERE id = held.gateway AND generation = held.generation
                  AND banned_at IS NULL AND decommissioned_at IS NULL AND held_code <> 'two_lives')
   AND EXISTS (SELECT 1 FROM gateways_gatewaypresence
                WHERE gateway_id = held.gateway AND generation = held.generation AND instance = held.instance AND NOT ended)
   AND NOT EXISTS (SELECT 1 FROM gateways_primarynode
                    WHERE timeline <> ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int)
RETURNING held.place, r.lease_until
), kept AS (
UPDATE gateways_gatewaypresence p
   SET until = GREATEST(p.until, granted.lease_until + held.drift * interval '1 second')
  FROM granted JOIN held USING (place)
 WHERE p.gateway_id = held.gateway AND p.generation = held.generation AND p.instance = held.instance AND NOT p.ended
RETURNING held.place
)
SELECT held.place, kept.place IS NOT NULL AS granted FROM held LEFT JOIN kept USING (place)
""", {
    "environment": "text", "gateway": "uuid", "generation": "uuid", "instance": "uuid", "ttl": "float8", "drift": "float8",
    "epoch": "bigint", "sequence": "bigint",
}, key="gateway", hold="FOR NO KEY UPDATE OF r SKIP LOCKED FOR NO KEY UPDATE OF p SKIP LOCKED")  # fmt: skip
"""The gateway is looked at in the same statement, and so is the database: one that was promoted a moment ago grants nothing.

What a node with longer times has promised is not made shorter; a stored end is no later than any node's lease can be, since the
database's clock may have been put back. It is granted only if the instance that asks is still the current one when its row is
changed, and that row then keeps every other instance waiting until the lease must have ended. The route is locked before the
presence, and nobody does it otherwise.
"""
_RELEASE = """
UPDATE gateways_route
   SET lease_until = clock_timestamp()
 WHERE environment_id = %(environment)s AND active_gateway_id = %(gateway)s AND epoch = %(epoch)s
   AND lease_until > clock_timestamp() AND lease_sequence < %(sequence)s
   AND EXISTS (SELECT 1 FROM gateways_gatewaypresence WHERE gateway_id = %(gateway)s AND instance = %(instance)s AND NOT ended)
RETURNING epoch
"""


@dataclass(frozen=True)
class LeaseGrant:
    """Answer to one renewal. `ttl` is in seconds and counts from the moment the gateway sent the request."""

    verdict: LeaseVerdict
    epoch: int
    ttl: float = 0.0


def environment_of(code: str) -> GatewayEnvironment:
    """The environment with this code, in any case of letters; `NotFound` names the known ones."""
    found = GatewayEnvironment.objects.filter(code=code.upper()).first() if "\0" not in code else None
    if found is None:
        known = ", ".join(GatewayEnvironment.objects.order_by("code").values_list("code", flat=True))
        raise NotFound(f"there is no gateway environment with this code; known ones are {known}")
    return found


def ensure_environments(codes: tuple[str, ...]) -> None:
    """Create environments and their routes where they are missing, in two statements. Safe to repeat and to race."""
    GatewayEnvironment.objects.bulk_create([GatewayEnvironment(code=code) for code in codes], ignore_conflicts=True)
    Route.objects.bulk_create([Route(environment_id=code) for code in codes], ignore_conflicts=True)


def lock_route(code: str) -> Route:
    """The route, locked until the transaction ends. Every step of a failover starts here; the active gateway is read after."""
    return Route.objects.select_for_update().get(environment_id=code)


def renew_lease(gateway: Gateway, *, instance: str, epoch: int, sequence: int, skew_seconds: float) -> LeaseGrant:
    """`lease_renewed` where nothing waits for anything else."""
    return at_once(
        lease_renewed(RequestDesk(), gateway, instance=instance, epoch=epoch, sequence=sequence, skew_seconds=skew_seconds)
    )


async def lease_renewed(
    desk: Desk, gateway: Gateway, *, instance: str, epoch: int, sequence: int, skew_seconds: float
) -> LeaseGrant:
    """One conditional UPDATE: the lease is prolonged only for the current instance of the active gateway, in its epoch, while
    renewal is open."""
    if abs(skew_seconds) > MAXIMUM_SKEW_SECONDS:
        return LeaseGrant(LeaseVerdict.CLOCK_SKEW, epoch)
    timing = settings.MAZEVAULT.timing
    row = await desk.run(RENEW, {
        "environment": gateway.environment_id, "gateway": gateway.id, "generation": gateway.generation,
        "instance": uuid.UUID(instance), "ttl": timing.lease_ttl, "drift": timing.drift, "epoch": epoch, "sequence": sequence,
    })  # fmt: skip
    if row is not None and row["granted"]:
        return LeaseGrant(LeaseVerdict.GRANTED, epoch, timing.lease_ttl)
    return await desk.apart(lambda: _why_not(gateway, instance, epoch))


def release_lease(gateway: Gateway, *, instance: str, epoch: int, sequence: int) -> bool:
    """End the lease now, at the wish of its holder. A release older than the last renewal changes nothing, nor does one of an
    instance that is not the current one: it never held this lease."""
    values: dict[str, Any] = {
        "environment": gateway.environment_id, "gateway": gateway.id, "instance": instance, "epoch": epoch, "sequence": sequence,
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(_RELEASE, values)
        released = cursor.fetchone() is not None
    if released:
        wake(gateway.environment_id)
    return released


def stop_lease(route: Route, operation: uuid.UUID) -> None:
    """No renewal from here on, and an order to the active gateway to fence itself for this operation."""
    route.lease_open = False
    route.fence_number += 1
    route.fence_operation = operation
    route.fence_cancelled = False
    route.fence_acknowledged_at = None
    route.fence_last_sequence = None
    _save(route)


def allow_lease(route: Route) -> None:
    """Take the fence order back in the same epoch; the gateway is told that the operation was cancelled."""
    route.lease_open = True
    route.fence_cancelled = True
    _save(route)


def record_fence(gateway: Gateway, instance: str, operation: uuid.UUID, epoch: int, last_sequence: int) -> bool:
    """Store the acknowledgement of a fence order. False when no such order is open (cancelled, other operation or epoch), or when
    the instance cannot speak for all that live of this gateway."""
    changed = Route.objects.filter(
        _speaks_for(gateway, instance),
        environment_id=gateway.environment_id,
        active_gateway=gateway,
        epoch=epoch,
        fence_operation=operation,
        fence_cancelled=False,
        lease_open=False,
    ).update(fence_acknowledged_at=database_now(), fence_last_sequence=last_sequence)
    if changed:
        wake(gateway.environment_id)
    return bool(changed)


def order_drain(route: Route, operation: uuid.UUID) -> None:
    """Ask the active gateway to take no new work and to report when it is empty."""
    route.drain_operation = operation
    route.drain_reported_at = None
    route.drain_queue_depth = None
    route.drain_running_tasks = None
    route.drain_oldest_seconds = None
    _save(route)


def undo_drain(route: Route) -> None:
    route.drain_operation = None
    _save(route)


def record_drain(
    gateway: Gateway,
    instance: str,
    operation: uuid.UUID,
    epoch: int,
    *,
    queue_depth: int,
    running_tasks: int,
    oldest_seconds: float,
) -> bool:
    """Store what a draining gateway still holds. False when no such drain is ordered."""
    changed = Route.objects.filter(
        _speaks_for(gateway, instance),
        environment_id=gateway.environment_id, active_gateway=gateway, epoch=epoch, drain_operation=operation,
    ).update(
        drain_reported_at=database_now(), drain_queue_depth=queue_depth, drain_running_tasks=running_tasks,
        drain_oldest_seconds=oldest_seconds,
    )  # fmt: skip
    return bool(changed)


def promote(route: Route, gateway: Gateway, operation: uuid.UUID | None) -> None:
    """Next epoch, this gateway. Role and epoch change together with the grant row that the database keeps unique (I1).

    A block of leases stays: whoever holds the unknown lease it waits for does not know of this promotion.
    """
    moment = database_now()
    EpochGrant.objects.filter(environment_id=route.environment_id, ended_at__isnull=True).update(ended_at=moment)
    route.epoch += 1
    route.active_gateway = gateway
    route.lease_open = True
    route.lease_until = None
    route.lease_sequence = 0
    route.fence_operation = None
    route.fence_cancelled = False
    route.fence_acknowledged_at = None
    route.fence_last_sequence = None
    route.drain_operation = None
    route.switched_at = moment
    EpochGrant.objects.create(
        environment_id=route.environment_id, epoch=route.epoch, gateway=gateway, operation=operation, granted_at=moment
    )
    _save(route)


def freeze(code: str, sentence: str) -> bool:
    """Stop renewals at once because two truths were seen. False when the environment is frozen already."""
    changed = Route.objects.filter(environment_id=code, danger="").update(danger=sentence[:300], lease_open=False)
    if changed:
        wake(code)
    return bool(changed)


def freeze_because(gateway: Gateway, sentence: str, seen: Mapping[str, Any], *, actor: str = "") -> None:
    """Freeze the environment of a gateway that has seen more than this Primary's database knows of (I4), or that cannot serve.

    `actor` is who noticed it; the gateway itself unless said otherwise.
    """
    if freeze(gateway.environment_id, sentence):
        audit.record(
            actor=actor or f"gateway:{gateway.id}",
            action="failover.frozen",
            entity="environment",
            entity_id=gateway.environment_id,
            severity=audit.Severity.CRITICAL,
            environment=gateway.environment_id,
            details=seen,
        )
        log.error("environment %s is frozen: %s", gateway.environment_id, sentence)


def lift_freeze(route: Route, epoch_floor: int) -> None:
    """An operator looked: go on from an epoch above everything that was seen, without a lease until promoted."""
    route.danger = ""
    route.epoch = max(route.epoch, epoch_floor)
    _save(route)


def block_lease_after_rebirth(gateway: Gateway) -> None:
    """The gateway begins a new life while its old one may still hold the lease, or be asking for its first: nobody gets one until
    that has run out."""
    longest, wait = longest_times()
    until = Coalesce(F("lease_until") + wait, Now() + longest)
    Route.objects.filter(active_gateway=gateway).update(
        lease_blocked_until=Greatest(until, F("lease_blocked_until")), lease_blocks=F("lease_blocks") + 1, lease_sequence=0
    )


def longest_old_lease(route: Route) -> datetime:
    """The moment after which no lease anybody could have been given in the past can still live."""
    longest, wait = longest_times()
    by_now = database_now() + longest
    return max(route.lease_until + wait, by_now) if route.lease_until else by_now


def block_lease(route: Route, until: datetime) -> None:
    """Nobody gets a lease before this moment. A block that lasts longer stays, and counts as asked for anew (`lease_blocks`)."""
    route.lease_blocked_until = max(until, route.lease_blocked_until or until)
    route.lease_blocks += 1
    Route.objects.filter(pk=route.pk).update(lease_blocked_until=route.lease_blocked_until, lease_blocks=route.lease_blocks)


def block_all_leases(until: datetime) -> None:
    """After a restore of the Primary's database: leases of the lost past may live on (DESIGN §8)."""
    Route.objects.update(lease_blocked_until=Greatest(F("lease_blocked_until"), Value(until)), lease_blocks=F("lease_blocks") + 1)


def wake(code: str) -> None:
    """Wake the waiting directive calls of an environment when the transaction commits."""
    run("SELECT pg_notify(%(channel)s, %(code)s)", {"channel": DIRECTIVE_CHANNEL, "code": code})


def _speaks_for(gateway: Gateway, instance: str) -> Exists:
    """A condition: this instance is the current one, and the gateway is not known to live twice."""
    return Exists(
        GatewayPresence.objects.filter(
            gateway=gateway.pk, generation=gateway.generation, instance=instance, ended=False
        ).exclude(gateway__held_code=TWO_LIVES)
    )  # fmt: skip


def _why_not(gateway: Gateway, instance: str, epoch: int) -> LeaseGrant:
    route = Route.objects.get(environment_id=gateway.environment_id)
    if not GatewayPresence.objects.filter(gateway=gateway, instance=instance, ended=False).exists():
        return LeaseGrant(LeaseVerdict.ANOTHER_INSTANCE, route.epoch)
    if Gateway.objects.filter(pk=gateway.pk, held_code=TWO_LIVES).exists():
        return LeaseGrant(LeaseVerdict.QUARANTINED, route.epoch)
    if route.active_gateway_id != gateway.id:
        return LeaseGrant(LeaseVerdict.NOT_ACTIVE, route.epoch)
    if route.epoch != epoch:
        return LeaseGrant(LeaseVerdict.STALE_EPOCH, route.epoch)
    if not route.lease_open or route.danger:
        return LeaseGrant(LeaseVerdict.FENCING, route.epoch)
    return LeaseGrant(LeaseVerdict.HELD, route.epoch)


def _save(route: Route) -> None:
    route.save()
    wake(route.environment_id)
