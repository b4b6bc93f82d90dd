"""Which instance counts and what proves two lives, decided from facts alone (DESIGN §6)."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gateways.presence import Instance, Known, Spans, Standing, Way, Word, judge
from protocol.timing import SHORT, STANDARD, TimeProfile

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SPANS = Spans(quiet=timedelta(seconds=25), lease=timedelta(seconds=46), late=timedelta(seconds=10))
A, B = uuid.UUID(int=1), uuid.UUID(int=2)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def instance(which: uuid.UUID = A, *, first: float = 600, heard: float = 1, **more: object) -> Instance:
    return replace(Instance(which, ago(first), ago(heard)), **more)


KNOWN = Known(current=instance(), until=NOW + timedelta(seconds=40), sequence=500, floor=100)


def word(of: uuid.UUID = B, number: int = 1001, **more: object) -> Word:
    return replace(Word(of, number, NOW), **more)


class TestTheShortestWay:
    def test_falls_at_once_and_grows_by_a_share_of_what_a_message_took_longer(self) -> None:
        way = Way(2.0, ago(30))
        assert way.after(1.0, NOW, SPANS) == Way(1.0, ago(30))
        assert way.after(22.0, NOW, SPANS) == Way(3.0, NOW)

    def test_is_reached_by_a_clock_that_was_put_back_within_the_hour(self) -> None:
        way, steps = Way(0.5, ago(3600)), 0
        while steps < 1000 and way.seconds + SPANS.late.total_seconds() < 300.5:
            steps += 1
            way = way.after(300.5, NOW + steps * SPANS.quiet, SPANS)
        assert 20 < steps * SPANS.quiet.total_seconds() / 60 < 60

    def test_is_raised_once_by_messages_that_waited_and_arrive_together(self) -> None:
        way = Way(0.5, ago(3600))
        for number in range(100):
            way = way.after(60.0 - number / 10, NOW + timedelta(milliseconds=number), SPANS)
        assert way.seconds < 4, "another one of them is still late"

    def test_grows_although_a_clock_that_was_put_back_noted_a_later_moment(self) -> None:
        assert Way(0.0, NOW + timedelta(hours=1)).after(20.0, NOW, SPANS) == Way(1.0, NOW)


class TestWhoCounts:
    def test_the_first_one_ever_heard_counts_at_once(self) -> None:
        assert judge(Known(), None, word(number=1), SPANS).standing is Standing.TAKES_OVER

    def test_another_one_waits_while_something_of_the_current_one_may_be_in_use(self) -> None:
        ruling = judge(KNOWN, None, word(), SPANS)
        assert ruling.standing is Standing.WAITS and ruling.speaker.waiting_since == NOW and not ruling.used

    @pytest.mark.parametrize(("over", "standing"), [(0.0, Standing.WAITS), (0.001, Standing.TAKES_OVER)])
    def test_it_takes_over_strictly_after_the_end(self, over: float, standing: Standing) -> None:
        assert judge(replace(KNOWN, until=ago(over)), instance(B), word(), SPANS).standing is standing

    def test_after_a_goodbye_it_takes_over_at_once(self) -> None:
        known = replace(KNOWN, current=instance(ended=True))
        assert judge(known, None, word(), SPANS).standing is Standing.TAKES_OVER

    def test_one_that_said_goodbye_never_counts_again(self) -> None:
        known = replace(KNOWN, current=instance(ended=True), until=ago(100))
        ruling = judge(known, instance(ended=True), word(A), SPANS)
        assert ruling.standing is Standing.WAITS and ruling.two_lives is None

    def test_a_number_that_was_used_takes_nothing_over(self) -> None:
        ruling = judge(replace(KNOWN, current=instance(ended=True)), None, word(number=500), SPANS)
        assert ruling.used and ruling.standing is Standing.WAITS and ruling.speaker.shared

    def test_a_clock_that_was_put_back_makes_nobody_wait_longer_than_a_lease(self) -> None:
        ruling = judge(replace(KNOWN, until=NOW + timedelta(hours=1)), None, word(), SPANS)
        assert ruling.until == NOW + SPANS.longest


class TestNumbers:
    @pytest.mark.parametrize(("number", "used"), [(500, True), (501, False)])
    def test_a_new_instance_begins_beyond_all_numbers_unless_its_database_went_back(self, number: int, used: bool) -> None:
        assert judge(KNOWN, None, word(number=number), SPANS).used is used

    @pytest.mark.parametrize(("number", "used"), [(100, True), (101, False)])
    def test_a_number_below_the_floor_is_used_although_its_receipt_is_gone(self, number: int, used: bool) -> None:
        for speaker in (A, B):
            assert judge(KNOWN, instance(speaker), word(speaker, number), SPANS).used is used

    def test_a_late_message_of_a_known_instance_is_no_sign_of_a_restore(self) -> None:
        ruling = judge(KNOWN, instance(B), word(number=400), SPANS)
        assert not ruling.used and not ruling.speaker.shared


class TestTwoLives:
    def test_a_number_twice_from_one_process_is_proof_at_once(self) -> None:
        ruling = judge(KNOWN, instance(), word(A, fresh=False, owner=instance()), SPANS)
        assert ruling.two_lives == (ruling.speaker, ruling.speaker) and ruling.used

    @pytest.mark.parametrize(("heard", "proven"), [(4.9, True), (5.1, False), (300, False)])
    def test_shared_numbers_are_proof_once_the_other_one_spoke_after_it(self, heard: float, proven: bool) -> None:
        """The copy came 15 s ago; a message that was on its way since before is at most 10 s late."""
        known = replace(KNOWN, current=instance(heard=heard))
        ruling = judge(known, instance(B, first=15, shared=True), word(), SPANS)
        assert (ruling.two_lives is not None) is proven

    def test_a_database_that_was_put_back_is_none(self) -> None:
        """The process that used the numbers has not been heard since the new one began."""
        former = instance(heard=15.5, first=3600)
        for known in (KNOWN, replace(KNOWN, current=former), replace(KNOWN, current=replace(former, ended=True))):
            known = replace(known, current=former)
            ruling = judge(known, instance(B, first=15), word(fresh=False, owner=former), SPANS)
            assert ruling.used and ruling.two_lives is None

    @pytest.mark.parametrize(("heard", "proven"), [(1, True), (700, False)])
    def test_the_current_one_meets_numbers_that_a_living_copy_used(self, heard: float, proven: bool) -> None:
        ruling = judge(KNOWN, instance(A), word(A, fresh=False, owner=instance(B, first=900, heard=heard)), SPANS)
        assert (ruling.two_lives is not None) is proven and ruling.standing is Standing.CURRENT and not ruling.speaker.shared

    @pytest.mark.parametrize(("waiting", "proven"), [(48, True), (46.5, False)])
    def test_two_that_both_go_on_speaking_are_proof_without_a_shared_number(self, waiting: float, proven: bool) -> None:
        ruling = judge(KNOWN, instance(B, first=waiting, waiting_since=ago(waiting)), word(), SPANS)
        assert (ruling.two_lives is not None) is proven

    def test_a_restart_after_a_crash_is_none(self) -> None:
        known = replace(KNOWN, current=instance(heard=50), until=NOW)
        assert judge(known, instance(B, first=45, waiting_since=ago(45)), word(), SPANS).two_lives is None

    def test_who_was_silent_for_long_begins_to_wait_anew(self) -> None:
        speaker = instance(B, first=900, heard=60, waiting_since=ago(600))
        assert judge(KNOWN, speaker, word(), SPANS).two_lives is None

    def test_what_was_heard_before_an_administrator_looked_proves_nothing(self) -> None:
        for looked, proven in ((60, True), (5, False)):
            known = replace(KNOWN, evidence_from=ago(looked))
            ruling = judge(known, instance(B, first=100, shared=True), word(), SPANS)
            assert (ruling.two_lives is not None) is proven

    def test_a_message_that_was_withheld_is_no_sign_of_life(self) -> None:
        speaker = instance(B, first=100, heard=90)
        assert judge(KNOWN, speaker, word(punctual=False), SPANS).speaker.heard_at == speaker.heard_at
        assert judge(KNOWN, speaker, word(), SPANS).speaker.heard_at == NOW


@pytest.mark.parametrize("timing", [STANDARD, SHORT], ids=lambda timing: timing.name)
def test_a_crash_costs_at_most_a_lease_and_the_drift(timing: TimeProfile) -> None:
    assert Spans.of(timing).longest == timedelta(seconds=timing.lease_ttl + timing.drift)
