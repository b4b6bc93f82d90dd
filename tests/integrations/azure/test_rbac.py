"""Who can read what in a vault, and whether a refused role is only on its way."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest

from common.errors import ValidationFailed
from integrations.azure.cloud import Cloud, Connection
from integrations.azure.credentials import Credential, Credentials
from integrations.azure.egress import Guard
from integrations.azure.errors import AccessDenied, NetworkClosed, RoleMissing, RoleNotInEffect
from integrations.azure.keyvault import KeyVault
from integrations.azure.rbac import RoleAssignments
from sandbox.azure.server import Sandbox
from tests.integrations.azure.conftest import MARKS, NPR, PRO

Open = Callable[..., RoleAssignments]
PROVIDER = "/providers/Microsoft.KeyVault/vaults"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def assignments(
    sandbox: Sandbox, cloud: Cloud, guard: Guard, connection: Callable[..., Connection], on_machine: Callable[[str], None]
) -> Open:
    def make(vault: str = NPR, credential: Credential | None = None) -> RoleAssignments:
        on_machine("npr")
        identifier = sandbox.world.vaults.named(vault).resource_id
        return RoleAssignments(identifier, credential or Credentials(connection(), cloud).own(), guard)

    return make


def test_the_list_says_who_reads_values_names_and_who_writes(sandbox: Sandbox, assignments: Open) -> None:
    found = assignments().access(NOW)
    assert found.at == NOW and found.vault_id.endswith(NPR)
    rows = {(one.principal_type, one.role): (one.reads_values, one.reads_names, one.writes) for one in found.grants}
    assert rows == {
        ("Group", "Key Vault Secrets User"): (True, True, False),
        ("ServicePrincipal", "Key Vault Secrets Officer"): (True, True, True),
        ("User", "Key Vault Administrator"): (True, True, True),
    }, "roles without rights on secrets, such as Reader and Owner, give no access to values"
    assert not any(one.inherited for one in found.grants)


def test_a_users_own_and_their_groups_roles_are_found(sandbox: Sandbox, assignments: Open) -> None:
    users = sandbox.world.directory.users
    paul = assignments().of_principal(users["paul.project@bank.example"].oid, NOW)
    assert [(one.principal_type, one.writes) for one in paul.grants] == [("Group", False)]
    assert assignments().of_principal(users["stella.stranger@bank.example"].oid, NOW).grants == ()
    for text in ("x') or principalId ne ('", "", "paul"):
        with pytest.raises(ValidationFailed, match="object_id"):
            assignments().of_principal(text, NOW)


def test_an_inherited_role_is_marked(sandbox: Sandbox, assignments: Open) -> None:
    group = sandbox.world.vaults.named(NPR).resource_id.split("/providers/")[0]
    sandbox.world.access.grant("stella.stranger@bank.example", "Key Vault Secrets User", group)
    stella = sandbox.world.directory.users["stella.stranger@bank.example"].oid
    assert [(one.inherited, one.scope) for one in assignments().of_principal(stella, NOW).grants] == [(True, group)]


def test_access_of_the_other_environment_cannot_be_listed(assignments: Open) -> None:
    with pytest.raises(AccessDenied):
        assignments(PRO).access(NOW)


@pytest.mark.parametrize("identifier", ["", "kv-mazevault-npr", f"/subscriptions/x/resourceGroups/y{PROVIDER}/z",
                                        "/subscriptions/00000000-0000-4000-8000-00000000000a/../../evil"])  # fmt: skip
def test_what_is_no_id_of_a_vault_is_refused(
    identifier: str, guard: Guard, cloud: Cloud, connection: Callable[..., Connection]
) -> None:
    with pytest.raises(ValidationFailed, match="vault_id"):
        RoleAssignments(identifier, Credentials(connection(), cloud).own(), guard)


def test_a_refusal_with_the_role_assigned_is_propagation_and_without_it_is_not(
    sandbox: Sandbox, assignments: Open, open_vault: Callable[..., KeyVault], control: httpx.Client
) -> None:
    identity = next(one.principal_id for one in sandbox.world.directory.identities if one.host == "npr")
    stella = sandbox.world.directory.users["stella.stranger@bank.example"].oid
    control.post("/faults", json={"vault_forbidden": [NPR]})
    with pytest.raises(RoleMissing) as caught:
        open_vault().set("x", "y", MARKS)
    there = assignments()
    explained = there.explained(caught.value, identity)
    assert isinstance(explained, RoleNotInEffect) and explained.retrying_helps and "Key Vault Secrets Officer" in explained.cause
    assert there.explained(caught.value, stella) is caught.value
    closed = NetworkClosed("closed", "open it")
    assert there.explained(closed, identity) is closed
    assert assignments(PRO).explained(caught.value, identity) is caught.value, "what cannot be looked up stays as it was"
