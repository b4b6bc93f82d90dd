"""The way to a vault: who may take it, who may try it, and that no environment reaches the vault of another (I13)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib import import_module
from typing import Any, cast

import httpx
import pytest
from django.apps import apps
from django.conf import settings
from django.db.models import F
from msgspec import structs

from accounts.changes import By
from accounts.models import Project
from common.clock import now
from common.errors import Conflict, PermissionRefused
from common.models import AuditEntry
from gateway_runtime import vaults as own_vaults
from gateway_runtime import work
from gateway_runtime.frames import TaskFrame
from gateway_runtime.node import MayNotAct
from gateway_runtime.vault_probes import VaultProbes
from gateways import vault_grants, vault_questions
from gateways.models import Task
from integrations.access import checked_access
from integrations.azure import denials
from integrations.azure.cloud import AuthMethod, Cloud
from integrations.azure.node_cloud import AzureNode
from integrations.models import AccessSnapshot, Integration, Vault, VaultQuestion, VaultUse
from protocol import messages, paths
from protocol.vault_access import AskAccess, VaultAccess
from sandbox.azure.directory import CLIENT_ID, TENANT_ID
from sandbox.azure.server import Sandbox
from tests import factories
from tests.conftest import Person, fleet_of
from tests.fakes.gateway import FakeGateway
from tests.gateways.vault_desk import Leased, be_on, cloud_of, sandbox_vault

pytestmark = pytest.mark.usefixtures("primary")
GROUP = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.KeyVault/vaults"
GRANT = {"principal_id": "p", "principal_type": "Group", "role": "Reader", "scope": "/", "inherited": True,
         "reads_values": False, "reads_names": True, "writes": False}  # fmt: skip
NPR, PRO = "https://kv-mazevault-npr.vault.azure.net", "https://kv-mazevault-pro.vault.azure.net"


def config_of(url: str = f"{NPR}/", **more: str) -> dict[str, Any]:
    return {"name": "vault", "type": "key_vault", "provider": "azure_key_vault", "environment": "dev",
            "config": {"vault_url": url, **more}}  # fmt: skip


@pytest.fixture
def project(admin: Person) -> str:
    return str(admin.post("projects", {"name": "payments"})[1]["id"])


@pytest.fixture
def integration(admin: Person, project: str) -> dict[str, Any]:
    status, row = admin.post(f"projects/{project}/integrations", config_of())
    assert status == 201, row
    return dict(row)


class TestValidation:
    @pytest.mark.parametrize(
        ("config", "field"),
        [
            ({}, "config.vault_url"),
            ({"vault_url": "https://vault.example.com/"}, "config.vault_url"),
            ({"vault_url": "http://kv-a.vault.azure.net/"}, "config.vault_url"),
            ({"vault_url": "https://169.254.169.254/"}, "config.vault_url"),
            ({"vault_url": NPR, "auth_method": "password"}, "config.auth_method"),
            ({"vault_url": NPR, "auth_method": "on_behalf_of"}, "config.tenant_id"),
            ({"vault_url": NPR, "auth_method": "client_secret", "tenant_id": TENANT_ID}, "config.client_id"),
            ({"vault_url": NPR, "auth_method": "on_behalf_of", "tenant_id": TENANT_ID, "client_id": CLIENT_ID},
             "config.client_secret"),
            ({"vault_url": NPR, "vualt": "x"}, "config.vualt"),
            ({"vault_url": NPR, "auth_method": "client_secret", "tenant_id": TENANT_ID, "client_id": CLIENT_ID,
              "client_secret": "s" * 4097}, "config.client_secret"),
            ({"vault_url": 7}, "config.vault_url"),
            ({"vault_url": NPR, "content_type": "x" * 256}, "config.content_type"),
            *(({"vault_url": NPR, "expires_days": days}, "config.expires_days") for days in ("30", -1, 3651, True, 1.5, None)),
        ],
    )  # fmt: skip
    def test_what_cannot_work_is_refused_with_the_field(
        self, admin: Person, project: str, config: dict[str, Any], field: str
    ) -> None:
        status, body = admin.post(f"projects/{project}/integrations", {**config_of(), "config": config})
        assert (status, body["error"].startswith(f"{field}: ")) == (400, True), body
        assert not Integration.objects.exists() and not Vault.objects.exists()

    def test_a_missing_address_is_told_once_and_as_missing(self, admin: Person, project: str) -> None:
        for config in ({}, {"vault_url": ""}, None):
            body = admin.post(f"projects/{project}/integrations", {**config_of(), "config": config})[1]
            assert body["error"].startswith("config.vault_url: it is missing") and body["error"].count("vault_url") == 1, body

    @pytest.mark.parametrize("said", ["azure_keyvault", "azure-key-vault", "AZURE_KEY_VAULT", "key_vault", "azuredevops"])
    def test_a_misspelt_provider_is_refused_with_the_nearest(self, admin: Person, project: str, said: str) -> None:
        status, body = admin.post(f"projects/{project}/integrations", {**config_of(), "provider": said, "config": {}})
        assert status == 400 and body["error"].startswith("provider: ") and "nearest" in body["error"], body
        other = {**config_of(), "provider": "hashicorp_vault", "config": {}}
        assert admin.post(f"projects/{project}/integrations", other)[0] == 201, "what is a client's own stays a stored object"

    def test_a_client_without_words_for_an_address_gets_the_one_vault_that_is_open(self, admin: Person, project: str) -> None:
        opening = {"origin": NPR, "project_id": project, "gateway_environment": "NPR"}
        assert admin.post("admin/vaults/open", opening)[0] == 204
        status, row = admin.post(f"projects/{project}/integrations", {**config_of(), "config": {"expires_days": 30}})
        assert (status, row["config"]) == (201, {"vault_url": f"{NPR}/", "expires_days": 30}), row
        path = f"projects/integrations/{row['id']}"
        renamed = {"name": "renamed", "type": "key_vault", "provider": "azure_key_vault"}
        for config in ({}, None, {"expires_days": 30}):
            status, again = admin.put(path, {**renamed, "config": config})
            assert (status, again["config"]) == (200, row["config"]), again
        assert admin.put(path, renamed)[1]["config"] == row["config"]
        assert admin.put(path, {**renamed, "config": {"vault_url": NPR}})[1]["config"] == {"vault_url": NPR}
        second = {**opening, "origin": "https://kv-other-npr.vault.azure.net"}
        assert admin.post("admin/vaults/open", second)[0] == 204
        status, body = admin.post(f"projects/{project}/integrations", {**config_of(), "name": "b", "config": {}})
        assert status == 400 and body["error"].startswith("config.vault_url: "), "a choice is a person's"

    def test_a_vault_needs_an_environment(self, admin: Person, project: str) -> None:
        status, body = admin.post(f"projects/{project}/integrations", {**config_of(), "environment": ""})
        assert status == 400 and body["error"].startswith("environment: "), body

    def test_the_client_secret_is_kept_and_never_shown(self, admin: Person, project: str) -> None:
        wish = config_of(auth_method="on_behalf_of", tenant_id=TENANT_ID, client_id=CLIENT_ID, client_secret="canary-8d1")
        _, row = admin.post(f"projects/{project}/integrations", wish)
        assert "client_secret" not in row["config"]
        changed = {name: wish[name] for name in ("name", "type", "provider")} | {"config": row["config"]}
        assert admin.put(f"projects/integrations/{row['id']}", changed)[0] == 200, "the secret of before counts"
        assert "canary-8d1" not in str(list(AuditEntry.objects.values()))


class TestIsolation:
    def test_at_validation_a_vault_belongs_to_the_first_environment_that_names_it(
        self, admin: Person, project: str, integration: dict[str, Any]
    ) -> None:
        wish = {**config_of("https://KV-MAZEVAULT-NPR.vault.azure.net"), "environment": "prod"}
        status, body = admin.post(f"projects/{project}/integrations", wish)
        assert (status, body["code"]) == (409, "VAULT_OF_OTHER_ENVIRONMENT"), body
        assert admin.post(f"projects/{project}/integrations", {**config_of(), "environment": "qa"})[0] == 201, "also NPR"

    def test_an_administrator_gives_a_vault_up_once_nobody_uses_it(
        self, admin: Person, project: str, integration: dict[str, Any]
    ) -> None:
        wish = {**config_of(), "environment": "prod"}
        assert [(row["origin"], row["gateway_environment"]) for row in admin.get("admin/vaults")[1]] == [(NPR, "NPR")]
        status, body = admin.post("admin/vaults/release", {"origin": f"{NPR}/"})
        assert (status, body["code"]) == (409, "VAULT_IN_USE") and "'vault'" in body["error"], body
        admin.delete(f"projects/integrations/{integration['id']}")
        assert admin.post(f"projects/{project}/integrations", wish)[1]["code"] == "VAULT_OF_OTHER_ENVIRONMENT"
        assert admin.post("admin/vaults/release", {"origin": NPR})[0] == 204
        assert admin.post("admin/vaults/release", {"origin": NPR})[0] == 404
        assert admin.post(f"projects/{project}/integrations", wish)[0] == 201

    def test_a_name_that_nothing_came_of_keeps_a_vault_from_nobody(self, admin: Person, project: str) -> None:
        """A member of a project in dev names PRO's vault with an application that Azure does not know."""
        theirs = Project.objects.create(organization=factories.organization("Other"), name="mine", default_environment="dev")
        eve = factories.member("project_admin", name="eve", project=theirs)
        squat = config_of(PRO, auth_method="client_secret", tenant_id=TENANT_ID, client_id=CLIENT_ID, client_secret="guess")
        status, row = eve.post(f"projects/{theirs.id}/integrations", squat)
        assert status == 201, row
        opening = {"origin": PRO, "project_id": project, "gateway_environment": "PRO"}
        assert admin.post("admin/vaults/open", opening)[0] == 204
        assert AuditEntry.objects.get(action="vault.rebound").details == {"before": "NPR"}
        assert admin.post(f"projects/{project}/integrations", {**config_of(PRO), "environment": "prod"})[0] == 201
        with pytest.raises(Conflict, match="belongs to PRO"):
            checked_access(Integration.objects.get(id=row["id"]), "NPR")
        status, body = admin.post("admin/vaults/open", {**opening, "gateway_environment": "NPR"})
        assert (status, body["code"]) == (409, "VAULT_OF_OTHER_ENVIRONMENT"), "what an administrator opened is more than a name"

    def test_a_project_has_gateways_go_to_a_vault_only_when_an_administrator_opened_it(
        self, admin: Person, project: str, integration: dict[str, Any]
    ) -> None:
        theirs = Project.objects.create(organization=factories.organization("Other"), name="mine", default_environment="dev")
        eve, (npr, _) = factories.member("project_admin", name="eve", project=theirs), fleet_of("NPR")
        assert eve.get(f"projects/{project}")[0] == 404
        many, opening = f"projects/{theirs.id}/integrations", {"origin": f"{NPR}/", "project_id": str(theirs.id)}
        obo = {"auth_method": "on_behalf_of", "tenant_id": TENANT_ID, "client_id": CLIENT_ID, "client_secret": "s"}
        for config in ({}, {"auth_method": "workload_identity"}, obo):
            status, body = eve.post(many, config_of(**config))
            assert (status, body["code"]) == (403, "VAULT_NOT_OPEN") and "admin/vaults/open" in body["error"], body
        assert eve.post("admin/vaults/open", opening)[0] == 403 and not Integration.objects.filter(project=theirs).exists()
        status, own = eve.post(many, config_of(**{**obo, "auth_method": "client_secret"}))
        assert status == 201, "an application of their own sees what Azure lets it see"
        changed = {name: own[name] for name in ("name", "type", "provider")} | {"config": {"vault_url": NPR}}
        assert eve.put(f"projects/integrations/{own['id']}", changed)[1]["code"] == "VAULT_NOT_OPEN"

        assert admin.post("admin/vaults/open", opening)[0] == admin.post("admin/vaults/open", opening)[0] == 204
        assert admin.get("admin/vaults")[1][0]["open_to"] == sorted([project, str(theirs.id)])
        assert eve.put(f"projects/integrations/{own['id']}", changed)[0] == 200
        ask = AskAccess(own["id"], 1)
        assert npr.call(paths.VAULT_ACCESS, ask, VaultAccess).vault_url == NPR

        assert admin.post("admin/vaults/close", opening)[0] == 204 and admin.post("admin/vaults/close", opening)[0] == 404
        assert code_of(npr, ask) == "VAULT_NOT_OPEN"
        told = AuditEntry.objects.filter(action__in=("vault.opened", "vault.closed")).order_by("id")
        assert [(row.action, row.details["project_id"]) for row in told] == [
            ("vault.opened", project), ("vault.opened", str(theirs.id)), ("vault.closed", str(theirs.id))
        ]  # fmt: skip

    def test_the_vault_of_a_deleted_project_can_be_given_up(
        self, admin: Person, project: str, integration: dict[str, Any]
    ) -> None:  # fmt: skip
        other = admin.post("projects", {"name": "shares the vault"})[1]["id"]
        shared = admin.post(f"projects/{other}/integrations", {**config_of(), "name": "shared"})[1]["id"]
        assert admin.delete(f"projects/{project}")[0] == 204
        status, body = admin.post("admin/vaults/release", {"origin": NPR})
        assert (status, "'shared'" in body["error"], "'vault'" in body["error"]) == (409, True, False), body
        assert admin.delete(f"projects/integrations/{shared}")[0] == 204
        assert admin.post("admin/vaults/release", {"origin": NPR})[0] == 204
        assert admin.post(f"projects/{other}/integrations", {**config_of(), "environment": "prod"})[0] == 201

    def test_a_vault_that_nobody_has_named_is_opened_to_who_names_it_first(self, admin: Person, project: str) -> None:
        lead = factories.member("project_admin", project=Project.objects.get(id=project))
        opening = {"origin": NPR, "project_id": project}
        assert lead.post(f"projects/{project}/integrations", config_of())[1]["code"] == "VAULT_NOT_OPEN"
        status, body = admin.post("admin/vaults/open", opening)
        assert status == 404 and "gateway_environment" in body["error"] and not Vault.objects.exists()
        status, body = admin.post("admin/vaults/open", {**opening, "gateway_environment": "XYZ"})
        assert status == 400 and body["error"].startswith("gateway_environment: "), body
        assert admin.post("admin/vaults/open", {**opening, "gateway_environment": "npr"})[0] == 204
        assert lead.post(f"projects/{project}/integrations", config_of())[0] == 201
        status, body = admin.post("admin/vaults/open", {**opening, "gateway_environment": "PRO"})
        assert (status, body["code"]) == (409, "VAULT_OF_OTHER_ENVIRONMENT")

    def test_who_used_a_vault_before_it_had_to_be_opened_goes_on_using_it(
        self, admin: Person, project: str, integration: dict[str, Any]
    ) -> None:
        VaultUse.objects.all().delete()
        Integration.objects.update(config={"vault_url": "https://KV-MazeVault-NPR.vault.azure.net:443/"})
        upgrade = import_module("integrations.migrations.0006_uses_of_vaults").open_what_is_used
        for _ in range(2):
            upgrade(apps, None)
        (use,) = VaultUse.objects.all()
        assert (use.vault_id, str(use.project_id)) == (NPR, project)

    def test_at_validation_a_rule_for_another_environment_is_refused(
        self, admin: Person, project: str, integration: dict[str, Any]
    ) -> None:
        wish = {"name": "r", "integration_id": integration["id"], "target_environment": "prod"}
        status, body = admin.post(f"projects/{project}/sync-rules", wish)
        assert (status, body["code"]) == (409, "VAULT_OF_OTHER_ENVIRONMENT"), body

    def test_at_dispatch_only_the_active_gateway_of_its_environment_gets_the_way(self, integration: dict[str, Any]) -> None:
        npr, npr_dr = fleet_of("NPR")
        pro, _ = fleet_of("PRO")
        ask = AskAccess(integration["id"], 1)
        assert npr.call(paths.VAULT_ACCESS, ask, VaultAccess).vault_url == f"{NPR}/"
        assert code_of(npr_dr, ask) == "NOT_ACTIVE"
        assert code_of(pro, ask) == "RESOURCE_NOT_FOUND", "as an id of nobody"
        assert code_of(npr, AskAccess(integration["id"], 7)) == "STALE_EPOCH"
        assert code_of(npr, AskAccess(str(uuid.uuid4()), 1)) == "RESOURCE_NOT_FOUND"

    def test_at_the_gateway_any_vault_but_its_own_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        be_on(monkeypatch, Cloud(), (NPR,))
        assert own_vaults.connection_of(access(NPR)).vault_url == NPR
        for url in ("https://kv-mazevault-pro.vault.azure.net", "https://kv-mazevault-npr.vault.azure.cn"):
            with pytest.raises(PermissionRefused, match="none of this gateway's vaults"):
                own_vaults.connection_of(access(url))
        be_on(monkeypatch, Cloud(), ())
        with pytest.raises(PermissionRefused):
            own_vaults.connection_of(access(NPR))

    def test_a_person_cannot_make_the_task_of_a_trial(self, admin: Person) -> None:
        fleet_of("NPR")
        for kind in ("integration.test", "integration.access"):
            wish = {"environment": "NPR", "kind": kind, "payload": {"integration": str(uuid.uuid4())}}
            assert admin.post("admin/tasks", wish)[0] == 400


class TestTrial:
    def test_at_the_gateway_with_its_own_identity(
        self, admin: Person, project: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The task as the gateway does it, with the Azure client, against the sandbox."""
        url = sandbox_vault(sandbox, "kv-mazevault-npr")
        be_on(monkeypatch, cloud_of(sandbox), (url, sandbox_vault(sandbox, "kv-mazevault-pro")))
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"{sandbox.plain_url}/hosts/npr")
        before = denials.totals().get("KEY_VAULT_ROLE_MISSING", 0)
        asked = work.try_vault(frame(url), {"integration": str(uuid.uuid4()), "write": True})
        assert [one["outcome"] for one in asked["stages"]] == ["ok"] * 10, asked
        foreign = work.try_vault(frame(sandbox_vault(sandbox, "kv-mazevault-pro")), {"integration": str(uuid.uuid4())})
        failed = [one for one in foreign["stages"] if one["outcome"] == "failed"]
        assert {one["code"] for one in failed} == {"KEY_VAULT_ROLE_MISSING"} and "assign" in failed[0]["fix"]
        assert denials.totals()["KEY_VAULT_ROLE_MISSING"] >= before + len(failed), "each denied call is counted"

    def test_the_answer_of_the_gateway_is_found_where_the_request_was_told_to_look(
        self, admin: Person, integration: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        npr, _ = fleet_of("NPR")
        stage = {"stage": "dns", "outcome": "failed", "milliseconds": 3, "cause": "no such name", "fix": "correct it",
                 "owner": "network team", "code": "AZURE_UNREACHABLE", "retrying_helps": True}  # fmt: skip
        status, body = admin.post(f"projects/integrations/{integration['id']}/test")
        assert (status, body["ok"], body["state"], body["stages"]) == (202, None, "running", [])
        answer_for(npr, {"stages": [stage, "no row", {"stage": 7}], "at": 3})
        for _ in range(2):
            status, body = admin.get(body["status_url"])
            assert (status, body["ok"], body["ran_at"], body["state"]) == (200, False, "gw-npr-primary", "ended")
            assert [one["fix"] for one in body["stages"]] == ["correct it"]
        assert AuditEntry.objects.filter(action="integration.test_asked").count() == 1
        assert AuditEntry.objects.get(action="integration.tested").details["ok"] is False

    def test_no_request_waits_and_what_nobody_answers_ends(self, admin: Person, integration: dict[str, Any]) -> None:
        fleet_of("NPR")
        path, begun = f"projects/integrations/{integration['id']}/test", time.monotonic()
        status, body = admin.post(path)
        assert (status, body["ok"]) == (202, None) and Task.objects.get(id=body["task"]).state == "pending"
        assert time.monotonic() - begun < 5
        status, refused = admin.post(path)
        assert (status, refused["code"], refused["question"]) == (409, "QUESTION_OPEN", body["id"])
        grow_old(body["id"])
        ended = admin.get(body["status_url"])[1]
        assert (ended["state"], ended["ok"]) == ("ended", False) and "no gateway of NPR answered" in ended["detail"]
        again = admin.post(path)[1]
        assert again["id"] != body["id"] and again["task"] == body["task"], "a task nobody has taken yet serves both"

    def test_a_project_has_a_few_open_and_the_next_one_is_told_so(self, admin: Person, project: str) -> None:
        fleet_of("NPR")
        made = [admin.post(f"projects/{project}/integrations", {**config_of(NPR), "name": f"v{n}"})[1]["id"] for n in range(5)]
        answers = [admin.post(f"projects/integrations/{one}/test") for one in made]
        assert [status for status, _ in answers] == [202] * vault_questions.MOST_OF_A_PROJECT + [429]
        assert answers[-1][1]["code"] == "TOO_MANY_QUESTIONS" and "of this project" in answers[-1][1]["error"]
        grow_old(answers[0][1]["id"])
        assert admin.post(f"projects/integrations/{made[-1]}/test")[0] == 202, "what has ended takes nobody's place"

    def test_only_the_newest_answers_are_kept(self, admin: Person, integration: dict[str, Any]) -> None:
        fleet_of("NPR")
        for _ in range(vault_questions.KEPT + 3):
            grow_old(admin.post(f"projects/integrations/{integration['id']}/test")[1]["id"])
        assert VaultQuestion.objects.count() <= vault_questions.KEPT + 1

    def test_a_trial_of_this_node_that_breaks_off_ends_with_a_sentence(self, integration: dict[str, Any], at_once: None) -> None:
        def broken() -> Any:
            raise RuntimeError("a fault of ours")

        row = Integration.objects.get(id=integration["id"])
        by = By(factories.principal())
        question = vault_questions.ask_here(row, VaultQuestion.TEST, AuthMethod.CLIENT_SECRET, by, broken)
        assert question.ended_at is not None and "the log of the server" in question.detail
        assert "a fault of ours" not in question.detail

    def test_on_behalf_of_somebody_who_is_not_signed_in_with_entra_the_network_is_tried_and_the_token_explained(
        self,
        admin: Person,
        project: str,
        sandbox: Sandbox,
        secret: str,
        monkeypatch: pytest.MonkeyPatch,
        at_once: None,
        person: Any,
    ) -> None:
        be_on(monkeypatch, cloud_of(sandbox), ())
        wish = config_of(sandbox_vault(sandbox, "kv-mazevault-npr"), auth_method="on_behalf_of", tenant_id=TENANT_ID,
                         client_id=CLIENT_ID, client_secret=secret)  # fmt: skip
        _, row = admin.post(f"projects/{project}/integrations", wish)
        status, body = admin.post(f"projects/integrations/{row['id']}/test")
        found = {one["stage"]: one for one in body["stages"]}
        assert (status, body["ok"], body["ran_at"], body["auth_method"]) == (202, False, "primary", "on_behalf_of")
        assert admin.get(body["status_url"])[1] == body
        assert person("project_admin").get(body["status_url"])[0] == 404, "a test in a person's own name is that person's"
        assert found["tls"]["outcome"] == "ok" and found["token"]["outcome"] == "failed", body
        assert found["token"]["owner"] == "the signed-in person" and secret not in str(body)
        assert admin.post(f"projects/integrations/{row['id']}/test", {"write": True})[0] == 400

    def test_who_may_not_change_the_project_may_not_try(self, integration: dict[str, Any], person: Any) -> None:
        assert person("auditor").post(f"projects/integrations/{integration['id']}/test")[0] in (403, 404)


class TestGate:
    """What a trial writes, it writes under the lease: of the task's own epoch, for no longer than the lease is sure to last."""

    def test_without_a_lease_or_in_another_epoch_nothing_is_written(
        self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = sandbox_vault(sandbox, "kv-mazevault-npr")
        be_on(monkeypatch, cloud_of(sandbox), (url,))
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"{sandbox.plain_url}/hosts/npr")
        before = len(sandbox.world.vaults.journal)
        wish = {"integration": str(uuid.uuid4()), "write": True}
        for node in (Leased(None), Leased(2)):
            with pytest.raises(MayNotAct):
                work.try_vault(frame(url, node=node), wish)
        assert len(sandbox.world.vaults.journal) == before
        work.try_vault(frame(url), wish)
        assert len(sandbox.world.vaults.journal) > before

    def test_a_call_ends_with_the_deadline_of_an_effect_and_counts_as_running_until_then(
        self, sandbox: Sandbox, control: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A vault that answers after 3 s, and a profile in which an effect may take 1 s."""
        url = sandbox_vault(sandbox, "kv-mazevault-npr")
        be_on(monkeypatch, cloud_of(sandbox), (url,))
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"{sandbox.plain_url}/hosts/npr")
        node = SlowsDown(control)
        found = work.try_vault(frame(url, node=node, deadline=1.0), {"integration": str(uuid.uuid4()), "write": True})
        ends = {one["stage"].value: one for one in found["stages"]}
        assert ends["get"]["outcome"] == "ok" and ends["set"]["code"] == "KEY_VAULT_OUTCOME_UNKNOWN", ends
        assert ends["set"]["milliseconds"] < 2000 and len(node.unseen) == 1
        deadline = time.monotonic() + 10
        while not sandbox.world.vaults.journal and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(sandbox.world.vaults.journal) == 1, "it lands late, and not in the vault of the next test"


class TestAccess:
    def test_the_gateway_lists_who_has_a_role_and_says_why_when_it_may_not(
        self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        urls = [sandbox_vault(sandbox, name) for name in ("kv-mazevault-npr", "kv-mazevault-pro")]
        be_on(monkeypatch, cloud_of(sandbox), tuple(urls))
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"{sandbox.plain_url}/hosts/npr")
        payload = {"integration": str(uuid.uuid4())}
        found = work.list_access(frame(urls[0], vault_id(sandbox, "kv-mazevault-npr")), payload)
        names = {(grant["role"], grant["reads_values"], grant["writes"]) for grant in found["grants"]}
        assert ("Key Vault Secrets Officer", True, True) in names and ("Key Vault Secrets User", True, False) in names, names
        refused = work.list_access(frame(urls[1], vault_id(sandbox, "kv-mazevault-pro")), payload)
        assert refused["trouble"]["fix"] and "grants" not in refused

    def test_the_answer_is_dated_kept_and_asked_anew_on_wish(
        self, admin: Person, project: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wish = config_of(vault_id=f"{GROUP}/kv-mazevault-npr")
        identifier = admin.post(f"projects/{project}/integrations", wish)[1]["id"]
        npr, _ = fleet_of("NPR")
        answers = [{"at": f"2026-01-0{day}T00:00:00+00:00", "grants": [GRANT] * day} for day in (1, 2)]
        monkeypatch.setattr(vault_grants, "KEPT", timedelta(days=36500))
        path = f"projects/integrations/{identifier}/access"
        assert [admin.get(path) for _ in range(2)] == [
            (202, {"at": None, "vault_id": wish["config"]["vault_id"], "grants": []})
        ] * 2
        answer_for(npr, answers[0])
        assert [admin.get(path)[1]["at"] for _ in range(2)] == ["2026-01-01T00:00:00.000000Z"] * 2
        assert Task.objects.filter(kind="integration.access").count() == 1
        status, body = told(admin, f"{path}?refresh=true", npr, answers[1])
        assert (status, body["at"], body["grants"]) == (200, "2026-01-02T00:00:00.000000Z", [GRANT] * 2)

    def test_who_had_access_to_the_former_vault_is_not_told_of_the_present_one(
        self, admin: Person, project: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither from the list that was kept, nor from an answer on its way while the integration was pointed elsewhere."""
        urls = [f"https://kv-mazevault-{name}.vault.azure.net" for name in ("npr", "we-npr", "other")]
        wishes = [config_of(url, vault_id=f"{GROUP}/{url[8:].partition('.')[0]}") for url in urls]
        identifier = admin.post(f"projects/{project}/integrations", wishes[0])[1]["id"]
        path = f"projects/integrations/{identifier}"
        npr, _ = fleet_of("NPR")
        for number, wish in enumerate(wishes[:2], 1):
            assert admin.put(path, wish)[0] == 200
            status, body = told(admin, f"{path}/access", npr, {"at": now().isoformat(), "grants": [GRANT] * number})
            assert (status, body["vault_id"], len(body["grants"])) == (200, wish["config"]["vault_id"], number), body
        assert admin.get(f"{path}/access?refresh=true")[0] == 202
        assert admin.put(path, wishes[2])[0] == 200
        answer_for(npr, {"at": now().isoformat(), "grants": []})
        status, body = admin.get(f"{path}/access?refresh=true")
        assert (status, body["code"]) == (409, "INTEGRATION_CHANGED"), body
        status, body = told(admin, f"{path}/access", npr, {"at": now().isoformat(), "grants": []})
        assert (status, body["vault_id"]) == (200, wishes[2]["config"]["vault_id"]), body
        assert [row.vault_id for row in AccessSnapshot.objects.all()] == [wishes[2]["config"]["vault_id"]]

    def test_what_azure_refuses_is_told_with_its_fix(self, admin: Person, project: str, monkeypatch: pytest.MonkeyPatch) -> None:
        identifier = admin.post(f"projects/{project}/integrations", config_of(vault_id=f"{GROUP}/kv-mazevault-npr"))[1]["id"]
        npr, _ = fleet_of("NPR")
        trouble = {"cause": "no role", "fix": "assign Reader", "owner": "owner of the vault", "code": "ACCESS_DENIED"}
        status, body = told(admin, f"projects/integrations/{identifier}/access", npr, {"trouble": trouble})
        assert (status, body["code"], "assign Reader" in body["details"]) == (502, "ACCESS_DENIED", True)

    def test_the_resource_id_must_be_that_of_the_vault(self, admin: Person, project: str, integration: dict[str, Any]) -> None:
        for given in ("kv-mazevault-npr", f"{GROUP}/kv-mazevault-pro"):
            status, body = admin.post(f"projects/{project}/integrations", config_of(vault_id=given))
            assert status == 400 and body["error"].startswith("config.vault_id: "), body
        status, body = admin.get(f"projects/integrations/{integration['id']}/access")
        assert status == 400 and body["error"].startswith("config.vault_id: "), body


def code_of(gateway: FakeGateway, ask: AskAccess) -> str:
    return str(gateway.call(paths.VAULT_ACCESS, ask, VaultAccess).json()["code"])


def access(url: str) -> VaultAccess:
    return VaultAccess(str(uuid.uuid4()), url, AuthMethod.MANAGED_IDENTITY.value)


def vault_id(sandbox: Sandbox, name: str) -> str:
    return str(sandbox.world.vaults.named(name).resource_id)


class SlowsDown(Leased):
    """The vault becomes slow when the first change is about to be made."""

    def __init__(self, control: httpx.Client) -> None:
        super().__init__()
        self.control = control

    @contextmanager
    def effect(self) -> Iterator[int]:
        self.control.post("/faults", json={"vault_slow_seconds": 3})
        yield 1


@dataclass
class Way:
    """A Primary that gives this way."""

    given: VaultAccess

    def call(self, path: str, message: object, kind: object, *, timeout: float) -> VaultAccess:
        return self.given


def frame(url: str, resource_id: str = "", *, node: Leased | None = None, deadline: float = 10.0) -> TaskFrame:
    given = structs.replace(access(url), vault_id=resource_id)
    return TaskFrame(cast(Any, Way(given)), cast(Any, node or Leased()), 1, deadline)


def told(admin: Person, path: str, gateway: FakeGateway, result: dict[str, Any]) -> tuple[int, Any]:
    """The answer to who asks again after the gateway has answered."""
    assert admin.get(path)[0] == 202
    answer_for(gateway, result)
    return admin.get(path)


def grow_old(identifier: str) -> None:
    """As if nobody had answered this question for long."""
    VaultQuestion.objects.filter(id=identifier).update(begun_at=F("begun_at") - vault_questions.LONGEST)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has a thread of its own is done in the test's, which is the one that sees its rows."""
    monkeypatch.setattr(vault_questions, "in_a_thread", vault_questions.find_out)


def answer_for(gateway: FakeGateway, result: dict[str, Any]) -> None:
    """What the gateway does meanwhile."""
    offers = gateway.call(paths.TASK_CLAIM, messages.ClaimTasks(epoch=1, limit=5), messages.TaskOffers)
    for offer in offers.tasks:
        done = messages.TaskResult(offer.id, offer.claim, 1, "succeeded", 0.1, "", result, False)
        gateway.call(paths.TASK_RESULTS, messages.TaskResults([done]), messages.TaskVerdicts)


class TestProbes:
    """What a heartbeat says of the vaults of a gateway."""

    def test_each_vault_is_looked_at_with_the_nodes_own_identity(
        self, sandbox: Sandbox, control: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own, npr, pro = (sandbox_vault(sandbox, f"kv-mazevault-{name}") for name in ("gw-npr", "npr", "pro"))
        node = AzureNode(cloud_of(sandbox), (npr, pro), own)
        monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, azure=node))
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"{sandbox.plain_url}/hosts/npr")
        probes = VaultProbes()
        assert probes.found() == (messages.Probe(ok=None), []), "nothing is claimed before the first look"
        probes.look()
        found, projects = probes.found()
        assert (found.ok, [one.ok for one in projects], projects[1].detail) == (True, [True, False], "KEY_VAULT_ROLE_MISSING")
        control.post("/faults", json={"vault_closed": ["kv-mazevault-npr"]})
        probes.look()
        assert [one.detail for one in probes.found()[1]] == ["KEY_VAULT_NETWORK_CLOSED", "KEY_VAULT_ROLE_MISSING"]
        assert not sandbox.world.vaults.journal

    def test_without_any_vault_nothing_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, azure=AzureNode()))
        probes = VaultProbes()
        probes.look()
        assert probes.found() == (messages.Probe(ok=None), [])
