"""msal signs people in at the sandbox, and the sandbox refuses what Entra refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import pytest

from sandbox.azure.directory import CLIENT_ID, DEFAULT_REDIRECT_URI, GRAPH, KEY_VAULT, TENANT_ID
from sandbox.azure.server import Sandbox
from tests.fakes.browser import Browser, values_of

Claims = dict[str, Any]
SELF = [f"{CLIENT_ID}/.default"]


def begun(app: Any, scopes: list[str] | None = None, uri: str = DEFAULT_REDIRECT_URI) -> dict[str, Any]:
    return app.initiate_auth_code_flow(scopes or SELF, redirect_uri=uri, response_mode="query")


def changed(url: str, **values: str) -> str:
    return f"{url.split('?')[0]}?{urlencode({**values_of(url), **values})}"


def test_a_whole_sign_in_gives_tokens_roles_and_an_account(
    application: Callable[..., Any], signed_in: Callable[..., Any]
) -> None:
    app = application()
    result = signed_in("ada.admin", app=app)
    assert "error" not in result, result
    claims = result["id_token_claims"]
    assert claims["roles"] == ["APP_MZV_PRO_ADMIN"] and "groups" not in claims
    assert (claims["aud"], claims["tid"], claims["preferred_username"]) == (CLIENT_ID, TENANT_ID, "ada.admin@bank.example")
    assert claims["iss"].endswith(f"/{TENANT_ID}/v2.0") and claims["exp"] - claims["iat"] == 3600
    account = app.get_accounts()[0]
    assert account["home_account_id"] == f"{claims['oid']}.{TENANT_ID}", "client_info is what msal keys its cache by"


@pytest.mark.parametrize(
    ("user", "names"), [("paul.project", ["GRP_MZV_PAYMENTS", "GRP_MZV_EVERYBODY"]), ("stella.stranger", [])]
)
def test_groups_arrive_with_nested_ones_as_ids(
    sandbox: Sandbox, signed_in: Callable[..., Any], user: str, names: list[str]
) -> None:
    claims = signed_in(user)["id_token_claims"]
    by_name = {group.name: group.id for group in sandbox.world.directory.groups.values()}
    assert sorted(claims.get("groups", [])) == sorted(by_name[name] for name in names)
    assert "roles" not in claims


def test_more_than_200_groups_become_a_link_and_the_roles_stay(signed_in: Callable[..., Any]) -> None:
    claims = signed_in("olga.overage")["id_token_claims"]
    assert "groups" not in claims and claims["_claim_names"] == {"groups": "src1"}
    assert claims["roles"] == ["APP_MZV_PRO_AUDITOR"]
    assert "getMemberObjects" in claims["_claim_sources"]["src1"]["endpoint"]


def test_emit_as_roles_puts_group_ids_among_the_roles(control: httpx.Client, signed_in: Callable[..., Any]) -> None:
    control.post("/faults", json={"emit_as_roles": True})
    claims = signed_in("paul.project")["id_token_claims"]
    assert len(claims["roles"]) == 2 and "groups" not in claims


def test_the_refresh_token_gives_a_new_token_for_another_resource(
    application: Callable[..., Any], signed_in: Callable[..., Any], sandbox: Sandbox
) -> None:
    app = application()
    signed_in("paul.project", app=app)
    again = app.acquire_token_silent_with_error([f"{GRAPH}/User.Read"], account=app.get_accounts()[0])
    assert again["token_source"] == "identity_provider", again
    sandbox.world.faults = sandbox.world.faults.changed({"clock_offset_seconds": 25 * 3600})
    late = app.acquire_token_silent_with_error(SELF, account=app.get_accounts()[0], force_refresh=True)
    assert late["error_codes"] == [70008]


def test_a_code_works_once_and_only_in_time(application: Callable[..., Any], browser: Browser, control: httpx.Client) -> None:
    app = application()
    flow = begun(app)
    values = values_of(browser.pick(flow["auth_uri"], "ada.admin@bank.example"))
    assert "access_token" in app.acquire_token_by_auth_code_flow(flow, values)
    assert app.acquire_token_by_auth_code_flow(flow, values)["error_codes"] == [54005]
    flow = begun(app)
    values = values_of(browser.pick(flow["auth_uri"], "ada.admin@bank.example"))
    control.post("/faults", json={"clock_offset_seconds": 601})
    late = app.acquire_token_by_auth_code_flow(flow, values)
    assert (late["error"], late["error_codes"]) == ("invalid_grant", [70008])


def test_a_code_is_bound_to_its_verifier_and_its_redirect_uri(application: Callable[..., Any], browser: Browser) -> None:
    app = application()
    for change, number in (({"code_verifier": "x" * 43}, 501481), ({"redirect_uri": "https://elsewhere.example/"}, 500112)):
        flow = begun(app)
        values = values_of(browser.pick(flow["auth_uri"], "ada.admin@bank.example"))
        assert app.acquire_token_by_auth_code_flow({**flow, **change}, values)["error_codes"] == [number]
    assert app.acquire_token_by_authorization_code("made-up", SELF)["error_codes"] == [70000]


def test_a_forged_state_is_refused_by_msal(application: Callable[..., Any], browser: Browser) -> None:
    app = application()
    flow = begun(app)
    values = values_of(browser.pick(flow["auth_uri"], "ada.admin@bank.example"))
    with pytest.raises(ValueError, match="state"):
        app.acquire_token_by_auth_code_flow(flow, {**values, "state": "other"})


def test_a_wrong_nonce_is_noticed_by_msal(signed_in: Callable[..., Any], control: httpx.Client) -> None:
    control.post("/faults", json={"id_token_changes": {"claims": {"nonce": "other"}}})
    with pytest.raises(RuntimeError, match="nonce"):
        signed_in()


def test_the_nonce_comes_back(application: Callable[..., Any], browser: Browser) -> None:
    app = application()
    flow = begun(app)
    sent = values_of(flow["auth_uri"])["nonce"]
    values = values_of(browser.pick(flow["auth_uri"], "ada.admin@bank.example"))
    assert app.acquire_token_by_auth_code_flow(flow, values)["id_token_claims"]["nonce"] == sent


@pytest.mark.parametrize(
    "uri", [DEFAULT_REDIRECT_URI + "/", DEFAULT_REDIRECT_URI + "?x=1", DEFAULT_REDIRECT_URI.replace("https", "http"),
            DEFAULT_REDIRECT_URI.replace("localhost", "LOCALHOST"), "https://evil.example/"]
)  # fmt: skip
def test_a_redirect_uri_that_is_not_exactly_registered_is_never_followed(
    application: Callable[..., Any], browser: Browser, uri: str
) -> None:
    flow = begun(application(), uri=uri)
    for answer in (browser.get(flow["auth_uri"]), browser.client.post(flow["auth_uri"], data={"user": "ada.admin@bank.example"})):
        assert answer.status_code == 400 and "AADSTS50011" in answer.text and "Location" not in answer.headers


def test_an_unknown_application_and_an_unknown_tenant_are_named(
    application: Callable[..., Any], browser: Browser, sandbox: Sandbox, secret: str
) -> None:
    flow = begun(application())
    assert "AADSTS700016" in browser.get(changed(flow["auth_uri"], client_id="c0ffee")).text
    assert "AADSTS90002" in browser.get(flow["auth_uri"].replace(TENANT_ID, "another-tenant")).text
    stranger = application(client_id="00000000-0000-4000-8000-000000000bad")
    assert stranger.acquire_token_for_client([f"{KEY_VAULT}/.default"])["error_codes"] == [700016]


def test_plain_pkce_or_none_is_refused(application: Callable[..., Any], browser: Browser) -> None:
    flow = begun(application())
    for wrong in ({"code_challenge_method": "plain"}, {"code_challenge": ""}):
        back = browser.get(changed(flow["auth_uri"], **wrong)).headers["Location"]
        assert "AADSTS9002325" in values_of(back)["error_description"]


@pytest.mark.parametrize(
    ("scopes", "number"),
    [(["https://nowhere.example/.default"], 500011), ([f"{KEY_VAULT}/fly"], 650053), ([f"api://{CLIENT_ID}/.default"], 90009),
     ([f"{KEY_VAULT}/user_impersonation", f"{GRAPH}/User.Read"], 28000)]
)  # fmt: skip
def test_a_wrong_scope_is_told_to_the_application(
    application: Callable[..., Any], browser: Browser, scopes: list[str], number: int
) -> None:
    app = application()
    flow = begun(app, scopes)
    values = values_of(browser.get(flow["auth_uri"]).headers["Location"])
    result = app.acquire_token_by_auth_code_flow(flow, values)
    assert f"AADSTS{number}" in result["error_description"]


def test_missing_consent_at_sign_in(application: Callable[..., Any], browser: Browser, control: httpx.Client) -> None:
    control.post("/faults", json={"consent_missing": True})
    flow = begun(application())
    values = values_of(browser.get(flow["auth_uri"]).headers["Location"])
    assert values["error"] == "consent_required" and "AADSTS65001" in values["error_description"]
    assert values["state"] == flow["state"]


def test_cancel_disabled_and_unassigned_users(application: Callable[..., Any], browser: Browser, control: httpx.Client) -> None:
    flow = begun(application())
    cancelled = values_of(browser.pick(flow["auth_uri"], ""))
    assert cancelled["error"] == "access_denied" and "AADSTS65004" in cancelled["error_description"]
    disabled = browser.client.post(flow["auth_uri"], data={"user": "dora.disabled@bank.example"})
    assert disabled.status_code == 400 and "AADSTS50057" in disabled.text
    control.post("/faults", json={"assignment_required": True})
    assert "AADSTS50105" in values_of(browser.pick(flow["auth_uri"], "stella.stranger@bank.example"))["error_description"]
    assert "code" in values_of(browser.pick(flow["auth_uri"], "paul.project@bank.example"))
    silent = browser.get(changed(flow["auth_uri"], prompt="none")).headers["Location"]
    assert values_of(silent)["error"] == "login_required"


def test_the_page_escapes_what_it_is_given_and_loads_nothing(application: Callable[..., Any], browser: Browser) -> None:
    flow = begun(application())
    page = browser.get(changed(flow["auth_uri"], login_hint='"><script>alert(1)</script>'))
    assert "<script" not in page.text and "default-src 'none'" in page.headers["Content-Security-Policy"]
    error = browser.get(changed(flow["auth_uri"], client_id="<img src=x>"))
    assert "<img" not in error.text and "&lt;img" in error.text
    hinted = browser.get(changed(flow["auth_uri"], login_hint="stella.stranger@bank.example"))
    assert hinted.text.index("Stella Stranger") < hinted.text.index("Ada Admin")
    assert urlsplit(flow["auth_uri"]).path == f"/{TENANT_ID}/oauth2/v2.0/authorize"


def test_somebody_who_is_disabled_after_the_sign_in_gets_no_token(
    application: Callable[..., Any], browser: Browser, control: httpx.Client
) -> None:
    app = application()
    flow = begun(app)
    values = values_of(browser.pick(flow["auth_uri"], "paul.project@bank.example"))
    control.patch("/users/paul.project@bank.example", json={"enabled": False})
    assert app.acquire_token_by_auth_code_flow(flow, values)["error_codes"] == [50057]
