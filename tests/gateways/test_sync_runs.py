"""Sync runs from a person's request to the last step in the vault and back: real channel, real Azure client, real rows."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from accounts import roles
from accounts.models import Environment, Project, User
from common.clock import now
from common.models import AuditEntry
from gateway_runtime import sync_facts, sync_run, sync_vault
from gateways import dispatch, sync_runs
from gateways.models import Task
from integrations.azure.errors import OutcomeUnknown, RoleMissing
from integrations.azure.keyvault import KeyVault
from integrations.models import SyncItem, SyncNote, SyncRule, SyncRun, SyncStep
from integrations.sync.told import action_of
from protocol import paths, sync
from protocol.storage import MoveProgress
from sandbox.azure.server import Sandbox
from tests.conftest import Person, fleet_of
from tests.gateways.sync_desk import Killed, Line, SyncDesk
from tests.gateways.vault_desk import Leased, be_on, cloud_of, sandbox_vault
from vault.models import Secret, SecretVersion

pytestmark = pytest.mark.usefixtures("primary")


@pytest.fixture
def desk(admin: Person, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> SyncDesk:
    return SyncDesk(admin, sandbox, monkeypatch)


class TestFirstRun:
    def test_is_a_preview_until_a_person_confirms_its_digest(self, desk: SyncDesk) -> None:
        desk.with_rule().put("DB_PASSWORD", "one")
        shown = desk.run("preview")
        assert (shown["state"], shown["verdict"], shown["planned"]) == ("planned", "needs_confirmation", {"create_there": 1})
        assert desk.run()["verdict"] == "needs_confirmation" and desk.there() == {}
        done = desk.run(confirm=shown["digest"])
        assert (done["state"], done["steps"]) == ("succeeded", {"done": 1})
        assert desk.there() == {"DB-PASSWORD": "one"}
        assert desk.run()["planned"] == {}, "the rule is settled and both sides are equal"

    def test_is_not_done_when_the_project_moved_since(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        shown = desk.run("preview")
        desk.put("A", "two")
        assert desk.run(confirm=shown["digest"])["verdict"] == "confirmation_stale" and desk.there() == {}

    def test_a_digest_nobody_saw_confirms_nothing(self, desk: SyncDesk) -> None:
        desk.with_rule()
        status, body = desk.admin.post(f"projects/sync-rules/{desk.rule}/runs", {"phase": "apply", "confirm": "0" * 32})
        assert (status, body["code"]) == (409, "PREVIEW_NOT_FOUND")


class TestCarrying:
    def test_push_takes_changes_there_and_keeps_what_people_tagged(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        desk.first()
        portal = desk.portal()
        portal.update_secret_properties("A", tags={**portal.get_secret("A").properties.tags, "team": "pay"})
        desk.put("A", "two")
        assert desk.run()["state"] == "succeeded" and desk.there() == {"A": "two"}
        tags = portal.get_secret("A").properties.tags
        assert (tags["team"], tags["mazevault-owner"], tags["mazevault-key"], tags["mazevault-epoch"]) == (
            "pay",
            desk.rule,
            "A",
            "1",
        )

    def test_pull_takes_values_here_as_versions_of_the_rule(self, desk: SyncDesk) -> None:
        portal = desk.portal()
        portal.set_secret("app-token", "from the vault")
        desk.with_rule(sync_direction="pull").first()
        assert desk.here() == {"app-token": "from the vault"}
        portal.set_secret("app-token", "newer")
        assert desk.run()["state"] == "succeeded" and desk.here() == {"app-token": "newer"}
        versions = desk.admin.get(f"secrets/{desk.ids()['app-token']}/versions")[1]
        assert {row["created_by"] for row in versions} == {f"sync_rule:{desk.rule}"}

    def test_both_ways_a_pushed_value_does_not_come_back(self, desk: SyncDesk) -> None:
        desk.portal().set_secret("DOWN", "1")
        desk.with_rule(sync_direction="bidirectional").put("UP", "1")
        assert desk.first()["steps"] == {"done": 2}
        assert desk.here() == desk.there() == {"UP": "1", "DOWN": "1"}
        written = len(desk.journal())
        for _ in range(3):
            assert desk.run()["planned"] == {}
        assert len(desk.journal()) == written

    def test_a_deletion_goes_over_as_a_soft_deletion_and_comes_back_as_a_recovery(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        desk.first()
        desk.delete("A")
        assert desk.run()["planned"] == {"delete_there": 1} and desk.there() == {}
        desk.put("A", "again")
        assert desk.run()["planned"] == {"recover_there": 1} and desk.there() == {"A": "again"}

    def test_a_deletion_there_deletes_here_what_the_rule_knew_and_nothing_else(self, desk: SyncDesk) -> None:
        portal = desk.portal()
        for name in ("A", "B"):
            portal.set_secret(name, "x")
        desk.with_rule(sync_direction="pull").first()
        desk.put("OWN", "never in the vault")
        portal.begin_delete_secret("A").wait()
        assert desk.run()["planned"] == {"delete_here": 1} and desk.here() == {"B": "x", "OWN": "never in the vault"}

    def test_the_deletion_budget_stops_the_whole_run(self, desk: SyncDesk) -> None:
        desk.with_rule()
        for number in range(4):
            desk.put(f"K{number}", "x")
        desk.first()
        for number in range(3):
            desk.delete(f"K{number}")
        desk.put("NEW", "x")
        refused = desk.run()
        assert (refused["state"], refused["verdict"]) == ("planned", "refused")
        assert refused["refusals"][0]["code"] == "deletion_budget" and len(desk.there()) == 4
        assert desk.run(deletion_count=10, deletion_percent=100)["steps"] == {"done": 4}
        assert desk.there() == {"K3": "x", "NEW": "x"}

    def test_names_are_made_by_the_template_and_lead_back(self, desk: SyncDesk) -> None:
        desk.with_rule(key_transform_template="{{environment}}-{{key}}", sync_direction="bidirectional")
        desk.put("db.password", "1")
        desk.first()
        assert desk.there() == {"dev-db-password": "1"}
        desk.portal().set_secret("dev-db-password", "2", tags={})
        assert desk.run()["state"] == "succeeded" and desk.here() == {"db.password": "2"}

    def test_a_conflict_waits_for_a_person(self, desk: SyncDesk) -> None:
        desk.with_rule(sync_direction="bidirectional").put("A", "one")
        desk.first()
        desk.put("A", "mine")
        desk.portal().set_secret("A", "theirs")
        left = desk.run()
        assert (left["planned"], left["left_alone"], desk.notes(left["id"])) == ({}, {"conflict": 1}, {"A": "conflict"})
        assert (desk.here(), desk.there()) == ({"A": "mine"}, {"A": "theirs"})

    def test_a_value_the_vault_cannot_hold_fails_alone(self, desk: SyncDesk) -> None:
        desk.with_rule()
        desk.put("BIG", "x" * 30_000)
        desk.put("SMALL", "y")
        done = desk.first()
        assert (done["state"], done["steps"]) == ("incomplete", {"done": 1, "failed": 1}) and desk.there() == {"SMALL": "y"}
        rows = desk.admin.get(f"projects/sync-runs/{done['id']}/steps")[1]
        assert [row["code"] for row in rows if row["state"] == "failed"] == ["VALUE_TOO_LARGE"]
        assert desk.run()["planned"] == {"create_there": 1}, "the rule is settled; what failed is proposed again"

    def test_adopting_claims_a_name_without_a_new_version(self, desk: SyncDesk) -> None:
        desk.portal().set_secret("A", "same")
        desk.with_rule().put("A", "same")
        desk.setup(adopted=["A"])
        before = desk.portal().get_secret("A").properties.version
        assert desk.first()["planned"] == {"claim_there": 1}
        now = desk.portal().get_secret("A").properties
        assert (now.version, now.tags["mazevault-owner"]) == (before, desk.rule)

    def test_two_rules_cannot_own_a_name(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        desk.first()
        desk.with_rule(name="other")
        desk.put("A", "two")
        seen = desk.run("preview")
        assert (seen["planned"], seen["left_alone"]) == ({}, {"owned_by_other": 1})

    def test_names_of_a_deleted_rule_of_the_project_can_be_adopted(self, desk: SyncDesk) -> None:
        """As when Terraform destroys a rule and creates it again."""
        desk.with_rule(name="first").put("A", "one")
        desk.put("B", "one")
        desk.first()
        assert desk.admin.delete(f"projects/sync-rules/{desk.rule}")[0] == 204
        desk.with_rule(name="second", conflict_strategy="mazevault_wins")
        desk.put("A", "two")
        left = desk.run("preview")
        assert (left["planned"], desk.notes(left["id"])) == ({}, {"A": "not_adopted"}), "it is not taken over unasked"
        desk.setup(adopted=["A", "B"])
        done = desk.first()
        assert (done["state"], done["planned"]) == ("succeeded", {"update_there": 1, "claim_there": 1})
        assert desk.there() == {"A": "two", "B": "one"}
        tags = [desk.portal().get_secret(name).properties.tags["mazevault-owner"] for name in "AB"]
        assert tags == [desk.rule, desk.rule]

    def test_tags_that_this_project_does_not_know_stay_somebody_elses(self, desk: SyncDesk) -> None:
        other = desk.made("projects", {"name": "other"})
        wish = {"name": "v", "type": "key_vault", "provider": "azure_key_vault", "environment": "dev",
                "config": {"vault_url": desk.url}}  # fmt: skip
        mine = desk.made(f"projects/{other}/integrations", wish)
        theirs = desk.made(f"projects/{other}/sync-rules", {"name": "r", "integration_id": mine, "sync_direction": "push"})
        assert desk.admin.delete(f"projects/sync-rules/{theirs}")[0] == 204
        marks = {"mazevault-epoch": "1", "mazevault-operation": "x"}
        owners = {"A": theirs, "B": str(uuid.uuid4()), "C": f"project:{other}/{uuid.uuid4()}"}
        desk.with_rule(conflict_strategy="mazevault_wins")
        for name, owner in owners.items():
            desk.portal().set_secret(name, "x", tags={**marks, "mazevault-owner": owner})
            desk.put(name, "mine")
        desk.setup(adopted=list(owners), dr_copy=True)
        done = desk.first()
        assert desk.notes(done["id"]) == dict.fromkeys(owners, "owned_by_other")
        assert (done["state"], done["code"]) == ("incomplete", "ALL_LEFT_ALONE"), "a copy that has nothing is no success"

    def test_names_of_the_projects_own_storage_can_be_adopted_once_it_has_come_home(self, desk: SyncDesk) -> None:
        row = Secret.objects.get(id=desk.put("A", "one"))
        owner = f"project:{row.project_id}/{row.environment_id}"
        marks = {"mazevault-epoch": "1", "mazevault-operation": "x", "mazevault-owner": owner}
        desk.portal().set_secret("A", "one", tags=marks)
        desk.with_rule().setup(adopted=["A"])
        SecretVersion.objects.update(external_version="still there")
        assert desk.notes(desk.run("preview")["id"]) == {"A": "owned_by_other"}
        SecretVersion.objects.update(external_version="")
        assert desk.run("preview")["planned"] == {"claim_there": 1}


class TestLooking:
    """A run reads only what it cannot know from the list."""

    def test_what_has_not_changed_for_a_while_is_not_read_again(self, desk: SyncDesk, monkeypatch: pytest.MonkeyPatch) -> None:
        desk.with_rule(sync_direction="bidirectional")
        for number in range(5):
            desk.put(f"N{number}", "1")
        desk.first()
        assert desk.run()["numbers"]["read"] == 5, "just written, so a change in the same second could not be told"
        monkeypatch.setattr(sync_facts, "SETTLED", timedelta(seconds=-5))
        assert desk.run()["numbers"]["read"] == 5, "now their times are believed and remembered"
        assert "read" not in desk.run()["numbers"]
        monkeypatch.setattr(sync_facts, "SETTLED", timedelta(seconds=-5))
        desk.sandbox.world.faults = desk.sandbox.world.faults.changed({"clock_offset_seconds": 3.0})
        desk.portal().set_secret("N3", "2")
        desk.put("N1", "3")
        done = desk.run()
        assert (done["numbers"]["read"], done["state"], done["steps"]) == (1, "succeeded", {"done": 2})
        assert desk.here() == desk.there() == {"N0": "1", "N1": "3", "N2": "1", "N3": "2", "N4": "1"}

    def test_the_next_task_of_a_run_reads_nothing_again_that_is_as_it_was(
        self, desk: SyncDesk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sync_facts, "SETTLED", timedelta(seconds=-5))
        for number in range(40):
            desk.portal().set_secret(f"N{number:02}", "x")
        desk.with_rule(sync_direction="pull")
        run, true, gets = desk.ask(confirm=desk.run("preview")["digest"])["id"], KeyVault.get, list[str]()

        def get(vault: KeyVault, name: str, version: str = "") -> Any:
            gets.append(name)
            return true(vault, name, version)

        monkeypatch.setattr(KeyVault, "get", get)
        monkeypatch.setattr(sync_run, "WORK_SECONDS", 0.0)
        assert desk.finish(run)["steps"] == {"done": 40}
        assert len(gets) == 80, "each once for the plan and once right before its step, in four tasks"
        assert not sync_run._readings, "an ended run leaves nothing behind"

    def test_a_plan_that_takes_longer_than_its_claim_is_made(self, desk: SyncDesk, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(12):
            desk.portal().set_secret(f"N{number:02}", "x")
        desk.with_rule(sync_direction="pull")
        monkeypatch.setattr(sync_vault, "SIGN_OF_LIFE_SECONDS", 0.0)
        true, run = KeyVault.get, desk.ask("preview")["id"]

        def slow(vault: KeyVault, name: str, version: str = "") -> Any:
            Task.objects.filter(claim_until__lt=now() + timedelta(seconds=290)).update(claim_until=now() - timedelta(seconds=1))
            dispatch.sweep(now())
            Task.objects.update(claim_until=now() + timedelta(seconds=100))  # the rest of a claim that nobody extends
            return true(vault, name, version)

        monkeypatch.setattr(KeyVault, "get", slow)
        desk.work()
        assert (desk.look(run)["state"], desk.look(run)["planned"]) == ("planned", {"create_here": 12})

    @pytest.mark.parametrize(("settled", "tasks"), [(-5, 4), (60, 1)])
    def test_reading_goes_on_in_another_task_when_that_has_less_to_read(
        self, desk: SyncDesk, monkeypatch: pytest.MonkeyPatch, settled: int, tasks: int
    ) -> None:
        monkeypatch.setattr(sync_facts, "SETTLED", timedelta(seconds=settled))
        monkeypatch.setattr(sync_facts, "READ_SECONDS", 0.0)
        for number in range(4):
            desk.portal().set_secret(f"N{number:02}", "x")
        desk.with_rule(sync_direction="pull")
        shown = desk.run("preview")
        assert (shown["state"], shown["planned"]) == ("planned", {"create_here": 4})
        assert Task.objects.filter(payload__run=shown["id"]).count() == tasks

    def test_a_run_that_is_stopped_while_it_reads_reads_no_further(self, desk: SyncDesk, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(12):
            desk.portal().set_secret(f"N{number:02}", "x")
        desk.with_rule(sync_direction="pull")
        monkeypatch.setattr(sync_vault, "SIGN_OF_LIFE_SECONDS", 0.0)
        true, run, gets = KeyVault.get, desk.ask("preview")["id"], list[str]()

        def get(vault: KeyVault, name: str, version: str = "") -> Any:
            gets.append(name)
            desk.admin.post(f"projects/sync-runs/{run}/stop")
            return true(vault, name, version)

        monkeypatch.setattr(KeyVault, "get", get)
        desk.work()
        assert (desk.look(run)["state"], len(gets)) == ("stopped", 1)


class TestHistory:
    def test_a_drift_report_changes_nothing(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        desk.portal().set_secret("B", "x")
        written = len(desk.journal())
        seen = desk.run("drift")
        assert (seen["state"], seen["left_alone"]) == ("planned", {"only_here": 1, "only_there": 1})
        assert len(desk.journal()) == written

    def test_undo_brings_both_sides_back(self, desk: SyncDesk) -> None:
        desk.portal().set_secret("DOWN", "1")
        desk.with_rule(sync_direction="bidirectional").put("UP", "1")
        desk.put("GONE", "1")
        desk.first()
        desk.put("UP", "2")
        desk.delete("GONE")
        desk.portal().set_secret("DOWN", "2")
        desk.put("NEW", "1")
        done = desk.run()
        assert done["steps"] == {"done": 4}, done
        assert desk.admin.post(f"projects/sync-runs/{done['id']}/undo", {})[1]["code"] == "RULE_NOT_PAUSED"
        desk.setup(paused=True)
        shown = desk.undo(done["id"])
        assert (shown["state"], shown["verdict"], shown["planned"]) == ("planned", "needs_confirmation", {
            "delete_there": 1, "recover_there": 1, "rollback_there": 1, "rollback_here": 1})  # fmt: skip
        back = desk.undo(done["id"], shown["digest"])
        assert (back["state"], back["steps"]) == ("succeeded", {"done": 4})
        assert desk.there() == {"UP": "1", "DOWN": "2", "GONE": "1"}
        assert desk.here() == {"UP": "2", "DOWN": "1", "NEW": "1"}
        desk.setup(paused=False)
        assert desk.run()["steps"] == {"done": 4}, "the rule remembers what it knew before, so its next run does the same again"

    def test_undo_leaves_what_changed_since(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        done = desk.first()
        desk.portal().set_secret("A", "a person's")
        desk.setup(paused=True)
        shown = desk.undo(done["id"])
        assert (shown["planned"], desk.notes(shown["id"])) == ({}, {"A": "changed_since"})

    def test_undo_is_refused_when_the_rule_is_about_another_environment_now(self, desk: SyncDesk) -> None:
        for name in ("A", "B"):
            desk.portal().set_secret(name, "x")
        desk.with_rule(sync_direction="pull", target_environment="dev")
        done = desk.first()
        for key in "AB":
            desk.made("secrets", {"project_id": desk.project, "environment": "staging", "key": key, "value": "its own"})
        desk.setup(paused=True)
        shown = desk.undo(done["id"])
        wish = {"name": "r", "integration_id": desk.integration, "sync_direction": "pull", "target_environment": "staging"}
        assert desk.admin.put(f"projects/sync-rules/{desk.rule}", wish)[0] == 200
        for confirm in ("", shown["digest"]):
            status, body = desk.admin.post(f"projects/sync-runs/{done['id']}/undo", {"confirm": confirm})
            assert (status, body["code"]) == (409, "UNDO_ELSEWHERE") and "staging" in body["error"], body
        assert Secret.objects.filter(deleted_at=None).count() == 4
        assert desk.admin.put(f"projects/sync-rules/{desk.rule}", {**wish, "target_environment": "dev"})[0] == 200
        assert desk.undo(done["id"], shown["digest"])["steps"] == {"done": 2}
        assert set(Secret.objects.filter(deleted_at=None).values_list("environment__slug", flat=True)) == {"staging"}

    def test_undo_is_refused_when_the_integration_leads_to_another_vault_now(self, desk: SyncDesk) -> None:
        desk.with_rule()
        for number in range(11):
            desk.put(f"K{number}", "one")
        desk.first()
        desk.delete("K0")
        gone = desk.run()
        desk.setup(paused=True)
        shown = desk.undo(gone["id"])
        assert shown["planned"] == {"recover_there": 1}
        other = sandbox_vault(desk.sandbox, "kv-mazevault-we-npr")
        be_on(desk.monkeypatch, cloud_of(desk.sandbox), (desk.url, other))
        wish = {"name": "vault", "type": "key_vault", "provider": "azure_key_vault", "config": {"vault_url": other}}
        assert desk.admin.put(f"projects/integrations/{desk.integration}", wish)[0] == 200
        for confirm in ("", shown["digest"]):
            status, body = desk.admin.post(f"projects/sync-runs/{gone['id']}/undo", {"confirm": confirm})
            assert (status, body["code"]) == (409, "UNDO_ELSEWHERE") and other in body["error"], body

    def test_undo_recovers_what_the_run_deleted_and_not_what_a_person_deleted_after_it(self, desk: SyncDesk) -> None:
        desk.with_rule()
        desk.put("A", "one")
        desk.first()
        desk.delete("A")
        gone, portal = desk.run(), desk.portal()
        portal.begin_recover_deleted_secret("A").wait()
        portal.set_secret("A", "a person's")
        portal.begin_delete_secret("A").wait()
        desk.setup(paused=True)
        shown = desk.undo(gone["id"])
        assert (shown["planned"], desk.notes(shown["id"])) == ({}, {"A": "changed_since"})

    def test_undo_deletes_no_later_secret_of_the_same_key_and_version(self, desk: SyncDesk) -> None:
        desk.portal().set_secret("A", "x")
        desk.with_rule(sync_direction="pull")
        done = desk.first()
        desk.delete("A")
        desk.put("A", "a person's")
        desk.setup(paused=True)
        shown = desk.undo(done["id"])
        assert (shown["planned"], desk.notes(shown["id"])) == ({}, {"A": "changed_since"}) and desk.here() == {"A": "a person's"}

    def test_undo_deletes_no_secret_that_took_the_place_of_its_own_after_the_plan(self, desk: SyncDesk) -> None:
        desk.portal().set_secret("A", "x")
        desk.with_rule(sync_direction="pull")
        done = desk.first()
        desk.setup(paused=True)
        confirm, seen = desk.undo(done["id"])["digest"], list[str]()
        run = desk.admin.post(f"projects/sync-runs/{done['id']}/undo", {"confirm": confirm})[1]["id"]

        def cut(said: str, when: str) -> None:
            if said.endswith("plan") and when == "after" and not seen:
                seen.append(said)
                desk.delete("A")
                desk.put("A", "a person's")

        desk.work(line=Line(desk.npr, cut))
        assert desk.here() == {"A": "a person's"} and desk.steps(run) == [("delete_here", "A", "outdated")]

    def test_undo_of_a_list_that_breaks_off_is_refused(self, desk: SyncDesk, control: Any) -> None:
        desk.with_rule().put("A", "one")
        done = desk.first()
        desk.setup(paused=True)
        shown = desk.undo(done["id"])
        control.post("/faults", json={"vault_unavailable": 8})
        refused = desk.undo(done["id"], shown["digest"])
        control.post("/faults", json={"vault_unavailable": 0})
        assert (refused["state"], refused["verdict"], refused["refusals"][0]["code"]) == (
            "planned",
            "refused",
            "listing_incomplete",
        )
        assert desk.undo(done["id"], shown["digest"])["steps"] == {"done": 1} and desk.there() == {}

    def test_drift_of_a_list_that_breaks_off_is_refused(self, desk: SyncDesk, control: Any) -> None:
        desk.with_rule().put("A", "one")
        desk.first()
        control.post("/faults", json={"vault_unavailable": 8})
        seen = desk.run("drift")
        control.post("/faults", json={"vault_unavailable": 0})
        assert (seen["state"], seen["left_alone"], seen["refusals"][0]["code"]) == ("planned", {}, "listing_incomplete")
        assert seen["code"] == "AZURE_UNAVAILABLE" and "try again" in seen["detail"], "and why it broke off"

    def test_a_vault_that_shows_names_and_no_values_is_told_with_the_run(self, desk: SyncDesk, control: Any) -> None:
        """An access policy with list and without get: nothing is guessed, and the run says what is missing."""
        desk.with_rule().put("A", "one")
        desk.first()
        desk.portal().set_secret("A", "theirs")
        desk.put("A", "two")
        control.post("/faults", json={"vault_fails": {"getSecret": "access_policy"}})
        done = desk.run()
        assert (done["state"], done["code"]) == ("incomplete", "KEY_VAULT_PERMISSION_MISSING") and "secrets get" in done["detail"]

    def test_drift_tells_the_keys_that_fight_for_a_name(self, desk: SyncDesk) -> None:
        desk.with_rule()
        for key in ("DB_PASSWORD", "DB.PASSWORD", "OTHER"):
            desk.put(key, "x")
        seen = desk.run("drift")
        assert (seen["left_alone"], [row["code"] for row in seen["refusals"]]) == ({"only_here": 2}, ["name_collision"])

    def test_drift_of_a_template_that_makes_no_names_is_refused(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        SyncRule.objects.update(key_transform_template="{{key}}{{key}}")
        seen = desk.run("drift")
        assert (seen["state"], seen["verdict"], seen["refusals"][0]["code"]) == ("planned", "refused", "template_invalid")
        assert Task.objects.get().state == "succeeded"

    def test_the_audit_tells_each_value_that_left_and_no_value(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "canary-77")
        done = desk.first()
        rows = list(AuditEntry.objects.values())
        reads = [row for row in rows if row["action"] == "secret.read" and row["actor"] == f"sync_rule:{desk.rule}"]
        assert len(reads) == 1 and "canary-77" not in str(rows)
        assert {"sync_run.started", "sync_run.ended"} <= {row["action"] for row in rows}
        for path in (f"projects/sync-runs/{done['id']}", f"projects/sync-runs/{done['id']}/steps"):
            assert "canary-77" not in str(desk.admin.get(path)[1])


def test_metrics_tell_how_rules_stand_and_count_what_was_done(desk: SyncDesk) -> None:
    desk.with_rule()
    desk.put("A", "one")
    desk.put("BIG", "x" * 30_000)
    assert 'mazevault_sync_rules{state="never"} 1.0' in metrics(desk)
    desk.first()
    told = metrics(desk)
    assert 'mazevault_sync_operations_total{kind="create_there",result="done"} 1.0' in told
    assert 'mazevault_sync_operations_total{kind="create_there",result="failed"} 1.0' in told
    assert 'mazevault_sync_rules{state="incomplete"} 1.0' in told
    desk.setup(paused=True)
    assert 'mazevault_sync_rules{state="paused"} 1.0' in metrics(desk)


def metrics(desk: SyncDesk) -> str:
    return str(desk.admin.client.get("/metrics", headers=desk.admin.headers).content.decode())


def test_a_first_run_takes_over_a_value_of_an_adopted_name_and_owns_it_then(desk: SyncDesk) -> None:
    desk.with_rule(sync_direction="bidirectional", conflict_strategy="external_wins").put("A", "ours")
    desk.portal().set_secret("A", "theirs")
    desk.setup(adopted=["A"])
    done = desk.first()
    assert done["state"] == "succeeded" and desk.here() == desk.there() == {"A": "theirs"}, done
    assert desk.run()["planned"] == {"claim_there": 1} and desk.run()["planned"] == {}
    assert desk.portal().get_secret("A").properties.tags["mazevault-owner"] == desk.rule


def test_a_run_whose_world_never_holds_still_rests_and_goes_on(desk: SyncDesk) -> None:
    desk.with_rule().put("A", "one")
    desk.first()
    desk.put("A", "two")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sync_run, "ROUNDS", 0)
        run = desk.ask()["id"]
        desk.work()
    assert desk.look(run)["state"] == "running" and desk.there() == {"A": "one"}
    task = Task.objects.filter(state="pending").get()
    assert task.not_before > now() + timedelta(seconds=5), "it is not tried again at once"
    Task.objects.update(not_before=now())
    assert desk.finish(run)["state"] == "succeeded" and desk.there() == {"A": "two"}


class TestRights:
    def test_who_may_not_read_the_secrets_cannot_have_them_pushed(self, desk: SyncDesk, person: Any) -> None:
        desk.with_rule().put("A", "one")
        auditor = person("auditor")
        assert auditor.post(f"projects/sync-rules/{desk.rule}/runs", {"phase": "preview"})[0] in (403, 404)
        assert Task.objects.count() == 0

    def test_a_right_that_was_taken_away_ends_the_run_before_its_next_step(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        shown = desk.run("preview")
        asked = desk.ask(confirm=shown["digest"])
        User.objects.update(role="viewer")
        desk.work()
        assert desk.there() == {}
        User.objects.update(role="admin")
        assert (desk.look(asked["id"])["state"], "projects:write" in desk.look(asked["id"])["detail"]) == ("stopped", True)

    def test_only_the_active_gateway_of_the_environment_works_on_it(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        run = desk.ask("preview")
        answer = desk.dr.claim(epoch=1)
        assert answer.json()["code"] == "NOT_ACTIVE" and desk.look(run["id"])["state"] == "running"

    def test_names_of_secrets_are_for_who_may_read_them(self, desk: SyncDesk, person: Any) -> None:
        desk.with_rule().put("A", "one")
        run = desk.first()["id"]
        auditor = person("auditor")
        for listing in ("steps", "notes"):
            status, body = auditor.get(f"projects/sync-runs/{run}/{listing}")
            assert status in (403, 404) and "A" not in str(body.get("details")), body
            assert desk.admin.get(f"projects/sync-runs/{run}/{listing}")[0] == 200

    def test_nor_do_they_stand_in_what_else_is_told_of_a_run_or_a_rule(
        self, desk: SyncDesk, person: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        desk.with_rule().setup(adopted=["ADOPTED-NAME"])
        for key in ("DB_PASSWORD", "DB.PASSWORD"):
            desk.put(key, "x")
        run = desk.run("preview")["id"]
        SyncRun.objects.filter(id=run).update(detail="Key Vault refused the secret DB-PASSWORD")
        of_run, of_rule = f"projects/sync-runs/{run}", f"projects/sync-rules/{desk.rule}"
        assert "DB.PASSWORD" in desk.look(run)["refusals"][0]["error"] and "DB-PASSWORD" in desk.look(run)["detail"]
        assert desk.admin.get(f"{of_rule}/setup")[1]["adopted"] == ["ADOPTED-NAME"]
        only_projects = {**roles.SYSTEM_ROLES, "project_admin": frozenset({"projects:read", "projects:write"})}
        monkeypatch.setattr(roles, "SYSTEM_ROLES", only_projects)
        reader = person("project_admin")
        told = [reader.get(of_run), reader.get(f"{of_rule}/runs"), reader.post(f"{of_run}/stop"), reader.get(f"{of_rule}/setup"),
                reader.patch(f"{of_rule}/setup", {"dr_copy": False})]  # fmt: skip
        assert [status for status, _ in told] == [200] * 5, told
        assert not [name for name in ("DB_PASSWORD", "DB.PASSWORD", "DB-PASSWORD", "ADOPTED") if name in str(told)], told
        refusal = told[0][1]["refusals"][0]
        assert (refusal["code"], "secrets:read" in refusal["error"], told[3][1]["adopted"]) == ("name_collision", True, None)

    def test_who_could_not_run_a_rule_does_not_set_it_up_either(
        self, desk: SyncDesk, person: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        desk.with_rule(sync_direction="pull")
        only_projects = {**roles.SYSTEM_ROLES, "project_admin": frozenset({"projects:read", "projects:write"})}
        monkeypatch.setattr(roles, "SYSTEM_ROLES", only_projects)
        reader = person("project_admin")
        path = f"projects/sync-rules/{desk.rule}/setup"
        for wish in ({"adopted": ["A"]}, {"deletion_count": 1000}, {"interval_minutes": 5}):
            assert reader.patch(path, wish)[0] in (403, 404), wish
        assert desk.admin.get(path)[1]["adopted"] == []

    def test_who_may_write_the_project_may_always_pause_it(self, desk: SyncDesk, monkeypatch: pytest.MonkeyPatch) -> None:
        desk.with_rule()
        monkeypatch.setattr(sync_runs, "_refuse_unless_allowed", lambda *_: pytest.fail("a pause is no run"))
        desk.setup(paused=True)
        assert SyncRule.objects.get().paused_why.startswith("paused by ")

    def test_a_changed_rule_loses_its_schedule(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        desk.first()
        desk.setup(interval_minutes=5)
        wish = {"name": "renamed", "integration_id": desk.integration, "sync_direction": "push"}
        assert desk.admin.put(f"projects/sync-rules/{desk.rule}", wish)[0] == 200
        assert desk.admin.get(f"projects/sync-rules/{desk.rule}/setup")[1]["interval_minutes"] == 0
        assert sync_runs.start_due(now() + timedelta(minutes=6)) == 0

    def test_one_run_of_a_rule_at_a_time(self, desk: SyncDesk) -> None:
        desk.with_rule()
        first = desk.ask("preview")
        status, body = desk.admin.post(f"projects/sync-rules/{desk.rule}/runs", {"phase": "preview"})
        assert (status, body["code"]) == (409, "SYNC_RUNNING") and first["id"] in body["error"]
        wish = {"name": "r", "integration_id": desk.integration, "sync_direction": "pull"}
        assert desk.admin.put(f"projects/sync-rules/{desk.rule}", wish)[1]["code"] == "SYNC_RUNNING"
        other = sandbox_vault(desk.sandbox, "kv-mazevault-we-npr")
        to_other = {"name": "vault", "type": "key_vault", "provider": "azure_key_vault", "config": {"vault_url": other}}
        assert desk.admin.put(f"projects/integrations/{desk.integration}", to_other)[1]["code"] == "SYNC_RUNNING"
        status, body = desk.admin.post(f"projects/{desk.project}/storage", {"to": "key_vault", "confirm": "x"})
        assert (status, body["code"]) == (409, "SYNC_RUNNING")
        assert desk.admin.post(f"projects/sync-runs/{first['id']}/stop")[1]["state"] == "stopped"
        assert desk.run("preview")["state"] == "planned"

    @pytest.mark.parametrize(
        ("wish", "field"),
        [
            ({"interval_minutes": 1}, "interval_minutes"), ({"adopted": [""]}, "adopted"), ({"paused": "maybe"}, "paused"),
            ({"deletion_percent": 101}, "deletion_percent"), ({"adopted": ["x" * 128]}, "adopted"),
        ],
    )  # fmt: skip
    def test_a_wrong_setup_is_refused_with_its_field(self, desk: SyncDesk, wish: dict[str, object], field: str) -> None:
        desk.with_rule()
        status, body = desk.admin.patch(f"projects/sync-rules/{desk.rule}/setup", wish)
        assert status == 400 and body["error"].startswith(field), body

    def test_a_template_that_makes_no_names_is_refused_when_the_rule_is_made(self, desk: SyncDesk) -> None:
        for template in ("{{key}}{{key}}", "fixed", "a_{{key}}"):
            wish = {"name": "r", "integration_id": desk.integration, "key_transform_template": template}
            status, body = desk.admin.post(f"projects/{desk.project}/sync-rules", wish)
            assert status == 400 and body["error"].startswith("key_transform_template: "), body

    def test_the_plan_of_a_paused_rule_is_told_and_not_done(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        desk.first()
        desk.put("A", "two")
        desk.setup(paused=True)
        seen = desk.run()
        assert (seen["state"], seen["verdict"], seen["planned"]) == ("planned", "paused", {"update_there": 1})
        assert desk.there() == {"A": "one"}

    def test_a_rule_that_cannot_run_says_why(self, desk: SyncDesk) -> None:
        desk.with_rule(source_path="/app")
        status, body = desk.admin.post(f"projects/sync-rules/{desk.rule}/runs", {"phase": "preview"})
        assert (status, body["code"]) == (409, "RULE_NOT_RUNNABLE") and body["error"].startswith("source_path: ")


class TestSchedule:
    def test_a_due_rule_runs_and_one_that_may_not_is_paused(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        desk.first()
        desk.setup(interval_minutes=5)
        desk.put("A", "two")
        assert sync_runs.start_due(now()) == 0, "the last run began just now"
        for enabled in (False, True):
            assert desk.admin.put(f"projects/{desk.project}/settings", {"sync_enabled": enabled})[0] == 200
            if not enabled:
                assert sync_runs.start_due(now() + timedelta(minutes=6)) == 0, "the project's switch is off"
        assert sync_runs.start_due(now() + timedelta(minutes=6)) == 1
        run = desk.admin.get(f"projects/sync-rules/{desk.rule}/runs")[1][0]
        assert run["scheduled"] and desk.finish(run["id"])["state"] == "succeeded" and desk.there() == {"A": "two"}
        User.objects.update(role="viewer")
        assert sync_runs.start_due(now() + timedelta(minutes=12)) == 0
        User.objects.update(role="admin")
        setup = desk.admin.get(f"projects/sync-rules/{desk.rule}/setup")[1]
        assert setup["paused"] and "projects:write" in setup["paused_why"]

    @pytest.mark.parametrize(("settings", "begun"), [
        ({}, 1), ({"retention_days": 30}, 1), ({"sync_enabled": None}, 1), ({"sync_enabled": True}, 1),
        ({"sync_enabled": False}, 0),
    ])  # fmt: skip
    def test_only_a_switch_that_is_off_suspends_the_schedules_of_a_project(
        self, desk: SyncDesk, settings: dict[str, Any], begun: int
    ) -> None:
        """A new project has no settings at all."""
        desk.with_rule().setup(interval_minutes=5)
        assert Project.objects.get(id=desk.project).settings == {}
        if settings:
            assert desk.admin.put(f"projects/{desk.project}/settings", settings)[0] == 200
        assert sync_runs.start_due(now()) == begun

    def test_previews_and_drift_reports_do_not_put_it_off(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        desk.first()
        desk.setup(interval_minutes=15)
        SyncRun.objects.update(created_at=now() - timedelta(minutes=16))
        for phase in ("drift", "preview"):
            desk.run(phase)
        asked = desk.ask("drift")
        assert sync_runs.start_due(now()) == 0, "a rule has one run at a time"
        desk.finish(asked["id"])
        assert sync_runs.start_due(now()) == 1
        assert sync_runs.start_due(now() + timedelta(hours=1)) == 0, "it is not begun twice"
        assert not desk.admin.get(f"projects/sync-rules/{desk.rule}/setup")[1]["paused"]

    def test_the_newest_run_that_carried_something_outlives_any_number_of_reports(
        self, desk: SyncDesk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sync_runs, "KEPT_RUNS", 2)
        desk.with_rule().put("A", "one")
        carried = desk.first()["id"]
        for _ in range(4):
            desk.run("drift")
        assert [run.phase for run in SyncRun.objects.order_by("created_at")] == ["apply", "drift", "drift"]
        assert str(SyncRun.objects.get(phase="apply").id) == carried
        assert sync_runs.start_due(now()) == 0

    @pytest.mark.parametrize("own_target", [False, True])
    def test_a_rule_whose_environment_was_deleted_is_paused_once_and_says_why(self, desk: SyncDesk, own_target: bool) -> None:
        desk.with_rule(**({"target_environment": "dev"} if own_target else {})).setup(interval_minutes=5)
        Project.objects.update(default_environment="qa")
        dev = Environment.objects.get(slug="dev", organization=Project.objects.get().organization)
        assert desk.admin.delete(f"organizations/{dev.organization_id}/environments/{dev.id}")[0] == 204
        assert [sync_runs.start_due(now() + timedelta(minutes=minutes)) for minutes in (0, 6, 12)] == [0, 0, 0]
        assert SyncRun.objects.count() == 0 and AuditEntry.objects.filter(action="sync_rule.paused").count() == 1
        setup = desk.admin.get(f"projects/sync-rules/{desk.rule}/setup")[1]
        assert setup["paused"] and "target_environment: " in setup["paused_why"]
        status, body = desk.admin.post(f"projects/sync-rules/{desk.rule}/runs", {"phase": "preview"})
        assert (status, body["code"]) == (409, "RULE_NOT_RUNNABLE")


MOMENTS = [
    pytest.param(path, moment, marks=() if path in ("plan", "progress") else pytest.mark.long)
    for path in ("open", "plan", "progress", "end") for moment in ("before", "after")
]  # fmt: skip
"""Where the talk is cut off. The quick run has those between which something was done."""


class TestCrashes:
    """The gateway dies at some point of a run; it, or the one after it, ends the run with the same result."""

    def world(self, desk: SyncDesk) -> None:
        """A settled rule in both directions, with something of everything to do."""
        portal = desk.portal()
        for name in ("DOWN", "LOST"):
            portal.set_secret(name, "1")
        desk.with_rule(sync_direction="bidirectional").setup(deletion_percent=100)
        for key in ("UP", "GONE", "BACK"):
            desk.put(key, "1")
        desk.first()
        desk.delete("BACK")
        desk.run()
        portal.set_secret("DOWN", "2")
        portal.begin_delete_secret("LOST").wait()
        portal.set_secret("THEIRS", "1")
        desk.put("UP", "2")
        desk.delete("GONE")
        desk.put("BACK", "2")
        for number in range(12):
            desk.put(f"N{number:02}", "1")

    def same_in_the_end(self, desk: SyncDesk) -> None:
        numbered = {f"N{number:02}": "1" for number in range(12)}
        assert desk.here() == desk.there() == {"UP": "2", "DOWN": "2", "THEIRS": "1", "BACK": "2", **numbered}
        assert desk.run()["planned"] == {}, "nothing is left to do"

    @pytest.mark.parametrize(("path", "moment"), MOMENTS)
    def test_the_run_goes_on_wherever_the_talk_was_cut_off(self, desk: SyncDesk, path: str, moment: str) -> None:
        self.world(desk)
        run, seen = desk.ask()["id"], list[str]()

        def cut(said: str, when: str) -> None:
            if said.endswith(path) and when == moment:
                seen.append(said)
                if len(seen) == (2 if path == "progress" else 1):
                    raise Killed

        if path == "end" and moment == "after":
            desk.work()
        else:
            with pytest.raises(Killed):
                desk.work(line=Line(desk.npr, cut))
        if desk.look(run)["state"] == "running":
            self.claim_again()
            assert desk.finish(run)["state"] == "succeeded"
        self.same_in_the_end(desk)

    @pytest.mark.parametrize("verb", ["set", "recover", "delete"])
    @pytest.mark.parametrize("landed", [True, False])
    def test_a_step_whose_end_nobody_saw_is_looked_for_and_not_done_twice(
        self, desk: SyncDesk, verb: str, landed: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.world(desk)
        run, true, calls = desk.ask()["id"], getattr(KeyVault, verb), list[str]()

        def unanswered(vault: KeyVault, name: str, *rest: Any, **more: Any) -> Any:
            calls.append(name)
            if len(calls) > 1:
                return true(vault, name, *rest, **more)
            if landed:
                true(vault, name, *rest, **more)
            raise OutcomeUnknown("sent and not answered", "look")

        monkeypatch.setattr(KeyVault, verb, unanswered)
        desk.work()
        assert desk.look(run)["steps"].get("begun", 0) >= 1, "it stays announced until somebody has looked"
        self.claim_again()
        done = desk.finish(run)
        assert (done["state"], done["steps"].get("begun")) == ("succeeded", None), "each announced step has an end"
        assert calls.count(calls[0]) == (1 if landed else 2)
        assert [state for _, name, state in desk.steps(run) if name == calls[0] and state == "done"] == ["done"]
        self.same_in_the_end(desk)

    def test_a_confirmed_first_run_goes_on_without_being_asked_again(self, desk: SyncDesk) -> None:
        desk.with_rule()
        for number in range(25):
            desk.put(f"N{number:02}", "1")
        run = desk.ask(confirm=desk.run("preview")["digest"])["id"]
        said = list[str]()

        def cut(path: str, when: str) -> None:
            said.extend([path] if path.endswith("progress") and when == "after" else [])
            if len(said) == 2:
                raise Killed

        with pytest.raises(Killed):
            desk.work(line=Line(desk.npr, cut))
        assert 0 < len(desk.there()) < 25
        self.claim_again()
        assert desk.finish(run)["state"] == "succeeded" and len(desk.there()) == 25
        assert len(desk.journal()) == 25, "nothing was written twice"

    def test_many_crashes_do_not_end_a_run_that_gets_on(self, desk: SyncDesk) -> None:
        desk.with_rule()
        for number in range(80):
            desk.put(f"N{number:02}", "1")
        run = desk.ask(confirm=desk.run("preview")["digest"])["id"]
        for _ in range(7):
            said = list[str]()

            def cut(path: str, when: str, said: list[str] = said) -> None:
                said.extend([path] if path.endswith("progress") and when == "after" else [])
                if len(said) == 3:  # what was open before, a batch, its report
                    raise Killed

            with pytest.raises(Killed):
                desk.work(line=Line(desk.npr, cut))
            self.claim_again()
        assert desk.look(run)["state"] == "running" and Task.objects.filter(payload__run=run).count() == 1
        assert desk.finish(run)["state"] == "succeeded" and len(desk.there()) == 80

    def test_without_the_lease_nothing_is_written_and_another_claim_goes_on(self, desk: SyncDesk) -> None:
        self.world(desk)
        written, run = len(desk.journal()), desk.ask()["id"]
        desk.work(node=Leased(None))
        assert len(desk.journal()) == written and desk.look(run)["steps"].get("begun", 0) > 0
        self.claim_again()
        assert desk.finish(run)["state"] == "succeeded"
        self.same_in_the_end(desk)

    def test_the_old_gateway_gets_no_word_in_after_its_claim_is_over(self, desk: SyncDesk) -> None:
        self.world(desk)
        run, written = desk.ask()["id"], list[int]()

        def cut(path: str, when: str) -> None:
            if path.endswith("rows") and when == "before" and not written:
                written.append(len(desk.journal()))
                self.claim_again()  # the sweep gave the task back and somebody claimed it
                desk.npr.claim(epoch=1)

        desk.work(line=Line(desk.npr, cut))
        assert len(desk.journal()) == written[0] and desk.look(run)["state"] == "running"

    def test_a_run_that_nobody_works_on_any_more_is_ended(self, desk: SyncDesk) -> None:
        desk.with_rule()
        run = desk.ask("preview")["id"]
        Task.objects.update(state="dead_letter", detail="attempt 5 of 5 was the last")
        assert sync_runs.sweep(now()) == 1
        ended = desk.look(run)
        assert (ended["state"], ended["code"]) == ("failed", "TASK_ENDED") and "attempt 5" in ended["detail"]

    def test_work_that_takes_too_long_goes_on_in_another_task(self, desk: SyncDesk, monkeypatch: pytest.MonkeyPatch) -> None:
        desk.with_rule()
        for number in range(25):
            desk.put(f"N{number:02}", "1")
        run = desk.ask(confirm=desk.run("preview")["digest"])["id"]
        monkeypatch.setattr(sync_run, "WORK_SECONDS", 0.0)
        assert desk.finish(run)["state"] == "succeeded" and len(desk.there()) == 25
        assert Task.objects.filter(payload__run=run).count() == 3

    def test_the_end_of_a_stopped_run_is_looked_for_by_the_next_one(self, desk: SyncDesk) -> None:
        """Killed between a write and its report, then stopped: what the vault has is the rule's own, and nobody's change."""
        desk.with_rule(sync_direction="bidirectional", conflict_strategy="external_wins").put("A", "one")
        desk.first()
        desk.put("A", "two")
        run = self.killed_at_its_report(desk)
        desk.admin.post(f"projects/sync-runs/{run}/stop")
        self.claim_again()
        sync_runs.sweep(now())
        desk.put("A", "three")
        done = desk.run()
        assert (done["planned"], desk.here(), desk.there()) == ({"update_there": 1}, {"A": "three"}, {"A": "three"})
        assert desk.look(run)["steps"] == {"done": 1}, "what the stopped run had begun has an end too"

    def test_what_a_stopped_run_had_begun_can_be_taken_back(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        desk.first()
        desk.put("A", "two")
        run = self.killed_at_its_report(desk)
        desk.admin.post(f"projects/sync-runs/{run}/stop")
        self.claim_again()
        sync_runs.sweep(now())
        desk.setup(paused=True)
        assert desk.undo(run, desk.undo(run)["digest"])["steps"] == {"done": 1} and desk.there() == {"A": "one"}

    def test_a_write_that_lands_after_somebody_looked_for_it_is_no_change_of_the_vault(self, desk: SyncDesk) -> None:
        desk.with_rule(sync_direction="bidirectional").put("A", "one")
        desk.first()
        desk.put("A", "two")
        self.killed_at_its_report(desk)
        SyncStep.objects.filter(state="begun").update(state="outdated")
        SyncRun.objects.filter(state="running").update(state="failed")
        desk.put("A", "three")
        assert desk.run()["planned"] == {"update_there": 1} and desk.there() == {"A": "three"}

    def test_a_person_who_copies_the_tags_of_a_write_has_a_value_of_their_own(self, desk: SyncDesk) -> None:
        desk.with_rule(sync_direction="bidirectional").put("A", "one")
        desk.first()
        desk.put("A", "two")
        run = self.killed_at_its_report(desk)
        SyncRun.objects.filter(state="running").update(state="failed")
        portal = desk.portal()
        portal.set_secret("A", "a person's", tags=portal.get_secret("A").properties.tags)
        desk.put("A", "three")
        left = desk.run()
        assert (left["planned"], left["left_alone"], desk.there()) == ({}, {"conflict": 1}, {"A": "a person's"})
        assert desk.look(run)["steps"] == {"outdated": 1}

    @pytest.mark.parametrize("stopped", [False, True])
    def test_a_name_that_was_recovered_gets_its_value_after_a_kill(self, desk: SyncDesk, stopped: bool) -> None:
        """Between recovery and value the old, deleted value is alive: the same run ends that, or the next one."""
        run = self.killed_between_recovery_and_value(desk)
        if stopped:
            desk.admin.post(f"projects/sync-runs/{run}/stop")
            self.claim_again()
            sync_runs.sweep(now())
            assert desk.first()["planned"] == {"update_there": 1}
        else:
            self.claim_again()
            done = desk.finish(run)
            assert (done["state"], done["steps"]) == ("succeeded", {"done": 1}), done
        assert desk.there() == {"A": "one"} and desk.run()["planned"] == {}

    def test_a_recovered_name_that_a_person_set_meanwhile_keeps_their_value(self, desk: SyncDesk) -> None:
        run = self.killed_between_recovery_and_value(desk)
        desk.portal().set_secret("A", "a person's")
        self.claim_again()
        desk.finish(run)
        assert desk.there() == {"A": "a person's"} and desk.steps(run) == [("recover_there", "A", "outdated")]

    def killed_between_recovery_and_value(self, desk: SyncDesk) -> str:
        portal = desk.portal()
        portal.set_secret("A", "old")
        portal.begin_delete_secret("A").wait()
        desk.with_rule().put("A", "one")
        desk.setup(adopted=["A"])
        run, true = str(desk.ask(confirm=desk.run("preview")["digest"])["id"]), KeyVault.recover

        def die(vault: KeyVault, name: str) -> None:
            true(vault, name)
            raise Killed

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(KeyVault, "recover", die)
            with pytest.raises(Killed):
                desk.work()
        assert desk.there() == {"A": "old"}
        return run

    def killed_at_its_report(self, desk: SyncDesk) -> str:
        run, said = str(desk.ask()["id"]), list[str]()

        def cut(path: str, when: str) -> None:
            said.extend([path] if path.endswith("progress") and when == "before" else [])
            if len(said) == 2:
                raise Killed

        with pytest.raises(Killed):
            desk.work(line=Line(desk.npr, cut))
        assert desk.there() == {"A": "two"}
        return run

    @staticmethod
    def claim_again() -> None:
        """What the sweep does when a claim runs out."""
        Task.objects.filter(state="claimed").update(claim_until=now() - timedelta(seconds=1))
        Task.objects.filter(state="pending").update(not_before=now())
        dispatch.sweep(now())
        Task.objects.filter(state="pending").update(not_before=now() - timedelta(seconds=1))


class TestMeanwhile:
    """Between the plan and a step somebody else changes the secret: their value stands."""

    def test_a_new_value_in_the_vault_is_not_overwritten(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        desk.first()
        desk.put("A", "two")
        left = self.run(desk, "progress", lambda: desk.portal().set_secret("A", "a person's"))
        assert desk.there() == {"A": "a person's"} and left["left_alone"] == {"conflict": 1}, left

    def test_a_name_that_another_rule_took_is_not_written(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        desk.first()
        desk.put("A", "two")
        other = {"mazevault-epoch": "1", "mazevault-operation": "x", "mazevault-owner": "another rule"}
        left = self.run(desk, "progress", lambda: desk.portal().update_secret_properties("A", tags=other))
        assert desk.there() == {"A": "one"} and left["left_alone"] == {"owned_by_other": 1}, left

    def test_a_new_value_in_the_project_is_not_overwritten(self, desk: SyncDesk) -> None:
        desk.portal().set_secret("A", "one")
        desk.with_rule(sync_direction="pull").first()
        desk.portal().set_secret("A", "two")
        left = self.run(desk, "plan", lambda: desk.put("A", "a person's"))
        assert desk.here() == {"A": "a person's"} and left["left_alone"] == {"conflict": 1}, left

    @staticmethod
    def run(desk: SyncDesk, path: str, meanwhile: Callable[[], object]) -> dict[str, Any]:
        """A run in which this happens once, right after the Primary's answer to this message."""
        run, done = desk.ask()["id"], list[str]()

        def cut(said: str, when: str) -> None:
            if said.endswith(path) and when == "after" and not done:
                done.append(said)
                meanwhile()

        desk.work(line=Line(desk.npr, cut))
        return desk.look(run)


class TestTrouble:
    def test_a_denial_ends_the_run_and_says_cause_and_fix(self, desk: SyncDesk, control: Any) -> None:
        desk.with_rule().put("A", "one")
        shown = desk.run("preview")["digest"]
        desk.monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"{desk.sandbox.plain_url}/hosts/pro")
        denied = desk.run(confirm=shown)
        assert (denied["state"], denied["code"]) == ("failed", "KEY_VAULT_ROLE_MISSING") and "Fix: " in denied["detail"]
        assert desk.there() == {}

    def test_a_pull_is_taken_back_although_one_of_its_names_is_disabled_in_the_vault(self, desk: SyncDesk) -> None:
        portal = desk.portal()
        for name in ("A", "B"):
            portal.set_secret(name, "x")
        desk.with_rule(sync_direction="pull")
        done = desk.first()
        portal.update_secret_properties("A", portal.get_secret("A").properties.version, enabled=False)
        desk.setup(paused=True)
        shown = desk.undo(done["id"])
        assert desk.undo(done["id"], shown["digest"])["steps"] == {"done": 2} and desk.here() == {}

    def test_a_name_that_is_disabled_before_its_step_fails_alone(self, desk: SyncDesk) -> None:
        portal = desk.portal()
        for name in ("A", "B"):
            portal.set_secret(name, "x")
        desk.with_rule(sync_direction="pull")
        shown = desk.run("preview")["digest"]
        version = portal.get_secret("A").properties.version
        done = self.meanwhile(desk, shown, lambda: portal.update_secret_properties("A", version, enabled=False))
        assert (done["state"], done["steps"], desk.here()) == ("incomplete", {"done": 1, "failed": 1}, {"B": "x"})
        rows = desk.admin.get(f"projects/sync-runs/{done['id']}/steps")[1]
        assert [row["code"] for row in rows if row["state"] == "failed"] == ["KEY_VAULT_OBJECT_DISABLED"]

    def test_a_denial_before_a_step_of_the_project_ends_the_run_at_once(self, desk: SyncDesk) -> None:
        desk.portal().set_secret("A", "x")
        desk.with_rule(sync_direction="pull")
        shown = desk.run("preview")["digest"]

        def deny(vault: KeyVault, name: str, version: str = "") -> Any:
            raise RoleMissing("no role", "assign one")

        done = self.meanwhile(desk, shown, lambda: desk.monkeypatch.setattr(KeyVault, "get", deny))
        assert (done["state"], done["code"], desk.here()) == ("failed", "KEY_VAULT_ROLE_MISSING", {})

    @staticmethod
    def meanwhile(desk: SyncDesk, confirm: str, happens: Callable[[], object]) -> dict[str, Any]:
        """A run in which this happens once the plan is told."""
        run, done = desk.ask(confirm=confirm)["id"], list[str]()

        def cut(said: str, when: str) -> None:
            if said.endswith("plan") and when == "after" and not done:
                done.append(said)
                happens()

        desk.work(line=Line(desk.npr, cut))
        return desk.look(run)

    def test_a_throttled_vault_is_waited_for(self, desk: SyncDesk, control: Any) -> None:
        desk.with_rule()
        for number in range(6):
            desk.put(f"N{number}", "1")
        shown = desk.run("preview")["digest"]
        control.post("/faults", json={"vault_throttled": 3, "retry_after_seconds": 1})
        done = desk.run(confirm=shown)
        assert done["state"] == "succeeded" and done["numbers"]["vault_retries"] == 3 and len(desk.there()) == 6

    def test_a_vault_that_wants_to_be_left_alone_for_longer_is(self, desk: SyncDesk, sandbox: Sandbox, control: Any) -> None:
        """It is not asked again before its time, the run says why it waits, and nothing of it is lost."""
        desk.with_rule()
        desk.put("A", "1")
        shown = desk.run("preview")["digest"]
        control.post("/faults", json={"vault_throttled": 1, "retry_after_seconds": 90, "retry_after_as_date": True})
        run = desk.ask(confirm=shown)["id"]
        sandbox.world.seen.clear()
        desk.work()
        waiting = desk.look(run)
        assert (waiting["state"], waiting["code"]) == ("running", "KEY_VAULT_THROTTLED") and "called too often" in waiting[
            "detail"
        ]
        assert [one.status for one in sandbox.world.seen if "/secrets" in one.path] == [429]
        put_off = Task.objects.get(id=SyncRun.objects.get(id=run).task).not_before - now()
        assert 60 < put_off.total_seconds() <= 91
        Task.objects.update(not_before=now())
        desk.work()
        assert (desk.look(run)["state"], desk.there()) == ("succeeded", {"A": "1"})


class TestDrCopy:
    """The vault of the DR region is kept current by a rule; how far behind it is stands in the failover plan."""

    def test_its_lag_is_in_the_plan(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        desk.setup(dr_copy=True)
        assert self.check(desk) == (False, "was never complete")
        desk.first()
        assert self.check(desk) == (True, "is current")
        desk.put("A", "two")
        SecretVersion.objects.update(created_at=now() + timedelta(seconds=1))
        assert self.check(desk)[0], "it may be a little behind"
        SyncRun.objects.update(created_at=now() - timedelta(hours=3))
        SecretVersion.objects.update(created_at=now() - timedelta(hours=2))
        passed, told = self.check(desk)
        assert not passed and told.startswith("is 72"), told
        assert desk.run()["state"] == "succeeded" and self.check(desk) == (True, "is current")
        SyncNote.objects.create(run=SyncRun.objects.order_by("-created_at")[0], key="A", name="A", reason="disabled_there")
        assert self.check(desk) == (False, "lacks 1 secrets that the last run left alone")

    def test_what_another_vault_got_makes_no_copy_in_this_one(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        desk.setup(dr_copy=True)
        desk.first()
        assert self.check(desk) == (True, "is current")
        former, desk.url = desk.url, sandbox_vault(desk.sandbox, "kv-mazevault-we-npr")
        be_on(desk.monkeypatch, cloud_of(desk.sandbox), (former, desk.url))
        wish = {"name": "vault", "type": "key_vault", "provider": "azure_key_vault", "config": {"vault_url": desk.url}}
        assert desk.admin.put(f"projects/integrations/{desk.integration}", wish)[0] == 200
        assert self.check(desk) == (False, "was never complete"), "the new vault is empty"
        desk.first()
        assert self.check(desk) == (True, "is current")

    @pytest.mark.parametrize("change", [{"target_environment": "qa"}, {"key_transform_template": "copy-{{key}}"}])
    def test_a_run_for_other_secrets_or_other_names_makes_no_copy(self, desk: SyncDesk, change: dict[str, str]) -> None:
        desk.with_rule().put("A", "one")
        desk.setup(dr_copy=True)
        desk.first()
        wish = {"name": "copy", "integration_id": desk.integration, "sync_direction": "push", **change}
        assert desk.admin.put(f"projects/sync-rules/{desk.rule}", wish)[0] == 200
        assert self.check(desk) == (False, "was never complete")

    def test_a_rule_that_no_longer_pushes_keeps_none_and_what_it_pulled_counts_for_nothing(self, desk: SyncDesk) -> None:
        desk.with_rule()
        desk.setup(dr_copy=True)
        wish = {"name": "copy", "integration_id": desk.integration, "sync_direction": "pull"}
        assert desk.admin.put(f"projects/sync-rules/{desk.rule}", wish)[0] == 200
        assert desk.first()["state"] == "succeeded"
        assert self.check(desk) == (False, "was never complete and is no longer kept, since its rule does not push")
        assert desk.admin.put(f"projects/sync-rules/{desk.rule}", {**wish, "sync_direction": "push"})[0] == 200
        assert self.check(desk) == (False, "was never complete")

    def test_a_run_that_was_held_off_from_every_name_makes_no_copy(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        desk.put("B", "one")
        for name in ("A", "B"):
            other = {"mazevault-epoch": "1", "mazevault-operation": "x", "mazevault-owner": "another rule"}
            desk.portal().set_secret(name, "not ours", tags=other)
        desk.setup(dr_copy=True)
        done = desk.first()
        assert (done["state"], done["steps"], done["left_alone"]) == ("incomplete", {}, {"owned_by_other": 2})
        assert self.check(desk) == (False, "was never complete")

    def test_only_a_rule_that_pushes_keeps_one(self, desk: SyncDesk) -> None:
        desk.with_rule(sync_direction="pull")
        status, body = desk.admin.patch(f"projects/sync-rules/{desk.rule}/setup", {"dr_copy": True})
        assert status == 400 and body["error"].startswith("dr_copy: ")

    @staticmethod
    def check(desk: SyncDesk) -> tuple[bool, str]:
        status, plan = desk.admin.post("admin/failover/NPR/plan")
        assert status == 201, plan
        found = next(row for row in plan["checks"] if row["name"].startswith("vault_copy:"))
        assert found["level"] == "waivable"
        return found["passed"], found["sentence"].split(desk.url + " ")[1].split(";")[0].removesuffix(" behind")


class TestGatewaysThatLie:
    """What a gateway says counts only for its own claim, its own environment and the sides its rule may write."""

    def test_a_rule_that_pushes_writes_nothing_to_the_project_whatever_is_planned(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        run, claim = self.claimed(desk)
        action = sync.SyncAction("create_here", "new_there", "EVIL", "EVIL", "0" * 64)
        part = sync.PlanPart(run, claim, 1, True, "ready", "d", "s", False, [action])
        assert desk.npr.call(paths.SYNC_PLAN, part, sync.RunAnswer).json()["code"] == "STEP_NOT_ALLOWED"
        step = sync.BegunStep(str(uuid.uuid4()), action_of(action).fingerprint, "evil")
        progress = sync.Progress(run, claim, 1, [], [step])
        assert desk.npr.call(paths.SYNC_PROGRESS, progress, sync.ProgressAnswer).json()["code"] == "STEP_NOT_ALLOWED"
        assert desk.here() == {"A": "one"}

    def test_a_part_of_a_plan_that_comes_again_adds_nothing(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        run, claim = self.claimed(desk)
        for number, key in enumerate("ABC"):
            actions = [sync.SyncAction("create_there", "new_here", key, key, "0" * 64, 1)]
            notes = [sync.SyncNote(f"left-{key}", f"left-{key}", "in_sync")]
            part = sync.PlanPart(run, claim, 1, number == 0, "ready", "d", "s", False, actions, notes)
            for _ in range(3):
                assert desk.npr.call(paths.SYNC_PLAN, part, sync.RunAnswer).go_on
        planned = SyncRun.objects.get(id=run)
        assert list(planned.steps.order_by("position").values_list("position", "name")) == [(0, "A"), (1, "B"), (2, "C")]
        assert sorted(planned.notes.values_list("key", flat=True)) == ["left-A", "left-B", "left-C"]

    def test_of_a_first_run_only_what_a_person_confirmed_is_begun(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        shown = desk.run("preview")
        desk.put("B", "nobody looked at it")
        run, claim = self.claimed(desk, "apply", confirm=shown["digest"])
        actions = [sync.SyncAction("create_there", "new_here", key, key, "0" * 64, 1) for key in "AB"]
        part = sync.PlanPart(run, claim, 1, True, "ready", "d", "s", False, actions)
        desk.npr.call(paths.SYNC_PLAN, part, sync.RunAnswer)
        step = sync.BegunStep(str(uuid.uuid4()), action_of(actions[1]).fingerprint)
        answer = desk.npr.call(paths.SYNC_PROGRESS, sync.Progress(run, claim, 1, [], [step]), sync.ProgressAnswer)
        assert answer.json()["code"] == "STEP_NOT_ALLOWED" and "nobody looked" not in answer.content.decode()

    def test_an_undo_does_nothing_but_the_opposite_of_what_was_done(self, desk: SyncDesk) -> None:
        desk.with_rule()
        for key in "AB":
            desk.put(key, "one")
        done = desk.first()
        desk.put("C", "one")
        desk.setup(paused=True)
        desk.admin.post(f"projects/sync-runs/{done['id']}/undo", {})
        run = desk.admin.get(f"projects/sync-rules/{desk.rule}/runs")[1][0]["id"]
        claim = desk.npr.claim(epoch=1, limit=5).tasks[0].claim
        for kind, key, code in (("delete_there", "A", None), ("delete_there", "C", "STEP_NOT_ALLOWED"),
                                ("rollback_there", "A", "STEP_NOT_ALLOWED")):  # fmt: skip
            action = sync.SyncAction(kind, "undone", key, key, "", 1, "v")
            part = sync.PlanPart(run, claim, 1, True, "needs_confirmation", "d", "s", False, [action])
            answer = desk.npr.call(paths.SYNC_PLAN, part, sync.RunAnswer)
            assert (None if isinstance(answer, sync.RunAnswer) else answer.json()["code"]) == code

    def test_more_deletions_than_allowed_are_not_begun(self, desk: SyncDesk) -> None:
        desk.with_rule()
        for key in "ABC":
            desk.put(key, "one")
        desk.first()
        desk.setup(deletion_count=1, deletion_percent=0)
        for key in "AB":
            desk.delete(key)
        items = {item.key: item for item in SyncItem.objects.all()}
        run, claim = self.claimed(desk, "apply")
        actions = [
            sync.SyncAction(
                "delete_there", "deleted_here", key, key, "", items[key].our_version, items[key].their_version, our_deleted=True
            )
            for key in "AB"
        ]
        part = sync.PlanPart(run, claim, 1, True, "ready", "d", "s", False, actions)
        desk.npr.call(paths.SYNC_PLAN, part, sync.RunAnswer)
        steps = [sync.BegunStep(str(uuid.uuid4()), action_of(action).fingerprint) for action in actions]
        answer = desk.npr.call(paths.SYNC_PROGRESS, sync.Progress(run, claim, 1, [], steps), sync.ProgressAnswer)
        assert answer.json()["code"] == "STEP_NOT_ALLOWED" and "budget" in answer.json()["error"]

    def test_no_nul_reaches_a_query(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        run, claim = self.claimed(desk)
        answer = desk.npr.call(paths.SYNC_ROWS, sync.AskRows(run, claim, 1, sync.Listing.OURS, "\0"), sync.Rows)
        assert answer.status_code == 400 and "after" in answer.json()["error"]

    def test_a_kind_of_step_that_there_is_not_is_refused_by_its_name(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        run, claim = self.claimed(desk)
        part = sync.PlanPart(run, claim, 1, True, "ready", "d", "s", False, [sync.SyncAction("burn", "new_here", "A", "A")])
        answer = desk.npr.call(paths.SYNC_PLAN, part, sync.RunAnswer)
        assert answer.status_code == 400 and "burn" in answer.json()["error"]

    @pytest.mark.parametrize("change", ["storage", "environment", "vault", "project"])
    def test_a_run_ends_where_its_world_is_another(self, desk: SyncDesk, change: str) -> None:
        desk.with_rule().put("A", "one")
        run, claim = self.claimed(desk)
        {
            "storage": lambda: Project.objects.update(storage="key_vault"),
            "environment": lambda: Environment.objects.filter(slug="dev").update(deleted_at=now()),
            "vault": lambda: SyncRun.objects.update(target="https://another.vault.azure.net"),
            "project": lambda: Project.objects.update(deleted_at=now()),
        }[change]()
        answer = desk.npr.call(paths.SYNC_ROWS, sync.AskRows(run, claim, 1, sync.Listing.OURS), sync.Rows)
        assert answer.json()["code"] == "RUN_ENDED", answer

    def test_a_gateway_of_another_environment_gets_nothing_of_a_run(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        run, claim = self.claimed(desk)
        pro, _ = fleet_of("PRO")
        for path, body in (
            (paths.SYNC_OPEN, sync.OpenRun(run, claim, 1)),
            (paths.SYNC_ROWS, sync.AskRows(run, claim, 1, sync.Listing.OURS)),
            (paths.SYNC_END, sync.EndRun(run, claim, 1, sync.RunEnd.DONE)),
            (paths.STORAGE_MOVE, MoveProgress(run, claim, 1)),
        ):
            assert pro.call(path, body, sync.RunOrder).json()["code"] == "STALE_CLAIM", path

    def test_a_foreign_claim_or_an_old_epoch_counts_for_nothing(self, desk: SyncDesk) -> None:
        desk.with_rule().put("A", "one")
        run, claim = self.claimed(desk)
        assert (
            desk.npr.call(paths.SYNC_OPEN, sync.OpenRun(run, str(uuid.uuid4()), 1), sync.RunOrder).json()["code"] == "STALE_CLAIM"
        )
        assert desk.npr.call(paths.SYNC_OPEN, sync.OpenRun(run, claim, 7), sync.RunOrder).json()["code"] == "STALE_EPOCH"
        assert desk.npr.call(paths.SYNC_OPEN, sync.OpenRun(run, claim, 1), sync.RunOrder).rule == desk.rule

    @staticmethod
    def claimed(desk: SyncDesk, phase: str = "preview", **wish: str) -> tuple[str, str]:
        run = desk.ask(phase, **wish)["id"]
        offers = desk.npr.claim(epoch=1, limit=5)
        return run, offers.tasks[0].claim


def test_another_vault_is_a_first_run_again_and_what_was_known_of_the_other_one_is_forgotten(desk: SyncDesk) -> None:
    desk.with_rule().put("A", "one")
    desk.put("B", "one")
    desk.first()
    assert desk.admin.get(f"projects/sync-rules/{desk.rule}/setup")[1]["known_secrets"] == 2
    desk.delete("B")
    other = sandbox_vault(desk.sandbox, "kv-mazevault-we-npr")
    be_on(desk.monkeypatch, cloud_of(desk.sandbox), (desk.url, other))
    wish = {"name": "vault", "type": "key_vault", "provider": "azure_key_vault", "config": {"vault_url": other}}
    assert desk.admin.put(f"projects/integrations/{desk.integration}", wish)[0] == 200
    shown = desk.run("preview")
    assert (shown["verdict"], shown["planned"], shown["target"]) == ("needs_confirmation", {"create_there": 1}, other)
    assert desk.run(confirm=shown["digest"])["state"] == "succeeded"
    assert desk.admin.get(f"projects/sync-rules/{desk.rule}/setup")[1]["known_secrets"] == 1


def test_long_tasks_are_taken_one_at_a_time_and_short_ones_first(desk: SyncDesk) -> None:
    for name in ("a", "b"):
        desk.with_rule(name=name)
        desk.ask("preview")
    desk.admin.post("admin/tasks", {"environment": "NPR", "kind": "gateway.probe", "payload": {}})
    assert [offer.kind for offer in desk.npr.claim(epoch=1, limit=10).tasks] == ["gateway.probe", "sync.run"]
    assert [offer.kind for offer in desk.npr.claim(epoch=1, limit=10).tasks] == ["sync.run"]


def test_a_value_that_does_not_open_is_brought_nowhere_and_stops_no_other(desk: SyncDesk) -> None:
    desk.with_rule().put("A", "one")
    desk.put("B", "two")
    SecretVersion.objects.filter(secret__key="A").update(sealed_value=b"\x01" + bytes(200))
    assert desk.first()["state"] == "succeeded" and desk.there() == {"B": "two"}
