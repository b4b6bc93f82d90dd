"""The HTTPS server of a node: gunicorn's threaded worker in one process, with our own TLS (DESIGN §4).

One process is one server, so what an operator kills, freezes or counts is the node itself; a fleet adds processes.
The client certificate is optional at TLS and demanded by the routes that need it; it is read from this socket only.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gunicorn import http, sock
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import TConn, ThreadWorker

log = logging.getLogger("mazevault.server")

HEAD_SECONDS = 10.0
"""The handshake, and the head of a request, must be there within this time, however slowly they drip in."""
BODY_SECONDS = 30.0
"""The same for a whole body; the largest one then needs 70 kB/s."""
SEND_SECONDS = 20.0
"""A peer that takes nothing of an answer for so long loses its thread."""
KEPT_FREE = 8
"""Threads for callers with a client certificate beyond those that waiting directive calls may hold (half of all)."""
GRACEFUL_SECONDS = 4
STOP_HOOK_SECONDS = 8.5
"""The launcher kills after 10 s."""
RETRY_SECONDS = 1.0
"""How often a certificate that cannot be taken is tried again."""
KEEPALIVE_SECONDS = 65
"""Longer than a heartbeat interval, so that a punctual gateway keeps its connection."""


class TimedSocket(ssl.SSLSocket):
    """A TLS socket whose "blocking" means for a limited time in all, also on kept-alive connections."""

    _ends = 0.0

    def setblocking(self, flag: bool) -> None:
        if flag:
            self.limit(HEAD_SECONDS)
        else:
            self.settimeout(0.0)

    def limit(self, seconds: float) -> None:
        """From now on everything that is received must be there within these seconds, not only the next piece of it."""
        self._ends = time.monotonic() + seconds
        self.settimeout(seconds)

    def recv(self, *arguments: Any) -> bytes:
        if self.gettimeout():
            left = self._ends - time.monotonic()
            if left <= 0:
                raise ConnectionResetError(errno.ECONNRESET, "the request came too slowly")
            self.settimeout(left)
        try:
            return super().recv(*arguments)
        except TimeoutError:
            raise ConnectionResetError(errno.ECONNRESET, "the request came too slowly") from None

    def send(self, *arguments: Any) -> int:
        if self.gettimeout():
            self.settimeout(SEND_SECONDS)
        return super().send(*arguments)


class TlsConnection(TConn):
    """A connection whose handshake and reads have a time limit, so that silent peers cannot hold all threads."""

    context: ssl.SSLContext | None = None
    initialized: bool
    sock: socket.socket

    def init(self) -> None:
        if self.initialized:
            return
        self.initialized = True
        self.sock.settimeout(HEAD_SECONDS)
        if self.context is not None:
            self.sock = self.context.wrap_socket(self.sock, server_side=True)
            self.sock.setblocking(True)
        self.parser = http.get_parser(self.cfg, self.sock, self.client)

    @property
    def is_known(self) -> bool:
        """Whether the caller has shown a client certificate of ours; before the handshake nobody has."""
        return isinstance(self.sock, TimedSocket) and self.sock.getpeercert(binary_form=True) is not None


class NodeWorker(ThreadWorker):
    """gunicorn's threaded worker with our connection class, and threads of their own for callers with a client certificate.

    Whoever fills all threads with slow connections then keeps strangers waiting, and no gateway that is connected: leases and
    heartbeats go on.
    """

    def init_process(self) -> None:
        self._known = ThreadPoolExecutor(self.cfg.threads // 2 + KEPT_FREE, thread_name_prefix="known")
        super().init_process()
        self._known.shutdown(wait=False)

    def enqueue_req(self, conn: Any) -> None:
        done = (self._known if conn.is_known else self.tpool).submit(self.handle, conn)
        done.add_done_callback(lambda future: self.method_queue.defer(self.finish_request, conn, future))

    def handle_request(self, req: Any, conn: Any) -> Any:
        if isinstance(conn.sock, TimedSocket):
            conn.sock.limit(BODY_SECONDS)
        return super().handle_request(req, conn)

    def accept(self, listener: Any) -> None:
        try:
            client_socket, client_address = listener.accept()
        except OSError:
            return
        self.nr_conns += 1
        connection = TlsConnection(self.cfg, client_socket, client_address, listener.getsockname())
        connection.context = self.app.current_context()
        self.enqueue_req(connection)


class NodeServer(BaseApplication):
    """A gunicorn application that runs its worker in this very process."""

    def __init__(self, application: Callable[..., Any], *, host: str, port: int, threads: int,
                 context: Callable[[], ssl.SSLContext] | None) -> None:  # fmt: skip
        self._application, self._host, self._port, self._threads = application, host, port, threads
        self._context = context
        super().__init__()

    def load_config(self) -> None:
        options = {
            "bind": f"{self._host}:{self._port}",
            "threads": self._threads,
            "worker_connections": 2000,
            "keepalive": KEEPALIVE_SECONDS,
            "graceful_timeout": GRACEFUL_SECONDS,
            "timeout": 0,
            "limit_request_line": 4094,
            "limit_request_fields": 60,
            "control_socket_disable": True,
            "loglevel": "warning",
            "http_protocols": "h1",
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Callable[..., Any]:
        return self._application

    def current_context(self) -> ssl.SSLContext | None:
        """The TLS context new connections get; a renewed certificate is taken without a restart."""
        return self._context() if self._context else None

    def run_here(self, *, on_listening: Callable[[], None], on_stop: Callable[[], None]) -> None:
        """Serve until TERM or INT. `on_stop` runs first, while the server still answers, and must be quick."""
        logger = self.cfg.logger_class(self.cfg)
        listeners = sock.create_sockets(self.cfg, logger)
        worker = NodeWorker(1, os.getppid(), listeners, self, 30, self.cfg, logger)
        worker.pid = os.getpid()
        worker.is_parent_alive = lambda: True  # this process has no arbiter above it
        stopping = _StopOnce(worker, on_stop)
        worker.init_signals = stopping.install
        on_listening()
        worker.init_process()
        stopping.finish()
        logging.shutdown()
        os._exit(0)  # threads that wait for a directive must not hold the end of the process


class _StopOnce:
    """Runs the stop hook once, beside the graceful end of the server, whatever signal came."""

    def __init__(self, worker: NodeWorker, hook: Callable[[], None]) -> None:
        self._worker = worker
        self._thread = threading.Thread(target=hook, name="stop-hook", daemon=True)
        self._started = False

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._handle)

    def finish(self) -> None:
        self._start()
        self._thread.join(STOP_HOOK_SECONDS)

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._thread.start()

    def _handle(self, number: int, frame: Any) -> None:
        self._start()
        self._worker.handle_exit(number, frame)


class FreshContext:
    """A TLS context that is built once and again when its certificate file was replaced, so that renewal needs no restart.

    Who renews certificate and key one after the other leaves files that do not fit for a while: the old context serves on.
    """

    def __init__(self, watched: Path, build: Callable[[], ssl.SSLContext]) -> None:
        self._watched, self._build = watched, build
        self._stamp = watched.stat().st_mtime_ns
        self._context = build()
        self._is_logged = False
        self._next_try = 0.0

    def __call__(self) -> ssl.SSLContext:
        if time.monotonic() >= self._next_try:
            try:
                self._look()
            except Exception as error:  # in the accept loop nothing may end the server; most are files that do not fit yet
                self._keep_old(error)
        return self._context

    def _look(self) -> None:
        stamp = self._watched.stat().st_mtime_ns
        if stamp != self._stamp:
            self._context, self._stamp, self._is_logged = self._build(), stamp, False

    def _keep_old(self, error: Exception) -> None:
        self._next_try = time.monotonic() + RETRY_SECONDS
        if not self._is_logged:
            self._is_logged = True
            log.error("the new certificate cannot be taken yet, the old one serves on: %s: %r", self._watched, error)


def server_context(certificate_file: str, key_file: str | None, trusted: str, password: bytes | None) -> ssl.SSLContext:
    """TLS 1.3 only; a client certificate is welcome, and if one is shown it must chain to `trusted` (PEM text)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate_file, key_file, password=password)
    context.load_verify_locations(cadata=trusted)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    context.sslsocket_class = TimedSocket
    return context
