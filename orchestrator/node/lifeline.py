"""The line between the parent of a node and each of its processes: signs of life one way, the end of the line the other way.

A child writes a line each `PULSE_SECONDS`; when its watch finds that something stands still it says so. When the parent is gone
the line is closed, and the child ends itself: nothing of a node outlives its parent.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from common import starvation
from common.progress import Progress, Step, loops

PULSE_SECONDS = 0.5
SURE_SECONDS = 4.0
"""A loop that is late has so long to move before it counts as standing still."""
PULSE, READY, STUCK, FAILED = b".", b"ready", b"stuck", b"failed"
DUMP_SIGNAL = signal.SIGUSR2
"""Makes a child write the stacks of all its threads to its log, also while its interpreter is locked."""
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


class Lifeline:
    """The child's end."""

    def __init__(self, descriptor: int) -> None:
        self._line = socket.socket(fileno=descriptor)
        os.set_inheritable(descriptor, False)
        self._lock = threading.Lock()
        self._suspects: dict[str, tuple[Step, float]] = {}
        self._checks: list[Callable[[], str | None]] = []
        self._is_over = False
        self.progress: Progress = loops
        faulthandler.enable()
        faulthandler.register(DUMP_SIGNAL, all_threads=True, chain=False)

    @property
    def descriptor(self) -> int:
        return self._line.fileno()

    def start(self) -> None:
        """Begin to show signs of life, from a thread of its own."""
        threading.Thread(target=self._beat, name="lifeline", daemon=True).start()

    def ready(self) -> None:
        """The process does its work from now on."""
        self._say(READY)

    def alive(self) -> None:
        """One sign of life, of a process without threads."""
        self._say(PULSE)

    def say(self, line: str) -> None:
        self._say(line.encode())

    def let_go(self) -> None:
        """In a fork: the line belongs to the process it was forked from."""
        self._line.close()

    def failed(self, sentence: str) -> None:
        """The process cannot start; the sentence says why and what to do."""
        self._say(FAILED + b" " + sentence.replace("\n", " ").encode())

    def check(self, look: Callable[[], str | None]) -> None:
        """Ask this too, twice a second: what stands still, in words, or None. It must answer at once."""
        self._checks.append(look)

    def close(self) -> None:
        """The process is ending: nothing needs to move any more."""
        self._is_over = True

    def troubles(self, now: float) -> list[str]:
        """What stands still, in words. A loop does when it is late and has not moved for some seconds since that was first seen:
        a process that was frozen finds every loop late when it wakes."""
        if self._is_over:
            return []
        late = self.progress.late(now)
        kept = {name: known for name, known in self._suspects.items() if late.get(name) == known[0]}
        self._suspects = {name: kept.get(name, (step, now)) for name, step in late.items()}
        found = [
            f"{name} has not moved for {now - step.at:.0f} s"
            for name, (step, seen) in self._suspects.items() if now - seen >= SURE_SECONDS
        ]  # fmt: skip
        return found + [trouble for look in self._checks if (trouble := look())]

    def _beat(self) -> None:
        before = time.monotonic()
        while True:
            moment = time.monotonic()
            starvation.watch.came(moment - before, PULSE_SECONDS)
            before = moment
            troubles = self.troubles(time.monotonic())
            self._say(STUCK + b" " + "; ".join(troubles).encode() if troubles else PULSE)
            if select.select([self._line], [], [], PULSE_SECONDS)[0]:
                self._end_with_the_parent()

    def _end_with_the_parent(self) -> None:
        with suppress(OSError):
            if self._line.recv(1):
                return
        os._exit(1)

    def _say(self, line: bytes) -> None:
        with self._lock, suppress(OSError):
            self._line.sendall(line + b"\n")


def set_process_name(name: str) -> None:
    """What `ps` and `top` show (15 characters)."""
    _prctl(_PR_SET_NAME, name.encode()[:15])


def end_with_parent() -> None:
    """Linux: this process gets KILL when the one that started it is gone, also while it is frozen."""
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def _prctl(option: int, value: int | bytes) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
