"""Noticing that the Primary's database was restored or moved: then leases of a lost past may still live (DESIGN §8).

PostgreSQL names each cluster by a system identifier and counts its timelines; either one changes when a backup is restored or a
standby is promoted. A restore that hides from both is found by gateways that report a higher epoch (I4).
"""

from __future__ import annotations

import logging
import uuid
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, transaction

from common import audit
from common.clock import database_now
from common.locks import transaction_lock
from gateways import routes
from gateways.models import PrimaryNode

log = logging.getLogger("mazevault.gateways.generation")


TIMELINE = "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int"
"""The timeline that is written now. The control file tells of a promotion only after the next checkpoint, minutes later."""


def look() -> bool:
    """Compare the database with the one of this life. A new life blocks every lease for a while; returns whether it began."""
    identifier, timeline = _database_identity()
    with transaction.atomic():
        transaction_lock("primary-generation")
        known = PrimaryNode.objects.filter(id=1).first()
        if known is None:
            PrimaryNode.objects.create(id=1, system_identifier=identifier, timeline=timeline)
            return False
        if (known.system_identifier, known.timeline) == (identifier, timeline):
            return False
        _begin_new_life(known, identifier, timeline)
    return True


def lease_block_seconds() -> float:
    """Long enough for every old lease to end and for every living gateway to report the epoch it has seen."""
    timing = settings.MAZEVAULT.timing
    return max(timing.lease_ttl + timing.fence_wait, 1.5 * timing.heartbeat_interval)


def _begin_new_life(known: PrimaryNode, identifier: str, timeline: int) -> None:
    until: datetime = database_now() + timedelta(seconds=lease_block_seconds())
    audit.record(
        actor="system",
        action="primary.database.changed",
        entity="primary",
        entity_id=str(known.generation),
        severity=audit.Severity.CRITICAL,
        details={"timeline_before": known.timeline, "timeline": timeline, "no_leases_until": until.isoformat()},
    )
    known.generation, known.system_identifier, known.timeline = uuid.uuid4(), identifier, timeline
    known.since = database_now()
    known.save()
    routes.block_all_leases(until)
    log.error("the database is another one than before (restored or promoted); no lease is granted until %s", until.isoformat())


def _database_identity() -> tuple[str, int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT system_identifier::text FROM pg_control_system()")
        identifier: str = cursor.fetchone()[0]
        cursor.execute(f"SELECT {TIMELINE}")
        timeline: int = cursor.fetchone()[0]
    return identifier, timeline
