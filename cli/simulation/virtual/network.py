"""What becomes of a message: when it arrives, how often, or that it is lost."""

from __future__ import annotations

import random

from cli.simulation.faults import Fault, Loss, Spell

SHORTEST, LONGEST = 0.002, 0.08
"""Seconds of one way between a gateway and the Primary when nothing is wrong, with its commit."""
LATE_SHARE, LATEST = 0.002, 4.0
"""A few messages are late without any fault: a lost packet sent again, a full buffer on the way."""


Fate = tuple[float | None, float | None]
"""Seconds until a message arrives, None where it is lost; seconds until its second arrival, None mostly."""


class Network:
    """Draws the fate of every message. The spells that hold now are set from outside."""

    def __init__(self, randomness: random.Random) -> None:
        self._random = randomness
        self.lost_up: set[int] = set()
        self.lost_down: set[int] = set()
        self.twice = 0.0
        """Share of messages that arrive twice."""
        self.commit = 0.0
        """Longest additional seconds of a commit."""

    def up(self, gateway: int) -> Fate:
        """From a gateway to the committed row."""
        if gateway in self.lost_up:
            return None, None
        draw = self._random.random
        slow = self.commit * draw() if self.commit else 0.0
        again = self._way() + slow if self.twice and draw() < self.twice else None
        return self._way() + slow, again

    def down(self, gateway: int) -> float | None:
        """Seconds until an answer arrives, None where it is lost."""
        return None if gateway in self.lost_down else self._way()

    def begin(self, spell: Spell, gateways: list[int]) -> None:
        """This spell holds from now on, for these gateways."""
        if spell.fault in (Fault.PARTITION, Fault.ONE_WAY):
            if spell.loss is not Loss.DOWN:
                self.lost_up.update(gateways)
            if spell.loss is not Loss.UP:
                self.lost_down.update(gateways)
        elif spell.fault is Fault.SLOW_DISK:
            self.commit = spell.strength
        elif spell.fault is Fault.DUPLICATES:
            self.twice = spell.share

    def end(self, spell: Spell, gateways: list[int]) -> None:
        """This spell is over. Gateways that another spell has as well are healed too: the next one draws anew."""
        if spell.fault in (Fault.PARTITION, Fault.ONE_WAY):
            self.lost_up.difference_update(gateways)
            self.lost_down.difference_update(gateways)
        elif spell.fault is Fault.SLOW_DISK:
            self.commit = 0.0
        elif spell.fault is Fault.DUPLICATES:
            self.twice = 0.0

    def _way(self) -> float:
        draw = self._random.random
        usual = SHORTEST + (LONGEST - SHORTEST) * draw() ** 3
        return usual + LATEST * draw() if draw() < LATE_SHARE else usual
