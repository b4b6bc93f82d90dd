"""The Primary's server certificate and what its TLS is made of: the operator's own files, or ours under our root."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.conf import settings

from common.files import write_private
from orchestrator.node.wire import Listener
from vault import authorities
from vault.profiles import PLATFORM_SERVER, San

RENEW_BEFORE = timedelta(days=30)
MARK = "ours.txt"
"""Present beside a server certificate that we issued and may therefore renew."""


def ensure_server_certificate(directory: Path) -> None:
    """Write server.crt, server.key and ca.crt unless the operator brought them; renew ours when it is due.

    An operator's files are never touched: they are recognised by the missing mark file.
    """
    certificate, mark = directory / "server.crt", directory / MARK
    if certificate.exists() and not mark.exists():
        return
    if certificate.exists() and not _is_due(certificate):
        return
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authorities.issue(
        PLATFORM_SERVER,
        "platform",
        common_name=settings.MAZEVAULT.domain,
        sans=tuple(_san(name) for name in settings.MAZEVAULT.server_names),
        public_key=key.public_key(),
        now=datetime.now(UTC),
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(directory / "server.key", pem.decode())
    write_private(mark, "server.crt was issued by MazeVault and is renewed by it\n")
    write_private(directory / "ca.crt", authorities.root_certificate())
    write_private(certificate, issued.pem + authorities.chain("platform"))


def primary_files() -> Listener:
    """What the front's TLS context is made of: our server certificate; clients must chain to our root."""
    directory = settings.MAZEVAULT.tls_directory
    return Listener(str(directory / "server.crt"), str(directory / "server.key"), authorities.root_certificate(), None)


def _is_due(certificate: Path) -> bool:
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    return found.not_valid_after_utc - datetime.now(UTC) < RENEW_BEFORE


def _san(name: str) -> San:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return San.dns(name)
    return San.ip(name)
