"""A second clock beside the database's while a lease runs out: this process's own boot clock (DESIGN §8).

The stored end of a lease is compared with the database's clock. If that clock leaps, the comparison lies; a leap shows as a
disagreement with a clock that cannot be set, but only to who watched both before and after it. So a process goes by the
database's clock only when it has watched since before the lease was given, and every process may go by its own once that has
counted a whole lease since it first saw the wait.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta
from uuid import UUID

from common.clock import boottime
from common.process_locks import ProcessLock

LARGEST_DISAGREEMENT = 1.0
"""Seconds by which the two clocks may run apart while they are watched."""
MOST_WAITS = 64
"""Operations a process remembers the beginning of; of others it waits anew."""


class ClockWitness:
    """What this process saw of both clocks. Safe to share between threads. `watching_since` (boot clock) is for tests."""

    def __init__(self, watching_since: float | None = None) -> None:
        self._lock = ProcessLock("second clock")
        self._since = watching_since
        self._apart: float | None = None
        self._waits: OrderedDict[tuple[UUID, datetime | None, int], float] = OrderedDict()

    def look(self, database_now: datetime, asked: float | None = None) -> bool:
        """Note both clocks. False when the database's leapt since the look before; it is watched anew from here on.

        `asked` is the boot clock when the database was asked; without it, it answered at once.
        """
        mine = boottime()
        least, most = database_now.timestamp() - mine, database_now.timestamp() - (mine if asked is None else asked)
        with self._lock:
            known = self._apart
            leapt = known is not None and not least - LARGEST_DISAGREEMENT <= known <= most + LARGEST_DISAGREEMENT
            if leapt or self._since is None:
                self._since = mine
            if leapt or known is None:
                self._apart = least
        return not leapt

    def has_watched_since(self, moment: datetime, database_now: datetime) -> bool:
        """Whether no leap can have happened between `moment` and now, both by the database's clock."""
        with self._lock:
            return self._since is not None and self._since <= boottime() - (database_now - moment).total_seconds()

    def has_waited(self, operation: UUID, blocked_until: datetime | None, longest: timedelta, blocks: int = 0) -> bool:
        """Whether this process has waited for so long since it first saw this operation wait, by its own clock alone.

        Another end of a block of leases (the database was put back meanwhile) is another wait, and so is another number of blocks
        (one was asked for that ends no later than the one before).
        """
        mine = boottime()
        with self._lock:
            began = self._waits.setdefault((operation, blocked_until, blocks), mine)
            while len(self._waits) > MOST_WAITS:
                self._waits.popitem(last=False)
        return mine - began > longest.total_seconds()

    def forget(self, operation: UUID) -> None:
        with self._lock:
            for known in [one for one in self._waits if one[0] == operation]:
                del self._waits[known]
