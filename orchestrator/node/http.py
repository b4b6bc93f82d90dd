"""One connection of a client: HTTP/1.1 in, complete requests out, answers back. Everything a client may hold is bounded here.

The parser is llhttp (httptools) in its strict mode. A request is handed on only when all of it is there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import httptools

from orchestrator.node import limits
from orchestrator.node.heads import (
    BODILESS,
    Incoming,
    Refused,
    declared_length,
    error_answer,
    head_and_body,
    head_bytes,
    head_too_large,
    malformed,
    read_head,
    refusal_of,
    too_large,
    wants_to_be_told,
)
from orchestrator.node.lanes import Busy, Lost
from orchestrator.node.limits import Holdings
from orchestrator.node.sending import Outgoing
from orchestrator.node.wire import Answered, Asked, Peer, Piece

HELD_OF_AN_ANSWER = 1024 * 1024
"""Bytes of an answer that wait in the front for a slow reader, so that the worker is free; beyond them the worker waits too."""


class Answer(Protocol):
    """An answer whose body comes in pieces."""

    async def piece(self) -> Piece: ...

    def close(self) -> None: ...


class Service(Protocol):
    """What stands behind the connections of one listener."""

    holdings: Holdings
    stopping: bool

    def largest_body(self, target: bytes) -> int: ...

    async def answer(self, asked: Asked) -> tuple[Answer | None, Answered]: ...

    def note_idle(self, connection: Connection) -> None: ...

    def forget(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """Made after the handshake. A stranger's place among the unfinished was taken when the connection was accepted."""

    def __init__(self, service: Service, address: tuple[Any, ...], network: str, secure: bool) -> None:
        self._service, self._secure = service, secure
        self._address, self.network = address, network
        self.entering: asyncio.Task[None] | None = None
        """What brings it to its handshake and through it."""
        self._transport: Any = None
        self._parser = httptools.HttpRequestParser(self)
        self._incoming: Incoming | None = None
        self._refused: Refused | None = None
        self._is_first, self._is_counted, self._is_lingering = True, True, False
        self._head_bytes = 0
        self._body_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._complete: deque[Incoming] = deque()
        self._task: asyncio.Task[None] | None = None
        self._out: Outgoing | None = None
        self._certificate: bytes | None = None
        self.is_idle = self.is_lost = False

    @property
    def is_known(self) -> bool:
        """Whether the caller has shown a client certificate of ours."""
        return self._certificate is not None

    # What asyncio calls.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._out = Outgoing(transport)
        transport.set_write_buffer_limits(high=1, low=0)  # "paused" means that something is not taken yet
        tls = transport.get_extra_info("ssl_object")
        shown = tls.getpeercert(binary_form=True) if tls is not None else None
        if shown is not None:
            self._end_counting()
            if not self._service.holdings.take_certificate(shown):
                transport.abort()
                return
            self._certificate = shown
        self._set_timer(limits.HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        if self._is_lingering:
            return
        try:
            self._feed(data)
        except Refused as refused:
            self._refuse(refused)
        else:
            self._pump()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._outgoing.pause()

    def resume_writing(self) -> None:
        self._outgoing.resume()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self._outgoing.lost()
        self._stop_timer()
        self._end_counting()
        if self._certificate is not None:
            self._service.holdings.give_certificate(self._certificate)
        self._drop_body()
        for one in self._complete:
            self._give_body(one)
        self._complete.clear()
        if self._task is not None:
            self._task.cancel()
        self._service.forget(self)

    # What the parser calls.

    def on_message_begin(self) -> None:
        self.is_idle = False
        if not self._is_first and not self.is_known:
            if not self._service.holdings.unfinished.take(self.network, self):
                self._stop(Refused(503, "UNAVAILABLE", "too many unfinished requests come from this address", 5))
            self._is_counted = True
        self._is_first = False
        self._incoming = Incoming()
        self._set_timer(limits.HEAD_SECONDS)

    def on_url(self, part: bytes) -> None:
        request = self._current()
        request.target += part
        if len(request.target) > limits.LONGEST_TARGET:
            self._stop(Refused(414, "INVALID_FORMAT", f"the path and query are longer than {limits.LONGEST_TARGET} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._current()
        if request.head_complete:
            return  # a trailer names nothing
        lowered = name.lower()
        request.headers.append((lowered, value))
        request.head_size += len(name) + len(value)
        if len(request.headers) > limits.MOST_FIELDS:
            self._stop(Refused(431, "INVALID_FORMAT", f"a request may have {limits.MOST_FIELDS} header fields"))
        if request.head_size > limits.LARGEST_HEAD:
            self._stop(head_too_large())

    def on_headers_complete(self) -> None:
        request = self._current()
        try:
            read_head(request, self._parser.get_method(), self._parser.get_http_version(), self._parser.should_keep_alive())
            request.limit = self._service.largest_body(request.path)
            length = declared_length(request.headers)
            if length > request.limit:
                raise too_large(request.limit)
        except Refused as refused:
            self._stop(refused)
        request.head_complete = True
        self._head_bytes = 0
        self._set_timer(limits.BODY_SECONDS)
        if wants_to_be_told(request.headers) and not request.is_old:
            self._outgoing.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        request = self._current()
        if len(request.body) + len(part) > request.limit:
            self._stop(too_large(request.limit))
        if not self.is_known and not self._service.holdings.bodies.take(self.network, self, len(part)):
            self._stop(Refused(503, "UNAVAILABLE", "too much is being sent at the moment; try again", 5))
        self._body_bytes += len(part)
        request.body += part

    def on_message_complete(self) -> None:
        request = self._current()
        self._incoming = None
        self._body_bytes = 0
        self._end_counting()
        self._stop_timer()
        self._complete.append(request)
        if len(self._complete) > limits.MOST_PIPELINED:
            self._stop(malformed(f"at most {limits.MOST_PIPELINED} requests may be sent ahead"))

    # Our own.

    def give_up(self) -> None:
        """The handshake did not come to its end."""
        self._end_counting()

    def close(self) -> None:
        """End an idle connection, or any other after its answer. Nobody waits for a farewell."""
        if self._task is None and self._outgoing.is_sent:
            self._transport.abort()

    def make_room(self) -> None:
        """End at once, whatever is under way: another address has less than this one (`shares`)."""
        if self._transport is not None:
            self._transport.abort()
        elif self.entering is not None:
            self.entering.cancel()

    @property
    def _outgoing(self) -> Outgoing:
        assert self._out is not None  # noqa: S101  made with the connection, before anything comes in
        return self._out

    def _feed(self, data: bytes) -> None:
        if self._incoming is None or not self._incoming.head_complete:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._finish_upgrade()
        except httptools.HttpParserError as error:
            raise self._refused or refusal_of(str(error)) from error
        if self._incoming is not None and not self._incoming.head_complete and self._head_bytes > limits.LARGEST_HEAD:
            raise head_too_large()

    def _finish_upgrade(self) -> None:
        """No other protocol is spoken here: the request is answered as it stands, and nothing after it is read."""
        if self._incoming is not None and self._incoming.head_complete:
            self.on_message_complete()
        if self._complete:
            self._complete[-1].keep_alive = False

    def _current(self) -> Incoming:
        if self._incoming is None:
            self._stop(malformed("the request is malformed"))
        assert self._incoming is not None  # noqa: S101  `_stop` raises
        return self._incoming

    def _stop(self, refused: Refused) -> None:
        """End the parsing from within one of its callbacks."""
        self._refused = refused
        raise refused

    def _pump(self) -> None:
        """Work on the next complete request, if none is worked on. While one is, nothing more is read."""
        if self._task is not None or self._transport.is_closing():
            return
        if self._complete:
            self._pause_reading()
            self._task = asyncio.get_running_loop().create_task(self._serve(self._complete.popleft()))
        elif self._service.stopping and self._incoming is None:
            self._transport.close()

    async def _serve(self, request: Incoming) -> None:
        counted = not self.is_known and self._service.holdings.take_request(self.network)
        try:
            if not counted and not self.is_known:
                await self._send(None, _too_many(), request)
            else:
                await self._relay(request)
            await self._outgoing.until_sent()
        finally:
            if counted:
                self._service.holdings.give_request(self.network)
            self._give_body(request)
        self._after(request)

    async def _relay(self, request: Incoming) -> None:
        rest, head = await answered(self._service.answer(self._asked(request)))
        self._give_body(request)  # it was worked on; a slow reader of the answer holds nothing of it
        try:
            await self._send(rest, head, request)
        except Lost:
            self._transport.abort()  # a cut answer must not look complete
        finally:
            if rest is not None:
                rest.close()

    def _asked(self, request: Incoming) -> Asked:
        peer = Peer(str(self._address[0]), int(self._address[1]), self._certificate, self._secure)
        return Asked(request.method, request.path, request.query, request.headers, bytes(request.body), peer)

    async def _send(self, rest: Answer | None, head: Answered, request: Incoming) -> None:
        bodiless = request.method == "HEAD" or head.status in BODILESS
        has_length = any(name.lower() == "content-length" for name, _ in head.headers)
        if not has_length and not head.more and head.status not in BODILESS:
            head.headers.append(("Content-Length", str(len(head.body))))
        chunked = not bodiless and head.more and not has_length
        if (chunked and request.is_old) or self._service.stopping:
            request.keep_alive = False
        chunked = chunked and not request.is_old
        self._outgoing.write(head_bytes(head, keep_alive=request.keep_alive, chunked=chunked, secure=self._secure))
        piece = Piece(head.body, head.more)
        while True:
            if piece.body and not bodiless:
                self._outgoing.write(b"%x\r\n%b\r\n" % (len(piece.body), piece.body) if chunked else piece.body)
            if not piece.more or rest is None:
                break
            if self._outgoing.held > HELD_OF_AN_ANSWER:
                await self._outgoing.until_sent()
            piece = await rest.piece()
        if chunked:
            self._outgoing.write(b"0\r\n\r\n")

    def _after(self, request: Incoming) -> None:
        self._task = None
        if not request.keep_alive:
            self._is_lingering = True
            self._transport.close()
        elif self._complete:
            self._pump()
        else:
            self._resume_reading()
            if self._incoming is None:
                self.is_idle = True
                self._set_timer(limits.KNOWN_IDLE_SECONDS if self.is_known else limits.IDLE_SECONDS)
                self._service.note_idle(self)
            self._pump()

    def _refuse(self, refused: Refused) -> None:
        """Answer once what was sent before has its answers, then read on for a moment so that the answer can arrive."""
        self._drop_body()
        self._end_counting()
        self._incoming = None
        self._is_lingering = True
        if self._task is not None or self._complete:
            self._transport.abort()  # sent ahead behind requests that are still worked on: not worth waiting for
            return
        self._outgoing.write(head_and_body(refused.answer(), secure=self._secure))
        self._set_timer(limits.LINGER_SECONDS)

    def _on_time(self) -> None:
        if self._is_lingering or self.is_idle or self._incoming is None:
            self._transport.close() if self.is_idle else self._transport.abort()
            return
        self._refuse(Refused(408, "INVALID_FORMAT", "the request came too slowly"))

    def _set_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._on_time)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_counting(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._service.holdings.unfinished.give(self.network, self)

    def _drop_body(self) -> None:
        if self._body_bytes and not self.is_known:
            self._service.holdings.bodies.give(self.network, self, self._body_bytes)
        self._body_bytes = 0

    def _give_body(self, request: Incoming) -> None:
        if request.body and not self.is_known:
            self._service.holdings.bodies.give(self.network, self, len(request.body))
        request.body = bytearray()

    def _pause_reading(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._transport.resume_reading()


def _too_many() -> Answered:
    return error_answer(429, "RATE_LIMITED", "too many requests of this address are being worked on; wait for an answer first", 1)


async def answered(work: Awaitable[tuple[Answer | None, Answered]]) -> tuple[Answer | None, Answered]:
    """What the service answers, or the refusal that stands for its failure."""
    try:
        return await work
    except Busy:
        return None, error_answer(503, "UNAVAILABLE", "this node is busy; try again in a moment", 2)
    except Lost:
        return None, error_answer(503, "UNAVAILABLE", _LOST, 1)


_LOST = """the process that worked on this request has ended; a change may have been made or not: \
read first, or repeat a change of a secret with the same Idempotency-Key"""


Handler = Callable[[Asked], Awaitable[Answered]]
"""Serves a path in the front itself. It must never block: everybody waits for it."""
