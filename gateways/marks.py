"""Marks the Primary gives with its answers, and those that gateways show it (`protocol.marks`)."""

from __future__ import annotations

from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateways import channel_keys
from gateways.models import PrimaryKeyPair, Route
from protocol.marks import Mark, is_signed, read_mark, sign_mark
from protocol.messages import SignedMark


@lru_cache(maxsize=256)
def signed_mark(code: str, epoch: int, position: int, key: Ed25519PrivateKey) -> SignedMark:
    """To go with an answer that tells this epoch, or changes up to this position. The same words get the same signature."""
    return sign_mark(Mark(environment=code, epoch=epoch, position=position), key)


def mark_of(code: str, epoch: int, position: int = 0) -> SignedMark:
    """The same with the key of now."""
    return signed_mark(code, epoch, position, channel_keys.signing_key())


def mark_at(code: str, position: int) -> SignedMark:
    """To go with a page of changes."""
    epoch = Route.objects.values_list("epoch", flat=True).get(environment_id=code)
    return mark_of(code, epoch, position)


def shown_beyond(signed: SignedMark | None, code: str, known: Mark) -> Mark | None:
    """What a mark for this environment says, when that is more than is known. It is not proven yet. Pure."""
    shown = read_mark(signed) if signed else None
    return shown if shown is not None and shown.environment == code and shown.reach > known.reach else None


def proven(signed: SignedMark | None, code: str, known: Mark) -> Mark | None:
    """The mark when it says more than is known and was signed by this Primary for this environment; else None.

    The signature is looked at only then, which is never in the life of a database that was not put back.
    """
    shown = shown_beyond(signed, code, known)
    if signed is None or shown is None:
        return None
    ours = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING, public_key=signed.key).exists()
    return shown if ours and is_signed(signed) else None
