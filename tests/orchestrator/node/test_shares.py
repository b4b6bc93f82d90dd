"""What is bounded in all and by address: who makes room for whom, and that the counts are right whatever happens."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.addresses import site_of
from orchestrator.node.limits import Caps, Holdings
from orchestrator.node.shares import Share


@dataclass(eq=False)
class Held:
    """One that holds, and whether it had to make room."""

    name: str = ""
    ended: bool = False
    sizes: list[int] = field(default_factory=list)

    def make_room(self) -> None:
        self.ended = True


def filled(share: Share, network: str, count: int, size: int = 1) -> list[Held]:
    made = [Held(f"{network}{number}") for number in range(count)]
    assert all(share.take(network, one, size) for one in made)
    return made


def test_a_few_addresses_that_hold_everything_make_room_for_another_one_each_time() -> None:
    share = Share(12, 4)
    greedy = [one for network in "abc" for one in filled(share, network, 4)]
    assert not share.take("a", Held()), "its part is taken"
    newcomers = filled(share, "d", 3)
    assert [one.name for one in greedy if one.ended] == ["a0", "b0", "c0"] and not any(one.ended for one in newcomers)
    assert share.total == 12 and not share.take("d", Held()), "all have the same now"
    assert share.take("e", Held()) and share.total == 12, "but whoever has nothing comes in"


def test_the_one_of_an_address_that_holds_the_most_goes_first() -> None:
    share = Share(100, 60)
    small, large = Held("small"), Held("large")
    assert share.take("a", small, 10) and share.take("a", large, 50) and share.take("b", Held(), 40)
    assert share.take("c", Held(), 30)
    assert large.ended and not small.ended and share.total == 80
    assert not share.take("c", Held(), 101)


def test_what_was_taken_away_is_not_given_back_a_second_time() -> None:
    share = Share(2)
    first, second = filled(share, "a", 2)
    assert share.take("b", Held()) and first.ended
    share.give("a", first)
    share.give("a", second)
    share.give("a", second)
    assert share.total == 1 and dict(share.of_network) == {"b": 1}


def test_an_idle_one_goes_before_one_that_works_and_nobody_ends_those_of_who_has_less() -> None:
    share = Share(9)
    working, idle, also_idle = filled(share, "a", 3)
    only = filled(share, "b", 1)
    share.note_newest("a", idle)
    assert share.end_one_for("b", lambda one: one in (idle, also_idle)) and also_idle.ended and not idle.ended
    assert not share.end_one_for("a", lambda one: False), "its own that work stay"
    assert share.end_one_for("c", lambda one: False) and working.ended and not only[0].ended
    assert not Share(1).end_one_for("a", lambda one: True)


def test_requests_and_certificates_are_counted_by_whom_they_are() -> None:
    held = Holdings(Caps(requests_per_address=1))
    assert held.take_request("a") and not held.take_request("a") and held.take_request("b")
    held.give_request("a")
    assert held.take_request("a")


OFFICE, SITE = "2001:db8:1:1::/64", [f"2001:db8:2:{number:x}::/64" for number in range(40)]
"""An office behind one network, and a site that uses many of its 65,536."""


def test_a_site_that_holds_one_of_each_of_its_networks_pushes_no_office_out() -> None:
    share = Share(20)
    office = filled(share, OFFICE, 8)
    taken = [share.take(network, Held()) for network in SITE]
    assert all(taken), "within its site whoever has nothing yet comes in"
    assert not any(one.ended for one in office) and share.of_site[site_of(OFFICE)] == 8 and share.total == 20
    assert all(share.take(f"10.0.0.{number}", Held()) for number in range(4))
    assert not any(one.ended for one in office), "who comes from elsewhere takes from the site that holds the most"
    assert set(share._networks) == set(share.of_site) and {*share._holders} == {*share.of_network}


def test_newcomers_of_a_site_that_has_much_come_in_whoever_else_has_as_much() -> None:
    share = Share(20, 5)
    for network in ("10.0.0.1", "10.0.0.2", "10.0.0.3", SITE[0]):
        filled(share, network, 5)
    assert all(share.take(network, Held()) for network in SITE[1:6])
    assert share.take("10.0.0.9", Held()) and all(share.take(network, Held()) for network in SITE[6:9])
    assert share.end_one_for(SITE[20], lambda _: True)


def test_one_address_takes_nothing_from_many_that_have_less_than_it() -> None:
    share = Share(30)
    subscribers = [filled(share, network, 1)[0] for network in SITE[:30]]
    taken = [share.take("10.0.0.1", Held()) for _ in range(10)]
    assert taken == [True] + [False] * 9 and sum(one.ended for one in subscribers) == 1


def test_within_a_site_the_network_that_has_more_makes_room() -> None:
    share = Share(6)
    first = filled(share, SITE[0], 5)
    filled(share, SITE[1], 1)
    assert share.take(SITE[1], Held()) and [one.ended for one in first] == [True, False, False, False, False]
    assert share.take(SITE[1], Held()) and not share.take(SITE[1], Held()), "both have three"


NAMES = ("a", "b", "2001:db8:9:1::/64", "2001:db8:9:2::/64", "2001:db8:9:3::/64")


@pytest.mark.parametrize(
    ("network", "site"),
    [(OFFICE, "2001:db8:1::/48"), ("10.0.0.1", "10.0.0.1"), ("unix", "unix"), ("", ""), ("x:y/64", "x:y/64")],
)
def test_a_site_is_what_one_customer_is_given(network: str, site: str) -> None:
    assert site_of(network) == site


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 3), st.integers(1, 5), st.booleans()), max_size=60))
def test_the_counts_are_those_of_who_holds_whatever_happens(steps: list[tuple[str, int, int, bool]]) -> None:
    share = Share(12, 8)
    held = {(network, number): Held(f"{network}{number}") for network in NAMES for number in range(4)}
    for network, number, size, gives in steps:
        one = held[network, number]
        if one.ended:
            one.ended, one.sizes = False, []  # a new one in its place
        if not gives:
            before = share.of_network[network]
            if share.take(network, one, size):
                one.sizes.append(size)
            else:
                assert before, "an address that holds nothing is never refused"
        elif one.sizes:
            share.give(network, one, one.sizes.pop())
        for other in held.values():
            other.sizes = [] if other.ended else other.sizes
        sums = {name: sum(sum(one.sizes) for key, one in held.items() if key[0] == name) for name in NAMES}
        assert {name: share.of_network[name] for name in NAMES} == sums
        assert share.total == sum(sums.values()) <= 12 and max(sums.values()) <= 8
