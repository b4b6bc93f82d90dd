"""A Primary and its gateways under a clock that the test turns: years pass in seconds, certificates are real.

The judge is the X.509 verifier of `cryptography`, at the moment of the walk and with the roots of that day's trust document.
"""

from __future__ import annotations

import subprocess
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from gateway_runtime.client import Known, Trust, checked_trust
from gateway_runtime.identity import Keys
from gateways import authority_changes, directives, enrollment, identity, sightings
from gateways.models import Gateway, GatewayCertificate
from orchestrator.listener import ensure_server_certificate
from protocol.certificates import build_csr
from protocol.messages import Renew
from protocol.trust import pins_of
from vault import authorities, certificates

LONGEST_GAP = timedelta(hours=48)
"""A gateway that is awake looks at the trust document at least this often."""


@dataclass
class Walker:
    """A gateway that does what it is told: looks at the trust document, keeps its roots, renews when the Primary orders it."""

    row: Gateway
    known: Known
    certificate: str
    chain: str
    server: str
    awake: bool = True
    lives: list[timedelta] = field(default_factory=list)
    trust: Trust | None = None

    def look(self, document: dict[str, str], now: datetime) -> Trust:
        """Raises what a real gateway would raise."""
        self.trust = checked_trust(document, self.known, now)
        if self.trust.revision is not None:
            self.known = Known(pins_of(self.trust.roots), self.trust.revision)
        return self.trust

    def step(self, now: datetime) -> None:
        seen = sightings.of(self.row.id)
        if seen and directives.renewal_is_due(replace(seen, moment=now)):
            self.renew(now)

    def renew(self, now: datetime) -> None:
        keys = Keys.generate()
        wish = Renew(csr=build_csr(keys.client, "x"), server_csr=build_csr(keys.server, "x"))
        self.take(enrollment.renew(self.row, wish, now=now)[0], now)

    def take(self, made: GatewayCertificate, now: datetime) -> None:
        self.certificate, self.server = made.pem, made.server_pem
        self.chain = authorities.chain_for(made.pem, now)
        self.lives.append(made.not_after - made.not_before)

    def ends(self) -> datetime:
        return read(self.certificate)[0].not_valid_after_utc


@dataclass
class World:
    """The Primary's side. `folder` holds the listener's files."""

    folder: Path

    def step(self, now: datetime) -> dict[str, str]:
        """What the loops of one pass do, then the trust document of the day."""
        authority_changes.keep_up(now)
        ensure_server_certificate(self.folder, now)
        return asdict(identity.trust_document(now))

    def listener(self) -> list[x509.Certificate]:
        return read((self.folder / "server.crt").read_text())

    def trusted_clients(self, now: datetime) -> list[x509.Certificate]:
        return read(authorities.trusted_clients(now))


def read(pem: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem.encode())


def judge(roots: list[x509.Certificate], now: datetime) -> PolicyBuilder:
    return PolicyBuilder().store(Store(roots)).time(now)


def is_client(leaf: str, chain: str, roots: list[x509.Certificate], now: datetime) -> None:
    """Raises `VerificationError` when a server with these roots would not take this client."""
    judge(roots, now).build_client_verifier().verify(read(leaf)[0], read(chain))


def is_server(certificates: list[x509.Certificate], name: str, roots: list[x509.Certificate], now: datetime) -> None:
    judge(roots, now).build_server_verifier(x509.DNSName(name)).verify(certificates[0], certificates[1:])


def openssl_takes(pem: str, roots: str, now: datetime, folder: Path) -> bool:
    """The other judge, which follows the first issuer that fits and looks for no second path."""
    leaf, *rest = read(pem)
    files = {"leaf": certificates.pem(leaf), "rest": "".join(certificates.pem(one) for one in rest), "roots": roots}
    for name, text in files.items():
        (folder / f"{name}.pem").write_text(text)
    command = ["openssl", "verify", "-no-CApath", "-no-CAstore", "-x509_strict", "-attime", str(int(now.timestamp())),
               "-CAfile", "roots.pem", "-untrusted", "rest.pem", "leaf.pem"]  # fmt: skip
    return subprocess.run(command, cwd=folder, capture_output=True, timeout=30, check=False).returncode == 0
