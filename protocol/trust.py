"""The set of roots a Primary stands under, as a signed statement: so a gateway learns the next root under the present one.

A gateway begins with the one pin of its bootstrap token. Whoever signs under a root it trusts tells it the pins of all roots that
are trusted now; the set has a revision, so that an old statement brings no root back.
"""

from __future__ import annotations

import base64
import binascii

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Struct

from protocol.certificates import pin_of
from protocol.decoding import decode_json

MOST_ROOTS = 8
"""Three live at once at most when they renew themselves; each change by hand adds one."""
_CONTEXT = b"mazevault root set v1|"


class RootSetRefused(ValueError):
    """The statement about the roots is not the Primary's, or does not fit the certificates shown with it."""


class RootSet(Struct, frozen=True, forbid_unknown_fields=True):
    """`pins` of all roots that are trusted. The set with the higher revision is the newer one."""

    revision: int
    pins: list[str]


class _Signed(Struct, frozen=True, forbid_unknown_fields=True):
    body: str
    signature: str


def sign_root_set(roots: RootSet, signer: Ed25519PrivateKey) -> str:
    body = msgspec.json.encode(roots)
    signature = signer.sign(_CONTEXT + body)
    return msgspec.json.encode(_Signed(_text(body), _text(signature))).decode()


def open_root_set(text: str, signing_key: Ed25519PublicKey) -> RootSet:
    """The statement, or `RootSetRefused`."""
    try:
        signed = decode_json(text, _Signed)
        body = _bytes(signed.body)
        signing_key.verify(_bytes(signed.signature), _CONTEXT + body)
        found = decode_json(body, RootSet)
    except (InvalidSignature, msgspec.DecodeError, ValueError) as error:
        raise RootSetRefused("the list of roots is not signed by the Primary") from error
    if not 1 <= len(found.pins) <= MOST_ROOTS:
        raise RootSetRefused(f"a Primary stands under 1 to {MOST_ROOTS} roots")
    return found


def pins_of(roots: str) -> tuple[str, ...]:
    """The pins of the certificates in a PEM text; none for an empty one. Raises `ValueError` for what is no certificate."""
    return tuple(pin_of(one.public_bytes(Encoding.DER)) for one in certificates_in(roots))


def certificates_in(roots: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(roots.encode()) if roots.strip() else []


def chosen(roots: str, pins: list[str] | tuple[str, ...]) -> str:
    """Those certificates of a PEM text that have one of these pins, as PEM in their order."""
    found = certificates_in(roots)
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in found if pin_of(one.public_bytes(Encoding.DER)) in pins)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error
