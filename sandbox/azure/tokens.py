"""JSON web tokens and the keys that sign them, kept to what Entra does: RS256, a key set, rotation."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from sandbox.azure.certificates import write_private

ID_TOKEN_CHANGES = ("claims", "without", "header", "algorithm", "signer")
"""How a spoiled id_token may differ: other claims, missing claims, other header, `none` or `HS256`, signed by a `stranger`."""


class BadToken(Exception):
    """The text is no token, or none that these keys signed. The sentence says why."""


@dataclass(frozen=True)
class SigningKey:
    """One RSA key. `kid` is derived from the public key, so it stays the same over restarts."""

    private: rsa.RSAPrivateKey

    @property
    def kid(self) -> str:
        return _encode(hashlib.sha256(self.public_pem()).digest()[:20])

    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def jwk(self) -> dict[str, str]:
        numbers = self.private.public_key().public_numbers()
        return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid, "x5t": self.kid,
                "n": _encode(_number(numbers.n)), "e": _encode(_number(numbers.e))}  # fmt: skip


class SigningKeys:
    """The published keys; the first one signs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys = [_load(path)]

    @property
    def current(self) -> SigningKey:
        return self._keys[0]

    def rotate(self, *, keep_old: bool = True) -> None:
        """Sign with a new key from now on; the old one stays published unless told otherwise."""
        self._keys = [new_key(), *(self._keys if keep_old else [])]
        _save(self._path, self.current)

    def key_set(self) -> dict[str, list[dict[str, str]]]:
        return {"keys": [key.jwk() for key in self._keys]}

    def sign(self, claims: Mapping[str, Any]) -> str:
        return signed({"typ": "JWT", "alg": "RS256", "kid": self.current.kid}, claims, self.current)

    def read(self, token: str) -> dict[str, Any]:
        """The claims of a token signed by one of these keys. Raises `BadToken`; times and audience are the caller's to check."""
        header, claims, signature, text = parted(token)
        key = next((key for key in self._keys if key.kid == header.get("kid")), None)
        if header.get("alg") != "RS256" or key is None:
            raise BadToken("The key was not found.")
        try:
            key.private.public_key().verify(signature, text, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature as error:
            raise BadToken("The signature does not fit.") from error
        return claims


def new_key() -> SigningKey:
    return SigningKey(rsa.generate_private_key(public_exponent=65537, key_size=2048))


def signed(header: Mapping[str, Any], claims: Mapping[str, Any], key: SigningKey) -> str:
    """A token by the algorithm its header names: RS256, HS256 with the public key as secret, or none."""
    text = f"{_encode_json(header)}.{_encode_json(claims)}"
    if header.get("alg") == "none":
        return f"{text}."
    if header.get("alg") == "HS256":
        return f"{text}.{_encode(hmac.digest(key.public_pem(), text.encode(), 'sha256'))}"
    return f"{text}.{_encode(key.private.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def spoiled(keys: SigningKeys, claims: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    """An id_token with something wrong in it, as `changes` says (see ID_TOKEN_CHANGES)."""
    missing = changes.get("without", ())
    kept = {name: value for name, value in {**claims, **changes.get("claims", {})}.items() if name not in missing}
    key = new_key() if changes.get("signer") == "stranger" else keys.current
    header = {"typ": "JWT", "alg": changes.get("algorithm", "RS256"), "kid": keys.current.kid, **changes.get("header", {})}
    return signed({name: value for name, value in header.items() if value is not None}, kept, key)


def parted(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    """Header, claims, signature and the signed text, nothing verified. Raises `BadToken`."""
    pieces = token.split(".")
    if len(pieces) != 3:
        raise BadToken("The token is malformed.")
    try:
        header, claims = (json.loads(_decode(piece)) for piece in pieces[:2])
        signature = _decode(pieces[2])
    except ValueError as error:
        raise BadToken("The token is malformed.") from error
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise BadToken("The token is malformed.")
    return header, claims, signature, f"{pieces[0]}.{pieces[1]}".encode()


def challenge_of(verifier: str) -> str:
    """The S256 challenge of a PKCE verifier."""
    return _encode(hashlib.sha256(verifier.encode()).digest())


def client_info(oid: str, tenant: str) -> str:
    return _encode_json({"uid": oid, "utid": tenant})


def _load(path: Path) -> SigningKey:
    try:
        private = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError):
        private = None
    if isinstance(private, rsa.RSAPrivateKey):
        return SigningKey(private)
    made = new_key()
    _save(path, made)
    return made


def _save(path: Path, key: SigningKey) -> None:
    pem = serialization.Encoding.PEM
    write_private(path, key.private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _encode_json(value: Mapping[str, Any]) -> str:
    return _encode(json.dumps(value, separators=(",", ":")).encode())


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _number(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")
