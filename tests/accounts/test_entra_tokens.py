"""Tokens that must not be believed, each with the name of its fault; first as a pure table, then through a whole sign-in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from accounts.id_token import Expected, TokenFault, TokenRefused, read_id_token, usable_keys
from accounts.models import Session, User
from common.models import AuditEntry
from sandbox.azure.tokens import SigningKey, SigningKeys, new_key, signed
from tests.accounts.conftest import Node
from tests.fakes.browser import Browser, values_of

TENANT, CLIENT, NONCE = "a0000000-0000-4000-8000-000000000001", "c0000000-0000-4000-8000-000000000001", "n" * 43
ISSUER = f"https://login.example/{TENANT}/v2.0"
OTHER_TENANT = "b0000000-0000-4000-8000-000000000002"
NOW = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
SECOND = int(NOW.timestamp())
GOOD: dict[str, Any] = {
    "iss": ISSUER, "aud": CLIENT, "exp": SECOND + 3600, "iat": SECOND, "nbf": SECOND, "tid": TENANT, "oid": "some-oid",
    "sub": "some-sub", "nonce": NONCE, "preferred_username": "ada@bank.example", "ver": "2.0",
}  # fmt: skip
EXPECTED = Expected(CLIENT, TENANT, frozenset({ISSUER, f"https://sts.windows.net/{TENANT}/"}), NONCE)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> SigningKeys:
    return SigningKeys(tmp_path_factory.mktemp("keys") / "key.pem")


@pytest.fixture(scope="module")
def keys(published: SigningKeys) -> dict[str, jwt.PyJWK]:
    return usable_keys(published.key_set())


def header(key: SigningKey, **more: Any) -> dict[str, Any]:
    return {name: value for name, value in {"typ": "JWT", "alg": "RS256", "kid": key.kid, **more}.items() if value is not None}


def fault_of(token: str, keys: dict[str, jwt.PyJWK], expected: Expected = EXPECTED) -> TokenFault | None:
    try:
        read_id_token(token, keys, expected, NOW)
    except TokenRefused as refused:
        return refused.fault
    return None


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


CLAIMS: dict[str, tuple[dict[str, Any], TokenFault]] = {
    "another tenant": ({**GOOD, "tid": OTHER_TENANT}, TokenFault.TENANT),
    "another tenant and its issuer": (
        {**GOOD, "tid": OTHER_TENANT, "iss": ISSUER.replace(TENANT, OTHER_TENANT)}, TokenFault.TENANT),
    "issuer of another tenant": ({**GOOD, "iss": ISSUER.replace(TENANT, OTHER_TENANT)}, TokenFault.ISSUER),
    "issuer of another host": ({**GOOD, "iss": ISSUER.replace("login.", "1ogin.")}, TokenFault.ISSUER),
    "issuer with more behind it": ({**GOOD, "iss": ISSUER + "/x"}, TokenFault.ISSUER),
    "issuer in plain http": ({**GOOD, "iss": ISSUER.replace("https", "http")}, TokenFault.ISSUER),
    "issuer common": ({**GOOD, "iss": ISSUER.replace(TENANT, "common")}, TokenFault.ISSUER),
    "v1 issuer of another tenant": ({**GOOD, "iss": f"https://sts.windows.net/{OTHER_TENANT}/"}, TokenFault.ISSUER),
    "another application": ({**GOOD, "aud": OTHER_TENANT}, TokenFault.AUDIENCE),
    "the application in other letters": ({**GOOD, "aud": CLIENT.upper()}, TokenFault.AUDIENCE),
    "the application's URI": ({**GOOD, "aud": f"api://{CLIENT}"}, TokenFault.AUDIENCE),
    "two audiences": ({**GOOD, "aud": [CLIENT, OTHER_TENANT]}, TokenFault.AUDIENCE),
    "no audience in a list": ({**GOOD, "aud": []}, TokenFault.AUDIENCE),
    "an audience that is a number": ({**GOOD, "aud": 7}, TokenFault.AUDIENCE),
    "an audience that is nothing": ({**GOOD, "aud": None}, TokenFault.AUDIENCE),
    "given to another party": ({**GOOD, "azp": OTHER_TENANT}, TokenFault.AUDIENCE),
    "another nonce": ({**GOOD, "nonce": "m" * 43}, TokenFault.NONCE),
    "a nonce with more behind it": ({**GOOD, "nonce": NONCE + "n"}, TokenFault.NONCE),
    "an empty nonce": ({**GOOD, "nonce": ""}, TokenFault.MISSING_CLAIM),
    "a nonce of another kind": ({**GOOD, "nonce": [NONCE]}, TokenFault.MISSING_CLAIM),
    "expired": ({**GOOD, "exp": SECOND - 121}, TokenFault.EXPIRED),
    "expired long ago": ({**GOOD, "exp": 0}, TokenFault.EXPIRED),
    "not yet valid": ({**GOOD, "nbf": SECOND + 121}, TokenFault.NOT_YET_VALID),
    "issued in the future": ({**GOOD, "iat": SECOND + 3600}, TokenFault.NOT_YET_VALID),
    "exp as text": ({**GOOD, "exp": "9999999999"}, TokenFault.MISSING_CLAIM),
    "exp as true": ({**GOOD, "exp": True}, TokenFault.MISSING_CLAIM),
    "exp as a fraction": ({**GOOD, "exp": SECOND + 0.5}, TokenFault.MISSING_CLAIM),
    "exp without end": ({**GOOD, "exp": float("inf")}, TokenFault.MISSING_CLAIM),
    "an access token of the application": ({**GOOD, "scp": "access"}, TokenFault.KIND),
    "an application's own token": ({**GOOD, "idtyp": "app"}, TokenFault.KIND),
    "a life of two days": ({**GOOD, "exp": SECOND + 2 * 86400}, TokenFault.MALFORMED),
    "a life beyond all numbers": ({**GOOD, "exp": 10**400}, TokenFault.MALFORMED),
    "an oid that is too long": ({**GOOD, "oid": "x" * 129}, TokenFault.MISSING_CLAIM),
    "an oid with half a surrogate pair": ({**GOOD, "oid": "x\ud800"}, TokenFault.MISSING_CLAIM),
    "a tenant that is a list": ({**GOOD, "tid": [TENANT]}, TokenFault.MISSING_CLAIM),
    **{f"without {name}": (without(name), TokenFault.MISSING_CLAIM)
       for name in ("iss", "aud", "exp", "iat", "nbf", "tid", "oid", "sub", "nonce")},
}  # fmt: skip


@pytest.mark.parametrize("case", CLAIMS)
def test_a_token_with_a_wrong_claim_is_refused_by_its_name(published: SigningKeys, keys: dict[str, jwt.PyJWK], case: str) -> None:
    claims, fault = CLAIMS[case]
    assert fault_of(signed(header(published.current), claims, published.current), keys) is fault


def test_a_good_token_is_believed_and_small_clock_differences_do_not_matter(
    published: SigningKeys, keys: dict[str, jwt.PyJWK]
) -> None:
    for change in ({}, {"aud": [CLIENT]}, {"exp": SECOND - 119}, {"nbf": SECOND + 119}, {"azp": CLIENT}, {"tid": TENANT.upper()},
                   {"iss": f"https://sts.windows.net/{TENANT}/"}):  # fmt: skip
        assert fault_of(published.sign({**GOOD, **change}), keys) is None, change


def test_tokens_with_a_wrong_signature_or_header_are_refused_by_name(published: SigningKeys, keys: dict[str, jwt.PyJWK]) -> None:
    key, stranger = published.current, new_key()
    good = published.sign(GOOD)
    head, body, signature = good.split(".")
    other_body = base64.urlsafe_b64encode(json.dumps({**GOOD, "oid": "somebody"}).encode()).decode().rstrip("=")
    pem = key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der_text = f"{_part({'alg': 'HS256', 'kid': key.kid})}.{body}"
    der_mac = base64.urlsafe_b64encode(hmac.digest(pem.strip(), der_text.encode(), hashlib.sha256)).decode().rstrip("=")
    elliptic = jwt.encode(GOOD, ec.generate_private_key(ec.SECP256R1()), "ES256", headers={"kid": key.kid})
    cases = {
        "signed by a stranger": (signed(header(key), GOOD, stranger), TokenFault.SIGNATURE),
        "claims exchanged": (f"{head}.{other_body}.{signature}", TokenFault.SIGNATURE),
        "signature cut": (f"{head}.{body}.{signature[:-10]}", TokenFault.SIGNATURE),
        "signature missing": (f"{head}.{body}.", TokenFault.SIGNATURE),
        "of another kind": (signed(header(key, typ="at+jwt"), GOOD, key), TokenFault.KIND),
        "a header of a thousand levels": (f"{_deep()}.{body}.{signature}", TokenFault.MALFORMED),
        "algorithm none": (signed(header(key, alg="none"), GOOD, key), TokenFault.ALGORITHM),
        "algorithm None": (f"{_part({'alg': 'None', 'kid': key.kid})}.{body}.", TokenFault.ALGORITHM),
        "HS256 with the public key": (signed(header(key, alg="HS256"), GOOD, key), TokenFault.ALGORITHM),
        "HS256 with the stripped key": (f"{der_text}.{der_mac}", TokenFault.ALGORITHM),
        "RS512": (jwt.encode(GOOD, key.private, "RS512", headers={"kid": key.kid}), TokenFault.ALGORITHM),
        "PS256": (jwt.encode(GOOD, key.private, "PS256", headers={"kid": key.kid}), TokenFault.ALGORITHM),
        "ES256": (elliptic, TokenFault.ALGORITHM),
        "no algorithm": (f"{_part({'kid': key.kid})}.{body}.{signature}", TokenFault.ALGORITHM),
        "an unknown key": (signed(header(key, kid="unknown"), GOOD, key), TokenFault.UNKNOWN_KEY),
        "the stranger's key": (signed(header(stranger), GOOD, stranger), TokenFault.UNKNOWN_KEY),
        "a path as key": (signed(header(key, kid="../../dev/null"), GOOD, key), TokenFault.UNKNOWN_KEY),
        "no key": (signed(header(key, kid=None), GOOD, key), TokenFault.MALFORMED),
        "its own key inside": (signed(header(stranger, jwk=stranger.jwk()), GOOD, stranger), TokenFault.UNKNOWN_KEY),
        "an extension we do not know": (signed(header(key, crit=["exp"]), GOOD, key), TokenFault.MALFORMED),
        "no token": ("", TokenFault.MALFORMED),
        "two parts": (f"{head}.{body}", TokenFault.MALFORMED),
        "five parts": (f"{good}.a.b", TokenFault.MALFORMED),
        "no base64": ("!.!.!", TokenFault.MALFORMED),
        "claims that are a list": (signed(header(key), [1], key), TokenFault.MALFORMED),
        "claims that are no JSON": (f"{head}.eHh4.{signature}", TokenFault.SIGNATURE),
        "far too long": (good + "A" * 70_000, TokenFault.MALFORMED),
        "letters beyond ASCII": ("é.é.é", TokenFault.MALFORMED),
    }
    found = {name: fault_of(token, keys) for name, (token, _) in cases.items()}
    assert found == {name: fault for name, (_, fault) in cases.items()}


def test_only_real_signing_keys_of_a_key_set_are_used(published: SigningKeys) -> None:
    good = published.current.jwk()
    small = SigningKey(rsa.generate_private_key(public_exponent=65537, key_size=1024)).jwk()
    rows = [good, {**good, "kid": "enc", "use": "enc"}, {**good, "kid": ""}, {"kty": "oct", "k": "c2VjcmV0", "kid": "oct"},
            {**good, "kid": "broken", "n": "!"}, small, "text", {"kid": "empty", "kty": "RSA"}]  # fmt: skip
    assert set(usable_keys({"keys": rows})) == {good["kid"]}
    assert usable_keys({}) == {}


THROUGH = {
    "signed by a stranger": ({"signer": "stranger"}, "SSO_TOKEN_SIGNATURE"),
    "algorithm none": ({"algorithm": "none"}, "SSO_TOKEN_ALGORITHM"),
    "HS256 with the public key": ({"algorithm": "HS256"}, "SSO_TOKEN_ALGORITHM"),
    "an unknown key": ({"header": {"kid": "unknown"}}, "SSO_TOKEN_UNKNOWN_KEY"),
    "another tenant": ({"claims": {"tid": OTHER_TENANT}}, "SSO_TOKEN_TENANT"),
    "another issuer": ({"claims": {"iss": "https://evil.example/v2.0"}}, "SSO_TOKEN_ISSUER"),
    "another audience": ({"claims": {"aud": OTHER_TENANT}}, "SSO_TOKEN_AUDIENCE"),
    "another nonce": ({"claims": {"nonce": "x"}}, "SSO_TOKEN_NONCE"),
    "no nonce": ({"without": ["nonce"]}, "SSO_TOKEN_NONCE"),
    "expired": ({"claims": {"exp": 1}}, "SSO_TOKEN_EXPIRED"),
    "not yet valid": ({"claims": {"nbf": 4_000_000_000}}, "SSO_TOKEN_NOT_YET_VALID"),
    "no oid": ({"without": ["oid"]}, "SSO_TOKEN_MISSING_CLAIM"),
    "no name to sign in with": ({"without": ["preferred_username"]}, "SSO_TOKEN_CLAIMS"),
    "a name with a line break": ({"claims": {"preferred_username": "a\n@bank.example"}}, "SSO_TOKEN_CLAIMS"),
    "roles that are a text": ({"claims": {"roles": "APP_MZV_PRO_ADMIN"}}, "SSO_TOKEN_CLAIMS"),
    "roles with a number": ({"claims": {"roles": [1]}}, "SSO_TOKEN_CLAIMS"),
    "groups that are an object": ({"claims": {"groups": {"a": 1}}}, "SSO_TOKEN_CLAIMS"),
    "a group as role": ({"claims": {"roles": ["5b1e55ed-0000-4000-8000-000000000001"]}}, "ENTRA_EMIT_AS_ROLES"),
    "a group beside a role": (
        {"claims": {"roles": ["APP_MZV_PRO_ADMIN", "5B1E55ED-0000-4000-8000-000000000001"]}}, "ENTRA_EMIT_AS_ROLES"),
}  # fmt: skip


@pytest.mark.parametrize("case", THROUGH)
def test_a_spoiled_token_opens_no_session_makes_no_account_and_is_audited(
    node: Node, browser: Browser, control: httpx.Client, case: str
) -> None:
    changes, code = THROUGH[case]
    control.post("/faults", json={"id_token_changes": changes})
    answer = node.sign_in(browser, "ada.admin")
    assert answer.json()["code"] == code, answer.json()
    assert answer.status_code in (401, 403)
    assert not Session.objects.exists() and not User.objects.exists()
    assert AuditEntry.objects.get(action="sso_login_failed").severity == "warning"
    assert "eyJ" not in answer.content.decode(), "no token in the answer"


def test_a_wrong_clock_is_named(node: Node, browser: Browser, control: httpx.Client) -> None:
    control.post("/faults", json={"clock_offset_seconds": 900})
    answer = node.sign_in(browser, "ada.admin")
    assert answer.json()["code"] == "SSO_TOKEN_NOT_YET_VALID" and "clock of this node" in answer.json()["error"]


def test_a_rotated_key_is_fetched_and_a_withdrawn_one_not_believed(node: Node, browser: Browser, control: httpx.Client) -> None:
    assert node.sign_in(browser, "ada.admin").status_code == 200
    control.post("/rotate-key", json={"keep_old": False})
    time.sleep(1.1)  # how long a fresh key set is left alone
    assert node.sign_in(browser, "ada.admin").status_code == 200


def test_no_token_code_or_secret_reaches_a_log(
    node: Node, browser: Browser, control: httpx.Client, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    values = values_of(browser.pick(node.begin(), "ada.admin@bank.example"))
    token = node.come_back(values).json()["token"]
    control.post("/faults", json={"secret_expired": True})
    node.sign_in(browser, "ada.admin")
    of_the_browser = ("httpx", "httpcore")
    ours = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith(of_the_browser))
    assert "msal" in {record.name.split(".")[0] for record in caplog.records}, "the libraries did log"
    for text in (token, values["code"], secret, "eyJ", "code_verifier"):
        assert text not in ours


def _deep() -> str:
    nested = b'{"alg":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
    return base64.urlsafe_b64encode(nested).decode().rstrip("=")


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
