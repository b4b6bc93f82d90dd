"""The same operations at other products, where their official binaries are at hand: etcd and OpenBao. Else `not measured`.

Both are pinned to one core like the node, keep their data on disk with fsync, and are asked over TLS by the same load generator.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import ipaddress
import itertools
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from benchmarks.load import Asker, closed_loop
from cli.simulation.real.http import Connection, request
from cli.stack.stack import free_port_base
from protocol.certificates import build_csr

START_SECONDS = 20.0
NOT_MEASURED = "not measured: {} is not on the PATH"


async def measured(seconds: float, people: int, gateways: int) -> dict[str, object]:
    """Rates of the peers. A peer that is absent is named."""
    results: dict[str, object] = {}
    for binary, measure in (("etcd", _etcd), ("bao", _openbao)):
        found = shutil.which(binary)
        results[binary] = await measure(found, seconds, people, gateways) if found else NOT_MEASURED.format(binary)
    return results


async def _etcd(binary: str, seconds: float, _people: int, gateways: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="bench-etcd-") as name:
        folder, port = Path(name), free_port_base(2)
        context = _certificates(folder)
        tls = [f"--cert-file={folder}/leaf.crt", f"--key-file={folder}/leaf.key", f"--trusted-ca-file={folder}/ca.crt"]
        argv = [binary, f"--data-dir={folder}/data", f"--listen-client-urls=https://127.0.0.1:{port}",
                f"--advertise-client-urls=https://127.0.0.1:{port}", f"--listen-peer-urls=http://127.0.0.1:{port + 1}",
                "--client-cert-auth", "--log-level=error", *tls]  # fmt: skip
        with _running(argv, port):
            value = base64.b64encode(os.urandom(768)).decode()
            keys = itertools.cycle(range(gateways))

            def put() -> bytes:
                key = base64.b64encode(b"k%d" % next(keys)).decode()
                return request("POST", "/v3/kv/put", json.dumps({"key": key, "value": value}).encode())

            rates: dict[str, object] = {"version": _version([binary, "--version"])}
            fresh = [(Connection(port, context), put) for _ in range(16)]
            rates["put_new_connection"] = (await closed_loop(fresh, seconds, anew=True)).summary()
            granted = _call(port, context, "/v3/lease/grant", {"TTL": 600})["ID"]
            keepalive = json.dumps({"ID": granted}).encode()
            clients = [Connection(port, context) for _ in range(gateways)]
            rates["put_1kb"] = (await closed_loop([(one, put) for one in clients], seconds)).summary()
            ask: Asker = lambda: request("POST", "/v3/lease/keepalive", keepalive)  # noqa: E731
            rates["lease_keepalive"] = (await closed_loop([(one, ask) for one in clients], seconds)).summary()
            return rates


async def _openbao(binary: str, seconds: float, people: int, _gateways: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="bench-bao-") as name:
        folder, port = Path(name), free_port_base(2)
        context = _certificates(folder)
        (folder / "data").mkdir()
        config = {
            "storage": {"raft": {"path": f"{folder}/data", "node_id": "one"}},
            "listener": {"tcp": {"address": f"127.0.0.1:{port}", "tls_cert_file": f"{folder}/leaf.crt",
                                 "tls_key_file": f"{folder}/leaf.key"}},
            "api_addr": f"https://127.0.0.1:{port}", "cluster_addr": f"https://127.0.0.1:{port + 1}", "disable_mlock": True,
            "audit": {"file": {"file": {"path": "to-file", "options": {"file_path": f"{folder}/audit.log"}}}},
        }  # fmt: skip
        (folder / "bao.json").write_text(json.dumps(config))
        with _running([binary, "server", f"-config={folder}/bao.json"], port):
            token = _unseal(port, context)
            head = {"X_Vault_Token": token}
            _call(port, context, "/v1/sys/mounts/kv", {"type": "kv", "options": {"version": "2"}}, token)
            _call(port, context, "/v1/sys/mounts/pki", {"type": "pki"}, token)
            _call(
                port, context, "/v1/pki/root/generate/internal", {"common_name": "bench", "key_type": "ec", "ttl": "24h"}, token
            )
            _call(port, context, "/v1/pki/roles/any", {"allow_any_name": True, "key_type": "ec", "ttl": "1h"}, token)
            body = json.dumps({"data": {"value": uuid.uuid4().hex * 32}}).encode()
            csr = json.dumps(
                {"csr": build_csr(ec.generate_private_key(ec.SECP256R1()), "bench"), "common_name": "bench"}
            ).encode()
            numbers = itertools.cycle(range(200))
            asks: dict[str, Asker] = {
                "kv_write_1kb": lambda: request("POST", f"/v1/kv/data/k{next(numbers)}", body, **head),
                "kv_read_1kb": lambda: request("GET", f"/v1/kv/data/k{next(numbers)}", b"", **head),
                "pki_sign": lambda: request("POST", "/v1/pki/sign/any", csr, **head),
            }
            rates: dict[str, object] = {"version": _version([binary, "version"])}
            for name_of, ask in asks.items():
                clients = [(Connection(port, context), ask) for _ in range(people)]
                rates[name_of] = (await closed_loop(clients, seconds)).summary()
            return rates


def _unseal(port: int, context: ssl.SSLContext) -> str:
    made = _call(port, context, "/v1/sys/init", {"secret_shares": 1, "secret_threshold": 1}, method="PUT")
    _call(port, context, "/v1/sys/unseal", {"key": made["keys"][0]}, method="PUT")
    token = str(made["root_token"])
    deadline = time.monotonic() + START_SECONDS
    while True:  # it elects itself leader
        try:
            _call(port, context, "/v1/sys/mounts", None, token, method="GET")
            return token
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _call(port: int, context: ssl.SSLContext, path: str, body: Any, token: str = "", method: str = "POST") -> Any:
    asked = urllib.request.Request(
        f"https://localhost:{port}{path}", json.dumps(body).encode() if body is not None else None,
        {"Content-Type": "application/json", "X-Vault-Token": token}, method=method,
    )  # fmt: skip
    with urllib.request.urlopen(asked, context=context, timeout=10) as answer:  # noqa: S310
        text = answer.read()
    return json.loads(text) if text else {}


@contextlib.contextmanager
def _running(argv: list[str], port: int) -> Iterator[None]:
    from benchmarks.lane import SERVER_CORE, pin

    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                               env={**os.environ, "GOMAXPROCS": "1", "ETCD_UNSUPPORTED_ARCH": ""})  # fmt: skip
    try:
        _wait(port)
        pin(process.pid, SERVER_CORE)
        yield
    finally:
        process.terminate()
        process.wait(10)


def _wait(port: int) -> None:
    import socket

    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            time.sleep(1.0)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _version(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()[0]


def _certificates(folder: Path) -> ssl.SSLContext:
    """A throw-away authority and one leaf that serves both ends."""
    ca_key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = _certificate("bench-ca", ca_key, "bench-ca", ca_key, is_ca=True)
    leaf = _certificate("localhost", leaf_key, "bench-ca", ca_key, is_ca=False)
    plain: Callable[[Any], bytes] = lambda key: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # noqa: E731
    (folder / "ca.crt").write_bytes(ca.public_bytes(Encoding.PEM))
    (folder / "leaf.crt").write_bytes(leaf.public_bytes(Encoding.PEM))
    (folder / "leaf.key").write_bytes(plain(leaf_key))
    context = ssl.create_default_context(cafile=f"{folder}/ca.crt")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(f"{folder}/leaf.crt", f"{folder}/leaf.key")
    return context


def _certificate(name: str, key: Any, issuer: str, issuer_key: Any, *, is_ca: bool) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    of = lambda text: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])  # noqa: E731
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    return (
        x509.CertificateBuilder().subject_name(of(name)).issuer_name(of(issuer)).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1)).add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), True)
        .add_extension(names, False).sign(issuer_key, hashes.SHA256())
    )  # fmt: skip
