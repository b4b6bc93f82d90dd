"""When a generation is made, takes over and ends: the decision alone (DESIGN §6)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vault.generations import (
    ANNOUNCEMENT,
    HANDOVER_MARGIN,
    PLATFORM,
    ROOT,
    Change,
    Generation,
    Move,
    Standing,
    is_due,
    next_change,
    revision,
    rules_of,
    warn_below,
)
from vault.profiles import ENVIRONMENT_PROFILES, PLATFORM_PROFILES, PROFILES

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
RULES = rules_of("NPR")
FAR = NOW + RULES.life


def generation(
    number: int, standing: Standing, left: timedelta, announced: timedelta = timedelta(), **more: datetime
) -> Generation:
    return Generation(number, standing, NOW - announced, NOW + left, **more)


def current(left: timedelta, number: int = 1) -> Generation:
    return generation(number, Standing.CURRENT, left, RULES.life - left)


def test_nothing_is_done_while_there_is_time() -> None:
    assert next_change(RULES, [current(RULES.reserve + DAY)], NOW, FAR) is None


def test_the_next_one_is_announced_in_time_and_once() -> None:
    late = current(RULES.reserve)
    assert next_change(RULES, [late], NOW, FAR) == Change(Move.ANNOUNCE, 2)
    assert next_change(RULES, [late, generation(2, Standing.NEXT, RULES.life)], NOW, FAR) is None


@pytest.mark.parametrize(("shown", "takes_over"), [(ANNOUNCEMENT - DAY, False), (ANNOUNCEMENT, True)])
def test_it_takes_over_after_its_announcement(shown: timedelta, takes_over: bool) -> None:
    change = next_change(RULES, [current(RULES.handover), generation(2, Standing.NEXT, RULES.life, shown)], NOW, FAR)
    assert change == (Change(Move.PROMOTE, 2) if takes_over else None)


def test_it_takes_over_at_once_where_the_present_one_would_cut_lives_short() -> None:
    late = [current(RULES.needs - DAY), generation(2, Standing.NEXT, RULES.life)]
    assert next_change(RULES, late, NOW, FAR) == Change(Move.PROMOTE, 2)


def test_a_retired_one_ends_when_nothing_it_signed_can_live() -> None:
    def retired(left: timedelta) -> list[Generation]:
        return [generation(1, Standing.RETIRED, 900 * DAY, trusted_until=NOW + left), current(RULES.life, 2)]

    assert next_change(RULES, retired(DAY), NOW, FAR) is None
    assert next_change(RULES, retired(timedelta()), NOW, FAR) == Change(Move.END, 1)


@pytest.mark.parametrize("left", [RULES.reserve, 100 * DAY, DAY, timedelta()])
def test_near_the_end_of_the_issuer_nothing_is_made_that_ends_with_the_present_one(left: timedelta) -> None:
    assert next_change(RULES, [current(left)], NOW, possible_end=NOW + left) is None


def test_what_has_ended_is_followed_as_long_as_its_issuer_lives_at_all() -> None:
    assert next_change(RULES, [current(-DAY)], NOW, possible_end=NOW + 5 * DAY) == Change(Move.ANNOUNCE, 2)
    assert next_change(RULES, [current(-DAY)], NOW, possible_end=NOW - DAY) is None


def test_which_one_signs_is_no_question_of_ends() -> None:
    same = RULES.life
    found = [generation(2, Standing.NEXT, same), current(same), generation(3, Standing.ENDED, same)]
    assert {next_change(RULES, order, NOW, FAR) for order in (found, found[::-1])} == {None}


@pytest.mark.parametrize("authority", [ROOT, PLATFORM, "NPR", "channel"])
def test_the_rules_leave_room_for_everything(authority: str) -> None:
    rules = rules_of(authority)
    assert rules.needs < rules.handover < rules.reserve < rules.life / 2 + rules.life / 8
    assert rules.handover > warn_below(rules.life), "nobody is warned while all goes by itself"


def test_every_profile_counts_for_the_authority_that_signs_it() -> None:
    assert {one.name for one in PLATFORM_PROFILES + ENVIRONMENT_PROFILES} == set(PROFILES)
    assert rules_of("NPR").needs == max(one.life for one in ENVIRONMENT_PROFILES)
    assert rules_of(PLATFORM).needs == max(one.life for one in PLATFORM_PROFILES)
    assert timedelta(days=28) < HANDOVER_MARGIN


def test_the_revision_grows_with_each_change() -> None:
    life: list[list[tuple[int, Standing]]] = [
        [(1, Standing.CURRENT)],
        [(1, Standing.CURRENT), (2, Standing.NEXT)],
        [(1, Standing.RETIRED), (2, Standing.CURRENT)],
        [(1, Standing.ENDED), (2, Standing.CURRENT)],
        [(1, Standing.ENDED), (2, Standing.CURRENT), (3, Standing.NEXT)],
    ]
    found = [revision(numbers) for numbers in life]
    assert found == sorted(set(found))
    assert revision(life[-1]) == revision(life[-1][1:]), "rows of what ended need not be kept for it"


def test_somebody_is_due_without_a_generation_that_signs() -> None:
    assert is_due(RULES, [], NOW) and next_change(RULES, [], NOW, FAR) == Change(Move.ANNOUNCE, 1)
