"""The only way out to an address that somebody typed in: https, to a vault's name, at an address that was checked.

A name is resolved once and the connection goes to the very address that passed, so a hostile DNS is asked no second time.
A session speaks to its one host alone; redirects, proxies, cookies and the environment's trust settings do not exist here.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool

from common import outside
from common.clock import boottime
from integrations.azure.cloud import Cloud
from integrations.azure.errors import AddressRefused, ServiceTrouble, Unreachable

CALL_SECONDS = 10.0
"""No call lasts longer, whatever the other side does: a lease must outlive it (DESIGN §7)."""
CONNECT_SECONDS = 3.05
RESOLVE_SECONDS = 5.0
LARGEST_ANSWER = 8 * 1024 * 1024
LONGEST_URL = 300
HTTPS_PORT = 443
VAULT_NAME = re.compile(r"[a-z](?:[a-z0-9]|-(?!-)){1,22}[a-z0-9]")
LOOPBACK = "127.0.0.1"
NEVER = tuple(map(ipaddress.ip_network, (
    "0.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "192.0.0.0/24", "198.18.0.0/15",
    "224.0.0.0/3",
    "::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fe80::/10", "fec0::/10", "ff00::/8",
)))  # fmt: skip
"""Not even when named as private networks: this host, the metadata and wire servers, IPv6 that hides an IPv4 address."""
WHO_ANSWERS = "find out what answers in place of Azure"
FIX_ADDRESS = "give the address of a vault as Azure shows it, https://<vault>.vault.azure.net/"

Resolver = Callable[[str, int], Sequence[str]]
Connector = Callable[[tuple[str, int], float], socket.socket]


@dataclass(frozen=True)
class Target:
    """Where a session may connect to. `local` is the configured stand-in on this machine."""

    host: str
    port: int
    local: bool = False

    @property
    def origin(self) -> str:
        return f"https://{self.host}" if self.port == HTTPS_PORT else f"https://{self.host}:{self.port}"


class Guard:
    """Checks addresses and opens connections for one cloud. Tests replace how names are resolved and sockets opened."""

    def __init__(self, cloud: Cloud, resolve: Resolver | None = None, connect: Connector | None = None) -> None:
        self.cloud = cloud
        self._resolve = resolve or _ask_system
        self._connect = connect or socket.create_connection

    def vault(self, url: str) -> Target:
        """The vault an address means. Raises `AddressRefused` with the reason."""
        return read_vault_url(url, self.cloud)

    def resource_manager(self) -> Target:
        parts = urlsplit(self.cloud.arm_endpoint)
        return Target(parts.hostname or "", parts.port or HTTPS_PORT, local=self.cloud.arm_is_local)

    def addresses(self, target: Target) -> list[str]:
        """Resolve a name and check every address it has. Raises `Unreachable` or `AddressRefused`."""
        outside.begins(target.host)
        if target.local:
            return [LOOPBACK]
        found = list(dict.fromkeys(_in_time(lambda: self._resolve(target.host, target.port), target.host)))
        for address in found:
            reason = reason_against(address, self.cloud)
            if reason:
                raise AddressRefused(
                    f"the name {target.host} leads to {address}, which {reason}",
                    "check the DNS of this name; for a private endpoint name its network in AZURE_PRIVATE_NETWORKS",
                )
        if not found:
            raise _no_such_name(target.host)
        return found

    def open_socket(self, target: Target, addresses: Sequence[str], seconds: float = CONNECT_SECONDS) -> socket.socket:
        """A connection to the first of the checked addresses that answers. Raises `Unreachable`."""
        outside.begins(target.host)
        for address in addresses:
            try:
                return self._connect((address, target.port), seconds)
            except OSError as error:
                reason = "timed out" if isinstance(error, TimeoutError) else (error.strerror or "failed").lower()
        raise Unreachable(
            f"no connection to {target.host} at {addresses[-1]}:{target.port}: {reason}",
            f"open outbound TCP {target.port} from this node to the vault",
        )

    def tls_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.cloud.ca_bundle) if self.cloud.ca_bundle else None)

    def session(self, target: Target) -> Session:
        return Session(self, target)


def read_vault_url(url: str, cloud: Cloud) -> Target:
    """The vault an address means. Pure; whatever is not plainly the address of a vault is refused."""
    if not url:
        raise _refused("it is missing")
    if not isinstance(url, str) or len(url) > LONGEST_URL or not re.fullmatch(r"[A-Za-z0-9:/.-]+", url):
        raise _refused("it is too long, or has characters that no address of a vault has")
    found = re.fullmatch(r"https://([A-Za-z0-9.-]+)(?::(\d{1,5}))?/?", url, re.IGNORECASE)
    if not found:
        raise _refused("it must be https://, the name of a vault and its domain, nothing else")
    host, port = found[1].lower(), int(found[2] or HTTPS_PORT)
    name, _, domain = host.partition(".")
    if not VAULT_NAME.fullmatch(name):
        raise _refused(f"{name or 'nothing'} cannot be the name of a vault: 3 to 24 letters, digits and single hyphens")
    if cloud.sandbox_domain and f"{domain}:{port}" == cloud.sandbox_domain:
        return Target(host, port, local=True)
    if domain not in cloud.vault_suffixes:
        raise _refused(f"vaults lie in {' or '.join(cloud.vault_suffixes)}, not in {domain or 'no domain at all'}")
    if port != HTTPS_PORT:
        raise _refused(f"vaults answer at port {HTTPS_PORT} only")
    return Target(host, port)


def reason_against(text: str, cloud: Cloud) -> str:
    """Why an address may not be connected to, or nothing."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "is no plain address"
    if any(address in network for network in NEVER if network.version == address.version):
        return "belongs to this host, to the platform, or to no network at all"
    if address.is_global or any(address in network for network in cloud.private_networks if network.version == address.version):
        return ""
    return "is not a public address"


class Deadline:
    """The end of one call. When it comes, the sockets in use are shut, so that no trickling answer outlives it.

    `sent` says whether a request with a token went out: then the other side may have acted.
    """

    def __init__(self, seconds: float) -> None:
        self._at = boottime() + seconds
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.sent = self.expired = False
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    @property
    def left(self) -> float:
        """Seconds until the end, never below zero."""
        return max(0.0, self._at - boottime())

    def watch(self, watched: socket.socket | None) -> None:
        if watched is None:
            return
        with self._lock:
            self._sockets.append(watched)
            if self.expired:
                _shut(watched)

    def cancel(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._sockets.clear()

    def _end(self) -> None:
        with self._lock:
            self.expired = True
            for watched in self._sockets:
                _shut(watched)


class Session(requests.Session):
    """Speaks to one target. Every request belongs to a deadline: that of `within`, or one of its own."""

    def __init__(self, guard: Guard, target: Target) -> None:
        super().__init__()
        self.trust_env = False
        self.target = target
        self._calls = threading.local()
        self._adapter = _Adapter(guard, target, lambda: self.deadline)
        self._trust = str(guard.cloud.ca_bundle) if guard.cloud.ca_bundle else True

    @property
    def deadline(self) -> Deadline | None:
        return getattr(self._calls, "deadline", None)

    @contextmanager
    def within(self, seconds: float) -> Iterator[Deadline]:
        """All requests of this thread in here end together."""
        deadline = self._calls.deadline = Deadline(seconds)
        try:
            yield deadline
        finally:
            self._calls.deadline = None
            deadline.cancel()

    def send(self, request: requests.PreparedRequest, **more: Any) -> requests.Response:
        if self.deadline is None:
            with self.within(CALL_SECONDS):
                return self.send(request, **more)
        outside.begins(self.target.host)
        answer = super().send(request, **{**more, "allow_redirects": False})
        self.cookies.clear()
        if 300 <= answer.status_code < 400:
            raise AddressRefused(
                f"{self.target.host} answered with a redirect, and redirects are not followed",
                WHO_ANSWERS,
            )
        return answer

    def get_adapter(self, url: str | bytes) -> _Adapter:
        """Only for this session's own host; a link to the next page may not lead elsewhere either."""
        parts = urlsplit(url.decode() if isinstance(url, bytes) else url)
        asked = (parts.scheme, parts.hostname, parts.port or HTTPS_PORT, parts.username)
        if asked != ("https", self.target.host, self.target.port, None):
            raise AddressRefused(
                f"a request for {parts.hostname} is not sent: this connection is for {self.target.host} only",
                WHO_ANSWERS,
            )
        return self._adapter

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Trust is the cloud's, whatever REQUESTS_CA_BUNDLE says; there are no proxies."""
        return {"verify": self._trust, "proxies": {}, "stream": stream, "cert": None}

    def close(self) -> None:
        super().close()
        self._adapter.close()


class _Adapter(HTTPAdapter):
    """Connects through the guard and reads no more than an answer may have."""

    def __init__(self, guard: Guard, target: Target, deadline: Callable[[], Deadline | None]) -> None:
        super().__init__(max_retries=0)

        class Connection(_Connection):
            pass

        class Pool(HTTPSConnectionPool):
            ConnectionCls = Connection

        Connection.guard, Connection.target, Connection.deadline_of = guard, target, staticmethod(deadline)
        self.poolmanager.pool_classes_by_scheme = {"https": Pool}

    def send(self, request: requests.PreparedRequest, *args: Any, **more: Any) -> requests.Response:
        answer = super().send(request, *args, **{**more, "stream": True, "timeout": (CONNECT_SECONDS, CALL_SECONDS)})
        try:
            answer._content = _body_of(answer)
        except urllib3.exceptions.HTTPError as error:
            answer.close()
            raise requests.exceptions.ConnectionError(urllib3.exceptions.ProtocolError(str(type(error).__name__))) from None
        answer._content_consumed = True
        return answer


class _Connection(HTTPSConnection):
    guard: Guard
    target: Target
    deadline_of: Callable[[], Deadline | None]
    _watched: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        deadline = self.deadline_of()
        _refuse_late(deadline)
        opened = self.guard.open_socket(self.target, self.guard.addresses(self.target))
        opened.settimeout(CALL_SECONDS)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watched = opened.dup()  # TLS takes the socket itself away
        if deadline:
            deadline.watch(self._watched)
        return opened

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **more: Any) -> None:
        """The last moment before something leaves: not after the deadline."""
        deadline = self.deadline_of()
        _refuse_late(deadline)
        if deadline:
            deadline.watch(self._watched)
            deadline.sent = deadline.sent or "authorization" in {name.lower() for name in headers or {}}
        super().request(method, url, body=body, headers=headers, **more)

    def send(self, data: Any) -> None:
        """Head and body leave in pieces, and this process may stand still before each of them."""
        _refuse_late(self.deadline_of())
        super().send(data)

    def close(self) -> None:
        super().close()
        if self._watched:
            self._watched.close()
            self._watched = None


def _refuse_late(deadline: Deadline | None) -> None:
    if (deadline and not deadline.left) or outside.right_is_over():
        raise Unreachable("there was no time left to send the request", "try again")


def _body_of(answer: requests.Response) -> bytes:
    body = bytearray()
    for piece in answer.raw.stream(64 * 1024, decode_content=True):
        body += piece
        if len(body) > LARGEST_ANSWER:
            answer.close()
            raise ServiceTrouble("the answer is too large to be one of Azure's", WHO_ANSWERS)
    return bytes(body)


def _ask_system(host: str, port: int) -> list[str]:
    return [str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _in_time(ask: Callable[[], Sequence[str]], host: str) -> Sequence[str]:
    """The system's resolver knows no time limit, so it is waited for in a thread."""
    found: list[Sequence[str] | OSError] = []

    def run() -> None:
        try:
            found.append(ask())
        except OSError as error:
            found.append(error)

    waiting = threading.Thread(target=run, daemon=True)
    waiting.start()
    waiting.join(RESOLVE_SECONDS)
    if not found:
        raise Unreachable(
            f"the name {host} was not resolved within {RESOLVE_SECONDS:.0f} seconds", "check the DNS server of this node"
        )
    if isinstance(found[0], OSError):
        raise _no_such_name(host) from None
    return found[0]


def _no_such_name(host: str) -> Unreachable:
    return Unreachable(
        f"the name {host} does not resolve",
        "check the name of the vault and that this node's DNS knows it; a private endpoint needs its private DNS zone",
    )


def _refused(reason: str) -> AddressRefused:
    return AddressRefused(f"vault_url: {reason}", FIX_ADDRESS)


def _shut(watched: socket.socket) -> None:
    try:
        watched.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
