"""Carrying the queue to the Primary: the oldest writes in order, sent until each one has met its end (DESIGN §9)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import islice

import msgspec

from common.clock import now as clock_now
from gateway_runtime import marks, write_queue
from gateway_runtime.client import Channel, PrimaryRefused
from gateway_runtime.models import OPEN, PendingWrite
from protocol import paths
from protocol.vocabulary import WriteOutcome
from protocol.writes import QueuedWrite, WriteBatch, WriteReceipts
from vault.encryption import MasterKeyMismatch, SealBroken

log = logging.getLogger("mazevault.gateway.uploads")

BATCH_WRITES, BATCH_BYTES = 100, 1024 * 1024
"""A batch has at most so many writes and bytes on the wire, but one write at least."""
ASKED_AT_ONCE = 500
UPLOAD_SECONDS = 15.0
"""Longest wait for the receipts of a batch."""
PARK_BASE, PARK_CAP = timedelta(seconds=5), write_queue.LONGEST_PAUSE
"""First and longest pause of a write that cannot be sent or that the Primary cannot take at all."""
UNTAKEABLE = frozenset({400, 413, 422})
"""The Primary refuses the message as such: one of its writes is to blame, and the others must not wait for it."""


class Uploader:
    """One item a step: a batch, or a single write while one of a refused batch is looked for."""

    def __init__(self, idle_seconds: float) -> None:
        self._idle = idle_seconds
        self._singly = 0
        """How many writes are still sent alone after a batch was refused."""

    def step(self, channel: Channel) -> float:
        """Send what is due and take the receipts. Returns the seconds until the next step."""
        moment = clock_now()
        rows = list(write_queue.due(moment, WriteOutcome.QUEUED)[: 1 if self._singly else BATCH_WRITES])
        asked = [str(row.id) for row in write_queue.due(moment, WriteOutcome.RECEIVED).only("id")[:ASKED_AT_ONCE]]
        packed = list(_packed(rows, moment))
        open_still = write_queue.promise_all(row.id for row, _ in packed)
        batch = [(row, write) for row, write in packed if row.id in open_still]
        if not batch and not asked:
            return 0.0 if rows else self._idle
        return self._send(channel, [row for row, _ in batch], [write for _, write in batch], asked)

    def _send(self, channel: Channel, rows: list[PendingWrite], writes: list[QueuedWrite], asked: list[str]) -> float:
        try:
            receipts = channel.call(
                paths.WRITES, WriteBatch(writes=writes, ask=asked, mark=marks.kept()), WriteReceipts, timeout=UPLOAD_SECONDS
            )  # fmt: skip
        except PrimaryRefused as refused:
            if refused.status not in UNTAKEABLE or not rows:
                raise
            return self._isolate(rows, refused)
        self._singly = max(0, self._singly - len(rows))
        moment = clock_now()
        write_queue.settle(receipts.receipts, moment)
        _park_unanswered([str(row.id) for row in rows], asked, receipts, moment)
        return receipts.retry_after_seconds

    def _isolate(self, rows: list[PendingWrite], refused: PrimaryRefused) -> float:
        if len(rows) > 1:
            self._singly = len(rows)
            log.error("a batch of %s writes is refused, sending them one by one: %s", len(rows), refused)
            return 0.0
        self._singly = max(0, self._singly - 1)
        _park(rows[0], clock_now(), str(refused))
        return 0.0


def _packed(rows: Iterable[PendingWrite], moment: datetime) -> Iterable[tuple[PendingWrite, QueuedWrite]]:
    """The first writes that fit into one batch. One whose content does not open is put aside and the others go on."""
    size = 0
    for number, row in enumerate(islice(rows, BATCH_WRITES)):
        try:
            write = write_queue.on_the_wire(row, promised=True)
        except (SealBroken, MasterKeyMismatch) as error:
            _park(row, moment, str(error))
            continue
        size += len(msgspec.json.encode(write))
        if number and size > BATCH_BYTES:
            return
        yield row, write


def _park_unanswered(sent: list[str], asked: list[str], answer: WriteReceipts, moment: datetime) -> None:
    """What was sent and is still to be sent, or was asked for and not answered, would come first again at once, for ever."""
    answered = {receipt.id for receipt in answer.receipts}
    stuck = {*sent, *(identifier for identifier in asked if identifier not in answered)}
    for row in PendingWrite.objects.filter(OPEN, id__in=stuck, not_before__lte=moment).defer("sealed_body"):
        _park(row, moment, row.detail or "the Primary gave no receipt")


def _park(row: PendingWrite, moment: datetime, why: str) -> None:
    pause = min(PARK_CAP, PARK_BASE * 2 ** min(row.attempts, 10))
    log.error("write %s cannot be uploaded now, next try in %.0f s: %s", row.id, pause.total_seconds(), why)
    write_queue.postpone(row, moment + pause, why)
