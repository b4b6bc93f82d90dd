"""`manage.py probe`: does the node in this container answer? For a container's health check."""

from __future__ import annotations

import http.client
import ssl
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

SECONDS = 4.0


class Command(BaseCommand):
    help = "Ask this node's own listener for its health; exit status 1 when it is not well."

    def handle(self, *args: Any, **options: Any) -> None:
        node = settings.MAZEVAULT
        try:
            status = ask(node.listen_port, tls=node.tls_enabled)
        except (OSError, http.client.HTTPException) as error:
            raise CommandError(f"port {node.listen_port} does not answer: {error}") from error
        if status != 200:
            raise CommandError(f"the node answers {status}")


def ask(port: int, *, tls: bool) -> int:
    """HTTP status of GET /api/v1/health on the loopback address. Nothing secret is sent, so the certificate is not checked."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=SECONDS, context=context)
    try:
        connection.request("GET", "/api/v1/health")
        return connection.getresponse().status
    finally:
        connection.close()
