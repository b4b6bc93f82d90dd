"""Whoever fills every thread of a node with slow connections keeps strangers waiting for a while, and no connected gateway."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cli.stack.layout import ROOT
from cli.stack.stack import free_port_base

THREADS, HEAD_SECONDS = 8, 6.0
LOADED_SECONDS = 30.0
NODE = """
import sys
from orchestrator import server
folder, port = sys.argv[1], int(sys.argv[2])
server.HEAD_SECONDS = float(sys.argv[4])
context = server.server_context(folder + "/node.crt", folder + "/node.key", open(folder + "/node.crt").read(), None)
def application(environ, start):
    start("200 OK", [("Content-Length", "2")])
    return [b"ok"]
node = server.NodeServer(application, host="127.0.0.1", port=port, threads=int(sys.argv[3]), context=lambda: context)
node.run_here(on_listening=lambda: print("listening", flush=True), on_stop=lambda: None)
"""
ASKED = b"GET / HTTP/1.1\r\nHost: node\r\n\r\n"


class Node:
    """A server that trusts its own certificate, also as that of a client."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.address = folder, ("127.0.0.1", port)

    def connect(self, *, known: bool = False, seconds: float = LOADED_SECONDS) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.folder / "node.crt"))
        if known:
            context.load_cert_chain(self.folder / "node.crt", self.folder / "node.key")
        return context.wrap_socket(socket.create_connection(self.address, seconds), server_hostname="localhost")


def ask(connection: ssl.SSLSocket) -> float:
    """Seconds until the answer is there."""
    began, answer = time.monotonic(), b""
    connection.sendall(ASKED)
    while not answer.endswith(b"\r\n\r\nok"):
        piece = connection.recv(1000)
        assert piece, answer
        answer += piece
    assert answer.startswith(b"HTTP/1.1 200")
    return time.monotonic() - began


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    key, name, today = ec.generate_private_key(ec.SECP256R1()), x509.NameAttribute(NameOID.COMMON_NAME, "node"), datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(x509.Name([name])).issuer_name(x509.Name([name])).public_key(key.public_key())
    made = made.serial_number(7).not_valid_before(today - timedelta(hours=1)).not_valid_after(today + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "node.key").write_bytes(private)
    (tmp_path / "node.crt").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    port = free_port_base(1)
    command = [sys.executable, "-c", NODE, str(tmp_path), str(port), str(THREADS), str(HEAD_SECONDS)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline().strip() == "listening"
            yield Node(tmp_path, port)
        finally:
            process.kill()


@contextlib.contextmanager
def slow_strangers(node: Node, count: int) -> Iterator[list[ssl.SSLSocket]]:
    """So many connections that send one more byte of their request each half second."""
    held, stop = [node.connect() for _ in range(count)], threading.Event()

    def drip() -> None:
        while not stop.wait(0.5):
            for one in held:
                with contextlib.suppress(OSError):
                    one.sendall(b"a")

    for one in held:
        one.sendall(b"POST / HTTP/1.1\r\nX-A: ")
    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield held
    finally:
        stop.set()
        thread.join()
        for one in held:
            one.close()


def test_a_connected_gateway_is_answered_at_once_and_a_stranger_when_their_time_is_over(node: Node) -> None:
    with node.connect(known=True) as gateway:
        ask(gateway)
        with slow_strangers(node, THREADS):
            time.sleep(0.5)  # now every thread for strangers waits for the rest of a request
            assert ask(gateway) < HEAD_SECONDS / 2
            began = time.monotonic()
            with node.connect() as stranger:
                ask(stranger)
        print(f"a stranger waited {time.monotonic() - began:.1f} s")
