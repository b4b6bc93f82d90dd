"""The lease as the gateway counts it, at the instants that matter (I2, DESIGN §7, reliability §4.3).

Proven here: a lease counts from the send time, an effect starts only while the whole of its deadline fits, suspend and a leaping
wall clock end it, and grants of outdated or fenced epochs are worth nothing (I4). That the Primary waits strictly longer than
the gateway may act is proven across both sides in `tests/failover/test_machine.py`.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_runtime.lease import LARGEST_LEAP, Fenced, GrantRefusal, Lease, grant, may_start_effect, seconds_left
from protocol.timing import STANDARD

BOOT, WALL, TTL, DEADLINE = 1000.0, 1_795_600_000.0, STANDARD.lease_ttl, STANDARD.effect_deadline
SECONDS = st.integers(0, 2**30).map(lambda ticks: ticks / 1024)
"""Times on a grid that floating point holds exactly, so that boundaries are boundaries."""


def granted(**other: Any) -> Lease | GrantRefusal:
    facts: dict[str, Any] = {
        "sent_boot": BOOT,
        "sent_wall": WALL,
        "ttl": TTL,
        "epoch": 7,
        "highest_epoch_seen": 7,
        "fenced": None,
    }
    return grant(**{**facts, **other})


LEASE = granted()
assert isinstance(LEASE, Lease)


def left(boot: float, wall: float | None = None) -> float:
    """Seconds left after `boot` seconds, the wall clock having gone along or as told."""
    return seconds_left(LEASE, BOOT + boot, WALL + (boot if wall is None else wall))


def allowed(boot: float, deadline: float = DEADLINE, fenced: Fenced | None = None, wall: float | None = None) -> bool:
    return may_start_effect(LEASE, BOOT + boot, WALL + (boot if wall is None else wall), deadline, fenced).allowed


class TestGrants:
    def test_a_lease_counts_from_the_moment_of_sending(self) -> None:
        assert granted() == Lease(epoch=7, sent_boot=BOOT, sent_wall=WALL, until_boot=BOOT + 45)

    @pytest.mark.parametrize(
        ("epoch", "seen", "fenced", "outcome"),
        [
            (7, 7, None, Lease),
            (8, 7, None, Lease),
            (6, 7, None, GrantRefusal.OLDER_EPOCH),
            (7, 7, 7, GrantRefusal.FENCED),
            (7, 7, 8, GrantRefusal.FENCED),
            (7, 7, 6, Lease),
            (8, 7, 7, Lease),
            (6, 7, 6, GrantRefusal.OLDER_EPOCH),
        ],
        ids=["the known epoch", "a new epoch", "an older epoch", "the fenced epoch", "below the fenced epoch",
             "above the fenced epoch", "a new epoch above the fence", "older and fenced"],
    )  # fmt: skip
    def test_only_an_epoch_that_is_neither_outdated_nor_fenced_gives_a_lease(
        self, epoch: int, seen: int, fenced: int | None, outcome: Any
    ) -> None:
        """I4 and the promise behind a fence acknowledgement (DESIGN §8)."""
        answer = granted(epoch=epoch, highest_epoch_seen=seen, fenced=None if fenced is None else Fenced("op", fenced, 1))
        assert isinstance(answer, Lease) if outcome is Lease else answer is outcome

    @given(epoch=st.integers(0, 20), seen=st.integers(0, 20), fenced=st.none() | st.integers(0, 20))
    def test_no_grant_below_anything_seen_or_fenced_is_ever_a_lease(self, epoch: int, seen: int, fenced: int | None) -> None:
        answer = granted(epoch=epoch, highest_epoch_seen=seen, fenced=None if fenced is None else Fenced("op", fenced, 1))
        assert isinstance(answer, Lease) == (epoch >= seen and (fenced is None or epoch > fenced))


class TestTime:
    @pytest.mark.parametrize(("passed", "seconds"), [(0, 45), (0.5, 44.5), (44, 1), (45, 0), (45.001, 0), (10_000, 0)])
    def test_runs_down_to_nothing_and_never_below(self, passed: float, seconds: float) -> None:
        assert left(passed) == seconds

    @pytest.mark.parametrize("wall", [1.0, 1.0 + LARGEST_LEAP, -100.0, 0.0])
    def test_a_wall_clock_that_is_slow_or_a_second_ahead_does_not_matter(self, wall: float) -> None:
        assert left(1.0, wall) == 44.0

    @pytest.mark.parametrize("ahead", [1.001, 2, 3600])
    def test_a_wall_clock_that_ran_ahead_more_than_a_second_ends_the_lease(self, ahead: float) -> None:
        """A virtual machine that was paused sees it on the wall clock only."""
        assert LARGEST_LEAP == 1.0
        assert left(1.0, 1.0 + ahead) == 0.0

    @pytest.mark.parametrize("asleep", [45, 60, 3600])
    def test_suspend_counts_as_time(self, asleep: float) -> None:
        """CLOCK_BOOTTIME goes on during suspend, and the wall clock with it."""
        assert left(1.0 + asleep) == 0.0

    def test_a_process_that_was_frozen_while_both_clocks_went_on_has_no_lease(self) -> None:
        assert allowed(boot=1.0)
        assert not allowed(boot=1.0 + 46.0)

    @given(one=SECONDS, more=SECONDS)
    def test_never_grows(self, one: float, more: float) -> None:
        assert left(one + more) <= left(one) <= TTL

    @given(boot=SECONDS, ahead=st.integers(-(2**30), 2**30).map(lambda ticks: ticks / 1024))
    def test_no_clock_ever_makes_it_longer_than_what_is_left_on_the_boot_clock(self, boot: float, ahead: float) -> None:
        assert 0.0 <= left(boot, boot + ahead) <= max(0.0, TTL - boot)


class TestEffects:
    @pytest.mark.parametrize(
        ("passed", "may"),
        [(0, True), (34.999, True), (35, True), (35.001, False), (44.9, False), (45, False), (46, False)],
    )
    def test_start_only_while_the_lease_outlives_their_hard_deadline(self, passed: float, may: bool) -> None:
        """45 s of lease, 10 s of deadline: at the very latest they end together."""
        assert allowed(passed) is may

    @given(passed=SECONDS, deadline=st.integers(1, 60 * 1024).map(lambda ticks: ticks / 1024))
    def test_are_allowed_exactly_when_they_end_inside_of_the_lease(self, passed: float, deadline: float) -> None:
        assert allowed(passed, deadline) is (passed + deadline <= TTL)

    @pytest.mark.parametrize(("fenced", "may"), [(None, True), (6, True), (7, False), (8, False)])
    def test_do_not_start_in_a_fenced_epoch_whatever_the_lease_says(self, fenced: int | None, may: bool) -> None:
        assert allowed(0, fenced=None if fenced is None else Fenced("op", fenced, 1)) is may

    def test_do_not_start_after_the_wall_clock_leapt(self) -> None:
        assert not allowed(1.0, wall=2.5)

    @pytest.mark.parametrize(
        ("passed", "fenced", "reason"),
        [(40, None, "the lease lives 5.0 s more, but the effect may take 10 s"), (0, Fenced("op", 9, 1), "fenced for epoch 9")],
    )
    def test_that_may_not_start_are_told_why(self, passed: float, fenced: Fenced | None, reason: str) -> None:
        assert reason in may_start_effect(LEASE, BOOT + passed, WALL + passed, DEADLINE, fenced).reason
