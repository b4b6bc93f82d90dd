"""Fails the test in which the written order of locks is broken (docs/adr/0033), whether or not threads met this time.

Seen are: a long lock of the process taken while a transaction is open, locks taken against their ranks, somebody waited for in a
transaction, a statement made under a short lock, and a row locked by a statement that reads other tables as well. What the suite
itself opens around a test does not count as a transaction.
"""

from __future__ import annotations

import re
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection
from django.db.backends.signals import connection_created

from common import process_locks
from common.process_locks import ProcessLock, Rank

_LOCKS = re.compile(r"\bFOR (NO KEY )?(UPDATE|SHARE)\b")
_JOINS = re.compile(r"\bJOIN\b|\(\s*SELECT\b")
_FRAMES = 12
"""So many of the innermost calls are shown of each violation."""


class LockWatch:
    """What each thread holds, and what was done against the order since the last look."""

    def __init__(self) -> None:
        self._here = threading.local()
        self._found: list[str] = []

    def wanted(self, lock: ProcessLock) -> None:
        held = self._held()
        against = [one for one in held if one.rank >= lock.rank]
        if against:
            self._note(f"{_told(lock)} is taken under {', '.join(map(_told, against))}")
        if lock.rank < Rank.ROWS and in_a_transaction():
            self._note(f"{_told(lock)} is taken while a transaction is open")

    def taken(self, lock: ProcessLock) -> None:
        self._held().append(lock)

    def released(self, lock: ProcessLock) -> None:
        held = self._held()
        if lock in held:  # another thread may give a lock back
            held.remove(lock)

    def waits(self) -> None:
        others = [one for one in self._held()[:-1] if one.rank is not Rank.ORDERS]
        if others:
            self._note(f"somebody else is waited for under {', '.join(map(_told, others))}")
        if in_a_transaction():
            self._note("somebody else is waited for while a transaction is open")

    def statement(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        short = [one for one in self._held() if one.rank is Rank.MEMORY]
        if short:
            self._note(f"a statement is made under {', '.join(map(_told, short))}: {sql[:120]}")
        if reads_others_while_it_locks(sql):
            self._note(f"rows are locked by a statement that reads other tables (common.rows): {sql[:400]}")
        return execute(sql, params, many, context)

    def take_findings(self) -> list[str]:
        found, self._found = self._found, []
        return found

    def _held(self) -> list[ProcessLock]:
        if not hasattr(self._here, "held"):
            self._here.held = []
        held: list[ProcessLock] = self._here.held
        return held

    def _note(self, what: str) -> None:
        calls = "".join(traceback.format_stack(limit=_FRAMES)[:-2])
        self._found.append(f"{what}, in thread {threading.current_thread().name}:\n{calls}")


watch = LockWatch()


def in_a_transaction() -> bool:
    """Whether the product has one open in this thread."""
    return any(not getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)


@contextmanager
def findings() -> Generator[list[str]]:
    """What is done against the order inside, for tests of the watch itself; it fails no test then."""
    found: list[str] = []
    before = watch.take_findings()
    try:
        yield found
    finally:
        found += watch.take_findings()
        watch._found += before


def reads_others_while_it_locks(sql: str) -> bool:
    """Whether the very SELECT that locks rows joins, or asks by a SELECT within it; around it there may be anything."""
    found = _LOCKS.search(sql)
    if not found:
        return False
    depth, begins = 0, 0
    for place in range(found.start() - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(sql[place], 0)
        if depth < 0:
            begins = place + 1
            break
    return _JOINS.search(sql, begins, found.start()) is not None


def begin() -> None:
    process_locks.watch = watch
    connection_created.connect(_watch_statements, dispatch_uid="lock-watch")


def _watch_statements(connection: Any, **_: Any) -> None:
    if watch.statement not in connection.execute_wrappers:
        connection.execute_wrappers.append(watch.statement)


def _told(lock: ProcessLock) -> str:
    return f"the lock {lock.name!r} ({lock.rank.name})"


def pytest_configure(config: pytest.Config) -> None:
    begin()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    watch.take_findings()
    outcome = yield
    found = watch.take_findings()
    assert not found, "the order of locks is broken (docs/adr/0033):\n" + "\n".join(found)
    return outcome
