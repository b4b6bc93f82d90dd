"""The queue of writes accepted here: a change enters it in one transaction and leaves it by the Primary's word only (I7 to I10).

Sequence numbers are gapless because the counter, the write and its audit entry commit together, under the lock of the node's row.
The same lock makes a fence final: who commits after it sees it.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import Max, Q, QuerySet
from django.utils.crypto import salted_hmac
from msgspec import structs

from common import audit
from common.api import rfc3339
from common.errors import Conflict, Unavailable
from common.failpoints import reach
from gateway_runtime.identity import Identity
from gateway_runtime.models import OPEN, Backlog, NodeState, PendingWrite
from gateway_runtime.queued_bodies import open_body, seal_body
from gateway_runtime.state import standing_of
from protocol.vocabulary import Assignment, WriteOperation, WriteOutcome
from protocol.writes import QueuedWrite, WriteHead, WriteReceipt, body_digest, body_text, new_salt, sign
from vault import rules
from vault.models import Secret
from vault.ports import SecretChange, VersionConflict

MOST_WRITES = 10_000
MOST_BYTES = 256 * 1024 * 1024
"""A full queue refuses before it promises (DESIGN §9)."""
FULL_RETRY_SECONDS = 15.0
CALLER_WAITS = timedelta(seconds=10)
"""For so long a write belongs to the request that brought it; longer than that request waits for the Primary."""
ASK_BASE, ASK_CAP = 1.0, 60.0
"""First and longest pause in seconds between two questions about a write the Primary has but has not settled."""
BASE_LOST = "PREVIOUS_NOT_APPLIED"
"""Marks an open write that stands, directly or not, on one that ended without being applied: nothing new is made on it."""
LONGEST_PAUSE = timedelta(minutes=5)
"""No write is put off for longer; a time further ahead was set by a clock that has been put back since."""

_STOOD_ON = (WriteOutcome.APPLIED, WriteOutcome.DUPLICATE, WriteOutcome.REFUSED)
"""Ends that leave what comes after a write its base: nothing of a refused one was ever there, so its own base takes its place."""

_TALLY = """
INSERT INTO gateway_runtime_writetally (outcome, total) VALUES (%s, %s)
ON CONFLICT (outcome) DO UPDATE SET total = gateway_runtime_writetally.total + excluded.total
"""
_BACKLOG = """
INSERT INTO gateway_runtime_backlog (id, writes, size) VALUES (1, %s, %s)
ON CONFLICT (id) DO UPDATE SET writes = gateway_runtime_backlog.writes + excluded.writes,
                               size = gateway_runtime_backlog.size + excluded.size
"""


@dataclass(frozen=True)
class Depth:
    """What waits: writes, their bytes, and since when the oldest has been waiting."""

    writes: int
    size: int
    oldest_at: datetime | None

    def oldest_seconds(self, now: datetime) -> float:
        return max(0.0, (now - self.oldest_at).total_seconds()) if self.oldest_at else 0.0


@dataclass(frozen=True)
class Accepted:
    """A write in the queue. `fresh` is False when the same request had been accepted before."""

    write: PendingWrite
    fresh: bool = True


def accept(
    change: SecretChange, actor: str, identity: Identity, *, now: datetime, address: str = "", idempotency_key: str = "",
    digest: str = "", fingerprint: str = "",
) -> Accepted:  # fmt: skip
    """Commit one more write of this gateway's stream. What raises has promised nothing and left nothing.

    Raises `Unavailable` with code NOT_ACTIVE, DRAINING or WRITE_QUEUE_FULL, `VersionConflict`, or `Conflict` with code
    IDEMPOTENCY_MISMATCH or DUPLICATE_NAME.
    """
    with transaction.atomic():
        node = NodeState.objects.select_for_update().get(id=1)
        refuse_unless_writing(node)
        digest = digest or request_digest(change)
        known = same_request(actor, idempotency_key, digest, change, now)
        if known is not None:
            return Accepted(known, fresh=False)
        text = body_text(structs.replace(change.body, request=fingerprint if idempotency_key else ""))
        _refuse_when_full(len(text.encode()))
        write = _write_of(change, actor, identity, node, text, now, idempotency_key)
        write.request_digest = digest
        write.save(force_insert=True)
        NodeState.objects.filter(id=1).update(write_sequence=write.sequence)
        _audit(write, "gateway.write.accepted", actor=actor, address=address)
        _move_backlog(1, write.size)
        reach("queue:accepted:before-commit")
    reach("queue:accepted:after-commit")
    return Accepted(write)


def refuse_unless_writing(node: NodeState) -> None:
    """Only the active gateway takes writes. Raises `Unavailable` with code NOT_ACTIVE or DRAINING."""
    standing = standing_of(node)
    if standing is Assignment.DRAINING:
        raise Unavailable("this gateway hands its work over and takes no new changes; try again", code="DRAINING", retry_after=5)
    if standing is not Assignment.ACTIVE:
        raise Unavailable("this gateway is not the active one of its environment", code="NOT_ACTIVE", retry_after=5)


def promise(write: PendingWrite, now: datetime) -> PendingWrite:
    """Commit that the caller is told "queued", unless the write has ended meanwhile. Returns the row as it is then."""
    with transaction.atomic():
        promised = PendingWrite.objects.filter(OPEN, id=write.id, promised=False).update(promised=True, not_before=now)
        if promised:
            _count([WriteOutcome.QUEUED])
    write.refresh_from_db()
    return write


def promise_all(ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
    """Commit that these writes are promised, before they are sent as such. Returns which of them are still open.

    Their requests have given up; one that ended meanwhile with a refusal must not be applied after all.
    """
    wanted = set(ids)
    with transaction.atomic():
        promised = PendingWrite.objects.filter(OPEN, id__in=wanted, promised=False).update(promised=True)
        _count([WriteOutcome.QUEUED] * promised)
    return set(PendingWrite.objects.filter(OPEN, id__in=wanted, promised=True).values_list("id", flat=True))


def settle(receipts: Iterable[WriteReceipt], now: datetime) -> int:
    """Take the Primary's word on writes: ended, still waiting there, or unknown there. Returns how many ended.

    A row that has ended keeps its first end, whatever comes later.
    """
    ended: list[WriteOutcome] = []
    unmade: list[PendingWrite] = []
    freed = 0
    with transaction.atomic():
        for receipt in receipts:
            row = PendingWrite.objects.select_for_update().filter(OPEN, id=receipt.id).first()
            if row is None:
                continue
            if receipt.outcome is WriteOutcome.REFUSED and row.promised:
                # Promised while the refusal was on its way: it is sent again as promised, and nothing may refuse it then.
                _wait(row, WriteReceipt(receipt.id, WriteOutcome.QUEUED, 0, receipt.code, receipt.detail), now)
            elif receipt.outcome.terminal:
                _end(row, receipt, now)
                ended.append(receipt.outcome)
                freed += row.size
                if receipt.outcome not in _STOOD_ON:
                    unmade.append(row)
            else:
                _wait(row, receipt, now)
        _count(ended)
        _move_backlog(-len(ended), -freed)
        reach("queue:settled:before-commit")
    reach("queue:settled:after-commit")
    if unmade:
        _mark_what_stands_on(unmade)
    return len(ended)


def _mark_what_stands_on(unmade: Iterable[PendingWrite]) -> None:
    """The open writes after these lost their base. They stay as they were promised; what comes new is not made on them.

    In a transaction of its own, which waits for no row: who is ending one now marks what stands on that one.
    """
    lost = {row.id for row in unmade}
    with transaction.atomic():
        waiting = PendingWrite.objects.filter(OPEN, secret__in={row.secret for row in unmade}).order_by("life", "sequence")
        for identifier, previous in waiting.select_for_update(skip_locked=True).values_list("id", "previous"):
            if previous in lost:
                lost.add(identifier)
        PendingWrite.objects.filter(OPEN, id__in=lost).update(code=BASE_LOST)


def depth() -> Depth:
    """Everything that is open, of this life of the database and of earlier ones: counted as it comes and ends, not here."""
    waiting = Backlog.objects.filter(id=1).first() or Backlog()
    if not waiting.writes:
        return Depth(0, 0, None)
    oldest = PendingWrite.objects.filter(OPEN).order_by("life", "sequence").values_list("accepted_at", flat=True).first()
    return Depth(waiting.writes, waiting.size, oldest)


def newest_open(secret: uuid.UUID, generation: uuid.UUID | None = None) -> PendingWrite | None:
    """The last write to this secret that has not ended, of one life of this database or of any."""
    rows = PendingWrite.objects.filter(OPEN, secret=secret).defer("sealed_body").order_by("-life", "-sequence")
    return (rows.filter(generation=generation) if generation else rows).first()


def to_build_on(secret: uuid.UUID, generation: uuid.UUID) -> PendingWrite | None:
    """The open write that a new one to this secret is made on. None while there is none, or while the Primary has the last one
    and that one lost its base: it settles that first (I9), and a new change stands on what there is instead."""
    newest = newest_open(secret, generation)
    lost = newest is not None and newest.code == BASE_LOST and newest.outcome == WriteOutcome.RECEIVED
    return None if lost else newest


def newest_open_of(secrets: Iterable[uuid.UUID]) -> dict[uuid.UUID, uuid.UUID]:
    """Secret to its last write that has not ended, of any life of this database; in one query."""
    rows = PendingWrite.objects.filter(OPEN, secret__in=list(secrets)).order_by("life", "sequence")
    return dict(rows.values_list("secret", "id"))


def open_creation(secret: uuid.UUID) -> PendingWrite | None:
    """The write that creates this secret, while it has not ended."""
    creations = PendingWrite.objects.filter(OPEN, secret=secret, operation=WriteOperation.CREATE.value)
    return creations.defer("sealed_body", "head").first()


def due(now: datetime, outcome: WriteOutcome) -> QuerySet[PendingWrite]:
    """Writes in this open outcome whose time has come, oldest first. A request that still waits for its own is left alone."""
    come = Q(not_before__lte=now) | Q(not_before__gt=now + LONGEST_PAUSE)
    return PendingWrite.objects.filter(come, outcome=outcome.value).order_by("life", "sequence")


def postpone(write: PendingWrite, until: datetime, why: str) -> None:
    """Try again later what could not even be taken by the Primary, so that it holds nothing else up."""
    PendingWrite.objects.filter(OPEN, id=write.id).update(not_before=until, attempts=write.attempts + 1, detail=why[:500])


def on_the_wire(write: PendingWrite, *, promised: bool) -> QueuedWrite:
    """The write as it travels: the exact texts that were signed."""
    body, salt = open_body(write)
    return QueuedWrite(head=write.head, body=body, salt=salt, signature=write.signature, promised=promised)


def request_digest(change: SecretChange) -> str:
    return _keyed(change.asked_for())


def _keyed(text: str) -> str:
    return salted_hmac("queued-request", text, algorithm="sha256").hexdigest()


def same_request(actor: str, key: str, digest: str, change: SecretChange, now: datetime) -> PendingWrite | None:
    """The write an earlier request with this key made. It is promised from here on: another caller is told of it too.

    What an older release queued is compared in the form it had then (ADR 44). Raises `Conflict` (IDEMPOTENCY_MISMATCH).
    """
    found = PendingWrite.objects.filter(actor=actor, idempotency_key=key).first() if key else None
    if found is None:
        return None
    if found.request_digest not in (digest, _keyed(change.formerly_asked_for())):
        raise Conflict("Idempotency-Key: this key was used for another request; use a new one", code="IDEMPOTENCY_MISMATCH")
    return promise(found, now)


def has_room(writes: int, size: int) -> bool:
    """Whether one more small write would be accepted beside so many of so many bytes."""
    return writes < MOST_WRITES and size < MOST_BYTES


def _refuse_when_full(size: int) -> None:
    waiting = depth()
    if waiting.writes >= MOST_WRITES or waiting.size + size > MOST_BYTES:
        raise Unavailable(
            f"the queue of writes is full ({waiting.writes} writes, {waiting.size} bytes); nothing was accepted",
            code="WRITE_QUEUE_FULL", retry_after=FULL_RETRY_SECONDS,
        )  # fmt: skip


def _write_of(
    change: SecretChange, actor: str, identity: Identity, node: NodeState, text: str, now: datetime, idempotency_key: str
) -> PendingWrite:  # fmt: skip
    """The next write of the stream: numbered, linked to the one before it of the same secret, signed and sealed."""
    previous, base = _foundation(change, node)
    identifier, salt = uuid.uuid4(), new_salt()
    head = WriteHead(
        id=str(identifier), environment=identity.environment, gateway=identity.gateway_id, generation=str(node.generation),
        epoch=node.assigned_epoch, sequence=node.write_sequence + 1, previous=str(previous.id) if previous else "",
        operation=change.operation, secret=str(change.secret), project=str(change.project),
        project_environment=str(change.environment), key=change.key, base_version=base, actor=actor,
        accepted_at=rfc3339(now) or "", body_digest=body_digest(text, salt), idempotency_key=idempotency_key,
    )  # fmt: skip
    signed, signature = sign(head, identity.keys.signing)
    return PendingWrite(
        id=identifier, life=node.life, generation=node.generation, sequence=head.sequence, epoch=head.epoch,
        gateway_environment=identity.environment, previous=previous.id if previous else None, operation=change.operation.value,
        secret=change.secret, project=change.project, environment=change.environment, key=change.key, base_version=base,
        actor=actor, idempotency_key=idempotency_key,
        head=signed, signature=signature, size=len(text.encode()), accepted_at=now, not_before=now + CALLER_WAITS,
        sealed_body=seal_body(identity.environment, identifier, text, salt),
    )  # fmt: skip


def _foundation(change: SecretChange, node: NodeState) -> tuple[PendingWrite | None, int | None]:
    """What the write is made on: an open write before it, or a version of the Primary's."""
    if change.operation is WriteOperation.CREATE:
        _refuse_taken_key(change)
        return None, None
    previous = to_build_on(change.secret, node.generation)
    known = known_version(change.secret, node.replica_complete_at)
    if change.base_version is not None and change.base_version != known:
        raise VersionConflict(known, change.base_version)
    if previous is None:
        _refuse_wrong_status(change)
        return None, known
    if change.base_version is not None:
        raise Conflict(
            f"base_version: a write that waits ({previous.id}) comes after version {known}; leave it out to write after that one",
            code="VERSION_CONFLICT", extra={"current_version": known},
        )  # fmt: skip
    return previous, None


def known_version(secret: uuid.UUID, complete_at: datetime | None) -> int:
    """The newest version of the Primary's this gateway knows: the copy's, or what its own writes became since it was complete.

    A complete copy has the last word on what came before it: the Primary may have been restored to an older state.
    """
    copied = Secret.objects.filter(id=secret).values_list("version", flat=True).first() or 0
    own = PendingWrite.objects.filter(secret=secret, outcome=WriteOutcome.APPLIED.value)
    if complete_at is not None:
        own = own.filter(settled_at__gt=complete_at)
    return max(copied, own.aggregate(newest=Max("version"))["newest"] or 0)


def _refuse_wrong_status(change: SecretChange) -> None:
    """Archived, absent or in use, as far as the copy knows; with the sentences of the Primary."""
    status = Secret.objects.filter(id=change.secret).values_list("status", flat=True).first()
    if status is not None:
        rules.fulfilled(change.operation, status)


def _refuse_taken_key(change: SecretChange) -> None:
    place = {"project": change.project, "environment": change.environment, "key": change.key}
    copied = Secret.objects.filter(
        project_id=change.project, environment_id=change.environment, key=change.key, deleted_at=None
    ).values_list("id", flat=True)
    waits = PendingWrite.objects.filter(OPEN, operation=WriteOperation.CREATE.value, **place).values_list("secret", flat=True)
    if there := copied.first() or waits.first():
        raise Conflict(
            f"key: a secret {change.key!r} already exists in this environment of the project", code="DUPLICATE_NAME",
            details=f"the id of the one that exists: {there}",
        )  # fmt: skip


def _end(row: PendingWrite, receipt: WriteReceipt, now: datetime) -> None:
    row.outcome, row.version = receipt.outcome.value, receipt.version
    row.code, row.detail = receipt.code[:64], receipt.detail[:500]
    row.settled_at, row.sealed_body = now, None
    if receipt.outcome is WriteOutcome.DUPLICATE and receipt.secret:
        row.secret = uuid.UUID(receipt.secret)  # a creation that had been made under another id
    if receipt.outcome is WriteOutcome.REFUSED:
        row.idempotency_key = ""  # nothing was promised, so the same request may be made again
    row.save()
    _audit(row, f"gateway.write.{row.outcome}", actor="system")


def _wait(row: PendingWrite, receipt: WriteReceipt, now: datetime) -> None:
    """RECEIVED: ask again later. QUEUED: the Primary does not have it (its database was restored), so send it again."""
    pause = min(ASK_CAP, ASK_BASE * 2.0 ** min(row.attempts, 10)) if receipt.outcome is WriteOutcome.RECEIVED else 0.0
    row.outcome, row.not_before = receipt.outcome.value, now + timedelta(seconds=pause)
    row.code = BASE_LOST if row.code == BASE_LOST else receipt.code[:64]
    row.detail, row.attempts = receipt.detail[:500], row.attempts + 1
    row.save(update_fields=["outcome", "not_before", "code", "detail", "attempts"])


def _count(outcomes: Iterable[WriteOutcome]) -> None:
    """Last in its transaction, since the counters are everybody's."""
    with connection.cursor() as cursor:
        for outcome, count in sorted(Counter(one.value for one in outcomes).items()):
            cursor.execute(_TALLY, [outcome, count])


def _move_backlog(writes: int, size: int) -> None:
    """Last in its transaction, like the counters."""
    if writes:
        with connection.cursor() as cursor:
            cursor.execute(_BACKLOG, [writes, size])


def _audit(row: PendingWrite, action: str, *, actor: str, address: str = "") -> None:
    audit.record(
        actor=actor, action=action, entity="write", entity_id=str(row.id), environment=row.gateway_environment, address=address,
        details={
            "operation": row.operation, "secret": str(row.secret), "key": row.key, "project": str(row.project),
            "epoch": row.epoch, "sequence": row.sequence, "author": row.actor, "version": row.version, "code": row.code,
        },
    )  # fmt: skip
