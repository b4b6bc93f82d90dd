"""A second clock beside the database's while a lease runs out: this process's own boot clock (DESIGN §8).

The stored end of a lease is compared with the database's clock. If that clock leaps, the comparison lies; the leap shows as a
disagreement with a clock that cannot be set. Then the whole wait starts again.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from common.clock import boottime
from common.process_locks import ProcessLock

LARGEST_DISAGREEMENT = 1.0
"""Seconds by which the two clocks may differ over one wait."""


class ClockWitness:
    """Remembers, for each operation, both clocks at its first look. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = ProcessLock("second clock")
        self._first: dict[UUID, tuple[datetime, float]] = {}

    def clocks_agree(self, operation: UUID, database_now: datetime, own: float | None = None) -> bool:
        """False when the clocks ran apart since the first look; the next look is then a first one again."""
        mine = boottime() if own is None else own
        with self._lock:
            then, my_then = self._first.setdefault(operation, (database_now, mine))
            apart = abs((database_now - then).total_seconds() - (mine - my_then))
            if apart > LARGEST_DISAGREEMENT:
                del self._first[operation]
                return False
        return True

    def forget(self, operation: UUID) -> None:
        with self._lock:
            self._first.pop(operation, None)
