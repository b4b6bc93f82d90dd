"""Changing the generations of the authorities: by themselves long before an end, or because a person says so (DESIGN §6).

Everything here runs in a transaction that holds `authorities.LOCK`, and each row is changed only where it stands as it was read.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.db import transaction

from common import audit
from common.clock import now as clock_now
from common.locks import transaction_lock
from common.models import AuditEntry
from vault import certificates, generations, roots
from vault.authorities import LOCK, TABLE, IssuingRefused, RootKeyAbsent, current, living, private_key, seal_scope
from vault.ceremony import ForeignRoot
from vault.encryption import seal
from vault.generations import PLATFORM, ROOT, Change, Generation, Move, Standing
from vault.models import CertificateAuthority, CrossCertificate
from vault.roots import Keys

log = logging.getLogger("mazevault.vault.succession")

MOST_CHANGES = 8
"""Changes of one authority in one pass; the next pass goes on. A Primary that was off for years needs four."""
MOST_LIVING = 6
"""Generations of one authority that are trusted at once; three when they follow each other by themselves. A trust document holds
each of them under each root, and whoever reads it takes a bounded number (`protocol.trust`, `protocol.certificates`)."""


TOLD_AGAIN = timedelta(days=30)
"""What a person must do about an authority is told in the audit this often; the metric and the doctor say it all the time."""


@dataclass(frozen=True)
class Changed:
    """One change that was made, for those who must follow it."""

    scope: str
    move: Move
    row: CertificateAuthority


def ensure_authorities(environments: Iterable[str], now: datetime | None = None) -> None:
    """Create the root and the intermediates that are missing. Safe to repeat and to race.

    One that needs a root's key from the safe is left out and said in the log: the other environments go on meanwhile.
    """
    moment = now or clock_now()
    with transaction.atomic():
        transaction_lock(LOCK)
        standing = CertificateAuthority.objects.filter(standing=Standing.CURRENT)
        known = set(standing.values_list("scope", flat=True))
        for scope in (ROOT, PLATFORM, *environments):
            if scope in known:
                continue
            known.add(scope)
            if scope != ROOT and (absent := roots.missing(moment)):
                log.error("%s has no authority and gets none without %s; run: %s", scope, roots.named(absent),
                          roots.command(scope, absent))  # fmt: skip
            else:
                create(scope, Standing.CURRENT, moment)


def keep_up(now: datetime, actor: str = "system") -> list[Changed]:
    """Make every change that is due, the root's first. What needs a root's key that is not here is left as it is."""
    found: dict[str, list[Generation]] = {}
    for row in CertificateAuthority.objects.exclude(standing=Standing.ENDED).defer("certificate", "sealed_key"):
        found.setdefault(row.scope, []).append(fact(row))
    root_end = max((one.not_after for one in found.get(ROOT, ()) if one.standing is Standing.CURRENT), default=None)
    made: list[Changed] = []
    for scope in sorted(found, key=_rank):
        if made or _next_change(scope, found[scope], now, root_end) is not None:  # the root's change may be a reason for another
            made += _keep_up(scope, now, actor)
    for scope in found if not made else ():
        _tell_hindrance(scope, hindrance(scope, found[scope], now), actor)
    return made


def announce(scope: str, now: datetime, actor: str, reason: str, *, root_keys: Sequence[ec.EllipticCurvePrivateKey] = (),
             root: ForeignRoot | None = None, leaked: bool = False) -> Changed | None:  # fmt: skip
    """Begin a next generation now; None when one waits already. Raises `RootKeyAbsent` where a root's key is needed.

    `root_keys` are brought from the safe and not kept. `leaked`: the present generation's key leaked (`roots.needed`).
    """
    if CertificateAuthority.objects.filter(scope=scope, standing=Standing.NEXT).exists():
        return None
    if _is_full(scope):
        raise IssuingRefused(f"{MOST_LIVING} generations of {scope} are trusted already; wait until the oldest has ended")
    row = create(scope, Standing.NEXT, now, root_keys=root_keys, root=root, leaked=leaked)
    return _told(Changed(scope, Move.ANNOUNCE, row), now, actor, reason)


def promote(scope: str, now: datetime, actor: str, reason: str, trust_for: timedelta | None = None) -> Changed:
    """The next generation signs from now on. `trust_for` ends the trust in the one before so soon, because its key leaked.

    Raises `IssuingRefused` where gateways could not follow it.
    """
    refused = roots.not_followed(CertificateAuthority.objects.get(scope=scope, standing=Standing.NEXT), now)
    if refused:
        raise IssuingRefused(refused)
    old = current(scope)
    if old is not None:
        until = generations.trusted_until(generations.rules_of(scope), fact(old), now)
        until = until if trust_for is None else min(until, now + trust_for)
        _move(old, Standing.CURRENT, Standing.RETIRED, retired_at=now, trusted_until=until)
    row = CertificateAuthority.objects.get(scope=scope, standing=Standing.NEXT)
    _move(row, Standing.NEXT, Standing.CURRENT, current_at=now)
    return _told(Changed(scope, Move.PROMOTE, row), now, actor, reason)


def discard_next(scope: str, now: datetime, actor: str, reason: str) -> Changed | None:
    """Trust a waiting generation no more: its key lay where the present one's leaked. It has signed nothing."""
    row = CertificateAuthority.objects.filter(scope=scope, standing=Standing.NEXT).first()
    if row is None:
        return None
    _move(row, Standing.NEXT, Standing.ENDED, ended_at=now, sealed_key=None)
    return _told(Changed(scope, Move.END, row), now, actor, reason, action="discarded")


def begin(scope: str, now: datetime, actor: str, reason: str, root_keys: Sequence[ec.EllipticCurvePrivateKey]) -> Changed:
    """The first generation of an environment that came while the root's key lay in the safe. It signs at once."""
    row = create(scope, Standing.CURRENT, now, root_keys=root_keys)
    return _told(Changed(scope, Move.ANNOUNCE, row), now, actor, reason)


def certify(scope: str, now: datetime, actor: str, reason: str,
            root_keys: Sequence[ec.EllipticCurvePrivateKey]) -> list[CertificateAuthority]:  # fmt: skip
    """Put the trusted generations of a scope under each root whose key is at hand. Returns those that were not before."""
    keys, done = roots.at_hand(root_keys, now), dict[uuid.UUID, CertificateAuthority]()
    for row, root in roots.not_certified(scope, keys, now):
        _cross(row, root, keys[root.id], now)
        done[row.id] = row
    for row in done.values():
        _told(Changed(scope, Move.ANNOUNCE, row), now, actor, reason, action="certified")
    return list(done.values())


def create(scope: str, standing: Standing, now: datetime, *, root_keys: Sequence[ec.EllipticCurvePrivateKey] = (),
           root: ForeignRoot | None = None, leaked: bool = False) -> CertificateAuthority:  # fmt: skip
    """A new generation of a scope. `root_keys` are those of trusted roots that are not kept here."""
    if scope == ROOT:
        return _create_root(standing, now, root or _made_root(now, next(iter(root_keys), None)))
    return _create_intermediate(scope, standing, now, roots.at_hand(root_keys, now), leaked=leaked)


def facts(scope: str) -> list[Generation]:
    return [fact(row) for row in CertificateAuthority.objects.filter(scope=scope).order_by("generation")]


def fact(row: CertificateAuthority) -> Generation:
    return Generation(row.generation, Standing(row.standing), row.announced_at, row.not_after, row.trusted_until)


def revision() -> int:
    """Of the set of roots: it grows with each change of them."""
    return generations.revision([(one.number, one.standing) for one in facts(ROOT)])


def hindrance(scope: str, living: Sequence[Generation], now: datetime) -> str:
    """Why a change that is due is not made, as a sentence; empty when nothing is. `living` are the generations of the scope."""
    rules = generations.rules_of(scope)
    change = generations.next_change(rules, living, now, now + rules.life)
    if change is not None and change.move is Move.PROMOTE:
        return roots.not_followed(CertificateAuthority.objects.get(scope=scope, generation=change.number), now)
    if not generations.is_due(rules, living, now):
        return ""
    due = f"the next generation of {scope} is due and "
    if scope == ROOT and not _root_key_is_here():
        how = f"./mazevault keys rotate --authority {ROOT} --import-root FILE --root-key FILE --passphrase-file FILE"
        return f"{due}the root's key is not here; run: {how}"
    if scope != ROOT and (above := current(ROOT)) and _next_change(scope, list(living), now, above.not_after) is None:
        return f"{due}would end with the root on {above.not_after:%Y-%m-%d}; {_root_first(now)}"
    absent = roots.missing(now) if scope != ROOT else []
    if absent:
        return f"{due}the root's key is not here: {roots.named(absent)}; run: {roots.command(scope, absent)}"
    if _is_full(scope):
        return f"{due}{MOST_LIVING} are trusted already; it is made once the oldest has ended"
    return f"{due}is made by itself within minutes; look at the log when it is not"


def _keep_up(scope: str, now: datetime, actor: str) -> list[Changed]:
    made: list[Changed] = []
    while len(made) < MOST_CHANGES:
        root = current(ROOT)
        change = _next_change(scope, facts(scope), now, root.not_after if root else None)
        if change is None or not _can(scope, change, root, now):
            break
        made.append(_carry_out(scope, change, now, actor))
    return made


def _next_change(scope: str, found: list[Generation], now: datetime, root_end: datetime | None) -> Change | None:
    rules = generations.rules_of(scope)
    end = now + rules.life
    return generations.next_change(rules, found, now, min(end, root_end) if root_end and scope != ROOT else end)


def _can(scope: str, change: Change, root: CertificateAuthority | None, now: datetime) -> bool:
    """Whether a change that is due can be made without a person (`hindrance` says why not)."""
    if change.move is Move.ANNOUNCE:
        own = root is not None and root.sealed_key is not None
        return own and not _is_full(scope) and (scope == ROOT or not roots.missing(now))
    row = CertificateAuthority.objects.get(scope=scope, generation=change.number)
    return change.move is not Move.PROMOTE or not roots.not_followed(row, now)


def _root_first(now: datetime) -> str:
    waiting = CertificateAuthority.objects.filter(scope=ROOT, standing=Standing.NEXT).first()
    if waiting is None:
        return f"first change the root: ./mazevault keys rotate --authority {ROOT}"
    signs_from = waiting.announced_at + generations.ROOT_ANNOUNCEMENT
    return f"it waits for root {waiting.generation}, which signs from {signs_from:%Y-%m-%d}"


def _tell_hindrance(scope: str, sentence: str, actor: str) -> None:
    row = current(scope) if sentence else None
    if row is None:
        return
    action = "authority.generation.overdue"
    told = AuditEntry.objects.filter(entity="authority", entity_id=str(row.id), action=action, at__gt=clock_now() - TOLD_AGAIN)
    if not told.exists():
        audit.record(
            actor=actor, action=action, entity="authority", entity_id=str(row.id), severity=audit.Severity.CRITICAL,
            environment="" if scope in (ROOT, PLATFORM) else scope,
            details={"authority": scope, "generation": row.generation, "not_after": row.not_after.isoformat(), "why": sentence},
        )  # fmt: skip
        log.error("%s", sentence)


def _carry_out(scope: str, change: Change, now: datetime, actor: str) -> Changed:
    if change.move is Move.PROMOTE:
        return promote(scope, now, actor, "its time has come")
    if change.move is Move.END:
        row = CertificateAuthority.objects.get(scope=scope, generation=change.number)
        _move(row, Standing.RETIRED, Standing.ENDED, ended_at=now, sealed_key=None)
        return _told(Changed(scope, Move.END, row), now, actor, "nothing it signed is valid any more")
    made = announce(scope, now, actor, "the present one will be too old")
    assert made is not None  # noqa: S101  the decision saw no next generation, and the lock is held
    return made


def _is_full(scope: str) -> bool:
    return living(scope).count() >= MOST_LIVING


def _root_key_is_here() -> bool:
    return CertificateAuthority.objects.filter(scope=ROOT, standing=Standing.CURRENT, sealed_key__isnull=False).exists()


def _rank(scope: str) -> tuple[int, str]:
    return {ROOT: 0, PLATFORM: 1}.get(scope, 2), scope


def _move(row: CertificateAuthority, before: Standing, after: Standing, **values: object) -> None:
    """A guarded update: it raises where somebody else was first."""
    changed = CertificateAuthority.objects.filter(pk=row.pk, standing=before).update(standing=after, **values)
    if changed != 1:
        raise RuntimeError(f"generation {row.generation} of {row.scope} is not {before.value} any more; nothing was changed")
    row.refresh_from_db()


def _told(changed: Changed, now: datetime, actor: str, reason: str, action: str = "") -> Changed:
    row = changed.row
    action = action or {Move.ANNOUNCE: "announced", Move.PROMOTE: "promoted", Move.END: "ended"}[changed.move]
    audit.record(
        actor=actor, action=f"authority.generation.{action}", entity="authority", entity_id=str(row.id),
        severity=audit.Severity.CRITICAL, environment="" if row.scope in (ROOT, PLATFORM) else row.scope,
        details={"authority": row.scope, "generation": row.generation, "key": row.key_id, "reason": reason,
                 "not_after": row.not_after.isoformat()},
    )  # fmt: skip
    log.warning("generation %s of the %s authority is %s: %s", row.generation, row.scope, action, reason)
    return changed


def _made_root(now: datetime, present: ec.EllipticCurvePrivateKey | None) -> ForeignRoot:
    """A root made here. Where the present one's key was taken away on purpose, only who brings it may have that."""
    root = current(ROOT)
    if root is not None and (present or private_key(root)).public_key() != certificates.read(root.certificate).public_key():
        raise RootKeyAbsent("this is not the key of the root that signs now")
    key = ec.generate_private_key(ec.SECP384R1())
    return ForeignRoot(certificates.root(key, now, generations.ROOT_LIFE), key)


def _create_root(standing: Standing, now: datetime, root: ForeignRoot) -> CertificateAuthority:
    """A root, and every living intermediate once more under it."""
    row = _store(ROOT, root.certificate, root.key, standing, now, None)
    for below in living().exclude(scope=ROOT).filter(not_after__gt=now):
        _cross(below, row, root.key, now)
    return row


def _create_intermediate(scope: str, standing: Standing, now: datetime, keys: Keys, *, leaked: bool) -> CertificateAuthority:
    """Under the root that signs, and under each other trusted root whose key is at hand; never without one of `roots.needed`."""
    root = current(ROOT)
    if root is None:
        raise IssuingRefused("there is no root to sign with; run: manage.py setup")
    if root.not_after <= now:
        raise IssuingRefused("the root has ended; run: ./mazevault keys rotate --authority ROOT")
    absent = roots.missing(now, keys, leaked=leaked)
    if absent:
        wanted = roots.needed(now, leaked=leaked)
        kept = [one for one in wanted if one.sealed_key is not None]
        brought = [one for one in wanted if one not in kept]
        raise RootKeyAbsent(f"the key of the root authority was removed: {roots.named(absent)}; bring it with "
                            f"{roots.command(scope, brought)}")  # fmt: skip
    key, number = ec.generate_private_key(ec.SECP256R1()), _next_number(scope)
    named = f"MazeVault {scope} CA" if number == 1 else f"MazeVault {scope} CA {number}"
    issuer, end = certificates.read(root.certificate), now + generations.INTERMEDIATE_LIFE
    made = certificates.intermediate(named, key.public_key(), issuer, keys[root.id], now, end)
    row = _store(scope, made, key, standing, now, root)
    for other in living(ROOT).exclude(pk=root.pk).filter(pk__in=keys, not_after__gt=now):
        _cross(row, other, keys[other.id], now)
    return row


def _cross(row: CertificateAuthority, root: CertificateAuthority, key: ec.EllipticCurvePrivateKey, now: datetime) -> None:
    """The same subject and key under another root."""
    known = certificates.read(row.certificate)
    public = known.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)  # noqa: S101  only such keys are stored
    above = certificates.read(root.certificate)
    made = certificates.intermediate(_common_name(known), public, above, key, now, known.not_valid_after_utc)
    CrossCertificate.objects.create(authority=row, issuer=root, certificate=certificates.pem(made))


def _common_name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


def _store(scope: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, standing: Standing, now: datetime,
           issuer: CertificateAuthority | None) -> CertificateAuthority:  # fmt: skip
    identifier = uuid.uuid4()
    private = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return CertificateAuthority.objects.create(
        id=identifier,
        scope=scope,
        generation=_next_number(scope),
        standing=standing,
        certificate=certificates.pem(certificate),
        issuer=issuer,
        key_id=certificates.key_id_of(certificate),
        sealed_key=seal(seal_scope(scope), TABLE, str(identifier), 1, private),
        not_after=certificate.not_valid_after_utc,
        announced_at=now,
        current_at=now if standing is Standing.CURRENT else None,
    )


def _next_number(scope: str) -> int:
    newest = CertificateAuthority.objects.filter(scope=scope).order_by("-generation").first()
    return newest.generation + 1 if newest else 1
