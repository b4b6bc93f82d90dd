"""The copies gateways hold: whether they are of this database and the same, and the order to read them again (DESIGN §9, I4)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from common import audit
from gateways import routes
from gateways.models import Gateway, GatewayStatus
from gateways.sightings import Sighting
from protocol.messages import Heartbeat
from protocol.replica import AskChanges, comparable

log = logging.getLogger("mazevault.gateways.replicas")

QUIET_BEATS = 5
"""After a re-read a difference orders no other one for this many heartbeats, so that a lasting one costs little."""
COLUMNS = """
    coalesce((SELECT max(position) FROM common_change WHERE scope = g.environment_id), 0) AS feed_head,
    EXISTS (SELECT 1 FROM common_change WHERE scope = g.environment_id AND position IS NULL) AS feed_waits,
    (SELECT position FROM gateways_copydigest WHERE environment_id = g.environment_id) AS digest_position,
    (SELECT digest FROM gateways_copydigest WHERE environment_id = g.environment_id) AS digest
"""
"""What a copy is compared with, of one instant, beside `sightings.SOURCES`."""


@dataclass(frozen=True)
class FeedFacts:
    """The newest position of an environment, whether changes wait for theirs, and what the digest was at which position."""

    head: int
    waits: bool
    position: int | None
    digest: str | None

    @staticmethod
    def of(row: Mapping[str, Any]) -> FeedFacts:
        return FeedFacts(row["feed_head"], row["feed_waits"], row["digest_position"], row["digest"])

    def differs(self, beat: Heartbeat) -> bool:
        """Whether a copy holds something else. Only one at the head, when nothing is on its way, can be compared at all."""
        at_head = beat.replica_position == self.head == self.position and not self.waits
        return at_head and comparable(beat.replica_digest) and beat.replica_digest != self.digest


def has_begun_anew(seen: Sighting, feed: FeedFacts, beat: Heartbeat) -> bool:
    """Whether an ordered re-read is under way, so that the order is fulfilled."""
    return seen.resync_ordered_at is not None and seen.resync_begun_at is not None and beat.replica_position <= feed.head


def needs_resync(seen: Sighting, feed: FeedFacts, beat: Heartbeat) -> bool:
    """Whether a copy that holds something else is to be read again: not right after it was."""
    quiet = timedelta(seconds=QUIET_BEATS * settings.MAZEVAULT.timing.heartbeat_interval)
    lately = seen.resync_ended_at is not None and seen.resync_ended_at > seen.moment - quiet
    return feed.differs(beat) and seen.resync_ordered_at is None and not lately


def order_resync(gateway: Gateway, moment: datetime, why: str, *, anew: bool = False) -> bool:
    """Tell a gateway to read everything from the beginning and to drop what it does not see. False when it was told already.

    With `anew` also where it has begun: what it read is of a database that was put back since.
    """
    untold = Q(resync_ordered_at=None) | Q(resync_begun_at__isnull=False) if anew else Q(resync_ordered_at=None)
    with transaction.atomic():
        if not GatewayStatus.objects.filter(untold, gateway=gateway).update(resync_ordered_at=moment, resync_begun_at=None):
            return False
        audit.record(
            actor="system", action="gateway.replica.resync_ordered", entity="gateway", entity_id=str(gateway.id),
            severity=audit.Severity.WARNING, environment=gateway.environment_id, details={"name": gateway.name, "why": why},
        )  # fmt: skip
        routes.wake(gateway.environment_id)
    log.warning("gateway %s shall read its copy again: %s", gateway.name, why)
    return True


def order_resync_of_all(code: str, moment: datetime, why: str) -> None:
    """After an operator accepted an older database: no copy may hold more than it."""
    for gateway in Gateway.objects.filter(environment_id=code, decommissioned_at__isnull=True, status__isnull=False):
        order_resync(gateway, moment, why, anew=True)


def note_reading(gateway: Gateway, ask: AskChanges, generation: str, moment: datetime) -> None:
    """A page is asked for. From 0 it begins what was ordered; a cursor of another life of this database must begin anew."""
    if ask.after == 0:
        GatewayStatus.objects.filter(gateway=gateway, resync_ordered_at__isnull=False, resync_begun_at=None).update(
            resync_begun_at=moment
        )
        return
    if ask.generation and ask.generation != generation:
        order_resync(gateway, moment, "its cursor belongs to an earlier life of the Primary's database", anew=True)
