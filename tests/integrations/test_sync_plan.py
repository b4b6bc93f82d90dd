"""Plans of sync runs, decision by decision: what is carried, what is left alone, what stops a run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from integrations.sync.drift import Standing, drift
from integrations.sync.facts import Confirmation, DeletionBudget, Direction, Mode, Rule, Strategy
from integrations.sync.plan import plan, still_holds
from integrations.sync.remembering import remembered_before
from integrations.sync.undo import REVERSED, undo
from integrations.sync.words import MEANING, SENTENCES, ActionKind, Reason, Refusal, Verdict
from tests.fakes.two_sides import TwoSides, agreed

PUSH = Rule("rule-push", "kv-one", Direction.PUSH)
PULL = Rule("rule-pull", "kv-one", Direction.PULL)
BOTH = Rule("rule-both", "kv-one", Direction.BIDIRECTIONAL)
ROOMY = DeletionBudget(1000, 100)


@pytest.fixture
def sides():
    return TwoSides()


def steps(made):
    return [(action.kind.value, action.name or action.key) for action in made.proposed]


def reasons(made):
    return {note.name or note.key: note.reason for note in made.notes}


def settled(rule, here=None, there=None):
    """Both sides after a first run of a rule."""
    sides = TwoSides()
    for key, value in (here or {}).items():
        sides.project.put(key, value)
    for name, value in (there or {}).items():
        sides.vault.put(name, value)
    assert sides.run(rule).verdict is Verdict.READY
    return sides


class TestFirstRun:
    def test_is_a_preview_until_its_digest_is_confirmed(self, sides):
        sides.project.put("A", "1")
        shown = sides.plan(PUSH)
        assert (shown.verdict, shown.first_run, shown.actions) == (Verdict.NEEDS_CONFIRMATION, True, ())
        assert steps(shown) == [("create_there", "A")]
        assert sides.plan(PUSH, agreed(shown)).actions == shown.proposed

    def test_is_asked_for_again_when_the_world_moved(self, sides):
        sides.project.put("A", "1")
        shown = sides.plan(PUSH)
        sides.project.put("A", "2")
        moved = sides.plan(PUSH, agreed(shown))
        assert (moved.verdict, moved.actions, moved.learn) == (Verdict.CONFIRMATION_STALE, (), ())

    def test_needs_confirmation_even_when_there_is_nothing_to_do(self, sides):
        assert sides.plan(PUSH).verdict is Verdict.NEEDS_CONFIRMATION

    @pytest.mark.parametrize("change", [{"target": "kv-two"}, {"transform": "x-{{key}}"}, {"direction": Direction.PULL}])
    def test_comes_again_after_a_change_of_vault_names_or_direction(self, change):
        sides = settled(PUSH, here={"A": "1"})
        assert sides.plan(PUSH).verdict is Verdict.READY
        assert sides.plan(replace(PUSH, **change)).verdict is Verdict.NEEDS_CONFIRMATION

    def test_of_one_rule_is_not_confirmed_by_the_digest_of_another(self, sides):
        sides.project.put("A", "1")
        other = replace(PUSH, id="rule-other")
        assert sides.plan(other, agreed(sides.plan(PUSH))).verdict is Verdict.CONFIRMATION_STALE

    def test_resumes_under_the_same_confirmation(self, sides):
        for number in range(5):
            sides.project.put(f"K{number}", "x")
        shown = sides.plan(PUSH)
        sides.run(PUSH, stop_after=2, confirmed=agreed(shown))
        rest = sides.plan(PUSH, agreed(shown))
        assert rest.verdict is Verdict.READY
        assert rest.actions == shown.proposed[2:]

    def test_goes_on_around_a_step_that_failed_and_does_nothing_that_was_not_agreed_to(self, sides):
        for number in range(5):
            sides.project.put(f"K{number}", "x")
        shown = sides.plan(PUSH)
        for action in (*shown.proposed[:2], *shown.proposed[3:]):
            sides.step(action, PUSH)
        rest = sides.plan(PUSH, agreed(shown))
        assert (rest.verdict, rest.actions) == (Verdict.READY, shown.proposed[2:3])
        sides.project.put("LATER", "x")
        assert sides.plan(PUSH, agreed(shown)).verdict is Verdict.CONFIRMATION_STALE


class TestWhatIsCarried:
    def test_push_takes_new_and_changed_secrets_there(self):
        sides = settled(PUSH, here={"A": "1", "B": "1"})
        sides.project.put("A", "2")
        sides.project.put("C", "1")
        assert steps(sides.run(PUSH)) == [("create_there", "C"), ("update_there", "A")]
        assert sides.vault.living() == {"A": "2", "B": "1", "C": "1"}

    def test_pull_takes_new_and_changed_secrets_here(self):
        sides = settled(PULL, there={"A": "1", "B": "1"})
        sides.vault.put("A", "2")
        sides.vault.put("C", "1")
        assert steps(sides.run(PULL)) == [("create_here", "C"), ("update_here", "A")]
        assert sides.project.living() == {"A": "2", "B": "1", "C": "1"}

    def test_bidirectional_takes_both_ways(self):
        sides = settled(BOTH, here={"A": "1"}, there={"B": "1"})
        sides.project.put("A", "2")
        sides.vault.put("B", "2")
        sides.run(BOTH)
        assert sides.project.living() == sides.vault.living() == {"A": "2", "B": "2"}

    def test_a_tombstone_here_soft_deletes_what_the_rule_made_there(self):
        sides = settled(PUSH, here={"A": "1", "B": "1"})
        sides.project.delete("A")
        assert steps(sides.run(PUSH)) == [("delete_there", "A")]
        assert sides.vault.secrets["a"].deleted

    def test_a_deletion_there_is_carried_when_the_rule_knew_it_and_the_vault_lists_it(self):
        sides = settled(PULL, there={"A": "1", "B": "1"})
        sides.vault.delete("A")
        assert steps(sides.run(PULL)) == [("delete_here", "A")]
        assert sides.project.living() == {"B": "1"}

    def test_what_adds_comes_before_what_deletes_and_names_are_in_order(self):
        sides = settled(BOTH, here={"B": "1", "D": "1", "Z": "1"})
        sides.project.delete("D")
        for key in ("Y", "a", "C"):
            sides.project.put(key, "new")
        sides.vault.put("B", "2")
        expected = [
            ("create_there", "a"),
            ("create_there", "C"),
            ("create_there", "Y"),
            ("update_here", "B"),
            ("delete_there", "D"),
        ]
        assert steps(sides.plan(BOTH)) == expected

    def test_an_underscore_becomes_a_hyphen_and_the_key_is_found_again(self):
        sides = settled(BOTH, here={"DB_PASSWORD": "1"})
        sides.vault.put("DB-PASSWORD", "2")
        assert steps(sides.run(BOTH)) == [("update_here", "DB-PASSWORD")]
        assert sides.project.living() == {"DB_PASSWORD": "2"}

    def test_the_key_is_found_again_by_its_tag_when_the_project_and_the_memory_are_lost(self):
        sides = settled(BOTH, here={"DB_PASSWORD": "1"})
        sides.project.lose("DB_PASSWORD")
        sides.bases.clear()
        sides.run(BOTH)
        assert sides.project.living() == {"DB_PASSWORD": "1"}

    def test_a_tag_that_names_another_key_is_not_believed(self, sides):
        sides.vault.put("A", "1", key="OTHER")
        sides.run(PULL)
        assert sides.project.living() == {"A": "1"}


class TestWhatIsEqual:
    def test_equal_values_are_adopted_silently(self, sides):
        sides.project.put("A", "1")
        sides.vault.put("A", "1")
        made = sides.run(BOTH)
        assert (made.proposed, [item.name for item in made.learn]) == ((), ["A"])
        assert sides.plan(BOTH).learn == ()

    def test_what_was_pushed_does_not_come_back_as_a_change(self):
        sides = settled(BOTH, here={"A": "1"})
        for _ in range(3):
            assert sides.run(BOTH).proposed == ()

    def test_nor_when_the_memory_of_the_push_was_lost(self):
        sides = settled(BOTH, here={"A": "1"})
        sides.project.put("A", "2")
        before = sides.bases[BOTH.id]
        sides.run(BOTH)
        sides.bases[BOTH.id] = before
        assert sides.run(BOTH).proposed == ()

    def test_a_new_version_with_the_same_value_is_only_remembered(self):
        sides = settled(BOTH, here={"A": "1"})
        sides.vault.put("A", "1")
        made = sides.run(BOTH)
        assert (made.proposed, made.learn[0].their_version) == ((), "v2")


class TestConflicts:
    @pytest.fixture
    def torn(self):
        sides = settled(BOTH, here={"A": "1"})
        sides.project.put("A", "ours")
        sides.vault.put("A", "theirs")
        return sides

    @pytest.mark.parametrize(
        ("strategy", "outcome"),
        [
            (Strategy.MANUAL, None),
            (Strategy.MAZEVAULT_WINS, ("update_there", Reason.OURS_WON)),
            (Strategy.EXTERNAL_WINS, ("update_here", Reason.THEIRS_WON)),
            (Strategy.MOST_RECENT_WINS, ("update_here", Reason.THEIRS_WON)),
        ],
    )
    def test_are_decided_by_the_strategy(self, torn, strategy, outcome):
        made = torn.plan(replace(BOTH, strategy=strategy))
        assert [(action.kind.value, action.reason) for action in made.proposed] == ([outcome] if outcome else [])
        assert reasons(made) == ({} if outcome else {"A": Reason.CONFLICT})

    def test_at_the_same_moment_a_person_decides(self, torn):
        torn.vault.secrets["a"].changed_at = torn.project.secrets["A"].changed_at
        assert reasons(torn.plan(replace(BOTH, strategy=Strategy.MOST_RECENT_WINS))) == {"A": Reason.SAME_MOMENT}

    @pytest.mark.parametrize("strategy", Strategy)
    def test_of_a_deletion_here_with_a_change_there_lose_no_change_of_a_person(self, strategy):
        sides = settled(BOTH, here={"A": "1", "B": "1"})
        sides.project.delete("A")
        sides.vault.put("A", "by hand")
        sides.run(replace(BOTH, strategy=strategy))
        assert sides.vault.living()["A"] == "by hand"

    def test_of_a_change_here_with_a_deletion_there_recover_when_the_project_wins(self):
        sides = settled(BOTH, here={"A": "1"})
        sides.project.put("A", "2")
        sides.vault.delete("A")
        made = sides.run(replace(BOTH, strategy=Strategy.MAZEVAULT_WINS))
        assert steps(made) == [("recover_there", "A")]
        assert sides.vault.living() == {"A": "2"}

    @pytest.mark.parametrize(("rule", "strategy"), [(PUSH, Strategy.EXTERNAL_WINS), (PULL, Strategy.MAZEVAULT_WINS)])
    def test_won_by_the_side_that_the_rule_does_not_write_from_change_nothing(self, rule, strategy):
        sides = settled(rule, here={"A": "1"} if rule is PUSH else {}, there={} if rule is PUSH else {"A": "1"})
        sides.project.put("A", "ours")
        sides.vault.put("A", "theirs")
        made = sides.run(replace(rule, strategy=strategy))
        assert made.proposed == ()
        assert reasons(made) == {"A": Reason.KEPT_THERE if rule is PUSH else Reason.KEPT_HERE}


class TestDrift:
    def test_of_the_side_that_follows_is_told_and_left_by_an_incremental_run(self):
        sides = settled(PUSH, here={"A": "1"})
        sides.vault.put("A", "by hand")
        made = sides.run(PUSH)
        assert (made.proposed, reasons(made)) == ((), {"A": Reason.DRIFTED_THERE})

    def test_is_repaired_by_a_full_sync_whose_strategy_says_so(self):
        sides = settled(PUSH, here={"A": "1"})
        sides.vault.put("A", "by hand")
        full = replace(PUSH, mode=Mode.FULL_SYNC)
        assert reasons(sides.run(full)) == {"A": Reason.CONFLICT}
        assert steps(sides.run(replace(full, strategy=Strategy.MAZEVAULT_WINS))) == [("update_there", "A")]
        assert sides.vault.secrets["a"].values == ["1", "by hand", "1"]

    def test_in_the_project_of_a_pull_is_repaired_likewise(self):
        sides = settled(PULL, there={"A": "1"})
        sides.project.put("A", "by hand")
        assert reasons(sides.run(PULL)) == {"A": Reason.DRIFTED_HERE}
        repaired = sides.run(replace(PULL, mode=Mode.FULL_SYNC, strategy=Strategy.EXTERNAL_WINS))
        assert steps(repaired) == [("update_here", "A")]

    @pytest.mark.parametrize("rule", [PUSH, BOTH])
    def test_what_is_absent_there_is_no_deletion_and_a_full_sync_brings_it_back(self, rule):
        sides = settled(rule, here={"A": "1"})
        sides.vault.purge("A")
        assert reasons(sides.run(rule)) == {"A": Reason.ABSENT_THERE}
        assert sides.project.living() == {"A": "1"}
        assert steps(sides.run(replace(rule, mode=Mode.FULL_SYNC))) == [("create_there", "A")]

    @pytest.mark.parametrize("rule", [PULL, BOTH])
    def test_what_is_absent_here_is_no_deletion_and_a_full_sync_brings_it_back(self, rule):
        sides = settled(rule, there={"A": "1"})
        sides.project.lose("A")
        assert reasons(sides.run(rule)) == {"A": Reason.ABSENT_HERE}
        assert sides.vault.living() == {"A": "1"}
        assert steps(sides.run(replace(rule, mode=Mode.FULL_SYNC))) == [("create_here", "A")]

    def test_report_says_how_both_sides_stand_and_proposes_nothing(self):
        sides = settled(BOTH, here={"SAME": "1", "DIFF": "1", "GONE_THERE": "1", "GONE_HERE": "1"})
        sides.vault.put("DIFF", "2")
        sides.vault.delete("GONE-THERE")
        sides.project.delete("GONE_HERE")
        sides.project.put("NEW_HERE", "1")
        sides.vault.put("NEW-THERE", "1")
        sides.vault.put("FOREIGN", "1", owner="rule-other")
        rows = {row.name: row for row in drift(sides.world(BOTH)).rows}
        assert {name: row.standing for name, row in rows.items()} == {
            "SAME": Standing.IN_STEP, "DIFF": Standing.DIFFERS, "GONE-THERE": Standing.DELETED_THERE,
            "GONE-HERE": Standing.DELETED_HERE, "NEW-HERE": Standing.ONLY_HERE, "NEW-THERE": Standing.ONLY_THERE,
            "FOREIGN": Standing.ONLY_THERE,
        }  # fmt: skip
        assert rows["FOREIGN"].held_off is Reason.OWNED_BY_OTHER


class TestOwnership:
    def test_a_name_of_another_rule_is_left_alone_by_every_direction(self, sides):
        sides.project.put("A", "mine")
        sides.vault.put("A", "theirs", owner="rule-other")
        for rule in (PUSH, PULL, BOTH):
            made = sides.run(replace(rule, strategy=Strategy.MAZEVAULT_WINS, adopted=frozenset({"A"})))
            assert (made.proposed, reasons(made)) == ((), {"A": Reason.OWNED_BY_OTHER})

    def test_an_existing_name_is_overwritten_only_after_adoption(self, sides):
        sides.project.put("A", "mine")
        sides.vault.put("A", "somebody's")
        rule = replace(PUSH, strategy=Strategy.MAZEVAULT_WINS)
        assert reasons(sides.run(rule)) == {"A": Reason.NOT_ADOPTED}
        assert steps(sides.run(replace(rule, adopted=frozenset({"a"})))) == [("update_there", "A")]
        assert sides.vault.secrets["a"].values == ["somebody's", "mine"]

    def test_an_existing_secret_here_is_overwritten_only_after_adoption(self, sides):
        sides.project.put("A", "mine")
        sides.vault.put("A", "somebody's")
        rule = replace(PULL, strategy=Strategy.EXTERNAL_WINS)
        assert reasons(sides.run(rule)) == {"A": Reason.NOT_ADOPTED}
        assert steps(sides.run(replace(rule, adopted=frozenset({"A"})))) == [("update_here", "A")]

    def test_adopting_an_equal_name_puts_the_tag_on_it_and_nothing_else(self, sides):
        sides.project.put("A", "1")
        sides.vault.put("A", "1")
        rule = replace(BOTH, adopted=frozenset({"A"}))
        assert steps(sides.run(rule)) == [("claim_there", "A")]
        assert sides.vault.secrets["a"].values == ["1"]
        assert sides.plan(rule).proposed == ()

    @pytest.mark.parametrize("strategy", [Strategy.MANUAL, Strategy.EXTERNAL_WINS, Strategy.MOST_RECENT_WINS])
    def test_an_adopted_name_gets_no_tag_while_both_sides_differ(self, sides, strategy):
        """With the tag, the vault's value would count as the rule's own, and the next run would write over it."""
        rule = replace(PUSH, strategy=strategy, adopted=frozenset({"A"}))
        for _ in range(2):
            sides.project.put("A", "red")
            sides.vault.put("A", "green")
            sides.run(rule)
        assert sides.run(rule).proposed == () and sides.vault.living() == {"A": "green"}
        assert sides.vault.secrets["a"].owner is None

    def test_of_an_adopted_name_the_value_is_carried_before_a_later_run_sets_the_tag(self, sides):
        """The other way round, a run that broke off in between would leave a tag that is not true."""
        sides.project.put("A", "red")
        sides.vault.put("A", "green")
        rule = replace(BOTH, strategy=Strategy.EXTERNAL_WINS, adopted=frozenset({"A"}))
        assert [steps(sides.run(rule)) for _ in range(3)] == [[("update_here", "A")], [("claim_there", "A")], []]

    def test_a_name_without_the_tag_is_not_deleted_until_it_is_adopted(self):
        sides = settled(BOTH, there={"A": "1", "B": "1"})
        sides.project.delete("A")
        assert reasons(sides.run(BOTH)) == {"A": Reason.NOT_OWNED}
        assert steps(sides.run(replace(BOTH, adopted=frozenset({"A"})))) == [("delete_there", "A")]

    @pytest.mark.parametrize("adopted", [frozenset(), frozenset({"A"})])
    def test_a_tombstone_deletes_nothing_there_once_the_memory_is_lost(self, adopted):
        sides = settled(BOTH, here={"A": "1"})
        sides.bases.clear()
        sides.project.delete("A")
        made = sides.run(replace(BOTH, strategy=Strategy.MAZEVAULT_WINS, adopted=adopted))
        assert (made.proposed, reasons(made)) == ((), {"A": Reason.NOT_KNOWN})

    def test_a_secret_here_that_another_rule_wrote_is_not_written(self):
        sides = TwoSides()
        sides.project.put("A", "theirs", owner="rule-other")
        sides.vault.put("A", "mine")
        rule = replace(PULL, strategy=Strategy.EXTERNAL_WINS, adopted=frozenset({"A"}))
        assert reasons(sides.run(rule)) == {"A": Reason.KEY_OWNED_BY_OTHER}

    def test_a_secret_pulled_by_one_rule_may_be_pushed_elsewhere_by_another(self):
        sides = TwoSides()
        sides.project.put("A", "1", owner="rule-other")
        assert steps(sides.run(PUSH)) == [("create_there", "A")]

    def test_names_of_an_earlier_template_are_told_and_left(self):
        sides = settled(PUSH, here={"A": "1"})
        made = sides.run(replace(PUSH, transform="new-{{key}}"))
        assert (steps(made), reasons(made)) == ([("create_there", "new-A")], {"A": Reason.LEFT_BEHIND})
        assert sides.vault.living() == {"A": "1", "new-A": "1"}


class TestSoftDeletedNames:
    def test_are_recovered_instead_of_recreated(self):
        sides = settled(PUSH, here={"A": "1", "B": "1"})
        sides.project.delete("A")
        sides.run(PUSH)
        sides.project.put("A", "2")
        assert steps(sides.run(PUSH)) == [("recover_there", "A")]
        assert sides.vault.secrets["a"].values == ["1", "2"]

    def test_of_somebody_else_are_recovered_only_after_adoption(self, sides):
        sides.vault.put("A", "somebody's")
        sides.vault.delete("A")
        sides.project.put("A", "mine")
        assert reasons(sides.run(PUSH)) == {"A": Reason.NOT_ADOPTED}
        assert steps(sides.run(replace(PUSH, adopted=frozenset({"A"})))) == [("recover_there", "A")]

    def test_of_another_rule_are_left(self, sides):
        sides.vault.put("A", "theirs", owner="rule-other")
        sides.vault.delete("A")
        sides.project.put("A", "mine")
        assert reasons(sides.run(replace(PUSH, adopted=frozenset({"A"})))) == {"A": Reason.OWNED_BY_OTHER}

    def test_that_the_rule_never_knew_delete_nothing_here(self, sides):
        sides.project.put("A", "mine")
        sides.vault.put("A", "old")
        sides.vault.delete("A")
        assert sides.run(PULL).proposed == ()
        assert sides.project.living() == {"A": "mine"}


class TestWhatIsHeldOff:
    @pytest.mark.parametrize("rule", [PUSH, PULL, BOTH])
    @pytest.mark.parametrize(
        ("mark", "reason"),
        [
            ({"usable": False}, Reason.DISABLED_THERE),
            ({"expired": True}, Reason.EXPIRED_THERE),
            ({"certificate": True}, Reason.CERTIFICATE_BACKED),
        ],
    )
    def test_disabled_expired_and_certificate_secrets_are_left_with_the_reason(self, rule, mark, reason):
        sides = settled(rule, here={"A": "1"}, there={"A": "1"})
        for name, value in {**mark, "owner": None}.items():
            setattr(sides.vault.secrets["a"], name, value)
        sides.project.put("A", "2")
        made = sides.run(replace(rule, mode=Mode.FULL_SYNC, strategy=Strategy.MAZEVAULT_WINS))
        assert (made.proposed, reasons(made)) == ((), {"A": reason})

    @pytest.mark.parametrize("rule", [PUSH, BOTH])
    def test_what_the_rule_itself_pushed_and_has_expired_is_followed_by_the_next_value(self, rule):
        sides = settled(rule, here={"A": "1"})
        sides.vault.secrets["a"].expired = True
        assert sides.run(rule).proposed == ()
        sides.project.put("A", "2")
        sides.run(rule)
        assert sides.vault.living() == {"A": "2"}

    def test_an_archived_secret_is_left(self):
        sides = settled(BOTH, here={"A": "1"})
        sides.project.secrets["A"].usable = False
        sides.vault.put("A", "2")
        assert reasons(sides.run(BOTH)) == {"A": Reason.INACTIVE_HERE}

    def test_a_value_that_could_not_be_read_is_not_guessed(self):
        sides = settled(BOTH, here={"A": "1"})
        sides.vault.put("A", "2")
        unread = replace(sides.world(BOTH), theirs=sides.vault.facts())
        assert reasons(plan(unread)) == {"A": Reason.NOT_READ}

    def test_only_names_with_a_version_the_rule_does_not_know_are_read(self):
        sides = settled(BOTH, here={"A": "1", "B": "1"})
        sides.vault.put("B", "2")
        assert [each.name for each in sides.world(BOTH).theirs if each.digest] == ["B"]

    def test_a_paused_rule_shows_its_plan_and_does_nothing(self):
        sides = settled(PUSH, here={"A": "1"})
        sides.project.put("A", "2")
        made = sides.run(replace(PUSH, paused=True))
        assert (made.verdict, made.actions, steps(made)) == (Verdict.PAUSED, (), [("update_there", "A")])


class TestNames:
    @pytest.mark.parametrize("keys", [("DB_PASSWORD", "DB-PASSWORD"), ("db.url", "db_url"), ("Token", "TOKEN")])
    def test_two_keys_for_one_name_refuse_the_run_and_are_both_named(self, sides, keys):
        for key in keys:
            sides.project.put(key, "x")
        made = sides.run(PUSH)
        assert (made.verdict, made.actions) == (Verdict.REFUSED, ())
        assert made.refusals[0].code is Refusal.NAME_COLLISION
        assert all(key in made.refusals[0].text for key in keys)

    def test_a_renamed_key_that_gives_the_same_name_is_no_collision(self):
        sides = settled(PUSH, here={"DB_PASSWORD": "1"})
        sides.project.delete("DB_PASSWORD")
        sides.project.put("DB-PASSWORD", "2")
        assert steps(sides.run(PUSH)) == [("update_there", "DB-PASSWORD")]

    @pytest.mark.parametrize("key", ["a b", "ä", "a/b", "k" * 128])
    def test_a_key_without_a_name_is_left_and_the_others_go_on(self, sides, key):
        sides.project.put(key, "x")
        sides.project.put("GOOD", "x")
        made = sides.run(PUSH)
        assert (steps(made), reasons(made)) == ([("create_there", "GOOD")], {key: Reason.NAME_INVALID})

    @pytest.mark.parametrize(
        ("template", "environment"),
        [("{{name}}", ""), ("fixed", ""), ("{{key}}{{key}}", ""), ("{{environment}}-{{key}}", ""), ("a_b-{{key}}", "x"),
         ("{{key}}" + "x" * 127, "")],
    )  # fmt: skip
    def test_a_template_that_makes_no_reversible_names_is_refused(self, template, environment):
        made = plan(replace(TwoSides().world(PUSH), rule=replace(PUSH, transform=template, environment=environment)))
        assert [refusal.code for refusal in made.refusals] == [Refusal.TEMPLATE_INVALID]
        assert made.refusals[0].text.startswith("key_transform_template: ")

    def test_only_names_of_the_template_are_pulled(self, sides):
        rule = replace(PULL, transform="{{environment}}-{{key}}-x", environment="dev")
        sides.vault.put("dev-A-x", "1")
        sides.vault.put("prod-A-x", "2")
        sides.vault.put("dev--x", "3")
        sides.vault.put("dev-x", "4")
        sides.run(rule)
        assert sides.project.living() == {"A": "1"}


class TestUnseen:
    """The newest version there is the rule's own write, of which it never heard."""

    def made(self, rule, here, unseen=True):
        sides = settled(BOTH, here={"A": "1"})
        sides.vault.put("A", "2", BOTH.id, "A")
        here(sides.project)
        world = sides.world(rule)
        return plan(replace(world, theirs=tuple(replace(each, unseen=unseen) for each in world.theirs)))

    @pytest.mark.parametrize("strategy", Strategy)
    def test_is_nobodys_change_so_the_projects_newer_value_goes_there(self, strategy):
        made = self.made(replace(BOTH, strategy=strategy), lambda project: project.put("A", "3"))
        assert [(action.kind, action.reason) for action in made.actions] == [(ActionKind.UPDATE_THERE, Reason.CHANGED_HERE)]

    def test_does_not_come_back_as_the_value_of_a_project_that_did_not_move(self):
        made = self.made(BOTH, lambda project: None)
        assert [(action.kind, action.reason) for action in made.actions] == [(ActionKind.UPDATE_THERE, Reason.OVERTAKEN)]

    def test_is_deleted_with_the_secret(self):
        assert steps(self.made(BOTH, lambda project: project.delete("A"))) == [("delete_there", "A")]

    def test_is_kept_when_the_project_has_no_trace_of_it(self):
        assert steps(self.made(BOTH, lambda project: project.lose("A"))) == []

    def test_a_tag_alone_is_no_sign(self):
        made = self.made(BOTH, lambda project: project.put("A", "3"), unseen=False)
        assert [note.reason for note in made.notes] == [Reason.CONFLICT]


class TestBudget:
    def filled(self, count, rule=PUSH):
        return settled(rule, here={f"K{number:03d}": "1" for number in range(count)})

    def test_more_deletions_than_the_count_stop_the_run_before_anything_is_done(self):
        sides = self.filled(200)
        for number in range(11):
            sides.project.delete(f"K{number:03d}")
        sides.project.put("NEW", "1")
        writes = sides.vault.writes
        made = sides.run(PUSH)
        assert (made.verdict, made.actions, made.deletions) == (Verdict.REFUSED, (), 11)
        assert made.refusals[0].code is Refusal.DELETION_BUDGET
        assert sides.vault.writes == writes

    def test_more_than_the_percentage_stop_it_too(self):
        sides = self.filled(30)
        for number in range(4):
            sides.project.delete(f"K{number:03d}")
        assert sides.run(PUSH).refusals[0].code is Refusal.DELETION_BUDGET

    def test_within_both_it_goes_on(self):
        sides = self.filled(30)
        for number in range(3):
            sides.project.delete(f"K{number:03d}")
        assert sides.run(PUSH).verdict is Verdict.READY

    def test_one_deletion_of_few_is_within_the_percentage(self):
        sides = self.filled(2)
        sides.project.delete("K000")
        assert sides.run(PUSH).verdict is Verdict.READY

    def test_a_count_of_zero_forbids_deletions(self):
        sides = self.filled(2)
        sides.project.delete("K000")
        assert sides.run(replace(PUSH, budget=DeletionBudget(0, 100))).verdict is Verdict.REFUSED

    def test_deletions_there_are_counted_like_deletions_here(self):
        sides = settled(PULL, there={f"K{number:03d}": "1" for number in range(100)})
        for number in range(100):
            sides.vault.delete(f"K{number:03d}")
        assert sides.run(PULL).refusals[0].code is Refusal.DELETION_BUDGET
        assert len(sides.project.living()) == 100

    def test_a_list_that_broke_off_refuses_the_run(self):
        sides = self.filled(3)
        made = plan(replace(sides.world(PUSH), listed_all=False))
        assert (made.actions, made.refusals[0].code) == ((), Refusal.LISTING_INCOMPLETE)


class TestUndo:
    def busy(self):
        sides = settled(BOTH, here={"UP": "1", "DEL": "1", "LATE": "1"}, there={"DOWN": "1", "GONE": "1"})
        sides.history.clear()
        before = (sides.project.living(), sides.vault.living())
        sides.project.put("UP", "2")
        sides.project.delete("DEL")
        sides.project.put("NEW", "1")
        sides.vault.put("DOWN", "2")
        sides.vault.delete("GONE")
        sides.vault.put("NEWER", "1")
        edited = (sides.project.living(), sides.vault.living())
        sides.run(replace(BOTH, budget=ROOMY))
        return sides, before, edited

    def undone(self, sides, confirmed=None):
        return undo(BOTH, sides.history, sides.project.facts(), sides.vault.facts(), confirmed)

    def test_brings_both_sides_back_to_where_the_run_found_them(self):
        sides, _, edited = self.busy()
        history, base = list(sides.history), sides.bases[BOTH.id]
        shown = self.undone(sides)
        assert (shown.verdict, shown.actions) == (Verdict.NEEDS_CONFIRMATION, ())
        for action in self.undone(sides, agreed(shown)).actions:
            sides.step(action, BOTH)
        assert (sides.project.living(), sides.vault.living()) == edited
        assert {item.name: item.digest for item in remembered_before(base, history).items}.keys() == {
            "UP", "DEL", "LATE", "DOWN", "GONE",
        }  # fmt: skip

    def test_goes_on_after_an_interruption_with_the_steps_that_are_left(self):
        sides, _, edited = self.busy()
        history = list(sides.history)
        shown = self.undone(sides)
        for action in shown.proposed[:3]:
            sides.step(action, BOTH)
        rest = undo(BOTH, history, sides.project.facts(), sides.vault.facts(), agreed(shown))
        assert (rest.verdict, {a.name for a in rest.actions}) == (Verdict.READY, {a.name for a in shown.proposed[3:]})
        for action in rest.actions:
            sides.step(action, BOTH)
        assert (sides.project.living(), sides.vault.living()) == edited

    def test_leaves_what_changed_since(self):
        sides, _, _ = self.busy()
        sides.vault.put("UP", "newest")
        sides.project.put("DOWN", "newest")
        shown = self.undone(sides)
        assert {note.name: note.reason for note in shown.notes} == {"UP": Reason.CHANGED_SINCE, "DOWN": Reason.CHANGED_SINCE}
        assert self.undone(sides, Confirmation("another", frozenset())).verdict is Verdict.CONFIRMATION_STALE

    def test_brings_back_the_value_of_an_adopted_name_and_takes_its_tag_off(self, sides):
        sides.project.put("A", "mine")
        sides.vault.put("A", "somebody's")
        rule = replace(BOTH, strategy=Strategy.EXTERNAL_WINS, adopted=frozenset({"A"}))
        assert [steps(sides.run(rule)) for _ in range(2)] == [[("update_here", "A")], [("claim_there", "A")]]
        assert sides.vault.secrets["a"].owner == rule.id
        for action in self.undone(sides).proposed:
            sides.step(action, BOTH)
        assert (sides.project.living(), sides.vault.secrets["a"].owner) == ({"A": "mine"}, None)

    def test_of_a_list_that_broke_off_nothing_is_planned(self):
        sides, _, _ = self.busy()
        made = undo(BOTH, sides.history, sides.project.facts(), (), listed_all=False)
        assert (made.verdict, made.refusals[0].code, made.notes) == (Verdict.REFUSED, Refusal.LISTING_INCOMPLETE, ())

    @pytest.mark.parametrize("other", [{"owner": None}, {"digest": "another"}])
    def test_takes_back_no_secret_that_only_has_the_key_and_the_version(self, other):
        sides, _, _ = self.busy()
        ours = [replace(each, **other) if each.key in ("NEWER", "DOWN") else each for each in sides.project.facts()]
        shown = undo(BOTH, sides.history, ours, sides.vault.facts())
        left = {note.name: note.reason for note in shown.notes}
        assert left == {"NEWER": Reason.CHANGED_SINCE, "DOWN": Reason.CHANGED_SINCE}

    def test_recovers_only_the_version_that_was_deleted(self):
        sides, _, _ = self.busy()
        theirs = [replace(each, buried_version="v9") if each.deleted else each for each in sides.vault.facts()]
        assert ("DEL", Reason.CHANGED_SINCE) in {
            (note.name, note.reason) for note in undo(BOTH, sides.history, sides.project.facts(), theirs).notes
        }

    def test_says_what_cannot_be_recovered(self):
        sides, _, _ = self.busy()
        sides.vault.purge("DEL")
        assert ("DEL", Reason.GONE_FOR_GOOD) in {(note.name, note.reason) for note in self.undone(sides).notes}

    def test_touches_no_name_that_another_rule_took_over(self):
        sides, _, _ = self.busy()
        sides.vault.secrets["new"].owner = "rule-other"
        assert ("NEW", Reason.OWNED_BY_OTHER) in {(note.name, note.reason) for note in self.undone(sides).notes}


def test_a_step_whose_world_moved_no_longer_holds():
    sides = settled(PUSH, here={"A": "1"})
    sides.project.put("A", "2")
    action = sides.plan(PUSH).actions[0]
    ours, theirs = sides.project.facts()[0], sides.vault.facts()[0]
    assert still_holds(action, ours, theirs, PUSH)
    assert not still_holds(action, replace(ours, version=9), theirs, PUSH)
    assert not still_holds(action, ours, replace(theirs, version="v9"), PUSH)
    assert not still_holds(action, ours, replace(theirs, deleted=True), PUSH)
    assert not still_holds(action, ours, replace(theirs, owner="rule-other"), PUSH)
    assert not still_holds(action, ours, None, PUSH)


def test_every_word_has_its_sentence():
    assert set(SENTENCES) == set(Reason)
    assert set(MEANING) == set(ActionKind)
    assert set(REVERSED) | set(REVERSED.values()) == set(ActionKind)


def test_a_plan_counts_its_steps_and_is_json():
    sides = settled(PUSH, here={"A": "1"})
    sides.project.put("A", "2")
    sides.project.put("a b", "2")
    made = sides.plan(PUSH)
    assert made.counts() == {"update_there": 1, "left_name_invalid": 1}
    assert json.loads(json.dumps(made.as_json()))["verdict"] == "ready"


def test_no_value_is_in_a_plan():
    sides = settled(BOTH, here={"A": "canary-1", "B": "canary-2"}, there={"C": "canary-3"})
    sides.project.put("A", "canary-4")
    sides.vault.put("C", "canary-5")
    sides.vault.put("NEW", "canary-6")
    sides.project.delete("B")
    made, world = sides.plan(BOTH), sides.world(BOTH)
    sides.run(BOTH)
    back = undo(BOTH, sides.history, sides.project.facts(), sides.vault.facts())
    for shown in (made, back, world, drift(world), sides.history, json.dumps(made.as_json()), json.dumps(back.as_json())):
        assert "canary" not in repr(shown)
    assert "canary-4" in sides.vault.living().values()  # the values did travel
