"""Removing audit entries whose time is over, leaving a chain that still proves itself (DESIGN §10).

A removal ends exactly at a signed checkpoint, is written into the trail, and leaves a signed cut from which the chain goes on.
The tables let nothing go without such a cut (migration common 0004).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from common import audit, retention
from common.locks import try_transaction_lock
from common.models import AuditCheckpoint, AuditLink
from gateways import identity
from gateways.models import AuditCountersignature, GatewayAuditChain, GatewayAuditRecord, PrimaryKeyPair
from protocol.audit import (
    PRIMARY,
    Finding,
    Link,
    Signed,
    Statement,
    public_key_of,
    sign_statement,
    statement_is_signed,
    statement_of,
    walk,
)

log = logging.getLogger("mazevault.gateways.audit")

LONGEST_CUT = 50_000
"""At most about this many entries go in one transaction; the next one goes on."""
TURN_SECONDS = 60.0
"""A turn begins no further cut after so long; the loop comes again every ten minutes. One cut a turn would be 83 entries a
second, and people alone read ten times as many."""


@dataclass(frozen=True)
class Removed:
    chain: str
    entries: int
    position: int


def apply(now: datetime) -> list[Removed]:
    """Remove what is older than the settings allow, from every chain kept here, until nothing of it is left or the turn has taken
    long enough. Nothing when retention is off (0 days)."""
    days, removed, until = settings.MAZEVAULT.audit_retention_days, list[Removed](), time.monotonic() + TURN_SECONDS
    while days and (gone := remove_before(now - timedelta(days=days), now)):
        removed += gone
        if time.monotonic() > until:
            break
    return removed


def remove_before(moment: datetime, now: datetime) -> list[Removed]:
    """Remove the entries before a moment as far as signed checkpoints (own chain) and anchors (copies) cover them."""
    chains = GatewayAuditChain.objects.values_list("chain", flat=True)
    removed = [_cut_own(moment, now), *(_cut_copy(chain, moment, now) for chain in chains)]
    return [one for one in removed if one is not None]


def _cut_own(moment: datetime, now: datetime) -> Removed | None:
    with transaction.atomic():
        if not try_transaction_lock(f"audit-retention:{PRIMARY}"):
            return None
        start = audit.start_of()
        younger = AuditLink.objects.filter(chain=PRIMARY, entry__at__gte=moment).order_by("position").first()
        end = younger.position - 1 if younger else audit.head()[0]
        upto = _last_checkpoint(start[0], end)
        if upto is None:
            return None
        links = audit.links(after=start[0], upto=upto.position)
        return _cut(PRIMARY, start, upto, links, _delete_own, moment, now)


def _cut_copy(chain: str, moment: datetime, now: datetime) -> Removed | None:
    with transaction.atomic():
        if not try_transaction_lock(f"audit-retention:{chain}"):
            return None
        start, rows = audit.start_of(chain), GatewayAuditRecord.objects.filter(chain=chain).order_by("position")
        anchored = GatewayAuditChain.objects.get(chain=chain).anchored_position
        younger = rows.filter(received_at__gte=moment).first()
        end = min(anchored, younger.position - 1 if younger else anchored, start[0] + LONGEST_CUT)
        last = rows.filter(position=end).first()
        if last is None or end <= start[0]:
            return None
        links = (Link(*row) for row in rows.filter(position__lte=end).values_list("position", "text", "hash"))
        return _cut(chain, start, _Edge(end, last.hash), links, _delete_copy, moment, now)


@dataclass(frozen=True)
class _Edge:
    position: int
    hash: str


def _last_checkpoint(start: int, end: int) -> _Edge | None:
    """The farthest checkpoint of ours that ends within the limit; a nearer one when the limit is too small for any."""
    found = AuditCheckpoint.objects.filter(chain=PRIMARY, is_cut=False, position__gt=start, position__lte=end)
    row = found.filter(position__lte=start + LONGEST_CUT).order_by("-position").first() or found.order_by("position").first()
    if row is None or not _is_ours(row):
        return None
    return _Edge(row.position, statement_of(row.text).hash)


def _is_ours(row: AuditCheckpoint) -> bool:
    known = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING, public_key=row.key).exists()
    return known and statement_is_signed(Signed(row.text, row.signature), public_key_of(row.key))


def _cut(
    chain: str, start: tuple[int, str], upto: _Edge, links: Iterable[Link], delete: Callable[[str, int], int],
    moment: datetime, now: datetime,
) -> Removed | None:  # fmt: skip
    """Check what is to go, say so in the trail, sign the cut, then open the door for exactly these rows."""
    walked = walk(chain, links, start=start)
    if walked.findings or (walked.length, walked.head) != (upto.position, upto.hash):
        _refuse(chain, walked.findings)
        return None
    count = upto.position - start[0]
    audit.record(
        actor="system", action="audit.retention.applied", entity="audit-chain", entity_id=chain, severity=audit.Severity.WARNING,
        details={"before": moment.isoformat(), "entries": count, "position": upto.position, "hash": upto.hash},
    )  # fmt: skip
    cut = Statement(chain=chain, generation=str(identity.primary_generation()), position=upto.position, hash=upto.hash,
                    at=now.isoformat(), is_cut=True)  # fmt: skip
    signed = sign_statement(cut, identity.signing_key())
    AuditCheckpoint.objects.create(chain=chain, position=cut.position, is_cut=True, text=signed.text,
                                   signature=signed.signature, key=signed.key)  # fmt: skip
    delete(chain, upto.position)
    log.info("%s audit entries of %s up to position %s were removed: their time was over", count, chain, upto.position)
    return Removed(chain, count, upto.position)


def _refuse(chain: str, findings: list[Finding]) -> None:
    reason = str(findings[0]) if findings else "the chain is not what the checkpoint says"
    log.error("nothing is removed from audit chain %s, since it is not sound: %s", chain, reason)


def _delete_own(chain: str, upto: int) -> int:
    """With the checkpoints that lie before the cut, but for those that a gateway refused to sign."""
    removed = audit.remove_upto(chain, upto)
    past = AuditCheckpoint.objects.filter(chain=chain, is_cut=False, position__lt=upto)
    refused = AuditCountersignature.objects.exclude(refusal="").values("checkpoint_id")
    gone = list(past.exclude(id__in=refused).order_by("id").values_list("id", flat=True)[:LONGEST_CUT])
    signatures, _ = AuditCountersignature.objects.filter(checkpoint__in=gone).delete()
    checkpoints, _ = AuditCheckpoint.objects.filter(id__in=gone).delete()
    retention.note_removed("gateways_auditcountersignature", signatures)
    retention.note_removed("common_auditcheckpoint", checkpoints)
    retention.note_removed("common_auditentry", removed)
    return removed


def _delete_copy(chain: str, upto: int) -> int:
    rows = GatewayAuditRecord.objects.filter(chain=chain, position__lte=upto)
    audit.open_door()
    removed = rows._raw_delete(rows.db)
    audit.close_door()
    AuditCheckpoint.objects.filter(chain=chain, is_cut=True, position__lt=upto).delete()
    retention.note_removed("gateways_gatewayauditrecord", removed)
    return removed
