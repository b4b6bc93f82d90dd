"""Noticing that the Primary's database was restored or moved: then leases of a lost past may still live (DESIGN §8).

PostgreSQL names each cluster by a system identifier and counts its timelines; either one changes when a backup is restored or a
standby is promoted. A restore that hides from both is found by what nodes remember (`remembered`), or by gateways that show a
mark of a later epoch or position (I4).
"""

from __future__ import annotations

import logging
import uuid
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F

from common import audit
from common.clock import database_now
from common.locks import transaction_lock
from common.models import AuditEntry
from common.statements import run
from gateways import routes
from gateways.models import Gateway, PrimaryNode, Route
from gateways.node_times import longest_times as longest_times
from gateways.remembered import Seen, has_gone_back, memory
from integrations.azure.egress import CALL_SECONDS
from protocol.vocabulary import StandbyMode

log = logging.getLogger("mazevault.gateways.generation")


MARGIN_SECONDS = 5.0
"""How much longer than the call of a vault a block for one is."""
CHANGED = "primary.database.changed"
TIMELINE = "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int"
"""The timeline that is written now. The control file tells of a promotion only after the next checkpoint, minutes later."""


def look() -> bool:
    """Compare the database with the one of this life. A new life blocks every lease for a while; returns whether it began."""
    remembered = memory.seen()  # before the row is read: its count may have grown since, and never fallen
    identifier, timeline = _database_identity()
    with transaction.atomic():
        transaction_lock("primary-generation")
        known = PrimaryNode.objects.filter(id=1).first()
        if known is None:
            PrimaryNode.objects.create(id=1, system_identifier=identifier, timeline=timeline)
            return False
        gone_back = has_gone_back(remembered, _seen(known))
        if (known.system_identifier, known.timeline) == (identifier, timeline) and not gone_back:
            memory.keep(_seen(known))
            return False
        _begin_new_life(known, identifier, timeline, remembered if gone_back else None)
    memory.keep(_seen(known), in_file=True)
    return True


def keep_watch() -> bool:
    """`look`, and count that it was done. Returns whether a new life began."""
    keep_times()  # first: what is blocked below must not be for longer than anybody knows
    began = look()
    if PrimaryNode.objects.filter(id=1).update(looks=F("looks") + 1):
        memory.keep(_seen(PrimaryNode.objects.get(id=1)), in_file=True)
    return began


_KEEP_TIMES = """
UPDATE gateways_primarynode n
   SET longest_block_seconds = CASE WHEN old.ended THEN %(block)s ELSE greatest(n.longest_block_seconds, %(block)s) END,
       longest_lease_seconds = CASE WHEN old.ended THEN %(lease)s ELSE greatest(n.longest_lease_seconds, %(lease)s) END,
       longest_fence_wait_seconds = CASE WHEN old.ended THEN %(wait)s ELSE greatest(n.longest_fence_wait_seconds, %(wait)s) END,
       longest_seen_at = CASE WHEN old.ended OR old.as_long THEN clock_timestamp() ELSE n.longest_seen_at END
  FROM (SELECT longest_seen_at < clock_timestamp() - %(kept)s * interval '1 second' AS ended,
               longest_block_seconds <= %(block)s AND longest_lease_seconds <= %(lease)s
                   AND longest_fence_wait_seconds <= %(wait)s AS as_long FROM gateways_primarynode WHERE id = 1) old
 WHERE n.id = 1
"""
KEPT_SECONDS = 3600.0
"""So long the times of a node that is not seen any more count: far longer than any lease or block."""


def keep_times() -> None:
    """Tell the other nodes for how long this one gives leases and blocks them. A node must not judge by shorter times of its own
    what one with longer times has given."""
    timing = settings.MAZEVAULT.timing
    run(_KEEP_TIMES, {
        "block": longest_block_seconds(), "lease": timing.lease_ttl + timing.fence_wait, "wait": timing.fence_wait,
        "kept": KEPT_SECONDS,
    })  # fmt: skip


def _seen(row: PrimaryNode) -> Seen:
    return Seen(str(row.generation), row.since.timestamp(), row.looks)


def lease_block_seconds() -> float:
    """Long enough for every old lease to end and for every living gateway to report the epoch it has seen."""
    return max(longest_times()[0].total_seconds(), 1.5 * settings.MAZEVAULT.timing.heartbeat_interval)


def longest_block_seconds() -> float:
    """The longest that this node, with its times, blocks leases for: after a restore, or for a call of a vault."""
    return max(lease_block_seconds(), CALL_SECONDS + MARGIN_SECONDS)


def awaited_of(code: str) -> tuple[list[str], datetime] | None:
    """After a restore: the gateways of an environment that have not said since which epoch they have seen, and until when they
    are waited for at most. None where nothing is waited for: what the database knows of the environment is what is."""
    route = Route.objects.get(environment_id=code)
    node, moment = PrimaryNode.objects.filter(id=1).first(), database_now()
    if node is None or route.lease_blocked_until is None:
        return None
    block = timedelta(seconds=lease_block_seconds())
    began = AuditEntry.objects.filter(action=CHANGED, at__gt=moment - block - timedelta(seconds=MARGIN_SECONDS))
    began_at = began.order_by("at").values_list("at", flat=True).last()
    if began_at is None or (until := min(route.lease_blocked_until, began_at + block)) <= moment:
        return None
    living = Gateway.objects.filter(environment_id=code, decommissioned_at=None, banned_at=None, standby_mode=StandbyMode.WARM)
    silent = living.exclude(status__heartbeat_at__gte=node.since).order_by("name")
    names = list(silent.values_list("name", flat=True))
    return (names, until) if names else None


def _begin_new_life(known: PrimaryNode, identifier: str, timeline: int, remembered: Seen | None) -> None:
    """`remembered` is what shows that the database was put back, where it is that."""
    until: datetime = database_now() + timedelta(seconds=lease_block_seconds())
    audit.record(
        actor="system",
        action=CHANGED,
        entity="primary",
        entity_id=str(known.generation),
        severity=audit.Severity.CRITICAL,
        details={
            "timeline_before": known.timeline,
            "timeline": timeline,
            "no_leases_until": until.isoformat(),
            **({"looks_before": remembered.looks, "looks": known.looks} if remembered else {}),
        },
    )
    known.generation, known.system_identifier, known.timeline = uuid.uuid4(), identifier, timeline
    known.since = max(database_now(), _after(remembered))  # later than what any node remembers, or each would begin one
    known.save(update_fields=["generation", "system_identifier", "timeline", "since"])
    routes.block_all_leases(until)
    log.error("the database is another one than before (restored or promoted); no lease is granted until %s", until.isoformat())


def _after(remembered: Seen | None) -> datetime:
    since = remembered.since if remembered else 0.0
    return datetime.fromtimestamp(since, UTC) + timedelta(milliseconds=1)


def _database_identity() -> tuple[str, int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT system_identifier::text FROM pg_control_system()")
        identifier: str = cursor.fetchone()[0]
        cursor.execute(f"SELECT {TIMELINE}")
        timeline: int = cursor.fetchone()[0]
    return identifier, timeline
