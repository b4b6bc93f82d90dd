"""How long to wait, and how often something was missed. Pure: randomness and time are arguments."""

from __future__ import annotations

import math
import random


def backoff(attempt: int, base: float, cap: float, randomness: random.Random) -> float:
    """Seconds before try number `attempt` + 1: doubling from `base` to at most `cap`, spread over its upper half."""
    longest = min(cap, base * 2.0 ** min(attempt, 30))
    return longest * randomness.uniform(0.5, 1.0)


def not_before(pause: float, named: float | None, cap: float, randomness: random.Random) -> float:
    """A pause in seconds that is no shorter than the one the Primary named, spread behind it, so that all who were told the same
    do not come back at once. Whatever is named beyond `cap` counts as `cap`: a refusal is not signed."""
    if named is None:
        return pause
    return max(pause, min(named, cap) * randomness.uniform(1.0, 1.5))


def jittered(interval: float, fraction: float, randomness: random.Random) -> float:
    """An interval in seconds, shortened by up to `fraction`, so that a fleet does not march in step and is never late."""
    return interval * (1.0 - randomness.uniform(0.0, fraction))


class MissedBeats:
    """How many beats in a row did not arrive: one an interval, however often it was tried in between. Times in seconds."""

    def __init__(self, interval: float, now: float) -> None:
        self.count = 0
        self._interval = interval
        self._counted_at = -math.inf
        self._settled_at = now

    def arrived(self, now: float) -> None:
        self.count, self._counted_at, self._settled_at = 0, -math.inf, now

    def failed(self, now: float) -> None:
        """It was sent and no answer came."""
        if now - self._counted_at >= self._interval:
            self._count(now)

    def held_back(self, now: float) -> None:
        """It was not sent. That is no failure by itself, but an interval without any beat is one."""
        if now - self._settled_at >= self._interval:
            self._count(now)

    def _count(self, now: float) -> None:
        self.count += 1
        self._counted_at = self._settled_at = now
