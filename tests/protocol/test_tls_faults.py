"""What a handshake ended with is told apart: each cause has another fix. Whole handshakes in memory, with real certificates."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from accounts import diagnoses
from cli.stack.primary_client import _TLS, _why
from gateway_runtime.client import Known, PrimaryUnreachable, _told_unreachable, fetch_trust
from integrations.azure.errors import tls_told
from protocol.tls_faults import TlsFault, fault_of

KEY = ec.generate_private_key(ec.SECP256R1())
DAY = timedelta(days=1)


def certificate(*, begins: timedelta = -DAY, ends: timedelta = DAY, name: str = "primary.example", client: bool = False,
                who: str = "test") -> str:  # fmt: skip
    at = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, who)])
    usage = x509.ExtendedKeyUsageOID.CLIENT_AUTH if client else x509.ExtendedKeyUsageOID.SERVER_AUTH
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(KEY.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(at + begins).not_valid_after(at + ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ip_address("10.0.0.1"))]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(KEY, hashes.SHA256())
    )  # fmt: skip
    return made.public_bytes(serialization.Encoding.PEM).decode()


def context_of(folder: Path, pem: str) -> ssl.SSLContext:
    secret = KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()  # fmt: skip
    (folder / "server.pem").write_text(pem + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


def error_of(server: ssl.SSLContext, trusted: str, *, host: str = "primary.example") -> BaseException:
    """What a client that trusts this meets."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    client.load_verify_locations(cadata=trusted)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    here, there = server.wrap_bio(up, down, server_side=True), client.wrap_bio(down, up, server_hostname=host)
    for _ in range(8):
        for step in (there.do_handshake, here.do_handshake, lambda: there.read(1)):
            try:
                step()
            except (ssl.SSLWantReadError, ssl.SSLSyscallError):
                continue
            except ssl.SSLError as error:
                if step != here.do_handshake:
                    return error
    raise AssertionError("the handshake succeeded")


def answered_in_plain_http() -> BaseException:
    client = ssl.create_default_context()
    there = client.wrap_bio(answer := ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="x")
    answer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ssl.SSLError) as caught:
        there.do_handshake()
    return caught.value


def wants_our_certificate(folder: Path) -> ssl.SSLContext:
    context = context_of(folder, GOOD)
    context.load_verify_locations(cadata=certificate(name="other"))
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def old_context(folder: Path) -> ssl.SSLContext:
    context = context_of(folder, GOOD)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


GOOD = certificate()
OTHER = certificate(who="another authority")
CASES: dict[TlsFault, Callable[[Path], BaseException]] = {
    TlsFault.EXPIRED: lambda at: error_of(context_of(at, old := certificate(begins=-2 * DAY, ends=-DAY)), old),
    TlsFault.NOT_YET: lambda at: error_of(context_of(at, young := certificate(begins=DAY, ends=2 * DAY)), young),
    TlsFault.OTHER_NAME: lambda at: error_of(context_of(at, GOOD), GOOD, host="another.example"),
    TlsFault.FOREIGN_ROOT: lambda at: error_of(context_of(at, GOOD), OTHER),
    TlsFault.BAD_CERTIFICATE: lambda at: error_of(context_of(at, wrong := certificate(client=True)), wrong),
    TlsFault.OUR_CERTIFICATE: lambda at: error_of(wants_our_certificate(at), GOOD),
    TlsFault.PROTOCOL: lambda at: error_of(old_context(at), GOOD),
    TlsFault.NO_TLS: lambda at: answered_in_plain_http(),
}


def wrapped(error: BaseException) -> list[BaseException]:
    """As httpx, requests and the vendor's client hand it on."""
    by_httpx = httpx.ConnectError(str(error))
    by_httpx.__cause__ = error
    by_requests = requests.exceptions.SSLError(Exception("max retries", error))
    return [error, by_httpx, httpx.ConnectError(str(error)), by_requests]


@pytest.mark.parametrize("fault", TlsFault)
def test_each_cause_is_told_with_its_own_fix(fault: TlsFault, tmp_path: Path) -> None:
    error = CASES[fault](tmp_path)
    for one in wrapped(error):
        assert fault_of(one) is fault, (fault, repr(one))
        told = _told_unreachable("https://p:8443", one)
        assert told.startswith("https://p:8443 ") and "{error}" not in told
    azure = tls_told("kv", fault)
    assert ("AZURE_CA_BUNDLE" in azure[1]) is (fault is TlsFault.FOREIGN_ROOT)
    by_cli = _why(httpx.ConnectError(str(error)))
    assert (by_cli in _TLS.values()) is (fault in _TLS)
    entra = diagnoses.tls_of(error)
    assert entra.code == "ENTRA_TLS" and ("AZURE_CA_BUNDLE" in entra.fix) is (fault in _AS_BEFORE)


_AS_BEFORE = (TlsFault.FOREIGN_ROOT, TlsFault.BAD_CERTIFICATE, TlsFault.OUR_CERTIFICATE)


def test_the_first_contact_tells_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is verified a gateway fetches the trust document; a port of plain HTTP shows there."""

    def get(*_: object, **__: object) -> httpx.Response:
        raise httpx.ConnectError(str(error)) from error

    error = answered_in_plain_http()
    monkeypatch.setattr(httpx.Client, "get", get)
    with pytest.raises(PrimaryUnreachable, match="speaks no TLS on this port"):
        fetch_trust("https://p:8080", Known(("pin",)), datetime.now(UTC))


def test_no_two_causes_have_one_sentence(tmp_path: Path) -> None:
    told = {_told_unreachable("u", CASES[fault](tmp_path)) for fault in TlsFault}
    assert len(told) == len(TlsFault)


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), ConnectionResetError("x"), ValueError("TLS"), None])
def test_what_is_no_fault_of_tls_is_none(error: BaseException | None) -> None:
    assert fault_of(error) is None
