"""A whole sign-in with Entra against the sandbox: who comes in, with which roles, and who does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from django.conf import settings

from accounts import attempts, obo, rates, sso
from accounts.entra_settings import EntraSettings
from accounts.models import EntraSession, RoleGrant, Session, SignInAttempt, User
from accounts.sessions import hash_token
from common.clock import now
from common.errors import MazeVaultError, TooManyRequests
from common.models import AuditEntry
from sandbox.azure.directory import GRAPH, identifier
from sandbox.azure.server import Sandbox
from tests.accounts.conftest import HTML, Node, mapped
from tests.conftest import Person
from tests.fakes.browser import Browser, values_of


def roles_of(address: str) -> set[str]:
    return set(RoleGrant.objects.filter(user__email=address, assigned_by_sso=True).values_list("role__name", flat=True))


def test_an_app_role_makes_an_administrator(node: Node, browser: Browser) -> None:
    mapped("admin", "app_mzv_pro_admin")
    answer = node.sign_in(browser, "ada.admin")
    assert answer.status_code == 200, answer.content
    body = answer.json()
    assert body["token"] == body["access_token"] and body["user"]["email"] == "ada.admin@bank.example"
    assert body["user"]["role"] == "admin" and body["user"]["full_name"] == "Ada Admin"
    me = Person(body["token"])
    assert me.get("auth/me")[1]["email"] == "ada.admin@bank.example"
    assert "gateway:admin" in me.get("auth/me/permissions")[1]["permissions"]
    assert me.get("gateways")[0] == 200
    actions = list(AuditEntry.objects.order_by("id").values_list("action", flat=True))
    assert actions[-3:] == ["user.created", "sso_role_sync", "sso_login"]


def test_a_group_gives_its_role_by_id_in_any_case(node: Node, browser: Browser) -> None:
    mapped("secret_manager", identifier("GRP_MZV_PAYMENTS").upper(), "Payments")
    assert node.sign_in(browser, "paul.project").json()["user"]["role"] == "secret_manager"
    assert roles_of("paul.project@bank.example") == {"secret_manager"}


def test_a_mapping_by_display_name_fits_too_and_roles_are_united(node: Node, browser: Browser, control: httpx.Client) -> None:
    control.patch("/users/paul.project@bank.example", json={"app_roles": ["APP_MZV_PRO_AUDITOR"]})
    mapped("auditor", "00000000-0000-4000-8000-00000000dead", "app_mzv_pro_auditor")
    mapped("certificate_manager", identifier("GRP_MZV_EVERYBODY"))
    body = node.sign_in(browser, "paul.project").json()
    assert roles_of("paul.project@bank.example") == {"auditor", "certificate_manager"}
    assert body["user"]["role"] == "certificate_manager"
    permissions = Person(body["token"]).get("auth/me/permissions")[1]["permissions"]
    assert {"audit:read", "certificates:write"} <= set(permissions) and "secrets:read" not in permissions


def test_who_has_nothing_becomes_a_viewer(node: Node, browser: Browser) -> None:
    mapped("admin", "APP_MZV_PRO_ADMIN")
    body = node.sign_in(browser, "stella.stranger").json()
    assert body["user"]["role"] == "viewer" and roles_of("stella.stranger@bank.example") == {"viewer"}
    assert Person(body["token"]).get("gateways")[0] == 403


def test_more_than_200_groups_are_read_from_graph_although_there_is_an_app_role(
    node: Node, browser: Browser, control: httpx.Client
) -> None:
    mapped("auditor", "APP_MZV_PRO_AUDITOR")
    mapped("secret_manager", identifier("GRP_BANK_229"))
    mapped("ssh_admin", identifier("GRP_MZV_EVERYBODY"))
    assert node.sign_in(browser, "olga.overage").status_code == 200
    assert roles_of("olga.overage@bank.example") == {"auditor", "secret_manager", "ssh_admin"}
    paths = [row["path"] for row in control.get("/requests").json()["value"]]
    assert "/v1.0/me/transitiveMemberOf" in paths


def test_a_group_with_the_name_of_an_app_role_gives_nothing(node: Node, browser: Browser, sandbox: Sandbox) -> None:
    """Whoever may create a group in the tenant may call it like an App Role."""
    mapped("admin", "APP_MZV_PRO_ADMIN")
    impostor = replace(sandbox.world.directory.groups[identifier("GRP_MZV_PAYMENTS")], name="APP_MZV_PRO_ADMIN")
    sandbox.world.directory.groups[impostor.id] = impostor
    for user in ("paul.project", "olga.overage"):
        assert node.sign_in(browser, user).json()["user"]["role"] == "viewer", user


def test_when_graph_does_not_list_the_groups_the_sign_in_is_refused_and_not_poorer(
    node: Node, browser: Browser, control: httpx.Client
) -> None:
    mapped("auditor", "APP_MZV_PRO_AUDITOR")
    back = values_of(browser.pick(node.begin(), "olga.overage@bank.example"))
    control.post("/faults", json={"consent_missing": [GRAPH]})
    answer = node.come_back(back)
    assert (answer.status_code, answer.json()["code"]) == (403, "ENTRA_CONSENT_MISSING")
    assert "Grant admin consent" in answer.json()["details"] and not User.objects.filter(email__startswith="olga").exists()


def test_mappings_are_looked_at_again_at_each_sign_in(node: Node, browser: Browser, control: httpx.Client) -> None:
    mapped("admin", "APP_MZV_PRO_ADMIN")
    mapped("auditor", "APP_MZV_PRO_AUDITOR")
    token = node.sign_in(browser, "ada.admin").json()["token"]
    control.patch("/users/ada.admin@bank.example", json={"app_roles": ["APP_MZV_PRO_AUDITOR"]})
    assert node.sign_in(browser, "ada.admin").json()["user"]["role"] == "auditor"
    assert roles_of("ada.admin@bank.example") == {"auditor"}
    assert "gateway:admin" not in Person(token).get("auth/me/permissions")[1]["permissions"], "the older session too"
    assert User.objects.filter(email="ada.admin@bank.example").count() == 1
    sync = AuditEntry.objects.filter(action="sso_role_sync").latest("id")
    assert sync.details == {"before": ["admin"], "after": ["auditor"]}


def test_roles_given_by_hand_stay(node: Node, browser: Browser, primary: None) -> None:
    from accounts.models import Role

    node.sign_in(browser, "stella.stranger")
    user = User.objects.get(email="stella.stranger@bank.example")
    RoleGrant.objects.create(user=user, role=Role.objects.get(name="auditor"))
    node.sign_in(browser, "stella.stranger")
    assert RoleGrant.objects.filter(user=user, assigned_by_sso=False).get().role.name == "auditor"


def test_a_browser_gets_a_cookie_and_no_token_in_any_address(node: Node, browser: Browser) -> None:
    mapped("admin", "APP_MZV_PRO_ADMIN")
    answer = node.sign_in(browser, "ada.admin", **HTML)
    assert (answer.status_code, answer["Location"]) == (302, "https://localhost:8443/ui/")
    cookie = answer.cookies["__Host-mazevault"]
    assert cookie["secure"] and cookie["httponly"] and cookie["path"] == "/" and cookie["samesite"] == "Strict"
    assert not cookie["domain"] and cookie.value not in answer["Location"] and b"mzv_" not in answer.content
    assert node.client.get("/api/v1/auth/me", secure=True).json()["email"] == "ada.admin@bank.example"
    assert answer["Referrer-Policy"] == "no-referrer"


def test_the_cookie_is_an_ordinary_session_of_a_browser(node: Node, browser: Browser) -> None:
    node.sign_in(browser, "ada.admin", **HTML)
    url = "/api/v1/auth/logout"
    assert node.client.post(url, "", "application/json", secure=True).status_code == 403, "a cookie alone changes nothing"
    proof = node.client.get("/api/v1/auth/session", secure=True).json()["csrf_token"]
    assert node.client.post(url, "", "application/json", secure=True, headers={"X-CSRF-Token": proof}).status_code == 204
    assert node.client.get("/api/v1/auth/me", secure=True).status_code == 401


def test_a_sign_in_comes_back_once(node: Node, browser: Browser) -> None:
    values = values_of(browser.pick(node.begin(), "ada.admin@bank.example"))
    assert node.come_back(values).status_code == 200
    replay = node.come_back(values)
    assert (replay.status_code, replay.json()["code"]) == (401, "SSO_REPLAYED")
    assert Session.objects.count() == 1


def test_a_page_that_is_loaded_again_leads_on_in_its_own_browser_and_opens_nothing(node: Node, browser: Browser) -> None:
    values = values_of(browser.pick(node.begin(), "ada.admin@bank.example"))
    first = node.come_back(values, **HTML)
    again = node.come_back(values, **HTML)
    assert (again.status_code, again["Location"]) == (302, first["Location"])
    assert Session.objects.count() == 1 and not again.cookies and again["Referrer-Policy"] == "no-referrer"
    node.client.cookies.pop("__Host-mazevault")
    assert node.come_back(values, **HTML).status_code == 401, "without a session the page says what happened"
    stranger = Node()
    stranger.begin()
    assert stranger.come_back(values, **HTML).status_code == 401


def test_a_sign_in_comes_back_to_its_own_browser_only(node: Node, browser: Browser) -> None:
    values = values_of(browser.pick(node.begin(), "ada.admin@bank.example"))
    victim = Node()
    for other in (victim, Node()):
        if other is victim:
            victim.begin()
        answer = other.come_back(values)
        assert (answer.status_code, answer.json()["code"]) == (401, "SSO_OTHER_BROWSER")
    assert node.come_back(values).status_code == 200, "somebody else's try does not use it up"


def test_two_tabs_of_one_browser_do_not_disturb_each_other(node: Node, browser: Browser) -> None:
    first, second = node.begin(), node.begin()
    for url in (second, first):
        values = values_of(browser.pick(url, "ada.admin@bank.example"))
        assert node.come_back(values).status_code == 200


def test_a_sign_in_that_takes_too_long_or_is_unknown_is_refused(node: Node, browser: Browser) -> None:
    values = values_of(browser.pick(node.begin(), "ada.admin@bank.example"))
    SignInAttempt.objects.update(expires_at=now() - timedelta(seconds=1))
    assert node.come_back(values).json()["code"] == "SSO_EXPIRED"
    assert node.come_back({**values, "state": "made-up"}).json()["code"] == "SSO_STATE_UNKNOWN"
    assert node.come_back({"code": "x"}).json()["code"] == "SSO_STATE_UNKNOWN"
    assert attempts.prune(now()) == 1 and not SignInAttempt.objects.exists()


@pytest.mark.parametrize(
    "query", ["", "state=x", "code=a&code=b&state=x", "code=a&state=x&state=y", f"code={'x' * 5000}&state=x", "code=%00&state=x"]
)
def test_a_malformed_way_back_is_400(node: Node, query: str) -> None:
    answer = node.client.get(f"/api/v1/auth/sso/entra/callback?{query}", secure=True)
    assert answer.status_code == 400 and answer.json().keys() <= {"error", "code"}


def test_the_secret_half_of_a_sign_in_is_sealed_and_everything_else_hashed(node: Node) -> None:
    url = node.begin()
    row = SignInAttempt.objects.get()
    state = values_of(url)["state"]
    assert row.state_hash == hash_token(state) and state.encode() not in bytes(row.sealed_flow)
    assert b"code_verifier" not in bytes(row.sealed_flow)
    assert values_of(url)["code_challenge_method"] == "S256" and values_of(url)["nonce"]


def test_a_browser_fills_its_own_room_only(node: Node, browser: Browser) -> None:
    first = node.begin()
    attempts.begin("neighbours", "{}", "neighbours-browser", address="127.0.0.1", now=now())
    for number in range(60):
        attempts.begin(f"s{number}", "{}", "a script", address="127.0.0.1", now=now())
    assert SignInAttempt.objects.count() == 2 + attempts.MOST_OF_A_BROWSER
    assert attempts.finish("neighbours", "neighbours-browser", now()).flow == "{}"
    for _ in range(attempts.MOST_OF_A_BROWSER):
        node.begin()
    assert node.come_back(values_of(browser.pick(first, "ada.admin@bank.example"))).json()["code"] == "SSO_STATE_UNKNOWN"
    assert node.sign_in(browser, "ada.admin").status_code == 200


def test_a_network_that_is_full_ends_nobodys_sign_in(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MOST_OF_A_NETWORK", 3)
    for number in range(3):  # addresses of one IPv6 network are one
        attempts.begin(f"s{number}", "{}", f"b{number}", address=f"2001:db8::{number + 1}", now=now())
    with pytest.raises(TooManyRequests, match="too many sign-ins"):
        attempts.begin("s4", "{}", "b4", address="2001:db8::9", now=now())
    assert attempts.finish("s0", "b0", now()).flow == "{}"
    attempts.begin("s4", "{}", "b4", address="2001:db8::9", now=now())


def test_strangers_at_the_callback_are_slowed_and_fill_no_trail(node: Node) -> None:
    before, limit = AuditEntry.objects.count(), settings.MAZEVAULT.sign_ins_per_minute * rates.ACCOUNTS_PER_NETWORK
    moment = now().replace(second=1)
    codes = set[str]()
    for number in range(limit + 1):
        with pytest.raises(MazeVaultError) as refused:
            sso.finish({"state": f"nonsense-{number}", "code": "x"}, "b", address="127.0.0.1", now=moment)
        codes.add(refused.value.code)
    assert refused.value.status == 429 and "SSO_STATE_UNKNOWN" in codes
    assert AuditEntry.objects.count() - before <= 4, "one for each reason and minute, and one for the limit"


def test_beginning_has_a_limit_too(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "ACCOUNTS_PER_NETWORK", 0)
    answer = node.client.get("/api/v1/auth/sso/entra/login", secure=True)
    assert answer.status_code == 429 and answer["Retry-After"] and not SignInAttempt.objects.exists()


@pytest.mark.parametrize(
    ("fault", "user", "code", "words"),
    [({"secret_expired": True}, "ada.admin", "ENTRA_SECRET_EXPIRED", "ENTRA_CLIENT_SECRET"),
     ({"assignment_required": True}, "stella.stranger", "ENTRA_NOT_ASSIGNED", "assign the person"),
     ({"emit_as_roles": True}, "paul.project", "ENTRA_EMIT_AS_ROLES", "Emit groups as role claims"),
     ({"unavailable": 1}, "ada.admin", "ENTRA_UNAVAILABLE", "try again"),
     ({"throttled": 1}, "ada.admin", "ENTRA_THROTTLED", "try again")],
)  # fmt: skip
def test_each_trouble_has_one_cause_one_fix_and_one_owner(
    node: Node, browser: Browser, control: httpx.Client, fault: dict[str, Any], user: str, code: str, words: str
) -> None:
    url = node.begin()
    if "assignment_required" in fault:
        control.post("/faults", json=fault)
    values = values_of(browser.pick(url, f"{user}@bank.example"))
    control.post("/faults", json=fault)
    answer = node.come_back(values)
    assert answer.json()["code"] == code, answer.json()
    assert words in answer.json()["details"] and "Owner: " in answer.json()["details"]
    assert not Session.objects.exists() and not User.objects.exists()
    failure = AuditEntry.objects.get(action="sso_login_failed")
    assert failure.details == {"reason": code}


def test_cancel_and_missing_consent_are_told_apart(node: Node, browser: Browser, control: httpx.Client) -> None:
    cancelled = values_of(browser.pick(node.begin(), ""))
    assert node.come_back(cancelled).json()["code"] == "ENTRA_CANCELLED"
    control.post("/faults", json={"consent_missing": True})
    back = values_of(browser.get(node.begin()).headers["Location"])
    assert node.come_back(back).json()["code"] == "ENTRA_CONSENT_MISSING"


def test_a_person_sees_a_page_and_not_json(node: Node, browser: Browser) -> None:
    values = values_of(browser.pick(node.begin(), ""))
    answer = node.come_back({**values, "error_description": "AADSTS65004: <script>alert(1)</script>"}, **HTML)
    page = answer.content.decode()
    assert answer.status_code == 401 and answer["Content-Type"].startswith("text/html")
    assert "the sign-in was cancelled" in page and "Owner: the person who signs in" in page and "<script" not in page
    assert "default-src 'none'" in answer["Content-Security-Policy"]


def test_an_account_that_an_administrator_switched_off_stays_off(node: Node, browser: Browser) -> None:
    node.sign_in(browser, "ada.admin")
    User.objects.update(is_active=False)
    answer = node.sign_in(browser, "ada.admin")
    assert (answer.status_code, answer.json()["code"]) == (403, "ACCOUNT_DISABLED")


def test_an_administrator_s_no_outlasts_entra_s_yes(node: Node, browser: Browser, admin: Person) -> None:
    """Entra disabled the account first; then an administrator decided the same, and only an administrator decides otherwise."""
    token = node.sign_in(browser, "paul.project").json()["token"]
    user = User.objects.get(email="paul.project@bank.example")
    obo.disable(user, now(), reason="AADSTS50057")
    assert Person(token).get("auth/me")[0] == 401
    assert admin.post(f"rbac/users/{user.id}/disable")[0] == 200
    assert node.sign_in(browser, "paul.project").json()["code"] == "ACCOUNT_DISABLED"
    assert AuditEntry.objects.filter(action="user.disabled", entity_id=user.id).count() == 2
    admin.post(f"rbac/users/{user.id}/enable")
    assert node.sign_in(browser, "paul.project").status_code == 200


def test_a_session_of_entra_is_not_made_longer_here(node: Node, browser: Browser) -> None:
    session = Person(node.sign_in(browser, "paul.project").json()["token"])
    status, answer = session.post("auth/refresh")
    assert (status, answer["code"]) == (403, "SSO_SIGN_IN_NEEDED") and "sign in at Entra again" in answer["error"]
    assert session.get("auth/me")[0] == 200 and EntraSession.objects.count() == 1


def test_an_account_with_a_password_is_not_taken_over_by_address(node: Node, browser: Browser) -> None:
    mine = User.objects.create(email="ada.admin@bank.example", role="viewer", password="!")
    answer = node.sign_in(browser, "ada.admin")
    assert (answer.status_code, answer.json()["code"]) == (409, "SSO_ACCOUNT_CONFLICT")
    User.objects.filter(pk=mine.pk).update(sso_provider="entra")
    assert node.sign_in(browser, "ada.admin").json()["user"]["id"] == str(mine.id)
    User.objects.filter(pk=mine.pk).update(sso_external_id="somebody-else")
    assert node.sign_in(browser, "ada.admin").json()["code"] == "SSO_ACCOUNT_CONFLICT"


def test_without_automatic_accounts_only_prepared_people_come_in(
    primary: None, entra_settings: EntraSettings, with_entra: Callable[..., Any], browser: Browser
) -> None:
    with with_entra(replace(entra_settings, auto_create_users=False)):
        assert Node().sign_in(browser, "ada.admin").json()["code"] == "SSO_NO_ACCOUNT"
        User.objects.create(email="Ada.Admin@bank.example", sso_provider="entra", password="!")
        assert Node().sign_in(browser, "ada.admin").status_code == 200


def test_an_administrator_gives_an_account_over(node: Node, browser: Browser, admin: Person, anybody: Person) -> None:
    wish = {"email": "paul.project@bank.example", "password": "correct horse battery", "full_name": "Paul"}
    status, made = admin.post("rbac/users", wish)
    assert status == 201, made
    credentials = {"email": wish["email"], "password": wish["password"]}
    token = anybody.post("auth/login", credentials)[1]["token"]
    assert node.sign_in(browser, "paul.project").json()["code"] == "SSO_ACCOUNT_CONFLICT"
    assert admin.post(f"rbac/users/{made['id']}/entra")[0] == 200
    assert Person(token).get("auth/me")[0] == 401 and anybody.post("auth/login", credentials)[0] == 401
    assert node.sign_in(browser, "paul.project").json()["user"]["id"] == made["id"]
    assert AuditEntry.objects.filter(action="user.given_to_entra", entity_id=made["id"]).exists()


def test_a_new_name_keeps_the_account(node: Node, browser: Browser, sandbox: Sandbox) -> None:
    first = node.sign_in(browser, "paul.project").json()["user"]
    users = sandbox.world.directory.users
    users["paula.project@bank.example"] = replace(
        users.pop("paul.project@bank.example"), upn="paula.project@bank.example", name="Paula Project"
    )
    second = node.sign_in(browser, "paula.project").json()["user"]
    assert (second["id"], second["email"]) == (first["id"], "paula.project@bank.example")


def test_somebody_signed_in_with_entra_has_no_password(node: Node, browser: Browser, anybody: Person) -> None:
    node.sign_in(browser, "ada.admin")
    for password in ("", "!", "password"):
        assert anybody.post("auth/login", {"email": "ada.admin@bank.example", "password": password or " "})[0] == 401


def test_signing_out_forgets_the_azure_tokens(node: Node, browser: Browser) -> None:
    token = node.sign_in(browser, "ada.admin").json()["token"]
    assert EntraSession.objects.count() == 1
    assert Person(token).post("auth/logout")[0] == 204
    assert not EntraSession.objects.exists()


def test_switched_off_it_says_so(primary: None, anybody: Person) -> None:
    for path in ("login", "callback?code=x&state=y"):
        status, body = anybody.get(f"auth/sso/entra/{path}")
        assert (status, body["code"]) == (404, "ENTRA_DISABLED")


@pytest.mark.parametrize(
    ("change", "code"),
    [({"client_secret": "wrong"}, "ENTRA_SECRET_WRONG"), ({"client_id": "c0000000-0000-4000-8000-0000000000ff"}, "ENTRA_REFUSED"),
     ({"tenant_id": "a0000000-0000-4000-8000-0000000000ff"}, "ENTRA_UNREADABLE"), ({"ca_bundle": None}, "ENTRA_TLS"),
     ({"authority_host": "https://localhost:1"}, "ENTRA_UNREACHABLE")],
)  # fmt: skip
def test_each_wrong_setting_is_named(
    primary: None,
    entra_settings: EntraSettings,
    with_entra: Callable[..., Any],
    browser: Browser,
    change: dict[str, Any],
    code: str,
) -> None:
    with with_entra(replace(entra_settings, **change)):
        node = Node()
        begun = node.client.get("/api/v1/auth/sso/entra/login", secure=True)
        if begun.status_code == 302:
            page = browser.get(begun["Location"])
            if page.status_code == 400:
                assert "AADSTS700016" in page.text
                return
            answer = node.come_back(values_of(browser.pick(begun["Location"], "ada.admin@bank.example")))
        else:
            answer = begun
        assert answer.json()["code"] == code, answer.json()
        assert urlsplit(entra_settings.authority).hostname == "localhost"


def test_requests_ca_bundle_of_the_host_does_not_beat_ours(
    node: Node, browser: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "corporate.pem").write_text((tmp_path / "corporate.pem").name)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "corporate.pem"))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "corporate.pem"))
    assert node.sign_in(browser, "ada.admin").status_code == 200
