"""How long to wait: backoff after failures and jitter around intervals. Pure; the randomness is an argument."""

from __future__ import annotations

import random


def backoff(attempt: int, base: float, cap: float, randomness: random.Random) -> float:
    """Seconds before try number `attempt` + 1: doubling from `base` to at most `cap`, spread over its upper half."""
    longest = min(cap, base * 2.0 ** min(attempt, 30))
    return longest * randomness.uniform(0.5, 1.0)


def jittered(interval: float, fraction: float, randomness: random.Random) -> float:
    """An interval in seconds, shortened by up to `fraction`, so that a fleet does not march in step and is never late."""
    return interval * (1.0 - randomness.uniform(0.0, fraction))
