"""Keys, certificate requests and chains, as both ends of the wire see them. Issuing is `vault.authorities`, not here."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

LARGEST_CSR = 8 * 1024
MOST_CERTIFICATES = 64
"""Of a chain with all its generations; more than that is no chain of ours and costs the time to look at it."""
_PEM_REQUEST = re.compile(
    r"\A\s*-----BEGIN (?:NEW )?CERTIFICATE REQUEST-----[A-Za-z0-9+/=\s]+-----END (?:NEW )?CERTIFICATE REQUEST-----\s*\Z"
)


class CsrRefusal(StrEnum):
    TOO_LARGE = "too_large"
    NOT_A_REQUEST = "not_a_request"
    BAD_SIGNATURE = "bad_signature"
    WEAK_OR_FOREIGN_KEY = "weak_or_foreign_key"
    ASKS_FOR_CA = "asks_for_ca"


class CsrRefused(ValueError):
    """The request is not signed; `reason` is for code, the sentence for people."""

    def __init__(self, reason: CsrRefusal, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True)
class CsrFacts:
    """All that is taken from a request (I12): its public key. The rest is named for the audit and ignored."""

    public_key: ec.EllipticCurvePublicKey
    spki_sha256: str
    ignored_extensions: tuple[str, ...]
    requested_subject: str


class ChainBroken(ValueError):
    """A certificate does not lead to the root it should, or is not valid now."""


def new_tls_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key (reliability §3, signer table)."""
    return ec.generate_private_key(ec.SECP256R1())


def build_csr(key: ec.EllipticCurvePrivateKey, common_name: str) -> str:
    """A PKCS #10 request (RFC 2986) in PEM; the name in it is only for people who read it."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64] or "gateway")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def inspect_csr(pem: str) -> CsrFacts:
    """Check size, form, proof of possession, key and wishes of a request, or raise `CsrRefused`. Never raises anything else."""
    if len(pem) > LARGEST_CSR:
        raise CsrRefused(CsrRefusal.TOO_LARGE, f"the request is larger than {LARGEST_CSR} bytes")
    if not _PEM_REQUEST.match(pem) or pem.count("BEGIN") != 1:
        raise CsrRefused(CsrRefusal.NOT_A_REQUEST, "this is not one certificate request in PEM form")
    try:
        return _facts(x509.load_pem_x509_csr(pem.encode()))
    except CsrRefused:
        raise
    except Exception as error:  # a parser met bytes it was not made for; whatever it raises, the request is refused
        raise CsrRefused(CsrRefusal.NOT_A_REQUEST, "the certificate request cannot be read") from error


def spki_fingerprint(key: CertificatePublicKeyTypes) -> str:
    """SHA-256 (hex) of the public key's SubjectPublicKeyInfo."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def certificate_fingerprint(der: bytes) -> str:
    """SHA-256 (hex) of a certificate."""
    return hashlib.sha256(der).hexdigest()


def x5t_s256(der: bytes) -> str:
    """The certificate thumbprint of RFC 8705 (base64url of SHA-256)."""
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()


def pin_of(root_der: bytes) -> str:
    """How a bootstrap token names the root it trusts."""
    return f"sha256:{certificate_fingerprint(root_der)}"


def verify_chain(
    leaf_pem: str, intermediates_pem: str, root_pem: str, at: datetime, purpose: Literal["client", "server", "channel"]
) -> None:
    """Check one leaf → intermediate → root chain at a moment, or raise `ChainBroken`. Any path through what is given will do.

    The library's verifier knows the TLS profiles only, and our channel certificate is none, so the three steps are done here:
    signatures and names by the library's `verify_directly_issued_by`, validity, CA bits and the purpose by hand (RFC 5280 §6).
    """
    leaf = x509.load_pem_x509_certificate(leaf_pem.encode())
    intermediates, roots = _bounded(intermediates_pem), _bounded(root_pem)
    if _is_authority(leaf):
        raise ChainBroken("the certificate is a certificate authority and may not speak for itself")
    _check_some_path(leaf, _paths(leaf, intermediates, roots), at)
    _check_purpose(leaf, purpose)


def _facts(request: x509.CertificateSigningRequest) -> CsrFacts:
    try:
        key = request.public_key()
    except (UnsupportedAlgorithm, ValueError) as error:
        raise CsrRefused(CsrRefusal.WEAK_OR_FOREIGN_KEY, "the key must be on the curve P-256 or P-384") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        raise CsrRefused(CsrRefusal.WEAK_OR_FOREIGN_KEY, "the key must be on the curve P-256 or P-384")
    if not request.is_signature_valid:
        raise CsrRefused(CsrRefusal.BAD_SIGNATURE, "the request is not signed by the key it asks to certify")
    extensions = list(request.extensions)
    for extension in extensions:
        if _asks_for_authority(extension.value):
            raise CsrRefused(CsrRefusal.ASKS_FOR_CA, "the request asks for a certificate authority")
    return CsrFacts(
        public_key=key,
        spki_sha256=spki_fingerprint(key),
        ignored_extensions=tuple(extension.oid._name for extension in extensions),
        requested_subject=request.subject.rfc4514_string()[:200],
    )


def _asks_for_authority(value: x509.ExtensionType) -> bool:
    if isinstance(value, x509.BasicConstraints):
        return value.ca
    return isinstance(value, x509.KeyUsage) and (value.key_cert_sign or value.crl_sign)


Path = tuple[x509.Certificate, x509.Certificate]
"""Intermediate and root."""


def _bounded(pem: str) -> list[x509.Certificate]:
    found = x509.load_pem_x509_certificates(pem.encode())
    if len(found) > MOST_CERTIFICATES:
        raise ChainBroken(f"more than {MOST_CERTIFICATES} certificates are shown where a chain was expected")
    return found


def _paths(leaf: x509.Certificate, intermediates: list[x509.Certificate], roots: list[x509.Certificate]) -> list[Path]:
    """Those that fit by name, the signed ones first: generations of one authority may have one name, and one several roots."""
    named = [(below, root) for below in intermediates if below.subject == leaf.issuer for root in roots]
    if not named:
        raise ChainBroken("the issuer of the certificate is not in the chain")
    return sorted(named, key=lambda path: not (_issued_by(leaf, path[0]) and _issued_by(*path)))


def _check_some_path(leaf: x509.Certificate, paths: list[Path], at: datetime) -> None:
    """The first path tells what is wrong when none is right."""
    first: ChainBroken | None = None
    for issuer, root in paths:
        try:
            _check_path(leaf, issuer, root, at)
            return
        except ChainBroken as broken:
            first = first or broken
    assert first is not None  # noqa: S101  there is a path, or its lack was told
    raise first


def _check_path(leaf: x509.Certificate, issuer: x509.Certificate, root: x509.Certificate, at: datetime) -> None:
    for certificate, above in ((leaf, issuer), (issuer, root), (root, root)):
        _check_link(certificate, above, at)
    for authority in (issuer, root):
        _check_authority(authority)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _issued_by(certificate: x509.Certificate, above: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_link(certificate: x509.Certificate, above: x509.Certificate, at: datetime) -> None:
    if not _issued_by(certificate, above):
        raise ChainBroken("a certificate of the chain was not issued by the one above it")
    if not certificate.not_valid_before_utc <= at < certificate.not_valid_after_utc:
        raise ChainBroken(f"a certificate of the chain is not valid at {at.isoformat()}; check the clocks of both ends")


def _check_authority(certificate: x509.Certificate) -> None:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise ChainBroken("a certificate of the chain is no certificate authority") from error
    if not constraints.ca or not usage.key_cert_sign:
        raise ChainBroken("a certificate of the chain is no certificate authority")


def _check_purpose(leaf: x509.Certificate, purpose: str) -> None:
    found = {item.oid for item in leaf.extensions}
    usages: set[x509.ObjectIdentifier] = set()
    if ExtensionOID.EXTENDED_KEY_USAGE in found:
        usages = set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    wanted = {"client": {ExtendedKeyUsageOID.CLIENT_AUTH}, "server": {ExtendedKeyUsageOID.SERVER_AUTH}, "channel": set()}
    if usages != wanted[purpose]:
        raise ChainBroken(f"the certificate is not made for the purpose {purpose}")
