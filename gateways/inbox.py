"""Writes of gateways arrive: each is taken once, answered from what is stored, and settled in order (DESIGN §9, I8, I9, I10).

Taking proves where a write comes from and stores it (`gateways.write_desk`). Settling (`gateways.settlement`) may happen in the
same call, in Celery or in a loop of any process, any number of times and side by side: PostgreSQL is the queue.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import DatabaseError, connection, transaction
from msgspec import structs

from common.clock import boottime, database_now
from common.errors import TooLarge
from common.failpoints import reach
from common.locks import try_transaction_lock
from common.outages import is_outage
from gateways import doubts, losses
from gateways.models import Gateway, ReceivedWrite, Route
from gateways.settlement import Answering, settle_held
from gateways.write_desk import Arrival, Desk, Kept
from gateways.write_held import HeldWrite, read
from gateways.write_scene import hold_route
from protocol.vocabulary import WriteOutcome
from protocol.writes import WriteBatch, WriteReceipt, WriteReceipts

log = logging.getLogger("mazevault.gateways.inbox")

LARGEST_BATCH = 1024 * 1024
"""Bytes of all bodies of a batch (reliability §5, upload)."""
GROUP, GROUP_BYTES = 250, 4 * 1024 * 1024
"""Writes settled in one transaction, and bytes of their contents; one at least. A promotion waits for as long as one takes."""
PASS_SECONDS = 10.0
"""After so long a pass leaves the rest to the next one, in this process or in another."""

_DUE = """
SELECT id, coalesce(octet_length(sealed_body), 0) FROM gateways_receivedwrite
 WHERE gateway_id = %s AND generation = %s AND outcome = 'received' AND not_before <= %s ORDER BY sequence LIMIT %s
"""


@dataclass(frozen=True)
class _Stream:
    environment: str
    gateway: uuid.UUID
    generation: uuid.UUID


_failing: dict[_Stream, str] = {}
"""Streams whose last turn in this process failed, and with which kind of error, so that each failure is told once."""
MOST_FAILING = 1000


@dataclass(frozen=True)
class _Step:
    """What came of settling the next writes of a stream: how many ended, and whether there is more to do at once."""

    ended: int = 0
    more: bool = False


def take_batch(gateway: Gateway, batch: WriteBatch, now: datetime) -> WriteReceipts:
    """Store what is new and say of every write where it is, in the order they came. One bad write stops no other.

    Raises `TooLarge` for a batch that no gateway makes. With `apply_now` the writes are settled before the answer.
    """
    if len(batch.writes) > 1 and sum(len(write.body.encode()) for write in batch.writes) > LARGEST_BATCH:
        raise TooLarge(f"writes: the bodies of a batch have at most {LARGEST_BATCH} bytes; send fewer at a time")
    arrivals = [Arrival.of(write) for write in batch.writes]
    with transaction.atomic():
        doubts.heed_mark(gateway, batch.mark, doubts.known_of(gateway))
        desk = Desk.of(gateway, arrivals, now)
        for arrival in arrivals:
            desk.take(arrival, waits=batch.apply_now and not arrival.write.promised)
        desk.store()
        reach("inbox:taken:before-commit")
    reach("inbox:taken:after-commit")
    taken = [row for row in desk.taken if row is not None]
    waiting = [row for row in taken if row.outcome == WriteOutcome.RECEIVED]
    settle_now(_to_settle_now(gateway, waiting, batch.apply_now), callers_wait=batch.apply_now)
    losses.close_finished(gateway.environment_id)
    known = _receipts([row.id for row in taken])
    receipts = [_named(known[row.id], arrival.claimed) for row, arrival in zip(taken, arrivals, strict=True)]
    return WriteReceipts(receipts=[*receipts, *_asked(gateway, batch.ask)])


def apply_pending(seconds: float = PASS_SECONDS) -> int:
    """Settle writes whose time has come, in the order of each stream, the streams in turn. Returns how many left the queue.

    One process at a time works on a stream; who finds it taken leaves it alone. A stream that fails stops no other.
    """
    ends_at, done = boottime() + seconds, 0
    streams = _streams_with_work(database_now())
    touched = {stream.environment for stream in streams}
    while streams and boottime() < ends_at:
        steps = [(stream, _outlived(stream)) for stream in streams]
        done += sum(step.ended for _, step in steps)
        streams = [stream for stream, step in steps if step.more]
    for environment in touched if done else ():
        losses.close_finished(environment)
    return done


def settle_now(identifiers: Iterable[uuid.UUID], *, callers_wait: bool = False) -> None:
    """Settle these writes before anybody else does. One that still has to wait for another is promised from here on."""
    wanted = list(identifiers)
    places = ReceivedWrite.objects.filter(id__in=wanted).values_list("environment_id", flat=True) if wanted else ()
    for environment in sorted(set(places)):
        with transaction.atomic():
            hold_route(environment)
            held = [row for row in _held(wanted, skip_locked=False) if row.environment_id == environment]
            settle_held(environment, held, database_now(), Answering(callers_wait))
            reach("inbox:settled:before-commit")
        reach("inbox:settled:after-commit")


def _to_settle_now(gateway: Gateway, waiting: Sequence[Kept], apply_now: bool) -> list[uuid.UUID]:
    """All when callers wait, else those of the past: they are set aside in the request that brings them (I3)."""
    if apply_now or not waiting:
        return [row.id for row in waiting]
    route = Route.objects.select_related("active_gateway").get(environment_id=gateway.environment_id)
    active = route.active_gateway
    present = (route.epoch, active.id, active.generation) if active else None
    return [row.id for row in waiting if (row.epoch, row.gateway_id, row.generation) != present]


def _receipts(identifiers: Sequence[uuid.UUID]) -> dict[uuid.UUID, WriteReceipt]:
    told = ReceivedWrite.objects.filter(id__in=identifiers).values_list("id", "secret", "outcome", "version", "code", "detail")
    return {row[0]: _receipt(*row) for row in told}


def _receipt(
    write: uuid.UUID, secret: uuid.UUID | None, outcome: str, version: int, code: str, detail: str
) -> WriteReceipt:  # fmt: skip
    """Of a repeated request also which secret it made, or changed, when it was first made."""
    answered = str(secret) if outcome == WriteOutcome.DUPLICATE and secret else ""
    return WriteReceipt(str(write), WriteOutcome(outcome), version, code, detail, answered)


def _named(receipt: WriteReceipt, claimed: uuid.UUID | None) -> WriteReceipt:
    """Under the id the write came with."""
    return structs.replace(receipt, id=str(claimed)) if claimed else receipt


def _asked(gateway: Gateway, identifiers: Sequence[str]) -> list[WriteReceipt]:
    """Where these writes of the environment are. QUEUED: the Primary does not have it, so it must be sent (again)."""
    asked = [uuid.UUID(text) for text in identifiers]
    rows = ReceivedWrite.objects.filter(environment_id=gateway.environment_id, id__in=asked).exclude(outcome=WriteOutcome.REFUSED)
    known = _receipts(list(rows.values_list("id", flat=True))) if asked else {}
    unknown = WriteReceipt("", WriteOutcome.QUEUED, 0, "WRITE_UNKNOWN", "send it again")
    return [known.get(one) or structs.replace(unknown, id=str(one)) for one in asked]


def _streams_with_work(now: datetime) -> list[_Stream]:
    due = ReceivedWrite.objects.filter(outcome=WriteOutcome.RECEIVED, not_before__lte=now)
    streams = due.values_list("environment_id", "gateway_id", "generation").distinct().order_by("gateway_id", "generation")
    return [_Stream(*one) for one in streams]


def _outlived(stream: _Stream) -> _Step:
    """Settle the next writes of a stream; what fails there stops no other stream, and is told when it begins and when it ends.

    Raises only where the database is away: then nothing can be settled anywhere.
    """
    try:
        step = _settle_group(stream)
    except Exception as error:
        if isinstance(error, DatabaseError) and is_outage(error):
            raise
        _tell_failing(stream, error)
        return _Step()
    if _failing.pop(stream, None):
        log.warning("the writes of the gateway %s in %s are settled again", _named_gateway(stream), stream.environment)
    return step


def _tell_failing(stream: _Stream, error: Exception) -> None:
    kind = type(error).__name__
    if _failing.get(stream) == kind:
        return
    if len(_failing) >= MOST_FAILING:
        _failing.clear()
    _failing[stream] = kind
    log.error("the writes of the gateway %s in %s cannot be settled; those of others are, and these are tried at each pass",
              _named_gateway(stream), stream.environment, exc_info=error)  # fmt: skip


def _named_gateway(stream: _Stream) -> str:
    name = Gateway.objects.filter(id=stream.gateway).values_list("name", flat=True).first()
    return f"{name} ({stream.gateway})"


def _settle_group(stream: _Stream) -> _Step:
    """Settle the next writes of a stream in one transaction."""
    with transaction.atomic():
        if not try_transaction_lock(f"inbox:{stream.gateway}:{stream.generation}"):
            return _Step()
        now = database_now()
        hold_route(stream.environment)
        due, more = _due(stream, now)
        settled = settle_held(stream.environment, _held(due, skip_locked=True), now)
        reach("inbox:group:before-commit")
    reach("inbox:group:after-commit")
    return _Step(settled.ended, more and not settled.gave_up)


def _due(stream: _Stream, now: datetime) -> tuple[list[uuid.UUID], bool]:
    """The next writes of a stream, as many as fit into one transaction, and whether there are more."""
    with connection.cursor() as cursor:
        cursor.execute(_DUE, [stream.gateway, stream.generation, now, GROUP])
        found = cursor.fetchall()
    chosen: list[uuid.UUID] = []
    size = 0
    for identifier, bytes_of_it in found:
        size += bytes_of_it
        if chosen and size > GROUP_BYTES:
            return chosen, True
        chosen.append(identifier)
    return chosen, len(found) == GROUP


def _held(identifiers: Sequence[uuid.UUID], *, skip_locked: bool) -> list[HeldWrite]:
    """Those of them that still wait, locked until the transaction ends."""
    waiting = ReceivedWrite.objects.filter(id__in=identifiers, outcome=WriteOutcome.RECEIVED)
    return read(waiting.select_for_update(skip_locked=skip_locked).order_by("id")) if identifiers else []
