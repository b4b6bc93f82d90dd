"""Virtual time: what is due next, in one order that only the seed decides."""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

TAIL = 60
"""Lines of the log that are kept for whoever looks at a broken run."""


class Events:
    """Calls by time; of two at one time the one that was asked for first. `now` is seconds since the begin."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done = 0
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._asked = 0

    def at(self, moment: float, call: Callable[..., None], *arguments: Any) -> None:
        self._asked += 1
        heapq.heappush(self._due, (moment, self._asked, call, arguments))

    def after(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now + seconds, call, *arguments)

    def run(self, until: float) -> None:
        """Make every call that is due before `until`, and leave the clock there."""
        due, pop = self._due, heapq.heappop
        while due and due[0][0] < until:
            self.now, _, call, arguments = pop(due)
            self.done += 1
            call(*arguments)
        self.now = until


class EventLog:
    """What happened, a line each. The digest is over all of it, the tail is kept, `write` sees every line."""

    def __init__(self, events: Events, write: Callable[[str], object] = lambda _line: None) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL)
        self.lines = 0
        self._events, self._write, self._sum = events, write, hashlib.sha256()

    def say(self, who: str, what: str) -> None:
        line = f"{self._events.now:10.3f} {who:<16} {what}"
        self.lines += 1
        self.tail.append(line)
        self._sum.update(line.encode() + b"\n")
        self._write(line)

    @property
    def digest(self) -> str:
        return self._sum.hexdigest()
