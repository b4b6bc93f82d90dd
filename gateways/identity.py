"""The Primary's own channel identity: a signing key certified under our root, and recipient keys that rotate.

A gateway trusts one pin (the root); from it follow the listener, the signing certificate and the list of recipient keys.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.db import transaction
from django.db.models import Max

from common.clock import now as clock_now
from common.locks import transaction_lock
from common.sealing import Place
from gateways.models import PrimaryKeyPair, PrimaryNode
from protocol.envelope import RecipientKey, encode_public_key, key_id, sign_recipients
from vault import authorities
from vault.encryption import open_sealed, seal
from vault.profiles import PRIMARY_CHANNEL

RECIPIENT_LIFE = timedelta(hours=48)
"""A recipient key opens messages this long; after it the private half is destroyed (reliability §6)."""
RECIPIENT_ROTATION = timedelta(hours=24)
"""A new recipient key is made this often, so two overlap."""
SIGNING_LIFE = timedelta(days=365)
SIGNING_OVERLAP = timedelta(days=30)
"""The next signing key is made and published so long before the current one ends. Gateways look at the trust document at least
whenever a recipient key ends, so each of them knows it by then."""
SIGNING_MARGIN = timedelta(hours=1)
"""The current one is left so long before it ends: clocks differ."""
TABLE = "gateways_primarykeypair"


@dataclass(frozen=True)
class TrustDocument:
    """What an unenrolled gateway fetches to check the Primary against its pin."""

    root: str
    intermediates: str
    channel_certificate: str
    next_channel_certificate: str
    """Empty while there is none."""
    recipients: str


def ensure_keys(now: datetime | None = None) -> None:
    """Create the signing key and a fresh recipient key where they are due; destroy what expired. Safe to repeat and to race."""
    moment = now or clock_now()
    with transaction.atomic():
        transaction_lock("primary-channel-keys")
        if not PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING, not_after__gt=moment + SIGNING_OVERLAP).exists():
            _create_signing_key(moment)
        newest = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT).aggregate(at=Max("not_after"))["at"]
        if newest is None or newest - moment < RECIPIENT_LIFE - RECIPIENT_ROTATION:
            _create_recipient_key(moment)
        PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT, not_after__lt=moment).delete()


def trust_document() -> TrustDocument:
    """Root, platform intermediate, channel certificates and the signed list of recipient keys."""
    signing, *later = _signing_rows(clock_now())
    rows = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT).order_by("-not_after")
    keys = [RecipientKey(kid=row.kid, public_key=row.public_key, not_after=row.not_after) for row in rows]
    return TrustDocument(
        root=authorities.root_certificate(),
        intermediates=authorities.chain("platform"),
        channel_certificate=signing.certificate,
        next_channel_certificate=later[0].certificate if later else "",
        recipients=sign_recipients(keys, _private(signing)),
    )


def signing_key() -> Ed25519PrivateKey:
    """The key that signs what the Primary says to gateways."""
    return _private(_signing_rows(clock_now())[0])


def recipient_key(kid: str) -> X25519PrivateKey | None:
    """The private key behind `kid`, or None when it is unknown or destroyed."""
    row = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT, kid=kid).first()
    return X25519PrivateKey.from_private_bytes(_unsealed(row)) if row else None


def place(row: PrimaryKeyPair) -> Place:
    """What the private half is sealed for."""
    return "platform", TABLE, str(row.id), 1


def primary_generation() -> uuid.UUID:
    return PrimaryNode.objects.get(id=1).generation


def _create_signing_key(moment: datetime) -> None:
    key = Ed25519PrivateKey.generate()
    issued = authorities.issue(
        PRIMARY_CHANNEL, "platform", common_name="primary-channel", sans=(), public_key=key.public_key(), now=moment
    )
    _store(PrimaryKeyPair.SIGNING, key.public_key(), key.private_bytes_raw(), issued.not_after, issued.pem)


def _create_recipient_key(moment: datetime) -> None:
    key = X25519PrivateKey.generate()
    _store(PrimaryKeyPair.RECIPIENT, key.public_key(), key.private_bytes_raw(), moment + RECIPIENT_LIFE)


def _store(purpose: str, public, private: bytes, not_after: datetime, certificate: str = "") -> None:  # type: ignore[no-untyped-def]
    identifier = uuid.uuid4()
    PrimaryKeyPair.objects.create(
        id=identifier,
        purpose=purpose,
        kid=key_id(public),
        public_key=encode_public_key(public),
        sealed_private_key=seal("platform", TABLE, str(identifier), 1, private),
        certificate=certificate,
        not_after=not_after,
    )


def _signing_rows(now: datetime) -> list[PrimaryKeyPair]:
    """The signing key in use and those that follow it; the last one when all have ended."""
    rows = list(PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING).order_by("not_after"))
    return [row for row in rows if row.not_after > now + SIGNING_MARGIN] or rows[-1:]


def _private(row: PrimaryKeyPair) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(_unsealed(row))


def _unsealed(row: PrimaryKeyPair) -> bytes:
    return open_sealed(*place(row), bytes(row.sealed_private_key))
