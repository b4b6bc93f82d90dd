"""How far the loops of this process have come, for a watchdog that ends a process whose loops stand still.

What stands still gets no excuse; what waited for a processor was starved, and that time does not count (`common.starvation`).
Cheap enough for every step: a loop says how long it may be silent at most, and each step replaces one small value. Nothing is
locked, so that nothing that stands still can stop a look.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from common import starvation


@dataclass(frozen=True)
class Step:
    """The last step of a loop: how many there were, when it was (monotonic seconds), and how long the next may take at most.

    `thread` is the native id of who made it, `waited` for how long that thread and the watch had got no processor until then.
    """

    count: int
    at: float
    silent_at_most: float
    thread: int = 0
    waited: float = 0.0

    def is_late(self, now: float) -> bool:
        silent = now - self.at
        if silent <= self.silent_at_most:
            return False
        return silent - starvation.excuse(waited(self.thread) - self.waited, self.silent_at_most) > self.silent_at_most


def waited(thread: int) -> float:
    """For how long a thread, or the watch of this process, had no processor so far (seconds)."""
    return starvation.waited(thread) + starvation.watch.late


class Progress:
    """The last step of each loop. One thread writes each name; any thread reads.

    A process that was frozen as a whole finds every loop late when it wakes: who judges looks twice, some seconds apart, and
    compares the counts.
    """

    def __init__(self) -> None:
        self._steps: dict[str, Step] = {}

    def moved(self, name: str, silent_at_most: float, now: float | None = None) -> None:
        """This loop is alive, and will say so again within these seconds."""
        before = self._steps.get(name)
        moment, thread = time.monotonic() if now is None else now, threading.get_native_id()
        had = starvation.own_waited() + starvation.watch.late
        self._steps[name] = Step(before.count + 1 if before else 1, moment, silent_at_most, thread, had)

    def ended(self, name: str) -> None:
        """This loop is over, in order."""
        self._steps.pop(name, None)

    def steps(self) -> dict[str, Step]:
        """A copy of what is known, by loop."""
        return dict(self._steps)

    def late(self, now: float | None = None) -> dict[str, Step]:
        """The loops that have been silent for longer than they said."""
        moment = time.monotonic() if now is None else now
        return {name: step for name, step in self.steps().items() if step.is_late(moment)}


loops = Progress()
"""Of this process: the supervisor's loops on a gateway, the light loops on a Primary."""
