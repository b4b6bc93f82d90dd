"""Proof beyond one database: copies of the gateways' audit chains, anchors of their heads, signed checkpoints (I18)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Q

from common import audit
from common.locks import try_transaction_lock
from common.models import AuditCheckpoint, AuditEntry, AuditLink
from common.rows import locked
from common.statements import plain
from gateways import audit_forks, identity
from gateways.audit_forks import Contradiction
from gateways.models import Gateway, GatewayAuditChain, GatewayAuditRecord
from protocol.audit import (
    ANCHORED,
    GENESIS,
    PRIMARY,
    WITNESS_KNOWN,
    Statement,
    is_countersigned,
    link_hash,
    public_key_of,
    sign_statement,
    statement_of,
    walk,
)
from protocol.messages import AuditPlace, AuditRecord, AuditTaken, AuditUpload, Countersigned, SignedCheckpoint

log = logging.getLogger("mazevault.gateways.audit")

ANCHOR_EVERY = timedelta(seconds=60)
"""A gateway's head is written into the Primary's chain at most this often."""
_COUNTERSIGNED = """
INSERT INTO gateways_auditcountersignature (checkpoint_id, gateway_id, generation, key, signature, refusal)
VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (checkpoint_id, generation) DO NOTHING
"""
COLUMNS = """
    (SELECT json_build_object('text', text, 'signature', signature, 'key', key) FROM common_auditcheckpoint
      WHERE chain = 'primary' AND NOT is_cut ORDER BY id DESC LIMIT 1) AS newest_checkpoint,
    (SELECT json_agg(json_build_object('id', id, 'text', text)) FROM common_auditcheckpoint
      WHERE chain = 'primary' AND NOT is_cut AND position = asked.spoken_of) AS spoken_of,
    EXISTS (SELECT 1 FROM gateways_auditcountersignature WHERE generation = g.generation) AS known_witness
"""
"""What countersigning needs, beside `sightings.SOURCES` and `asked`, which says what position is spoken of."""
CHECKPOINT_SECONDS = 30.0
"""A checkpoint is signed this long after the last one when the chain moved; with the loop's pause that stays under 60 s."""


def take_upload(gateway: Gateway, body: AuditUpload, now: datetime) -> AuditTaken:
    """Store the next entries of one of this gateway's chains and say up to where it is held. What is stored is never replaced.

    Entries behind a gap wait for the next upload. Raises `ValidationFailed` for a chain this gateway never had, and `Conflict`
    when an entry contradicts what is stored or does not fit; what came before it is kept, and `audit_forks.heed` says what then.
    `fork_at` asks for the chain that follows a contradicted one, and stores nothing else.
    """
    chain = audit_forks.chain_of(gateway, body.life)
    if body.fork_at is not None:
        return _followed(gateway, chain, body.fork_at)
    with transaction.atomic():
        GatewayAuditChain.objects.get_or_create(chain=chain, defaults={"gateway": gateway, "hash": GENESIS})
        held = GatewayAuditChain.objects.select_for_update(of=("self",)).get(chain=chain)
        wrong = _first_contradiction(held, body.records)
        _keep_what_follows(held, [record for record in body.records if wrong is None or record.position < wrong.position])
    if wrong is not None:
        audit_forks.heed(gateway, chain, wrong)
        raise wrong.refusal()
    return AuditTaken(position=held.position, hash=held.hash, cut=_cut_for(held, body.cut_at, now) if body.cut_at else None)


def _followed(gateway: Gateway, chain: str, place: AuditPlace) -> AuditTaken:
    follows = audit_forks.follow(gateway, chain, place)
    held = GatewayAuditChain.objects.get(chain=chain)
    return AuditTaken(position=held.position, hash=held.hash, follows=follows)


def prove(now: datetime) -> int:
    """Anchor the gateways' heads and sign a checkpoint where they are due. Safe to repeat and to race; returns how many."""
    return anchor_heads(now) + (sign_checkpoint(now) is not None)


def anchor_heads(now: datetime) -> int:
    """Write the head of each gateway chain that moved into the Primary's own chain. Returns how many were written."""
    due = Q(anchored_at=None) | Q(anchored_at__lte=now - ANCHOR_EVERY)
    moved = GatewayAuditChain.objects.filter(due, position__gt=F("anchored_position"))
    anchored = 0
    for chain in moved.values_list("chain", flat=True):
        with transaction.atomic():
            row = locked(moved.select_related("gateway"), chain, skip_locked=True)
            if row is not None:
                _anchor(row, now)
                anchored += 1
    return anchored


def sign_checkpoint(now: datetime) -> AuditCheckpoint | None:
    """Sign where the Primary's chain stands, when it moved since the last checkpoint and that one is old enough.

    What is new since then is recomputed first; a misfit is a CRITICAL entry, and what is signed stays the truth about the rows.
    """
    with transaction.atomic():
        if not try_transaction_lock("audit-checkpoint"):
            return None
        key, position_and_hash = identity.signing_key(), audit.head()
        last = newest_checkpoint()
        before = statement_of(last.text) if last else None
        if before is not None and not _is_due(before, position_and_hash, now):
            return None
        if position_and_hash[0] == 0:
            return None
        _alarm_about_misfits(before)
        signed = sign_statement(_statement(before, position_and_hash, now), key)
        return AuditCheckpoint.objects.create(
            chain=PRIMARY, position=position_and_hash[0], text=signed.text, signature=signed.signature, key=signed.key
        )


def newest_checkpoint() -> AuditCheckpoint | None:
    return AuditCheckpoint.objects.filter(chain=PRIMARY, is_cut=False).order_by("-id").first()


def offered_checkpoint(row: Mapping[str, Any]) -> SignedCheckpoint | None:
    """What a heartbeat's answer carries for countersigning, of a row of `COLUMNS`."""
    newest = plain(row["newest_checkpoint"])
    return SignedCheckpoint(**newest) if newest else None


def take_countersignature(gateway: Gateway, said: Countersigned, row: Mapping[str, Any]) -> bool:
    """Store what a gateway says about a checkpoint; returns whether it was new. A refusal is CRITICAL: it saw another past.

    `row` holds `COLUMNS`: the checkpoints at the position that is spoken of, and whether this life ever spoke before.
    """
    spoken_of = plain(row["spoken_of"]) or []
    checkpoint = next((one for one in spoken_of if digest_of(one["text"]) == said.digest), None)
    if checkpoint is None:
        log.warning("%s speaks of a checkpoint at %s that is not ours", gateway.name, said.position)
        return False
    if not said.refusal and not is_countersigned(checkpoint["text"], said.signature, public_key_of(gateway.signing_key)):
        log.warning("the countersignature of %s for position %s does not verify", gateway.name, said.position)
        return False
    if not said.refusal and row["known_witness"]:
        return _keep_countersignature(gateway, said, checkpoint["id"])
    with transaction.atomic():
        created = _keep_countersignature(gateway, said, checkpoint["id"])
        if created and said.refusal:
            _tell_refusal(gateway, said)
        elif created:
            _introduce_witness(gateway)
    return created


def _keep_countersignature(gateway: Gateway, said: Countersigned, checkpoint: int) -> bool:
    values: list[Any] = [checkpoint, gateway.id, gateway.generation, gateway.signing_key, said.signature, said.refusal]
    with connection.cursor() as cursor:
        cursor.execute(_COUNTERSIGNED, values)
        return cursor.rowcount == 1


def digest_of(text: str) -> str:
    """How a heartbeat names a checkpoint."""
    return hashlib.sha256(text.encode()).hexdigest()


def _first_contradiction(held: GatewayAuditChain, records: list[AuditRecord]) -> Contradiction | None:
    """The first entry that differs from a stored one, whose hash does not fit, or that is new in a chain that has gone on in
    another one; None when all is well."""
    stored = audit_forks.stored(held, [record.position for record in records])
    position, previous = held.position, held.hash
    is_closed = bool(records) and audit_forks.is_followed(held)
    for record in records:
        if record.position <= held.position:
            known = stored.get(record.position)
            if known and known != (record.text, record.hash):
                return Contradiction(record.position, known[1], record.hash)
        elif record.position == position + 1:
            if is_closed or record.hash != link_hash(held.chain, record.position, previous, record.text):
                return Contradiction(record.position, "", record.hash)
            position, previous = record.position, record.hash
    return None


def _keep_what_follows(held: GatewayAuditChain, records: list[AuditRecord]) -> None:
    rows = []
    for record in records:
        if record.position == held.position + 1:
            rows.append(GatewayAuditRecord(chain=held.chain, position=record.position, text=record.text, hash=record.hash))
            held.position, held.hash = record.position, record.hash
    GatewayAuditRecord.objects.bulk_create(rows)
    held.save(update_fields=["position", "hash"])


def _cut_for(held: GatewayAuditChain, position: int, now: datetime) -> SignedCheckpoint | None:
    """The word that a gateway may remove its entries up to here: only for what is held, and anchored in the own chain."""
    if position > held.anchored_position:
        return None
    stored = GatewayAuditRecord.objects.filter(chain=held.chain, position=position).values_list("hash", flat=True).first()
    at_the_cut = audit.start_of(held.chain)
    found = stored or (at_the_cut[1] if at_the_cut[0] == position else "")
    if not found:
        return None
    cut = Statement(chain=held.chain, generation=str(identity.primary_generation()), position=position, hash=found,
                    at=now.isoformat(), is_cut=True)  # fmt: skip
    signed = sign_statement(cut, identity.signing_key())
    return SignedCheckpoint(text=signed.text, signature=signed.signature, key=signed.key)


def _anchor(row: GatewayAuditChain, now: datetime) -> None:
    audit.record(
        actor="system",
        action=ANCHORED,
        entity="audit-chain",
        entity_id=row.chain,
        environment=row.gateway.environment_id,
        details={"gateway": row.gateway.name, "position": row.position, "hash": row.hash},
    )
    row.anchored_position, row.anchored_at = row.position, now
    row.save(update_fields=["anchored_position", "anchored_at"])


def _is_due(before: Statement, head: tuple[int, str], now: datetime) -> bool:
    if (before.position, before.hash) == head:
        return False
    pause = min(CHECKPOINT_SECONDS, settings.MAZEVAULT.timing.heartbeat_interval)
    return (now - datetime.fromisoformat(before.at)).total_seconds() >= pause


def _statement(before: Statement | None, head: tuple[int, str], now: datetime) -> Statement:
    restated = (before.position, _hash_at(before.position)) if before else (0, GENESIS)
    return Statement(
        chain=PRIMARY, generation=str(identity.primary_generation()), position=head[0], hash=head[1], at=now.isoformat(),
        previous_position=restated[0], previous_hash=restated[1],
    )  # fmt: skip


def _hash_at(position: int) -> str:
    """The hash the chain has there now; empty when the position is gone."""
    if position == audit.start_of()[0]:
        return audit.start_of()[1]
    return AuditLink.objects.filter(chain=PRIMARY, position=position).values_list("hash", flat=True).first() or ""


def _alarm_about_misfits(before: Statement | None) -> None:
    start = (before.position, before.hash) if before else audit.start_of()
    found = [finding.position for finding in walk(PRIMARY, audit.links(after=start[0]), start=start).findings]
    if before is not None and _hash_at(before.position) != before.hash:
        found.insert(0, before.position)
    for position in found[:1]:
        _tell_once("audit.chain.broken", str(position), {"position": position})
        log.error("the audit chain does not fit at position %s; run: ./mazevault audit verify", position)


def _tell_once(action: str, entity_id: str, details: dict[str, object]) -> None:
    if not AuditEntry.objects.filter(action=action, entity="audit-chain", entity_id=entity_id).exists():
        audit.record(actor="system", action=action, entity="audit-chain", entity_id=entity_id,
                     severity=audit.Severity.CRITICAL, details=details)  # fmt: skip


def _tell_refusal(gateway: Gateway, said: Countersigned) -> None:
    audit.record(
        actor=f"gateway:{gateway.id}",
        action="audit.checkpoint.contradicted",
        entity="gateway",
        entity_id=str(gateway.id),
        severity=audit.Severity.CRITICAL,
        environment=gateway.environment_id,
        details={"name": gateway.name, "position": said.position, "reason": said.refusal},
    )
    log.error("%s refuses to countersign the audit checkpoint at %s: %s", gateway.name, said.position, said.refusal)


def _introduce_witness(gateway: Gateway) -> None:
    """Put the witness's key into the chain itself, so that it cannot be exchanged later."""
    audit.record(
        actor=f"gateway:{gateway.id}",
        action=WITNESS_KNOWN,
        entity="audit-chain",
        entity_id=str(gateway.generation),
        environment=gateway.environment_id,
        details={"gateway": gateway.name, "key": gateway.signing_key},
    )
