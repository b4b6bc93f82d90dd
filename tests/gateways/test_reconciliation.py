"""The table of what becomes of a queued write: every rule, every policy, and what no policy may do (DESIGN §9, I3, I9)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateways.reconciliation import (
    ENDINGS,
    Decision,
    Facts,
    PolicyFacts,
    PreviousFacts,
    RouteFacts,
    SecretFacts,
    Verdict,
    WriteFacts,
    decide,
)
from protocol.vocabulary import WriteOperation, WriteOutcome

NOON = datetime(2026, 3, 19, 12, tzinfo=UTC)
WRITE = WriteFacts(WriteOperation.UPDATE, gateway="gw", generation="g1", epoch=4, base=3, accepted_at=NOON)
ROUTE = RouteFacts(epoch=4, active_gateway="gw", generation="g1")
SECRET = SecretFacts(version=3, changed_at=NOON - timedelta(hours=1))
MOVED = replace(SECRET, version=5, changed_at=NOON - timedelta(minutes=1))
FINE = Facts(WRITE, ROUTE, SECRET)
KEPT = [WriteOutcome.CONFLICT, WriteOutcome.QUARANTINED, WriteOutcome.DEAD_LETTER, WriteOutcome.SUPERSEDED, WriteOutcome.REFUSED]
STRATEGIES = ["manual_resolution", "mazevault_wins", "external_wins", "most_recent_wins"]


def facts(write: dict[str, Any] | None = None, route: dict[str, Any] | None = None, policy: str = "", **other: Any) -> Facts:
    changed = replace(FINE, write=replace(WRITE, **write or {}), route=replace(ROUTE, **route or {}), **other)
    return replace(changed, policy=PolicyFacts(conflict=policy)) if policy else changed


def after(outcome: WriteOutcome, version: int = 3, **other: Any) -> dict[str, Any]:
    """Made on an earlier write that ended so."""
    return {"write": {"base": None, "names_previous": True}, "previous": PreviousFacts(outcome, version, **other)}


def taken(policy: str) -> Facts:
    """A creation under a key that is somebody's."""
    return facts({"operation": WriteOperation.CREATE}, secret=None, key_taken=True, policy=policy)


def said(decision: Decision) -> tuple[Verdict, str]:
    return decision.verdict, decision.code


V = Verdict
TABLE = {
    "on the current version": (FINE, V.APPLY, ""),
    "on whatever is there": (facts({"base": None}), V.APPLY, ""),
    "a new secret": (facts({"operation": WriteOperation.CREATE, "base": None}, secret=None), V.APPLY, ""),
    "on an applied write": (facts(**after(WriteOutcome.APPLIED, 3)), V.APPLY, ""),
    "a restore of a deleted secret": (
        facts({"operation": WriteOperation.RESTORE}, secret=replace(SECRET, living=False)), V.APPLY, ""),
    "environment held": (facts(route={"frozen": True}), V.WAIT, "ENVIRONMENT_HELD"),
    "gateway held": (facts(route={"held": True}), V.WAIT, "GATEWAY_HELD"),
    "gateway banned": (facts(route={"banned": True, "held": True}), V.QUARANTINE, "GATEWAY_BANNED"),
    "gateway banned, and the past would be replayed": (
        replace(facts({"epoch": 3}, {"banned": True}), policy=PolicyFacts(stale="replay_as_new")),
        V.QUARANTINE, "GATEWAY_BANNED"),
    "held even when banned": (facts(route={"frozen": True, "banned": True}), V.WAIT, "ENVIRONMENT_HELD"),
    "held even when stale": (facts({"epoch": 3}, {"frozen": True}), V.WAIT, "ENVIRONMENT_HELD"),
    "an old epoch": (facts({"epoch": 3}), V.QUARANTINE, "STALE_EPOCH"),
    "an epoch of the future": (facts({"epoch": 5}), V.QUARANTINE, "STALE_EPOCH"),
    "of a gateway that is not active": (facts(route={"active_gateway": "other"}), V.QUARANTINE, "STALE_EPOCH"),
    "of nobody's time": (facts(route={"active_gateway": ""}), V.QUARANTINE, "STALE_EPOCH"),
    "of an earlier life": (facts(route={"generation": "g2"}), V.QUARANTINE, "STALE_EPOCH"),
    "its predecessor has not arrived": (facts({"names_previous": True, "base": None}), V.WAIT, "PREVIOUS_MISSING"),
    "its predecessor never arrives": (
        facts({"names_previous": True, "base": None, "waiting_seconds": 600.0}), V.DEAD_LETTER, "PREVIOUS_MISSING"),
    "its predecessor is another stream's": (
        facts(**after(WriteOutcome.APPLIED, same_stream=False)), V.QUARANTINE, "PREVIOUS_FOREIGN"),
    "its predecessor waits": (facts(**after(WriteOutcome.RECEIVED)), V.WAIT, "PREVIOUS_WAITS"),
    "an earlier one waits unnamed": (facts(earlier_waits=True), V.WAIT, "PREVIOUS_WAITS"),
    "no such place": (facts(place_exists=False, secret=None, actor_allowed=False), V.DEAD_LETTER, "RESOURCE_NOT_FOUND"),
    "a later one was applied, and the gateway wins": (
        facts(secret=MOVED, later_applied=True, policy="external_wins"), V.CONFLICT, "LATER_APPLIED"),
    "a later one was applied, on whatever is there": (
        facts({"base": None}, later_applied=True), V.CONFLICT, "LATER_APPLIED"),
    "a leaver": (facts(actor_allowed=False), V.DEAD_LETTER, "ACTOR_NOT_ALLOWED"),
    "a leaver, and in conflict": (facts(actor_allowed=False, secret=MOVED), V.DEAD_LETTER, "ACTOR_NOT_ALLOWED"),
    "no such secret": (facts(secret=None), V.DEAD_LETTER, "RESOURCE_NOT_FOUND"),
    "a base from the future": (facts({"base": 9}, policy="external_wins"), V.CONFLICT, "BASE_FROM_FUTURE"),
    "a changed base": (facts(secret=MOVED), V.CONFLICT, "VERSION_CONFLICT"),
    "on a refused write, and nothing has changed since": (facts(**after(WriteOutcome.REFUSED, 0, base=3)), V.APPLY, ""),
    "on a refused write, and somebody changed it": (
        facts(**after(WriteOutcome.REFUSED, 0, base=3), secret=MOVED), V.CONFLICT, "VERSION_CONFLICT"),
    "on a refused write that says no base": (
        facts(**after(WriteOutcome.REFUSED, 0)), V.CONFLICT, "PREVIOUS_NOT_APPLIED"),
    "an applied predecessor, then somebody else": (
        facts(**after(WriteOutcome.APPLIED, 4), secret=MOVED), V.CONFLICT, "VERSION_CONFLICT"),
    "an archived secret": (facts(secret=replace(SECRET, living=False)), V.CONFLICT, "VERSION_CONFLICT"),
    "a taken key": (taken("manual_resolution"), V.CONFLICT, "DUPLICATE_NAME"),
    "a taken key and the Primary wins": (
        taken("mazevault_wins"), V.SUPERSEDE, "DUPLICATE_NAME"),
    "a taken key and the gateway wins": (
        taken("external_wins"), V.CONFLICT, "DUPLICATE_NAME"),
    "the Primary wins": (facts(secret=MOVED, policy="mazevault_wins"), V.SUPERSEDE, "VERSION_CONFLICT"),
    "the gateway wins": (facts(secret=MOVED, policy="external_wins"), V.APPLY, ""),
    "the newer wins, the write": (facts(secret=MOVED, policy="most_recent_wins"), V.APPLY, ""),
    "the newer wins, the Primary": (
        facts(secret=replace(MOVED, changed_at=NOON), policy="most_recent_wins"), V.SUPERSEDE, "VERSION_CONFLICT"),
    "the newer wins, not by a wrong clock": (
        facts(secret=MOVED, clock_trusted=False, policy="most_recent_wins"), V.CONFLICT, "CLOCK_NOT_TRUSTED"),
    "the newer wins, but it says no time": (
        facts({"accepted_at": None}, secret=MOVED, policy="most_recent_wins"), V.CONFLICT, "CLOCK_NOT_TRUSTED"),
    "the newer wins, but only for values": (
        facts({"operation": WriteOperation.METADATA}, secret=MOVED, policy="most_recent_wins"), V.CONFLICT, "VERSION_CONFLICT"),
}  # fmt: skip


@pytest.mark.parametrize("situation", TABLE)
def test_what_becomes_of_it(situation: str) -> None:
    given_facts, verdict, code = TABLE[situation]
    assert said(decide(given_facts)) == (verdict, code)


@pytest.mark.parametrize("outcome", KEPT)
@pytest.mark.parametrize(
    ("policy", "verdict"),
    [
        ("manual_resolution", V.CONFLICT),
        ("mazevault_wins", V.SUPERSEDE),
        ("external_wins", V.APPLY),
        ("most_recent_wins", V.APPLY),
    ],
)
def test_a_base_that_never_came_to_be_is_a_changed_base(outcome: WriteOutcome, policy: str, verdict: Verdict) -> None:
    decision = decide(facts(**after(outcome), policy=policy))
    assert decision.verdict is verdict
    assert decision.code in ("PREVIOUS_NOT_APPLIED", "")


@pytest.mark.parametrize("policy", STRATEGIES)
@pytest.mark.parametrize("operation", sorted(ENDINGS))
def test_no_policy_weighs_being_there_against_content(policy: str, operation: WriteOperation) -> None:
    ending = facts({"operation": operation}, secret=MOVED, policy=policy)
    assert decide(ending).verdict is V.CONFLICT
    gone = facts(secret=replace(MOVED, living=False), policy=policy)
    assert decide(gone).verdict is V.CONFLICT


@pytest.mark.parametrize("policy", STRATEGIES)
@pytest.mark.parametrize("stale", ["ask", "discard", "replay_as_new"])
def test_in_production_only_a_person_decides_whatever_the_project_says(policy: str, stale: str) -> None:
    production = PolicyFacts(policy, stale, production=True)
    assert decide(facts(secret=MOVED)).verdict is V.CONFLICT
    assert decide(replace(facts(secret=MOVED), policy=production)).verdict is V.CONFLICT
    assert decide(replace(facts({"epoch": 3}), policy=production)).verdict is V.QUARANTINE


STALE = {
    ("ask", "current"): (V.QUARANTINE, False), ("ask", "moved"): (V.QUARANTINE, False),
    ("discard", "current"): (V.DISCARD, False), ("discard", "moved"): (V.DISCARD, False),
    ("replay_as_new", "current"): (V.APPLY, True), ("replay_as_new", "moved"): (V.CONFLICT, False),
}  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("policy", "base"), STALE)
def test_the_policy_for_writes_of_the_past(policy: str, base: str, strategy: str) -> None:
    """A replay never overwrites: whatever the conflict strategy, another base is for a person."""
    past = facts({"epoch": 3}, secret=SECRET if base == "current" else MOVED)
    decision = decide(replace(past, policy=PolicyFacts(strategy, policy)))
    assert (decision.verdict, decision.as_new) == STALE[policy, base]


def test_a_replay_without_a_base_is_for_a_person() -> None:
    past = replace(facts({"epoch": 3, "base": None}), policy=PolicyFacts(stale="replay_as_new"))
    assert decide(past).verdict is V.CONFLICT


def test_a_replay_asks_who_made_it_like_any_other() -> None:
    past = replace(facts({"epoch": 3}, actor_allowed=False), policy=PolicyFacts(stale="replay_as_new"))
    assert said(decide(past)) == (V.DEAD_LETTER, "ACTOR_NOT_ALLOWED")


@pytest.mark.parametrize("situation", TABLE)
def test_a_caller_who_waits_is_refused_where_others_would_be_kept(situation: str) -> None:
    given_facts, verdict, code = TABLE[situation]
    waiting = replace(given_facts, write=replace(given_facts.write, caller_waits=True))
    expected = verdict if verdict in (V.APPLY, V.WAIT) else V.REFUSE
    assert said(decide(waiting)) == (expected, code)


ANY = st.builds(
    Facts,
    write=st.builds(
        WriteFacts, operation=st.sampled_from(WriteOperation), gateway=st.sampled_from(["gw", "other"]),
        generation=st.sampled_from(["g1", "g2"]), epoch=st.integers(3, 5), base=st.none() | st.integers(0, 6),
        accepted_at=st.none() | st.just(NOON), waiting_seconds=st.sampled_from([0.0, 700.0]), caller_waits=st.booleans(),
        names_previous=st.booleans(),
    ),
    route=st.builds(
        RouteFacts, epoch=st.just(4), active_gateway=st.sampled_from(["gw", "other", ""]), generation=st.just("g1"),
        frozen=st.booleans(), held=st.booleans(),
    ),
    secret=st.none() | st.sampled_from([SECRET, MOVED, replace(SECRET, living=False)]),
    previous=st.none()
    | st.builds(PreviousFacts, outcome=st.sampled_from(WriteOutcome), version=st.integers(0, 6), same_stream=st.booleans()),
    policy=st.builds(
        PolicyFacts, st.sampled_from(STRATEGIES), st.sampled_from(["ask", "discard", "replay_as_new"]), st.booleans()
    ),
    place_exists=st.booleans(), key_taken=st.booleans(), actor_allowed=st.booleans(), earlier_waits=st.booleans(),
    clock_trusted=st.booleans(),
)  # fmt: skip


@given(ANY)
def test_nothing_is_applied_against_the_rules(situation: Facts) -> None:
    """I3, I9 and the person's right, for any combination of facts: no order of rules lets one be forgotten."""
    decision = decide(situation)
    write, route = situation.write, situation.route
    present = (write.epoch, write.gateway, write.generation) == (route.epoch, route.active_gateway, route.generation)
    if decision.verdict is not V.APPLY:
        assert decision.code and decision.sentence
        return
    assert not route.frozen and not route.held
    assert situation.actor_allowed and situation.place_exists and not situation.earlier_waits
    assert decision.as_new == (not present)
    assert present or (situation.policy.stale == "replay_as_new" and not situation.policy.production)
    if situation.previous is not None:
        assert situation.previous.outcome.terminal and situation.previous.same_stream
    assert not (write.names_previous and situation.previous is None)
    if write.operation is WriteOperation.CREATE:
        assert situation.secret is None and not situation.key_taken
    else:
        assert situation.secret is not None and decision.base == situation.secret.version
        assert situation.secret.living or write.operation in ENDINGS
