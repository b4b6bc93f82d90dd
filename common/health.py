"""Whether a node is well, said within a second whatever is down: each thing is asked in a thread of its own.

`live`: the processes move (the front answers that itself). `ready`: what a request needs is there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from django.conf import settings
from django.core.cache import cache
from django.db.migrations.loader import MigrationLoader

from common.direct import answering_within, open_connection
from common.process_locks import Condition

log = logging.getLogger("mazevault.health")

WITHIN_SECONDS = 0.6
"""Who asks how a node is waits so long at most; the front gives the whole answer 0.9 s."""
FRESH_SECONDS = 0.1
"""An answer as young as this is given again, so that a flood of questions is one question."""
CUT_SECONDS = 2.0
"""A connection on which nothing comes for so long is given up."""


class Prober:
    """Asks one thing, at most once at a time, and remembers the answer. Safe to share between threads."""

    def __init__(self, name: str, ask: Callable[[], bool]) -> None:
        self._name, self._ask = name, ask
        self._condition = Condition(f"probe of {name}")
        self._is_asking = False
        self._answer, self._answered_at = False, float("-inf")

    def begin(self) -> None:
        """Ask, unless it is being asked or was just answered."""
        with self._condition:
            if self._is_asking or time.monotonic() - self._answered_at < FRESH_SECONDS:
                return
            self._is_asking = True
        threading.Thread(target=self._find_out, name=f"probe-{self._name}", daemon=True).start()

    def answer(self, deadline: float) -> bool:
        """What was found out by this monotonic second; nothing found is a no."""
        with self._condition:
            while self._is_asking and time.monotonic() < deadline:
                self._condition.wait(deadline - time.monotonic())
            return self._answer and not self._is_asking

    def _find_out(self) -> None:
        answer = False
        try:
            answer = self._ask()
        except Exception as error:  # whatever a driver raises, the finding is the same: it does not answer
            if self._answer or self._answered_at == float("-inf"):  # told when it begins, not at each question
                log.warning("health: %s does not answer: %s", self._name, type(error).__name__)
        finally:
            with self._condition:
                self._is_asking, self._answer, self._answered_at = False, answer, time.monotonic()
                self._condition.notify_all()


class _Migrations:
    """Whether every migration of this version was made. Once that is so it stays so."""

    def __init__(self) -> None:
        self._are_made = False

    def are_made(self) -> bool:
        if not self._are_made:
            wanted = MigrationLoader(None).disk_migrations
            made = set(_rows("SELECT app, name FROM django_migrations"))
            self._are_made = wanted is not None and set(wanted) <= made
        return self._are_made


def _rows(statement: str) -> list[tuple[object, ...]]:
    """On a connection of its own, so that a pool in full use is not taken for a database that is away."""
    with open_connection() as asked, answering_within(asked, CUT_SECONDS):
        return asked.execute(statement.encode()).fetchall()


def _database_answers() -> bool:
    return bool(_rows("SELECT true"))


def _cache_answers() -> bool:
    cache.get("health")
    return True


database = Prober("database", _database_answers)
migrations = Prober("migrations", _Migrations().are_made)
cache_server = Prober("cache", _cache_answers)


def found(*probers: Prober) -> list[bool]:
    """The answers of all of them, together within `WITHIN_SECONDS`."""
    deadline = time.monotonic() + WITHIN_SECONDS
    for prober in probers:
        prober.begin()
    return [prober.answer(deadline) for prober in probers]


def readiness() -> tuple[int, dict[str, object]]:
    """HTTP status and body of `GET /api/v1/health/ready`."""
    answers, migrated = found(database, migrations)
    reasons = [] if answers else ["the database does not answer"]
    if answers and not migrated:
        reasons.append("the database lacks migrations of this version; run manage.py migrate, or set RUN_MIGRATIONS=true")
    return (503 if reasons else 200), _body(reasons)


def liveness() -> tuple[int, dict[str, object]]:
    """What a worker says to `GET /api/v1/health/live` where no front stands before it: it answers, so it lives."""
    return 200, _body([])


def _body(reasons: list[str]) -> dict[str, object]:
    node = settings.MAZEVAULT
    return {"status": "error" if reasons else "ok", "mode": node.mode, "version": node.version, "reasons": reasons}
