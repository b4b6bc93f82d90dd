"""Looks at a certificate before it is signed for real: one named rule for each cell of its profile (reliability §1, Boulder)."""

from __future__ import annotations

from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from vault.profiles import San, SanKind, SignerProfile

_KINDS: tuple[tuple[type[x509.DNSName | x509.IPAddress | x509.UniformResourceIdentifier], SanKind], ...] = (
    (x509.DNSName, SanKind.DNS),
    (x509.IPAddress, SanKind.IP),
    (x509.UniformResourceIdentifier, SanKind.URI),
)


def lint(certificate: x509.Certificate, profile: SignerProfile, issuer: x509.Certificate) -> list[str]:
    """The rules of the profile this certificate breaks, as sentences; empty when it may be signed."""
    return list(_broken(certificate, profile, issuer))


def key_name(key: object) -> str:
    """The name profiles use for a kind of key, or the class's own name when no profile allows it."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return {"secp256r1": "P-256", "secp384r1": "P-384"}.get(key.curve.name, key.curve.name)
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA-{key.key_size}"
    return "Ed25519" if isinstance(key, ed25519.Ed25519PublicKey) else type(key).__name__


def _broken(certificate: x509.Certificate, profile: SignerProfile, issuer: x509.Certificate) -> Iterator[str]:
    extensions = certificate.extensions
    if key_name(certificate.public_key()) not in profile.keys:
        yield f"a key of the kind {key_name(certificate.public_key())} is not allowed"
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    if basic.value.ca or not basic.critical:
        yield "it must say, critically, that it is no authority"
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    if not usage.critical or not usage.value.digital_signature or usage.value.key_cert_sign or usage.value.crl_sign:
        yield "its key usage must be digital signature and nothing of an authority"
    if _usages(certificate) != set(profile.extended_usages):
        yield "its extended usages must be exactly those of the profile"
    yield from _broken_names(certificate, profile)
    yield from _broken_life(certificate, profile, issuer)


def _broken_names(certificate: x509.Certificate, profile: SignerProfile) -> Iterator[str]:
    names = _names(certificate)
    least, most = profile.san_count
    if not least <= len(names) <= most:
        yield f"it must carry {least} to {most} alternative names"
    for name in names:
        if name.kind not in profile.san_kinds:
            yield f"an alternative name of the kind {name.kind.value} is not allowed"
        if "*" in name.value:
            yield "a wildcard name is not allowed"
        if profile.san_prefix and not name.value.startswith(profile.san_prefix):
            yield f"its name must start with {profile.san_prefix}"


def _broken_life(certificate: x509.Certificate, profile: SignerProfile, issuer: x509.Certificate) -> Iterator[str]:
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    if life > profile.life + profile.backdate:
        yield "it lives longer than the profile allows"
    if certificate.not_valid_after_utc > issuer.not_valid_after_utc:
        yield "it outlives its issuer"
    if certificate.serial_number.bit_length() < 120:
        yield "its serial number is too short"


def _usages(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    try:
        return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return set()


def _names(certificate: x509.Certificate) -> list[San]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [San(kind, str(name.value)) for name in found for known, kind in _KINDS if isinstance(name, known)]
