"""Certificate authorities: roots that sign intermediates only, one intermediate for each scope, one issuing function.

Each has generations (`vault.generations`); this module says what the generation that signs issues and what is trusted.
`vault.succession` changes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.db.models import Prefetch, QuerySet

from common.clock import now as clock_now
from common.statements import fetch
from protocol.certificates import pin_of
from vault import certificates
from vault.certificates import IssuedCertificate as IssuedCertificate
from vault.certificates import PublicKey
from vault.encryption import open_sealed
from vault.generations import LIVING, PLATFORM, ROOT_ANNOUNCEMENT, Standing
from vault.generations import ROOT as ROOT
from vault.lint import lint
from vault.models import CertificateAuthority, CrossCertificate
from vault.profiles import San, SignerProfile

TABLE = "vault_certificateauthority"
LOCK = "certificate-authorities"
"""Held by whoever changes generations, until the transaction ends."""
SHORTEST_PASSPHRASE = 12
LONGEST_KEPT_CHAIN = ROOT_ANNOUNCEMENT
"""A gateway keeps the chain it got with its certificate until the next one, a whole life later when it was away."""


_SIGNER = """
SELECT a.id, a.certificate, a.sealed_key, a.not_after, above.pem, r.standing, r.generation, r.not_after, r.trusted_until
  FROM vault_certificateauthority a
  LEFT JOIN LATERAL (SELECT a.issuer_id AS root, a.certificate AS pem WHERE a.issuer_id IS NOT NULL UNION ALL
                     SELECT c.issuer_id, c.certificate FROM vault_crosscertificate c WHERE c.authority_id = a.id) above ON true
  LEFT JOIN vault_certificateauthority r ON r.id = above.root
 WHERE a.scope = %(scope)s AND a.standing = 'current' ORDER BY r.generation
"""
"""The generation that signs, with each certificate of its key and the root above that."""


class IssuingRefused(Exception):
    """The certificate would not fit its profile; the sentence names the rule."""


class RootKeyAbsent(Exception):
    """The root's key was removed from this installation; bring it back to create another intermediate."""


@dataclass(frozen=True)
class Signer:
    """The generation of a scope that signs, read once for all that is signed with it. `chain` goes after each leaf (PEM)."""

    scope: str
    issuer: x509.Certificate
    not_after: datetime
    chain: str
    _key: ec.EllipticCurvePrivateKey

    def issue(
        self, profile: SignerProfile, *, common_name: str, sans: Sequence[San], public_key: PublicKey, now: datetime
    ) -> IssuedCertificate:
        """Sign one end-entity certificate: a function of our facts, the profile and the public key (I12).

        First the same certificate is signed with a throw-away key and linted, so that a wrong one never bears a real signature.
        That a key belongs to one subject only is the caller's constraint. Raises `IssuingRefused`.
        """
        if self.not_after <= now:
            raise IssuingRefused(
                f"the authority of {self.scope} has ended; run: ./mazevault keys rotate --authority {self.scope}"
            )
        try:
            builder = certificates.leaf(profile, self.issuer, common_name, sans, public_key, now)
        except ValueError as error:  # a name or a time that no certificate can carry
            raise IssuingRefused(f"{profile.name}: {error}") from error
        broken = lint(builder.sign(_throw_away_key(), hashes.SHA256()), profile, self.issuer)
        if broken:
            raise IssuingRefused(f"{profile.name}: {'; '.join(broken)}")
        return certificates.described(builder.sign(self._key, hashes.SHA256()))


def signer(scope: str, now: datetime) -> Signer:
    """What signs for this scope now, in one statement. Raises `IssuingRefused` or `RootKeyAbsent`."""
    rows = fetch(_SIGNER, {"scope": scope})
    if not rows:
        raise _no_authority(scope)
    identifier, certificate, sealed, not_after = rows[0][:4]
    above = [
        (CertificateAuthority(standing=standing, generation=generation, not_after=end, trusted_until=until), pem)
        for *_, pem, standing, generation, end, until in rows if pem
    ]  # fmt: skip
    row = CertificateAuthority(id=identifier, scope=scope, sealed_key=sealed)
    return Signer(scope, certificates.read(certificate), not_after, _ordered(above, now) or certificate, private_key(row))


def issue(
    profile: SignerProfile, scope: str, *, common_name: str, sans: Sequence[San], public_key: PublicKey, now: datetime
) -> IssuedCertificate:
    """One certificate by the generation that signs now (`Signer.issue`). Raises `IssuingRefused`."""
    return signer(scope, now).issue(profile, common_name=common_name, sans=sans, public_key=public_key, now=now)


@cache
def _throw_away_key() -> ec.EllipticCurvePrivateKey:
    """What it signs is thrown away; nobody ever trusted it."""
    return ec.generate_private_key(ec.SECP256R1())


def longest_end(profile: SignerProfile, scope: str, now: datetime) -> datetime:
    """When a certificate issued now would end."""
    return min(now + profile.life, _require(scope).not_after)


def root_certificate() -> str:
    """The root that signs now, in PEM."""
    return _require(ROOT).certificate


def trusted_roots(now: datetime | None = None) -> list[str]:
    """All roots that are trusted, in PEM, in the order of `chain_of`."""
    rows = CertificateAuthority.objects.filter(scope=ROOT, standing__in=LIVING)
    return [row.certificate for row in sorted(rows, key=_order(now or clock_now()))]


def trusted_clients(now: datetime | None = None) -> str:
    """What a client's certificate may lead to: the trusted roots, and every living intermediate under each of them (PEM)."""
    moment = now or clock_now()
    return "".join([*trusted_roots(moment), *(chain_of(row, moment) for row in living().exclude(scope=ROOT))])


def chain(scope: str, now: datetime | None = None) -> str:
    """The intermediate of a scope that signs now, in PEM, which goes after the leaf."""
    return chain_of(_rows().get(pk=_require(scope).pk), now or clock_now())


def living_chains(scope: str, now: datetime | None = None) -> str:
    """Every trusted intermediate of a scope in PEM, the oldest first."""
    return "".join(chain_of(row, now or clock_now()) for row in living(scope))


def chain_for(leaf: str, now: datetime | None = None) -> str:
    """The intermediate that signed this leaf, whether it still signs or not; with it the chain is complete (PEM)."""
    row = signer_of(certificates.read(leaf))
    if row is None:
        raise IssuingRefused("the certificate was issued by none of our authorities")
    return chain_of(row, now or clock_now())


def chain_of(row: CertificateAuthority, now: datetime) -> str:
    """An intermediate under each trusted root, the oldest root first.

    OpenSSL follows the first one only. So whoever knows an old root goes on; and a root that will be trusted for less time
    than a chain is kept comes last, so that nobody holds a chain that begins with what is gone.
    """
    found = [(row.issuer, row.certificate), *((one.issuer, one.certificate) for one in row.crossed.all())]
    return _ordered([(above, pem) for above, pem in found if above is not None], now) or row.certificate


def _ordered(found: Sequence[tuple[CertificateAuthority, str]], now: datetime) -> str:
    """The certificates (PEM) by trusted roots in the order of `chain_of`."""
    trusted, order = [(above, pem) for above, pem in found if above.standing != Standing.ENDED], _order(now)
    return "".join(pem for _, pem in sorted(trusted, key=lambda one: order(one[0])))


def signer_of(leaf: x509.Certificate) -> CertificateAuthority | None:
    """The generation that signed this leaf, if it is one of ours."""
    key = certificates.issuer_key_of(leaf)
    return _rows().filter(key_id=key).first() if key else None


def pin() -> str:
    """How bootstrap tokens name the root."""
    return pin_of_pem(root_certificate())


def pin_of_pem(certificate: str) -> str:
    return pin_of(certificates.read(certificate).public_bytes(serialization.Encoding.DER))


def export_root_key(passphrase: bytes) -> bytes:
    """The key of the root that signs, as encrypted PKCS #8 PEM, for the safe."""
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise ValueError(f"the passphrase must have at least {SHORTEST_PASSPHRASE} characters")
    key = private_key(_require(ROOT))
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(passphrase)
    )


def remove_root_key() -> int:
    """Forget the keys of all roots here. Existing intermediates go on issuing; new ones need the key back."""
    return CertificateAuthority.objects.filter(scope=ROOT, sealed_key__isnull=False).update(sealed_key=None)


def seal_scope(scope: str) -> str:
    """The root rests under the platform's key, an intermediate under its own environment's."""
    return PLATFORM if scope == ROOT else scope


def living(scope: str = "") -> QuerySet[CertificateAuthority]:
    """The generations that are trusted, of one scope or of all; the oldest first."""
    rows = _rows().filter(standing__in=LIVING)
    return (rows.filter(scope=scope) if scope else rows).order_by("scope", "generation")


def current(scope: str) -> CertificateAuthority | None:
    """The one generation that signs."""
    return CertificateAuthority.objects.filter(scope=scope, standing=Standing.CURRENT).first()


def private_key(row: CertificateAuthority) -> ec.EllipticCurvePrivateKey:
    if row.sealed_key is None:
        raise RootKeyAbsent(f"the key of the {row.scope} authority was removed; bring it back to go on")
    der = open_sealed(seal_scope(row.scope), TABLE, str(row.id), 1, bytes(row.sealed_key))
    key = serialization.load_der_private_key(der, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101  only such keys are stored
    return key


def certificates_ever(scope: str) -> str:
    """All certificates of a scope's generations, also of those that have ended, each under every root (PEM): for old evidence."""
    rows = CertificateAuthority.objects.filter(scope=scope).order_by("generation").prefetch_related("crossed")
    return "".join(pem for row in rows for pem in (row.certificate, *(one.certificate for one in row.crossed.all())))


def _order(now: datetime) -> Callable[[CertificateAuthority], tuple[bool, int]]:
    def place(root: CertificateAuthority) -> tuple[bool, int]:
        end = min(root.not_after, root.trusted_until or root.not_after)
        return end - now < LONGEST_KEPT_CHAIN, root.generation

    return place


def _rows() -> QuerySet[CertificateAuthority]:
    """With the roots above each, for `chain_of`."""
    crossed = Prefetch("crossed", CrossCertificate.objects.select_related("issuer"))
    return CertificateAuthority.objects.select_related("issuer").prefetch_related(crossed)


def _require(scope: str) -> CertificateAuthority:
    found = current(scope)
    if found is None:
        raise _no_authority(scope)
    return found


def _no_authority(scope: str) -> IssuingRefused:
    fix = f"manage.py setup; with the root's key in a safe ./mazevault keys rotate --authority {scope} --root-key FILE"
    return IssuingRefused(f"there is no certificate authority for {scope}; run: {fix}")
