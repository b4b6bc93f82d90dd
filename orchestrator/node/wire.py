"""What front and workers say to each other over the private socket: frames of four bytes of length and one message.

A request travels as fields, never as HTTP text: what the front itself saw of the peer has fields of its own, so that no header
of a client can be taken for it. A connection carries one request at a time, but for numbered ones, of which it carries many. Pure
but for what moves bytes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

import msgspec

LONGEST_FRAME = 8 * 1024 * 1024
"""Bytes. More than the longest request (a sealed message of 2 MiB and its head) and than one piece of an answer."""
PIECE = 256 * 1024
"""Bytes of an answer in one frame; a longer answer comes in several."""
AT_ONCE = 16 * 1024
"""Bytes that are asked of the system at once; nearly all questions are shorter."""
_LENGTH = struct.Struct(">I")


class WireBroken(Exception):
    """The other side of the private socket is gone, or does not speak this language."""


class Peer(msgspec.Struct, frozen=True):
    """Who stands at the other end, as the front's own socket says."""

    address: str
    port: int
    certificate: bytes | None = None
    """DER of the client certificate that TLS has verified."""
    secure: bool = True
    """Whether TLS ends at the front."""


class Asked(msgspec.Struct, frozen=True, tag=True):
    """One complete request."""

    method: str
    path: bytes
    """As it was sent, still percent-encoded."""
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    peer: Peer
    lane: str = ""


class Numbered(msgspec.Struct, frozen=True, tag=True):
    """One of many requests on a connection; its answer comes whole and carries the number."""

    number: int
    asked: Asked


class Ping(msgspec.Struct, frozen=True, tag=True):
    """Does the process accept and answer?"""


class AskListener(msgspec.Struct, frozen=True, tag=True):
    """What is the TLS listener made of?"""


class Answered(msgspec.Struct, frozen=True, tag=True):
    """The head of an answer, and its body or the first piece of it."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    more: bool = False


class Told(msgspec.Struct, frozen=True, tag=True):
    """The whole answer to a numbered request."""

    number: int
    answered: Answered


class Piece(msgspec.Struct, frozen=True, tag=True):
    """A further piece of an answer's body. `broken`: the worker failed in the middle; what was sent must not look complete."""

    body: bytes
    more: bool
    broken: bool = False


class Pong(msgspec.Struct, frozen=True, tag=True):
    """It does."""


class Listener(msgspec.Struct, frozen=True, tag=True):
    """Files and trust of the TLS listener. `password` opens the key; it travels here so that it lies in no file."""

    certificate: str
    key: str | None
    trusted: str
    """PEM of the authorities a client certificate may chain to."""
    password: bytes | None
    machines: tuple[str, str] | None = None
    """Certificate and key for who asks for `protocol.paths.MACHINE_NAME`, where those above are the operator's."""


Question = Asked | Numbered | Ping | AskListener
Reply = Answered | Told | Piece | Pong | Listener
_encoder = msgspec.msgpack.Encoder()
QUESTIONS = msgspec.msgpack.Decoder(Question)
REPLIES = msgspec.msgpack.Decoder(Reply)
"""Made while the module is imported, by one thread: msgspec works out a type at its first use (`protocol.decoding`)."""


def packed(message: Question | Reply) -> bytes:
    """One frame."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


def _checked_length(head: bytes) -> int:
    length: int = _LENGTH.unpack(head)[0]
    if length > LONGEST_FRAME:
        raise WireBroken(f"a frame of {length} bytes")
    return length


class Frames(asyncio.Protocol):
    """One end of a connection in an event loop. `heard` takes each message, `lost` the end of the connection."""

    def __init__(
        self, decoder: msgspec.msgpack.Decoder[Any], heard: Callable[[Frames, Any], None], lost: Callable[[], None]
    ) -> None:
        self._decoder, self._heard, self._lost = decoder, heard, lost
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # a socket's; no loop says so by the class alone

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            while (message := self._next()) is not None:
                self._heard(self, message)
        except (WireBroken, msgspec.MsgspecError):
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost()

    def say(self, message: Question | Reply) -> None:
        """Nothing happens when the connection has ended: `lost` was told."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(packed(message))

    def wait(self) -> None:
        """Read nothing more for now; what has come already is still heard."""
        if self.is_open and self._transport is not None:
            self._transport.pause_reading()

    def go_on(self) -> None:
        if self.is_open and self._transport is not None:
            self._transport.resume_reading()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _next(self) -> Any:
        if len(self._received) < _LENGTH.size:
            return None
        end = _LENGTH.size + _checked_length(bytes(self._received[: _LENGTH.size]))
        if len(self._received) < end:
            return None
        message = self._decoder.decode(bytes(memoryview(self._received)[_LENGTH.size : end]))
        del self._received[:end]
        return message


class Questions:
    """What the front sends on one connection, for the thread that answers it. A short question costs one call of the system."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._received = connection, bytearray()

    def next(self) -> Question | None:
        """The next frame; None when the front has closed the connection. Raises `WireBroken`."""
        try:
            head = self._taken(_LENGTH.size)
            return QUESTIONS.decode(self._taken(_checked_length(head))) if head else None
        except (OSError, msgspec.MsgspecError) as error:
            raise WireBroken(type(error).__name__) from error

    def _taken(self, count: int) -> bytes:
        """So many bytes, or none when the other side closed before the first."""
        while len(self._received) < count:
            got = self._connection.recv(max(AT_ONCE, count - len(self._received)))
            if not got:
                if self._received or count > _LENGTH.size:
                    raise ConnectionResetError("closed within a frame")
                return b""
            self._received += got
        found = bytes(memoryview(self._received)[:count])
        del self._received[:count]
        return found
