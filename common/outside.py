"""Calls to the outside: none is made while a database transaction of the calling thread is open.

Whoever waits for a vault, for Entra or for the Primary inside of one keeps a connection of the pool and its row locks for as long
as the other side likes. Every adapter says `begins` before it sends; the test suite raises where the product only tells.

A right to act ends at a moment that was fixed when it was given (`acting_for`). A process may stand still between that and the
bytes that leave, so an adapter asks `right_is_over` once more right before each piece it sends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from django.conf import settings
from django.db import connections

from common.clock import boottime, process_clock
from common.direct import give_connection_back

log = logging.getLogger("mazevault.outside")


def begins(what: str) -> None:
    """A call to the outside begins here; the thread's database connection goes back to the pool, since the call may last.

    In a transaction that is a fault of this program, told to `on_fault`.
    """
    if in_transaction():
        on_fault(what)
    if settings.configured:
        give_connection_back()


@dataclass(frozen=True)
class _Right:
    """Ends when either clock says so: a machine that was paused may have stopped one of them."""

    until_boot: float
    until_wall: float


_right: ContextVar[_Right | None] = ContextVar("right to act", default=None)


@contextmanager
def acting_for(seconds: float, *, since_boot: float, since_wall: float) -> Iterator[None]:
    """What this thread sends in here may leave until `seconds` after that moment, and never later."""
    token = _right.set(_Right(since_boot + seconds, since_wall + seconds))
    try:
        yield
    finally:
        _right.reset(token)


def right_is_over() -> bool:
    """Whether the right this thread acts under has ended; False where it needs none."""
    right = _right.get()
    return right is not None and (boottime() >= right.until_boot or process_clock() >= right.until_wall)


def in_transaction() -> bool:
    """Whether this thread has a transaction open; the one a test wraps itself in does not count. False before settings are."""
    return settings.configured and any(
        not getattr(block, "_from_testcase", False)
        for one in connections.all(initialized_only=True)
        for block in one.atomic_blocks
    )


def _tell(what: str) -> None:
    log.error("%s is called inside a database transaction; please report this", what, stack_info=True)


on_fault: Callable[[str], None] = _tell
"""What is done about a call in a transaction. Replaced by the test suite."""
