"""Waiting without marching in step: backoff stays within its cap and is never nothing, jitter is never late (DESIGN §7)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_runtime.pacing import MissedBeats, backoff, jittered, not_before


class Fixed(random.Random):
    """A randomness that stands at this share of its range."""

    def __init__(self, share: float) -> None:
        super().__init__(0)
        self.share = share

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.share


class TestBackoff:
    @pytest.mark.parametrize(("attempt", "longest"), [(0, 2), (1, 4), (2, 8), (3, 16), (4, 30), (5, 30), (31, 30), (10**9, 30)])
    def test_doubles_from_its_base_up_to_its_cap(self, attempt: int, longest: float) -> None:
        assert backoff(attempt, 2, 30, Fixed(1)) == longest
        assert backoff(attempt, 2, 30, Fixed(0)) == longest / 2

    @given(attempt=st.integers(0, 10**6), base=st.floats(0.01, 100), cap=st.floats(0.01, 1000), seed=st.integers())
    def test_stays_within_its_cap_and_is_never_nothing(self, attempt: int, base: float, cap: float, seed: int) -> None:
        assert min(base, cap) / 2 <= backoff(attempt, base, cap, random.Random(seed)) <= cap

    def test_spreads_a_fleet(self) -> None:
        waits = [backoff(3, 2, 30, random.Random(seed)) for seed in range(200)]
        assert min(waits) < 9 and max(waits) > 15


class TestNotBefore:
    def test_a_pause_is_its_own_where_the_primary_named_none(self) -> None:
        assert not_before(3.0, None, 15, Fixed(1)) == 3.0

    def test_nobody_comes_back_before_the_named_pause_and_not_all_at_the_same_moment(self) -> None:
        assert not_before(1.0, 8.0, 15, Fixed(0)) == 8.0
        assert not_before(1.0, 8.0, 15, Fixed(1)) == 12.0

    def test_an_own_longer_pause_stays(self) -> None:
        assert not_before(14.0, 2.0, 15, Fixed(1)) == 14.0

    def test_a_number_that_nobody_means_costs_a_gateway_no_lease(self) -> None:
        assert not_before(1.0, 999999.0, 15, Fixed(0)) == 15


class TestJitter:
    @pytest.mark.parametrize(("share", "interval"), [(0, 60), (0.5, 57), (1, 54)])
    def test_shortens_an_interval_by_up_to_its_fraction(self, share: float, interval: float) -> None:
        assert jittered(60, 0.1, Fixed(share)) == pytest.approx(interval)

    @given(interval=st.floats(0.01, 10**5), fraction=st.floats(0, 0.9), seed=st.integers())
    def test_is_never_late_and_never_early_by_more_than_its_fraction(self, interval: float, fraction: float, seed: int) -> None:
        assert interval * (1 - fraction) * (1 - 1e-9) <= jittered(interval, fraction, random.Random(seed)) <= interval

    def test_spreads_a_fleet(self) -> None:
        waits = [jittered(60, 0.1, random.Random(seed)) for seed in range(200)]
        assert min(waits) < 54.5 and max(waits) > 59.5


class TestMissedBeats:
    def test_tries_in_one_interval_are_one_failure(self) -> None:
        beats = MissedBeats(60, 0)
        for now in (1, 2, 4, 8, 16, 60, 60.9):
            beats.failed(now)
        assert beats.count == 1
        beats.failed(61)
        assert beats.count == 2

    def test_the_first_failure_after_a_beat_that_arrived_counts_at_once(self) -> None:
        beats = MissedBeats(60, 0)
        beats.failed(1)
        beats.arrived(2)
        assert beats.count == 0
        beats.failed(59)
        assert beats.count == 1

    def test_a_beat_that_was_not_sent_is_no_failure(self) -> None:
        beats = MissedBeats(60, 0)
        beats.arrived(10)
        for now in range(10, 70):
            beats.held_back(now)
        assert beats.count == 0

    def test_an_interval_without_any_beat_is_one(self) -> None:
        beats = MissedBeats(60, 0)
        beats.failed(1)
        for now in range(1, 245):
            beats.held_back(now)
        assert beats.count == 5, "four minutes after the first failure"

    @given(st.lists(st.tuples(st.floats(0, 30), st.sampled_from(["failed", "held_back"]))))
    def test_no_more_than_one_an_interval_counts(self, tries: list[tuple[float, str]]) -> None:
        beats, now = MissedBeats(60, 0), 0.0
        for pause, what in tries:
            now += pause
            getattr(beats, what)(now)
        assert beats.count <= now // 60 + 1
