"""Audit or refuse: an entry commits with the change it tells of, or neither does (I17). One sequencer chains them (I18)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django.db import connection, transaction

from common.clock import now
from common.locks import try_transaction_lock
from common.models import AuditEntry, AuditLink

GENESIS = "0" * 64
"""What stands before the first entry."""


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class ChainReport:
    """`broken_at` is the first position whose hash does not fit, or None; `unchained` entries wait for the sequencer."""

    length: int
    head: str
    broken_at: int | None
    unchained: int


def record(
    *,
    actor: str,
    action: str,
    entity: str,
    entity_id: str,
    severity: Severity = Severity.INFO,
    details: Mapping[str, Any] | None = None,
    environment: str = "",
    address: str = "",
) -> AuditEntry:
    """Write one entry in the caller's transaction. Raises `RuntimeError` outside of one: then it could outlive its change."""
    if not connection.in_atomic_block:
        raise RuntimeError("an audit entry is written in the transaction of the change it tells of")
    return AuditEntry.objects.create(
        at=now(),
        actor=actor[:64],
        action=action,
        entity=entity,
        entity_id=entity_id[:64],
        severity=severity.value,
        environment=environment,
        address=address[:64],
        details=dict(details or {}),
    )


def chain_pending(batch: int = 500) -> int:
    """Give the next committed entries their place in the chain. One process at a time; returns how many were chained."""
    with transaction.atomic():
        if not try_transaction_lock("audit-chain"):
            return 0
        last = AuditLink.objects.order_by("-position").first()
        position, previous = (last.position, last.hash) if last else (0, GENESIS)
        links = []
        for entry in AuditEntry.objects.filter(link__isnull=True).order_by("id")[:batch]:
            position, previous = position + 1, chain_hash(previous, entry)
            links.append(AuditLink(position=position, entry=entry, hash=previous))
        AuditLink.objects.bulk_create(links)
    return len(links)


def verify_chain() -> ChainReport:
    """Walk the whole chain and recompute every hash."""
    previous, length = GENESIS, 0
    for link in AuditLink.objects.select_related("entry").order_by("position").iterator(chunk_size=1000):
        length += 1
        previous = chain_hash(previous, link.entry)
        if link.position != length or link.hash != previous:
            return ChainReport(length, link.hash, link.position, 0)
    return ChainReport(length, previous, None, AuditEntry.objects.filter(link__isnull=True).count())


def chain_hash(previous: str, entry: AuditEntry) -> str:
    """SHA-256 (hex) over the hash before and the entry's fields in one fixed JSON form."""
    fields = [
        entry.id,
        entry.at.isoformat(),
        entry.actor,
        entry.action,
        entry.entity,
        entry.entity_id,
        entry.severity,
        entry.environment,
        entry.address,
        entry.details,
    ]
    text = json.dumps([previous, fields], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
