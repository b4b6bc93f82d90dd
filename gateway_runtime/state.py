"""The gateway's durable facts and their guarded changes: sequence numbers, highest epoch, fence."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from django.db import transaction
from django.db.models import F

from common.direct import answering_within, open_connection
from common.process_locks import ProcessLock, Rank
from common.rows import ensure
from gateway_runtime.lease import Fenced
from gateway_runtime.models import NodeState
from protocol.vocabulary import Assignment

SEQUENCE_BLOCK = 1000
"""Sequence numbers are reserved in blocks, so that one commit serves many messages and a crash only leaves a gap."""

ANSWER_SECONDS = 5.0
"""A session that does not answer within this is lost: who waits for it longer cannot say that it is the one process."""

CLOCK_SKEW = 60.0
"""Seconds by which the wall clock may be put back without a doubt about the age of the copy."""


_RESERVE: LiteralString = """
INSERT INTO gateway_runtime_messagenumbers AS kept (id, next) VALUES (1, %(floor)s::bigint + %(block)s)
ON CONFLICT (id) DO UPDATE SET next = greatest(kept.next, %(floor)s::bigint) + %(block)s RETURNING next
"""


class Sequences:
    """Numbers that never come twice in one life of the database, across threads, restarts and transactions that are taken back.

    A block is committed on a connection of its own before a number of it is given out; what becomes of the caller's transaction
    changes nothing. Numbers of a block that was not used up are skipped, also when nobody knows whether its commit arrived.
    """

    def __init__(self) -> None:
        self._lock = ProcessLock("message numbers", Rank.NUMBERS)
        self._next = self._end = 1

    def take(self) -> int:
        """The next number. Raises `psycopg.Error` when the database does not answer."""
        with self._lock:
            if self._next >= self._end:
                self._end = _reserve(SEQUENCE_BLOCK, floor=self._next)
                self._next = self._end - SEQUENCE_BLOCK
            self._next += 1
            return self._next - 1

    def skip_to(self, number: int) -> None:
        """From now on give out this number or higher ones; committed at once. Numbers only go up: a lower one changes nothing."""
        with self._lock:
            if number > self._next:
                self._end = _reserve(0, floor=number)
                self._next = self._end


def _reserve(block: int, *, floor: int) -> int:
    """Commit that all numbers before the returned one are taken. The row is nobody else's, so this waits for no transaction."""
    with open_connection() as own, answering_within(own, ANSWER_SECONDS):
        row = own.execute(_RESERVE, {"block": block, "floor": floor}).fetchone()
    assert row is not None  # noqa: S101  RETURNING
    return int(row[0])


@dataclass(frozen=True, slots=True)
class Standing:
    """The part of `NodeState` that says whether this gateway gives anything out, as another statement read it beside its rows."""

    replica_complete_at: datetime | None
    assigned_role: str
    assigned_epoch: int
    highest_epoch: int
    fenced_epoch: int | None


def this_life() -> NodeState:
    """The row of this life; created with a new generation when the database is new."""
    found = NodeState.objects.filter(id=1).first()
    if found is None:
        ensure(NodeState, id=1)
        found = NodeState.objects.get(id=1)
    return found


def begin_new_life(generation: uuid.UUID) -> None:
    """The generation of a new enrolment: epochs, fence and the stream of writes start afresh, and the copy is read anew.

    Open writes of the old generation stay in the queue as they were signed; the Primary decides what becomes of them. The numbers
    of messages go on, since the registration under this generation took some.
    """
    this_life()
    NodeState.objects.filter(id=1).update(
        generation=generation, life=F("life") + 1, highest_epoch=0, assigned_role="", assigned_epoch=0, fenced_operation=None,
        fenced_epoch=None, fenced_number=0, write_sequence=0, replica_generation="", replica_position=0,
        replica_complete_at=None, replica_round=F("replica_round") + 1, replica_resyncing=True, rights_position=0,
    )  # fmt: skip


def skip_writes_to(number: int) -> bool:
    """Give no number of a write up to this one again. False when they are beyond it already."""
    return bool(NodeState.objects.filter(id=1, write_sequence__lt=number).update(write_sequence=number))


def age_of_copy(row: NodeState | Standing, now: datetime) -> float | None:
    """Seconds since the copy was known to be complete; None while it never was.

    Infinite when that time lies ahead by more than clocks may differ: the clock was put back, so nobody knows how old it is.
    """
    return age_of_time(row.replica_complete_at, now)


def age_of_time(complete_at: datetime | None, now: datetime) -> float | None:
    """`age_of_copy` from the time alone."""
    if complete_at is None:
        return None
    age = (now - complete_at).total_seconds()
    return max(0.0, age) if age >= -CLOCK_SKEW else math.inf


def standing_of(row: NodeState | Standing) -> Assignment:
    """What this gateway is for people who read and write secrets: by its last directive, whether it is cut off or not."""
    if row.fenced_epoch is not None and row.fenced_epoch >= row.assigned_epoch:
        return Assignment.FENCED
    if not row.assigned_role or row.assigned_epoch < row.highest_epoch:
        return Assignment.STANDBY
    return Assignment(row.assigned_role)


def commit_assignment(role: Assignment, epoch: int) -> None:
    """Remember what the Primary assigned, for a restart while it is away. Who accepts a write looks under the row's lock."""
    NodeState.objects.filter(id=1).update(assigned_role=role.value, assigned_epoch=epoch)


def fence_of(row: NodeState) -> Fenced | None:
    if row.fenced_operation is None or row.fenced_epoch is None:
        return None
    return Fenced(operation=str(row.fenced_operation), epoch=row.fenced_epoch, number=row.fenced_number)


def raise_epoch(epoch: int) -> None:
    """Remember the highest epoch seen. A higher one lifts a fence of a lower one (DESIGN §8)."""
    with transaction.atomic():
        NodeState.objects.filter(id=1, highest_epoch__lt=epoch).update(highest_epoch=epoch)
        NodeState.objects.filter(id=1, fenced_epoch__lt=epoch).update(fenced_operation=None, fenced_epoch=None)


def commit_fence(fenced: Fenced) -> None:
    """Commit the fence before it is acknowledged; from here on grants of this epoch or a lower one are discarded."""
    NodeState.objects.filter(id=1).update(
        fenced_operation=fenced.operation, fenced_epoch=fenced.epoch, fenced_number=fenced.number
    )


def commit_promises(epoch: int, fenced: Fenced | None) -> None:
    """Commit anew what a database that was put back has forgotten."""
    with transaction.atomic():
        raise_epoch(epoch)
        if fenced is not None:
            commit_fence(fenced)


def lift_fence() -> None:
    """The order behind the fence was cancelled."""
    NodeState.objects.filter(id=1).update(fenced_operation=None, fenced_epoch=None)


def begin_process(process: uuid.UUID) -> bool:
    """Note that this process acts from here on. False when another one did before and never said that all it began has ended."""
    this_life()
    with transaction.atomic():
        before = NodeState.objects.select_for_update().get(id=1).process
        NodeState.objects.filter(id=1).update(process=process)
    return before in (None, process)


def end_process(process: uuid.UUID) -> None:
    """All that this process began has ended. Changes nothing when another one has taken its place."""
    NodeState.objects.filter(id=1, process=process).update(process=None)


class OneProcess:
    """A session lock on the gateway's own database, so that two processes of one gateway never act at the same time.

    The lock lives as long as its connection: it may end while the process lives on, and another one may take it then. Ask
    `still_held` before what only the one process may do. Safe to share between threads.
    """

    TAKE: LiteralString = "SELECT pg_try_advisory_lock(7236459812345671)"

    def __init__(self) -> None:
        self._lock = ProcessLock("lock of the one process", Rank.SESSION)
        self._connection: psycopg.Connection | None = None

    def take(self) -> bool:
        """Try once to become the one process of this gateway. Raises `psycopg.Error`; the next try connects anew then."""
        with self._lock:
            self._connection = self._connection or open_connection()
            row = self._asked(self._connection, self.TAKE)
            if not (row and row[0]):
                self._drop()  # a session is kept only with the lock, so that it stands for the lock
            return self._connection is not None

    def still_held(self) -> bool:
        """False as soon as the session behind the lock is gone or silent; then `take` must succeed before anything is done."""
        with self._lock:
            if self._connection is None:
                return False
            try:
                self._asked(self._connection, "SELECT 1")
            except psycopg.Error:
                return False
            return True

    def give_up(self) -> None:
        """End the session, and the lock with it."""
        with self._lock:
            self._drop()

    def _asked(self, session: psycopg.Connection, question: LiteralString) -> tuple[Any, ...] | None:
        try:
            with answering_within(session, ANSWER_SECONDS):
                return session.execute(question).fetchone()
        except psycopg.Error:
            self._drop()
            raise

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
