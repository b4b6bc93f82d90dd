"""The circuit breaker: several failures in a row pause the calls, one trial at a time decides, any answer closes it (DESIGN §9).

Proven here: each sequence of calls leads to the state in its table, a half-open breaker lets exactly one trial through however
many threads ask, and no history makes a gateway notice its returned Primary later than the longest pause.
"""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_runtime.breaker import FAILURES_TO_OPEN, PAUSE_BASE, PAUSE_CAP, TRIAL_SECONDS, Breaker
from protocol.vocabulary import BreakerState

CLOSED, HALF_OPEN, OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN


class Longest(random.Random):
    """The jitter that gives the longest pause."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Shortest(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return a


def played(breaker: Breaker, *steps: tuple[float, str]) -> list[Any]:
    """What `allows` said, and the state after everything else."""
    seen: list[Any] = []
    for now, step in steps:
        answer = getattr(breaker, step)(now)
        seen.append(answer if step == "allows" else breaker.state)
    return seen


def opened(at: float = 100.0, jitter: random.Random | None = None) -> Breaker:
    breaker = Breaker(jitter or Longest())
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(at)
    return breaker


class TestSequences:
    def test_a_new_breaker_lets_everything_through(self) -> None:
        assert played(Breaker(), *[(0.0, "allows")] * 20) == [True] * 20

    def test_the_fifth_failure_in_a_row_opens_it(self) -> None:
        assert FAILURES_TO_OPEN == 5
        assert played(Breaker(), *[(1.0, "failed")] * 5) == [CLOSED] * 4 + [OPEN]

    def test_one_answer_in_between_begins_the_count_anew(self) -> None:
        steps = [(1.0, "failed")] * 4 + [(1.0, "succeeded")] + [(1.0, "failed")] * 4
        assert played(Breaker(), *steps) == [CLOSED] * 9

    @pytest.mark.parametrize(
        ("jitter", "steps", "seen"),
        [
            (Longest(), [(100.0, "allows"), (101.999, "allows")], [False, False]),
            (Longest(), [(102.0, "allows")], [True]),
            (Shortest(), [(100.999, "allows"), (101.0, "allows")], [False, True]),
            (Longest(), [(102.0, "allows"), (102.0, "allows"), (116.9, "allows")], [True, False, False]),
            (Longest(), [(102.0, "allows"), (117.0, "allows"), (117.0, "allows")], [True, True, False]),
            (Longest(), [(102.0, "allows"), (103.0, "succeeded"), (103.0, "allows"), (103.0, "allows")],
             [True, CLOSED, True, True]),
            (Longest(), [(102.0, "allows"), (103.0, "failed"), (106.9, "allows"), (107.0, "allows")], [True, OPEN, False, True]),
            (Longest(), [(100.5, "succeeded"), (100.5, "allows")], [CLOSED, True]),
            (Longest(), [(100.5, "succeeded"), *[(100.5, "failed")] * 5], [CLOSED] * 5 + [OPEN]),
        ],
        ids=["shut during the pause", "one trial after it", "the pause is jittered down to half", "only one trial",
             "a lost trial makes room for another", "an answered trial closes it", "a failed trial doubles the pause",
             "a late answer closes it too", "after closing it takes five failures again"],
    )  # fmt: skip
    def test_an_open_breaker(self, jitter: random.Random, steps: list[tuple[float, str]], seen: list[Any]) -> None:
        """Opened at second 100."""
        assert played(opened(jitter=jitter), *steps) == seen

    def test_asking_for_a_trial_makes_it_half_open(self) -> None:
        breaker = opened()
        assert (breaker.state, breaker.allows(102.0), breaker.state) == (OPEN, True, HALF_OPEN)

    def test_failed_trials_wait_longer_and_longer_up_to_the_cap(self) -> None:
        breaker, now, pauses = opened(at=0.0), 0.0, []
        for _ in range(12):
            began = now
            while not breaker.allows(now):
                now += 0.25
            pauses.append(now - began)
            breaker.failed(now)
        assert pauses[:5] == [2, 4, 8, 15, 15]
        assert set(pauses[5:]) == {PAUSE_CAP}

    def test_an_answer_forgets_the_long_pauses(self) -> None:
        breaker = opened(at=0.0)
        for now in (2.0, 6.0, 14.0):
            assert breaker.allows(now)
            breaker.failed(now)
        breaker.succeeded(15.0)
        for _ in range(FAILURES_TO_OPEN):
            breaker.failed(20.0)
        assert played(breaker, (21.9, "allows"), (22.0, "allows")) == [False, True]


class TestPause:
    @pytest.mark.parametrize(
        ("now", "pause"), [(100.0, 1.0), (101.0, 1.0), (101.4, 0.6), (101.95, 0.1), (102.0, 0.1), (500.0, 0.1)]
    )
    def test_is_never_longer_than_a_second_and_never_nothing(self, now: float, pause: float) -> None:
        """Loops sleep by it, so a stop is heard and no loop spins."""
        assert opened().pause(now) == pytest.approx(pause)


@given(
    seed=st.integers(),
    steps=st.lists(st.tuples(st.floats(0, 30), st.sampled_from(["allows", "failed", "succeeded"])), max_size=60),
)
def test_after_any_history_a_call_goes_through_within_the_longest_wait(seed: int, steps: list[tuple[float, str]]) -> None:
    breaker, now = Breaker(random.Random(seed)), 1000.0
    for passed, step in steps:
        now += passed
        getattr(breaker, step)(now)
        assert 0.1 <= breaker.pause(now) <= 1.0
    assert breaker.allows(now + max(PAUSE_CAP, TRIAL_SECONDS))


@given(seed=st.integers(), failures=st.integers(FAILURES_TO_OPEN, 40))
def test_an_opening_always_pauses_at_least_half_of_the_first_pause(seed: int, failures: int) -> None:
    breaker = Breaker(random.Random(seed))
    for _ in range(failures):
        breaker.failed(50.0)
    assert not breaker.allows(50.0 + PAUSE_BASE / 2 - 0.001)


def test_of_many_threads_exactly_one_gets_the_trial() -> None:
    breaker, start, granted = opened(), threading.Barrier(16), []

    def ask() -> None:
        start.wait(10)
        granted.append(breaker.allows(102.0))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(granted) == [False] * 15 + [True]


def test_late_failures_of_calls_under_way_do_not_lengthen_the_pause() -> None:
    breaker = Breaker(random.Random(1))
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(0.0)
    for _ in range(20):
        breaker.failed(1.0)
    assert not breaker.allows(0.5)
    assert breaker.allows(PAUSE_BASE + 0.01)


def test_it_knows_since_when_nobody_answers() -> None:
    breaker = Breaker(Longest())
    assert breaker.silence(100.0) is None
    for moment in (100.0, 105.0, 106.0, 107.0, 108.0, 110.0):
        breaker.failed(moment)
    assert breaker.silence(130.0) == 30.0
    breaker.succeeded(131.0)
    assert breaker.silence(132.0) is None
