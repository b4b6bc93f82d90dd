"""Marks the Primary gives with its answers, and those that gateways show it (`protocol.marks`)."""

from __future__ import annotations

from gateways import channel_keys
from gateways.models import PrimaryKeyPair, Route
from protocol.marks import Mark, is_signed, read_mark, sign_mark
from protocol.messages import SignedMark


def mark_of(code: str, epoch: int, position: int = 0) -> SignedMark:
    """To go with an answer that tells this epoch, or changes up to this position."""
    return sign_mark(Mark(environment=code, epoch=epoch, position=position), channel_keys.signing_key())


def mark_at(code: str, position: int) -> SignedMark:
    """To go with a page of changes."""
    return mark_of(code, Route.objects.values_list("epoch", flat=True).get(environment_id=code), position)


def proven(signed: SignedMark | None, code: str, known: Mark) -> Mark | None:
    """The mark when it says more than is known and was signed by this Primary for this environment; else None.

    The signature is looked at only then, which is never in the life of a database that was not put back.
    """
    shown = read_mark(signed) if signed else None
    if signed is None or shown is None or shown.environment != code or shown.reach <= known.reach:
        return None
    ours = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING, public_key=signed.key).exists()
    return shown if ours and is_signed(signed) else None
