"""Tokens by exactly the identity an integration names, and why there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.core.exceptions import ClientAuthenticationError

from common.errors import ValidationFailed
from integrations.azure.cloud import AuthMethod, Cloud, Connection
from integrations.azure.credentials import Credentials, TokenRefused
from integrations.azure.errors import ConsentMissing, Owner, TokenTrouble
from integrations.azure.keyvault import KeyVault
from sandbox.azure.directory import CLIENT_ID, TENANT_ID
from sandbox.azure.server import Sandbox
from sandbox.azure.tokens import parted
from tests.integrations.azure.conftest import MARKS, NPR

Connect = Callable[..., Connection]
Federated = Callable[..., tuple[Path, str]]
OnMachine = Callable[[str], None]


@pytest.fixture
def scope(sandbox: Sandbox) -> str:
    return f"{sandbox.world.vault_resource}/.default"


def oid_of(token: Any) -> str:
    return str(parted(token.token)[1]["oid"])


def refused(attempt: Callable[[], Any]) -> TokenTrouble:
    with pytest.raises(TokenRefused) as caught:
        attempt()
    assert isinstance(caught.value, ClientAuthenticationError)
    return caught.value.trouble


def token_requests(sandbox: Sandbox) -> list[str]:
    return [one.grant or one.path for one in sandbox.world.seen if one.grant or "/metadata/" in one.path]


def test_a_managed_identity_is_the_machines_and_its_token_is_kept(
    sandbox: Sandbox, cloud: Cloud, connection: Connect, on_machine: OnMachine, scope: str
) -> None:
    for code in ("npr", "pro"):
        on_machine(code)
        credential = Credentials(connection(), cloud).own()
        token = credential.get_token(scope)
        assert credential.get_token(scope).token == token.token and token.expires_on > time.time() + 3000
        assert oid_of(token) == next(one.principal_id for one in sandbox.world.directory.identities if one.host == code)
    assert len(token_requests(sandbox)) == 2


def test_workload_identity_reads_the_projected_token_each_time(
    sandbox: Sandbox, cloud: Cloud, connection: Connect, federated: Federated, scope: str
) -> None:
    path, client_id = federated()
    wish = connection(method=AuthMethod.WORKLOAD_IDENTITY, tenant_id=TENANT_ID, client_id=client_id, federated_token_file=path)
    good = path.read_text()
    credentials = Credentials(wish, cloud)
    path.write_text("not a token")
    assert refused(lambda: credentials.own().get_token(scope)).number == 700027
    path.write_text(good)
    identity = sandbox.world.directory.identity(client_id)
    assert oid_of(credentials.own().get_token(scope)) == identity.principal_id
    path.unlink()
    assert "AZURE_FEDERATED_TOKEN_FILE" in refused(lambda: Credentials(wish, cloud).own().get_token(scope)).fix


@pytest.mark.parametrize(("claims", "number", "passing"), [
    ({"exp": 1}, 700024, True), ({"sub": "system:serviceaccount:other:x"}, 700213, True), ({"aud": ["x"]}, 700212, False),
    ({"iss": "https://elsewhere"}, 700211, True),
])  # fmt: skip
def test_each_trouble_with_federation_has_its_own_fix(
    cloud: Cloud, connection: Connect, federated: Federated, scope: str, claims: dict[str, Any], number: int, passing: bool
) -> None:
    path, client_id = federated(**claims)
    wish = connection(method=AuthMethod.WORKLOAD_IDENTITY, tenant_id=TENANT_ID, client_id=client_id, federated_token_file=path)
    trouble = refused(lambda: Credentials(wish, cloud).own().get_token(scope))
    assert (trouble.number, trouble.retrying_helps) == (number, passing) and trouble.fix and f"AADSTS{number}" in str(trouble)


def test_a_client_secret_speaks_for_the_application(cloud: Cloud, connection: Connect, scope: str) -> None:
    assert oid_of(Credentials(connection(method=AuthMethod.CLIENT_SECRET), cloud).own().get_token(scope)) == CLIENT_ID
    for change, number in (({"client_secret": "wrong-secret-value"}, 7000215), ({"client_id": TENANT_ID}, 700016)):
        wish = replace(connection(method=AuthMethod.CLIENT_SECRET), **change)
        trouble = refused(partial(Credentials(wish, cloud).own().get_token, scope))
        assert trouble.number == number and "wrong-secret-value" not in f"{trouble} {trouble.details} {wish!r}"


def test_an_expired_secret_says_so(cloud: Cloud, connection: Connect, control: httpx.Client, scope: str) -> None:
    control.post("/faults", json={"secret_expired": True})
    trouble = refused(lambda: Credentials(connection(method=AuthMethod.CLIENT_SECRET), cloud).own().get_token(scope))
    assert trouble.number == 7000222 and "has expired" in trouble.cause and "client_secret" in trouble.fix


def test_on_behalf_of_is_the_user_and_each_user_only_themselves(
    sandbox: Sandbox, cloud: Cloud, connection: Connect, assertion: Callable[[str], str], scope: str
) -> None:
    credentials = Credentials(connection(method=AuthMethod.ON_BEHALF_OF), cloud)
    users = {name: credentials.of_user(assertion(name)) for name in ("ada.admin", "paul.project")}
    for _ in range(2):
        for name, credential in users.items():
            assert oid_of(credential.get_token(scope)) == sandbox.world.directory.users[f"{name}@bank.example"].oid
    exchanges = [one for one in token_requests(sandbox) if one.endswith("jwt-bearer")]
    assert len(exchanges) == 2, "one for each user"


def test_one_users_trouble_is_not_the_next_ones(
    cloud: Cloud, connection: Connect, assertion: Callable[[str], str], control: httpx.Client, scope: str
) -> None:
    credentials = Credentials(connection(method=AuthMethod.ON_BEHALF_OF), cloud)
    ada, paul = credentials.of_user(assertion("ada.admin")), credentials.of_user(assertion("paul.project"))
    control.patch("/users/paul.project@bank.example", json={"enabled": False})
    assert refused(lambda: paul.get_token(scope)).number == 50057
    assert ada.get_token(scope).token


def test_missing_consent_is_named_and_belongs_to_the_directory(
    cloud: Cloud, connection: Connect, assertion: Callable[[str], str], control: httpx.Client, scope: str
) -> None:
    mine = assertion("ada.admin")
    control.post("/faults", json={"consent_missing": ["https://vault.azure.net"]})
    trouble = refused(lambda: Credentials(connection(method=AuthMethod.ON_BEHALF_OF), cloud).of_user(mine).get_token(scope))
    assert isinstance(trouble, ConsentMissing) and trouble.owner is Owner.DIRECTORY and "user_impersonation" in trouble.fix


def test_nobody_signed_in_is_no_reason_to_use_another_identity(
    sandbox: Sandbox, cloud: Cloud, connection: Connect, on_machine: OnMachine, scope: str
) -> None:
    on_machine("npr")
    with pytest.raises(TokenTrouble, match="nobody is signed in"):
        Credentials(connection(method=AuthMethod.ON_BEHALF_OF), cloud).own()
    for method in (AuthMethod.CLIENT_SECRET, AuthMethod.MANAGED_IDENTITY):
        with pytest.raises(TokenTrouble, match="on behalf"):
            Credentials(connection(method=method), cloud).of_user("a-token")
    trouble = refused(lambda: Credentials(connection(method=AuthMethod.ON_BEHALF_OF), cloud).of_user("garbage").get_token(scope))
    assert trouble.number == 50013 and trouble.owner is Owner.PERSON
    assert not [one for one in token_requests(sandbox) if "/metadata/" in one]


def test_a_failing_secret_does_not_fall_back_to_the_machines_identity(
    sandbox: Sandbox, cloud: Cloud, connection: Connect, guard: Any, on_machine: Callable[[str], None]
) -> None:
    on_machine("npr")
    wish = connection(method=AuthMethod.CLIENT_SECRET, client_secret="wrong")
    with KeyVault(wish, Credentials(wish, cloud).own(), guard) as vault:
        for attempt in (lambda: vault.get("x"), lambda: vault.set("x", "y", MARKS)):
            with pytest.raises(TokenTrouble, match="7000215"):
                attempt()
    assert set(token_requests(sandbox)) == {"client_credentials"} and sandbox.world.vaults.journal == []


def test_a_vault_of_another_tenant_or_resource_gets_no_token(
    sandbox: Sandbox, cloud: Cloud, connection: Connect, scope: str
) -> None:
    credential = Credentials(connection(method=AuthMethod.CLIENT_SECRET), cloud).own()
    other = "b0000000-0000-4000-8000-000000000009"
    assert other in refused(lambda: credential.get_token(scope, tenant_id=other)).cause
    for wrong in (
        "https://graph.microsoft.com/.default",
        "https://vault.localhost/.default",
        "https://vault.azure.net.evil/.default",
        "",
    ):
        assert "not for a vault" in refused(partial(credential.get_token, wrong)).cause
    assert "not for a vault" in refused(lambda: credential.get_token(scope, scope)).cause
    assert token_requests(sandbox) == []


def test_corporate_trust_settings_do_not_replace_the_configured_ca(
    cloud: Cloud, connection: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scope: str
) -> None:
    bundle = tmp_path / "corporate.pem"
    bundle.write_text("")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(bundle))
    assert Credentials(connection(method=AuthMethod.CLIENT_SECRET), cloud).own().get_token(scope).token
    strict = replace(cloud, ca_bundle=None)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.delenv("CURL_CA_BUNDLE")
    assert (
        "AZURE_CA_BUNDLE"
        in refused(lambda: Credentials(connection(method=AuthMethod.CLIENT_SECRET), strict).own().get_token(scope)).fix
    )


def test_entra_out_of_reach_or_in_trouble_passes(
    cloud: Cloud, connection: Connect, control: httpx.Client, monkeypatch: pytest.MonkeyPatch, scope: str
) -> None:
    away = replace(cloud, authority_host="https://localhost:1")
    assert refused(lambda: Credentials(connection(method=AuthMethod.CLIENT_SECRET), away).own().get_token(scope)).retrying_helps
    credential = Credentials(connection(method=AuthMethod.CLIENT_SECRET), cloud).own()
    for fault in ({"unavailable": 3}, {"throttled": 3}):
        control.post("/faults", json=fault)
        trouble = refused(lambda: credential.get_token(scope))
        assert trouble.retrying_helps and trouble.owner is Owner.MICROSOFT
        control.post("/faults", json=dict.fromkeys(fault, 0))
    assert credential.get_token(scope).token
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1")
    trouble = refused(lambda: Credentials(connection(), cloud).own().get_token(scope))
    assert trouble.retrying_helps and "metadata service" in trouble.cause


def test_threads_share_one_application(sandbox: Sandbox, cloud: Cloud, connection: Connect, scope: str) -> None:
    credentials = Credentials(connection(method=AuthMethod.CLIENT_SECRET), cloud)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(credentials.own().get_token(scope).token)) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(20)
    assert len(found) == 8
    assert len([one for one in sandbox.world.seen if one.path.endswith("openid-configuration")]) == 1


@pytest.mark.parametrize(("method", "missing"), [
    (AuthMethod.CLIENT_SECRET, "client_secret"), (AuthMethod.CLIENT_SECRET, "tenant_id"), (AuthMethod.ON_BEHALF_OF, "client_id"),
    (AuthMethod.WORKLOAD_IDENTITY, "federated_token_file"),
])  # fmt: skip
def test_a_connection_says_which_field_it_misses(method: AuthMethod, missing: str) -> None:
    whole: dict[str, Any] = {
        "tenant_id": TENANT_ID,
        "client_id": CLIENT_ID,
        "client_secret": "s",
        "federated_token_file": Path("/x"),
    }
    Connection(f"https://{NPR}.vault.azure.net/", method, **whole)
    with pytest.raises(ValidationFailed, match=f"^{missing}:"):
        Connection(f"https://{NPR}.vault.azure.net/", method, **{**whole, missing: ""})


@pytest.mark.parametrize("tenant", ["common", "../../x", "evil.example/a", f"{TENANT_ID}/oauth2"])
def test_a_tenant_that_is_no_id_is_refused(tenant: str) -> None:
    with pytest.raises(ValidationFailed, match=r"^tenant_id:"):
        Connection(
            f"https://{NPR}.vault.azure.net/", AuthMethod.CLIENT_SECRET, tenant_id=tenant, client_id=CLIENT_ID, client_secret="s"
        )
