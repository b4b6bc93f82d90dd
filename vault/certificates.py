"""The form of our certificates: what stands in one of an authority and in one of an end entity. Pure; nothing is stored here."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from cryptography.x509.oid import NameOID

from protocol.certificates import certificate_fingerprint, spki_fingerprint
from vault.profiles import San, SignerProfile

PublicKey = CertificateIssuerPublicKeyTypes
BACKDATE = timedelta(minutes=5)
_AUTHORITY_USAGE = x509.KeyUsage(
    digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
)  # fmt: skip
_LEAF_USAGE = x509.KeyUsage(
    digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
)  # fmt: skip


@dataclass(frozen=True)
class IssuedCertificate:
    """`issuer_key` is the key identifier (hex) of the authority that signed it."""

    pem: str
    der: bytes
    serial: str
    fingerprint: str
    spki: str
    not_before: datetime
    not_after: datetime
    issuer_key: str


def root(key: ec.EllipticCurvePrivateKey, now: datetime, life: timedelta) -> x509.Certificate:
    """A self-signed root. All roots have one name; their key identifiers tell them apart (RFC 5280 §4.2.1.2)."""
    subject, public = name("MazeVault Root CA"), key.public_key()
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
    return _authority(subject, subject, public, above, now, now + life, path_length=1).sign(key, hashes.SHA384())


def intermediate(common_name: str, key: ec.EllipticCurvePublicKey, issuer: x509.Certificate,
                 issuer_key: ec.EllipticCurvePrivateKey, now: datetime, end: datetime) -> x509.Certificate:  # fmt: skip
    """An authority that signs leaves only. It never outlives its root."""
    last = min(end, issuer.not_valid_after_utc)
    above = _authority_key_identifier(issuer)
    return _authority(name(common_name), issuer.subject, key, above, now, last, path_length=0).sign(issuer_key, hashes.SHA384())


def leaf(profile: SignerProfile, issuer: x509.Certificate, common_name: str, sans: Sequence[San],
         public_key: PublicKey, now: datetime) -> x509.CertificateBuilder:  # fmt: skip
    """An end entity as its profile has it; the caller signs. It never begins before its issuer nor outlives it."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common_name))
        .issuer_name(issuer.subject)
        .public_key(public_key)
        .serial_number(_serial())
        .not_valid_before(max(now - profile.backdate, issuer.not_valid_before_utc))
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


def described(certificate: x509.Certificate) -> IssuedCertificate:
    der = certificate.public_bytes(serialization.Encoding.DER)
    return IssuedCertificate(
        pem=pem(certificate),
        der=der,
        serial=f"{certificate.serial_number:032x}",
        fingerprint=certificate_fingerprint(der),
        spki=spki_fingerprint(certificate.public_key()),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        issuer_key=issuer_key_of(certificate),
    )


def read(text: str) -> x509.Certificate:
    """The first certificate of a PEM text."""
    return x509.load_pem_x509_certificate(text.encode())


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def key_id_of(authority: x509.Certificate) -> str:
    """The subject key identifier in hex."""
    return authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()


def issuer_key_of(certificate: x509.Certificate) -> str:
    """The key identifier (hex) of whoever signed it; empty when it does not say."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return ""
    return found.hex() if found else ""


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _authority(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey,
               above: x509.AuthorityKeyIdentifier, now: datetime, end: datetime,
               path_length: int) -> x509.CertificateBuilder:  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(_serial())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_AUTHORITY_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(above, critical=False)
    )


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    subject_key = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key)


def _serial() -> int:
    return secrets.randbits(126) | 1 << 126  # 127 significant bits: positive, and never shorter than its neighbours
