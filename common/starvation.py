"""How long threads have waited for a processor, so that a watchdog tells who got none from who stands still.

Linux counts it for each thread (`schedstat`). What a thread waits for otherwise, a lock, an answer, a frozen machine, is not in
it: a thread that stands still has no such time. Where the system does not count, nobody is excused.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

PROC = Path("/proc")
EXCUSED_AT_MOST = 4.0
"""For want of a processor nothing may take longer than so many times what it promised on top of that: a loop that never ends
waits for one too, on a machine that has none to spare."""
LONGEST_LINE = 64
"""Bytes: three numbers of 64 bits."""
SECOND = 1e9
"""Nanoseconds."""


def waited_of(schedstat: str) -> float:
    """Seconds out of the line of one thread: on a processor, waiting for one, and how often."""
    parts = schedstat.split()
    return int(parts[1]) / SECOND if len(parts) > 1 and parts[1].isdecimal() else 0.0


def waited(thread: int) -> float:
    """Seconds for which a thread of this process (its native id) has waited for a processor since it began; 0 where unknown."""
    return _read(PROC / "self" / "task" / str(thread) / "schedstat")


def own_waited() -> float:
    """The same of the calling thread, at a tenth of the cost: the file stays open as long as the thread lives."""
    try:
        return waited_of(os.pread(_own.descriptor(), LONGEST_LINE, 0).decode())
    except OSError:
        return 0.0


class _Own(threading.local):
    """The open file of each thread. A fork is another process, with other numbers."""

    def __init__(self) -> None:
        self._file: FileIO | None = None
        self._of: tuple[int, Path] | None = None

    def descriptor(self) -> int:
        """Raises `OSError`."""
        if self._file is None or self._of != (os.getpid(), PROC):
            self._of = (os.getpid(), PROC)
            self._file = FileIO(PROC / "self" / "task" / str(threading.get_native_id()) / "schedstat")
        return self._file.fileno()


_own = _Own()


@dataclass
class OwnWatch:
    """By how many seconds the watch of this process came late in all: nobody else of it can have got on meanwhile."""

    late: float = 0.0

    def came(self, elapsed: float, expected: float) -> None:
        """`elapsed` seconds after the turn before, which were to be `expected`. A little late is nothing."""
        if elapsed > 2 * expected:
            self.late += elapsed - expected


watch = OwnWatch()


def excuse(waited_since: float, silent_at_most: float) -> float:
    """Seconds that do not count of a silence in which so many were waited for a processor."""
    return min(max(0.0, waited_since), EXCUSED_AT_MOST * silent_at_most)


def all_waited(pid: int) -> Mapping[str, float]:
    """The same for all threads of a process; empty where unknown."""
    try:
        threads = list((PROC / str(pid) / "task").iterdir())
    except OSError:
        return {}
    return {one.name: _read(one / "schedstat") for one in threads}


def longest_wait(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Seconds for which that thread waited that waited longest between two looks. One that is new counts from its beginning."""
    return max((seconds - before.get(one, 0.0) for one, seconds in after.items()), default=0.0)


def _read(path: Path) -> float:
    try:
        return waited_of(path.read_text())
    except OSError:
        return 0.0
