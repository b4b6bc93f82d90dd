"""The bootstrap token: one opaque text that is the whole package a new gateway needs (DESIGN §6)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

PREFIX = "mzvb1."
LONGEST = 2048
PIN_RULE = re.compile(r"^sha256:[0-9a-f]{64}\Z")
SECRET_RULE = re.compile(r"^[A-Za-z0-9_-]{40,200}\Z")
URL_RULE = re.compile(r"^https://[^\s/?#@]+\Z")


class BootstrapTokenError(ValueError):
    """The text is no bootstrap token; the sentence says what is wrong with it and never repeats it."""


@dataclass(frozen=True)
class BootstrapToken:
    """Id, secret, where the Primary is, which root it must show, and until when."""

    id: str
    secret: str = field(repr=False)
    urls: tuple[str, ...]
    pin: str
    expires_at: datetime

    def pack(self) -> str:
        """The text to hand over, under 2 KiB. Raises `BootstrapTokenError` when the addresses make it longer."""
        body = {
            "id": self.id,
            "secret": self.secret,
            "urls": list(self.urls),
            "pin": self.pin,
            "expires": int(self.expires_at.timestamp()),
        }
        text = PREFIX + base64.urlsafe_b64encode(json.dumps(body, separators=(",", ":")).encode()).rstrip(b"=").decode()
        if len(text) >= LONGEST:
            raise BootstrapTokenError(f"the token would be {len(text)} characters long; use fewer or shorter addresses")
        return text


def unpack(text: str) -> BootstrapToken:
    """Read a token. Raises `BootstrapTokenError` with a sentence for anything else; the secret is not checked here."""
    cleaned = text.strip()
    if not cleaned:
        raise BootstrapTokenError("it is empty")
    if len(cleaned) >= LONGEST:
        raise BootstrapTokenError(f"it is longer than {LONGEST} characters, so it is no bootstrap token")
    if not cleaned.startswith(PREFIX):
        raise BootstrapTokenError(f"it does not start with {PREFIX}; copy the value of the field token unchanged")
    body = _body(cleaned.removeprefix(PREFIX))
    try:
        return _checked(body)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, BootstrapTokenError):
            raise
        raise BootstrapTokenError("it is damaged: a part is missing or of the wrong kind") from error


def hash_secret(secret: str) -> str:
    """What is stored of a secret: SHA-256 in hex. The secret has 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def same_hash(one: str, other: str) -> bool:
    """Compare two hashes without telling by time where they differ."""
    return hmac.compare_digest(one, other)


def _body(encoded: str) -> dict[str, object]:
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        body = json.loads(raw)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise BootstrapTokenError("it is cut off or changed; copy the value of the field token unchanged") from error
    if not isinstance(body, dict):
        raise BootstrapTokenError("it is damaged: it holds no package")
    return body


def _checked(body: dict[str, object]) -> BootstrapToken:
    urls, secret, pin, expires = body["urls"], body["secret"], body["pin"], body["expires"]
    if not isinstance(urls, list) or not urls or not all(isinstance(url, str) and URL_RULE.match(url) for url in urls):
        raise BootstrapTokenError("its addresses must start with https://")
    if not (isinstance(secret, str) and SECRET_RULE.match(secret) and isinstance(pin, str) and PIN_RULE.match(pin)):
        raise BootstrapTokenError("it is damaged: its secret or its pin is not readable")
    if type(expires) is not int:
        raise BootstrapTokenError("it is damaged: its expiry is not readable")
    return BootstrapToken(
        id=str(uuid.UUID(str(body["id"]))),
        secret=secret,
        urls=tuple(urls),
        pin=pin,
        expires_at=datetime.fromtimestamp(expires, UTC),
    )
