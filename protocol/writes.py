"""A queued write: what is signed, how its body is bound to it, how both are checked (DESIGN §9, reliability §5).

The head is signed by the gateway and names a keyed digest of the body. So the body can be stored under any key and sealed to
the Primary again and again, while nobody can change it or move it under another head. The exact texts travel; nothing is ever
serialised twice.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import Annotated, Any, ClassVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta

from protocol.decoding import decode_json
from protocol.messages import Count, Identifier, Message, Seconds, SignedMark, Text, decode, encode
from protocol.vocabulary import WriteOperation, WriteOutcome

LARGEST_VALUE = 64 * 1024
"""Bytes of a value in UTF-8 (client-api B.3)."""
LONGEST_IDEMPOTENCY_KEY = 200
IdempotencyKey = Annotated[str, Meta(max_length=LONGEST_IDEMPOTENCY_KEY, pattern=r"^[^\x00]*\Z")]
_CONTEXT = b"mazevault queued write v1\0"
_SALT_BYTES = 32


class WriteForged(ValueError):
    """The signature or the digest does not fit: the write was not made by this gateway as it stands."""


class QueuedWrite(Message, frozen=True):
    """One write of a gateway. `head` and `body` are the exact texts that were signed (see `sign`)."""

    hidden: ClassVar[frozenset[str]] = frozenset({"body", "salt"})

    head: Annotated[str, Meta(max_length=8192)]
    body: Annotated[str, Meta(max_length=600_000)]
    salt: Annotated[str, Meta(max_length=64)]
    signature: Annotated[str, Meta(max_length=128)]
    promised: bool
    """The caller was told that the write is queued. False while the caller still waits: then a conflict may be refused."""


class WriteBatch(Message, frozen=True):
    """Writes in the order of their sequence numbers, and ids whose outcome is asked for without sending them again."""

    writes: Annotated[list[QueuedWrite], Meta(max_length=100)] = []
    ask: Annotated[list[Identifier], Meta(max_length=500)] = []
    apply_now: bool = False
    """Apply before answering, because a caller waits."""
    mark: SignedMark | None = None
    """As in a heartbeat: a write of an epoch that the Primary's database does not know comes with the proof that it did."""


class WriteReceipt(Message, frozen=True, omit_defaults=True):
    """Where one write is. `version` is what the secret became, 0 for none; `code` is a machine code of a refusal.

    `secret` is told of a duplicate only: the secret that the same request was answered with when it was first made.
    """

    id: Identifier
    outcome: WriteOutcome
    version: Count = 0
    code: str = ""
    detail: Text = ""
    secret: str = ""


class WriteReceipts(Message, frozen=True):
    receipts: list[WriteReceipt]
    retry_after_seconds: Seconds = 0


class WriteHead(Message, frozen=True, omit_defaults=True):
    """Everything about a write but its content; this is what the gateway signs."""

    id: Identifier
    environment: str
    gateway: Identifier
    generation: Identifier
    epoch: Count
    sequence: Annotated[int, Meta(ge=1, le=2**62)]
    previous: str
    """Id of the earlier write of this stream to the same secret; empty for none."""
    operation: WriteOperation
    secret: Identifier
    project: Identifier
    project_environment: Identifier
    key: Annotated[str, Meta(max_length=255)]
    base_version: int | None
    """The Primary's version this write was made on; None when it was made on `previous`, or on whatever is there."""
    actor: Annotated[str, Meta(max_length=64)]
    accepted_at: str
    body_digest: Annotated[str, Meta(max_length=64)]
    idempotency_key: IdempotencyKey = ""
    """The caller's own name of the request: with the actor it is known at every node, over every failover."""


class WriteBody(Message, frozen=True, omit_defaults=True):
    """The content. A field that is None is not changed."""

    hidden: ClassVar[frozenset[str]] = frozenset({"value", "metadata", "description", "rotation", "request", "value_hash"})

    value: str | None = None
    ttl_hours: int | None = None
    metadata: dict[str, str] | None = None
    type: str | None = None
    description: str | None = None
    tags: list[str] | None = None
    rotation: dict[str, Any] | None = None
    rollback_to: int | None = None
    reason: str = ""
    external_version: str | None = None
    """Where the value rests in a vault: the vault's own name of the version that was set there."""
    value_hash: Annotated[str, Meta(max_length=64)] = ""
    """SHA-256 of the value that was set in a vault, to know it again by (`vault.marks`). It travels and rests sealed only."""
    request: Annotated[str, Meta(max_length=64)] = ""
    """The fingerprint of what the caller asked for, beside an idempotency key. Unkeyed, so it travels and rests sealed only."""


class WriteCheck(Message, frozen=True, omit_defaults=True):
    """Would this change be made now, and was it made before? Asked before a vault hears of it; a refusal is the answer's error.
    Without the value."""

    hidden: ClassVar[frozenset[str]] = WriteBody.hidden

    epoch: Count
    operation: WriteOperation
    secret: Identifier
    project: Identifier
    project_environment: Identifier
    key: Annotated[str, Meta(max_length=255, pattern=r"^[^\x00]*\Z")]
    base_version: Count | None
    actor: Annotated[str, Meta(max_length=64)]
    body: WriteBody
    idempotency_key: IdempotencyKey = ""


class WriteKnown(Message, frozen=True, omit_defaults=True):
    """The answer to a check: nothing for a new request, else what the same one was answered with when it was first made."""

    secret: str = ""
    version: Count = 0
    detail: str = ""
    """Of a Primary that does not know of repeated requests."""


def body_text(body: WriteBody) -> str:
    """The body as it is stored, digested and sent."""
    return encode(body).decode()


def new_salt() -> str:
    """The key of one write's body digest; it is stored and sent with the body, never with the head."""
    return base64.urlsafe_b64encode(secrets.token_bytes(_SALT_BYTES)).decode()


def body_digest(text: str, salt: str) -> str:
    """HMAC-SHA256 (hex) of the body's text, so that the head tells nothing of the value."""
    return hmac.new(salt.encode(), text.encode(), hashlib.sha256).hexdigest()


def sign(head: WriteHead, key: Ed25519PrivateKey) -> tuple[str, str]:
    """(text of the head, signature over it)."""
    text = encode(head).decode()
    return text, base64.urlsafe_b64encode(key.sign(_CONTEXT + text.encode())).decode()


def check(write: QueuedWrite, key: Ed25519PublicKey) -> tuple[WriteHead, WriteBody]:
    """The verified content. Raises `WriteForged`, or `MessageError` when a signed text does not fit its form."""
    head = decode(write.head.encode(), WriteHead)
    return head, proven_body(write, head, key)


def proven_body(write: QueuedWrite, head: WriteHead, key: Ed25519PublicKey) -> WriteBody:
    """The content of a write whose head was decoded already, verified; raises as `check`."""
    try:
        key.verify(base64.b64decode(write.signature, altchars=b"-_", validate=True), _CONTEXT + write.head.encode())
    except (InvalidSignature, binascii.Error, ValueError) as error:
        raise WriteForged("the signature of the write does not fit") from error
    if not hmac.compare_digest(head.body_digest, body_digest(write.body, write.salt)):
        raise WriteForged("the body of the write is not the one that was signed")
    return decode(write.body.encode(), WriteBody)


def head_of(text: str) -> WriteHead:
    """A head whose signature was checked before, from its text."""
    return decode_json(text, WriteHead)
