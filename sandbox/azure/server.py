"""The server: HTTPS, and plain HTTP on the same port for the metadata service, told apart by the first byte."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from sandbox.azure import certificates, routes, vault_api
from sandbox.azure.bearer import caller_of
from sandbox.azure.web import LOST, Answer, Request
from sandbox.azure.world import Seen, World

IDLE_SECONDS = 30.0
LARGEST_BODY = 1024 * 1024
TLS_HANDSHAKE = b"\x16"


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox. `ca_file` is what clients must trust."""

    base_url: str
    plain_url: str
    ca_file: Path
    world: World


class Server(ThreadingHTTPServer):
    """One thread for each connection; the TLS handshake happens there, so that a slow client stops nobody."""

    daemon_threads = True
    request_queue_size = 128
    world: World

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.context = context
        super().__init__(("127.0.0.1", port), _Connection)

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(IDLE_SECONDS)
        first = request.recv(1, socket.MSG_PEEK)
        if first == TLS_HANDSHAKE:
            with self.context.wrap_socket(request, server_side=True) as secured:
                _Connection(secured, client_address, self)
        elif first:
            _Connection(request, client_address, self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up and fail handshakes; that is not worth a traceback. Our own mistakes are."""
        import sys

        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Connection(BaseHTTPRequestHandler):
    """From the wire to `routes.answer` and back."""

    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = -1, True  # head and body in one packet, or each answer waits 40 ms for an ACK
    server_version = "azure-sandbox"
    sys_version = ""
    server: Server

    def _any(self) -> None:
        request = self._read()
        if request is None:
            self.close_connection = True
            self._send(routes.not_understood("the length of the body is missing or too large"))
            return
        world = self.server.world
        if not request.path.startswith("/_control/"):
            began_in = world.directory
            time.sleep(world.faults.slow_seconds)
            if vault_api.vault_name(world, request) is not None:
                time.sleep(world.faults.vault_slow_seconds)
            if world.directory is not began_in:  # the world was put back meanwhile, and this is of the one before
                self.close_connection = True
                return
        answer = routes.answer(world, request)
        grant = request.form().get("grant_type", "") if "form" in request.headers.get("content-type", "") else ""
        host, caller = request.headers.get("host", ""), caller_of(request)
        world.seen.append(Seen(request.method, request.path, grant, answer.status, host, caller))
        self._send(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

    def _read(self) -> Request | None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > LARGEST_BODY or "Transfer-Encoding" in self.headers:
            return None
        parts = urlsplit(self.path)
        return Request(
            method=self.command,
            path=unquote(parts.path),
            query=dict(parse_qsl(parts.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(length)),
            peer=str(self.client_address[0]),
            secure=isinstance(self.request, ssl.SSLSocket),
        )

    def _send(self, answer: Answer) -> None:
        if answer.status == LOST:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in {"Content-Type": answer.content_type, "Cache-Control": "no-store", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The Date header shows the sandbox's clock, so that a wrong one can be noticed."""
        return formatdate(timestamp or self.server.world.now(), usegmt=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Paths carry codes and states, so nothing is logged; `/_control/requests` shows what came."""


def make(folder: Path, port: int, redirect_uris: Iterable[str], context: ssl.SSLContext | None = None) -> tuple[Server, Sandbox]:
    """A server that is bound but does not serve yet. Port 0 takes a free one. Raises `OSError` when the port is taken."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    server = Server(port, context or certificates.server_context(folder))
    taken = server.server_address[1]
    base_url = f"https://localhost:{taken}"
    server.world = World(base_url, folder, redirect_uris)
    return server, Sandbox(base_url, f"http://127.0.0.1:{taken}", folder / "ca.crt", server.world)


@contextmanager
def running(folder: Path, redirect_uris: Iterable[str] = (), port: int = 0) -> Iterator[Sandbox]:
    """A sandbox in a thread, for tests."""
    server, sandbox = make(folder, port, redirect_uris)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield sandbox
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
