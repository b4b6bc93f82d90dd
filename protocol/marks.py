"""Marks: what the Primary signed of how far an environment had come, kept by gateways and shown again (I4).

A number that a gateway says proves nothing about the Primary's database. A mark does: nobody else can make one, so a database
that knows less than a mark says was put back. Pure.
"""

from __future__ import annotations

import base64

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol.messages import Count, Message, MessageError, SignedMark, decode, encode

_CONTEXT = b"mazevault mark v1\n"


class Mark(Message, frozen=True):
    """The epoch of an environment, and a position its change feed had come to in that epoch (0 where only the epoch is told)."""

    environment: str
    epoch: Count
    position: Count = 0

    @property
    def reach(self) -> tuple[int, int]:
        """Marks of one environment by how much they prove: a later epoch says more than any position of an earlier one."""
        return self.epoch, self.position


def sign_mark(mark: Mark, key: Ed25519PrivateKey) -> SignedMark:
    text = encode(mark).decode()
    return SignedMark(text=text, signature=_text_of(key.sign(_CONTEXT + text.encode())), key=public_text(key.public_key()))


def read_mark(signed: SignedMark) -> Mark | None:
    """What it says, whoever signed it; None for what is no mark."""
    try:
        return decode(signed.text.encode(), Mark)
    except (MessageError, UnicodeEncodeError):
        return None


def is_signed(signed: SignedMark) -> bool:
    """Whether the key it names signed it; whose key that is must be known otherwise."""
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(signed.key + "=" * (-len(signed.key) % 4)))
        key.verify(base64.urlsafe_b64decode(signed.signature), _CONTEXT + signed.text.encode())
    except (InvalidSignature, ValueError):
        return False
    return True


def packed(signed: SignedMark) -> str:
    """One text for a database; `unpacked` reads it."""
    return encode(signed).decode()


def unpacked(text: str) -> SignedMark | None:
    try:
        return decode(text.encode(), SignedMark) if text else None
    except (MessageError, msgspec.MsgspecError):
        return None


def public_text(key: Ed25519PublicKey) -> str:
    return _text_of(key.public_bytes_raw()).rstrip("=")


def _text_of(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()
