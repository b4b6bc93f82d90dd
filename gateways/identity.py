"""The Primary's own channel identity: a signing key certified under our root, and recipient keys that rotate.

A gateway trusts one pin (the root); from it follow the listener, the signing certificate and the list of recipient keys.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from django.db import transaction
from django.db.models import Max

from common import audit
from common.clock import now as clock_now
from common.errors import Unavailable
from common.locks import transaction_lock
from common.sealing import Place
from gateways.models import PrimaryKeyPair, PrimaryNode
from protocol.envelope import RecipientKey, encode_public_key, key_id, sign_recipients
from protocol.trust import RootSet, sign_root_set
from vault import authorities, generations, succession
from vault.encryption import open_sealed, seal
from vault.generations import LIVING, Generation, Move, Standing
from vault.profiles import PRIMARY_CHANNEL
from vault.succession import MOST_CHANGES

RECIPIENT_LIFE = timedelta(hours=48)
"""A recipient key opens messages this long; after it the private half is destroyed (reliability §6)."""
RECIPIENT_ROTATION = timedelta(hours=24)
"""A new recipient key is made this often, so two overlap. Gateways look at the trust document whenever their recipient key
ends, so each of them knows what is announced, a signing key or a root, within `RECIPIENT_LIFE`."""
TABLE = "gateways_primarykeypair"
LOCK = "primary-channel-keys"
ChannelKey = Ed25519PublicKey | X25519PublicKey


@dataclass(frozen=True)
class TrustDocument:
    """What a gateway fetches to check the Primary against the pins it knows."""

    root: str
    """The first of them: gateways of earlier versions know one root only, and take the first intermediate that fits."""
    roots: str
    """All trusted roots, in the order of `authorities.chain_of`."""
    root_set: str
    """Their pins, signed (`protocol.trust`)."""
    intermediates: str
    """Every living generation of the platform's authority, under each trusted root."""
    channel_certificate: str
    next_channel_certificate: str
    """Empty while there is none."""
    recipients: str


def ensure_keys(now: datetime | None = None) -> None:
    """Make, promote and retire the channel's keys where that is due; destroy what expired. Safe to repeat and to race."""
    moment = now or clock_now()
    with transaction.atomic():
        transaction_lock(LOCK)
        _keep_signing_keys(moment)
        current = _current(PrimaryKeyPair.RECIPIENT)
        if current is None or current.not_after - moment < RECIPIENT_LIFE - RECIPIENT_ROTATION:
            _replace_recipient_key(moment)
        PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT, not_after__lt=moment).delete()


def announce_signing_key(actor: str, reason: str, now: datetime) -> bool:
    """Begin the next signing key now; False when one waits already. It signs after its announcement."""
    with transaction.atomic():
        transaction_lock(LOCK)
        if _signing(Standing.NEXT) is not None:
            return False
        _create_signing_key(now, Standing.NEXT, actor, reason)
    return True


def replace_keys_at_once(actor: str, reason: str, now: datetime) -> None:
    """Another signing key and another recipient key from this moment on; the ones before are destroyed, since they leaked."""
    with transaction.atomic():
        transaction_lock(LOCK)
        PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING, standing=Standing.NEXT).update(
            standing=Standing.ENDED, sealed_private_key=None
        )
        _create_signing_key(now, Standing.NEXT, actor, reason)
        _promote(now, actor, reason)
        _replace_recipient_key(now)
        PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT).exclude(standing=Standing.CURRENT).delete()


def trust_document(now: datetime | None = None) -> TrustDocument:
    """What is trusted now, with the channel certificates and the signed lists of roots and of recipient keys."""
    moment = now or clock_now()
    signing, following = _require_signing(), _signing(Standing.NEXT)
    key, roots = _private(signing), authorities.trusted_roots(moment)
    rows = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT).order_by("-generation").defer("sealed_private_key")
    recipients = [RecipientKey(kid=row.kid, public_key=row.public_key, not_after=row.not_after) for row in rows]
    pins = RootSet(succession.revision(), [authorities.pin_of_pem(root) for root in roots])
    return TrustDocument(
        root=roots[0],
        roots="".join(roots),
        root_set=sign_root_set(pins, key),
        intermediates=authorities.living_chains("platform", moment),
        channel_certificate=signing.certificate,
        next_channel_certificate=following.certificate if following else "",
        recipients=sign_recipients(recipients, key),
    )


def signing_key() -> Ed25519PrivateKey:
    """The key that signs what the Primary says to gateways."""
    return _private(_require_signing())


def signing_generations() -> list[PrimaryKeyPair]:
    """The signing keys that are next, current or retired, the oldest first."""
    rows = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING, standing__in=LIVING)
    return list(rows.order_by("generation"))


def recipient_key(kid: str) -> X25519PrivateKey | None:
    """The private key behind `kid`, or None when it is unknown or destroyed."""
    row = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT, kid=kid).first()
    return X25519PrivateKey.from_private_bytes(_unsealed(row)) if row else None


def place(row: PrimaryKeyPair) -> Place:
    """What the private half is sealed for."""
    return "platform", TABLE, str(row.id), 1


def primary_generation() -> uuid.UUID:
    return PrimaryNode.objects.get(id=1).generation


def _keep_signing_keys(now: datetime) -> None:
    """What `vault.generations` says, like for an authority: at most one key waits, however often and wherever this runs."""
    rules = generations.rules_of(generations.CHANNEL)
    end = authorities.longest_end(PRIMARY_CHANNEL, "platform", now)
    for _ in range(MOST_CHANGES):
        rows = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING).order_by("generation")
        found = [Generation(row.generation, Standing(row.standing), row.announced_at, row.not_after) for row in rows]
        change = generations.next_change(rules, found, now, end)
        if change is None:
            return
        if change.move is Move.ANNOUNCE:
            _create_signing_key(now, Standing.NEXT, "system", "the present one will be too old")
        elif change.move is Move.PROMOTE:
            _promote(now, "system", "its time has come")
        else:
            PrimaryKeyPair.objects.filter(
                purpose=PrimaryKeyPair.SIGNING, generation=change.number, standing=Standing.RETIRED
            ).update(standing=Standing.ENDED)


def _promote(now: datetime, actor: str, reason: str) -> None:
    """The next signing key signs; the private half of the one before goes, for nothing is signed with it any more."""
    rows = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING)
    rows.filter(standing=Standing.CURRENT).update(standing=Standing.RETIRED, sealed_private_key=None)
    if rows.filter(standing=Standing.NEXT).update(standing=Standing.CURRENT) != 1:
        raise RuntimeError("there is no next signing key; nothing was changed")
    _tell("promoted", _require_signing(), actor, reason)


def _create_signing_key(moment: datetime, standing: Standing, actor: str, reason: str) -> None:
    key = Ed25519PrivateKey.generate()
    issued = authorities.issue(
        PRIMARY_CHANNEL, "platform", common_name="primary-channel", sans=(), public_key=key.public_key(), now=moment
    )
    row = _store(
        PrimaryKeyPair.SIGNING, key.public_key(), key.private_bytes_raw(), moment, issued.not_after, standing, issued.pem
    )
    _tell("announced", row, actor, reason)


def _replace_recipient_key(moment: datetime) -> None:
    """Those who know the one before go on with it until its end."""
    key = X25519PrivateKey.generate()
    PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT).update(standing=Standing.RETIRED)
    end = moment + RECIPIENT_LIFE
    _store(PrimaryKeyPair.RECIPIENT, key.public_key(), key.private_bytes_raw(), moment, end, Standing.CURRENT)


def _store(purpose: str, public: ChannelKey, private: bytes, moment: datetime, not_after: datetime, standing: Standing,
           certificate: str = "") -> PrimaryKeyPair:  # fmt: skip
    identifier = uuid.uuid4()
    newest = PrimaryKeyPair.objects.filter(purpose=purpose).aggregate(number=Max("generation"))["number"]
    return PrimaryKeyPair.objects.create(
        id=identifier,
        purpose=purpose,
        generation=(newest or 0) + 1,
        standing=standing,
        kid=key_id(public),
        public_key=encode_public_key(public),
        sealed_private_key=seal("platform", TABLE, str(identifier), 1, private),
        certificate=certificate,
        announced_at=moment,
        not_after=not_after,
    )


def _tell(what: str, row: PrimaryKeyPair, actor: str, reason: str) -> None:
    audit.record(
        actor=actor, action=f"channel.generation.{what}", entity="primary_key", entity_id=str(row.id),
        severity=audit.Severity.CRITICAL,
        details={"generation": row.generation, "key": row.kid, "reason": reason, "not_after": row.not_after.isoformat()},
    )  # fmt: skip


def _current(purpose: str) -> PrimaryKeyPair | None:
    return PrimaryKeyPair.objects.filter(purpose=purpose, standing=Standing.CURRENT).first()


def _signing(standing: Standing) -> PrimaryKeyPair | None:
    return PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING, standing=standing).first()


def _require_signing() -> PrimaryKeyPair:
    found = _current(PrimaryKeyPair.SIGNING)
    if found is None:
        raise Unavailable("the Primary has no signing key yet; run: manage.py setup")
    return found


def _private(row: PrimaryKeyPair) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(_unsealed(row))


def _unsealed(row: PrimaryKeyPair) -> bytes:
    if row.sealed_private_key is None:
        raise LookupError("the private half of this channel key was destroyed")
    return open_sealed(*place(row), bytes(row.sealed_private_key))
