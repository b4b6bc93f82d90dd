"""What users of other products reported as lost, deleted or overwritten, replayed one by one: nothing is lost here.

Each test names the report it replays. A secret counts as lost when its value was live on a side, nobody deleted it, and it is no
longer live there afterwards.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from integrations.sync.facts import DeletionBudget, Direction, Mode, Rule, Strategy
from integrations.sync.words import ActionKind, Reason, Refusal, Verdict
from tests.fakes.two_sides import TwoSides

PUSH = Rule("rule-a", "kv-one", Direction.PUSH)
PULL = replace(PUSH, direction=Direction.PULL)
BOTH = replace(PUSH, direction=Direction.BIDIRECTIONAL)
WIPING = {"mode": Mode.FULL_SYNC, "strategy": Strategy.MAZEVAULT_WINS}
"""The settings most likely to wipe: a full sync in which MazeVault is always right."""
EXISTING = {"API-TOKEN": "t", "SENTRY-DSN": "s", "STRIPE-KEY": "k"}


@pytest.fixture
def sides():
    return TwoSides()


def fill(sides, here=(), there=()):
    for key, value in dict(here).items():
        sides.project.put(key, value)
    for name, value in dict(there).items():
        sides.vault.put(name, value)


def assert_kept(sides, there=(), here=()):
    assert {name: sides.vault.living().get(name) for name in dict(there)} == dict(there)
    assert {key: sides.project.living().get(key) for key in dict(here)} == dict(here)


class TestFirstSyncWipesTheDestination:
    @pytest.mark.parametrize("direction", [Direction.PUSH, Direction.BIDIRECTIONAL])
    def test_infisical_1090_secrets_without_a_partner_are_wiped_while_values_are_still_being_entered(self, sides, direction):
        fill(sides, there=EXISTING)
        rule = replace(PUSH, direction=direction, **WIPING)
        for number in range(3):
            sides.project.put(f"NEW_{number}", "x")
            sides.run(rule)
        assert_kept(sides, there=EXISTING)
        assert len(sides.vault.living()) == 6

    def test_infisical_1050_a_variable_set_by_hand_goes_away_when_others_are_synced(self, sides):
        fill(sides, here={"A": "1", "B": "1"}, there={"BY-HAND": "x"})
        sides.run(replace(PUSH, **WIPING))
        sides.project.put("C", "1")
        sides.run(replace(PUSH, **WIPING))
        assert_kept(sides, there={"BY-HAND": "x"})

    def test_infisical_431_variables_of_another_integration_are_overwritten(self, sides):
        fill(sides, here={"SENTRY_DSN": "mine"}, there=EXISTING)
        made = sides.run(replace(PUSH, **WIPING))
        assert [note.reason for note in made.notes] == [Reason.NOT_ADOPTED]
        assert_kept(sides, there=EXISTING)

    def test_infisical_1711_deleting_the_integration_and_adding_it_again_deletes_everything(self, sides):
        """The new rule has the template of the former one, whose tag holds it off: nothing is deleted, and nothing written."""
        fill(sides, here={"A": "1", "B": "1"}, there=EXISTING)
        sides.run(replace(PUSH, **WIPING))
        again, writes = replace(PUSH, id="rule-again", **WIPING), sides.vault.writes
        for _ in range(2):
            made = sides.run(again)
            assert (made.verdict, made.proposed) == (Verdict.READY, ())
            assert [(note.name, note.reason) for note in made.notes] == [(name, Reason.OWNED_BY_OTHER) for name in "AB"]
        sides.project.put("A", "2")
        sides.project.delete("B")
        assert [(note.name, note.reason) for note in sides.run(again).notes] == [("A", Reason.OWNED_BY_OTHER)]
        assert sides.vault.living() == {**EXISTING, "A": "1", "B": "1"} and sides.vault.writes == writes

    def test_infisical_1711_nor_does_adding_it_again_with_another_template(self, sides):
        fill(sides, here={"A": "1"}, there=EXISTING)
        sides.run(replace(PUSH, **WIPING))
        sides.run(replace(PUSH, id="rule-again", transform="folder-{{key}}", **WIPING))
        assert sides.vault.living() == {**EXISTING, "A": "1", "folder-A": "1"}

    def test_infisical_3173_the_first_sync_of_an_empty_project_deletes_all_secrets(self, sides):
        fill(sides, there=EXISTING)
        made = sides.run(replace(PUSH, **WIPING))
        assert made.proposed == ()
        assert_kept(sides, there=EXISTING)

    def test_infisical_3173_nothing_at_all_happens_before_the_preview_is_confirmed(self, sides):
        fill(sides, here={"A": "1"}, there=EXISTING)
        assert sides.plan(replace(PUSH, **WIPING)).actions == ()

    def test_terraform_provider_infisical_234_the_warning_is_a_preview_that_names_every_secret(self, sides):
        fill(sides, here={"SENTRY_DSN": "mine", "NEW": "1"}, there=EXISTING)
        shown = sides.plan(replace(PUSH, adopted=frozenset({"SENTRY-DSN"}), **WIPING))
        assert [(action.kind, action.name) for action in shown.proposed] == [
            (ActionKind.CREATE_THERE, "NEW"),
            (ActionKind.UPDATE_THERE, "SENTRY-DSN"),
        ]

    def test_a_first_pull_does_not_overwrite_the_project(self, sides):
        fill(sides, here={"API_TOKEN": "mine"}, there=EXISTING)
        sides.run(replace(PULL, mode=Mode.FULL_SYNC, strategy=Strategy.EXTERNAL_WINS))
        assert_kept(sides, here={"API_TOKEN": "mine"}, there=EXISTING)


class TestTwoSyncsUndoEachOther:
    def test_infisical_4318_two_syncs_into_one_place_delete_each_others_secrets(self, sides):
        other = TwoSides(clock=sides.clock)
        other.vault = sides.vault
        fill(sides, here={"A": "1", "B": "1"})
        fill(other, here={"C": "1"})
        first, second = replace(PUSH, **WIPING), replace(PUSH, id="rule-b", **WIPING)
        for _ in range(5):
            sides.run(first)
            other.run(second)
        assert sides.vault.living() == {"A": "1", "B": "1", "C": "1"}

    def test_infisical_4404_two_syncs_with_the_same_key_overwrite_each_other_for_ever(self, sides):
        other = TwoSides(clock=sides.clock)
        other.vault = sides.vault
        fill(sides, here={"A": "first"})
        fill(other, here={"A": "second"})
        first, second = replace(PUSH, **WIPING), replace(PUSH, id="rule-b", adopted=frozenset({"A"}), **WIPING)
        sides.run(first)
        for _ in range(5):
            assert [note.reason for note in other.run(second).notes] == [Reason.OWNED_BY_OTHER]
            sides.run(first)
        assert sides.vault.secrets["a"].values == ["first"]

    def test_infisical_4318_nor_does_ending_one_of_them(self, sides):
        other = TwoSides(clock=sides.clock)
        other.vault = sides.vault
        fill(sides, here={"A": "1"})
        fill(other, here={"A": "1", "C": "1"})
        sides.run(PUSH)
        other.run(replace(PUSH, id="rule-b"))
        other.project.delete("A")
        other.project.delete("C")
        other.run(replace(PUSH, id="rule-b"))
        assert sides.vault.living() == {"A": "1"}

    def test_eso_5856_two_controllers_rewrite_one_secret_in_a_loop(self, sides):
        fill(sides, here={"DB": "1"})
        sides.run(PUSH)
        for round_ in range(5):
            sides.vault.put("DB", f"1 and what the operator adds {round_}")
            writes = sides.vault.writes
            assert [note.reason for note in sides.run(PUSH).notes] == [Reason.DRIFTED_THERE]
            assert sides.vault.writes == writes


class TestProtectionThatDoesNotProtect:
    @pytest.mark.parametrize("rule", [PUSH, PULL, BOTH])
    @pytest.mark.parametrize("mode", Mode)
    @pytest.mark.parametrize("strategy", Strategy)
    def test_infisical_7609_one_way_of_syncing_ignores_the_deletion_protection(self, rule, mode, strategy):
        sides = TwoSides()
        rule = replace(rule, mode=mode, strategy=strategy, budget=DeletionBudget(0, 0))
        fill(sides, here={f"K{number}": "1" for number in range(9)}, there={f"K{number}": "1" for number in range(9)})
        sides.run(replace(rule, adopted=frozenset(f"K{number}" for number in range(9))))
        for number in range(4):
            sides.project.delete(f"K{number}")
            sides.vault.delete(f"K{number + 4}")
        there, here = sides.vault.living(), sides.project.living()
        made = sides.run(rule)
        assert not any(action.kind in (ActionKind.DELETE_HERE, ActionKind.DELETE_THERE) for action in made.actions)
        assert_kept(sides, there=there, here=here)

    def test_a_script_that_empties_the_vault_does_not_empty_the_project(self, sides):
        names = {f"K{number}": "1" for number in range(50)}
        fill(sides, there=names)
        sides.run(PULL)
        for name in names:
            sides.vault.delete(name)
        assert sides.run(PULL).refusals[0].code is Refusal.DELETION_BUDGET
        assert_kept(sides, here=names)

    def test_a_vault_that_answers_with_an_empty_list_deletes_and_recreates_nothing(self, sides):
        names = {f"K{number}": "1" for number in range(50)}
        fill(sides, there=names)
        sides.run(BOTH)
        hidden, sides.vault.secrets = sides.vault.secrets, {}
        assert sides.run(BOTH).proposed == ()
        sides.vault.secrets = hidden
        assert sides.run(BOTH).proposed == ()
        assert_kept(sides, here=names, there=names)


class TestTheStoreChanges:
    def test_eso_5062_pointing_the_rule_at_another_store_deletes_the_secret_in_the_first_one(self, sides):
        fill(sides, here={"TOP_SECRET": "x"})
        sides.run(PUSH)
        first = sides.vault
        sides.vault = TwoSides(clock=sides.clock).vault
        moved = replace(PUSH, target="kv-two", **WIPING)
        assert sides.plan(moved).verdict is Verdict.NEEDS_CONFIRMATION
        sides.run(moved)
        assert first.living() == sides.vault.living() == {"TOP-SECRET": "x"}

    def test_eso_5062_two_names_for_the_same_store_delete_nothing_either(self, sides):
        fill(sides, here={"TOP_SECRET": "x"})
        sides.run(PUSH)
        made = sides.run(replace(PUSH, target="kv-one-by-another-name", **WIPING))
        assert made.proposed == ()
        assert_kept(sides, there={"TOP-SECRET": "x"})

    def test_eso_5062_a_pull_from_another_store_deletes_nothing_here(self, sides):
        fill(sides, there={"A": "1"})
        sides.run(PULL)
        sides.vault = TwoSides(clock=sides.clock).vault
        sides.run(replace(PULL, target="kv-two", mode=Mode.FULL_SYNC, strategy=Strategy.EXTERNAL_WINS))
        assert_kept(sides, here={"A": "1"})


class TestSoftDeletedNamesBlockWrites:
    @pytest.mark.parametrize("report", ["eso-3519", "eso-6692"])
    def test_a_soft_deleted_name_blocks_the_push(self, sides, report):
        fill(sides, here={"EXAMPLE": "1"})
        sides.run(PUSH)
        sides.vault.delete("EXAMPLE")
        sides.project.put("EXAMPLE", report)
        rule = replace(PUSH, strategy=Strategy.MAZEVAULT_WINS)
        assert [action.kind for action in sides.run(rule).actions] == [ActionKind.RECOVER_THERE]
        assert sides.vault.secrets["example"].values == ["1", report]

    def test_eso_6692_recovering_does_not_bring_somebody_elses_secret_back_unasked(self, sides):
        fill(sides, here={"EXAMPLE": "1"}, there={"EXAMPLE": "somebody's"})
        sides.vault.delete("EXAMPLE")
        assert [note.reason for note in sides.run(replace(PUSH, **WIPING)).notes] == [Reason.NOT_ADOPTED]
        assert sides.vault.secrets["example"].values == ["somebody's"]

    def test_eso_2830_a_name_in_its_recovery_window_cannot_be_created_again(self, sides):
        fill(sides, here={"A": "1"})
        sides.run(PUSH)
        sides.project.delete("A")
        sides.run(PUSH)
        sides.project.put("A", "2")
        sides.run(PUSH)
        assert sides.vault.secrets["a"].values == ["1", "2"]
        assert_kept(sides, there={"A": "2"})


class TestOverwritingAndAdopting:
    def test_eso_2643_a_regenerated_password_overwrites_the_one_in_the_store(self, sides):
        fill(sides, here={"DB": "generated"})
        sides.run(PUSH)
        sides.project.secrets.clear()
        sides.bases.clear()
        sides.vault.put("DB", "in use")
        fill(sides, here={"DB": "generated again"})
        sides.run(replace(PUSH, **WIPING))
        assert_kept(sides, there={"DB": "in use"})

    def test_eso_3703_an_existing_secret_can_be_adopted_but_only_by_its_name(self, sides):
        fill(sides, here={"A": "new", "B": "new"}, there={"A": "old", "B": "old"})
        sides.run(replace(PUSH, adopted=frozenset({"A"}), **WIPING))
        assert sides.vault.living() == {"A": "new", "B": "old"}
        assert sides.vault.secrets["a"].values == ["old", "new"]

    def test_eso_2245_a_paused_rule_leaves_what_a_person_tries_out(self, sides):
        fill(sides, here={"A": "1"})
        rule = replace(PUSH, **WIPING)
        sides.run(rule)
        sides.vault.put("A", "by hand")
        sides.project.put("A", "2")
        assert sides.run(replace(rule, paused=True)).actions == ()
        assert_kept(sides, there={"A": "by hand"})

    def test_eso_4560_a_deletion_in_the_store_is_not_carried_and_only_reported_as_an_error(self, sides):
        fill(sides, there={"A": "1", "B": "1"})
        sides.run(PULL)
        sides.vault.delete("A")
        sides.run(PULL)
        assert sides.project.living() == {"B": "1"}
        assert sides.project.secrets["A"].values == ["1"]  # a tombstone, restorable

    def test_key_vault_to_kubernetes_759_deleting_one_of_many_keys_is_carried(self, sides):
        fill(sides, here={f"K{number}": "1" for number in range(20)})
        sides.run(PUSH)
        sides.project.delete("K7")
        sides.run(PUSH)
        assert sides.vault.living().keys() == {f"K{number}" for number in range(20)} - {"K7"}


class TestPollingCost:
    @pytest.mark.parametrize("report", ["csi-azure-722", "csi-azure-606", "akv2k8s-160", "akv2k8s-732"])
    def test_a_run_without_changes_reads_no_value_and_writes_nothing(self, sides, report):
        fill(sides, there={f"{report}-{number}": "1" for number in range(200)})
        sides.run(PULL)
        writes = sides.vault.writes
        assert [each for each in sides.world(PULL).theirs if each.digest] == []
        assert sides.run(PULL).proposed == ()
        assert sides.vault.writes == writes

    def test_removed_keys_do_not_linger(self, sides):
        fill(sides, there={"A": "1", "B": "1"})
        sides.run(PULL)
        sides.vault.delete("A")
        sides.run(PULL)
        sides.vault.purge("A")
        made = sides.run(PULL)
        assert (made.notes, [item.name for item in sides.bases[PULL.id].items]) == ((), ["B"])
