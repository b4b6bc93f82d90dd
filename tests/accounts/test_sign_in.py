"""Signing in, staying in, leaving; guessing is slowed down, and a malformed request is no guess (DESIGN §5)."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.db.models.functions import Now
from django.test import Client

from accounts import lockout, sessions, typed
from accounts.models import FailedSignIn, Session, User
from accounts.sessions import hash_token
from common.clock import now
from common.models import AuditEntry
from tests.conftest import Person

PASSWORD = "correct horse battery staple"


@pytest.fixture
def ada(db: None) -> User:
    user = User(email="ada@example.com", role="admin")
    user.set_password(PASSWORD)
    user.save()
    return user


def sign_in(email: str = "ada@example.com", password: str = PASSWORD) -> tuple[int, Any]:
    return Person().post("auth/login", {"email": email, "password": password})


def test_login_answers_the_same_token_under_both_names(ada: User) -> None:
    status, body = sign_in("ADA@example.com")
    assert status == 200
    assert body["token"] == body["access_token"]
    assert (body["token_type"], body["user"]["email"]) == ("Bearer", "ada@example.com")
    assert Person(body["token"]).get("auth/me")[1]["id"] == str(ada.id)


def test_tokens_rest_as_hashes_and_passwords_as_argon2(ada: User) -> None:
    _, body = sign_in()
    assert Session.objects.get().token_hash == hash_token(body["token"]) != body["token"]
    assert ada.password.startswith("argon2$argon2id$")


@pytest.mark.parametrize(
    ("email", "password"),
    [("ada@example.com", "wrong"), ("nobody@example.com", PASSWORD), ("ada@example.com", PASSWORD.upper())],
)
def test_every_failure_has_the_same_answer(ada: User, email: str, password: str) -> None:
    status, body = sign_in(email, password)
    assert (status, body["error"]) == (401, "the email address or the password is wrong")
    entry = AuditEntry.objects.get(action="auth.login.failure")
    assert password not in str(entry.details) and email not in str(entry.entity_id)


def test_an_inactive_account_cannot_sign_in_and_its_tokens_end(ada: User) -> None:
    _, body = sign_in()
    User.objects.update(is_active=False)
    assert sign_in()[0] == 401
    assert Person(body["token"]).get("auth/me")[0] == 401


def test_logout_ends_the_token_and_only_this_one(ada: User) -> None:
    one, two = sign_in()[1]["token"], sign_in()[1]["token"]
    assert Person(one).post("auth/logout")[0] == 204
    assert Person(one).get("auth/me")[0] == 401
    assert Person(two).get("auth/me")[0] == 200


def test_refresh_gives_a_new_token_and_ends_the_old_one(ada: User) -> None:
    old = sign_in()[1]["token"]
    new = Person(old).post("auth/refresh")[1]["token"]
    assert Person(old).get("auth/me")[0] == 401
    assert Person(new).get("auth/me")[0] == 200


def test_an_expired_token_is_said_to_be_expired(ada: User) -> None:
    token = sign_in()[1]["token"]
    Session.objects.update(expires_at=Now() - timedelta(seconds=1))
    status, body = Person(token).get("auth/me")
    assert (status, body["code"]) == (401, "AUTH_EXPIRED")


def test_repeated_failures_lock_the_account_for_that_address_and_say_how_long(ada: User) -> None:
    for _ in range(lockout.FAILURES_PER_ADDRESS):
        assert sign_in(password="wrong")[0] == 401
    status, body = sign_in()
    assert (status, body["code"]) == (429, "ACCOUNT_LOCKED")
    FailedSignIn.objects.update(address="192.0.2.1")
    assert sign_in()[0] == 200


def test_an_old_failure_no_longer_counts(ada: User) -> None:
    for _ in range(lockout.FAILURES_PER_ADDRESS):
        sign_in(password="wrong")
    FailedSignIn.objects.update(at=now() - lockout.WINDOW - timedelta(seconds=1))
    assert sign_in()[0] == 200


def from_address(address: str, password: str = PASSWORD) -> int:
    body = {"email": "ada@example.com", "password": password}
    return Client(REMOTE_ADDR=address).post("/api/v1/auth/login", body, content_type="application/json").status_code


def test_guessing_from_everywhere_keeps_strangers_out_and_the_owner_at_a_known_address_not(ada: User) -> None:
    assert from_address("192.0.2.7") == 200
    for number in range(lockout.FAILURES_PER_ACCOUNT):
        lockout.note_failure(str(ada.id), f"198.51.100.{number}", now())
    assert [from_address("203.0.113.9"), from_address("192.0.2.7")] == [429, 200]
    Session.objects.update(created_at=now() - lockout.KNOWN - timedelta(seconds=1))
    assert from_address("192.0.2.7") == 429


def test_the_owner_s_known_address_has_its_own_limit(ada: User) -> None:
    assert from_address("192.0.2.7") == 200
    assert [from_address("192.0.2.7", "wrong") for _ in range(lockout.FAILURES_PER_ADDRESS)][-1] == 401
    assert from_address("192.0.2.7") == 429


def test_addresses_of_one_ipv6_network_are_one(ada: User) -> None:
    for number in range(lockout.FAILURES_PER_ADDRESS):
        assert from_address(f"2001:db8:0:1::{number + 1:x}", "wrong") == 401
    assert [from_address("2001:db8:0:1:ffff::9"), from_address("2001:db8:0:2::9")] == [429, 200]


def test_failures_of_an_account_are_counted_under_its_id_and_of_no_account_under_what_was_typed(ada: User) -> None:
    """Whatever the database takes for the same address is the same account, so no spelling of it has a count of its own."""
    for spelling in ("ada@example.com", " ADA@Example.com", "nobody@example.com"):
        sign_in(spelling, "wrong")
    assert sorted(FailedSignIn.objects.values_list("account", flat=True)) == sorted(
        [str(ada.id), str(ada.id), typed.kept("nobody@example.com")]
    )


def test_what_was_typed_rests_nowhere_in_a_form_that_can_be_guessed(ada: User, caplog: pytest.LogCaptureFixture) -> None:
    """am3: people type passwords into the wrong field, and a plain hash of one is guessed in minutes."""
    secret = "my-pass-phrase-7"
    assert sign_in(secret, "x")[0] == 401
    guesses = {secret, hashlib.sha256(secret.encode()).hexdigest()}
    rows = [str(list(model._base_manager.values())) for model in apps.get_models()]
    assert not [row for row in rows if any(guess in row for guess in guesses)]
    assert secret not in caplog.text


@pytest.mark.parametrize("change", [{"password": "!"}, {"is_active": False}, {"sso_provider": "entra"}])
def test_a_sign_in_that_races_a_reset_opens_nothing(ada: User, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The administrator's change comes while the slow hash is computed."""
    checked = sessions._password_fits

    def slow(user: User | None, password: str) -> bool:
        fits = checked(user, password)
        User.objects.filter(pk=ada.pk).update(**change)
        return fits

    monkeypatch.setattr(sessions, "_password_fits", slow)
    assert sign_in()[0] == 401 and not Session.objects.exists()


def test_a_malformed_query_is_400(ada: User) -> None:
    caller = Person(sign_in()[1]["token"])
    status, answer = caller.get("audit-logs?" + "&".join(f"a{number}=1" for number in range(2000)))
    assert (status, answer["code"]) == (400, "INVALID_FORMAT")


def test_old_failures_are_forgotten_and_recent_ones_kept(db: None) -> None:
    lockout.note_failure("a", "x", now() - lockout.WINDOW - timedelta(seconds=5))
    lockout.note_failure("b", "x", now())
    assert lockout.prune(now()) == 1
    assert FailedSignIn.objects.get().account == "b"


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "email"), ({"email": "ada@example.com"}, "password"), ({"email": 1, "password": "x"}, "email"),
     ({"email": "ada@example.com", "password": None}, "password"), ({"email": "x" * 10_000, "password": "x"}, "email"),
     ({"email": "a\0b", "password": "x"}, "email"), ({"email": ["a"], "password": "x"}, "email")],
)  # fmt: skip
def test_a_malformed_request_is_400_and_no_failed_sign_in(ada: User, body: dict[str, Any], field: str) -> None:
    status, answer = Person().post("auth/login", body)
    assert status == 400 and answer["error"].startswith(f"{field}:"), answer
    assert not FailedSignIn.objects.exists()


def test_the_longest_address_that_fits_can_fail_without_an_error(ada: User) -> None:
    assert sign_in("x" * 254)[0] == 401
    assert sign_in("x\u212a" * 60)[0] == 401


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Bearer x", "Basic YTpi", "Bearer a b", "bearer \u00e9"])
def test_a_wrong_authorization_header_is_401(ada: User, header: str) -> None:
    answer = Person().client.get("/api/v1/auth/me", headers={"Authorization": header.encode().decode("latin-1")})
    assert answer.status_code == 401 and answer.json()["code"].startswith("AUTH")


def test_an_old_token_in_the_header_does_not_stop_a_new_sign_in(ada: User) -> None:
    status, _ = Person("mzv_gone").post("auth/login", {"email": "ada@example.com", "password": PASSWORD})
    assert status == 200
