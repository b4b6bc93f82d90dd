"""The copies gateways hold: whether they are of this database and the same, and the order to read them again (DESIGN §9, I4)."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from common import audit, feed
from common.clock import now as clock_now
from common.models import Change
from gateways import routes
from gateways.models import Gateway, GatewayStatus
from gateways.replica_records import Thing, load
from protocol.messages import Heartbeat
from protocol.replica import AskChanges, ReplicaKind, ReplicaPrincipal, digest, fingerprint

log = logging.getLogger("mazevault.gateways.replicas")

QUIET_BEATS = 5
"""After a re-read a difference orders no other one for this many heartbeats, so that a lasting one costs little."""
CHUNK = 500
_digests: dict[str, tuple[int, str]] = {}
"""By environment: the digest of what a reader from the beginning would hold, and the head it was computed at."""


def take_position(gateway: Gateway, status: GatewayStatus, beat: Heartbeat, moment: datetime) -> None:
    """In the heartbeat's transaction, with the status locked and not yet saved. A copy that is ahead of this database proves
    that the database is older than the world, unless the copy was told to begin anew."""
    head = feed.head(gateway.environment_id)
    ahead = beat.replica_position > head
    if status.resync_ordered_at is None:
        if ahead:
            sentence = f"{gateway.name} holds changes up to {beat.replica_position}, but this Primary's database ends at {head}"
            routes.freeze_because(gateway, sentence, {"reported_position": beat.replica_position, "known_position": head})
    elif not ahead and status.resync_begun_at is not None:
        status.resync_ordered_at, status.resync_begun_at, status.resync_ended_at = None, None, moment
        log.info("gateway %s has begun its copy anew", gateway.name)


def compare(gateway: Gateway, beat: Heartbeat, moment: datetime) -> None:
    """Order a re-read when the copy is at the head and holds something else. Only then can the two be compared."""
    if not beat.replica_digest:
        return
    feed.place_pending()
    mine = _digest_at_head(gateway.environment_id, beat.replica_position)
    if mine is None or mine == beat.replica_digest:
        return
    quiet = moment - timedelta(seconds=QUIET_BEATS * settings.MAZEVAULT.timing.heartbeat_interval)
    lately = GatewayStatus.objects.filter(gateway=gateway, resync_ended_at__gt=quiet).exists()
    if not lately:
        order_resync(gateway, moment, "its digest differs from the Primary's")


def order_resync(gateway: Gateway, moment: datetime, why: str) -> bool:
    """Tell a gateway to read everything from the beginning and to drop what it does not see. False when it was told already."""
    with transaction.atomic():
        if not GatewayStatus.objects.filter(gateway=gateway, resync_ordered_at=None).update(
            resync_ordered_at=moment, resync_begun_at=None
        ):
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
        order_resync(gateway, moment, why)


def note_reading(gateway: Gateway, ask: AskChanges, generation: str, moment: datetime) -> None:
    """A page is asked for. From 0 it begins what was ordered; a cursor of another life of this database must begin anew."""
    if ask.after == 0:
        GatewayStatus.objects.filter(gateway=gateway, resync_ordered_at__isnull=False, resync_begun_at=None).update(
            resync_begun_at=moment
        )
        return
    if ask.generation and ask.generation != generation:
        order_resync(gateway, moment, "its cursor belongs to an earlier life of the Primary's database")


def digest_of_all(code: str) -> str:
    """The digest of everything a reader from the beginning would hold. Principals stay out (`protocol.replica`)."""
    fingerprints: dict[Thing, str] = {}
    position = 0
    while entries := feed.changes_after(code, position, CHUNK):
        things = [(ReplicaKind(entry.kind), entry.entity_id) for entry in entries if entry.kind != ReplicaKind.PRINCIPAL]
        for thing, record in load(code, things, clock_now(), with_values=False).by_thing.items():
            if not isinstance(record, ReplicaPrincipal):
                fingerprints[thing] = fingerprint(record)
        position = entries[-1].position or position
    return digest(fingerprints.values())


def _digest_at_head(code: str, position: int) -> str | None:
    """Ours, if the copy is at our head and nothing changed while we looked; None when the two cannot be compared now."""
    if not _is_head(code, position):
        return None
    at, known = _digests.get(code, (-1, ""))
    if at == position:
        return known
    computed = digest_of_all(code)
    if not _is_head(code, position):
        return None
    _digests[code] = (position, computed)
    return computed


def _is_head(code: str, position: int) -> bool:
    waiting = Change.objects.filter(scope=code, position=None).exists()
    return not waiting and feed.head(code) == position
