"""A Primary with certificates of its operator's: people see those, gateways join all the same (N2)."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings

from common.clock import now
from gateway_runtime.client import Channel, _told_unreachable
from orchestrator import listener
from orchestrator.listener import ensure_server_certificate, primary_files, refuse_unfit_files
from orchestrator.node.front import context_of
from protocol.paths import MACHINE_NAME
from tests.orchestrator.node.test_tls import Files
from vault import authorities


def handshake(server: ssl.SSLContext, roots: str, name: str) -> bytes | None:
    """The certificate that a client which trusts these roots is shown under this name. Raises `ssl.SSLError`."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.load_verify_locations(cadata=roots)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    served = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(6):
        for side in (client, served):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return client.getpeercert(binary_form=True)


@pytest.fixture
def folder(primary: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The certificate folder of a Primary, with the operator's own files in it."""
    monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, tls_directory=tmp_path))
    own = Files(tmp_path)
    certificate, key = own.pair()
    own.key.write_bytes(key)
    own.write_certificate(certificate)
    return tmp_path


def test_people_see_the_operators_certificate_and_gateways_one_of_our_root(folder: Path) -> None:
    before = {name: (folder / name).read_bytes() for name in ("server.crt", "server.key")}
    ensure_server_certificate(folder)
    assert before == {name: (folder / name).read_bytes() for name in before}, "an operator's own files are never touched"
    context = context_of(primary_files())
    roots = "".join(authorities.trusted_roots(now()))
    assert handshake(context, roots, MACHINE_NAME) == ssl.PEM_cert_to_DER_cert(
        (folder / "machines.crt").read_text().split("-----END")[0] + "-----END CERTIFICATE-----\n"
    )
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, roots, "localhost")
    written = (folder / "machines.crt").stat().st_mtime_ns
    ensure_server_certificate(folder)
    assert (folder / "machines.crt").stat().st_mtime_ns == written, "it is renewed when it is due"


def test_without_own_files_there_is_one_certificate_for_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    ensure_server_certificate(folder)
    assert primary_files().machines is None and not (folder / "machines.crt").exists()


@pytest.mark.parametrize("harm", ["missing", "other", "broken"])
def test_own_files_that_cannot_be_served_are_refused_with_the_layout_that_works(folder: Path, harm: str) -> None:
    refuse_unfit_files(folder)
    if harm == "missing":
        (folder / "server.key").unlink()
    else:
        (folder / "server.key").write_bytes(Files(folder).pair()[1] if harm == "other" else b"no key")
    with pytest.raises(ValueError, match=r"MAZEVAULT_TLS_CERT_PATH: .*server\.key, both PEM"):
        refuse_unfit_files(folder)
    (folder / listener.MARK).write_text("")
    refuse_unfit_files(folder)  # ours are made anew


def test_a_gateway_that_meets_another_authority_asks_for_ours_by_name_and_goes_on_so() -> None:
    asked: list[str | None] = []

    def primary(request: httpx.Request) -> httpx.Response:
        name = request.extensions.get("sni_hostname")
        asked.append(name)
        if name != MACHINE_NAME:
            raise httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] unable to get local issuer certificate")
        return httpx.Response(200)

    channel = object.__new__(Channel)
    channel._server_name = None
    with httpx.Client(transport=httpx.MockTransport(primary)) as http:
        for _ in range(2):
            assert channel._posted(http, "https://primary/x", b"", httpx.Timeout(1)).status_code == 200
    assert asked == [None, MACHINE_NAME, MACHINE_NAME]


def test_who_meets_a_stranger_under_both_names_is_told_what_is_wrong_and_who_mends_it() -> None:
    error: Any = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed")
    told = _told_unreachable("https://p:8443", error)
    assert "ends TLS there" in told and "PRIMARY_BACKEND_URL" in told and "whoever runs the Primary" in told
    assert "ConnectError" in _told_unreachable("https://p:8443", httpx.ConnectError("refused"))
