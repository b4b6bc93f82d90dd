"""Who stands at the other end of the TLS connection, read by the front from its own socket and from nothing else (DESIGN §6)."""

from __future__ import annotations

import hashlib

from django.http import HttpRequest

PEER_CERTIFICATE = "mazevault.peer_certificate"
"""Key of the WSGI environment under which the front's word stands. No header can have a name with a dot and small letters."""


def peer_fingerprint(request: HttpRequest) -> str | None:
    """SHA-256 (hex) of the client certificate the TLS layer verified, or None when the client showed none.

    No header is read: a header can be written by anybody, the front's word on its socket cannot.
    """
    der = peer_certificate(request)
    return hashlib.sha256(der).hexdigest() if der else None


def peer_certificate(request: HttpRequest) -> bytes | None:
    """DER bytes of the verified client certificate, or None."""
    der = request.META.get(PEER_CERTIFICATE)
    return der if isinstance(der, bytes) else None
