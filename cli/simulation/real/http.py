"""HTTP/1.1 over TLS as a light client speaks it: just enough of an answer is read to know its status, its length and its pause.

Asynchronous and small, so that the server is what is measured and ten thousand fit into one process.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto

ANSWER_SECONDS = 30.0
STREAM_BYTES = 64 * 1024
TLS_BUFFER = 32 * 1024
"""Bytes; two TLS records. asyncio takes 256 KiB for each connection otherwise."""


def read_little() -> None:
    """Small buffers for every TLS connection of this process, which keeps thousands."""
    sslproto.SSLProtocol.max_size = TLS_BUFFER


def request(method: str, path: str, body: bytes = b"", *, kind: str = "application/json", **headers: str) -> bytes:
    """One HTTP/1.1 request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"Content-Type: {kind}"] if body else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class Connection:
    """One keep-alive connection. `ask` sends a whole request and returns status and body; `retry_after` is of the last answer.

    `source` is the address it comes from: a fleet has many.
    """

    def __init__(self, port: int, context: ssl.SSLContext | None, name: str = "localhost", source: str = "") -> None:
        self._port, self._context, self._name = port, context, name
        self._source = (source, 0) if source else None
        self.retry_after: float | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        named = self._name if self._context else None
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self._port, ssl=self._context, server_hostname=named, local_addr=self._source, limit=STREAM_BYTES
        )

    @property
    def is_open(self) -> bool:
        return self._writer is not None and not self._writer.is_closing()

    async def ask(self, request: bytes, seconds: float = ANSWER_SECONDS) -> tuple[int, bytes]:
        """Raises `OSError`, `asyncio.IncompleteReadError`, `TimeoutError` or `ValueError`; the caller closes it then."""
        if self._writer is None:
            await self.open()
        assert self._reader and self._writer  # noqa: S101  just opened
        self._writer.write(request)
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), seconds)
        lines = head.split(b"\r\n")
        length, ends, chunked = 0, False, False
        self.retry_after = None
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            lowered = name.lower()
            if lowered == b"content-length":
                length = int(value)
            elif lowered == b"transfer-encoding":
                chunked = b"chunked" in value.lower()
            elif lowered == b"connection":
                ends = value.strip().lower() == b"close"
            elif lowered == b"retry-after":
                self.retry_after = float(value)
        body = await self._chunks() if chunked else await self._reader.readexactly(length)
        if ends:
            self.close()
        return int(lines[0].split(b" ", 2)[1]), body

    async def _chunks(self) -> bytes:
        assert self._reader  # noqa: S101  its caller reads already
        found = b""
        while size := int(await self._reader.readline(), 16):
            found += await self._reader.readexactly(size)
            await self._reader.readexactly(2)
        await self._reader.readexactly(2)
        return found

    def close(self) -> None:
        if self._writer:
            self._writer.close()
        self._reader = self._writer = None
