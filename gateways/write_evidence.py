"""What is kept of a write that contradicts another one or is not believed: for a person, beside every stream (DESIGN §9)."""

from __future__ import annotations

import hashlib
import logging
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from django.db import IntegrityError, transaction

from common import audit
from gateways import doubts
from gateways.beliefs import Doubt
from gateways.models import Gateway, ReceivedWrite
from gateways.settlement import finish, tell
from gateways.write_scene import Scene
from protocol.decoding import decode_json
from protocol.vocabulary import WriteOutcome
from protocol.writes import QueuedWrite, WriteHead

if TYPE_CHECKING:
    from gateways.write_desk import Desk

log = logging.getLogger("mazevault.gateways.inbox")

CALLER_WAITS = timedelta(seconds=15)
"""For so long nobody but its own request settles a write whose caller waits: longer than any caller does."""
_EVIDENCE = uuid.UUID("5f0c8f0e-0b0a-4e57-9a55-3f3d5a1a7c11")
"""Namespace of the ids of evidence, so that the same forged message is kept once."""


class _Named(msgspec.Struct):
    """The one field of a head that is read even when the others have another form."""

    id: str


def columns_of(desk: Desk, write: QueuedWrite, head: WriteHead, waits: bool) -> dict[str, Any]:
    """What is stored of a genuine write, without its content."""
    base = head.base_version
    return {
        "id": uuid.UUID(head.id), "gateway_id": desk.id_of(head.gateway), "environment_id": desk.gateway.environment_id,
        "generation": desk.id_of(head.generation), "epoch": head.epoch, "sequence": head.sequence,
        "previous": uuid_of(head.previous) if head.previous else None, "operation": head.operation.value,
        "secret": uuid.UUID(head.secret), "project": desk.id_of(head.project),
        "project_environment": desk.id_of(head.project_environment), "key": storable(head.key),
        "base_version": base if base is not None and abs(base) < 2**62 else None, "actor": storable(head.actor),
        "idempotency_key": head.idempotency_key,
        "accepted_at": storable(head.accepted_at)[:64], "head": write.head, "signature": write.signature,
        "body_digest": head.body_digest, "promised": write.promised,
        "not_before": desk.now + CALLER_WAITS if waits else desk.now, "received_at": desk.now,
    }  # fmt: skip


def row_of(desk: Desk, write: QueuedWrite, head: WriteHead, waits: bool) -> ReceivedWrite:
    """The row of a genuine write, without its content."""
    return ReceivedWrite(**columns_of(desk, write, head, waits))


def keep_forged(desk: Desk, write: QueuedWrite, code: str, sentence: str) -> ReceivedWrite:
    """Evidence of a write nobody is known to have made: without content, under an id of its own, in nobody's place."""
    return _keep(desk, _evidence_of(desk, write), WriteOutcome.DEAD_LETTER, code, sentence)


def _evidence_of(desk: Desk, write: QueuedWrite) -> ReceivedWrite:
    """A row that says only what came and who brought it."""
    return ReceivedWrite(
        id=_evidence_id(write), gateway=desk.gateway, environment_id=desk.gateway.environment_id,
        generation=desk.gateway.generation, epoch=0, sequence=0, in_stream=False, claimed_id=claimed_id_of(write), operation="",
        key="", actor="", accepted_at="", head=storable(write.head), signature=storable(write.signature), body_digest="",
        promised=write.promised, not_before=desk.now, received_at=desk.now,
    )  # fmt: skip


def keep_unreadable(desk: Desk, write: QueuedWrite, sentence: str) -> ReceivedWrite:
    """Its sender proved who it is and wipes what is answered: the content stays here, although nobody can say whose it is."""
    row = _evidence_of(desk, write)
    row.sealed_body = desk.sealed(row.id, write)
    return _keep(desk, row, WriteOutcome.QUARANTINED, "WRITE_UNREADABLE", f"its head cannot be read: {sentence}")


def keep_unknown(desk: Desk, write: QueuedWrite, head: WriteHead) -> ReceivedWrite:
    """Signed by a life nobody here knows of, for example after a restore: for a person, beside every stream."""
    row = row_of(desk, write, head, waits=False)
    row.gateway, row.generation, row.in_stream = desk.gateway, desk.gateway.generation, False
    row.claimed_id, row.id = row.id, _evidence_id(write)
    row.sealed_body = desk.sealed(row.id, write)
    sentence = "no gateway of this environment ever signed with this generation"
    return _keep(desk, row, WriteOutcome.QUARANTINED, "WRITER_UNKNOWN", sentence)


def keep_doubted(desk: Desk, write: QueuedWrite, head: WriteHead, doubt: Doubt) -> ReceivedWrite:
    """No honest gateway signs this: kept with its content for a person, beside the stream, and its gateway is set aside."""
    row = row_of(desk, write, head, waits=False)
    row.in_stream, row.sealed_body = False, desk.sealed(row.id, write)
    kept = _keep(desk, row, WriteOutcome.QUARANTINED, "WRITE_NOT_BELIEVED", str(doubt))
    doubts.set_aside(Gateway.objects.get(id=row.gateway_id), doubt)
    return kept


def keep_contradiction(desk: Desk, write: QueuedWrite, head: WriteHead, code: str, sentence: str, other: str) -> ReceivedWrite:
    """A genuine write that says otherwise than an earlier one: kept with its content for a person, beside the stream."""
    row = row_of(desk, write, head, waits=False)
    row.in_stream = False
    if code == "ID_REUSED":
        row.claimed_id, row.id = row.id, _evidence_id(write)
    row.sealed_body = desk.sealed(row.id, write)
    return _keep(desk, row, WriteOutcome.QUARANTINED, code, f"{sentence} ({other})")


def _keep(desk: Desk, row: ReceivedWrite, outcome: WriteOutcome, code: str, sentence: str) -> ReceivedWrite:
    known = ReceivedWrite.objects.filter(id=row.id).first()
    if known is not None:
        desk.duplicates += 1
        return known
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        return ReceivedWrite.objects.get(id=row.id)
    settle_at_once(desk, row, outcome, code, sentence)
    tell(
        row, "gateway.write.contradicts", actor=actor_of(desk.gateway), severity=audit.Severity.CRITICAL,
        claimed=str(row.claimed_id or row.id),
    )  # fmt: skip
    log.error("a write of %s is kept as evidence: %s", desk.gateway.name, code)
    return row


def settle_at_once(desk: Desk, row: ReceivedWrite, outcome: WriteOutcome, code: str, sentence: str) -> None:
    scene = Scene.open(row.environment_id, desk.now)
    finish(row, outcome, scene, code=code, detail=sentence)
    scene.close()


def claimed_id_of(write: QueuedWrite) -> uuid.UUID | None:
    """The id a write says it has, believed or not, also when the rest of its head cannot be read."""
    try:
        return uuid.UUID(decode_json(write.head, _Named).id)
    except (msgspec.MsgspecError, UnicodeEncodeError, ValueError):
        return None


def _evidence_id(write: QueuedWrite) -> uuid.UUID:
    whole = "\0".join([write.head, write.body, write.salt, write.signature])
    return uuid.uuid5(_EVIDENCE, hashlib.sha256(whole.encode(errors="replace")).hexdigest())


def uuid_of(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def storable(text: str) -> str:
    """What PostgreSQL can hold of a text from outside."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def actor_of(gateway: Gateway) -> str:
    return f"gateway:{gateway.id}"
