"""The TLS context of a running node while its certificate is renewed: it never stops serving."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.conf import settings

from orchestrator.listener import ensure_server_certificate, primary_files
from orchestrator.node import tls
from orchestrator.node.front import context_of
from orchestrator.node.tls import FreshContext, server_context


class Files:
    """A certificate and its key, written one after the other as many tools do."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "server.crt", folder / "server.key"
        self._stamp = 1_700_000_000

    def pair(self) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
        today = datetime.now(UTC)
        made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number()).not_valid_before(today).not_valid_after(today + timedelta(days=1))
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), private

    def write_certificate(self, text: bytes) -> None:
        self.certificate.write_bytes(text)
        self._stamp += 1
        os.utime(self.certificate, (self._stamp, self._stamp))

    def build(self) -> ssl.SSLContext:
        return server_context(str(self.certificate), str(self.key), self.certificate.read_text(), None)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(tls, "RETRY_SECONDS", 0.0)
    made = Files(tmp_path)
    certificate, key = made.pair()
    made.key.write_bytes(key)
    made.write_certificate(certificate)
    return made


def test_a_certificate_whose_key_comes_later_is_taken_when_both_are_there(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    fresh = FreshContext(files.certificate, files.build)
    old = fresh()
    certificate, key = files.pair()
    files.write_certificate(certificate)
    with caplog.at_level(logging.ERROR):
        assert [fresh() for _ in range(3)] == [old] * 3
    assert caplog.text.count("the old one serves on") == 1
    files.key.write_bytes(key)
    taken = fresh()
    assert taken is not old and fresh() is taken


@pytest.mark.parametrize("broken", [b"", b"-----BEGIN CERTIFICATE-----\nhalf"])
def test_a_half_written_certificate_stops_nothing(files: Files, broken: bytes) -> None:
    fresh = FreshContext(files.certificate, files.build)
    old = fresh()
    files.write_certificate(broken)
    assert fresh() is old


def test_a_certificate_that_is_away_for_a_moment_stops_nothing(files: Files) -> None:
    fresh = FreshContext(files.certificate, files.build)
    old = fresh()
    files.certificate.unlink()
    assert fresh() is old


def test_whatever_stands_in_the_way_of_a_new_context_the_old_one_serves_on(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = FreshContext(files.certificate, files.build)
    old = fresh()
    fresh._build = lambda: 1 / 0  # type: ignore[assignment,return-value]
    files.write_certificate(files.pair()[0])
    assert fresh() is old and "ZeroDivisionError" in caplog.text


def test_a_renewed_certificate_is_taken_without_a_question_to_the_database(
    primary: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Callable[[int], Any]
) -> None:
    """Connections are accepted where contexts are made; a session that died there would end the front."""
    monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, tls_directory=tmp_path))
    ensure_server_certificate(tmp_path)
    files = primary_files()
    fresh = FreshContext(tmp_path / "server.crt", lambda: context_of(files))
    old = fresh()
    os.utime(tmp_path / "server.crt", (1, 1))
    with django_assert_num_queries(0):
        assert fresh() is not old
