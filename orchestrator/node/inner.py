"""The workers' side of the private socket: whole requests in, WSGI application, answers out. One thread for each connection.

The front opens no more connections than a lane has slots, so the number of threads is its decision.
"""

from __future__ import annotations

import io
import logging
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from common.progress import Progress, loops
from orchestrator.node.lifeline import Lifeline
from orchestrator.node.wire import (
    PIECE,
    Answered,
    Asked,
    AskListener,
    Listener,
    Piece,
    Ping,
    Pong,
    Question,
    Questions,
    WireBroken,
    packed,
)

log = logging.getLogger("mazevault.server")

MOST_CONNECTIONS = 1024
"""Far more than all slots of all lanes."""
ACCEPT_SECONDS = 10.0
"""The loop that accepts connections turns twice a second."""
REQUEST_SECONDS = 120.0
"""Longer than any request may take between two pieces of its answer; an outside call ends after seconds, a waiting one after 25
s."""
STUCK_REQUESTS = 4
"""One request may hang in somebody else's library. So many at once mean that this process hangs."""
GRACE_SECONDS = 1.0
"""What is worked on when the process is told to stop has so long; the front was told before and has waited longer."""

Application = Callable[..., Iterable[bytes]]


class Inner:
    """Serves one WSGI application on one private socket."""

    def __init__(self, path: Path, application: Application, listener: Callable[[], Listener] | None,
                 lifeline: Lifeline | None) -> None:  # fmt: skip
        self._application, self._listener, self._lifeline = application, listener, lifeline
        self._server = private_socket(path)
        self._lock = threading.Lock()
        self._running = Progress()
        """How far each request has come, by its thread."""
        self._connections = 0
        self._stopping = threading.Event()

    def serve(self) -> None:
        """Accept until `stop`, then wait a little for what is worked on."""
        if self._lifeline is not None:
            self._lifeline.check(self._stuck)
        while not self._stopping.is_set():
            loops.moved("accepting requests", ACCEPT_SECONDS)
            if select.select([self._server], [], [], 0.5)[0]:
                self._accept()
        if self._lifeline is not None:
            self._lifeline.close()
        self._server.close()
        deadline = time.monotonic() + GRACE_SECONDS
        while self._running.steps() and time.monotonic() < deadline:
            time.sleep(0.02)

    def stop(self) -> None:
        self._stopping.set()

    def _accept(self) -> None:
        try:
            connection, _ = self._server.accept()
        except OSError:
            return
        with self._lock:
            if self._connections >= MOST_CONNECTIONS:
                connection.close()
                return
            self._connections += 1
        threading.Thread(target=self._converse, args=(connection,), name="request", daemon=True).start()

    def _stuck(self) -> str | None:
        count = len(self._running.late())
        return f"{count} requests have stood still for more than {REQUEST_SECONDS:g} s" if count >= STUCK_REQUESTS else None

    def _converse(self, connection: socket.socket) -> None:
        try:
            with connection:
                questions = Questions(connection)
                while (question := questions.next()) is not None:
                    self._answer(connection, question)
        except (OSError, WireBroken) as error:
            log.debug("a connection of the front ended: %r", error)
        except Exception:  # the thread ends, the front hears so by the closed connection
            log.exception("a connection of the front ended")
        finally:
            with self._lock:
                self._connections -= 1

    def _answer(self, connection: socket.socket, question: Question) -> None:
        if isinstance(question, Ping):
            connection.sendall(packed(Pong()))
        elif isinstance(question, AskListener):
            if self._listener is not None:
                connection.sendall(packed(self._listener()))
            else:
                connection.close()
        elif isinstance(question, Asked):
            self._serve_request(connection, question)
        else:
            connection.close()

    def _serve_request(self, connection: socket.socket, asked: Asked) -> None:
        thread = threading.get_ident()
        self._moved(thread)
        try:
            _Exchange(connection, asked, lambda: self._moved(thread)).run(self._application)
        finally:
            self._running.ended(str(thread))

    def _moved(self, thread: int) -> None:
        self._running.moved(str(thread), REQUEST_SECONDS)


class _Exchange:
    """One request through the application."""

    def __init__(self, connection: socket.socket, asked: Asked, moved: Callable[[], None]) -> None:
        self._connection, self._asked, self._moved = connection, asked, moved
        self._status, self._headers, self._head_sent = "", [("", "")], False

    def run(self, application: Application) -> None:
        result = application(environ_of(self._asked), self._start)
        try:
            self._send_all(result)
        except (OSError, WireBroken):
            raise
        except Exception:
            log.exception("the body of an answer broke off")
            if not self._head_sent:
                raise
            self._connection.sendall(packed(Piece(b"", more=False, broken=True)))
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        self._status, self._headers = status, headers
        return self._refuse_write

    def _refuse_write(self, data: bytes) -> None:
        raise NotImplementedError("the write callable of WSGI is not offered")

    def _send_all(self, result: Iterable[bytes]) -> None:
        """Each piece is sent when the next one is there, so that the last one can say that it is the last."""
        held: bytes | None = None
        for chunk in result:
            for begin in range(0, len(chunk), PIECE):
                if held is not None:
                    self._send(held, more=True)
                held = chunk[begin : begin + PIECE]
        self._send(held or b"", more=False)

    def _send(self, body: bytes, *, more: bool) -> None:
        if self._head_sent:
            frame = packed(Piece(body, more))
        else:
            code, _, reason = self._status.partition(" ")
            frame = packed(Answered(int(code), reason, self._headers, body, more))
        self._head_sent = True
        self._connection.sendall(frame)
        self._moved()


def environ_of(asked: Asked) -> dict[str, Any]:
    """The WSGI environment: what the front saw of the peer comes from the frame, what the client said is under HTTP_ only.

    A name with an underscore could be two headers, so it is none.
    """
    environ: dict[str, Any] = {
        "REQUEST_METHOD": asked.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(asked.path).decode("latin-1"),
        "QUERY_STRING": asked.query.decode("latin-1"),
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "443" if asked.peer.secure else "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": asked.peer.address,
        "REMOTE_PORT": str(asked.peer.port),
        "CONTENT_LENGTH": str(len(asked.body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https" if asked.peer.secure else "http",
        "wsgi.input": io.BytesIO(asked.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "mazevault.peer_certificate": asked.peer.certificate,
    }
    for name, value in asked.headers:
        if b"_" not in name:
            _add_header(environ, name.decode("latin-1").upper().replace("-", "_"), value.decode("latin-1"))
    return environ


def _add_header(environ: dict[str, Any], name: str, value: str) -> None:
    if name == "CONTENT_LENGTH":
        return
    key = name if name == "CONTENT_TYPE" else f"HTTP_{name}"
    if key in environ:
        separator = "; " if name == "COOKIE" else ","
        value = f"{environ[key]}{separator}{value}"
    environ[key] = value


def private_socket(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        server.bind(str(path))
    finally:
        os.umask(before)
    server.listen(256)
    server.setblocking(False)
    return server
