"""How far the loops of this process have come, for a watchdog that ends a process whose loops stand still.

Cheap enough for every step: a loop says how long it may be silent at most, and each step replaces one small value. Nothing is
locked, so that nothing that stands still can stop a look.
"""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """The last step of a loop: how many there were, when it was (monotonic seconds), and how long the next may take at most."""

    count: int
    at: float
    silent_at_most: float

    def is_late(self, now: float) -> bool:
        return now - self.at > self.silent_at_most


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
        moment = time.monotonic() if now is None else now
        self._steps[name] = Step(before.count + 1 if before else 1, moment, silent_at_most)

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
