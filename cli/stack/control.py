"""How a second command talks to the running stack: one line in, one line out, over a private unix socket."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from cli.stack.databases import LONGEST_SOCKET_PATH
from cli.stack.layout import Layout

ANSWER_SECONDS = 60.0


@dataclass
class Command:
    """A wish of another process. The stack's main thread carries it out and answers."""

    verb: str
    name: str
    answer: queue.Queue[str] = field(default_factory=queue.Queue)


def socket_path(layout: Layout) -> Path:
    """Beside the data when the path is short enough, else in the folder for temporary files, by a name of its own."""
    path = layout.var / "control.sock"
    if len(str(path)) <= LONGEST_SOCKET_PATH:
        return path
    import hashlib

    digest = hashlib.sha256(str(layout.var).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"mzv-{os.getuid()}-{digest}.sock"


def listen(layout: Layout, commands: queue.Queue[Command]) -> socket.socket:
    """Take commands in a thread of its own and put them into the queue."""
    path = socket_path(layout)
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        server.bind(str(path))
    finally:
        os.umask(before)
    server.listen(8)
    threading.Thread(target=_serve, args=(server, commands), daemon=True).start()
    return server


def ask(layout: Layout, verb: str, name: str = "") -> str | None:
    """Send a command to the running stack and return its answer; None when no stack runs here."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(ANSWER_SECONDS)
        try:
            client.connect(str(socket_path(layout)))
            client.sendall(json.dumps({"verb": verb, "name": name}).encode() + b"\n")
            with client.makefile() as stream:
                return stream.readline().strip()
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError:
            return ""


def _serve(server: socket.socket, commands: queue.Queue[Command]) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_handle, args=(connection, commands), daemon=True).start()


def _handle(connection: socket.socket, commands: queue.Queue[Command]) -> None:
    with connection, contextlib.suppress(OSError, ValueError, KeyError, queue.Empty):
        connection.settimeout(5)
        with connection.makefile() as stream:
            wish = json.loads(stream.readline(4096))
        command = Command(str(wish["verb"]), str(wish["name"]))
        commands.put(command)
        connection.sendall(command.answer.get(timeout=ANSWER_SECONDS).encode() + b"\n")
