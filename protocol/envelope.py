"""The sealed, signed envelope of the machine channel (DESIGN §6, reliability §6).

HPKE (RFC 9180, base mode, `cryptography`'s own) hides the payload; an Ed25519 signature over header and ciphertext proves the
sender, which base mode does not. There is no canonical form: the exact header bytes travel, are signed, and are hashed into
HPKE's `info`, so nothing is ever serialised twice. Replay is the receiver's business; `message_id` and `sequence` serve it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, NoReturn

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from msgspec import Meta, Struct

from protocol.decoding import decode_json
from protocol.sizes import MAX_WIRE_BYTES as MAX_WIRE_BYTES

CONTENT_TYPE = "application/mzv-envelope+json"
VERSION = "mzv-e2ee/2"
"""The first version named no instance; a message without one cannot be told from a copy's and is refused."""
SUITE = "X25519/HKDF-SHA256/AES-256-GCM"
SUITES = {SUITE: Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)}
"""The suite is named in the header, so that a post-quantum hybrid can be one more line here."""
SESSION_SUITE = "SESSION/HKDF-SHA256/AES-256-GCM-SIV"
"""Of a message in a session: no signature and no key exchange of its own (`protocol.channel_sessions`)."""
WINDOW_SECONDS = 300
"""A message older or newer than this is refused; inside it the receiver's receipts find replays."""
KEYS_REMEMBERED = 16384
"""Public keys of others that were decoded and checked, about 1 kB each: more than the gateways of one Primary."""
_SIGNATURE_CONTEXT = b"mazevault envelope v1\0"
_RECIPIENTS_CONTEXT = b"mazevault recipients v1\0"

ShortText = Annotated[str, Meta(max_length=200)]
Number = Annotated[int, Meta(ge=0, le=2**62)]
Identifier = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")]


class EnvelopeRefusal(StrEnum):
    """Why, for logs only; the other side learns one constant sentence."""

    MALFORMED = "malformed"
    UNKNOWN_SUITE = "unknown_suite"
    BAD_SIGNATURE = "bad_signature"
    WRONG_SENDER = "wrong_sender"
    WRONG_CERTIFICATE = "wrong_certificate"
    WRONG_RECIPIENT = "wrong_recipient"
    WRONG_ENVIRONMENT = "wrong_environment"
    WRONG_GENERATION = "wrong_generation"
    WRONG_INSTANCE = "wrong_instance"
    WRONG_DIRECTION = "wrong_direction"
    WRONG_REQUEST = "wrong_request"
    OUTSIDE_WINDOW = "outside_window"
    STALE_EPOCH = "stale_epoch"
    NOT_DECRYPTED = "not_decrypted"


class EnvelopeRefused(Exception):
    """The message is not accepted. The text is the same for every reason, so that it teaches an attacker nothing."""

    def __init__(self, reason: EnvelopeRefusal) -> None:
        super().__init__("the sealed message was not accepted")
        self.reason = reason


class Header(Struct, frozen=True, forbid_unknown_fields=True):
    """Authenticated, readable facts about a message. `issued_at` is in unix seconds.

    `instance` names the running process that speaks: made at its start and kept nowhere, so a copy of a machine that is started
    is another one. An answer repeats the instance that asked.
    """

    suite: ShortText
    direction: ShortText
    sender: ShortText
    certificate: ShortText
    recipient: ShortText
    environment: ShortText
    epoch: Number
    generation: ShortText
    instance: Identifier
    message_id: Identifier
    sequence: Number
    method: ShortText
    path: ShortText
    request_hash: ShortText
    issued_at: Number
    version: ShortText = VERSION


class _Wire(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A message has a signature, or belongs to a session (`protocol.channel_sessions`)."""

    header: str
    ciphertext: str
    signature: str = ""
    session: str = ""


@dataclass(frozen=True)
class Parcel:
    """A parsed message. Nothing in it is trusted before `verify` (or its session has opened it) and `check_binding`.

    `session` is the text that opened the session it belongs to; empty for one that is signed, and in answers.
    """

    header: Header
    header_bytes: bytes
    ciphertext: bytes
    signature: bytes
    session: str = ""

    @property
    def is_in_session(self) -> bool:
        return self.header.suite == SESSION_SUITE


@dataclass(frozen=True)
class Expectation:
    """What the receiver knows by itself and the header must repeat. `now` and `window` are in seconds."""

    direction: str
    sender: str
    certificate: str
    recipient: str
    environment: str
    generation: str
    instance: str
    method: str
    path: str
    request_hash: str
    now: int
    window: int = WINDOW_SECONDS
    min_epoch: int | None = None


def seal(header: Header, payload: bytes, recipient: X25519PublicKey, signer: Ed25519PrivateKey) -> bytes:
    """Encrypt for the recipient, then sign header and ciphertext. Returns the bytes that travel."""
    header_bytes = msgspec.json.encode(header)
    ciphertext = SUITES[header.suite].encrypt(payload, recipient, info=_info(header_bytes))
    signature = signer.sign(_signed(header_bytes, ciphertext))
    return packed(header_bytes, ciphertext, signature=signature)


def packed(header_bytes: bytes, ciphertext: bytes, *, signature: bytes = b"", session: str = "") -> bytes:
    """The bytes that travel."""
    return msgspec.json.encode(
        _Wire(header=_encoded(header_bytes), ciphertext=_encoded(ciphertext), signature=_encoded(signature), session=session)
    )


def parse(wire: bytes) -> Parcel:
    """Take a message apart, strictly. Raises `EnvelopeRefused`."""
    if len(wire) > MAX_WIRE_BYTES:
        _refuse(EnvelopeRefusal.MALFORMED)
    try:
        outer = decode_json(wire, _Wire)
        header_bytes = _decoded(outer.header)
        header = decode_json(header_bytes, Header)
        ciphertext, signature = _decoded(outer.ciphertext), _decoded(outer.signature)
    except (msgspec.DecodeError, ValueError, RecursionError):
        _refuse(EnvelopeRefusal.MALFORMED)
    if header.version != VERSION or (header.suite not in SUITES and header.suite != SESSION_SUITE):
        _refuse(EnvelopeRefusal.UNKNOWN_SUITE)
    parcel = Parcel(header, header_bytes, ciphertext, signature, outer.session)
    if signature if parcel.is_in_session else outer.session:
        _refuse(EnvelopeRefusal.MALFORMED)
    return parcel


def verify(parcel: Parcel, signing_key: Ed25519PublicKey) -> None:
    """Check that the holder of this key made this header and this ciphertext. Raises `EnvelopeRefused`."""
    if parcel.is_in_session:
        _refuse(EnvelopeRefusal.BAD_SIGNATURE)
    try:
        signing_key.verify(parcel.signature, _signed(parcel.header_bytes, parcel.ciphertext))
    except InvalidSignature:
        _refuse(EnvelopeRefusal.BAD_SIGNATURE)


def check_binding(header: Header, expected: Expectation) -> None:
    """Check that the message was made for this place, this request and this time. Raises `EnvelopeRefused`."""
    rules = (
        (header.direction == expected.direction, EnvelopeRefusal.WRONG_DIRECTION),
        (bool(expected.sender) and header.sender == expected.sender, EnvelopeRefusal.WRONG_SENDER),
        (header.certificate == expected.certificate, EnvelopeRefusal.WRONG_CERTIFICATE),
        (header.recipient == expected.recipient, EnvelopeRefusal.WRONG_RECIPIENT),
        (header.environment == expected.environment, EnvelopeRefusal.WRONG_ENVIRONMENT),
        (header.generation == expected.generation, EnvelopeRefusal.WRONG_GENERATION),
        (header.instance == expected.instance, EnvelopeRefusal.WRONG_INSTANCE),
        (header.method == expected.method and header.path == expected.path, EnvelopeRefusal.WRONG_REQUEST),
        (header.request_hash == expected.request_hash, EnvelopeRefusal.WRONG_REQUEST),
        (abs(header.issued_at - expected.now) <= expected.window, EnvelopeRefusal.OUTSIDE_WINDOW),
        (expected.min_epoch is None or header.epoch >= expected.min_epoch, EnvelopeRefusal.STALE_EPOCH),
    )
    for holds, reason in rules:
        if not holds:
            _refuse(reason)


def open_parcel(parcel: Parcel, recipient_key: X25519PrivateKey) -> bytes:
    """Decrypt the payload of a signed message. Raises `EnvelopeRefused`."""
    if parcel.is_in_session:
        _refuse(EnvelopeRefusal.NOT_DECRYPTED)
    try:
        return SUITES[parcel.header.suite].decrypt(parcel.ciphertext, recipient_key, info=_info(parcel.header_bytes))
    except (InvalidTag, ValueError):
        _refuse(EnvelopeRefusal.NOT_DECRYPTED)


def answer_header(
    request: Header, *, recipient_key: str, environment: str, epoch: int, request_hash: str, issued_at: int,
    message_id: str, suite: str = SUITE,
) -> Header:  # fmt: skip
    """The header of the Primary's answer to a request, bound to that very request."""
    return Header(
        suite=suite,
        direction="down",
        sender="primary",
        certificate="",
        recipient=encryption_key_id(recipient_key),
        environment=environment,
        epoch=epoch,
        generation=request.generation,
        instance=request.instance,
        message_id=message_id,
        sequence=request.sequence,
        method=request.method,
        path=request.path,
        request_hash=request_hash,
        issued_at=issued_at,
    )


def request_hash(wire: bytes) -> str:
    """What an answer repeats to prove which request it answers (base64url of SHA-256)."""
    return _encoded(hashlib.sha256(wire).digest())


def thumbprint_of_fingerprint(fingerprint: str) -> str:
    """A hex SHA-256 fingerprint as the `x5t#S256` of RFC 8705."""
    return _encoded(bytes.fromhex(fingerprint))


def key_id(key: X25519PublicKey | Ed25519PublicKey) -> str:
    """Short name of a public key: base64url of the first 16 bytes of its SHA-256."""
    return _encoded(hashlib.sha256(key.public_bytes_raw()).digest()[:16])


def encode_public_key(key: X25519PublicKey | Ed25519PublicKey) -> str:
    return _encoded(key.public_bytes_raw())


@lru_cache(maxsize=KEYS_REMEMBERED)
def decode_encryption_key(text: str) -> X25519PublicKey:
    """Raises `ValueError` for anything but 32 bytes in base64url, and for points of small order."""
    key = X25519PublicKey.from_public_bytes(_raw_key(text))
    try:
        X25519PrivateKey.generate().exchange(key)
    except ValueError as error:
        raise ValueError("the key is no usable X25519 key") from error
    return key


@lru_cache(maxsize=KEYS_REMEMBERED)
def encryption_key_id(text: str) -> str:
    """`key_id` of a public key as it is written in a registration."""
    return key_id(decode_encryption_key(text))


@lru_cache(maxsize=KEYS_REMEMBERED)
def decode_signing_key(text: str) -> Ed25519PublicKey:
    """Raises `ValueError` for anything but 32 bytes in base64url."""
    return Ed25519PublicKey.from_public_bytes(_raw_key(text))


class RecipientKey(Struct, frozen=True, forbid_unknown_fields=True):
    """One of the Primary's current recipient keys."""

    kid: str
    public_key: str
    not_after: datetime
    suite: str = SUITE


class _Recipients(Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[RecipientKey]


class _SignedRecipients(Struct, frozen=True, forbid_unknown_fields=True):
    body: str
    signature: str


def sign_recipients(keys: list[RecipientKey], signer: Ed25519PrivateKey) -> str:
    """The list of recipient keys as a signed text, newest first."""
    body = msgspec.json.encode(_Recipients(keys=keys))
    signature = signer.sign(_RECIPIENTS_CONTEXT + body)
    return msgspec.json.encode(_SignedRecipients(body=_encoded(body), signature=_encoded(signature))).decode()


def open_recipients(text: str, signing_key: Ed25519PublicKey, now: datetime) -> tuple[RecipientKey, ...]:
    """The keys that are still good, in order. Raises `EnvelopeRefused` for a foreign list or one without a good key."""
    try:
        signed = decode_json(text, _SignedRecipients)
        body = _decoded(signed.body)
        signing_key.verify(_decoded(signed.signature), _RECIPIENTS_CONTEXT + body)
        keys = decode_json(body, _Recipients).keys
    except InvalidSignature:
        _refuse(EnvelopeRefusal.BAD_SIGNATURE)
    except (msgspec.DecodeError, ValueError):
        _refuse(EnvelopeRefusal.MALFORMED)
    good = tuple(key for key in keys if key.suite in SUITES and key.not_after.astimezone(UTC) > now)
    if not good:
        _refuse(EnvelopeRefusal.WRONG_RECIPIENT)
    return good


def _info(header_bytes: bytes) -> bytes:
    return hashlib.sha256(header_bytes).digest()


def _signed(header_bytes: bytes, ciphertext: bytes) -> bytes:
    return _SIGNATURE_CONTEXT + hashlib.sha256(header_bytes).digest() + hashlib.sha256(ciphertext).digest()


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    """Strict base64url without padding: one text for one value."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error
    if _encoded(raw) != text:
        raise ValueError("not the one base64url text of its value")
    return raw


def _raw_key(text: str) -> bytes:
    raw = _decoded(text)
    if len(raw) != 32:
        raise ValueError("a raw public key has 32 bytes")
    return raw


def _refuse(reason: EnvelopeRefusal) -> NoReturn:
    raise EnvelopeRefused(reason)
