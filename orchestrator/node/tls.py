"""The TLS of a node's listener, and taking a renewed certificate without a restart. No Django here: the front imports it."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from protocol.paths import MACHINE_NAME

log = logging.getLogger("mazevault.server")

RETRY_SECONDS = 1.0
"""How often a certificate that cannot be taken is tried again."""


def server_context(
    certificate_file: str, key_file: str | None, trusted: str, password: bytes | None, machines: tuple[str, str] | None = None
) -> ssl.SSLContext:
    """TLS 1.3 only; a client certificate is welcome, and if one is shown it must chain to `trusted` (PEM text).

    `machines`: certificate and key for gateways, which ask for them by name (`protocol.paths.MACHINE_NAME`).
    """
    context = _context(certificate_file, key_file, trusted, password)
    if machines is not None:
        ours = _context(*machines, trusted, None)

        def by_name(handshake: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
            if name == MACHINE_NAME:
                handshake.context = ours

        context.sni_callback = by_name
    return context


def _context(certificate_file: str, key_file: str | None, trusted: str, password: bytes | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate_file, key_file, password=password)
    context.load_verify_locations(cadata=trusted)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context


class FreshContext:
    """A TLS context that is built once and again when its certificate file was replaced, so that renewal needs no restart.

    Who renews certificate and key one after the other leaves files that do not fit for a while: the old context serves on.
    """

    def __init__(self, watched: Path, build: Callable[[], ssl.SSLContext], *, more: Sequence[Path] = ()) -> None:
        self._watched, self._build, self._all = watched, build, (watched, *more)
        self._stamp = self._stamps()
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
        stamp = self._stamps()
        if stamp != self._stamp:
            self._context, self._stamp, self._is_logged = self._build(), stamp, False

    def _stamps(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns for path in self._all)

    def _keep_old(self, error: Exception) -> None:
        self._next_try = time.monotonic() + RETRY_SECONDS
        if not self._is_logged:
            self._is_logged = True
            log.error("the new certificate cannot be taken yet, the old one serves on: %s: %r", self._watched, error)
