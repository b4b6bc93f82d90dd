"""Taking writes of a gateway: each is proven, stored once, or kept as evidence of what is wrong with it (DESIGN §9, I8).

What is in order and new is stored together. Everything else is looked at by itself, after what came before it was stored, so that
a batch comes to what its writes come to one by one.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.db import IntegrityError, connection, transaction

from common import audit
from common.rowsets import Rowset
from gateways import beliefs, doubts, routes
from gateways.authors import FORM
from gateways.beliefs import Doubt, Known
from gateways.models import Gateway, GatewayLife, ReceivedWrite, WriteStream
from gateways.quarantine import Reason
from gateways.settlement import tell
from gateways.write_bodies import seal_body
from gateways.write_evidence import (
    actor_of,
    claimed_id_of,
    columns_of,
    keep_contradiction,
    keep_doubted,
    keep_forged,
    keep_unknown,
    keep_unreadable,
    row_of,
    settle_at_once,
    storable,
    uuid_of,
)
from gateways.write_scene import Scene
from protocol.envelope import decode_signing_key
from protocol.messages import MessageError, decode
from protocol.vocabulary import WriteOutcome
from protocol.writes import QueuedWrite, WriteForged, WriteHead, body_digest, proven_body
from vault.encryption import Sealing

log = logging.getLogger("mazevault.gateways.inbox")

_ARRIVED = """
INSERT INTO gateways_writestream (gateway_id, generation, arrived, highest) VALUES (%s, %s, %s, %s)
ON CONFLICT (gateway_id, generation) DO UPDATE SET arrived = gateways_writestream.arrived + excluded.arrived,
                                                   highest = GREATEST(gateways_writestream.highest, excluded.highest)
"""
_RECEIVED = Rowset("gateways_receivedwrite", {
    "id": "uuid", "gateway_id": "uuid", "environment_id": "text", "generation": "uuid", "epoch": "bigint", "sequence": "bigint",
    "in_stream": "boolean", "claimed_id": "uuid", "previous": "uuid", "operation": "text", "secret": "uuid", "project": "uuid",
    "project_environment": "uuid", "key": "text", "base_version": "bigint", "actor": "text",
    "idempotency_key": "text", "accepted_at": "text",
    "head": "text", "signature": "text", "sealed_body": "bytea", "body_digest": "text", "promised": "boolean", "outcome": "text",
    "version": "bigint", "code": "text", "detail": "text", "attempts": "integer", "not_before": "timestamptz",
    "received_at": "timestamptz", "settled_at": "timestamptz", "settled_by": "text", "resolution": "text",
})  # fmt: skip
_NEW: Mapping[str, Any] = {
    "in_stream": True, "outcome": WriteOutcome.RECEIVED.value, "version": 0, "code": "", "detail": "", "attempts": 0,
    "settled_by": "", "resolution": "",
}  # fmt: skip
"""Columns of a write nobody has looked at yet."""

_Wrong = tuple[str, str]
"""Why a write that its gateway signed as it is can never be applied: code and sentence."""
_Life = tuple[uuid.UUID, uuid.UUID]
"""Gateway and generation: who signs a stream."""


@dataclass(frozen=True)
class Arrival:
    """A write as it came. `claimed` is the id it says it has; `head` None: it cannot be read, and `unreadable` says why."""

    write: QueuedWrite
    claimed: uuid.UUID | None
    head: WriteHead | None
    unreadable: str = ""

    @staticmethod
    def of(write: QueuedWrite) -> Arrival:
        try:
            head = decode(write.head.encode(), WriteHead)
        except (MessageError, UnicodeEncodeError) as error:
            return Arrival(write, claimed_id_of(write), None, str(error))
        return Arrival(write, uuid.UUID(head.id), head)


@dataclass(frozen=True)
class _Proven:
    """A write that its gateway signed as it is. `wrong`: it can never be applied. `waits`: its caller does."""

    write: QueuedWrite
    head: WriteHead
    wrong: _Wrong | None
    waits: bool


class Kept(NamedTuple):
    """What is looked at of a stored write when it or another one comes."""

    id: uuid.UUID
    gateway_id: uuid.UUID
    environment_id: str
    generation: uuid.UUID
    epoch: int
    sequence: int
    in_stream: bool
    operation: str
    head: str
    signature: str
    body_digest: str
    promised: bool
    outcome: str

    @staticmethod
    def of(row: ReceivedWrite) -> Kept:
        return Kept(*(getattr(row, name) for name in Kept._fields))


@dataclass
class Desk:
    """What one batch is checked against: known writes, taken sequence numbers, keys of every life in the environment.

    `taken` is the stored row of each write in the order they came, complete after `store`.
    """

    gateway: Gateway
    now: datetime
    keys: dict[tuple[str, str], Ed25519PublicKey]
    known: dict[uuid.UUID, Kept]
    forgotten: dict[_Life, int]
    taken: list[Kept | None] = field(default_factory=list)
    new: list[Kept] = field(default_factory=list)
    duplicates: int = 0
    _fresh: dict[int, tuple[_Proven, dict[str, Any]]] = field(default_factory=dict)
    _numbers: set[tuple[str, str, int]] = field(default_factory=set)
    _ids: set[str] = field(default_factory=set)
    _read: dict[str, uuid.UUID] = field(default_factory=dict)
    _sealing: Sealing | None = None
    _believed: dict[_Life, Known] = field(default_factory=dict)
    _holders: dict[int, str | None] = field(default_factory=dict)

    @staticmethod
    def of(gateway: Gateway, arrivals: Sequence[Arrival], now: datetime) -> Desk:
        lives = GatewayLife.objects.filter(gateway__environment_id=gateway.environment_id)
        keys = {
            (str(life.gateway_id), str(life.generation)): decode_signing_key(life.signing_key)
            for life in lives.only("gateway_id", "generation", "signing_key")
        }
        claimed = [one.claimed for one in arrivals if one.claimed]
        stored = ReceivedWrite.objects.filter(id__in=claimed).values_list(*Kept._fields)
        known = {row[0]: Kept(*row) for row in stored}
        streams = WriteStream.objects.filter(gateway__environment_id=gateway.environment_id, forgotten__gt=0)
        forgotten = {(one.gateway_id, one.generation): one.forgotten for one in streams}
        return Desk(gateway, now, keys, known, forgotten)

    def take(self, arrival: Arrival, *, waits: bool) -> None:
        """Take one write: it waits for `store` when there is nothing special about it, else it is stored now."""
        if self._came_before(arrival):
            return
        proven = self._proven(arrival, waits)
        if proven is not None and proven.wrong is None and self._is_new(proven.head):
            head = proven.head
            self._fresh[len(self.taken)] = proven, {**_NEW, **columns_of(self, proven.write, head, waits)}
            self._numbers.add((head.gateway, head.generation, head.sequence))
            self._ids.add(head.id)
            self.taken.append(None)
            return
        self._store_fresh()
        self.taken.append(self._singly(proven) if proven else Kept.of(self._evidence(arrival)))

    def store(self) -> None:
        """Store what waits for it, and tell of the batch: one audit entry; each write gets its own when it is settled."""
        self._store_fresh()
        _tell_of_new(self)

    def sealed(self, row: uuid.UUID, write: QueuedWrite) -> bytes:
        """The content of a write, sealed for this row."""
        if self._sealing is None:
            self._sealing = Sealing.begin(self.gateway.environment_id)
        return seal_body(self._sealing, row, write.body, write.salt)

    def id_of(self, text: str) -> uuid.UUID:
        """An id that many writes of a batch name."""
        if text not in self._read:
            self._read[text] = uuid.UUID(text)
        return self._read[text]

    def doubt_of(self, head: WriteHead) -> Doubt | None:
        """What is not believed of the numbers in a genuine head."""
        life = self.id_of(head.gateway), self.id_of(head.generation)
        if life not in self._believed:
            self._believed[life] = doubts.known_of_life(self.gateway, *life)
        if head.epoch not in self._holders:
            self._holders[head.epoch] = doubts.holder_of(self.gateway.environment_id, head.epoch)
        return beliefs.of_write(head.epoch, head.sequence, head.gateway, self._holders[head.epoch], self._believed[life])

    def _came_before(self, arrival: Arrival) -> bool:
        """Whether it is stored already, to the letter, and this time says nothing new: then its signature was proven before."""
        write, known = arrival.write, self.known.get(arrival.claimed) if arrival.claimed else None
        if known is None or not known.operation or (write.promised and not known.promised):
            return False
        same = (known.head, known.signature, known.environment_id) == (write.head, write.signature, self.gateway.environment_id)
        if not same or known.body_digest != _digest(write):
            return False
        self.duplicates += 1
        self.taken.append(known)
        return True

    def _proven(self, arrival: Arrival, waits: bool) -> _Proven | None:
        """None when nobody is known to have made it, or nobody can say what it is."""
        head = arrival.head
        key = self.keys.get((head.gateway, head.generation)) if head else None
        if head is None or key is None:
            return None
        try:
            wrong = _wrong_body(arrival.write, head, key) or _wrong_head(head, self.gateway)
        except (WriteForged, MessageError, UnicodeEncodeError):
            return None
        return _Proven(arrival.write, head, wrong, waits)

    def _is_new(self, head: WriteHead) -> bool:
        """Whether nothing of this batch or from before has its id or number, and all it says is believed."""
        number = (head.gateway, head.generation, head.sequence)
        if uuid.UUID(head.id) in self.known or head.id in self._ids or number in self._numbers:
            return False
        life = self.id_of(head.gateway), self.id_of(head.generation)
        return head.sequence > self.forgotten.get(life, 0) and self.doubt_of(head) is None

    def _store_fresh(self) -> None:
        """All in one statement; when one of them was stored by another request meanwhile, each by itself."""
        fresh, self._fresh, self._numbers, self._ids = self._fresh, {}, set(), set()
        for proven, row in fresh.values():
            row["sealed_body"] = self.sealed(row["id"], proven.write)
        try:
            with transaction.atomic():
                _RECEIVED.insert([row for _, row in fresh.values()])
        except IntegrityError:
            for place, (proven, _) in fresh.items():
                self.taken[place] = self._singly(proven)
            return
        for place, (_, row) in fresh.items():
            kept = Kept(*(row[name] for name in Kept._fields))
            self.taken[place] = self.known[kept.id] = kept
            self.new.append(kept)

    def _singly(self, proven: _Proven) -> Kept:
        """The stored row of a genuine write: the one it already has, a new one, or what is kept of a contradiction."""
        return Kept.of(self._stored(proven))

    def _stored(self, proven: _Proven) -> ReceivedWrite:
        write, head = proven.write, proven.head
        found = ReceivedWrite.objects.defer("sealed_body").filter(id=head.id).first()
        if found is not None:
            self.known.setdefault(found.id, Kept.of(found))
        if found is None and _is_forgotten(self, head):
            sentence = "what came with this number was settled and forgotten long ago; nobody can say whether this is the same"
            return keep_contradiction(self, write, head, "SETTLED_LONG_AGO", sentence, head.id)
        known = found or self._take_new(proven)
        if known.head != write.head or known.environment_id != self.gateway.environment_id:
            return keep_contradiction(self, write, head, "ID_REUSED", "another write came with this id before", str(known.id))
        if known.id in self.known:
            self.duplicates += 1
            _take_again(self, known, write, proven.wrong)
        self.known[known.id] = Kept.of(known)
        return known

    def _take_new(self, proven: _Proven) -> ReceivedWrite:
        doubt = self.doubt_of(proven.head)
        if doubt:
            return keep_doubted(self, proven.write, proven.head, doubt)
        row = row_of(self, proven.write, proven.head, proven.waits)
        row.sealed_body = self.sealed(row.id, proven.write)
        try:
            with transaction.atomic():
                row.save(force_insert=True)
        except IntegrityError:
            return _found_meanwhile(self, proven.write, proven.head, row)
        self.new.append(Kept.of(row))
        if proven.wrong:
            settle_at_once(self, row, WriteOutcome.REFUSED if proven.waits else WriteOutcome.DEAD_LETTER, *proven.wrong)
        return row

    def _evidence(self, arrival: Arrival) -> ReceivedWrite:
        """What is kept of a write that nobody here can take for what it says it is."""
        write, head = arrival.write, arrival.head
        if head is None:
            return keep_unreadable(self, write, arrival.unreadable)
        key = self.keys.get((head.gateway, head.generation))
        if key is None:
            return keep_unknown(self, write, head)
        try:
            proven_body(write, head, key)
        except (WriteForged, MessageError, UnicodeEncodeError) as error:
            return keep_forged(self, write, "WRITE_FORGED", str(error))
        raise AssertionError("a genuine write is no evidence")


def _is_forgotten(desk: Desk, head: WriteHead) -> bool:
    """Whether a write with this number arrived once and is no longer stored (`gateways.write_retention`)."""
    life = uuid.UUID(head.gateway), uuid.UUID(head.generation)
    if head.sequence > desk.forgotten.get(life, 0):
        return False
    gateway, generation = life
    rows = ReceivedWrite.objects.filter(gateway_id=gateway, generation=generation, sequence=head.sequence, in_stream=True)
    return not rows.exists()


def _found_meanwhile(desk: Desk, write: QueuedWrite, head: WriteHead, row: ReceivedWrite) -> ReceivedWrite:
    """The id was stored by another request just now, or its place in the stream is another write's."""
    twin = ReceivedWrite.objects.filter(id=row.id).first()
    if twin is not None:
        desk.known[twin.id] = Kept.of(twin)
        return twin
    other = ReceivedWrite.objects.get(gateway_id=row.gateway_id, generation=row.generation, sequence=row.sequence, in_stream=True)
    sentence = f"another write came with the sequence number {head.sequence} of this stream before"
    _hold_restored(desk, row, other)
    return keep_contradiction(desk, write, head, "SEQUENCE_REUSED", sentence, str(other.id))


def _hold_restored(desk: Desk, row: ReceivedWrite, other: ReceivedWrite) -> None:
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
        actor=actor_of(desk.gateway), action="gateway.held", entity="gateway", entity_id=str(row.gateway_id),
        severity=audit.Severity.CRITICAL, environment=row.environment_id,
        details={"sequence": row.sequence, "write": str(row.id), "before": str(other.id)},
    )  # fmt: skip
    routes.wake(row.environment_id)
    log.error("gateway %s is held: it used the sequence number %s twice", desk.gateway.name, row.sequence)


def _wrong_body(write: QueuedWrite, head: WriteHead, key: Ed25519PublicKey) -> _Wrong | None:
    """Raises `WriteForged` when signature or digest do not fit."""
    try:
        proven_body(write, head, key)
    except MessageError as error:
        return "VALIDATION_ERROR", f"the body does not fit: {error}"
    return None


def _wrong_head(head: WriteHead, gateway: Gateway) -> _Wrong | None:
    if head.environment != gateway.environment_id:
        return "WRONG_ENVIRONMENT", "environment: it was made for another gateway environment"
    if not FORM.fullmatch(head.actor):
        return "VALIDATION_ERROR", "actor: must be user: or service: and an id in small letters with its hyphens"
    if head.previous and uuid_of(head.previous) is None:
        return "VALIDATION_ERROR", "previous: must be the id of a write, or empty"
    if head.base_version is not None and not 0 <= head.base_version < 2**62:
        return "VALIDATION_ERROR", "base_version: is no version number"
    if head.key != storable(head.key) or head.actor != storable(head.actor):
        return "VALIDATION_ERROR", "key: NUL characters are not allowed"
    return None


def _take_again(desk: Desk, row: ReceivedWrite, write: QueuedWrite, wrong: _Wrong | None) -> None:
    """A write came again, which is normal. If its caller was promised meanwhile, it may no longer be refused, and a refused one
    begins anew: the answer that told of the refusal was lost."""
    if not write.promised or row.promised:
        return
    facts: dict[str, Any] = {"promised": True, "not_before": desk.now}
    ReceivedWrite.objects.filter(id=row.id, outcome=WriteOutcome.RECEIVED).update(**facts)
    sealed = desk.sealed(row.id, write)
    begun_anew = ReceivedWrite.objects.filter(id=row.id, outcome=WriteOutcome.REFUSED).update(
        **facts, outcome=WriteOutcome.RECEIVED, code="", detail="", settled_at=None, settled_by="", sealed_body=sealed
    )
    row.refresh_from_db()
    if begun_anew:
        tell(row, "gateway.write.promised_after_refusal", actor=actor_of(desk.gateway), severity=audit.Severity.INFO)
        if wrong:
            settle_at_once(desk, row, WriteOutcome.DEAD_LETTER, *wrong)


def _tell_of_new(desk: Desk) -> None:
    """One audit entry for a batch; each write gets its own when it is settled."""
    if desk.duplicates:
        scene = Scene.open(desk.gateway.environment_id, desk.now)
        scene.tally[WriteOutcome.DUPLICATE.value] = desk.duplicates
        scene.close()
    if not desk.new:
        return
    _count_arrivals(row for row in desk.new if row.in_stream)
    audit.record(
        actor=actor_of(desk.gateway), action="gateway.writes.received", entity="gateway", entity_id=str(desk.gateway.id),
        environment=desk.gateway.environment_id,
        details={"writes": len(desk.new), "first": desk.new[0].sequence, "last": desk.new[-1].sequence},
    )  # fmt: skip


def _count_arrivals(rows: Iterable[Kept]) -> None:
    """Each stream knows how much of it has arrived, so that nobody counts its rows. In one order, as with all locks."""
    streams = dict[tuple[uuid.UUID, uuid.UUID], list[int]]()
    for row in rows:
        streams.setdefault((row.gateway_id, row.generation), []).append(row.sequence)
    with connection.cursor() as cursor:
        for (gateway, generation), sequences in sorted(streams.items()):
            cursor.execute(_ARRIVED, [gateway, generation, len(sequences), max(sequences)])


def _digest(write: QueuedWrite) -> str:
    """Empty for a body that no gateway can have signed."""
    try:
        return body_digest(write.body, write.salt)
    except UnicodeEncodeError:
        return ""
