"""What the Primary wants of a gateway now, and the waiting call that tells it within milliseconds (DESIGN §7)."""

from __future__ import annotations

import hashlib
import logging
import random
import time
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
from django.conf import settings

from common.errors import NotFound
from common.grouped import Grouped
from gateways import sightings
from gateways.desks import Desk, RequestDesk, at_once
from gateways.instances import MAY_STILL_ACT, Seat
from gateways.models import Gateway, Route
from gateways.sightings import RouteFacts, Sighting
from protocol.messages import Directive, DrainOrder, FenceOrder
from protocol.vocabulary import Assignment, Role

log = logging.getLogger("mazevault.gateways.directives")

RENEWAL_SHARE = 2 / 3
"""A certificate is renewed before this share of its life has passed (DESIGN §6)."""
COLUMNS = """
    EXISTS (SELECT 1 FROM gateways_task WHERE environment_id = g.environment_id AND state = 'pending'
               AND not_before <= statement_timestamp()) AS tasks_wait,
    (SELECT generation FROM gateways_primarynode WHERE id = 1) AS primary_generation,
    (SELECT asked FROM gateways_signoflife WHERE gateway_id = g.id) AS sign_asked
"""
"""What a directive needs beside `sightings.COLUMNS`. The generation tells a gateway whose cursor it holds; `sign_asked`
is the last question whether it is alive."""
ORDERED = Grouped("directive", f"""
SELECT asked.place, {sightings.COLUMNS}, {COLUMNS}, p.gateway_id IS NOT NULL AS is_seated, p.put_back, p.write_sequence, p.told_in
  FROM {{asked}} CROSS JOIN {sightings.SOURCES}
  LEFT JOIN gateways_gatewaypresence p
         ON p.gateway_id = g.id AND p.generation = g.generation AND p.instance = asked.instance AND NOT p.ended
 WHERE g.id = asked.gateway
""", {"gateway": "uuid", "instance": "uuid"}, key="gateway")  # noqa: S608  # fmt: skip
"""A gateway's facts, and where an instance of it stands now, without a word of it."""
NOBODY = str(uuid.UUID(int=0))
"""An instance that never was."""
DUE = """
SELECT DISTINCT environment_id FROM gateways_task
 WHERE state = 'pending' AND not_before BETWEEN statement_timestamp() - %s * interval '1 second' AND statement_timestamp()
"""
"""Environments in which work became due in these last seconds, which nobody notified anybody of."""


def directive_for(gateway: Gateway, seat: Seat) -> Directive:
    """`ordered` where nothing waits for anything else."""
    return at_once(ordered(RequestDesk(), gateway, NOBODY, seat))


async def ordered(desk: Desk, gateway: Gateway, instance: str, seat: Seat | None = None) -> Directive:
    """The order of the moment, in one statement. `revision` changes exactly when something a gateway must react to changes.

    Without a seat it is the one where the instance stands now.
    """
    row = await desk.run(ORDERED, {"gateway": gateway.id, "instance": uuid.UUID(instance)})
    if row is None:
        raise NotFound("there is no such gateway any more")
    now = Seat(True, 0.0, row["put_back"], row["write_sequence"], row["told_in"]) if row["is_seated"] else Seat(False)
    return directive_of(sightings.sighting(row), row, seat or now)


async def wait_for_change(desk: Desk, gateway: Gateway, instance: str, after: str, seconds: float) -> Directive:
    """The directive once its revision differs from `after`, or when the time is over.

    Beyond the seats of a desk the answer comes at once with a retry time of 5 to 15 s, so that heartbeats never starve.
    """
    code, deadline = gateway.environment_id, time.monotonic() + seconds
    turn = desk.turn(code)
    while True:
        directive = await ordered(desk, gateway, instance)
        left = deadline - time.monotonic()
        if directive.revision != after or left <= 0:
            return directive
        if not await desk.next_turn(code, turn, left):
            return msgspec.structs.replace(directive, retry_after_seconds=random.uniform(5, 15))  # noqa: S311  jitter
        turn = desk.turn(code)


def directive_of(seen: Sighting, row: Mapping[str, Any], seat: Seat) -> Directive:
    """The order that follows from a row of `sightings.COLUMNS` and `COLUMNS`. Pure.

    `number` grows with each change of what it follows from: both rows were read at one moment, and each counts its changes.
    """
    route = seen.route
    assigned = assignment_of(seen, route)
    if not seat.current:
        return _to_wait(seen, row, seat)
    active = assigned is Assignment.ACTIVE and not seat.put_back
    plain = Directive(
        revision="",
        assigned_role=assigned if active else _taking_nothing_new(assigned),
        epoch=route.epoch if route else 0,
        poll_tasks=active,
        next_heartbeat_seconds=settings.MAZEVAULT.timing.heartbeat_interval,
        fence=_fence_order(seen, route),
        drain=_drain_order(seen, route),
        renew_certificate=renewal_is_due(seen),
        tasks_waiting=active and row["tasks_wait"],
        primary_generation=str(row["primary_generation"] or ""),
        sign=row["sign_asked"] or 0,
        resync_replica=seen.resync_ordered_at is not None and seen.resync_begun_at is None,
    )
    return msgspec.structs.replace(plain, revision=_revision(plain), number=_number(seen))


def _to_wait(seen: Sighting, row: Mapping[str, Any], seat: Seat) -> Directive:
    """For an instance that is not the current one: no order and no work. Where its gateway is active it may give out what it has,
    since after a crash this is the same machine (ADR 28)."""
    plain = Directive(
        revision="",
        assigned_role=_taking_nothing_new(assignment_of(seen, seen.route)),
        epoch=seen.route.epoch if seen.route else 0,
        poll_tasks=False,
        next_heartbeat_seconds=min(seat.retry, settings.MAZEVAULT.timing.heartbeat_interval),
        primary_generation=str(row["primary_generation"] or ""),
        waits=MAY_STILL_ACT,
    )
    return msgspec.structs.replace(
        plain, revision=_revision(plain), number=_number(seen), retry_after_seconds=seat.retry
    )  # fmt: skip


def _number(seen: Sighting) -> int:
    return seen.orders + (seen.route.orders if seen.route else 0)


def _taking_nothing_new(assigned: Assignment) -> Assignment:
    return Assignment.DRAINING if assigned is Assignment.ACTIVE else assigned


def _revision(plain: Directive) -> str:
    return hashlib.sha256(msgspec.json.encode(plain)).hexdigest()[:32]


def assignment_of(gateway: Gateway | Sighting, route: Route | RouteFacts | None) -> Assignment:
    """Active, draining, fenced or standby.

    Draining is what reads and takes nothing new: also where a person must decide first, of the gateway (held) or of the whole
    environment (danger). There no lease is given, so its effects end with the lease it has.
    """
    if route is None or route.active_gateway_id is None:
        return Assignment.STANDBY
    if route.active_gateway_id == gateway.id:
        if not route.lease_open:
            told_to_fence = route.fence_operation is not None and not route.fence_cancelled
            return Assignment.DRAINING if route.danger and not told_to_fence else Assignment.FENCED
        draining = route.drain_operation or gateway.drained_at or gateway.held_at or route.danger
        return Assignment.DRAINING if draining else Assignment.ACTIVE
    return Assignment.FENCED if gateway.role == Role.PRIMARY else Assignment.STANDBY


def polls_tasks(gateway: Gateway | Sighting, route: Route | RouteFacts | None) -> bool:
    """Only the active gateway that is not draining takes work. The Primary enforces this at the claim as well."""
    return assignment_of(gateway, route) is Assignment.ACTIVE


def _fence_order(gateway: Sighting, route: RouteFacts | None) -> FenceOrder | None:
    if route is None or route.fence_operation is None or route.active_gateway_id != gateway.id:
        return None
    return FenceOrder(
        operation=str(route.fence_operation), epoch=route.epoch, number=route.fence_number, cancelled=route.fence_cancelled
    )


def _drain_order(gateway: Sighting, route: RouteFacts | None) -> DrainOrder | None:
    if route is None or route.drain_operation is None or route.active_gateway_id != gateway.id:
        return None
    return DrainOrder(operation=str(route.drain_operation), epoch=route.epoch)


def renewal_is_due(seen: Sighting) -> bool:
    """Before two thirds of the certificate's life, or at once where its issuer is given up."""
    if seen.certificate_from is None or seen.certificate_until is None:
        return False
    life = seen.certificate_until - seen.certificate_from
    due = seen.certificate_from + timedelta(seconds=life.total_seconds() * RENEWAL_SHARE)
    return seen.renewal_ordered_at is not None or seen.moment >= due
