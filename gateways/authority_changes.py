"""Changing authorities and channel keys with everything that hangs from them in the fleet (DESIGN §6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from django.db import transaction

from common import audit
from common.errors import Conflict, NotFound
from common.locks import transaction_lock, try_transaction_lock
from gateways import channel_keys, identity, routes
from gateways.models import BootstrapTokenRow, Gateway, GatewayCertificate, GatewayEnvironment
from vault import authorities, generations, succession
from vault.ceremony import ForeignRoot
from vault.generations import CHANNEL, PLATFORM, ROOT, Move, Standing
from vault.models import CertificateAuthority
from vault.succession import Changed

LONGEST_GRACE = timedelta(days=7)
GRACE = timedelta(hours=24)
"""How long a generation whose key leaked is still trusted, so that gateways that are awake can follow."""


@dataclass(frozen=True)
class Wish:
    """What an operator asks for. `authority` is an environment's code, platform, root or channel.

    With `at_once` a fresh generation signs now, and the one before is trusted for `grace` only. `root_keys` are those of trusted
    roots that are not kept here; `root` brings a root made elsewhere.
    """

    authority: str
    actor: str
    reason: str
    at_once: bool = False
    grace: timedelta = GRACE
    root_keys: Sequence[ec.EllipticCurvePrivateKey] = ()
    root: ForeignRoot | None = None


def keep_up(now: datetime) -> int:
    """Everything about generations that is due now, in one process at a time. Returns how many changes were made."""
    with transaction.atomic():
        if not try_transaction_lock(authorities.LOCK):
            return 0
        made = succession.keep_up(now)
        for changed in made:
            _follow(changed, now)
    identity.ensure_keys(now)
    if made:
        channel_keys.forget()
    return len(made)


def rotate(wish: Wish, now: datetime) -> list[str]:
    """Begin a new generation. Returns what was done, in sentences. Raises `NotFound`, `Conflict` or `RootKeyAbsent`."""
    try:
        return _rotate_channel(wish, now) if wish.authority == CHANNEL else _rotate_authority(wish, now)
    finally:
        channel_keys.forget()  # the other processes do it by themselves within seconds


def _rotate_authority(wish: Wish, now: datetime) -> list[str]:
    with transaction.atomic():
        transaction_lock(authorities.LOCK)
        old = authorities.current(wish.authority)
        if old is None:
            return _begin(wish, now)
        if wish.at_once:
            return _replace_at_once(wish, old, now)
        done = _certify(wish, now)
        if done:  # what was asked for by `roots.not_followed`; a new generation may need keys that were not brought
            return done
        made = succession.announce(wish.authority, now, wish.actor, wish.reason, root_keys=wish.root_keys, root=wish.root)
        if made is None:
            raise Conflict(f"a next generation of {wish.authority} waits already; it takes over by itself")
        takes_over = now + generations.rules_of(wish.authority).announcement
        return [f"generation {made.row.generation} of {wish.authority} is announced; it signs from {takes_over:%Y-%m-%d}"]


def _begin(wish: Wish, now: datetime) -> list[str]:
    """An environment that was added while the root's key lay in the safe has no authority yet."""
    if not GatewayEnvironment.objects.filter(code=wish.authority).exists():
        raise NotFound(f"there is no authority {wish.authority}; there are: {', '.join(known())}")
    made = succession.begin(wish.authority, now, wish.actor, wish.reason, wish.root_keys)
    return [f"generation {made.row.generation} of {wish.authority} signs now; it is the first one"]


def _certify(wish: Wish, now: datetime) -> list[str]:
    """What stands under too few roots is put under those whose keys were brought."""
    if not wish.root_keys or wish.authority == ROOT:
        return []
    rows = succession.certify(wish.authority, now, wish.actor, wish.reason, wish.root_keys)
    return [f"generation {row.generation} of {wish.authority} stands under each root now whose key was brought" for row in rows]


def consequences(wish: Wish, now: datetime) -> list[str]:
    """What a change at once breaks, as sentences for the person who must confirm it."""
    waiting = CertificateAuthority.objects.filter(scope=wish.authority, standing=Standing.NEXT).first()
    if waiting is None:
        return _broken(wish, now)
    return [*_broken(wish, now), f"generation {waiting.generation}, which waits, is discarded: its key lay in the same place"]


def _broken(wish: Wish, now: datetime) -> list[str]:
    until = f"{now + wish.grace:%Y-%m-%d %H:%M} UTC"
    if wish.authority == CHANNEL:
        return [
            "gateways take the Primary's answers for forged until they have looked at the trust document, a minute at most",
            "messages sealed to the keys before are refused once and sent again by the gateways themselves",
        ]
    if wish.authority == PLATFORM:
        return [
            "the listener and the channel get new certificates; connected gateways follow within a minute",
            "whoever holds the leaked key can still pass as this Primary: only a new ROOT makes what it signs worthless",
        ]
    if wish.authority == ROOT:
        unused = BootstrapTokenRow.objects.filter(used_at=None, revoked_at=None, expires_at__gt=now).count()
        return [
            f"a gateway that does not reach this Primary before {until} must enrol anew with a new bootstrap token",
            f"{unused} unused bootstrap tokens name the root before and are void from then on; make new ones",
            "whoever checks this Primary with a copy of ca.crt needs the new file",
        ]
    names = ", ".join(_under(wish.authority)) or "none"
    return [
        f"these gateways are told to renew now: {names}",
        f"one that has not renewed before {until} is refused and must enrol anew with a new bootstrap token",
    ]


def known() -> list[str]:
    """The names `rotate` takes."""
    found = CertificateAuthority.objects.values_list("scope", flat=True)
    environments = GatewayEnvironment.objects.values_list("code", flat=True)
    return [*sorted({*found, *environments}), CHANNEL]


def _replace_at_once(wish: Wish, old: CertificateAuthority, now: datetime) -> list[str]:
    discarded = succession.discard_next(wish.authority, now, wish.actor, f"its key lay where one leaked: {wish.reason}")
    made = succession.announce(
        wish.authority, now, wish.actor, wish.reason, root_keys=wish.root_keys, root=wish.root, leaked=True
    )
    assert made is not None  # noqa: S101  none waits any more, and the lock is held
    promoted = succession.promote(wish.authority, now, wish.actor, wish.reason, trust_for=wish.grace)
    done = [f"generation {promoted.row.generation} of {wish.authority} signs now",
            f"generation {old.generation} is trusted until {now + wish.grace:%Y-%m-%d %H:%M} UTC"]  # fmt: skip
    if discarded is not None:
        done.append(f"generation {discarded.row.generation}, which waited, is discarded: its key lay in the same place")
    if wish.authority in (ROOT, PLATFORM):
        identity.replace_keys_at_once(wish.actor, wish.reason, now)
        done.append("the channel has new keys, so every connected gateway looks at the trust document")
    else:
        _order_renewals(old, now)
        done.append(f"the gateways of {wish.authority} are told to renew")
    if not wish.grace:
        for changed in succession.keep_up(now, wish.actor):
            _follow(changed, now)
    return done


def _rotate_channel(wish: Wish, now: datetime) -> list[str]:
    if wish.at_once:
        identity.replace_keys_at_once(wish.actor, wish.reason, now)
        return ["the channel has new keys; the ones before are destroyed"]
    if not identity.announce_signing_key(wish.actor, wish.reason, now):
        raise Conflict("a next signing key waits already; it takes over by itself, or with --now")
    takes_over = now + generations.rules_of(CHANNEL).announcement
    return [f"the next signing key is announced; it signs from {takes_over:%Y-%m-%d}"]


def _order_renewals(old: CertificateAuthority, now: datetime) -> None:
    rows = GatewayCertificate.objects.filter(issuer_key=old.key_id, revoked_at=None, not_after__gt=now)
    rows.update(renewal_ordered_at=now)
    routes.wake(old.scope)


def _follow(changed: Changed, now: datetime) -> None:
    """What a generation that is trusted no more had certified counts no more either."""
    if changed.move is not Move.END:
        return
    rows = GatewayCertificate.objects.filter(issuer_key=changed.row.key_id, revoked_at=None, not_after__gt=now)
    lost = sorted(str(one) for one in rows.values_list("gateway__name", flat=True))
    if rows.update(revoked_at=now, revoked_reason=f"generation {changed.row.generation} of its authority ended"):
        audit.record(
            actor="system", action="authority.certificates.revoked", entity="authority", entity_id=str(changed.row.id),
            severity=audit.Severity.CRITICAL, environment=changed.row.scope, details={"gateways": lost},
        )  # fmt: skip
        routes.wake(changed.row.scope)


def _under(environment: str) -> list[str]:
    """The living gateways with a certificate of the generation that signs now."""
    current = authorities.current(environment)
    living = Gateway.objects.filter(decommissioned_at=None, environment=environment)
    held = living.filter(certificates__issuer_key=current.key_id if current else "", certificates__revoked_at=None)
    return sorted(held.values_list("name", flat=True).distinct())
