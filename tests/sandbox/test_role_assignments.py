"""Role assignments and definitions at the sandbox, with the unmodified management client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.mgmt.authorization import AuthorizationManagementClient

from sandbox.azure.directory import SUBSCRIPTION
from sandbox.azure.server import Sandbox
from tests.sandbox.conftest import Token


@pytest.fixture
def management(sandbox: Sandbox) -> Callable[[Token], AuthorizationManagementClient]:
    def make(credential: Token) -> AuthorizationManagementClient:
        return AuthorizationManagementClient(
            credential, SUBSCRIPTION, base_url=sandbox.base_url, connection_verify=str(sandbox.ca_file), retry_total=0,
            credential_scopes=["https://management.azure.com/.default"],
        )  # fmt: skip

    return make


def scope_of(sandbox: Sandbox, name: str) -> str:
    return sandbox.world.vaults.named(name).resource_id


def roles_of(client: AuthorizationManagementClient, scope: str, text: str | None = None) -> list[tuple[str, str]]:
    names = {one.id: one.role_name for one in client.role_definitions.list(scope)}
    rows = client.role_assignments.list_for_scope(scope, filter=text)
    return sorted((row.principal_type, names[row.role_definition_id]) for row in rows)


def test_everybody_with_a_role_at_or_above_a_vault_is_listed_over_several_pages(
    sandbox: Sandbox, management: Callable[..., Any], as_identity: Callable[[str], Token]
) -> None:
    client = management(as_identity("npr"))
    found = roles_of(client, scope_of(sandbox, "kv-mazevault-npr"), "atScope()")
    assert found == [
        ("Group", "Key Vault Secrets User"), ("ServicePrincipal", "Key Vault Certificates Officer"),
        ("ServicePrincipal", "Key Vault Secrets Officer"), ("ServicePrincipal", "Reader"), ("User", "Key Vault Administrator"),
        ("User", "Owner"),
    ]  # fmt: skip
    requests = [one for one in sandbox.world.seen if one.path.endswith("roleAssignments")]
    assert len(requests) == 2, "six rows are more than one page"


def test_assigned_to_follows_groups_and_principal_id_does_not(
    sandbox: Sandbox, management: Callable[..., Any], as_identity: Callable[[str], Token]
) -> None:
    client, scope = management(as_identity("npr")), scope_of(sandbox, "kv-mazevault-npr")
    oid = sandbox.world.directory.users["paul.project@bank.example"].oid
    assert roles_of(client, scope, f"assignedTo('{oid}')") == [("Group", "Key Vault Secrets User")]
    assert roles_of(client, scope, f"principalId eq '{oid}'") == []
    assert roles_of(client, scope, f"atScope() and assignedTo('{oid}')") == [("Group", "Key Vault Secrets User")]
    with pytest.raises(HttpResponseError, match="not supported"):
        roles_of(client, scope, "name eq 'x'")


def test_who_may_not_read_assignments_is_refused_and_no_identity_sees_the_other_environment(
    sandbox: Sandbox, management: Callable[..., Any], as_identity: Callable[[str], Token], as_user: Callable[[str], Token]
) -> None:
    for credential, vault in ((as_user("paul.project"), "kv-mazevault-npr"), (as_identity("npr"), "kv-mazevault-pro"),
                              (as_identity("pro"), "kv-mazevault-npr")):  # fmt: skip
        with pytest.raises(HttpResponseError) as caught:
            roles_of(management(credential), scope_of(sandbox, vault))
        assert (caught.value.status_code, caught.value.error.code) == (403, "AuthorizationFailed")
    assert len(roles_of(management(as_user("ada.admin")), f"/subscriptions/{SUBSCRIPTION}")) > 10, "an owner sees what is below"


def test_definitions_say_what_a_role_allows_on_data(
    sandbox: Sandbox, management: Callable[..., Any], as_identity: Callable[[str], Token]
) -> None:
    client, scope = management(as_identity("npr")), scope_of(sandbox, "kv-mazevault-npr")
    named = list(client.role_definitions.list(scope, filter="roleName eq 'Key Vault Secrets User'"))
    assert [one.name for one in named] == ["4633458b-17de-408a-b874-0445c86b69e6"]
    assert "Microsoft.KeyVault/vaults/secrets/getSecret/action" in named[0].permissions[0].data_actions
    assert len(list(client.role_definitions.list(scope))) == 10
    with pytest.raises(HttpResponseError):
        client.role_definitions.get(scope, "00000000-0000-0000-0000-000000000000")
