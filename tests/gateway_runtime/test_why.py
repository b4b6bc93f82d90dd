"""Why a write waits and why a gateway may not act are told in a sentence with a moment, and the names mean what they say."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from gateway_runtime.why import Rights, Waiting, answers_reads, may_act_not, of_write, takes_changes
from protocol.vocabulary import Assignment, WriteOutcome

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
AWAY = NOW - timedelta(minutes=3)
QUEUED = Waiting(WriteOutcome.QUEUED, NOW)
WELL = Rights(holds_lease=True, assigned=Assignment.ACTIVE, stopping=False, usable=True, has_room=True, away_seconds=None)


def test_a_write_that_waits_says_why_and_since_when() -> None:
    assert of_write(QUEUED).because == "it is on its way to the Primary"
    behind = uuid.uuid4()
    assert str(behind) in str(of_write(replace(QUEUED, behind=behind)).because)
    away = of_write(replace(QUEUED, behind=behind, away_since=AWAY))
    assert (away.since, "does not answer" in str(away.because)) == (AWAY, True)
    assert "has not come to it" in str(of_write(replace(QUEUED, outcome=WriteOutcome.RECEIVED, away_since=AWAY)).because)


@pytest.mark.parametrize("outcome", [one for one in WriteOutcome if one is not WriteOutcome.APPLIED])
def test_every_end_but_the_wished_one_has_a_reason(outcome: WriteOutcome) -> None:
    for detail in ("", "the secret was deleted"):
        told = of_write(Waiting(outcome, NOW, NOW if outcome.terminal else None, detail))
        assert told.because and told.since
        assert not detail or not outcome.terminal or told.because == detail
    assert of_write(Waiting(WriteOutcome.APPLIED, NOW)).because is None


@pytest.mark.parametrize(
    ("lease", "assigned", "stopping", "usable", "room", "away"),
    list(product((True, False), Assignment, (True, False), (True, False, None), (True, False), (None, 90.0))),
)
def test_a_gateway_that_may_not_act_has_a_reason_and_one_that_may_has_none(
    lease: bool, assigned: Assignment, stopping: bool, usable: bool | None, room: bool, away: float | None
) -> None:
    facts = Rights(lease, assigned, stopping, usable, room, away)
    assert bool(may_act_not(facts)) is not lease
    assert not takes_changes(facts) or answers_reads(facts)
    assert not takes_changes(facts) or (assigned is Assignment.ACTIVE and room and not stopping)


def test_a_gateway_that_is_cut_off_may_not_act_and_takes_changes() -> None:
    cut_off = replace(WELL, holds_lease=False, away_seconds=90.0)
    assert "the Primary does not answer, for 90 s now" in may_act_not(cut_off)
    assert answers_reads(cut_off) and takes_changes(cut_off)
