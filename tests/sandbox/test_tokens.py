"""Client credentials, on-behalf-of, keys and workload identity at the sandbox, with unmodified msal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import msal
import pytest
import requests

from sandbox.azure.directory import CLIENT_ID, GRAPH, KEY_VAULT, MANAGEMENT, TENANT_ID
from sandbox.azure.server import Sandbox
from sandbox.azure.tokens import parted

VAULT = [f"{KEY_VAULT}/.default"]
App = Callable[..., msal.ConfidentialClientApplication]


def claims_of(result: dict[str, Any]) -> dict[str, Any]:
    return parted(result["access_token"])[1]


def test_the_application_gets_a_token_of_its_own(application: App) -> None:
    result = application().acquire_token_for_client(VAULT)
    assert (claims_of(result)["aud"], claims_of(result)["idtyp"]) == (KEY_VAULT, "app")
    assert application().acquire_token_for_client([f"{KEY_VAULT}/user_impersonation"])["error_codes"] == [1002012]


def test_a_wrong_missing_and_expired_secret_have_their_own_numbers(application: App, control: httpx.Client) -> None:
    wrong = application(client_credential="wrong").acquire_token_for_client(VAULT)
    assert (wrong["error"], wrong["error_codes"]) == ("invalid_client", [7000215])
    assert application(client_credential=None).acquire_token_for_client(VAULT)["error_codes"] == [7000218]
    control.post("/faults", json={"secret_expired": True})
    assert application().acquire_token_for_client(VAULT)["error_codes"] == [7000222]
    assert application(client_credential="wrong").acquire_token_for_client(VAULT)["error_codes"] == [7000215]


@pytest.mark.parametrize("resource", [KEY_VAULT, MANAGEMENT, GRAPH])
def test_on_behalf_of_keeps_the_user_and_changes_the_audience(
    application: App, signed_in: Callable[..., Any], resource: str
) -> None:
    mine = signed_in("paul.project")
    result = application().acquire_token_on_behalf_of(mine["access_token"], [f"{resource}/.default"])
    assert "error" not in result, result
    assert claims_of(result)["aud"] == resource
    assert claims_of(result)["oid"] == mine["id_token_claims"]["oid"]
    assert claims_of(result)["scp"]


def test_on_behalf_of_needs_consent_for_that_resource(
    application: App, signed_in: Callable[..., Any], control: httpx.Client
) -> None:
    mine = signed_in("paul.project")["access_token"]
    control.post("/faults", json={"consent_missing": [KEY_VAULT]})
    refused = application().acquire_token_on_behalf_of(mine, VAULT)
    assert (refused["error"], refused["suberror"], refused["error_codes"]) == ("invalid_grant", "consent_required", [65001])
    assert "access_token" in application().acquire_token_on_behalf_of(mine, [f"{MANAGEMENT}/.default"])


def test_on_behalf_of_refuses_assertions_that_are_not_a_users_token_for_this_application(
    application: App, signed_in: Callable[..., Any], control: httpx.Client
) -> None:
    mine = signed_in("paul.project")
    head, body, signature = mine["access_token"].split(".")
    other = parted(mine["access_token"])[1]
    forged = jwt.encode({**other, "oid": "somebody"}, "secret", "HS256")
    cases = {
        "for another audience": (signed_in("paul.project", (f"{GRAPH}/User.Read",))["access_token"], 500131),
        "changed": (f"{head}.{body[:-2]}xx.{signature}", 50013),
        "signature of another": (f"{head}.{body}.{signature[:-8]}AAAAAAAA", 50013),
        "HS256": (forged, 50013),
        "no token": ("abc", 50013),
        "an id_token": (mine["id_token"], 240002),
        "an application's": (application().acquire_token_for_client([f"{CLIENT_ID}/.default"])["access_token"], 7000114),
    }
    for what, (assertion, number) in cases.items():
        assert application().acquire_token_on_behalf_of(assertion, VAULT)["error_codes"] == [number], what
    control.post("/faults", json={"clock_offset_seconds": 3601})
    assert application().acquire_token_on_behalf_of(mine["access_token"], VAULT)["error_codes"] == [500133]


def test_tokens_verify_with_the_published_keys_and_a_rotated_key_keeps_old_ones_valid(
    sandbox: Sandbox, application: App, signed_in: Callable[..., Any], control: httpx.Client
) -> None:
    before = signed_in()["id_token"]
    control.post("/rotate-key", json={})
    after = signed_in()["id_token"]
    keys = control.get(f"{sandbox.base_url}/{TENANT_ID}/discovery/v2.0/keys").json()["keys"]
    assert len(keys) == 2 and jwt.get_unverified_header(before)["kid"] != jwt.get_unverified_header(after)["kid"]
    for token in (before, after):
        assert verified(token, keys)["tid"] == TENANT_ID
    control.post("/rotate-key", json={"keep_old": False})
    assert len(control.get(f"{sandbox.base_url}/{TENANT_ID}/discovery/v2.0/keys").json()["keys"]) == 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"signer": "stranger"}, jwt.InvalidSignatureError), ({"algorithm": "none"}, jwt.InvalidAlgorithmError),
     ({"algorithm": "HS256"}, jwt.InvalidAlgorithmError), ({"claims": {"exp": 1}}, jwt.ExpiredSignatureError),
     ({"without": ["aud"]}, jwt.MissingRequiredClaimError), ({"header": {"kid": "unknown"}}, StopIteration)]
)  # fmt: skip
def test_a_spoiled_id_token_is_really_spoiled(
    sandbox: Sandbox, signed_in: Callable[..., Any], control: httpx.Client, changes: dict[str, Any], error: type[Exception]
) -> None:
    control.post("/faults", json={"id_token_changes": changes})
    token = signed_in()["id_token"]
    keys = control.get(f"{sandbox.base_url}/{TENANT_ID}/discovery/v2.0/keys").json()["keys"]
    with pytest.raises(error):
        verified(token, keys)


def verified(token: str, keys: list[dict[str, Any]]) -> dict[str, Any]:
    header = jwt.get_unverified_header(token)
    key = jwt.PyJWK(next(key for key in keys if key["kid"] == header.get("kid")))
    return jwt.decode(token, key, algorithms=["RS256"], audience=CLIENT_ID, options={"require": ["aud", "exp"]})


def test_a_gateway_signs_in_with_its_service_account_token(application: App, control: httpx.Client) -> None:
    projected = control.post("/federated-token", json={"identity": "mi-mazevault-npr"}).json()
    app = application(client_id=projected["client_id"], client_credential={"client_assertion": lambda: projected["token"]})
    result = app.acquire_token_for_client(VAULT)
    assert claims_of(result)["appid"] == projected["client_id"]


@pytest.mark.parametrize(
    ("claims", "number"),
    [({"iss": "https://other.example"}, 700211), ({"sub": "system:serviceaccount:other:other"}, 700213),
     ({"aud": ["api://other"]}, 700212), ({"exp": 1}, 700024)]
)  # fmt: skip
def test_a_federated_assertion_must_match_the_identity(
    application: App, control: httpx.Client, claims: dict[str, Any], number: int
) -> None:
    projected = control.post("/federated-token", json={"identity": "mi-mazevault-npr", "claims": claims}).json()
    app = application(client_id=projected["client_id"], client_credential={"client_assertion": projected["token"]})
    assert app.acquire_token_for_client(VAULT)["error_codes"] == [number]


def test_the_token_of_one_environment_is_no_way_into_the_other(application: App, control: httpx.Client) -> None:
    npr = control.post("/federated-token", json={"identity": "mi-mazevault-npr"}).json()["token"]
    pro = control.post("/federated-token", json={"identity": "mi-mazevault-pro"}).json()["client_id"]
    app = application(client_id=pro, client_credential={"client_assertion": npr})
    assert app.acquire_token_for_client(VAULT)["error_codes"] == [700213]
    forged = npr.rsplit(".", 1)[0] + "." + "A" * 342
    app = application(client_id=control.post("/federated-token", json={"identity": "mi-mazevault-npr"}).json()["client_id"],
                      client_credential={"client_assertion": forged})  # fmt: skip
    assert app.acquire_token_for_client(VAULT)["error_codes"] == [700027]


def managed(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, client_id: str, host: str = "") -> dict[str, Any]:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"{sandbox.plain_url}{host}")
    session = requests.Session()
    session.trust_env = False
    client = msal.ManagedIdentityClient(msal.UserAssignedManagedIdentity(client_id=client_id), http_client=session)
    return client.acquire_token_for_client(resource=KEY_VAULT)


def test_a_managed_identity_gets_a_token_on_its_own_machine_only(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    npr, pro = sandbox.world.directory.identities
    assert claims_of(managed(sandbox, monkeypatch, npr.client_id))["oid"] == npr.principal_id
    assert claims_of(managed(sandbox, monkeypatch, npr.client_id, "/hosts/npr"))["aud"] == KEY_VAULT
    assert managed(sandbox, monkeypatch, pro.client_id, "/hosts/npr")["error_description"] == "Identity not found"


def test_the_metadata_service_wants_its_header_and_one_identity(sandbox: Sandbox) -> None:
    url = f"{sandbox.plain_url}/metadata/identity/oauth2/token"
    query = {"api-version": "2018-02-01", "resource": KEY_VAULT}
    header = {"Metadata": "true"}
    assert "header" in httpx.get(url, params=query).json()["error_description"]
    assert "Multiple" in httpx.get(url, params=query, headers=header).json()["error_description"]
    forwarded = httpx.get(url, params=query, headers={**header, "X-Forwarded-For": "192.0.2.1"})
    assert forwarded.status_code == 400 and "X-Forwarded-For" in forwarded.json()["error_description"]
    unknown = httpx.get(url, params={**query, "resource": "https://nowhere.example"}, headers=header)
    assert unknown.json()["error"] == "invalid_resource"
    by_resource = {**query, "msi_res_id": sandbox.world.directory.identities[1].resource_id.upper()}
    found = httpx.get(url, params=by_resource, headers=header).json()
    assert found["client_id"] == sandbox.world.directory.identities[1].client_id
    assert json.dumps(found["expires_in"]) == '"3600"', "the metadata service writes numbers as strings"
