"""The failover machine is one table: what is in it can happen, what is not in it cannot (DESIGN §8, reliability §4.2, T02).

Proven here: every pair of state and event that has no row is refused; `next_step` asks only for rows that exist; no way leads to
a promotion but through a fence (I1, I2); an operation is open exactly where it should be (I6); and, over both sides' arithmetic,
that the Primary's wait is strictly longer than anything a gateway may still do under the old lease (I2).
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from failover.kinds import KINDS
from failover.machine import (
    DRAINING,
    FENCING,
    PREFLIGHT,
    PROMOTION,
    RESTFUL,
    TABLE,
    Action,
    Event,
    Move,
    NotAllowed,
    Sign,
    State,
    StepFacts,
    fence_ends_at,
    move_for,
    next_step,
    require_move,
)
from gateway_runtime.lease import Lease, grant, may_start_effect, seconds_left
from protocol.timing import PROFILES, STANDARD, TimeProfile

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
WAIT = timedelta(seconds=STANDARD.fence_wait)
TICK = timedelta(microseconds=1)
ROWS = {(move.state, move.event) for move in TABLE}
CLOSING = {Action.CLOSE_COMPLETED, Action.CLOSE_CANCELLED, Action.CLOSE_ABORTED}
WISHES = {Event.ACTIVATE_DR, Event.FAILBACK, Event.FORCE, Event.CANCEL, Event.RESUME_ON_PRIMARY, Event.RESUME_ON_DR}
EVERY_ROW = pytest.mark.parametrize("move", TABLE, ids=lambda move: f"{move.state.value}-{move.event.value}")
NEVER_DANGER = [move for move in TABLE if move.event is not Event.DANGER]


def facts(state: State, **other: Any) -> StepFacts:
    return StepFacts(**{"state": state, "now": NOW, "fence_wait": WAIT, **other})


def moments() -> st.SearchStrategy[datetime | None]:
    return st.none() | st.integers(-(10**9), 10**9).map(lambda micro: NOW + timedelta(microseconds=micro))


ANY_FACTS = st.builds(
    StepFacts, state=st.sampled_from(State), now=st.just(NOW), fence_wait=st.just(WAIT), danger=st.booleans(),
    primary_ready=st.booleans(), checks_passed=st.booleans(), lease_until=moments(), lease_blocked_until=moments(),
    fence_acknowledged=st.booleans(), drained=st.booleans(), drain_deadline=moments(), drain_waived=st.booleans(),
    held_to_plan=st.booleans(), source_silent=st.booleans(), target_sign=st.sampled_from(Sign), forced=st.booleans(),
)  # fmt: skip


class TestTable:
    @pytest.mark.parametrize(
        ("state", "event"), [pair for pair in product(State, Event) if pair not in ROWS], ids=lambda value: value.value
    )
    def test_an_event_without_a_row_is_refused_in_words(self, state: State, event: Event) -> None:
        assert move_for(state, event) is None
        with pytest.raises(NotAllowed, match=f"{event.value} is not possible in the state {state.value}") as caught:
            require_move(state, event)
        assert (caught.value.state, caught.value.event) == (state, event)

    @EVERY_ROW
    def test_an_event_with_a_row_is_that_row(self, move: Move) -> None:
        assert require_move(move.state, move.event) is move

    def test_no_pair_has_two_rows(self) -> None:
        assert [pair for pair, rows in Counter((move.state, move.event) for move in TABLE).items() if rows > 1] == []

    def test_no_state_event_or_action_is_dead(self) -> None:
        assert {move.state for move in TABLE} == set(State)
        assert {move.to for move in TABLE} == set(State) - {State.UNASSIGNED}
        assert {move.event for move in TABLE} == set(Event)
        assert {action for move in TABLE for action in move.actions} == set(Action)

    @EVERY_ROW
    def test_every_row_tells_the_operator_what_happened(self, move: Move) -> None:
        assert len(move.sentence.split()) >= 5
        assert not move.sentence.endswith(".")

    def test_the_way_there_and_back_is_the_one_of_the_design(self) -> None:
        path = [
            (Event.PRIMARY_READY, State.PRIMARY_ACTIVE), (Event.ACTIVATE_DR, State.FO_PREFLIGHT),
            (Event.CHECKS_PASSED, State.FO_DRAINING), (Event.DRAINED, State.FENCING),
            (Event.FENCE_ACKNOWLEDGED, State.PROMOTING), (Event.PROMOTED, State.DR_ACTIVE),
            (Event.FAILBACK, State.FB_PREFLIGHT), (Event.CHECKS_PASSED, State.DRAINING), (Event.DRAINED, State.FENCING_DR),
            (Event.LEASE_RAN_OUT, State.PROMOTING_PRIMARY), (Event.PROMOTED, State.PRIMARY_ACTIVE),
        ]  # fmt: skip
        state = State.UNASSIGNED
        for event, expected in path:
            state = require_move(state, event).to
            assert state is expected

    @pytest.mark.parametrize("state", [state for state in State if state is not State.HOLD])
    def test_danger_holds_the_environment_from_anywhere(self, state: State) -> None:
        move = require_move(state, Event.DANGER)
        assert (move.to, move.actions) == (State.HOLD, (Action.CLOSE_ABORTED,))

    def test_only_a_person_leaves_hold(self) -> None:
        assert {move.event for move in TABLE if move.state is State.HOLD} == {Event.RESUME_ON_PRIMARY, Event.RESUME_ON_DR}


class TestSafetyOfTheTable:
    @EVERY_ROW
    def test_an_operation_is_closed_exactly_when_its_last_state_is_left(self, move: Move) -> None:
        """I6: it is open in the states that are not restful, and nowhere else."""
        closes = len(CLOSING & set(move.actions))
        if move.event is Event.DANGER:
            assert closes == 1
        else:
            assert closes == int(move.state not in RESTFUL and move.to in RESTFUL)

    def test_a_promotion_comes_from_a_fence_only(self) -> None:
        """I1, I2."""
        ways = {(move.state, move.event) for move in TABLE if move.to in PROMOTION}
        proofs = (Event.FENCE_ACKNOWLEDGED, Event.LEASE_RAN_OUT, Event.FORCE)
        assert ways == set(product(FENCING, proofs))

    def test_the_lease_is_stopped_on_every_way_into_a_fence_and_nowhere_else(self) -> None:
        assert {move for move in TABLE if Action.STOP_LEASE in move.actions} == {move for move in TABLE if move.to in FENCING}

    def test_the_lease_is_allowed_again_on_every_way_back_from_a_fence(self) -> None:
        back = {move for move in NEVER_DANGER if move.state in FENCING and move.to not in PROMOTION}
        assert {move.event for move in back} == {Event.CANCEL, Event.TARGET_SILENT}
        assert {move for move in TABLE if Action.ALLOW_LEASE in move.actions} == back

    def test_a_drain_is_undone_on_every_way_back_from_it(self) -> None:
        back = {move for move in NEVER_DANGER if move.state in DRAINING | FENCING and move.to in RESTFUL}
        assert len(back) == 10
        assert {move for move in TABLE if Action.UNDO_DRAIN in move.actions} == back

    def test_every_force_records_its_risk_and_nothing_else_does(self) -> None:
        """I2: the only overlap allowed is the recorded one."""
        forced = {move for move in TABLE if move.event is Event.FORCE}
        assert forced and {move for move in TABLE if Action.RECORD_RISK in move.actions} == forced

    @EVERY_ROW
    def test_a_gateway_is_promoted_exactly_on_the_way_into_its_active_state(self, move: Move) -> None:
        to_primary = move.to is State.PRIMARY_ACTIVE and move.event in {
            Event.PROMOTED,
            Event.PRIMARY_READY,
            Event.RESUME_ON_PRIMARY,
        }
        to_dr = move.to is State.DR_ACTIVE and move.event in {Event.PROMOTED, Event.RESUME_ON_DR}
        assert (Action.PROMOTE_PRIMARY in move.actions) == to_primary
        assert (Action.PROMOTE_DR in move.actions) == to_dr

    @pytest.mark.parametrize("state", sorted(PROMOTION))
    def test_past_the_fence_nobody_cancels(self, state: State) -> None:
        assert {move.event for move in TABLE if move.state is state} == {Event.PROMOTED, Event.DANGER}

    @pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
    def test_a_move_can_be_asked_for_from_the_other_active_state_only(self, kind: Any) -> None:
        starts = [move for move in TABLE if move.event is kind.event]
        assert [move.state for move in starts] == [
            {State.DR_ACTIVE: State.PRIMARY_ACTIVE, State.PRIMARY_ACTIVE: State.DR_ACTIVE}[kind.goal]
        ]
        assert starts[0].to in PREFLIGHT

    @pytest.mark.parametrize("state", [state for state in State if state not in RESTFUL])
    def test_every_open_operation_can_come_to_its_end_without_a_person(self, state: State) -> None:
        reached, edge = {state}, [state]
        while edge:
            here = edge.pop()
            for move in NEVER_DANGER:
                if move.state is here and move.event not in WISHES and move.to not in reached:
                    reached.add(move.to)
                    edge.append(move.to)
        assert {State.PRIMARY_ACTIVE, State.DR_ACTIVE} & reached


class TestNextStep:
    @given(ANY_FACTS)
    def test_asks_only_for_rows_of_the_table_and_never_for_a_person_s_wish(self, what: StepFacts) -> None:
        event = next_step(what)
        if event is not None:
            assert require_move(what.state, event).state is what.state
            assert event not in WISHES

    @given(ANY_FACTS)
    def test_danger_goes_before_everything_but_a_hold(self, what: StepFacts) -> None:
        if what.danger and what.state is not State.HOLD:
            assert next_step(what) is Event.DANGER
        else:
            assert next_step(what) is not Event.DANGER

    @given(ANY_FACTS)
    def test_nothing_moves_a_held_or_a_restful_environment_by_itself(self, what: StepFacts) -> None:
        if what.state is State.HOLD or (what.state in {State.PRIMARY_ACTIVE, State.DR_ACTIVE} and not what.danger):
            assert next_step(what) is None

    @pytest.mark.parametrize(
        ("state", "known", "event"),
        [
            (State.UNASSIGNED, {}, None),
            (State.UNASSIGNED, {"primary_ready": True}, Event.PRIMARY_READY),
            (State.PRIMARY_ACTIVE, {"primary_ready": True, "checks_passed": True, "drained": True}, None),
            (State.FO_PREFLIGHT, {}, Event.CHECKS_FAILED),
            (State.FO_PREFLIGHT, {"checks_passed": True}, Event.CHECKS_PASSED),
            (State.FO_PREFLIGHT, {"checks_passed": True, "source_silent": True}, Event.SOURCE_SILENT),
            (State.FO_PREFLIGHT, {"checks_passed": True, "drain_waived": True}, Event.DRAIN_WAIVED),
            (State.FO_PREFLIGHT, {"checks_passed": True, "target_sign": Sign.AWAITED}, None),
            (State.FO_PREFLIGHT, {"checks_passed": True, "target_sign": Sign.SILENT}, Event.TARGET_SILENT),
            (State.FO_DRAINING, {}, None),
            (State.FO_DRAINING, {"drained": True}, Event.DRAINED),
            (State.FO_DRAINING, {"drained": True, "target_sign": Sign.AWAITED}, None),
            (State.FO_DRAINING, {"drained": True, "target_sign": Sign.SILENT}, Event.TARGET_SILENT),
            (State.FO_DRAINING, {"source_silent": True}, Event.SOURCE_SILENT),
            (State.FO_DRAINING, {"drain_deadline": NOW}, None),
            (State.FO_DRAINING, {"drain_deadline": NOW - TICK}, Event.DRAIN_PASSED_OVER),
            (State.FO_DRAINING, {"drain_deadline": NOW - TICK, "held_to_plan": True}, Event.DRAIN_TIMED_OUT),
            (State.FB_PREFLIGHT, {}, Event.CHECKS_FAILED),
            (State.FB_PREFLIGHT, {"checks_passed": True}, Event.CHECKS_PASSED),
            (State.DRAINING, {}, None),
            (State.DRAINING, {"drain_deadline": NOW}, None),
            (State.DRAINING, {"drain_deadline": NOW - TICK}, Event.DRAIN_TIMED_OUT),
            (State.DRAINING, {"drained": True}, Event.DRAINED),
            (State.DRAINING, {"drained": True, "drain_deadline": NOW - TICK}, Event.DRAINED),
            (State.DRAINING, {"source_silent": True}, Event.SOURCE_SILENT),
            (State.DRAINING, {"target_sign": Sign.SILENT}, Event.TARGET_SILENT),
            (State.PROMOTING, {}, Event.PROMOTED),
            (State.PROMOTING_PRIMARY, {}, Event.PROMOTED),
            (State.HOLD, {"danger": True, "primary_ready": True, "checks_passed": True}, None),
        ],
    )
    def test_is_what_the_facts_allow(self, state: State, known: dict[str, Any], event: Event | None) -> None:
        assert next_step(facts(state, **known)) is event

    @pytest.mark.parametrize("state", sorted(FENCING))
    @pytest.mark.parametrize(
        ("lease_until", "acknowledged", "event"),
        [
            (NOW + timedelta(seconds=30), False, None),
            (NOW, False, None),
            (NOW - WAIT + TICK, False, None),
            (NOW - WAIT, False, None),
            (NOW - WAIT - TICK, False, Event.LEASE_RAN_OUT),
            (None, False, Event.LEASE_RAN_OUT),
            (NOW + timedelta(seconds=30), True, Event.FENCE_ACKNOWLEDGED),
            (NOW - WAIT - TICK, True, Event.FENCE_ACKNOWLEDGED),
            (None, True, Event.FENCE_ACKNOWLEDGED),
        ],
        ids=["lease lives", "lease ends now", "a tick before", "exactly then", "a tick after", "never a lease", "acknowledged",
             "acknowledged and ran out", "acknowledged without a lease"],
    )  # fmt: skip
    def test_a_fence_waits_for_an_acknowledgement_or_strictly_longer_than_lease_and_drift(
        self, state: State, lease_until: datetime | None, acknowledged: bool, event: Event | None
    ) -> None:
        """I2: an instant that is exactly at the end is not yet enough."""
        assert next_step(facts(state, lease_until=lease_until, fence_acknowledged=acknowledged)) is event

    @pytest.mark.parametrize("state", sorted(FENCING))
    @pytest.mark.parametrize(
        ("known", "event"),
        [
            ({"target_sign": Sign.AWAITED}, None),
            ({"target_sign": Sign.SILENT}, Event.TARGET_SILENT),
            ({"target_sign": Sign.SILENT, "forced": True}, Event.LEASE_RAN_OUT),
            ({"target_sign": Sign.SILENT, "fence_acknowledged": True}, Event.FENCE_ACKNOWLEDGED),
        ],
        ids=["not yet", "silent", "silent and forced", "silent after the acknowledgement"],
    )
    def test_nobody_is_promoted_by_time_who_gives_no_sign_of_life(
        self, state: State, known: dict[str, Any], event: Event | None
    ) -> None:
        """The lease has long run out. Past an acknowledgement nothing is taken back, whoever sleeps."""
        assert next_step(facts(state, lease_until=None, **known)) is event

    @given(ANY_FACTS)
    def test_a_lease_is_never_stopped_for_a_target_that_is_not_there(self, what: StepFacts) -> None:
        event = next_step(what)
        if event is not None and Action.STOP_LEASE in require_move(what.state, event).actions:
            assert what.target_sign is Sign.FRESH

    @pytest.mark.parametrize("state", [state for state in State if state not in FENCING])
    def test_an_acknowledgement_promotes_nobody_outside_of_a_fence(self, state: State) -> None:
        assert next_step(facts(state, fence_acknowledged=True)) not in {Event.FENCE_ACKNOWLEDGED, Event.LEASE_RAN_OUT}

    @pytest.mark.parametrize("state", sorted(FENCING))
    @pytest.mark.parametrize(
        ("lease_until", "blocked_until", "event"),
        [
            (None, NOW + TICK, None),
            (None, NOW, None),
            (None, NOW - TICK, Event.LEASE_RAN_OUT),
            (NOW - WAIT - TICK, NOW, None),
            (NOW - WAIT, NOW - TICK, None),
            (NOW - WAIT - TICK, NOW - TICK, Event.LEASE_RAN_OUT),
        ],
    )
    def test_a_fence_waits_for_a_lease_nobody_here_knows_of_too(
        self, state: State, lease_until: datetime | None, blocked_until: datetime, event: Event | None
    ) -> None:
        """I4: after a restore, or when a gateway begins a new life, the later of both ends counts."""
        assert next_step(facts(state, lease_until=lease_until, lease_blocked_until=blocked_until)) is event

    def test_the_end_of_a_fence_is_the_stored_end_of_the_lease_and_the_wait(self) -> None:
        assert fence_ends_at(NOW, timedelta(seconds=2.45)) == NOW + timedelta(seconds=2.45)
        assert fence_ends_at(None, WAIT) is None


@given(
    profile=st.sampled_from(list(PROFILES.values())),
    answer_took=st.floats(0, 10),
    rate=st.floats(-1, 1),
    fixed=st.floats(-1, 1),
    waited=st.floats(0, 200),
)
@example(profile=STANDARD, answer_took=0.0, rate=-1.0, fixed=-1.0, waited=47.45)
def test_whoever_is_promoted_after_the_wait_meets_no_gateway_that_may_still_act(
    profile: TimeProfile, answer_took: float, rate: float, fixed: float, waited: float
) -> None:
    """I2 over both sides: the gateway's arithmetic and the Primary's, with a clock as slow or fast as the allowance permits.

    The gateway sends at 0; the Primary stores the end of the lease when the request arrives. After `waited` seconds the gateway's
    clock shows that much, changed by the allowed share and the allowed fixed part.
    """
    lease = grant(sent_boot=0.0, sent_wall=0.0, ttl=profile.lease_ttl, epoch=7, highest_epoch_seen=7, fenced=None)
    assert isinstance(lease, Lease)
    stored = NOW + timedelta(seconds=answer_took + profile.lease_ttl)
    step = next_step(
        StepFacts(
            State.FENCING, now=NOW + timedelta(seconds=waited), lease_until=stored,
            fence_wait=timedelta(seconds=profile.fence_wait),
        )
    )  # fmt: skip
    if step is Event.LEASE_RAN_OUT:
        shown = waited + rate * profile.drift_fraction * profile.lease_ttl + fixed * profile.drift_fixed
        assert seconds_left(lease, shown, shown) == 0.0
        assert not may_start_effect(lease, shown, shown, profile.effect_deadline, None).allowed
    else:
        assert waited <= answer_took + profile.lease_ttl + profile.fence_wait + 1e-6
