"""The change of the root as docs/operations/keys.md has it, over real TLS with the files a Primary writes (DESIGN §6)."""

from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from django.conf import settings
from django.core.management import call_command

from common.clock import now
from gateways import authority_changes
from orchestrator.listener import ensure_server_certificate, primary_files
from orchestrator.node.front import context_of
from tests.fakes.clockwork import read
from tests.fakes.gateway import FakeGateway
from tests.vault.test_succession import foreign
from vault import authorities, generations
from vault.generations import ROOT
from vault.models import CertificateAuthority

pytestmark = pytest.mark.usefixtures("primary")
PASSPHRASE = b"correct horse battery"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, tls_directory=tmp_path, ca_file=None))
    ensure_server_certificate(tmp_path)
    return tmp_path


def talk(server: ssl.SSLContext, client: ssl.SSLContext) -> bytes | None:
    """A whole TLS 1.3 handshake in memory; what the server sees of the client. Raises `ssl.SSLError` where one refuses."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = server.wrap_bio(up, down, server_side=True)
    there = client.wrap_bio(down, up, server_hostname="localhost")
    pending = [there.do_handshake, here.do_handshake]
    while pending:
        step = pending.pop(0)
        try:
            step()
        except ssl.SSLWantReadError:
            pending.append(step)
    here.write(b"x")
    assert there.read(1) == b"x"
    return here.getpeercert(binary_form=True)


def client_of(roots: str, gateway: FakeGateway | None, folder: Path, chain: str = "") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=roots)
    if gateway is not None:
        key = gateway.keys.client.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / "client.pem").write_text(gateway.certificate + chain + key.decode())
        context.load_cert_chain(folder / "client.pem")
    return context


def test_nobody_is_cut_off_while_the_root_changes(folder: Path) -> None:
    gateway = FakeGateway("gw-npr-primary").enrol()
    chain_at_enrolment, old_copy = authorities.chain("NPR"), (folder / "ca.crt").read_text()

    call_command("keys", "rotate", "--authority", "ROOT")
    ensure_server_certificate(folder)
    authority_changes.keep_up(now() + generations.ROOT_ANNOUNCEMENT)
    ensure_server_certificate(folder)

    old_root, new_root = authorities.trusted_roots()
    assert authorities.root_certificate() == new_root and old_copy == old_root
    for roots in (old_copy, (folder / "ca.crt").read_text()):
        assert talk(context_of(primary_files()), client_of(roots, gateway, folder, chain_at_enrolment)) == gateway.der()

    almost = now() + generations.ROOT_ANNOUNCEMENT - timedelta(days=1)
    CertificateAuthority.objects.filter(scope=ROOT, generation=1).update(trusted_until=almost)
    ensure_server_certificate(folder)
    for roots in (new_root, (folder / "ca.crt").read_text()):
        assert talk(context_of(primary_files()), client_of(roots, gateway, folder, chain_at_enrolment)) == gateway.der()


def test_a_root_from_a_ceremony_takes_the_place_of_a_leaked_one(folder: Path, tmp_path: Path) -> None:
    gateway = FakeGateway("gw-npr-primary").enrol()
    chain, old_copy = authorities.chain("NPR"), (folder / "ca.crt").read_text()
    pem, key = foreign()
    (tmp_path / "root.crt").write_text(pem)
    sealed = serialization.BestAvailableEncryption(PASSPHRASE)
    (tmp_path / "root.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed))
    (tmp_path / "passphrase").write_bytes(PASSPHRASE + b"\n")
    files = ["--import-root", str(tmp_path / "root.crt"), "--root-key", str(tmp_path / "root.key"),
             "--passphrase-file", str(tmp_path / "passphrase")]  # fmt: skip
    call_command("keys", "rotate", "--authority", "ROOT", "--now", "--grace", "0", "--confirm", "ROOT", *files)
    ensure_server_certificate(folder)

    assert authorities.trusted_roots() == [pem] and [one.subject for one in read((folder / "ca.crt").read_text())] == [
        read(pem)[0].subject
    ]
    assert talk(context_of(primary_files()), client_of(pem, gateway, folder, chain)) == gateway.der(), (
        "its certificate counts on: NPR's key is sound"
    )
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(context_of(primary_files()), client_of(old_copy, gateway, folder, chain))
    assert authorities.current(ROOT).generation == 2
