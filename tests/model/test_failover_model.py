"""The failover design explored completely within small bounds: it holds, it can move, and each broken rule is noticed (T03)."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from failover import machine
from tests.model.failover_model import (
    ACTIVE,
    MOVES,
    OUTSIDE,
    PROMOTION,
    Bounds,
    Goal,
    Model,
    Outcome,
    Rules,
    World,
    explore,
    without,
)

FENCING = Bounds(crashes=1)
CANCELLING = Bounds(operations=2, crashes=1)
STALE_ORDERS = Bounds(operations=2, directives=2, calls=False)
GIVING_BACK = Bounds(lease=3, call=1, stops=1, requests=2, calls=False)
FORCING = Bounds(force=True)
THERE_AND_BACK = Bounds(epochs=3, operations=2)
HOLDING = Bounds(epochs=3, mishaps=1, calls=False)
SLEEPING = Bounds(naps=1, operations=2, calls=False)
COPYING = Bounds(lease=1, call=1, clones=1, calls=False)
SMALL: Mapping[str, Bounds] = {
    "sleeping": SLEEPING,
    "fencing": FENCING,
    "cancelling": CANCELLING,
    "stale orders": STALE_ORDERS,
    "giving back": GIVING_BACK,
    "forcing": FORCING,
    "there and back": THERE_AND_BACK,
    "holding": HOLDING,
    "copying": COPYING,
}
"""Each looks at one side of the design and leaves the others out, so that all of it is explored in seconds."""
LARGE: Mapping[str, Bounds] = {
    "sleeping": Bounds(naps=2, operations=2, epochs=3, calls=False),
    "fencing": Bounds(lease=3, crashes=2, requests=2),
    "cancelling": Bounds(operations=2, crashes=1, directives=1),
    "stale orders": Bounds(operations=3, directives=2, calls=False),
    "giving back": Bounds(stops=1, crashes=1, requests=2),
    "forcing": Bounds(lease=3, epochs=3, operations=2, force=True),
    "there and back": Bounds(lease=3, drift=2, epochs=3, operations=2),
    "holding": Bounds(epochs=4, operations=2, mishaps=1),
    "copying": Bounds(call=1, clones=1, stops=1),
}

MUTANTS: Mapping[str, tuple[Rules, Bounds]] = {
    "ack_before_effects_end": (without("ack_waits_for_effects"), Bounds()),
    "ack_forgets_calls_of_the_former_process": (without("ack_waits_for_unseen_ends"), FENCING),
    "release_forgets_calls_of_the_former_process": (
        without("release_waits_for_unseen_ends"), Bounds(lease=3, call=3, crashes=1, stops=1),
    ),
    "fence_not_durable": (without("fence_is_durable"), FENCING),
    "grants_after_fence_accepted": (without("fenced_discards_grants"), Bounds()),
    "cancel_after_ack_allowed": (without("ack_is_final"), Bounds()),
    "late_cancel_lifts_newer_fence": (without("cancel_names_operation"), STALE_ORDERS),
    "cancel_leaves_older_order": (without("cancel_covers_older_orders"), CANCELLING),
    "lease_counted_from_receipt": (without("lease_counts_from_send"), Bounds()),
    "restart_keeps_lease": (without("restart_drops_lease"), GIVING_BACK),
    "effect_without_deadline_room": (without("effect_needs_room"), Bounds()),
    "renew_while_fencing": (without("fencing_stops_renewal"), Bounds()),
    "wait_exactly_lease": (without("wait_covers_drift"), Bounds(drift=2)),
    "wait_not_strict": (without("wait_is_strict"), Bounds()),
    "late_release_ends_new_lease": (without("release_checks_sequence"), GIVING_BACK),
    "late_renewal_lowers_sequence": (without("renewal_keeps_highest_sequence"), GIVING_BACK),
    "promotion_ends_lease_block": (without("wait_covers_block"), HOLDING),
    "epoch_not_raised": (without("promotion_raises_epoch"), Bounds()),
    "ack_of_older_operation_accepted": (without("ack_names_operation"), CANCELLING),
    "renew_without_looking_at_the_instance": (without("renewal_names_instance"), COPYING),
    "fence_confirmed_by_a_copy": (without("ack_names_instance"), Bounds(call=1, clones=1)),
    "copy_gives_back_a_lease_that_is_not_its_own": (
        without("release_names_instance"), Bounds(drift=0, call=1, clones=1, copied_early=True, stops=1, calls=False),
    ),
    "copy_takes_over_at_once": (without("takeover_waits"), COPYING),
    "copy_takes_over_when_the_lease_ends_by_our_clock": (
        without("takeover_covers_drift"), Bounds(drift=2, call=1, clones=1, calls=False),
    ),
    "force_without_risk": (without("force_records_risk"), FORCING),
    "fenced_for_a_sleeping_target": (without("fence_needs_sign"), SLEEPING),
    "promoted_without_a_sign_of_life": (without("promotion_needs_sign"), SLEEPING),
}  # fmt: skip


SLOW = {
    "copy_gives_back_a_lease_that_is_not_its_own",
    "release_forgets_calls_of_the_former_process",
    "cancelling",
    "stale orders",
}
"""What takes more than ten seconds of work."""


def promoted_by_acknowledgement_long_before_the_lease_ends(before: World, after: World) -> bool:
    moved = before.control.stage in PROMOTION and after.control.stage in ACTIVE
    return moved and before.control.acknowledged and before.control.lease_left > 1


def promoted_by_time(before: World, after: World) -> bool:
    control = before.control
    moved = control.stage in PROMOTION and after.control.stage in ACTIVE
    return moved and not control.acknowledged and after.control.risk_left < 0 and before.operations > 0


def cancel_lifts_the_fence(before: World, after: World) -> bool:
    return before.sides[0].fence is not None and after.sides[0].fence is None and after.control.stage == "PRIMARY_ACTIVE"


def the_first_gateway_begins_a_call(before: World, after: World) -> bool:
    return before.sides[0].call is None and after.sides[0].call is not None


def the_second_gateway_begins_a_call(before: World, after: World) -> bool:
    return before.sides[1].call is None and after.sides[1].call is not None


def both_act_while_the_risk_is_recorded(before: World, after: World) -> bool:
    return after.control.risk_left >= 0 and all(side.call for side in after.sides)


def a_sleeping_target_ends_the_move(before: World, after: World) -> bool:
    asleep = before.sides[1].asleep
    return bool(asleep) and before.control.stage == "FENCING" and after.control.stage == "PRIMARY_ACTIVE"


def the_source_acts_again_after_its_target_slept(before: World, after: World) -> bool:
    return after.naps == 1 and after.operations == 1 and after.control.cancelled and after.sides[0].lease is not None


def a_target_that_woke_up_is_promoted_by_time(before: World, after: World) -> bool:
    return after.naps == 1 and after.sides[1].asleep == 0 and promoted_by_time(before, after)


def the_first_gateway_is_back(before: World, after: World) -> bool:
    lease = after.sides[0].lease
    return lease is not None and lease.epoch == 3


def the_copy_counts_after_a_wait_and_gets_a_lease(before: World, after: World) -> bool:
    had = len(before.sides) > 2 and before.sides[2].lease is not None
    return not had and len(after.sides) > 2 and after.sides[2].lease is not None


def the_first_gateway_keeps_its_lease_beside_a_running_copy(before: World, after: World) -> bool:
    return len(after.sides) > 2 and after.sides[2].up and after.sides[0].lease is not None


GOALS: Mapping[str, tuple[Goal, ...]] = {
    "fencing": (
        promoted_by_acknowledgement_long_before_the_lease_ends, promoted_by_time, the_second_gateway_begins_a_call,
    ),
    "cancelling": (cancel_lifts_the_fence, promoted_by_time),
    "sleeping": (
        a_sleeping_target_ends_the_move, the_source_acts_again_after_its_target_slept, a_target_that_woke_up_is_promoted_by_time,
    ),
    "forcing": (both_act_while_the_risk_is_recorded,),
    "there and back": (the_first_gateway_is_back,),
    "holding": (the_first_gateway_is_back,),
    "copying": (
        the_copy_counts_after_a_wait_and_gets_a_lease, the_first_gateway_keeps_its_lease_beside_a_running_copy, promoted_by_time,
    ),
}  # fmt: skip
"""What must be possible, lest a design that forbids everything passes."""


def assert_holds(outcome: Outcome) -> None:
    print(f"{outcome.states} states in {outcome.seconds:.1f} s")
    assert not outcome.violation, outcome.story()
    assert outcome.complete


@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.long) if one in SLOW else one for one in SMALL])
def test_the_design_holds_and_can_move(name: str) -> None:
    goals = {goal.__name__: goal for goal in GOALS.get(name, ())}
    outcome = explore(Model(Rules(), SMALL[name]), goals=goals)
    assert_holds(outcome)
    assert set(outcome.reached or ()) == set(goals)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", LARGE)
def test_the_design_holds_in_larger_bounds(name: str) -> None:
    assert_holds(explore(Model(Rules(), LARGE[name])))


@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.long) if one in SLOW else one for one in MUTANTS])
def test_a_broken_rule_is_noticed(name: str) -> None:
    rules, bounds = MUTANTS[name]
    outcome = explore(Model(rules, bounds))
    print(f"{name}, {outcome.seconds:.1f} s, {len(outcome.trace)} steps, {outcome.story()}")
    assert outcome.violation, f"{name} was not noticed in {outcome.states} states"


def test_every_rule_has_a_mutant() -> None:
    broken = {rule for rules, _ in MUTANTS.values() for rule, kept in vars(rules).items() if not kept}
    assert broken == set(vars(Rules()))


def test_after_a_cancel_the_gateway_goes_on_acting_in_the_same_epoch() -> None:
    model = Model(Rules(), Bounds())
    lifted = explore(model, goals={"lifted": cancel_lifts_the_fence}, until_reached=True)
    assert lifted.reached, "no cancel lifts a fence"
    begins = {"begins": the_first_gateway_begins_a_call}
    acting = explore(model, start=lifted.reached["lifted"], goals=begins, until_reached=True)
    assert acting.reached, "nobody acts after a cancel"
    assert acting.reached["begins"].control.epoch == 1


def test_the_moves_of_the_model_are_rows_of_the_table() -> None:
    rows = {
        (move.state.value, move.event.value): (move.to.value, tuple(action.value for action in move.actions))
        for move in machine.TABLE
    }
    assert {row: rows.get(row) for row in MOVES} == MOVES
    assert set(rows) - set(MOVES) == set(OUTSIDE), "a new row: teach it to the model, or say why it is left out"


def test_every_move_of_the_model_is_taken() -> None:
    quick = {"lease": 1, "drift": 0, "call": 1, "calls": False}
    moving = Model(Rules(), Bounds(epochs=4, operations=2, mishaps=1, force=True, **quick))
    sleeping = Model(Rules(), Bounds(epochs=4, operations=2, naps=1, sign=0, **quick))
    for model in (moving, sleeping):
        assert_holds(explore(model))
    assert moving.taken | sleeping.taken == set(MOVES)
