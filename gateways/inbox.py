"""Writes of gateways arrive: each is taken once, answered from what is stored, and settled in order (DESIGN §9, I8, I9, I10).

Taking proves where a write comes from and stores it. Settling (`gateways.settlement`) may happen in the same call, in Celery or
in a loop of any process, any number of times and side by side: PostgreSQL is the queue.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.db import IntegrityError, connection, transaction

from common import audit
from common.clock import database_now
from common.errors import TooLarge
from common.failpoints import reach
from common.locks import try_transaction_lock
from gateways import beliefs, doubts, losses, routes
from gateways.beliefs import Doubt, Known
from gateways.models import Gateway, GatewayLife, ReceivedWrite, Route, WriteStream
from gateways.quarantine import Reason
from gateways.settlement import Scene, finish, settle, tell
from gateways.write_bodies import seal_body
from protocol.decoding import decode_json
from protocol.envelope import decode_signing_key
from protocol.messages import MessageError, decode
from protocol.vocabulary import WriteOutcome
from protocol.writes import QueuedWrite, WriteBatch, WriteForged, WriteHead, WriteReceipt, WriteReceipts, check

log = logging.getLogger("mazevault.gateways.inbox")

LARGEST_BATCH = 1024 * 1024
"""Bytes of all bodies of a batch (reliability §5, upload)."""
CALLER_WAITS = timedelta(seconds=15)
"""For so long nobody but its own request settles a write whose caller waits: longer than any caller does."""
GROUP = 25
"""Writes settled in one transaction, each in a savepoint of its own (reliability §5, apply)."""
_ARRIVED = """
INSERT INTO gateways_writestream (gateway_id, generation, arrived, highest) VALUES (%s, %s, %s, %s)
ON CONFLICT (gateway_id, generation) DO UPDATE SET arrived = gateways_writestream.arrived + excluded.arrived,
                                                   highest = GREATEST(gateways_writestream.highest, excluded.highest)
"""
_EVIDENCE = uuid.UUID("5f0c8f0e-0b0a-4e57-9a55-3f3d5a1a7c11")
"""Namespace of the ids of evidence, so that the same forged message is kept once."""


_Wrong = tuple[str, str]
"""Why a write that its gateway signed as it is can never be applied: code and sentence."""


class _Named(msgspec.Struct):
    """The one field of a head that is read even when the others have another form."""

    id: str


@dataclass
class _Desk:
    """What one batch is checked against: known writes, taken sequence numbers, keys of every life in the environment."""

    gateway: Gateway
    now: datetime
    keys: dict[tuple[str, str], Ed25519PublicKey]
    known: dict[uuid.UUID, ReceivedWrite]
    forgotten: dict[tuple[uuid.UUID, uuid.UUID], int]
    new: list[ReceivedWrite] = field(default_factory=list)
    duplicates: int = 0
    _believed: dict[tuple[uuid.UUID, uuid.UUID], Known] = field(default_factory=dict)
    _holders: dict[int, str | None] = field(default_factory=dict)

    def doubt_of(self, head: WriteHead) -> Doubt | None:
        """What is not believed of the numbers in a genuine head."""
        life = uuid.UUID(head.gateway), uuid.UUID(head.generation)
        if life not in self._believed:
            self._believed[life] = doubts.known_of_life(self.gateway, *life)
        if head.epoch not in self._holders:
            self._holders[head.epoch] = doubts.holder_of(self.gateway.environment_id, head.epoch)
        return beliefs.of_write(head.epoch, head.sequence, head.gateway, self._holders[head.epoch], self._believed[life])


def take_batch(gateway: Gateway, batch: WriteBatch, now: datetime) -> WriteReceipts:
    """Store what is new and say of every write where it is, in the order they came. One bad write stops no other.

    Raises `TooLarge` for a batch that no gateway makes. With `apply_now` the writes are settled before the answer.
    """
    if len(batch.writes) > 1 and sum(len(write.body.encode()) for write in batch.writes) > LARGEST_BATCH:
        raise TooLarge(f"writes: the bodies of a batch have at most {LARGEST_BATCH} bytes; send fewer at a time")
    with transaction.atomic():
        doubts.heed_mark(gateway, batch.mark, doubts.known_of(gateway))
        desk = _desk_for(gateway, batch.writes, now)
        taken = [(_claimed(write), _take(desk, write, waits=batch.apply_now and not write.promised)) for write in batch.writes]
        _tell_of_new(desk)
        reach("inbox:taken:before-commit")
    reach("inbox:taken:after-commit")
    waiting = [row for _, row in taken if row.outcome == WriteOutcome.RECEIVED]
    settle_now(_to_settle_now(gateway, waiting, batch.apply_now), callers_wait=batch.apply_now)
    losses.close_finished(gateway.environment_id)
    rows = ReceivedWrite.objects.defer("sealed_body", "head").in_bulk([row.id for _, row in taken])
    receipts = [_receipt(rows[row.id], claimed) for claimed, row in taken]
    return WriteReceipts(receipts=[*receipts, *_asked(gateway, batch.ask)])


def apply_pending(limit: int = 500) -> int:
    """Settle writes whose time has come, in the order of each stream. Returns how many left the queue.

    One process at a time works on a stream; who finds it taken leaves it alone.
    """
    done = 0
    for environment, gateway, generation in _streams_with_work(database_now()):
        while done < limit:
            settled, looked_at = _settle_group(environment, gateway, generation)
            done += settled
            if looked_at < GROUP:
                break
        if done:
            losses.close_finished(environment)
    return done


def settle_now(identifiers: Iterable[uuid.UUID], *, callers_wait: bool = False) -> None:
    """Settle these writes before anybody else does. One that still has to wait for another is promised from here on."""
    for identifier in identifiers:
        with transaction.atomic():
            environment = ReceivedWrite.objects.values_list("environment_id", flat=True).get(id=identifier)
            scene = Scene.open(environment, database_now())
            row = ReceivedWrite.objects.select_for_update().filter(id=identifier, outcome=WriteOutcome.RECEIVED).first()
            if row is not None:
                scene.prepare([row])
                _settle_for_its_caller(row, scene, callers_wait)
                scene.close()
            reach("inbox:settled:before-commit")
        reach("inbox:settled:after-commit")


def _settle_for_its_caller(row: ReceivedWrite, scene: Scene, callers_wait: bool) -> None:
    settle(row, scene, caller_waits=callers_wait and not row.promised)
    if row.outcome == WriteOutcome.RECEIVED and not row.promised:
        # The answer will be "received", and upon that the gateway promises it: nobody may refuse it any more.
        row.promised = True
        scene.changed[row.id] = row


def _desk_for(gateway: Gateway, writes: Sequence[QueuedWrite], now: datetime) -> _Desk:
    lives = GatewayLife.objects.filter(gateway__environment_id=gateway.environment_id)
    keys = {
        (str(life.gateway_id), str(life.generation)): decode_signing_key(life.signing_key)
        for life in lives.only("gateway_id", "generation", "signing_key")
    }
    claimed = [identifier for identifier in map(_claimed, writes) if identifier]
    known = ReceivedWrite.objects.defer("sealed_body").in_bulk(claimed)
    streams = WriteStream.objects.filter(gateway__environment_id=gateway.environment_id, forgotten__gt=0)
    forgotten = {(one.gateway_id, one.generation): one.forgotten for one in streams}
    return _Desk(gateway, now, keys, known, forgotten)


def _take(desk: _Desk, write: QueuedWrite, *, waits: bool) -> ReceivedWrite:
    """The stored row of a write: the one it already has, a new one, or evidence that something is wrong with it."""
    try:
        head = decode(write.head.encode(), WriteHead)
    except (MessageError, UnicodeEncodeError) as error:
        return _keep_unreadable(desk, write, str(error))
    try:
        key = desk.keys.get((head.gateway, head.generation))
        if key is None:
            return _keep_unknown(desk, write, head)
        wrong = _wrong_body(write, key) or _wrong_head(head, desk.gateway)
    except (WriteForged, MessageError, UnicodeEncodeError) as error:
        return _keep_forged(desk, write, "WRITE_FORGED", str(error))
    found = desk.known.get(uuid.UUID(head.id))
    if found is None and _is_forgotten(desk, head):
        sentence = "what came with this number was settled and forgotten long ago; nobody can say whether this is the same"
        return _keep_contradiction(desk, write, head, "SETTLED_LONG_AGO", sentence, head.id)
    known = found or _take_new(desk, write, head, wrong, waits)
    if known.head != write.head or known.environment_id != desk.gateway.environment_id:
        return _keep_contradiction(desk, write, head, "ID_REUSED", "another write came with this id before", str(known.id))
    if known.id in desk.known:
        desk.duplicates += 1
        _take_again(desk, known, write, wrong)
    desk.known[known.id] = known
    return known


def _is_forgotten(desk: _Desk, head: WriteHead) -> bool:
    """Whether a write with this number arrived once and is no longer stored (`gateways.write_retention`)."""
    life = uuid.UUID(head.gateway), uuid.UUID(head.generation)
    if head.sequence > desk.forgotten.get(life, 0):
        return False
    gateway, generation = life
    rows = ReceivedWrite.objects.filter(gateway_id=gateway, generation=generation, sequence=head.sequence, in_stream=True)
    return not rows.exists()


def _take_new(desk: _Desk, write: QueuedWrite, head: WriteHead, wrong: _Wrong | None, waits: bool) -> ReceivedWrite:
    doubt = desk.doubt_of(head)
    return _keep_doubted(desk, write, head, doubt) if doubt else _insert(desk, write, head, wrong, waits)


def _insert(desk: _Desk, write: QueuedWrite, head: WriteHead, wrong: _Wrong | None, waits: bool) -> ReceivedWrite:
    row = _row_of(desk, write, head, waits)
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        return _found_meanwhile(desk, write, head, row)
    desk.new.append(row)
    if wrong:
        _settle_at_once(desk, row, WriteOutcome.REFUSED if waits else WriteOutcome.DEAD_LETTER, *wrong)
    return row


def _found_meanwhile(desk: _Desk, write: QueuedWrite, head: WriteHead, row: ReceivedWrite) -> ReceivedWrite:
    """The id was stored by another request just now, or its place in the stream is another write's."""
    twin = ReceivedWrite.objects.filter(id=row.id).first()
    if twin is not None:
        desk.known[twin.id] = twin
        return twin
    other = ReceivedWrite.objects.get(gateway_id=row.gateway_id, generation=row.generation, sequence=row.sequence, in_stream=True)
    sentence = f"another write came with the sequence number {head.sequence} of this stream before"
    _hold_restored(desk, row, other)
    return _keep_contradiction(desk, write, head, "SEQUENCE_REUSED", sentence, str(other.id))


def _hold_restored(desk: _Desk, row: ReceivedWrite, other: ReceivedWrite) -> None:
    """A life that counts twice forgot what it said: its database was restored. It accepts nothing until a person looked."""
    if (row.gateway_id, row.generation) != (desk.gateway.id, desk.gateway.generation):
        return
    Scene.open(desk.gateway.environment_id, desk.now)  # the route comes before the gateway in the order of locks
    held = Gateway.objects.filter(id=row.gateway_id, held_at=None).update(
        held_at=desk.now, held_code=Reason.PUT_BACK.value,
        held_reason=f"its database was put back to an earlier state: it used the number {row.sequence} of its writes twice",
    )  # fmt: skip
    if not held:
        return
    audit.record(
        actor=_actor(desk.gateway), action="gateway.held", entity="gateway", entity_id=str(row.gateway_id),
        severity=audit.Severity.CRITICAL, environment=row.environment_id,
        details={"sequence": row.sequence, "write": str(row.id), "before": str(other.id)},
    )  # fmt: skip
    routes.wake(row.environment_id)
    log.error("gateway %s is held: it used the sequence number %s twice", desk.gateway.name, row.sequence)


def _row_of(desk: _Desk, write: QueuedWrite, head: WriteHead, waits: bool) -> ReceivedWrite:
    identifier = uuid.UUID(head.id)
    base = head.base_version
    return ReceivedWrite(
        id=identifier, gateway_id=uuid.UUID(head.gateway), environment_id=desk.gateway.environment_id,
        generation=uuid.UUID(head.generation), epoch=head.epoch, sequence=head.sequence, previous=_uuid(head.previous),
        operation=head.operation.value, secret=uuid.UUID(head.secret), project=uuid.UUID(head.project),
        project_environment=uuid.UUID(head.project_environment), key=_storable(head.key),
        base_version=base if base is not None and abs(base) < 2**62 else None, actor=_storable(head.actor),
        accepted_at=_storable(head.accepted_at)[:64], head=write.head, signature=write.signature,
        sealed_body=seal_body(desk.gateway.environment_id, identifier, write.body, write.salt), body_digest=head.body_digest,
        promised=write.promised, not_before=desk.now + CALLER_WAITS if waits else desk.now, received_at=desk.now,
    )  # fmt: skip


def _wrong_body(write: QueuedWrite, key: Ed25519PublicKey) -> _Wrong | None:
    """Raises `WriteForged` when signature or digest do not fit."""
    try:
        check(write, key)
    except MessageError as error:
        return "VALIDATION_ERROR", f"the body does not fit: {error}"
    return None


def _wrong_head(head: WriteHead, gateway: Gateway) -> _Wrong | None:
    if head.environment != gateway.environment_id:
        return "WRONG_ENVIRONMENT", "environment: it was made for another gateway environment"
    if head.previous and _uuid(head.previous) is None:
        return "VALIDATION_ERROR", "previous: must be the id of a write, or empty"
    if head.base_version is not None and not 0 <= head.base_version < 2**62:
        return "VALIDATION_ERROR", "base_version: is no version number"
    if head.key != _storable(head.key) or head.actor != _storable(head.actor):
        return "VALIDATION_ERROR", "key: NUL characters are not allowed"
    return None


def _take_again(desk: _Desk, row: ReceivedWrite, write: QueuedWrite, wrong: _Wrong | None) -> None:
    """A write came again, which is normal. If its caller was promised meanwhile, it may no longer be refused, and a refused one
    begins anew: the answer that told of the refusal was lost."""
    if not write.promised or row.promised:
        return
    facts: dict[str, Any] = {"promised": True, "not_before": desk.now}
    ReceivedWrite.objects.filter(id=row.id, outcome=WriteOutcome.RECEIVED).update(**facts)
    sealed = seal_body(row.environment_id, row.id, write.body, write.salt)
    begun_anew = ReceivedWrite.objects.filter(id=row.id, outcome=WriteOutcome.REFUSED).update(
        **facts, outcome=WriteOutcome.RECEIVED, code="", detail="", settled_at=None, settled_by="", sealed_body=sealed
    )
    row.refresh_from_db()
    if begun_anew:
        tell(row, "gateway.write.promised_after_refusal", actor=_actor(desk.gateway), severity=audit.Severity.INFO)
        if wrong:
            _settle_at_once(desk, row, WriteOutcome.DEAD_LETTER, *wrong)


def _keep_forged(desk: _Desk, write: QueuedWrite, code: str, sentence: str) -> ReceivedWrite:
    """Evidence of a write nobody is known to have made: without content, under an id of its own, in nobody's place."""
    return _keep(desk, _evidence_of(desk, write), WriteOutcome.DEAD_LETTER, code, sentence)


def _evidence_of(desk: _Desk, write: QueuedWrite) -> ReceivedWrite:
    """A row that says only what came and who brought it."""
    return ReceivedWrite(
        id=_evidence_id(write), gateway=desk.gateway, environment_id=desk.gateway.environment_id,
        generation=desk.gateway.generation, epoch=0, sequence=0, in_stream=False, claimed_id=_claimed(write), operation="",
        key="", actor="", accepted_at="", head=_storable(write.head), signature=_storable(write.signature), body_digest="",
        promised=write.promised, not_before=desk.now, received_at=desk.now,
    )  # fmt: skip


def _keep_unreadable(desk: _Desk, write: QueuedWrite, sentence: str) -> ReceivedWrite:
    """Its sender proved who it is and wipes what is answered: the content stays here, although nobody can say whose it is."""
    row = _evidence_of(desk, write)
    row.sealed_body = seal_body(row.environment_id, row.id, write.body, write.salt)
    return _keep(desk, row, WriteOutcome.QUARANTINED, "WRITE_UNREADABLE", f"its head cannot be read: {sentence}")


def _keep_unknown(desk: _Desk, write: QueuedWrite, head: WriteHead) -> ReceivedWrite:
    """Signed by a life nobody here knows of, for example after a restore: for a person, beside every stream."""
    row = _row_of(desk, write, head, waits=False)
    row.gateway, row.generation, row.in_stream = desk.gateway, desk.gateway.generation, False
    row.claimed_id, row.id = row.id, _evidence_id(write)
    row.sealed_body = seal_body(row.environment_id, row.id, write.body, write.salt)
    sentence = "no gateway of this environment ever signed with this generation"
    return _keep(desk, row, WriteOutcome.QUARANTINED, "WRITER_UNKNOWN", sentence)


def _keep_doubted(desk: _Desk, write: QueuedWrite, head: WriteHead, doubt: Doubt) -> ReceivedWrite:
    """No honest gateway signs this: kept with its content for a person, beside the stream, and its gateway is set aside."""
    row = _row_of(desk, write, head, waits=False)
    row.in_stream = False
    kept = _keep(desk, row, WriteOutcome.QUARANTINED, "WRITE_NOT_BELIEVED", str(doubt))
    doubts.set_aside(Gateway.objects.get(id=row.gateway_id), doubt)
    return kept


def _keep_contradiction(desk: _Desk, write: QueuedWrite, head: WriteHead, code: str, sentence: str, other: str) -> ReceivedWrite:
    """A genuine write that says otherwise than an earlier one: kept with its content for a person, beside the stream."""
    row = _row_of(desk, write, head, waits=False)
    row.in_stream = False
    if code == "ID_REUSED":
        row.claimed_id, row.id = row.id, _evidence_id(write)
        row.sealed_body = seal_body(row.environment_id, row.id, write.body, write.salt)
    return _keep(desk, row, WriteOutcome.QUARANTINED, code, f"{sentence} ({other})")


def _keep(desk: _Desk, row: ReceivedWrite, outcome: WriteOutcome, code: str, sentence: str) -> ReceivedWrite:
    known = ReceivedWrite.objects.filter(id=row.id).first()
    if known is not None:
        desk.duplicates += 1
        return known
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        return ReceivedWrite.objects.get(id=row.id)
    _settle_at_once(desk, row, outcome, code, sentence)
    tell(
        row, "gateway.write.contradicts", actor=_actor(desk.gateway), severity=audit.Severity.CRITICAL,
        claimed=str(row.claimed_id or row.id),
    )  # fmt: skip
    log.error("a write of %s is kept as evidence: %s", desk.gateway.name, code)
    return row


def _settle_at_once(desk: _Desk, row: ReceivedWrite, outcome: WriteOutcome, code: str, sentence: str) -> None:
    scene = Scene.open(row.environment_id, desk.now)
    finish(row, outcome, scene, code=code, detail=sentence)
    scene.close()


def _tell_of_new(desk: _Desk) -> None:
    """One audit entry for a batch; each write gets its own when it is settled."""
    if desk.duplicates:
        scene = Scene.open(desk.gateway.environment_id, desk.now)
        scene.tally[WriteOutcome.DUPLICATE.value] = desk.duplicates
        scene.close()
    if not desk.new:
        return
    _count_arrivals(row for row in desk.new if row.in_stream)
    audit.record(
        actor=_actor(desk.gateway), action="gateway.writes.received", entity="gateway", entity_id=str(desk.gateway.id),
        environment=desk.gateway.environment_id,
        details={"writes": len(desk.new), "first": desk.new[0].sequence, "last": desk.new[-1].sequence},
    )  # fmt: skip


def _count_arrivals(rows: Iterable[ReceivedWrite]) -> None:
    """Each stream knows how much of it has arrived, so that nobody counts its rows. In one order, as with all locks."""
    streams = dict[tuple[uuid.UUID, uuid.UUID], list[int]]()
    for row in rows:
        streams.setdefault((row.gateway_id, row.generation), []).append(row.sequence)
    with connection.cursor() as cursor:
        for (gateway, generation), sequences in sorted(streams.items()):
            cursor.execute(_ARRIVED, [gateway, generation, len(sequences), max(sequences)])


def _to_settle_now(gateway: Gateway, waiting: list[ReceivedWrite], apply_now: bool) -> list[uuid.UUID]:
    """All when callers wait, else those of the past: they are set aside in the request that brings them (I3)."""
    if apply_now or not waiting:
        return [row.id for row in waiting]
    route = Route.objects.select_related("active_gateway").get(environment_id=gateway.environment_id)
    active = route.active_gateway
    present = (route.epoch, active.id, active.generation) if active else None
    return [row.id for row in waiting if (row.epoch, row.gateway_id, row.generation) != present]


def _receipt(row: ReceivedWrite, claimed: uuid.UUID | None) -> WriteReceipt:
    return WriteReceipt(
        id=str(claimed or row.id), outcome=WriteOutcome(row.outcome), version=row.version, code=row.code, detail=row.detail
    )


def _asked(gateway: Gateway, identifiers: Iterable[str]) -> list[WriteReceipt]:
    """Where these writes of the environment are. QUEUED: the Primary does not have it, so it must be sent (again)."""
    asked = [uuid.UUID(text) for text in identifiers]
    rows = ReceivedWrite.objects.defer("sealed_body", "head").filter(environment_id=gateway.environment_id).in_bulk(asked)
    missing = WriteReceipt(id="", outcome=WriteOutcome.QUEUED, code="WRITE_UNKNOWN", detail="send it again")
    receipts = []
    for identifier in asked:
        row = rows.get(identifier)
        if row is None or row.outcome == WriteOutcome.REFUSED:
            receipts.append(WriteReceipt(str(identifier), missing.outcome, 0, missing.code, missing.detail))
        else:
            receipts.append(_receipt(row, identifier))
    return receipts


def _streams_with_work(now: datetime) -> list[tuple[str, uuid.UUID, uuid.UUID]]:
    due = ReceivedWrite.objects.filter(outcome=WriteOutcome.RECEIVED, not_before__lte=now)
    return list(due.values_list("environment_id", "gateway_id", "generation").distinct().order_by("gateway_id", "generation"))


def _settle_group(environment: str, gateway: uuid.UUID, generation: uuid.UUID) -> tuple[int, int]:
    """Settle the next writes of a stream in one transaction. Returns how many ended, and how many were looked at."""
    with transaction.atomic():
        if not try_transaction_lock(f"inbox:{gateway}:{generation}"):
            return 0, 0
        scene = Scene.open(environment, database_now())
        due = ReceivedWrite.objects.select_for_update(skip_locked=True).filter(
            gateway_id=gateway, generation=generation, outcome=WriteOutcome.RECEIVED, not_before__lte=scene.now
        )
        rows = list(due.order_by("sequence")[:GROUP])
        scene.prepare(rows)
        for row in rows:
            settle(row, scene)
        scene.close()
        reach("inbox:group:before-commit")
    reach("inbox:group:after-commit")
    return len(scene.settled), len(rows)


def _evidence_id(write: QueuedWrite) -> uuid.UUID:
    whole = "\0".join([write.head, write.body, write.salt, write.signature])
    return uuid.uuid5(_EVIDENCE, hashlib.sha256(whole.encode(errors="replace")).hexdigest())


def _claimed(write: QueuedWrite) -> uuid.UUID | None:
    """The id a write says it has, believed or not, also when the rest of its head cannot be read."""
    try:
        return uuid.UUID(decode_json(write.head, _Named).id)
    except (msgspec.MsgspecError, UnicodeEncodeError, ValueError):
        return None


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _storable(text: str) -> str:
    """What PostgreSQL can hold of a text from outside."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _actor(gateway: Gateway) -> str:
    return f"gateway:{gateway.id}"
