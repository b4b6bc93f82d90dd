"""Asks the node of this machine how it is, by its own port. Imports no Django."""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from collections.abc import Sequence

from orchestrator.node.lanes import LIVE, READY
from orchestrator.node.shape import node_shape
from orchestrator.variables import EnvironmentMistake

SECONDS = 4.0
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  where all addresses are served, ours is among them


def main(arguments: Sequence[str]) -> int:
    """Exit status 0 when the node says that it is well, else 1 and the reason."""
    try:
        shape = node_shape(os.environ)
        host = LOOPBACK.get(shape.listen_host, shape.listen_host)
        status, body = ask(host, shape.listen_port, READY if "--ready" in arguments else LIVE, tls=shape.tls_enabled)
    except (OSError, http.client.HTTPException, EnvironmentMistake) as error:
        print(f"the node does not answer: {error}", file=sys.stderr)
        return 1
    if status != 200:
        print(f"the node answers {status}: {body}", file=sys.stderr)
    return 0 if status == 200 else 1


def ask(host: str, port: int, path: str, *, tls: bool) -> tuple[int, str]:
    """Status and body of one question. Nothing secret is sent, so the certificate is not checked."""
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(2000).decode(errors="replace")
    finally:
        connection.close()
