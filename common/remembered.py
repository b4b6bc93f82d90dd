"""What was read of the database, remembered in this process for a second at most, and given up at once when NOTIFY says so.

Nothing is remembered unless a connection listens: where it is lost, every question is asked again (docs/adr/0036). Whoever reads
while a change is being committed either sees it, or hears of it afterwards and keeps nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from typing import Generic, LiteralString, TypeVar

from common.clock import boottime
from common.direct import open_connection
from common.process_locks import ProcessLock

log = logging.getLogger("mazevault.remembered")

SECONDS = 1.0
"""Longest life of an answer, counted from before the question, on a clock that goes on while the process is frozen."""
MOST = 4096
"""Answers at once; beyond it the oldest goes. One takes two or three kilobytes."""
PAUSE_SECONDS = 1.0
"""Between two tries to listen."""
LOOK_SECONDS = 1.0
"""A listener looks so often whether it is told to end."""

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """Answers by key. Safe to share between threads. A refusal (an exception) and None are never remembered: what is not there
    may come at any moment, and strangers ask for as much of it as they like."""

    def __init__(self, name: str, most: int = MOST) -> None:
        self._lock = ProcessLock(name)
        self._most = most
        self._answers: dict[Hashable, tuple[float, Value]] = {}
        self._turn = 0
        self._listening = False

    def get(self, key: Hashable, ask: Callable[[], Value]) -> Value:
        """The remembered answer, or that of `ask`."""
        asked_at = boottime()
        with self._lock:
            turn, found = self._turn, self._answers.get(key)
            if found is not None and asked_at - found[0] < SECONDS:
                return found[1]
            keeps = self._listening
        answer = ask()
        if keeps and answer is not None:
            self._keep(key, asked_at, answer, turn)
        return answer

    def drop(self, key: Hashable) -> None:
        """This answer only: it is out of date in something that changes nobody's rights."""
        with self._lock:
            self._answers.pop(key, None)

    def forget(self) -> None:
        """Everything, also what is being asked now: it may have been read before the change."""
        with self._lock:
            self._turn += 1
            self._answers.clear()

    def listens(self, listening: bool) -> None:
        """From now on changes are heard of, or no more."""
        with self._lock:
            self._turn += 1
            self._answers.clear()
            self._listening = listening

    def __len__(self) -> int:
        with self._lock:
            return len(self._answers)

    def _keep(self, key: Hashable, asked_at: float, answer: Value, turn: int) -> None:
        with self._lock:
            if turn != self._turn or not self._listening:
                return
            self._answers.pop(key, None)
            if len(self._answers) >= self._most:
                del self._answers[next(iter(self._answers))]
            self._answers[key] = asked_at, answer


def follow(channel: LiteralString, remembered: Remembered[Value], stop: threading.Event | None = None) -> threading.Thread:
    """Forget on each NOTIFY of the channel, in a thread of its own, and listen again whenever the connection is lost."""
    stop = stop or threading.Event()
    thread = threading.Thread(target=_follow, args=(channel, remembered, stop), name=f"follows-{channel}", daemon=True)
    thread.start()
    return thread


def _follow(channel: LiteralString, remembered: Remembered[Value], stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            _listen(channel, remembered, stop)
        except Exception as error:  # whatever it is, nothing may be remembered without a listener
            log.warning("nothing hears of %s (%s), so nothing is remembered", channel, type(error).__name__)
        finally:
            remembered.listens(False)
        stop.wait(PAUSE_SECONDS)


def _listen(channel: LiteralString, remembered: Remembered[Value], stop: threading.Event) -> None:
    with open_connection() as listening:
        listening.execute(f"LISTEN {channel}")
        remembered.listens(True)
        while not stop.is_set():
            for _ in listening.notifies(timeout=LOOK_SECONDS):
                remembered.forget()
