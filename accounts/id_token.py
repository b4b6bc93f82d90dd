"""Whether an id_token is one that Entra gave for this very sign-in. Pure; every refusal has its own name.

msal does not check id_tokens, it says so itself. Nothing of a token is believed before all of this holds.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NoReturn

import jwt

SKEW = timedelta(minutes=2)
"""Clocks of two well-kept machines differ by less; Entra's tokens live for an hour."""
LONGEST = 64 * 1024
SMALLEST_KEY = 2048
TEXTS: Mapping[str, int] = {"iss": 512, "tid": 64, "oid": 128, "sub": 512, "nonce": 512}
"""Claims that must be there, and the most characters of each that we have a place for."""
LONGEST_LIFE = timedelta(days=1)
"""No policy of Entra lets an id_token live longer."""
TIMES = ("exp", "iat", "nbf")


class TokenFault(StrEnum):
    """Why a token is refused."""

    MALFORMED = "malformed"
    ALGORITHM = "algorithm"
    UNKNOWN_KEY = "unknown_key"
    SIGNATURE = "signature"
    MISSING_CLAIM = "missing_claim"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    AUDIENCE = "audience"
    ISSUER = "issuer"
    TENANT = "tenant"
    NONCE = "nonce"
    KIND = "kind"
    PERSON = "person"


class TokenRefused(Exception):
    """The token is not believed. The sentence holds nothing of the token but names of claims."""

    def __init__(self, fault: TokenFault, sentence: str) -> None:
        super().__init__(sentence)
        self.fault, self.sentence = fault, sentence


@dataclass(frozen=True)
class Expected:
    """What the token must say. `nonce` is the one this sign-in was begun with."""

    client_id: str
    tenant_id: str
    issuers: frozenset[str]
    nonce: str


def usable_keys(key_set: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    """The RSA signing keys of a key set by their id; anything else in it is left out."""
    found = {}
    for row in key_set.get("keys", ()):
        if not isinstance(row, dict) or row.get("kty") != "RSA" or row.get("use", "sig") != "sig" or not row.get("kid"):
            continue
        try:
            key = jwt.PyJWK(row, algorithm="RS256")
        except jwt.PyJWTError:
            continue
        if key.key.key_size >= SMALLEST_KEY:
            found[str(row["kid"])] = key
    return found


def read_id_token(token: str, keys: Mapping[str, jwt.PyJWK], expected: Expected, now: datetime) -> Mapping[str, Any]:
    """The claims of a token that holds in every respect. Raises `TokenRefused` with the first fault found."""
    claims = _signed_claims(token, keys)
    if str(_header(token).get("typ", "JWT")).upper() != "JWT":
        _refuse(TokenFault.KIND, "the token is not an id_token: its header says that it is of another kind")
    _refuse_missing(claims)
    _refuse_by_time(claims, now)
    audience = claims["aud"]
    if audience not in (expected.client_id, [expected.client_id]) or claims.get("azp", expected.client_id) != expected.client_id:
        _refuse(TokenFault.AUDIENCE, "the token is for another application")
    if claims["tid"].lower() != expected.tenant_id.lower():
        _refuse(TokenFault.TENANT, "the token comes from another tenant")
    if claims["iss"] not in expected.issuers:
        _refuse(TokenFault.ISSUER, "the token comes from another issuer")
    if not hmac.compare_digest(claims["nonce"].encode(), expected.nonce.encode()):
        _refuse(TokenFault.NONCE, "the token was made for another sign-in")
    if claims.get("idtyp") == "app" or "scp" in claims:
        _refuse(TokenFault.KIND, "the token is an access token, not an id_token")
    return claims


def refuse_of_another(access_token: str, keys: Mapping[str, jwt.PyJWK], claims: Mapping[str, Any]) -> None:
    """Raise `TokenRefused` unless the access token is of the same person and tenant as these claims of an id_token.

    What it is for and whether it still lives, Entra itself checks when it is exchanged.
    """
    other = _signed_claims(access_token, keys)
    if (other.get("tid"), other.get("oid")) != (claims["tid"], claims["oid"]):
        _refuse(TokenFault.PERSON, "the access token is of somebody else")


def key_id_of(token: str) -> str:
    """The id of the key the token names. Raises `TokenRefused` when its header is unusable."""
    return str(_header(token)["kid"])


def _signed_claims(token: str, keys: Mapping[str, jwt.PyJWK]) -> dict[str, Any]:
    key = keys.get(key_id_of(token))
    if key is None:
        _refuse(TokenFault.UNKNOWN_KEY, "the token names a key that Entra does not publish")
    unchecked = dict.fromkeys((f"verify_{name}" for name in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")), False)
    try:
        options: Any = {"verify_signature": True, **unchecked}  # the claims are checked below, each with a name for its fault
        claims: dict[str, Any] = jwt.decode(token, key, algorithms=["RS256"], options=options)
    except jwt.InvalidSignatureError:
        _refuse(TokenFault.SIGNATURE, "the signature of the token does not fit")
    except (jwt.PyJWTError, RecursionError):
        _refuse(TokenFault.MALFORMED, "the token is malformed")
    return claims


def _header(token: str) -> Mapping[str, Any]:
    if not isinstance(token, str) or not token or len(token) > LONGEST:
        _refuse(TokenFault.MALFORMED, "the token is missing or too long")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, RecursionError):
        _refuse(TokenFault.MALFORMED, "the token is malformed")
    if header.get("alg") != "RS256":
        _refuse(TokenFault.ALGORITHM, "the token is not signed with RS256")
    if "crit" in header or not isinstance(header.get("kid"), str):
        _refuse(TokenFault.MALFORMED, "the header of the token is not one of Entra's")
    return header


def _refuse_missing(claims: Mapping[str, Any]) -> None:
    for name, longest in TEXTS.items():
        text = claims.get(name)
        if not isinstance(text, str) or not 0 < len(text) <= longest or not text.isprintable():
            _refuse(TokenFault.MISSING_CLAIM, f"the claim {name} is missing or not a text of at most {longest} characters")
    for name in TIMES:
        if type(claims.get(name)) is not int:
            _refuse(TokenFault.MISSING_CLAIM, f"the claim {name} is missing or not a whole number")
    if "aud" not in claims:
        _refuse(TokenFault.MISSING_CLAIM, "the claim aud is missing")


def _refuse_by_time(claims: Mapping[str, Any], now: datetime) -> None:
    moment, skew = now.timestamp(), SKEW.total_seconds()
    if claims["exp"] <= moment - skew:
        _refuse(TokenFault.EXPIRED, "the token has expired; check the clock of this node")
    if claims["nbf"] > moment + skew or claims["iat"] > moment + skew:
        _refuse(TokenFault.NOT_YET_VALID, "the token is not valid yet; check the clock of this node")
    if claims["exp"] > moment + (LONGEST_LIFE + SKEW).total_seconds():
        _refuse(TokenFault.MALFORMED, "the token claims to live longer than any token of Entra")


def _refuse(fault: TokenFault, sentence: str) -> NoReturn:
    raise TokenRefused(fault, sentence)
