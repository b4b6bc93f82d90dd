"""Values of a project in its vault, at the Primary, in the name of whoever asks: our permission and Azure's role both count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from accounts.models import Project, Role, RoleGrant, User
from common.models import AuditEntry
from integrations.models import Integration
from sandbox.azure.server import Sandbox
from tests.accounts.conftest import Node
from tests.accounts.test_obo import integration  # noqa: F401  the fixture
from tests.conftest import Person, fleet_of
from tests.fakes.browser import Browser
from tests.gateways.vault_desk import opened_vault
from vault.models import Secret, SecretVersion

ADA, PAUL, STELLA = "ada.admin", "paul.project", "stella.stranger"


@pytest.fixture
def project(integration: Integration) -> Project:  # noqa: F811  the fixture
    Project.objects.update(storage="key_vault")
    opened_vault(integration.config["vault_url"], integration.project)
    return Project.objects.get(id=integration.project_id)


@pytest.fixture
def signed_in(node: Node, browser: Browser) -> Callable[..., Person]:
    """Somebody with this role here, by a session that began at Entra."""

    def make(user: str, role: str = "secret_manager") -> Person:
        answer = node.sign_in(browser, user, Accept="application/json")
        assert answer.status_code == 200, answer.content
        holder = User.objects.get(email=f"{user}@bank.example")
        RoleGrant.objects.filter(user=holder).delete()
        RoleGrant.objects.create(user=holder, role=Role.objects.get(name=role))
        return Person(answer.json()["token"])

    return make


def create(person: Person, project: Project, value: str = "one", key: str = "DB") -> tuple[int, Any]:
    return person.post("secrets", {"project_id": str(project.id), "environment": "dev", "key": key, "value": value})


def test_each_does_what_their_own_role_at_the_vault_allows(
    project: Project, signed_in: Callable[..., Person], sandbox: Sandbox, control: httpx.Client
) -> None:
    """Ada administers the vault, Paul's group reads it, Stella has no role; here all three may do everything with secrets."""
    status, row = create(signed_in(ADA), project)
    assert status == 201, row
    path = f"secrets/{row['id']}"
    assert SecretVersion.objects.get().sealed_value is None
    write = sandbox.world.vaults.journal[-1]
    assert write.caller_name == f"{ADA}@bank.example", write
    paul, stella = signed_in(PAUL), signed_in(STELLA)
    assert paul.get(path)[1]["value"] == "one"
    for person, change in ((paul, True), (stella, False)):
        before = len(control.get("/requests").json()["value"])
        status, body = person.put(path, {"value": "two"}) if change else person.get(path)
        assert (status, body["code"]) == (403, "KEY_VAULT_ROLE_MISSING"), body
        refused = [one for one in control.get("/requests").json()["value"][before:] if one["status"] == 403]
        assert len(refused) == 1, "a denial is final: asked once, in one name"
    assert Secret.objects.get().version == 1 and len(sandbox.world.vaults.journal) == 1
    assert AuditEntry.objects.filter(action="secret.denied_by_vault").count() == 2


def test_a_role_at_the_vault_is_not_enough_without_a_permission_here(project: Project, signed_in: Callable[..., Person]) -> None:
    row = create(signed_in(ADA), project)[1]
    ada = signed_in(ADA, role="viewer")
    for status, body in (ada.get(f"secrets/{row['id']}"), create(ada, project, key="OTHER")):
        assert (status, body["code"]) == (403, "PERMISSION_DENIED") and "secrets:" in body["error"], body


def test_who_did_not_sign_in_with_entra_is_told_so(project: Project, admin: Person, sandbox: Sandbox) -> None:
    status, body = create(admin, project)
    assert (status, body["code"]) == (403, "ENTRA_SESSION_NEEDED") and "Entra" in body["error"], body
    assert not sandbox.world.vaults.journal


def test_the_primary_writes_only_where_no_gateway_is_active(
    project: Project, signed_in: Callable[..., Person], sandbox: Sandbox
) -> None:
    ada = signed_in(ADA)
    row = create(ada, project)[1]
    fleet_of("NPR")
    status, body = ada.put(f"secrets/{row['id']}", {"value": "two"})
    assert (status, body["code"]) == (409, "WRITE_AT_GATEWAY") and "gw-npr-primary" in body["error"]
    assert len(sandbox.world.vaults.journal) == 1 and ada.get(f"secrets/{row['id']}")[1]["value"] == "one"


def test_a_vault_that_only_the_managed_identity_reaches_is_read_at_the_gateway(
    project: Project, integration: Integration, signed_in: Callable[..., Person]  # noqa: F811  the fixture
) -> None:  # fmt: skip
    ada = signed_in(ADA)
    row = create(ada, project)[1]
    Integration.objects.update(config={**integration.config, "auth_method": "managed_identity"})
    fleet_of("NPR")
    status, body = ada.get(f"secrets/{row['id']}")
    assert (status, body["code"]) == (409, "VALUE_AT_GATEWAY") and "gw-npr-primary" in body["error"]


def test_the_integration_that_leads_to_values_cannot_be_taken_away(
    project: Project, integration: Integration, signed_in: Callable[..., Person]  # noqa: F811  the fixture
) -> None:  # fmt: skip
    ada = signed_in(ADA, role="admin")
    assert create(ada, project)[0] == 201
    path = f"projects/integrations/{integration.id}"
    assert ada.delete(path)[1]["code"] == "VAULT_HOLDS_VALUES"
    other = {
        **integration.config,
        "vault_url": integration.config["vault_url"].replace("kv-mazevault-npr", "kv-mazevault-we-npr"),
    }
    other["vault_id"] = ""
    wish = {"name": "v", "type": "key_vault", "provider": "azure_key_vault", "config": other}
    assert ada.put(path, wish)[1]["code"] == "VAULT_HOLDS_VALUES"
