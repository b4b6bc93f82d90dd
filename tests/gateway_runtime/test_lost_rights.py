"""A quarantined gateway's copy is narrowed by what it is told, never widened (ADR 3)."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from accounts.access import Grant, Scope
from gateway_runtime.lost_rights import common_part

PARTS = ("", "a", "b")
READ, WRITE = "secrets:read", "secrets:write"
TIMES = tuple(datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3))
PLACES = [Scope(*parts) for parts in itertools.product(("a", "b"), repeat=3)]
"""Places as they are asked for: all that there is of them is named."""

grants = st.builds(
    Grant,
    st.sets(st.sampled_from([READ, WRITE]), min_size=1).map(frozenset),
    st.builds(Scope, *(st.sampled_from(PARTS) for _ in range(3))),
    st.sampled_from([None, *TIMES]),
)


def allowed(held: Any) -> set[tuple[str, Scope, datetime]]:
    return {
        (permission, place, moment)
        for grant in held for permission in grant.permissions for place in PLACES for moment in TIMES
        if grant.covers(place) and grant.lives(moment)
    }  # fmt: skip


@given(st.lists(grants, max_size=4), st.lists(grants, max_size=4))
def test_what_is_left_is_what_both_give_and_hearing_it_again_changes_nothing(held: list[Grant], told: list[Grant]) -> None:
    left = common_part(held, told)
    assert allowed(left) == allowed(held) & allowed(told)
    assert common_part(left, told) == left, "or it would grow with each page"


def test_a_narrower_place_is_left_of_a_wider_one_whichever_side_has_it() -> None:
    wide, narrow = Grant(frozenset({READ, WRITE})), Grant(frozenset({READ}), Scope("a", "b"))
    assert common_part([wide], [narrow]) == common_part([narrow], [wide]) == [narrow]
    assert common_part([narrow], [Grant(frozenset({READ}), Scope("b"))]) == []
