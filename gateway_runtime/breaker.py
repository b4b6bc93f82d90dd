"""Circuit breaker to the Primary: after several failures in a row calls pause, then one trial at a time decides (DESIGN §9).

Pure of I/O and clocks: `now` is a monotonic time in seconds and always an argument.
"""

from __future__ import annotations

import random

from common.process_locks import ProcessLock
from protocol.vocabulary import BreakerState

FAILURES_TO_OPEN = 5
"""Failures in a row after which calls pause. Loops retry with backoff, so this is a few seconds of trouble."""
PAUSE_BASE, PAUSE_CAP = 2.0, 15.0
"""First and longest pause in seconds. The cap bounds how late a gateway notices that the Primary is back; a node whose lease is
renewed more often than that waits no longer than one renewal."""
TRIAL_SECONDS = 15.0
"""A trial that gave no answer by then counts as lost, and another one may start."""


class Breaker:
    """Closed lets everything through, open nothing, half-open one trial. Safe to share between threads."""

    def __init__(self, randomness: random.Random | None = None, *, longest_pause: float = PAUSE_CAP) -> None:
        self._longest_pause = longest_pause
        self._lock = ProcessLock("circuit breaker")
        self._random = randomness or random.Random()  # noqa: S311  jitter, not a secret
        self._state = BreakerState.CLOSED
        self._failures = 0
        self._openings = 0
        self._wait_until = 0.0
        self._failing_from: float | None = None

    @property
    def state(self) -> BreakerState:
        return self._state

    def allows(self, now: float) -> bool:
        """Whether a call may be made. A half-open breaker grants one trial to the first who asks."""
        if self._state is BreakerState.CLOSED:
            return True  # as mostly; nothing is changed, so nobody waits for the lock
        with self._lock:
            if self._state is BreakerState.CLOSED:
                return True
            if now < self._wait_until:
                return False
            self._state = BreakerState.HALF_OPEN
            self._wait_until = now + TRIAL_SECONDS
            return True

    def silence(self, now: float) -> float | None:
        """Seconds since the first of the calls in a row that got no answer; None when the last one got one."""
        began = self._failing_from
        return max(0.0, now - began) if began is not None else None

    def pause(self, now: float, *, at_most: float = 1.0) -> float:
        """Seconds until it is worth asking again, from a tenth to `at_most`: another call may end the pause earlier."""
        with self._lock:
            return max(0.1, min(self._wait_until - now, at_most))

    def succeeded(self, now: float) -> None:
        """An answer came, whatever it said: the Primary is there."""
        if self._state is BreakerState.CLOSED and not self._failures:
            return
        with self._lock:
            self._state = BreakerState.CLOSED
            self._failures = self._openings = 0
            self._failing_from = None

    def failed(self, now: float) -> None:
        """No answer came. Calls that were under way when the breaker opened say nothing new."""
        with self._lock:
            if self._failing_from is None:
                self._failing_from = now
            if self._state is BreakerState.OPEN:
                return
            self._failures += 1
            if self._state is BreakerState.HALF_OPEN or self._failures >= FAILURES_TO_OPEN:
                self._open(now)

    def _open(self, now: float) -> None:
        self._state = BreakerState.OPEN
        longest = min(self._longest_pause, PAUSE_BASE * 2 ** min(self._openings, 10))
        self._openings += 1
        self._wait_until = now + longest * self._random.uniform(0.5, 1.0)
