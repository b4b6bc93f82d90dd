"""What holds for every world: found by generated worlds, edits, interruptions and several rules, not by chosen examples."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from integrations.sync.facts import DeletionBudget, Direction, Mode, Ours, Rule, Strategy, Theirs, World
from integrations.sync.pairs import memory
from integrations.sync.plan import plan
from integrations.sync.transform import TransformInvalid, parse_transform
from integrations.sync.undo import undo
from integrations.sync.words import DELETES, WRITES_HERE, WRITES_THERE, ActionKind, Verdict
from tests.fakes.two_sides import TwoSides, agreed

KEYS = ("A", "B_1", "C")
VALUES = ("red", "green", "blue")
NAMES = ("A", "B-1", "C", "app-A", "app-B-1", "app-C")
ROOMY = DeletionBudget(1000, 100)
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

rules = st.builds(
    Rule, id=st.just("rule-a"), target=st.just("kv"), direction=st.sampled_from(Direction), mode=st.sampled_from(Mode),
    strategy=st.sampled_from(Strategy), transform=st.sampled_from(["", "app-{{key}}"]), budget=st.just(ROOMY),
    adopted=st.one_of(st.just(frozenset()), st.frozensets(st.sampled_from(NAMES), min_size=2)),
)  # fmt: skip
COMMON = ("put_here", "put_there", "delete_here", "delete_there", "put_here_delete_there")
RARE = (
    "lose_here", "archive_here", "recover_there", "purge_there", "disable_there", "enable_there", "certify_there",
    "seize_there", "seize_here",
)  # fmt: skip
edits = st.lists(
    st.tuples(st.sampled_from([*COMMON * 4, *RARE]), st.sampled_from(KEYS), st.sampled_from(VALUES)), min_size=2, max_size=12
)


def edit(sides: TwoSides, verb: str, key: str, value: str, prefix: str = "") -> None:
    """What people and other tools do on either side, as far as it is possible now."""
    name = prefix + key.replace("_", "-")
    here, there = sides.project.secrets.get(key), sides.vault.secrets.get(name.lower())
    if verb == "put_here_delete_there":
        sides.project.put(key, value)
        if there:
            sides.vault.delete(name)
    elif verb == "put_here":
        sides.project.put(key, value)
    elif verb == "put_there" and not (there and (there.deleted or there.certificate)):
        sides.vault.put(name, value)
    elif verb == "delete_here" and here:
        sides.project.delete(key)
    elif verb == "lose_here":
        sides.project.lose(key)
    elif verb == "archive_here" and here:
        here.usable = not here.usable
    elif verb == "delete_there" and there:
        sides.vault.delete(name)
    elif verb == "recover_there" and there and there.deleted:
        sides.vault.recover(name)
    elif verb == "purge_there":
        sides.vault.purge(name)
    elif verb in ("disable_there", "enable_there") and there:
        there.usable = verb == "enable_there"
    elif verb == "certify_there" and there:
        there.certificate = True
    elif verb == "seize_there" and there:
        there.owner = "rule-other"
    elif verb == "seize_here" and here:
        here.owner = "rule-other"


def after(first, rule, second):
    """A world in the middle of its life: edits, a run, more edits."""
    sides = TwoSides()
    prefix = "app-" if rule.transform else ""
    for each in first:
        edit(sides, *each, prefix)
    sides.run(rule)
    for each in second:
        edit(sides, *each, prefix)
    assume(sides.plan(rule).verdict is not Verdict.REFUSED)  # B_1 beside a B-1 that came from the vault
    return sides


@given(edits, rules, edits)
@CALM
def test_nothing_is_deleted_that_the_rule_did_not_know(first, rule, second):
    sides = after(first, rule, second)
    known = {item.name.lower() for item in memory(sides.world(rule)).items}
    assert {action.name.lower() for action in sides.plan(rule).proposed if action.kind in DELETES} <= known


@given(edits, rules, edits)
@CALM
def test_nothing_is_deleted_without_a_tombstone_on_the_other_side(first, rule, second):
    sides = after(first, rule, second)
    for action in sides.plan(rule).proposed:
        if action.kind in DELETES:
            assert action.their_deleted if action.kind in WRITES_HERE else action.our_deleted


@given(edits, rules, edits)
@CALM
def test_nothing_that_another_rule_owns_is_touched(first, rule, second):
    sides = after(first, rule, second)
    for action in sides.plan(rule).proposed:
        there, here = sides.vault.secrets.get(action.name.lower()), sides.project.secrets.get(action.key)
        assert there is None or there.owner != "rule-other"
        assert action.kind in WRITES_THERE or here is None or here.owner != "rule-other"


@given(edits, rules, edits)
@CALM
def test_only_the_sides_of_the_direction_are_written(first, rule, second):
    kinds = {action.kind for action in after(first, rule, second).plan(rule).proposed}
    assert rule.writes_here or not kinds & WRITES_HERE
    assert rule.writes_there or not kinds & WRITES_THERE


@given(edits, rules, edits)
@CALM
def test_after_a_run_there_is_nothing_left_to_do(first, rule, second):
    sides = after(first, rule, second)
    assert sides.run(rule).verdict is Verdict.READY
    assert {action.kind for action in sides.run(rule).proposed} <= {ActionKind.CLAIM_THERE}, "the tag follows the value"
    again = sides.plan(rule)
    assert (again.verdict, again.proposed, again.learn, again.forget) == (Verdict.READY, (), (), ())


@given(edits, rules, edits, st.booleans(), st.data())
@CALM
def test_a_run_that_was_interrupted_anywhere_goes_on_with_exactly_the_rest(first, rule, second, is_first_run, data):
    sides = after(first, rule, second)
    if is_first_run:
        sides.bases.clear()
    shown = sides.plan(rule)
    cut = data.draw(st.integers(0, len(shown.proposed)))
    other = deepcopy(sides)
    other.run(rule)
    sides.run(rule, stop_after=cut, confirmed=agreed(shown))
    if cut < len(shown.proposed):
        rest = sides.plan(rule, agreed(shown))
        assert (rest.verdict, rest.actions) == (Verdict.READY, shown.proposed[cut:])
        sides.run(rule, confirmed=agreed(shown))
    assert (sides.project.living(), sides.vault.living()) == (other.project.living(), other.vault.living())
    assert set(sides.bases[rule.id].items) == set(other.bases[rule.id].items)


@given(edits, rules, edits, st.integers(0, 6))
@CALM
def test_a_crash_between_a_step_and_its_memory_writes_nothing_twice(first, rule, second, steps):
    sides = after(first, rule, second)
    before = sides.bases[rule.id]
    made = sides.run(rule, stop_after=steps)
    sides.bases[rule.id] = before
    done = set(made.proposed[:steps])
    again = {(action.name, action.kind) for action in sides.plan(rule).proposed if action.digest}
    assert not again & {(action.name, action.kind) for action in done}


@given(edits, rules, edits, st.randoms())
@CALM
def test_the_order_of_the_facts_does_not_matter(first, rule, second, random):
    sides = after(first, rule, second)
    world = sides.world(rule)
    shuffled = replace(
        world,
        ours=tuple(random.sample(world.ours, len(world.ours))),
        theirs=tuple(random.sample(world.theirs, len(world.theirs))),
        base=replace(world.base, items=tuple(random.sample(world.base.items, len(world.base.items)))),
    )
    assert plan(shuffled) == plan(world)


@given(edits, rules, edits, st.integers(0, 5), st.integers(0, 100), st.integers(0, 5), st.integers(0, 100))
@CALM
def test_a_larger_budget_never_refuses_what_a_smaller_one_allows(first, rule, second, count, percent, more, more_percent):
    sides = after(first, rule, second)
    small, large = DeletionBudget(count, percent), DeletionBudget(count + more, percent + more_percent)
    tight, loose = (sides.plan(replace(rule, budget=budget)) for budget in (small, large))
    assert tight.proposed == loose.proposed
    assert loose.verdict is Verdict.READY or tight.verdict is not Verdict.READY
    assert len(tight.actions) == 0 or tight.deletions <= count


@given(edits, rules, edits)
@CALM
def test_no_value_that_a_person_set_leaves_the_vault(first, rule, second):
    """Every version stays: a run adds versions and soft-deletes, it never purges."""
    sides = after(first, rule, second)
    before = {name: list(kept.values) for name, kept in sides.vault.secrets.items()}
    sides.run(rule)
    for name, values in before.items():
        assert sides.vault.secrets[name].values[: len(values)] == values


@given(edits, rules, edits)
@CALM
def test_undoing_a_run_brings_both_sides_back(first, rule, second):
    sides = after(first, rule, second)
    sides.history.clear()
    before = sides.project.living(), sides.vault.living()
    sides.run(rule)
    shown = undo(rule, sides.history, sides.project.facts(), sides.vault.facts())
    assert shown.notes == ()
    for action in shown.proposed:
        sides.step(action, rule)
    assert (sides.project.living(), sides.vault.living()) == before


turns = st.lists(
    st.tuples(st.integers(0, 1), st.one_of(st.just(("run",)), st.tuples(st.sampled_from(["put", "delete"]), st.sampled_from(KEYS),
                                                                      st.sampled_from(VALUES)))),
    max_size=24,
)  # fmt: skip


@given(turns, st.lists(rules, min_size=2, max_size=2))
@CALM
def test_two_rules_with_one_vault_never_undo_each_other(course, both):
    """Two projects, two rules, one vault. What a rule wrote there stays until its own rule changes it."""
    first, second = (
        replace(rule, id=f"rule-{number}", direction=Direction.PUSH, transform="") for number, rule in enumerate(both)
    )
    left = TwoSides()
    right = TwoSides(clock=left.clock)
    right.vault = left.vault
    parties = ((left, first), (right, second))
    for turn, what in course:
        sides, rule = parties[turn]
        if what[0] == "put":
            sides.project.put(*what[1:])
        elif what[0] == "delete" and what[1] in sides.project.secrets:
            sides.project.delete(what[1])
        elif what[0] == "run":
            foreign = {name: deepcopy(kept) for name, kept in left.vault.secrets.items() if kept.owner not in (None, rule.id)}
            sides.run(rule)
            assert {name: left.vault.secrets[name] for name in foreign} == foreign
    for sides, rule in (*parties, *parties):
        sides.run(rule)
    assert [sides.plan(rule).proposed for sides, rule in parties] == [(), ()]


@given(turns, st.lists(rules, min_size=2, max_size=2))
@CALM
def test_two_rules_with_one_project_come_to_rest(course, both):
    """One project, two vaults, rules of any kind: once the edits end, a few runs bring all of them to rest."""
    first, second = (replace(rule, id=f"rule-{number}", target=f"kv-{number}", transform="") for number, rule in enumerate(both))
    left = TwoSides()
    right = TwoSides(clock=left.clock)
    right.project = left.project
    parties = ((left, first), (right, second))
    for turn, what in course:
        sides, rule = parties[turn]
        if what[0] == "put":
            (left.project if turn else right.vault).put(what[1].replace("_", ""), what[2]) if _free(right, what[1]) else None
        elif what[0] == "delete" and what[1] in left.project.secrets:
            left.project.delete(what[1])
        elif what[0] == "run":
            sides.run(rule)
    for sides, rule in parties * 4:
        sides.run(rule)
    assert [sides.plan(rule).proposed for sides, rule in parties] == [(), ()]


def _free(sides: TwoSides, key: str) -> bool:
    kept = sides.vault.secrets.get(key.replace("_", "").lower())
    return kept is None or not kept.deleted


@given(
    st.text("abcXYZ019_-.", min_size=1, max_size=20), st.sampled_from(["", "{{key}}", "x-{{key}}", "{{environment}}--{{key}}-y"])
)
def test_a_key_that_has_a_name_is_found_by_it(key, template):
    transform = parse_transform(template, "dev")
    name = transform.name_of(key)
    assert name is not None
    assert transform.leads_to(key, name)
    back = transform.key_of(name)
    assert back is not None and transform.name_of(back) == name


@given(st.text(max_size=30), st.text(max_size=10))
@CALM
def test_no_template_breaks_the_reader(template, environment):
    try:
        transform = parse_transform(template, environment)
    except TransformInvalid as invalid:
        assert str(invalid).startswith("key_transform_template: ")
    else:
        assert transform.name_of("A") is not None


@given(st.lists(st.text("aAbB_-.", min_size=1, max_size=4), unique=True, max_size=8))
@CALM
def test_keys_that_fight_for_a_name_are_always_found(keys):
    names = [key.replace("_", "-").replace(".", "-").lower() for key in keys]
    sides = TwoSides()
    for key in keys:
        sides.project.put(key, "x")
    refused = sides.plan(Rule("rule-a", "kv", Direction.PUSH)).verdict is Verdict.REFUSED
    assert refused == (len(set(names)) < len(names))


@pytest.mark.parametrize("direction", Direction)
def test_ten_thousand_secrets_are_planned_in_seconds(direction):
    ours = tuple(Ours(f"KEY_{number}", 1, f"d{number}") for number in range(10_000))
    theirs = tuple(Theirs(f"KEY-{number}", "v1", f"d{number + 1}") for number in range(5_000, 15_000))
    began = time.process_time()
    made = plan(World(Rule("rule-a", "kv", direction, adopted=frozenset(f"KEY-{n}" for n in range(10_000))), ours, theirs))
    assert made.proposed
    assert time.process_time() - began < 10


def test_the_generated_worlds_are_not_empty():
    """A check of the checks: the strategies above do reach deletions, recoveries, conflicts and refusals."""
    seen = set()

    @given(edits, rules, edits)
    @settings(CALM, max_examples=600, database=None, derandomize=True)
    def look(first, rule, second):
        made = after(first, rule, second).plan(rule)
        seen.update(made.counts())

    look()
    wanted = {"create_there", "update_there", "recover_there", "delete_there", "create_here", "update_here", "delete_here",
              "claim_there", "left_conflict", "left_not_adopted", "left_owned_by_other"}  # fmt: skip
    assert wanted <= seen
