"""One clock for all that is stored and compared: the database's (docs/adr/0033). `now` is passed on as an argument from here.

Processes of one node may stand on machines whose clocks are hours apart; what one of them stored the other must judge alike.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
from django.db import connection

from common.direct import answering_within, open_connection

log = logging.getLogger("mazevault.clock")

CARRIED_SECONDS = 10.0
"""For so long the database's clock is carried forward before it is looked at again; quartz is off by less than a millisecond."""
LARGEST_STEP = 0.5
"""A machine that was paused or whose clock was set shows it: two clocks of it then differ by more than these seconds."""
LOOK_SECONDS = 3.0
"""A look that takes longer is given up; what was seen before is carried on."""
PAUSE_SECONDS = 1.0
"""Between two looks of which the first one failed."""


def boottime() -> float:
    """Seconds on a clock that nobody can set and that counts suspend where the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def process_clock() -> float:
    """What this machine calls the time, in seconds since 1970. Never stored and never compared with what is."""
    return time.time()


@dataclass(frozen=True)
class Seen:
    """The database's clock at one instant, and this machine's two clocks at the same one."""

    moment: datetime
    boot: float
    wall: float

    def is_fit(self, boot: float, wall: float) -> bool:
        since = boot - self.boot
        return 0 <= since <= CARRIED_SECONDS and abs(wall - self.wall - since) <= LARGEST_STEP

    def carried_to(self, boot: float) -> datetime:
        return self.moment + timedelta(seconds=boot - self.boot)


class CarriedClock:
    """The database's clock, carried forward by one of this machine that nobody can set.

    Behind the database by one answer's way at most, and never before it. Threads share it without a lock: two that look at
    the same time see the same.
    """

    def __init__(self, look: Callable[[], Seen]) -> None:
        self._look = look
        self._seen: Seen | None = None
        self._look_again_at = 0.0

    def now(self) -> datetime:
        """Raises `psycopg.Error` as long as the database has never answered."""
        boot, seen = boottime(), self._seen
        if seen is None or not (seen.is_fit(boot, process_clock()) or boot < self._look_again_at):
            seen = self._looked(seen)
        return seen.carried_to(boottime())

    def last(self) -> datetime:
        """The same without ever looking, for an event loop: somebody else calls `now` all the time."""
        seen = self._seen
        return seen.carried_to(boottime()) if seen is not None else self.now()

    def forget(self) -> None:
        """Look again before the next answer."""
        self._seen, self._look_again_at = None, 0.0

    def _looked(self, before: Seen | None) -> Seen:
        self._look_again_at = boottime() + LOOK_SECONDS  # the others go on meanwhile
        try:
            seen = self._look()
        except psycopg.Error as error:
            self._look_again_at = boottime() + PAUSE_SECONDS
            if before is None:
                raise
            log.warning("the database's clock cannot be looked at (%s); the one seen last is carried on", type(error).__name__)
            return before
        self._seen, self._look_again_at = seen, 0.0
        return seen


def _look() -> Seen:
    """On a connection of its own: the caller's may be in a transaction that failed, or hold none."""
    with open_connection() as own, answering_within(own, LOOK_SECONDS):
        row = own.execute("SELECT clock_timestamp()").fetchone()
        boot, wall = boottime(), process_clock()
    assert row is not None  # noqa: S101  a SELECT without FROM
    return Seen(row[0].astimezone(UTC), boot, wall)


carried = CarriedClock(_look)


def moment_of(text: str) -> datetime | None:
    """A time with its zone as somebody else wrote it, in UTC; None for everything else.

    In UTC, since PostgreSQL takes no offset beyond 15:59:59 and no part of a second in one (docs, "Time Zones"), while RFC 3339
    and Python go to 23:59. A time whose offset leads out of the years 1 to 9999 is none.
    """
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None


def now() -> datetime:
    """The time, in UTC, the same in every process on this database (see `CarriedClock`). Costs no statement of the caller's."""
    return carried.now()


def database_now() -> datetime:
    """The database's clock at this very instant (not at the start of the transaction), in UTC. One statement."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
    return moment.astimezone(UTC)
