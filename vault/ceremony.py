"""A root that was made elsewhere, in a ceremony of its own: whether it can be one of ours (DESIGN §6)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from vault import certificates, generations
from vault.generations import ROOT
from vault.models import CertificateAuthority

UNDERSTOOD = frozenset({
    ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
})  # fmt: skip
HARMLESS = frozenset({
    ExtensionOID.CRL_DISTRIBUTION_POINTS, ExtensionOID.AUTHORITY_INFORMATION_ACCESS, ExtensionOID.CERTIFICATE_POLICIES,
})  # fmt: skip
"""Extensions of a root. Whoever checks a chain goes by all of them (RFC 5280 section 6), so one that narrows what is below, or
that nobody understands, would end every handshake under it; the harmless ones do so only where they are critical."""


class RootRefused(ValueError):
    """A root that was brought from elsewhere cannot be ours; the sentence says why."""


@dataclass(frozen=True)
class ForeignRoot:
    """A root made elsewhere, with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def checked_root(pem: str, key: ec.EllipticCurvePrivateKey, now: datetime) -> ForeignRoot:
    """A root from elsewhere as one of ours. Raises `RootRefused`."""
    try:
        found = certificates.read(pem)
        found.verify_directly_issued_by(found)
        basic = found.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = found.extensions.get_extension_for_class(x509.KeyUsage).value
        key_id = certificates.key_id_of(found)
    except Exception as error:  # a parser met what it was not made for; whatever it raises, this is no root
        raise RootRefused("the certificate is not a self-signed certificate authority in PEM with a key identifier") from error
    if found.public_key() != key.public_key():
        raise RootRefused("the certificate is not of this key")
    for one in found.extensions:
        if one.oid not in UNDERSTOOD and (one.critical or one.oid not in HARMLESS):
            raise RootRefused(
                f"the certificate has the extension {one.oid.dotted_string}, which TLS would hold what is below it to; make it "
                "with basicConstraints, keyUsage and key identifiers only"
            )
    if not basic.ca or basic.path_length == 0 or not usage.key_cert_sign:
        raise RootRefused("the certificate may not sign intermediates: it needs CA:TRUE, a path length of 1 and keyCertSign")
    if not found.not_valid_before_utc <= now or found.not_valid_after_utc - now < generations.rules_of(ROOT).reserve:
        days = generations.rules_of(ROOT).reserve.days
        raise RootRefused(f"the certificate must be valid now and for {days} more days; make it for ten years")
    if CertificateAuthority.objects.filter(key_id=key_id).exists():
        raise RootRefused("this root, or its key, is known here already; a new generation needs a new key")
    return ForeignRoot(found, key)
