"""Locks between the threads of this process, in their one written order (docs/adr/0033). Pure of any framework."""

from __future__ import annotations

import threading
from enum import IntEnum
from types import TracebackType
from typing import Protocol

from common.errors import Unavailable

LONGEST_WAIT = 60.0
"""Seconds after which a wait for a lock of the process ends in an error. Longer than any holder may take: each of its calls and
statements has a limit of its own."""


class Rank(IntEnum):
    """In which order one thread takes locks of the process: a higher one while it holds lower ones, never the other way round.

    Those below ROWS are *long*: statements and calls may be made under them, so none is taken while a transaction is open. MEMORY
    is *short*: it may be taken anywhere, and nothing is waited for under it.
    """

    ORDERS = 10
    """One directive after the other. The end of running effects is waited for under it, bounded; no effect ever takes it."""
    ONE_PROCESS = 20
    """Whether this process is still the one that acts, and what it takes over when it is again."""
    FACTS = 30
    """A committed fact of the node and its picture in memory change together."""
    PULL = 40
    """What was asked for first is stored first."""
    SESSION = 50
    """One question at a time on a connection of its own."""
    TRUST = 60
    """One thread fetches the Primary's keys."""
    NUMBERS = 70
    """One thread reserves message numbers."""
    ROWS = 80
    """No lock of the process: an open transaction and the rows it holds."""
    MEMORY = 100


class Watch(Protocol):
    """Sees every lock of the process come and go; the suite's own refuses what contradicts the order."""

    def wanted(self, lock: ProcessLock) -> None: ...
    def taken(self, lock: ProcessLock) -> None: ...
    def released(self, lock: ProcessLock) -> None: ...
    def waits(self) -> None: ...


watch: Watch | None = None


class ProcessLock:
    """A lock between threads of this process, short unless a rank is named."""

    def __init__(self, name: str, rank: Rank = Rank.MEMORY) -> None:
        self.name, self.rank = name, rank
        self._lock = threading.Lock()
        self._owner = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if watch is not None:
            watch.wanted(self)
        if not self._lock.acquire(blocking, timeout):
            return False
        self._owner = threading.get_ident()
        if watch is not None:
            watch.taken(self)
        return True

    def release(self) -> None:
        self._owner = 0
        self._lock.release()
        if watch is not None:
            watch.released(self)

    def __enter__(self) -> ProcessLock:
        if not self.acquire(timeout=LONGEST_WAIT):
            raise Unavailable(f"this node waits for itself ({self.name}); try again", retry_after=5)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def _is_owned(self) -> bool:
        """For `threading.Condition`, which would try to take the lock to find out."""
        return self._owner == threading.get_ident()


class Condition(threading.Condition):
    """Over a short lock. Waiting gives it back and may be long: never in a transaction, nor under a lock other than ORDERS."""

    def __init__(self, name: str) -> None:
        super().__init__(ProcessLock(name))  # type: ignore[arg-type]  # any lock will do

    def wait(self, timeout: float | None = None) -> bool:
        if watch is not None:
            watch.waits()
        return super().wait(timeout)
