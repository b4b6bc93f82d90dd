"""An outage of the database in two lines of the log: that it began, with the server's own words, and that it is over.

Every loop, request and task meets it, each as often as it tries. Safe to share between threads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import psycopg
from django.db import InterfaceError, OperationalError
from psycopg_pool import PoolTimeout

from common.process_locks import ProcessLock

log = logging.getLogger("mazevault.database")

AWAY = ("08", "57P")
"""SQLSTATE classes of a connection that failed, and of a server that shuts down or starts up."""
QUIET_SECONDS = 10.0
"""Two outages that follow each other sooner are one: a server that restarts takes connections and ends them again."""
PART_SECONDS = 60.0
"""One that goes on although some are answered (one of several hosts, a limit of connections) is told again this often."""


class Outage:
    """Whether something does not answer, for one process. Times are monotonic seconds."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._clock = what, clock
        self._lock = ProcessLock("outage")
        self._since: float | None = None
        self._ended_at = float("-inf")
        self._is_told = False
        self._told_at, self._failures = float("-inf"), 0

    def failed(self, error: BaseException) -> None:
        """It did not answer just now. Told when an outage begins, and again only where others are answered meanwhile."""
        now = self._clock()
        with self._lock:
            self._failures += 1
            if self._since is not None:
                return
            self._since = now
            self._is_told = now - self._ended_at >= QUIET_SECONDS
            if self._is_told:
                log.warning("%s does not answer: %s; what needs it tries again until it does", self._what, cause_of(error))
            elif now - self._told_at >= PART_SECONDS:
                log.warning("%s answers in part only: %d times it did not within %.0f s, the last time: %s",
                            self._what, self._failures, now - self._told_at, cause_of(error))  # fmt: skip
            else:
                return
            self._told_at, self._failures = now, 0

    def answered(self) -> None:
        """It did. Costs a look at one attribute while there is no outage."""
        if self._since is None:
            return
        with self._lock:
            if self._since is not None:
                now = self._clock()
                if self._is_told:
                    log.warning("%s answers again after %.0f s", self._what, now - self._since)
                self._since, self._ended_at = None, now


class PoolCrowded(PoolTimeout):
    """All connections of this process's lane were in use for as long as a thread waits: ours to mend, the database is there."""

    def __init__(self, lane: str, most: int, seconds: float) -> None:
        super().__init__(f"all {most} connections of {lane} to the database were in use for {seconds:.0f} s")


class Told:
    """A warning that many threads have reason for, at most once a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._at = clock, float("-inf")

    def warn(self, sentence: str, *facts: object) -> None:
        now = self._clock()
        if now - self._at >= PART_SECONDS:
            self._at = now
            log.warning(sentence, *facts)


crowded = Told()


def cause_of(error: BaseException) -> str:
    """The last line that is no advice, of the driver's own error where the framework wrapped it."""
    text = str(error.__cause__ or error)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line[0].isspace()]
    return lines[-1] if lines else type(error).__name__


database = Outage("the database")


def is_outage(error: BaseException) -> bool:
    """Whether an error of the framework's database layer, or of the driver, says that the server is away; noted as such. One that
    names a SQLSTATE of another class was answered by a living server."""
    if isinstance(error.__cause__ or error, PoolCrowded):
        return False
    state = getattr(error.__cause__ or error, "sqlstate", None) or ""
    kinds = OperationalError | InterfaceError | psycopg.OperationalError | psycopg.InterfaceError
    if not isinstance(error, kinds) or (state and not state.startswith(AWAY)):
        return False
    database.failed(error)
    return True
