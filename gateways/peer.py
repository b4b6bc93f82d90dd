"""Who stands at the other end of the TLS connection, read from the server's own socket and from nothing else (DESIGN §6)."""

from __future__ import annotations

import hashlib

from django.http import HttpRequest


def peer_fingerprint(request: HttpRequest) -> str | None:
    """SHA-256 (hex) of the client certificate the TLS layer verified, or None when the client showed none.

    No header is read: a header can be written by anybody, the socket cannot.
    """
    der = peer_certificate(request)
    return hashlib.sha256(der).hexdigest() if der else None


def peer_certificate(request: HttpRequest) -> bytes | None:
    """DER bytes of the verified client certificate, or None."""
    socket = request.META.get("gunicorn.socket")
    if socket is None or not hasattr(socket, "getpeercert"):
        return None
    der: bytes | None = socket.getpeercert(binary_form=True)
    return der
