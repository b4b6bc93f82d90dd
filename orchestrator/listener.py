"""The Primary's server certificate and what its TLS is made of: the operator's own files, or ours under our root."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.conf import settings

from common.clock import now as clock_now
from common.files import write_private
from orchestrator.node.wire import Listener
from protocol.paths import MACHINE_NAME
from vault import authorities, certificates
from vault.generations import Standing
from vault.models import CertificateAuthority
from vault.profiles import PLATFORM_SERVER, San

RENEW_BEFORE = timedelta(days=30)
LEAST_GAIN = timedelta(days=1)
"""A new certificate is made only when it lives so much longer: an issuer near its end gives the same end again and again."""
SERVER, MACHINES = "server", "machines"
"""Names of the files for people, and for gateways beside an operator's own."""
MARK = "ours.txt"
"""Present beside a server certificate that we issued and may therefore renew."""


def ensure_server_certificate(directory: Path, now: datetime | None = None) -> None:
    """Keep server.crt, server.key and ca.crt as they should be; renew the certificate when it is due.

    An operator's certificate is never touched: it is recognised by the missing mark file. Gateways trust our root alone, so
    beside one there is a certificate of ours for them, which they ask for by name. Safe to repeat; a file is written only when it
    changes, because the front watches it.
    """
    moment = now or clock_now()
    roots = "".join(authorities.trusted_roots(moment))
    if settings.MAZEVAULT.ca_file:
        _keep(settings.MAZEVAULT.ca_file, roots)
    if is_own(directory):
        _ensure_issued(directory, MACHINES, (MACHINE_NAME,), moment)
        return
    _keep(directory / "ca.crt", roots)
    _ensure_issued(directory, SERVER, settings.MAZEVAULT.server_names, moment)


def is_own(directory: Path) -> bool:
    """Whether the certificate there is the operator's."""
    return (directory / "server.crt").exists() and not (directory / MARK).exists()


def refuse_unfit_files(directory: Path) -> None:
    """Raises `ValueError` with the layout that works, where the operator's own files cannot be served."""
    if not is_own(directory):
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(directory / "server.crt", directory / "server.key", "")
    except (OSError, ssl.SSLError) as error:
        why = (
            "server.key is missing"
            if isinstance(error, FileNotFoundError)
            else f"they cannot be used ({error.strerror or error})"
        )
        raise ValueError(
            f"MAZEVAULT_TLS_CERT_PATH: {directory} holds a server.crt of your own, and {why}; put the certificate with its "
            "intermediates into server.crt and its key, not encrypted, into server.key, both PEM; or remove both, and they are "
            "issued. Gateways need nothing else: they are shown a certificate of MazeVault's own root"
        ) from None


def _ensure_issued(directory: Path, stem: str, names: tuple[str, ...], now: datetime) -> None:
    certificate = directory / f"{stem}.crt"
    leaf = certificates.read(certificate.read_text()) if certificate.exists() else None
    signer = authorities.signer_of(leaf) if leaf else None
    if leaf is None or signer is None or _is_due(leaf, signer, now):
        _issue(directory, stem, names, now)
    else:
        _keep(certificate, certificates.pem(leaf) + authorities.chain_of(signer, now))


def _issue(directory: Path, stem: str, names: tuple[str, ...], now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authorities.issue(
        PLATFORM_SERVER,
        "platform",
        common_name=settings.MAZEVAULT.domain if stem == SERVER else names[0],
        sans=tuple(_san(name) for name in names),
        public_key=key.public_key(),
        now=now,
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(directory / f"{stem}.key", pem.decode())
    if stem == SERVER:
        write_private(directory / MARK, "server.crt was issued by MazeVault and is renewed by it\n")
    write_private(directory / f"{stem}.crt", issued.pem + authorities.chain_for(issued.pem, now))


def primary_files() -> Listener:
    """What the front's TLS context is made of: our server certificate; clients must chain to what is trusted now."""
    directory = settings.MAZEVAULT.tls_directory
    ours = (str(directory / f"{MACHINES}.crt"), str(directory / f"{MACHINES}.key")) if is_own(directory) else None
    files = str(directory / f"{SERVER}.crt"), str(directory / f"{SERVER}.key")
    return Listener(*files, authorities.trusted_clients(), None, ours)


def _is_due(leaf: x509.Certificate, signer: CertificateAuthority, now: datetime) -> bool:
    """Signed by what is trusted no more; or near its end, or by what signs no more, and a new one would live longer."""
    if signer.standing == Standing.ENDED:
        return True
    if signer.standing == Standing.CURRENT and leaf.not_valid_after_utc - now >= RENEW_BEFORE:
        return False
    return authorities.longest_end(PLATFORM_SERVER, "platform", now) - leaf.not_valid_after_utc > LEAST_GAIN


def _keep(file: Path, text: str) -> None:
    if not file.exists() or file.read_text() != text:
        write_private(file, text)


def _san(name: str) -> San:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return San.dns(name)
    return San.ip(name)
