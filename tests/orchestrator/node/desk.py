"""A front in a process of its own, workers that run a small WSGI application, and ways to talk to them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cli.stack.layout import ROOT
from orchestrator.node.shape import FrontPlan

FIRST_PORT, PORTS = 12_000, 900
"""Each worker of a run has so many."""
PATIENCE_SECONDS = 30.0
WORKER = """
import asyncio, json, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from orchestrator.node.inner import Inner, environ_of
from orchestrator.node.machine import Machine
from orchestrator.node.wire import Answered, Listener
folder, name = Path(sys.argv[1]), sys.argv[2]

def application(environ, start):
    path = environ["PATH_INFO"]
    if path.endswith("/slow"):
        time.sleep(float(environ["QUERY_STRING"]))
    if path.endswith("/stream"):
        start("200 OK", [("Content-Type", "text/plain")])
        return (b"x" * 1000 for _ in range(int(environ["QUERY_STRING"])))
    if path.endswith("/broken"):
        start("200 OK", [("Content-Type", "text/plain")])
        return (b"x" * (1000 // left) for left in (2, 1, 0))
    seen = {name: value for name, value in environ.items() if isinstance(value, str)}
    seen |= {"worker": name, "pid": os.getpid(), "body": environ["wsgi.input"].read().decode("latin-1")}
    certificate = environ["mazevault.peer_certificate"]
    seen["certificate"] = certificate.hex() if certificate else None
    text = json.dumps(seen).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [text]

files = lambda: Listener(str(folder / "node.crt"), str(folder / "node.key"), (folder / "node.crt").read_text(), None)

def whole(asked):
    head = []
    body = b"".join(application(environ_of(asked), lambda status, headers: head.extend((status, headers))))
    return Answered(int(head[0].split()[0]), "", head[1], body)

async def machine():
    threads = ThreadPoolExecutor(64)
    answer = lambda asked: asyncio.get_running_loop().run_in_executor(threads, whole, asked)
    await Machine(folder / f"{name}.sock", answer, files).run(asyncio.Event())

if name == "machine":
    asyncio.run(machine())
Inner(folder / f"{name}.sock", application, files, None).serve()
"""
FRONT = """
import functools, runpy, sys
from orchestrator.node import limits, lanes
limits.Caps = functools.partial(limits.Caps, **{caps!r})
for name, value in {changes!r}.items():
    setattr(limits if hasattr(limits, name) else lanes, name, value)
sys.argv[0] = "front"
runpy.run_module("orchestrator.node.front", run_name="__main__")
"""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


_ports = itertools.count(os.getpid() % PORTS)


def own_port() -> int:
    """A port that no other worker of this run takes, below those of the stacks and of outgoing connections."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw7").removeprefix("gw")) % 8
    for _ in range(PORTS):
        port = FIRST_PORT + worker * PORTS + next(_ports) % PORTS
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@dataclass
class Desk:
    """One front and its workers. Everything ends with the test."""

    folder: Path
    processes: list[tuple[str, str]] = field(default_factory=lambda: [("machine", "machine"), ("people-0", "people")])
    secure: bool = True
    threads: int = 8
    unfinished_per_address: int = 500
    requests_per_address: int = 64
    changes: dict[str, float] = field(default_factory=dict)
    """Constants of `limits` and `lanes` with other values than in the product."""
    caps: dict[str, int] = field(default_factory=dict)
    """The same for `limits.Caps`, where a plan does not name them."""
    port: int = 0
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    front: subprocess.Popen[bytes] | None = None

    def start_worker(self, name: str) -> None:
        command = [sys.executable, "-c", WORKER, str(self.folder), name]
        self.workers[name] = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})

    def start(self) -> None:
        make_certificate(self.folder)
        self.port = own_port()
        for name, _ in self.processes:
            self.start_worker(name)
        plan = FrontPlan(
            mode="primary", version="1.0.0", host="127.0.0.1", port=self.port, secure=self.secure, threads=self.threads,
            directory=str(self.folder), processes=self.processes, log_level="WARNING",
            unfinished_per_address=self.unfinished_per_address, requests_per_address=self.requests_per_address,
        )  # fmt: skip
        ours, theirs = socket.socketpair()
        program = FRONT.format(changes=self.changes, caps=self.caps)
        command = [sys.executable, "-c", program, msgspec.json.encode(plan).decode(), str(theirs.fileno())]
        self.front = subprocess.Popen(command, pass_fds=[theirs.fileno()], env={**os.environ, "PYTHONPATH": str(ROOT)})
        theirs.close()
        self.line, heard = ours, b""
        while b"ready" not in heard:
            assert b"cannot be opened" not in heard, heard  # whose words have "already" in them
            assert select.select([ours], [], [], PATIENCE_SECONDS)[0], "the front did not become ready"
            heard += ours.recv(1000)
        self.line.setblocking(False)

    def end(self) -> None:
        for process in (self.front, *self.workers.values()):
            if process is not None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()

    def connect(self, *, known: bool = False, seconds: float = PATIENCE_SECONDS, address: str = "127.0.0.1") -> socket.socket:
        """A connection after its handshake; `address` is ours, so that a test can be several clients."""
        raw = socket.create_connection(("127.0.0.1", self.port), seconds, source_address=(address, 0))
        if not self.secure:
            return raw
        context = ssl.create_default_context(cafile=str(self.folder / "node.crt"))
        if known:
            context.load_cert_chain(self.folder / "node.crt", self.folder / "node.key")
        try:
            return context.wrap_socket(raw, server_hostname="localhost")
        except OSError:
            raw.close()
            raise

    def ask(self, path: str, *lines: str, known: bool = False, method: str = "GET", body: bytes = b"") -> Answer:
        """One request on a connection of its own."""
        with contextlib.closing(self.connect(known=known)) as connection:
            return talk(connection, path, *lines, method=method, body=body)

    def raw(self, text: bytes) -> Answer:
        """What is answered to exactly these bytes."""
        with contextlib.closing(self.connect()) as connection:
            connection.sendall(text)
            return read_answer(connection)


def talk(connection: socket.socket, path: str, *lines: str, method: str = "GET", body: bytes = b"") -> Answer:
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", *lines]
    if body:
        head.append(f"Content-Length: {len(body)}")
    connection.sendall("\r\n".join([*head, "", ""]).encode("latin-1") + body)
    return read_answer(connection, method)


def read_answer(connection: socket.socket, method: str = "GET") -> Answer:
    """The next answer on a connection, chunked or not. Raises `EOFError` when it ends before."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _more(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = int(first.split()[1])
    if status == 100:
        return Answer(100, headers, body)
    if headers.get("transfer-encoding") == "chunked":
        while not body.endswith(b"0\r\n\r\n"):
            body += _more(connection)
        return Answer(status, headers, _unchunked(body))
    while method != "HEAD" and len(body) < int(headers.get("content-length", 0)):
        body += _more(connection)
    return Answer(status, headers, body)


def _unchunked(text: bytes) -> bytes:
    whole = b""
    while True:
        size, _, text = text.partition(b"\r\n")
        if not int(size, 16):
            return whole
        whole, text = whole + text[: int(size, 16)], text[int(size, 16) + 2 :]


def _more(connection: socket.socket) -> bytes:
    piece = connection.recv(65536)
    if not piece:
        raise EOFError("the connection has ended")
    return piece


def make_certificate(folder: Path) -> None:
    """A certificate for the server that is its own authority, and that of clients too."""
    key, name, today = ec.generate_private_key(ec.SECP256R1()), x509.NameAttribute(NameOID.COMMON_NAME, "node"), datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(x509.Name([name])).issuer_name(x509.Name([name])).public_key(key.public_key())
    made = made.serial_number(7).not_valid_before(today - timedelta(hours=1)).not_valid_after(today + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "node.key").write_bytes(private)
    (folder / "node.crt").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


@contextlib.contextmanager
def desk(folder: Path, **options: Any) -> Iterator[Desk]:
    made = Desk(folder, **options)
    try:
        made.start()
        yield made
    finally:
        made.end()


def until(true: Any, seconds: float = PATIENCE_SECONDS) -> float:
    """Seconds until this came true. Raises when it did not."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"did not come true within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - began
