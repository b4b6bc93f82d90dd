"""Addresses that lead somewhere else than to a vault: none of them is connected to."""

from __future__ import annotations

import gzip
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.core.credentials import AccessToken

from integrations.azure import egress
from integrations.azure.cloud import AuthMethod, Cloud, Connection
from integrations.azure.egress import Guard, Target, read_vault_url, reason_against
from integrations.azure.errors import AddressRefused, AzureTrouble, OutcomeUnknown, ServiceTrouble, TlsRefused, Unreachable
from integrations.azure.keyvault import KeyVault
from sandbox.azure.server import Sandbox
from tests.integrations.azure.conftest import MARKS, NPR

AZURE = Cloud()
PUBLIC = "20.50.2.1"
VAULT = "https://kv-payments-npr.vault.azure.net"

URLS = [
    # other schemes, no scheme, parts that an address of a vault does not have
    "http://kv-payments-npr.vault.azure.net/", "ftp://kv-payments-npr.vault.azure.net/", "file:///etc/passwd",
    "gopher://127.0.0.1:70/_x",
    "//kv-payments-npr.vault.azure.net/", "kv-payments-npr.vault.azure.net", "", "https://", "https:///secrets",
    "javascript:alert(1)",
    f"{VAULT}/secrets/x", f"{VAULT}/../..", f"{VAULT}?x=1", f"{VAULT}/#@127.0.0.1", f"{VAULT};x",
    "https:kv-payments-npr.vault.azure.net",
    # userinfo and what parsers disagree about
    "https://kv-payments-npr.vault.azure.net@127.0.0.1/", "https://user:pass@kv-payments-npr.vault.azure.net/",
    "https://127.0.0.1#@kv-payments-npr.vault.azure.net/", "https://127.0.0.1\\@kv-payments-npr.vault.azure.net/",
    "https://127.0.0.1\\.vault.azure.net/", "https://127.0.0.1?.vault.azure.net", "https://127.0.0.1/.vault.azure.net",
    "https://127.0.0.1%2f.vault.azure.net/", "https://127.0.0.1%00.vault.azure.net/",
    "https://127.0.0.1:443\t.vault.azure.net/",
    "https://kv-payments-npr.vault.azure.net\r\nHost: 127.0.0.1/", " https://kv-payments-npr.vault.azure.net/", f"{VAULT} ",
    f"{VAULT}\n",
    "https://[::1]@kv-payments-npr.vault.azure.net/", "https://kv-payments-npr.vault.azure.net:443@127.0.0.1/",
    # this machine and its network by address, in every spelling
    "https://127.0.0.1/", "https://localhost/", "https://[::1]/", "https://0.0.0.0/", "https://127.1/", "https://2130706433/",
    "https://0x7f000001/", "https://0177.0.0.1/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/",
    "https://10.0.0.1/",
    "https://169.254.169.254/metadata/instance", "https://168.63.129.16/", "https://[fd00::1]/", "https://[fe80::1%25eth0]/",
    "https://192.168.1.1/", "https://100.64.0.1/",
    # names that only look like a vault's
    "https://vault.azure.net/", "https://.vault.azure.net/", "https://a.vault.azure.net/", "https://kv..vault.azure.net/",
    "https://kv-payments-npr.vault.azure.net.evil.example/", "https://kv-payments-nprvault.azure.net/",
    "https://evilvault.azure.net/",
    "https://x.kv-payments-npr.vault.azure.net/", "https://kv-payments-npr.privatelink.vaultcore.azure.net/",
    "https://kv-payments-npr.vault.azure.net./", "https://kv_payments.vault.azure.net/", "https://1kv.vault.azure.net/",
    "https://kv--payments.vault.azure.net/", "https://kv-.vault.azure.net/", f"https://{'k' * 25}.vault.azure.net/",
    "https://kv-payments-npr.vault.azure.net:22/", "https://kv-payments-npr.vault.azure.net:8443/",
    "https://kv-payments-npr.vault.azure.net:0/",
    "https://kv-payments-npr.vault.azure.net:99999/", "https://kv-payments-npr.vault.azure.net:/",
    "https://kv-payments-npr.vault.azurе.net/",
    "https://ⓚⓥ-payments.vault.azure.net/", "https://kv-payments-npr.vault。azure。net/", "https://xn--kv-abc.vault.azure.net/",
    "https://login.microsoftonline.com/", "https://kv-mazevault-npr.vault.localhost/",
    "https://kv-mazevault-npr.vault.localhost:9447/",
    f"https://{'a' * 400}.vault.azure.net/",
]  # fmt: skip

ADDRESSES = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.0.1", "100.64.0.1", "169.254.169.254",  # noqa: S104
    "168.63.129.16",
    "192.0.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "203.0.113.7", "::1", "::",
    "::127.0.0.1",
    "::ffff:127.0.0.1", "::ffff:20.50.2.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::", "fe80::1", "fe80::1%eth0",
    "fd00::1",
    "fec0::1", "ff02::1", "2001:db8::1", "not an address", "",
]  # fmt: skip


class Trap:
    """Listens on this machine and remembers who came, and what our code tried to connect to at all."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.came = 0
        self.asked: list[str] = []
        self.attempts: list[tuple[str, int]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                opened, _ = self._listening.accept()
                self.came += 1
                opened.close()

    def connect(self, address: tuple[str, int], seconds: float) -> socket.socket:
        """Whatever is connected to leads into the trap."""
        self.attempts.append(address)
        return socket.create_connection(("127.0.0.1", self.port), seconds)

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def trap() -> Iterator[Trap]:
    made = Trap()
    yield made
    made.close()


class Anybody:
    def get_token(self, *_: str, **__: Any) -> AccessToken:
        return AccessToken("a-token", int(time.time()) + 3600)


def try_vault(url: str, guard: Guard) -> AzureTrouble:
    """The refusal of a whole call by the real client."""
    with pytest.raises(AzureTrouble) as caught, KeyVault(Connection(url, AuthMethod.MANAGED_IDENTITY), Anybody(), guard) as vault:
        vault.get("x")
    return caught.value


def answering_with(addresses: list[str]) -> Callable[[str, int], list[str]]:
    return lambda host, port: addresses


def test_no_url_of_the_corpus_is_even_looked_up(trap: Trap) -> None:
    def resolve(host: str, port: int) -> list[str]:
        trap.asked.append(host)
        return ["127.0.0.1"]

    assert len(set(URLS)) >= 60
    guard = Guard(AZURE, resolve, trap.connect)
    for url in URLS:
        assert isinstance(try_vault(url, guard), AddressRefused), url
    assert (trap.asked, trap.attempts, trap.came) == ([], [], 0)


def test_no_name_is_followed_to_an_address_of_the_corpus(trap: Trap) -> None:
    for address in ADDRESSES:
        for answer in ([address], [PUBLIC, address], [address, PUBLIC]):
            refusal = try_vault(VAULT, Guard(AZURE, answering_with(answer), trap.connect))
            assert isinstance(refusal, AddressRefused), answer
    assert (trap.attempts, trap.came) == ([], 0)


def test_a_name_that_changes_its_address_is_connected_at_the_checked_one_only(trap: Trap) -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"], ["169.254.169.254"]])

    def rebind(host: str, port: int) -> list[str]:
        trap.asked.append(host)
        return next(answers)

    guard = Guard(AZURE, rebind, trap.connect)
    try_vault(VAULT, guard)
    assert trap.attempts == [(PUBLIC, 443)] and len(trap.asked) == 1
    assert isinstance(try_vault(VAULT, guard), AddressRefused), "the next call checks anew"
    assert trap.attempts == [(PUBLIC, 443)]


def test_the_trap_does_catch_what_is_allowed_through(trap: Trap) -> None:
    refusal = try_vault(VAULT, Guard(AZURE, lambda host, port: [PUBLIC], trap.connect))
    assert isinstance(refusal, Unreachable | TlsRefused) and trap.came == 1 and trap.attempts == [(PUBLIC, 443)]


def test_the_environment_names_no_proxy_and_no_trust(trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{trap.port}")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")

    def refuse(address: tuple[str, int], seconds: float) -> socket.socket:
        trap.attempts.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    assert "connection refused" in str(try_vault(VAULT, Guard(AZURE, lambda host, port: [PUBLIC, "20.50.2.2"], refuse)))
    assert trap.attempts == [(PUBLIC, 443), ("20.50.2.2", 443)] and trap.came == 0


@pytest.mark.parametrize("url", ["https://kv-payments-npr.vault.azure.net", "https://KV-Payments-NPR.vault.azure.net:443/",
                                 "HTTPS://kv1.vault.azure.cn/", "https://k-v.vault.usgovcloudapi.net/"])  # fmt: skip
def test_addresses_of_vaults_are_taken(url: str) -> None:
    target = read_vault_url(url, AZURE)
    assert target.host == url.lower().split("//")[1].rstrip("/").removesuffix(":443") and target.port == 443


def test_private_endpoints_are_reached_only_in_networks_that_are_named() -> None:
    named = Cloud(private_networks=(ipaddress.ip_network("10.20.0.0/16"), ipaddress.ip_network("fd12:3456::/32")))
    assert [reason_against(one, named) for one in ("10.20.1.4", "fd12:3456::4", PUBLIC)] == ["", "", ""]
    assert all(reason_against(one, named) for one in ("10.21.0.1", "fd13::1", "192.168.0.1", "127.0.0.1"))
    wide = Cloud(private_networks=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("172.16.0.0/12")))
    assert all(reason_against(one, wide) for one in ("169.254.169.254", "168.63.129.16", "127.0.0.1", "100.64.0.1"))


@pytest.mark.parametrize("network", ["127.0.0.0/8", "169.254.0.0/16", "8.8.8.0/24", "0.0.0.0/0", "fe80::/10", "::1/128"])
def test_only_private_networks_can_be_named(network: str) -> None:
    with pytest.raises(ValueError, match="private_networks"):
        Cloud(private_networks=(ipaddress.ip_network(network),))


@pytest.mark.parametrize(
    "domain", ["vault.azure.net:443", "localhost", "vault.localhost", "evil.example:9447", "localhost.evil.example:1"]
)
def test_the_sandbox_can_only_be_on_this_machine(domain: str) -> None:
    with pytest.raises(ValueError, match="sandbox_domain"):
        Cloud(sandbox_domain=domain)


def test_the_sandbox_is_reached_without_dns_and_only_there(sandbox: Sandbox, cloud: Cloud) -> None:
    def never(host: str, port: int) -> list[str]:
        raise AssertionError(f"{host} was looked up")

    target = read_vault_url(f"https://{NPR}.{sandbox.world.vault_domain}", cloud)
    assert target.local and Guard(cloud, never).addresses(target) == ["127.0.0.1"]
    for url in (
        f"https://{NPR}.vault.localhost:1/",
        f"https://{NPR}.localhost:{target.port}/",
        f"https://127.0.0.1:{target.port}/",
    ):
        with pytest.raises(AddressRefused):
            read_vault_url(url, cloud)


def test_resource_manager_is_local_only_when_it_and_the_vaults_are() -> None:
    here, there = "https://localhost:9447", "https://management.azure.com"
    stand_in = "vault.localhost:9447"
    for sandbox_domain, endpoint, local in (("", there, False), (stand_in, there, False), (stand_in, here, True)):
        cloud = Cloud(sandbox_domain=sandbox_domain, arm_endpoint=endpoint)
        assert (Guard(cloud).resource_manager().local, cloud.arm_resource) == (local, there)
    with pytest.raises(AddressRefused):
        guard = Guard(Cloud(arm_endpoint=here), lambda host, port: ["127.0.0.1"])
        guard.addresses(guard.resource_manager())


def test_a_session_sends_to_its_own_host_alone(guard: Guard, sandbox: Sandbox) -> None:
    target = guard.vault(f"https://{NPR}.{sandbox.world.vault_domain}")
    with guard.session(target) as session:
        assert session.get(f"{target.origin}/secrets?api-version=7.6").status_code == 401
        for url in (sandbox.base_url, f"https://kv-mazevault-pro.{sandbox.world.vault_domain}", f"http://{target.host}:{target.port}/",
                    f"https://user@{target.host}:{target.port}/", f"https://{target.host}/"):  # fmt: skip
            with pytest.raises((AddressRefused, requests.RequestException)):
                session.get(url)
        with pytest.raises(requests.exceptions.SSLError):
            Guard(Cloud(sandbox_domain=sandbox.world.vault_domain)).session(target).get(target.origin)


Serve = Callable[[bytes], Callable[[ssl.SSLSocket], None]]


class Hostile:
    """A TLS server with the sandbox's own certificate that answers what it likes."""

    def __init__(self, folder: Path, behave: Callable[[ssl.SSLSocket], None]) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "server.pem")
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._behave = behave
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                opened, _ = self._listening.accept()
                threading.Thread(target=self._one, args=(opened,), daemon=True).start()

    def _one(self, opened: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(opened, server_side=True) as secured:
            secured.recv(65536)
            self._behave(secured)

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def hostile(sandbox: Sandbox) -> Iterator[Callable[..., Guard]]:
    """A guard whose every vault is a hostile server, and the way to a session with it."""
    servers: list[Hostile] = []

    def make(behave: Callable[[ssl.SSLSocket], None]) -> Guard:
        server = Hostile(sandbox.ca_file.parent, behave)
        servers.append(server)
        return Guard(Cloud(sandbox_domain=f"vault.localhost:{server.port}", ca_bundle=sandbox.ca_file))

    yield make
    for server in servers:
        server.close()


def trickle(secured: ssl.SSLSocket) -> None:
    secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    with suppress(OSError):
        for _ in range(200):
            secured.sendall(b"x")
            time.sleep(0.05)


def vault_at(guard: Guard, **more: Any) -> KeyVault:
    url = f"https://{NPR}.{guard.cloud.sandbox_domain}"
    return KeyVault(Connection(url, AuthMethod.MANAGED_IDENTITY), Anybody(), guard, **more)


def challenged(then: Callable[[ssl.SSLSocket], None]) -> Callable[[ssl.SSLSocket], None]:
    """Ask for a token first, as a vault does; what comes with one is answered as told."""

    def behave(secured: ssl.SSLSocket) -> None:
        port = secured.getsockname()[1]
        header = f'Bearer authorization="https://login/t", resource="https://vault.localhost:{port}"'
        secured.sendall(f"HTTP/1.1 401 X\r\nWWW-Authenticate: {header}\r\nContent-Length: 0\r\n\r\n".encode())
        secured.recv(65536)
        then(secured)

    return behave


def answering(head: str, body: bytes = b"") -> Callable[[ssl.SSLSocket], None]:
    return lambda secured: secured.sendall(f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


def test_an_answer_that_trickles_ends_with_the_deadline(hostile: Callable[..., Guard]) -> None:
    for attempt, kind in (
        (lambda vault: vault.get("x"), Unreachable),
        (lambda vault: vault.set("x", "y", MARKS), OutcomeUnknown),
    ):
        begun = time.monotonic()
        with pytest.raises(kind), vault_at(hostile(challenged(trickle)), seconds=0.7) as vault:
            attempt(vault)
        assert time.monotonic() - begun < 2


def test_a_handshake_that_never_ends_ends_with_the_deadline(sandbox: Sandbox) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    guard = Guard(Cloud(sandbox_domain=f"vault.localhost:{silent.getsockname()[1]}", ca_bundle=sandbox.ca_file))
    begun = time.monotonic()
    with pytest.raises(AzureTrouble), vault_at(guard, seconds=0.5) as vault:
        vault.get("x")
    assert time.monotonic() - begun < 2
    silent.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed_with_or_without_a_token(hostile: Callable[..., Guard], trap: Trap, status: int) -> None:
    away = answering(f"{status} Moved\r\nLocation: https://127.0.0.1:{trap.port}/secrets")
    for behave in (away, challenged(away)):
        with pytest.raises(AddressRefused, match="redirect"), vault_at(hostile(behave)) as vault:
            vault.get("x")
    with pytest.raises(OutcomeUnknown), vault_at(hostile(challenged(away))) as vault:
        vault.set("x", "y", MARKS)
    assert trap.came == 0


def test_a_next_page_elsewhere_is_not_fetched(hostile: Callable[..., Guard], trap: Trap) -> None:
    body = b'{"value": [], "nextLink": "https://127.0.0.1:%d/secrets?api-version=7.6"}' % trap.port
    with (
        pytest.raises(AddressRefused, match="this connection is for"),
        vault_at(hostile(challenged(answering("200 OK\r\nContent-Type: application/json", body)))) as vault,
    ):
        list(vault.entries())
    assert trap.came == 0


def test_a_challenge_for_a_foreign_resource_gets_no_token(hostile: Callable[..., Guard]) -> None:
    header = 'WWW-Authenticate: Bearer authorization="https://login/t", resource="https://evil.example"'
    with pytest.raises(ServiceTrouble), vault_at(hostile(answering(f"401 Unauthorized\r\n{header}"))) as vault:
        vault.get("x")


def test_too_much_and_too_well_packed_answers_are_cut_off(hostile: Callable[..., Guard], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "LARGEST_ANSWER", 200_000)
    for head, body in (("200 OK", b"x" * 300_000), ("200 OK\r\nContent-Encoding: gzip", gzip.compress(b"x" * 50_000_000))):
        with pytest.raises(ServiceTrouble, match="too large"), vault_at(hostile(challenged(answering(head, body)))) as vault:
            vault.get("x")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b"null", b'{"value": 7}', b'{"error": "x"}'])
def test_an_answer_that_is_none_of_azures_is_one_of_our_errors(hostile: Callable[..., Guard], body: bytes) -> None:
    for head in ("200 OK", "403 Forbidden", "409 Conflict", "500 Broken", "418 Teapot"):
        full = f"{head}\r\nContent-Type: application/json"
        with vault_at(hostile(challenged(answering(full, body)))) as vault, suppress(AzureTrouble):
            vault.get("x")
        with vault_at(hostile(challenged(answering(full, body)))) as vault, suppress(AzureTrouble):
            list(vault.entries())


def test_a_name_that_does_not_resolve_or_takes_too_long_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(egress, "RESOLVE_SECONDS", 0.2)

    def slow(host: str, port: int) -> list[str]:
        time.sleep(2)
        return [PUBLIC]

    for resolve in (unknown, answering_with([]), slow):
        with pytest.raises(Unreachable, match="resolve"):
            Guard(AZURE, resolve).addresses(Target("kv1.vault.azure.net", 443))
