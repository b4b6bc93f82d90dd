"""Signer profiles: for each kind of certificate, what it may be. Data, not code (reliability §3, signer specification)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID


class SanKind(StrEnum):
    DNS = "dns"
    IP = "ip"
    URI = "uri"


@dataclass(frozen=True)
class San:
    """One subject alternative name from our own row."""

    kind: SanKind
    value: str

    @staticmethod
    def dns(value: str) -> San:
        return San(SanKind.DNS, value)

    @staticmethod
    def ip(value: str) -> San:
        return San(SanKind.IP, value)

    @staticmethod
    def uri(value: str) -> San:
        return San(SanKind.URI, value)

    def general_name(self) -> x509.GeneralName:
        if self.kind is SanKind.IP:
            return x509.IPAddress(ipaddress.ip_address(self.value))
        if self.kind is SanKind.URI:
            return x509.UniformResourceIdentifier(self.value)
        return x509.DNSName(self.value)


@dataclass(frozen=True)
class SignerProfile:
    """`life` is the longest life; the issuer's end is never passed. `san_count` is (least, most)."""

    name: str
    keys: frozenset[str]
    extended_usages: tuple[x509.ObjectIdentifier, ...]
    life: timedelta
    san_kinds: frozenset[SanKind]
    san_count: tuple[int, int]
    san_prefix: str = ""
    backdate: timedelta = timedelta(minutes=5)


_EC = frozenset({"P-256", "P-384"})
_NAMES = frozenset({SanKind.DNS, SanKind.IP})
_URI = frozenset({SanKind.URI})

PLATFORM_SERVER = SignerProfile("platform-server", _EC, (ExtendedKeyUsageOID.SERVER_AUTH,), timedelta(days=90), _NAMES, (1, 50))
PRIMARY_CHANNEL = SignerProfile("primary-channel", frozenset({"Ed25519"}), (), timedelta(days=365), frozenset(), (0, 0))
GATEWAY_CLIENT = SignerProfile(
    "gateway-client", _EC, (ExtendedKeyUsageOID.CLIENT_AUTH,), timedelta(days=90), _URI, (1, 1), "mzv://"
)
GATEWAY_SERVER = SignerProfile("gateway-server", _EC, (ExtendedKeyUsageOID.SERVER_AUTH,), timedelta(days=90), _NAMES, (1, 20))
AGENT_CLIENT = SignerProfile("agent-client", _EC, (ExtendedKeyUsageOID.CLIENT_AUTH,), timedelta(days=30), _URI, (1, 1), "mzv://")
TLS_LEAF = SignerProfile(
    "tls-leaf", _EC | {"RSA-3072", "RSA-4096"}, (ExtendedKeyUsageOID.SERVER_AUTH,), timedelta(days=398), _NAMES, (1, 100)
)
PLATFORM_PROFILES = (PLATFORM_SERVER, PRIMARY_CHANNEL)
"""What the platform's authority signs. The longest life among them says how early its successor must sign."""
ENVIRONMENT_PROFILES = (GATEWAY_CLIENT, GATEWAY_SERVER, AGENT_CLIENT, TLS_LEAF)
PROFILES = {profile.name: profile for profile in PLATFORM_PROFILES + ENVIRONMENT_PROFILES}
