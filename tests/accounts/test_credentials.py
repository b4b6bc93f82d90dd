"""API tokens, service identities, passwords, the browser's cookie and rate limits: what lets in, for how long, how often."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from accounts import browser, passwords, rates, sessions, tokens
from accounts.durations import go_duration
from accounts.models import ApiToken, RateCount, Session, User
from common.clock import now
from common.errors import TooManyRequests, ValidationFailed
from common.models import AuditEntry, Change
from tests.conftest import Person

pytestmark = pytest.mark.usefixtures("primary")
PASSWORD = "seven purple otters sing"


@pytest.fixture
def ada() -> User:
    user = User(email="ada@example.com", full_name="Ada Lovelace", role="admin")
    user.set_password(PASSWORD)
    user.save()
    return user


def sign_in(password: str = PASSWORD, **more: Any) -> tuple[int, Any]:
    return Person().post("auth/login", {"email": "ada@example.com", "password": password, **more})


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("24h", 86400), ("720h", 2_592_000), ("1h30m", 5400), ("1.5h", 5400), ("90s", 90), ("1m", 60), ("100ms", 0.1)],
    )
    def test_go_s_form_is_understood(self, text: str, seconds: float) -> None:
        assert go_duration(text).total_seconds() == seconds

    @pytest.mark.parametrize("text", ["", "24", "h", "-1h", "0h", "1d", "1h ", " 1h", "1h-5m", "1e5h", "٣h", "1hh", "0s", "１h"])
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"no duration|not positive"):
            go_duration(text)


class TestTokens:
    def test_a_holder_has_so_many_and_no_more_and_each_scope_once(self, admin: Person, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tokens, "MOST_TOKENS", 2)
        made = [admin.post("users/tokens", {"name": name, "scopes": ["secrets:read"] * 3})[1] for name in ("a", "b")]
        assert made[0]["scopes"] == ["secrets:read"]
        status, body = admin.post("users/tokens", {"name": "c"})
        assert (status, body["code"]) == (409, "TOO_MANY_TOKENS")
        assert admin.delete(f"users/tokens/{made[0]['id']}")[0] == 204
        assert admin.post("users/tokens", {"name": "c"})[0] == 201

    def test_a_token_is_shown_once_and_rests_as_a_hash(self, admin: Person) -> None:
        token = admin.post("users/tokens", {"name": "ci"})[1]["token"]
        assert token.startswith("mzvt_") and token not in str(admin.get("users/tokens")[1])
        assert token not in str(ApiToken.objects.values()) + str(list(AuditEntry.objects.values()))

    def test_a_revoked_token_is_refused_at_once_and_gateways_are_told(self, admin: Person) -> None:
        row = admin.post("users/tokens", {"name": "ci"})[1]
        holder = Person(row["token"])
        assert holder.get("organizations")[0] == 200
        before = Change.objects.filter(kind="principal").count()
        assert admin.delete(f"users/tokens/{row['id']}")[0] == 204
        assert holder.get("organizations") == (401, {"error": "this token is not valid; ask its holder for a new one",
                                                    "code": "AUTH_INVALID"})  # fmt: skip
        assert Change.objects.filter(kind="principal").count() == before + 2

    def test_an_expired_token_says_so(self, admin: Person) -> None:
        row = admin.post("users/tokens", {"name": "ci", "duration": "1h"})[1]
        ApiToken.objects.update(expires_at=now() - timedelta(seconds=1))
        assert Person(row["token"]).get("organizations")[1]["code"] == "AUTH_EXPIRED"

    def test_tokens_of_others_are_not_there(self, admin: Person, person: Any) -> None:
        row = admin.post("users/tokens", {"name": "ci"})[1]
        other = person("user")
        assert other.get("users/tokens") == (200, [])
        assert other.delete(f"users/tokens/{row['id']}")[0] == 404

    def test_a_token_cannot_do_what_its_holder_cannot(self, person: Any) -> None:
        user = person("user")
        assert user.post("users/tokens", {"name": "t", "scopes": ["gateway:admin"]})[0] == 400
        assert user.post("users/tokens", {"name": "t", "scopes": ["no:such"]})[0] == 400
        token = Person(user.post("users/tokens", {"name": "t", "scopes": ["projects:read"]})[1]["token"])
        User.objects.update(role="viewer")
        assert token.get("projects")[0] == 403

    def test_a_limited_token_makes_no_unlimited_one(self, admin: Person) -> None:
        limited = Person(admin.post("users/tokens", {"name": "t", "scopes": ["projects:read"]})[1]["token"])
        assert limited.post("users/tokens", {"name": "u"})[0] == 400
        assert limited.post("users/tokens", {"name": "u", "scopes": ["secrets:read"]})[0] == 400
        assert limited.post("users/tokens", {"name": "u", "scopes": ["projects:read"]})[0] == 201

    def test_a_token_made_with_a_token_ends_with_it(self, admin: Person) -> None:
        parent = admin.post("users/tokens", {"name": "parent", "duration": "1h"})[1]
        child = Person(parent["token"]).post("users/tokens", {"name": "child", "duration": "8000h"})[1]
        assert child["expires_at"] == parent["expires_at"]
        grandchild = Person(child["token"]).post("users/tokens", {"name": "grandchild"})[1]
        other = admin.post("users/tokens", {"name": "other"})[1]
        assert admin.delete(f"users/tokens/{parent['id']}")[0] == 204
        found = [Person(row["token"]).get("organizations")[0] for row in (parent, child, grandchild, other)]
        assert found == [401, 401, 401, 200]

    def test_a_limited_token_ends_itself_only(self, admin: Person) -> None:
        limited = admin.post("users/tokens", {"name": "limited", "scopes": ["secrets:read"]})[1]
        other = admin.post("users/tokens", {"name": "other"})[1]
        caller = Person(limited["token"])
        assert caller.delete(f"users/tokens/{other['id']}")[0] == 403
        assert Person(other["token"]).get("organizations")[0] == 200
        assert caller.delete(f"users/tokens/{limited['id']}")[0] == 204
        assert caller.get("organizations")[0] == 401

    def test_an_empty_list_of_scopes_is_no_permission_at_all(self, admin: Person) -> None:
        token = Person(admin.post("users/tokens", {"name": "t", "scopes": []})[1]["token"])
        assert token.get("projects")[0] == 403 and token.get("auth/me/permissions")[1]["permissions"] == []

    def test_what_ended_long_ago_goes_and_the_rest_stays(self, admin: Person) -> None:
        old = now() - sessions.KEPT - timedelta(seconds=1)
        made = [admin.post("users/tokens", {"name": str(number)})[1]["id"] for number in range(4)]
        ApiToken.objects.filter(id=made[0]).update(revoked_at=old)
        ApiToken.objects.filter(id=made[1]).update(expires_at=old)
        ApiToken.objects.filter(id=made[2]).update(revoked_at=now())
        holder = ApiToken.objects.all()[0].user
        Session.objects.create(user=holder, token_hash="old", expires_at=old)
        assert sessions.prune(now()) == 3
        assert {str(row.id) for row in ApiToken.objects.all()} == set(made[2:]) and Session.objects.count() == 1

    def test_use_is_remembered_roughly(self, admin: Person) -> None:
        row = admin.post("users/tokens", {"name": "t"})[1]
        assert row["last_used_at"] is None
        Person(row["token"]).get("projects")
        first = ApiToken.objects.get().last_used_at
        Person(row["token"]).get("projects")
        assert first is not None and ApiToken.objects.get().last_used_at == first

    @pytest.mark.parametrize("path", ["auth/logout", "auth/refresh"])
    def test_an_api_token_is_no_session(self, admin: Person, path: str) -> None:
        token = Person(admin.post("users/tokens", {"name": "t"})[1]["token"])
        assert token.post(path)[0] == 403


class TestServices:
    def test_a_new_secret_ends_the_old_one_and_its_sessions(self, admin: Person) -> None:
        made = admin.post("service-identities", {"display_name": "CI", "owner_email": "o@example.com"})[1]
        wish = {"grant_type": "client_credentials", "client_id": made["client_id"], "client_secret": made["client_secret"]}
        first = Person(Person().post("auth/token", wish)[1]["access_token"])
        assert first.get("auth/me/permissions")[0] == 200
        fresh = admin.post(f"service-identities/{made['id']}/secret")[1]["client_secret"]
        assert first.get("auth/me/permissions")[0] == 401
        assert Person().post("auth/token", wish)[0] == 401
        assert Person().post("auth/token", {**wish, "client_secret": fresh})[0] == 200
        admin.put(
            f"service-identities/{made['id']}", {"display_name": "CI", "owner_email": "o@example.com", "status": "disabled"}
        )
        assert Person().post("auth/token", {**wish, "client_secret": fresh})[0] == 401

    def test_the_oldest_session_of_a_service_ends_when_there_are_too_many(self, admin: Person, monkeypatch: Any) -> None:
        monkeypatch.setattr(sessions, "MOST_OF_A_SERVICE", 3)
        made = admin.post("service-identities", {"display_name": "CI", "owner_email": "o@example.com"})[1]
        wish = {"grant_type": "client_credentials", "client_id": made["client_id"], "client_secret": made["client_secret"]}
        callers = [Person(Person().post("auth/token", wish)[1]["access_token"]) for _ in range(5)]
        assert [caller.get("auth/me/permissions")[0] for caller in callers] == [401, 401, 200, 200, 200]


class TestPasswords:
    @pytest.mark.parametrize(
        "password",
        ["short", "fourteen chars", "passwordpassword", "P@ssw0rdP@ssw0rd", "aaaaaaaaaaaaaaaaaaaa", "123456789012345",
         "qwertyuiopasdfgh", "abcdefghijklmnopq", "ada@example.com1", "ada@example.com!!!", "Lovelace Lovelace!",
         "1q1q1q1q1q1q1q1q",
         "mazevault-mazevault", "Password!!!!!!!!1", "９８７６５４３２１０９８７６５", "x" * 1025],
    )  # fmt: skip
    def test_a_weak_one_is_refused_with_the_reason(self, password: str) -> None:
        with pytest.raises(ValidationFailed, match=r"^password: "):
            passwords.refuse_weak(password, email="ada@example.com", full_name="Ada Lovelace")

    @pytest.mark.parametrize(
        "password",
        [
            PASSWORD,
            "correct horse battery staple",
            "tr0ub4dor&3 is fine now",
            "läuft über Stock & Stein",
            "🦦🦦 two otters swim 🏊",
        ],
    )
    def test_length_is_enough_and_no_kind_of_character_is_demanded(self, password: str) -> None:
        passwords.refuse_weak(password, email="ada@example.com", full_name="Ada Lovelace")

    def test_changing_it_takes_the_current_one_and_ends_the_other_sessions(self, ada: User) -> None:
        one, two = (Person(sign_in()[1]["token"]) for _ in range(2))
        new = "eleven green herons wait"
        assert one.post("auth/password", {"current_password": "wrong", "new_password": new})[0] == 401
        assert one.post("auth/password", {"current_password": PASSWORD, "new_password": "short"})[0] == 400
        assert one.post("auth/password", {"current_password": PASSWORD, "new_password": PASSWORD})[0] == 400
        assert one.post("auth/password", {"current_password": PASSWORD, "new_password": new})[0] == 204
        assert (one.get("auth/me")[0], two.get("auth/me")[0]) == (200, 401)
        assert (sign_in()[0], sign_in(new)[0]) == (401, 200)

    def test_the_same_characters_typed_in_another_way_are_the_same_password(self, ada: User) -> None:
        caller = Person(sign_in()[1]["token"])
        caller.post("auth/password", {"current_password": PASSWORD, "new_password": "café au lait s'il vous plaît"})
        assert sign_in("cafe\u0301 au lait s'il vous plai\u0302t")[0] == 200

    def test_after_a_reset_nothing_but_a_new_password_is_possible(self, ada: User, admin: Person) -> None:
        old = Person(sign_in()[1]["token"])
        _, row = admin.post(f"rbac/users/{ada.id}/reset")
        assert old.get("auth/me")[0] == 401 and sign_in()[0] == 401
        assert row["password"] not in str(list(AuditEntry.objects.values()))
        caller = Person(sign_in(row["password"])[1]["token"])
        assert caller.get("projects")[1]["code"] == "PASSWORD_CHANGE_REQUIRED"
        assert caller.post("auth/password", {"current_password": row["password"], "new_password": PASSWORD})[0] == 204
        assert caller.get("projects")[0] == 200


class TestSessions:
    def test_an_account_of_entra_has_none_here(self, ada: User, admin: Person) -> None:
        """Whatever hash its row still holds: Entra's own conditions would be passed by."""
        session = Person(sign_in()[1]["token"])
        User.objects.filter(pk=ada.pk).update(sso_provider="entra", entra_confirmed_at=now())
        status, answer = admin.post(f"rbac/users/{ada.id}/reset")
        assert (status, answer["code"]) == (409, "SSO_ACCOUNT")
        status, answer = sign_in()
        assert (status, answer["error"]) == (401, "the email address or the password is wrong")
        wish = {"current_password": PASSWORD, "new_password": "eleven brass kettles hum"}
        assert session.post("auth/password", wish)[0] == 400
        status, answer = session.post("auth/refresh")
        assert (status, answer["code"]) == (403, "SSO_SIGN_IN_NEEDED")

    def test_sessions_are_listed_and_ended_one_by_one(self, ada: User, admin: Person) -> None:
        one, two = (Person(sign_in()[1]["token"]) for _ in range(2))
        rows = one.get("auth/sessions")[1]
        assert [row["current"] for row in rows].count(True) == 1 and len(rows) == 2
        other = next(row["id"] for row in rows if not row["current"])
        assert admin.delete(f"auth/sessions/{other}")[0] == 404
        assert one.delete(f"auth/sessions/{other}")[0] == 204
        assert (one.get("auth/me")[0], two.get("auth/me")[0]) == (200, 401)


class TestBrowser:
    @pytest.fixture
    def page(self, ada: User) -> Client:
        client = Client()
        body = {"email": "ada@example.com", "password": PASSWORD, "cookie": True}
        answer = client.post("/api/v1/auth/login", body, content_type="application/json")
        assert answer.status_code == 200 and "token" not in answer.json() and "access_token" not in answer.json()
        client.csrf = answer.json()["csrf_token"]
        return client

    def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(self, page: Client) -> None:
        cookie = page.cookies[browser.COOKIE]
        assert cookie["httponly"] and cookie["secure"] and cookie["samesite"] == "Strict" and cookie["path"] == "/"
        assert not cookie["domain"]

    def test_reading_takes_the_cookie_and_changing_takes_the_proof_too(self, page: Client) -> None:
        assert page.get("/api/v1/auth/me").status_code == 200
        assert page.get("/api/v1/auth/session").json()["csrf_token"] == page.csrf
        wish = {"name": "from a page"}
        for headers in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "x"}, {"X-CSRF-Token": page.csrf[:-1]}):
            answer = page.post("/api/v1/projects", wish, content_type="application/json", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "CSRF_INVALID")
        answer = page.post("/api/v1/projects", wish, content_type="application/json", headers={"X-CSRF-Token": page.csrf})
        assert answer.status_code == 201

    def test_the_proof_of_one_session_is_none_for_another(self, page: Client) -> None:
        foreign = Session.objects.create(user=User.objects.get(email="ada@example.com"), token_hash="x", expires_at=now())
        headers = {"X-CSRF-Token": browser.csrf_token(foreign.token_hash)}
        assert page.post("/api/v1/auth/logout", headers=headers, content_type="application/json").status_code == 403

    def test_signing_out_takes_the_cookie_away_and_ends_the_session(self, page: Client) -> None:
        token = page.cookies[browser.COOKIE].value
        answer = page.post("/api/v1/auth/logout", headers={"X-CSRF-Token": page.csrf}, content_type="application/json")
        assert answer.status_code == 204 and page.cookies[browser.COOKIE].value == ""
        assert Person(token).get("auth/me")[0] == 401

    @pytest.mark.parametrize("value", ["", "x", "mzvt_x", "mzv_", "a" * 5000])
    def test_a_malformed_cookie_lets_nobody_in(self, ada: User, value: str) -> None:
        client = Client()
        client.cookies[browser.COOKIE] = value
        assert client.get("/api/v1/auth/me").status_code == 401

    def test_an_api_token_in_the_cookie_is_no_session(self, admin: Person) -> None:
        client = Client()
        client.cookies[browser.COOKIE] = admin.post("users/tokens", {"name": "t"})[1]["token"]
        assert client.get("/api/v1/auth/me").status_code == 401

    def test_a_bearer_beside_the_cookie_needs_no_proof_and_is_who_counts(self, page: Client, person: Any) -> None:
        viewer = person("viewer")
        answer = page.get("/api/v1/auth/me", headers=viewer.headers)
        assert answer.json()["email"] == "viewer@example.com"
        assert page.post("/api/v1/auth/logout", headers=viewer.headers, content_type="application/json").status_code == 204


class TestRates:
    def test_the_eleventh_sign_in_of_a_minute_waits_even_with_the_right_password(self, ada: User, monkeypatch: Any) -> None:
        monkeypatch.setattr(rates, "_minute", lambda moment: 1)
        assert [sign_in()[0] for _ in range(10)] == [200] * 10
        answer = Client().post(
            "/api/v1/auth/login", {"email": "ADA@example.com", "password": PASSWORD}, content_type="application/json"
        )
        assert (answer.status_code, answer.json()["code"]) == (429, "RATE_LIMITED")
        assert 1 <= int(answer["Retry-After"]) <= 60 and answer["X-RateLimit-Limit"] == "10"

    def test_a_colleague_is_not_slowed_down(self, ada: User, monkeypatch: Any) -> None:
        monkeypatch.setattr(rates, "_minute", lambda moment: 1)
        for _ in range(11):
            rates_left = sign_in()[0]
        assert rates_left == 429
        assert Person().post("auth/login", {"email": "bob@example.com", "password": "x"})[0] == 401

    def test_calls_beyond_the_limit_are_429_until_the_minute_ends(self, admin: Person, settings: Any, monkeypatch: Any) -> None:
        settings.MAZEVAULT = replace(settings.MAZEVAULT, calls_per_minute=60)
        monkeypatch.setattr(rates, "_minute", lambda moment: 7)
        statuses = [admin.get("auth/me")[0] for _ in range(62)]
        assert statuses == [200] * 60 + [429, 429]
        monkeypatch.setattr(rates, "_minute", lambda moment: 8)
        assert admin.get("auth/me")[0] == 200

    def test_every_answer_names_the_limit(self, admin: Person) -> None:
        answer = admin.client.get("/api/v1/projects", headers=admin.headers)
        assert answer["X-RateLimit-Limit"] == "6000"

    def test_another_process_s_calls_count_and_emptying_the_cache_gives_nothing_back(self, settings: Any) -> None:
        settings.MAZEVAULT = replace(settings.MAZEVAULT, calls_per_minute=60)
        moment = now().replace(second=1)
        for _ in range(30):
            rates.count_call("somebody", moment)
        rates._tallies.clear()  # a second process, or this one started again
        with pytest.raises(TooManyRequests):
            for _ in range(31):
                rates.count_call("somebody", moment)

    def test_counts_of_past_minutes_are_dropped(self) -> None:
        rates.count_sign_in("a", "b", now() - timedelta(minutes=5))
        rates.count_sign_in("a", "b", now())
        assert rates.prune(now()) == 2 and RateCount.objects.count() == 2

    def test_one_network_cannot_try_account_after_account(self, ada: User, monkeypatch: Any) -> None:
        """Each try costs a slow hash, so the limit comes before it."""
        monkeypatch.setattr(rates, "_minute", lambda moment: 7)
        monkeypatch.setattr(rates, "ACCOUNTS_PER_NETWORK", 1)
        checked: list[str] = []

        def wrong(user: User | None, password: str) -> bool:
            checked.append(password)
            return False

        monkeypatch.setattr(sessions, "_password_fits", wrong)

        def attempt(number: int, address: str) -> int:
            wish = {"email": f"n{number}@example.com", "password": "x"}
            return Client(REMOTE_ADDR=address).post("/api/v1/auth/login", wish, content_type="application/json").status_code

        found = [attempt(number, f"2001:db8:0:1::{number:x}") for number in range(12)]
        assert found == [401] * 10 + [429] * 2 and len(checked) == 10
        assert attempt(13, "2001:db8:0:2::1") == 401

    def test_one_network_cannot_ask_for_tokens_of_client_after_client(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(rates, "_minute", lambda moment: 7)
        monkeypatch.setattr(rates, "SERVICES_PER_NETWORK", 1)
        wish = {"grant_type": "client_credentials", "client_secret": "x"}
        found = [Person().post("auth/token", {**wish, "client_id": f"mzs_{number}"})[0] for number in range(12)]
        assert found == [401] * 10 + [429] * 2

    def test_counts_in_memory_are_of_two_minutes_at_most(self) -> None:
        begun = now()
        for minutes in range(5):
            for credential in ("a", "b"):
                rates.count_call(credential, begun + timedelta(minutes=minutes))
        assert [len(rates._tallies[minute]) for minute in sorted(rates._tallies)[-2:]] == [2, 2]
        assert not [one for one in rates._tallies if one < max(rates._tallies) - 1]

    def test_neither_account_nor_address_is_readable_in_the_table(self) -> None:
        rates.count_sign_in("ada@example.com", "192.0.2.7", now())
        assert "ada" not in str(RateCount.objects.values()) and "192" not in str(RateCount.objects.values("key"))


class TestRefusals:
    """What an auditor looks for, once a minute for each actor."""

    @pytest.fixture(autouse=True)
    def one_minute(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(rates, "_minute", lambda moment: 7)

    def warnings(self, action: str) -> list[dict[str, Any]]:
        return [row.details for row in AuditEntry.objects.filter(action=action, severity="warning")]

    def test_what_somebody_may_not_do(self, person: Any, monkeypatch: Any) -> None:
        viewer = person("viewer")
        for _ in range(3):
            assert viewer.post("rbac/users", {"email": "x@example.com", "password": PASSWORD})[0] == 403
        expected = {"method": "POST", "path": "/api/v1/rbac/users", "code": "PERMISSION_DENIED"}
        assert self.warnings("rbac.permission.denied") == [expected]
        monkeypatch.setattr(rates, "_minute", lambda moment: 8)
        viewer.post("rbac/users", {})
        assert len(self.warnings("rbac.permission.denied")) == 2

    def test_a_wrong_current_password(self, ada: User) -> None:
        caller = Person(sign_in()[1]["token"])
        for _ in range(2):
            caller.post("auth/password", {"current_password": "wrong", "new_password": "eleven brass kettles hum"})
        assert AuditEntry.objects.get(action="user.password.refused").actor == f"user:{ada.id}"

    def test_sign_ins_and_calls_beyond_a_limit(self, ada: User, admin: Person, settings: Any) -> None:
        settings.MAZEVAULT = replace(settings.MAZEVAULT, calls_per_minute=60)
        for _ in range(8):
            sign_in("wrong")
        assert self.warnings("auth.limited") == [{"code": "ACCOUNT_LOCKED"}]
        assert {admin.get("auth/me")[0] for _ in range(64)} == {200, 429}
        assert self.warnings("auth.limited") == [{"code": "ACCOUNT_LOCKED"}, {"code": "RATE_LIMITED"}]


def test_the_metrics_ask_the_same_of_a_bearer_as_everything(ada: User) -> None:
    caller = Person(sign_in()[1]["token"])
    assert caller.get("/metrics")[0] == 200
    User.objects.update(must_change_password=True)
    status, answer = caller.get("/metrics")
    assert (status, answer["code"]) == (403, "PASSWORD_CHANGE_REQUIRED")


def test_more_audit_entries_than_there_are_at_once_are_not_refused(admin: Person) -> None:
    for limit in ("0", "1000000"):
        assert admin.get(f"audit-logs?limit={limit}")[0] == 200
    assert admin.post("audit-logs/search", {"limit": 1_000_000})[0] == 200
    assert admin.get("audit-logs?limit=many")[0] == 400
