"""Certificate authorities: one root that signs intermediates only, one intermediate for each scope, one issuing function."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from cryptography.x509.oid import NameOID
from django.db import transaction

from common.locks import transaction_lock
from protocol.certificates import certificate_fingerprint, pin_of, spki_fingerprint
from vault.encryption import open_sealed, seal
from vault.lint import lint
from vault.models import CertificateAuthority
from vault.profiles import San, SignerProfile

ROOT = "root"
ROOT_LIFE, INTERMEDIATE_LIFE = timedelta(days=3650), timedelta(days=1825)
TABLE = "vault_certificateauthority"
_AUTHORITY_USAGE = x509.KeyUsage(
    digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
)  # fmt: skip
_LEAF_USAGE = x509.KeyUsage(
    digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
)  # fmt: skip

PublicKey = CertificateIssuerPublicKeyTypes


class IssuingRefused(Exception):
    """The certificate would not fit its profile; the sentence names the rule."""


class RootKeyAbsent(Exception):
    """The root's key was removed from this installation; bring it back to create another intermediate."""


@dataclass(frozen=True)
class IssuedCertificate:
    pem: str
    der: bytes
    serial: str
    fingerprint: str
    spki: str
    not_before: datetime
    not_after: datetime


def ensure_authorities(environments: Iterable[str]) -> None:
    """Create the root and the intermediates that are missing. Safe to repeat and to race."""
    with transaction.atomic():
        transaction_lock("certificate-authorities")
        if _current(ROOT) is None:
            _create_root()
        for scope in ("platform", *environments):
            if _current(scope) is None:
                _create_intermediate(scope)


def issue(
    profile: SignerProfile, scope: str, *, common_name: str, sans: Sequence[San], public_key: PublicKey, now: datetime
) -> IssuedCertificate:
    """Sign one end-entity certificate: a function of our facts, the profile and the public key (I12).

    First the same certificate is signed with a throw-away key and linted, so that a wrong one never bears a real signature.
    That a key belongs to one subject only is the caller's constraint. Raises `IssuingRefused`.
    """
    authority = _require(scope)
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    try:
        builder = _leaf(profile, issuer, common_name, sans, public_key, now)
    except ValueError as error:  # a name or a time that no certificate can carry
        raise IssuingRefused(f"{profile.name}: {error}") from error
    rehearsal = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    broken = lint(rehearsal, profile, issuer)
    if broken:
        raise IssuingRefused(f"{profile.name}: {'; '.join(broken)}")
    return _issued(builder.sign(_private_key(authority), hashes.SHA256()))


def root_certificate() -> str:
    """The current root in PEM."""
    return _require(ROOT).certificate


def chain(scope: str) -> str:
    """The intermediate of a scope in PEM, which goes after the leaf."""
    return _require(scope).certificate


def pin() -> str:
    """How bootstrap tokens name the root."""
    return pin_of(_der(root_certificate()))


def export_root_key(passphrase: bytes) -> bytes:
    """The root's key as encrypted PKCS #8 PEM, for the safe."""
    if len(passphrase) < 12:
        raise ValueError("the passphrase must have at least 12 characters")
    key = _private_key(_require(ROOT))
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(passphrase)
    )


def remove_root_key() -> None:
    """Forget the root's key here. Existing intermediates go on issuing; new ones need the key back."""
    CertificateAuthority.objects.filter(scope=ROOT, retired_at__isnull=True).update(sealed_key=None)


def seal_scope(scope: str) -> str:
    """The root rests under the platform's key, an intermediate under its own environment's."""
    return "platform" if scope == ROOT else scope


def _create_root() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("MazeVault Root CA")
    now = datetime.now(UTC)
    certificate = _authority(name, name, key.public_key(), key.public_key(), now, ROOT_LIFE, path_length=1).sign(
        key, hashes.SHA384()
    )
    _store(ROOT, certificate, key)


def _create_intermediate(scope: str) -> None:
    root_row = _require(ROOT)
    root = x509.load_pem_x509_certificate(root_row.certificate.encode())
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _authority(
        _name(f"MazeVault {scope} CA"), root.subject, key.public_key(), _private_key(root_row).public_key(),
        datetime.now(UTC), INTERMEDIATE_LIFE, path_length=0,
    )  # fmt: skip
    _store(scope, builder.sign(_private_key(root_row), hashes.SHA384()), key)


def _authority(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey,
               issuer_key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta,
               path_length: int) -> x509.CertificateBuilder:  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(_serial())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_AUTHORITY_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _leaf(profile: SignerProfile, issuer: x509.Certificate, common_name: str, sans: Sequence[San],
          public_key: PublicKey, now: datetime) -> x509.CertificateBuilder:  # fmt: skip
    start = now - profile.backdate
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(issuer.subject)
        .public_key(public_key)
        .serial_number(_serial())
        .not_valid_before(max(start, issuer.not_valid_before_utc))
        .not_valid_after(min(now + profile.life, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_LEAF_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_authority_key_identifier(issuer), critical=False)
    )
    if profile.extended_usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(profile.extended_usages), critical=False)
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName([san.general_name() for san in sans]), critical=False)
    return builder


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    subject_key = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key)


def _issued(certificate: x509.Certificate) -> IssuedCertificate:
    der = certificate.public_bytes(serialization.Encoding.DER)
    return IssuedCertificate(
        pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        der=der,
        serial=f"{certificate.serial_number:032x}",
        fingerprint=certificate_fingerprint(der),
        spki=spki_fingerprint(certificate.public_key()),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def _store(scope: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    identifier = uuid.uuid4()
    private = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    CertificateAuthority.objects.create(
        id=identifier,
        scope=scope,
        certificate=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        sealed_key=seal(seal_scope(scope), TABLE, str(identifier), 1, private),
    )


def _private_key(row: CertificateAuthority) -> ec.EllipticCurvePrivateKey:
    if row.sealed_key is None:
        raise RootKeyAbsent(f"the key of the {row.scope} authority was removed; bring it back to go on")
    der = open_sealed(seal_scope(row.scope), TABLE, str(row.id), 1, bytes(row.sealed_key))
    key = serialization.load_der_private_key(der, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101  only such keys are stored
    return key


def _current(scope: str) -> CertificateAuthority | None:
    return CertificateAuthority.objects.filter(scope=scope, retired_at__isnull=True).first()


def _require(scope: str) -> CertificateAuthority:
    found = _current(scope)
    if found is None:
        raise IssuingRefused(f"there is no certificate authority for {scope}; run: manage.py setup")
    return found


def _serial() -> int:
    return secrets.randbits(126) | 1 << 126  # 127 significant bits: positive, and never shorter than its neighbours


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _der(pem: str) -> bytes:
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(serialization.Encoding.DER)
