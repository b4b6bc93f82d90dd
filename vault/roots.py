"""Under which roots an intermediate must stand so that every gateway can follow it, and whose keys are at hand for that (ADR 40).

A root's key may lie in a safe. What gateways could not follow is not made; the sentence names the keys that have to be brought.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec

from vault import certificates
from vault.authorities import RootKeyAbsent, current, living, private_key
from vault.generations import ANNOUNCEMENT, LIVING, ROOT, ROOT_ANNOUNCEMENT, Standing
from vault.models import CertificateAuthority

Keys = Mapping[uuid.UUID, ec.EllipticCurvePrivateKey]
"""Keys of trusted roots, by the row of the root."""
SIGNING = (Standing.NEXT, Standing.CURRENT)
KEY_SHOWN = 8
"""Hex digits of a root's key identifier that people see; enough to find its file in the safe."""


def at_hand(brought: Sequence[ec.EllipticCurvePrivateKey], now: datetime) -> Keys:
    """The keys of trusted roots that are kept here or were brought. Raises `RootKeyAbsent` for one that is of none of them."""
    roots = _valid(now)
    found = {root.id: private_key(root) for root in roots if root.sealed_key is not None}
    for key in brought:
        owner = next((one for one in roots if certificates.read(one.certificate).public_key() == key.public_key()), None)
        if owner is None:
            raise RootKeyAbsent("this is not the key of the root that signs now, nor of another one that is trusted")
        found[owner.id] = key
    return found


def needed(now: datetime, *, leaked: bool = False) -> list[CertificateAuthority]:
    """The roots a new intermediate has to stand under, the oldest first.

    The one that signs, and the next one, for gateways will know only that one day. While neither has been shown for longer than a
    gateway's certificate lives, also the one that all of them know. `leaked`: it is made in a hurry, so the last one is left out.
    """
    roots = _valid(now)
    wanted = [root for root in roots if root.standing in SIGNING]
    if not leaked and not any(_shown_long_enough(root, now) for root in wanted):
        before = [root for root in roots if root.standing == Standing.RETIRED and _lasts(root, now)]
        known = [root for root in before if _shown_long_enough(root, now)][-1:] or before[:1]
        wanted = [*known, *wanted]
    return wanted


def missing(now: datetime, keys: Keys | None = None, *, leaked: bool = False) -> list[CertificateAuthority]:
    """Those of `needed` whose key is not at hand; without `keys`, not kept here."""
    wanted = needed(now, leaked=leaked)
    return [root for root in wanted if (root.sealed_key is None if keys is None else root.id not in keys)]


def lacking(row: CertificateAuthority, now: datetime) -> list[CertificateAuthority]:
    """What keeps a waiting generation from signing: of a root, the intermediates that do not stand under it; of an intermediate,
    the root that signs, where it does not stand under that one. What has ended itself is followed by nobody and keeps none."""
    if row.scope == ROOT:
        below = living().filter(standing__in=SIGNING, not_after__gt=now).exclude(scope=ROOT)
        return [one for one in below if row.id not in _above(one)]
    root = current(ROOT)
    return [root] if root is not None and root.id not in _above(row) else []


def not_followed(row: CertificateAuthority, now: datetime) -> str:
    """Why gateways could not follow a generation if it signed, as a sentence."""
    absent = lacking(row, now)
    if not absent:
        return ""
    bare, above = (absent, [row]) if row.scope == ROOT else ([row], absent)
    runs = " and ".join(dict.fromkeys(command(one.scope, above) for one in bare))
    bare_names = ", ".join(f"{one.scope} {one.generation}" for one in bare)
    return f"{row.scope} {row.generation} cannot sign: {bare_names} has no certificate under {named(above)}; run: {runs}"


def not_certified(scope: str, keys: Keys, now: datetime) -> list[tuple[CertificateAuthority, CertificateAuthority]]:
    """Trusted generations of a scope, each with a root it does not stand under although its key is at hand."""
    roots = [root for root in _valid(now) if root.id in keys]
    rows = living(scope).filter(not_after__gt=now)
    return [(row, root) for row in rows for root in roots if root.id not in _above(row)]


def named(roots: Sequence[CertificateAuthority]) -> str:
    """For people: `root 1 (key 3fa9c1d2)`."""
    return " and ".join(f"{ROOT} {root.generation} (key {root.key_id[:KEY_SHOWN]})" for root in roots)


def command(scope: str, roots: Sequence[CertificateAuthority]) -> str:
    """What brings the keys of these roots for a new generation of a scope."""
    return f"./mazevault keys rotate --authority {scope}" + " --root-key FILE" * len(roots) + " --passphrase-file FILE"


def _valid(now: datetime) -> list[CertificateAuthority]:
    rows = CertificateAuthority.objects.filter(scope=ROOT, standing__in=LIVING, not_after__gt=now)
    return list(rows.order_by("generation"))


def _above(row: CertificateAuthority) -> set[uuid.UUID]:
    """The roots an intermediate stands under."""
    crossed = {one.issuer_id for one in row.crossed.all()}
    return crossed | {row.issuer_id} if row.issuer_id else crossed


def _shown_long_enough(root: CertificateAuthority, now: datetime) -> bool:
    return root.announced_at + ROOT_ANNOUNCEMENT <= now


def _lasts(root: CertificateAuthority, now: datetime) -> bool:
    """Whether it is still trusted when what is made now signs; a root whose key leaked is not."""
    return min(root.not_after, root.trusted_until or root.not_after) > now + ANNOUNCEMENT
