"""The front of a node: owns the port, ends TLS, reads whole requests, hands them to the workers. One process, one event loop.

Nothing here may block: a handshake, a head, a body, an answer are waited for by the loop, never by a thread. No Django is
imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import signal
import socket
import ssl
import sys
import time
from asyncio import sslproto
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from common.addresses import network_of
from common.logs import log_to_standard_error
from common.nearest import refusal
from orchestrator.node import event_loop, limits
from orchestrator.node.heads import error_answer, json_answer
from orchestrator.node.http import Answer, Connection, Handler
from orchestrator.node.lanes import (
    CHANNEL_PREFIX,
    HEALTH_SECONDS,
    LIVE,
    READY,
    Lanes,
    Process,
    gateway_lanes,
    lane_name,
    plain_path,
    primary_lanes,
)
from orchestrator.node.lifeline import Lifeline, end_with_parent, set_process_name
from orchestrator.node.limits import Caps, Holdings
from orchestrator.node.shape import FrontPlan
from orchestrator.node.shares import Holder
from orchestrator.node.tls import FreshContext, server_context
from orchestrator.node.wire import Answered, Asked, Listener, WireBroken
from protocol import paths
from protocol.decoding import decode_json
from protocol.sizes import MAX_WIRE_BYTES

log = logging.getLogger("mazevault.server")

BACKLOG = 1024
ACCEPTED_AT_ONCE = 64
"""Connections taken before the loop looks at the others again."""
LISTENER_SECONDS = 30.0
"""How often the front asks for the TLS files and authorities anew; a new authority counts after so long at most."""
RETRY_SECONDS = 0.1
"""Pause between two questions to a worker that is not there yet, and after the system had no descriptor left."""
GRACE_SECONDS = 4.0
"""Requests that are worked on when the node is told to end have so long."""
UNSENT = 64 * 1024
"""Bytes of an answer that the system takes ahead of what it can send: else it would take megabytes, and nobody would see for a
minute that a slow reader goes on reading."""
TLS_BUFFER = 32 * 1024
"""Bytes; two TLS records."""
KEPT_DESCRIPTORS = 200
"""For the private socket, some callers with a certificate, and the process itself: what strangers never take."""
KNOWN_CONNECTIONS = 100_000
"""Connections of callers with a certificate that are to have room, where the system gives it: two or three for each gateway."""
HEALTH_FRESH_SECONDS = 0.1
"""An answer about health as young as this is given again, so that a flood of questions is one question."""
_NOTHING_KNOWN = {
    "registered": False, "serving": False, "may_act": False, "because": "no worker process answers", "answers_reads": False,
    "takes_changes": False, "primary": "unknown", "epoch": 0,
}  # fmt: skip
"""What a gateway whose processes do not answer says of itself: the fields of its own answer, and that it does nothing."""


@dataclass(eq=False)
class Front:
    """The listener, its limits, and the way to the workers."""

    plan: FrontPlan
    lanes: Lanes
    holdings: Holdings
    handlers: Mapping[str, Handler]
    """Paths the front serves itself, by their form without trailing slash."""
    stopping: bool = False

    def __post_init__(self) -> None:
        self._connections: set[Connection] = set()
        self._context: FreshContext | None = None
        self._raw: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._healths: dict[str, tuple[float, asyncio.Task[Answered]]] = {}
        """The last answer to each question for health, and the monotonic second until which it is given again."""

    # What a connection asks of its service.

    def largest_body(self, target: bytes) -> int:
        """Bytes. Sealed messages are longer than what people send."""
        path = plain_path(target)
        return MAX_WIRE_BYTES if path.startswith(CHANNEL_PREFIX) or path == paths.REGISTER else limits.LARGEST_BODY

    async def answer(self, asked: Asked) -> tuple[Answer | None, Answered]:
        path = plain_path(asked.path)
        own = self.handlers.get(path)
        if own is not None:
            return None, await own(asked)
        name = lane_name(path, known=asked.peer.certificate is not None) if self.plan.mode == "primary" else _gateway_lane(path)
        if name == "health":
            return await self._health(asked)
        return await self.lanes.ask(name, msgspec.structs.replace(asked, lane=name))

    def note_idle(self, connection: Connection) -> None:
        self.holdings.connections.note_newest(connection.network, connection)

    def forget(self, connection: Connection) -> None:
        self.holdings.connections.give(connection.network, connection)
        self._connections.discard(connection)

    # Serving.

    async def run(self, ready: Any) -> None:
        """Serve until TERM or INT. `ready` is called once the port is open."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        watching = [asyncio.ensure_future(self.lanes.watch(process)) for process in self.lanes.processes]
        opening = asyncio.ensure_future(self._open(ready))
        ending = asyncio.ensure_future(stop.wait())
        await asyncio.wait({ending, opening}, return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            opening.result()
        await ending
        opening.cancel()
        await self._end()
        for task in watching:
            task.cancel()

    async def _open(self, ready: Any) -> None:
        """Listen once the workers are there: who connects earlier would only wait."""
        while self.lanes.missing() or (self.plan.secure and not await self._renew_listener()):
            await asyncio.sleep(RETRY_SECONDS)
        self._raw = _listening(self.plan.host, self.plan.port)
        asyncio.get_running_loop().add_reader(self._raw, self._accept)
        log.info("MazeVault %s in %s mode listens on %s:%s", self.plan.version, self.plan.mode, self.plan.host, self.plan.port)
        ready()
        while self.plan.secure:
            await asyncio.sleep(LISTENER_SECONDS)
            await self._renew_listener()

    async def _renew_listener(self) -> bool:
        role = "machine" if self.plan.mode == "primary" else "core"
        try:
            async with asyncio.timeout(LISTENER_SECONDS):
                found = await self.lanes.listener(role)
            more = [Path(found.machines[0])] if found.machines else []
            self._context = FreshContext(Path(found.certificate), lambda: context_of(found), more=more)
        except (OSError, WireBroken, TimeoutError, ssl.SSLError) as error:
            if self._context is None:
                log.debug("the TLS files are not there yet: %s", error)
            else:
                log.warning("the TLS files could not be asked for, the old ones serve on: %r", error)
            return False
        return True

    def _accept(self) -> None:
        assert self._raw is not None  # noqa: S101  this is its reader
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                taken, address = self._raw.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._rest()
                return
            self._admit(taken, address)

    def _rest(self) -> None:
        """No descriptor is left: a stranger goes, and the loop does not spin on the listener meanwhile."""
        assert self._raw is not None  # noqa: S101
        loop, raw = asyncio.get_running_loop(), self._raw
        loop.remove_reader(raw)
        if not self.holdings.connections.end_one_for("", is_idle):
            self.holdings.unfinished.end_one_for("", is_idle)
        loop.call_later(RETRY_SECONDS, lambda: None if self.stopping else loop.add_reader(raw, self._accept))

    def _admit(self, taken: socket.socket, address: tuple[Any, ...]) -> None:
        connection = Connection(self, address, network_of(str(address[0])), self.plan.secure)
        if not self.holdings.unfinished.take(connection.network, connection):
            taken.close()
            return
        taken.setblocking(False)
        with contextlib.suppress(OSError):
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        task = asyncio.ensure_future(self._welcome(taken, connection))
        connection.entering = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _welcome(self, taken: socket.socket, connection: Connection) -> None:
        """Wait for the client's first byte, then for the handshake. Whoever says nothing costs a descriptor and no TLS state."""
        context = self._context() if self._context else None
        times = {} if context is None else {
            "ssl_handshake_timeout": limits.HANDSHAKE_SECONDS, "ssl_shutdown_timeout": limits.LINGER_SECONDS,
        }  # fmt: skip
        try:
            await _first_byte(taken, limits.HANDSHAKE_SECONDS if self.plan.secure else limits.HEAD_SECONDS)
            # From here on the loop owns the socket: whoever else closed it would hand its number to somebody new.
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, taken, ssl=context, **times)
        except (OSError, TimeoutError, asyncio.CancelledError):
            connection.give_up()
            return
        if connection.is_lost:
            return
        self._connections.add(connection)
        if not connection.is_known and not self._has_place(connection):
            connection.make_room()

    def _has_place(self, connection: Connection) -> bool:
        """Whether this stranger may stay; where no place is left, one of the address that has the most of them goes."""
        held = self.holdings.connections
        if held.total >= held.most and not held.end_one_for(connection.network, is_idle):
            return False
        return held.take(connection.network, connection)

    async def _health(self, asked: Asked) -> tuple[Answer | None, Answered]:
        """Within a second: what a worker says, or that none does. Those who ask at the same time get the same answer."""
        if asked.method not in ("GET", "HEAD") or asked.body or asked.query:
            return await self._asked_for_health(asked)
        question = f"{asked.method} {plain_path(asked.path)}"
        until, known = self._healths.get(question, (0.0, None))
        if known is None or time.monotonic() >= until:
            known = asyncio.ensure_future(self._whole_health(asked))
            self._healths[question] = (time.monotonic() + HEALTH_SECONDS, known)
            known.add_done_callback(lambda done: self._keep_health(question, done))
        found = await asyncio.shield(known)
        return None, msgspec.structs.replace(found, headers=list(found.headers))

    def _keep_health(self, question: str, done: asyncio.Task[Answered]) -> None:
        failed = done.cancelled() or done.exception() is not None
        self._healths[question] = (0.0 if failed else time.monotonic() + HEALTH_FRESH_SECONDS, done)

    async def _whole_health(self, asked: Asked) -> Answered:
        rest, head = await self._asked_for_health(asked)
        if rest is not None:
            rest.close()
        return head

    async def _asked_for_health(self, asked: Asked) -> tuple[Answer | None, Answered]:
        try:
            return await self.lanes.ask("health", msgspec.structs.replace(asked, lane="health"))
        except Exception as error:  # whatever the way there was: the answer to "are you well" is no
            log.warning("no worker answered the question for health in %s s: %r", HEALTH_SECONDS, error)
            return None, json_answer(
                503,
                {
                    "status": "error", "mode": self.plan.mode, "version": self.plan.version, "database": "unknown",
                    "cache": "unknown", "reasons": ["no worker process answers"],
                    **({} if self.plan.mode == "primary" else _NOTHING_KNOWN),
                },
            )  # fmt: skip

    async def _end(self) -> None:
        """Take no more connections, let what is worked on end, then go."""
        self.stopping = True
        if self._raw is not None:
            asyncio.get_running_loop().remove_reader(self._raw)
            self._raw.close()
        deadline = time.monotonic() + GRACE_SECONDS
        while self._connections and time.monotonic() < deadline:
            for connection in list(self._connections):
                connection.close()
            await asyncio.sleep(0.02)


def is_idle(holder: Holder) -> bool:
    return isinstance(holder, Connection) and holder.is_idle


def context_of(files: Listener) -> ssl.SSLContext:
    return server_context(files.certificate, files.key, files.trusted, files.password, files.machines)


def _gateway_lane(path: str) -> str:
    return "health" if path in (paths.HEALTH, READY) else "people"


async def _first_byte(taken: socket.socket, seconds: float) -> None:
    """Return when there is something to read. Raises `TimeoutError`; the socket is closed then."""
    loop = asyncio.get_running_loop()
    seen: asyncio.Future[None] = loop.create_future()
    loop.add_reader(taken, lambda: None if seen.done() else seen.set_result(None))
    try:
        async with asyncio.timeout(seconds):
            await seen
    except BaseException:
        loop.remove_reader(taken)
        taken.close()
        raise
    loop.remove_reader(taken)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    raw = socket.socket(family, socket.SOCK_STREAM)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    raw.bind((host, port))
    raw.listen(BACKLOG)
    raw.setblocking(False)
    return raw


def live_handler(plan: FrontPlan, lanes: Lanes) -> Handler:
    """`GET /api/v1/health/live`: no database, only whether the processes of this node move."""

    async def live(asked: Asked) -> Answered:
        if asked.method not in ("GET", "HEAD"):
            return error_answer(405, "METHOD_NOT_ALLOWED", "this path takes GET only")
        names = parse_qsl(asked.query.decode("latin-1"), keep_blank_values=True)
        if refused := refusal((("", name, ()) for name, _ in names), "parameter of the query"):
            return error_answer(refused.status, refused.code, refused.sentence)
        reasons = [f"no {role} process answers" for role in lanes.missing()]
        body = {"status": "error" if reasons else "ok", "mode": plan.mode, "version": plan.version, "reasons": reasons}
        return json_answer(503 if reasons else 200, body)

    return live


def make_front(plan: FrontPlan) -> Front:
    """Everything a front is made of."""
    lanes = Lanes(
        primary_lanes(plan.threads) if plan.mode == "primary" else gateway_lanes(plan.threads),
        [Process(name, role, Path(plan.directory) / f"{name}.sock") for name, role in plan.processes],
    )
    caps = within(Caps(unfinished_per_address=plan.unfinished_per_address, requests_per_address=plan.requests_per_address))
    return Front(plan, lanes, Holdings(caps), {LIVE: live_handler(plan, lanes)})


def within(caps: Caps) -> Caps:
    """As many descriptors as the system gives, and limits that fit into them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = caps.connections + caps.unfinished + KEPT_DESCRIPTORS
    best = wanted + KNOWN_CONNECTIONS if hard == resource.RLIM_INFINITY else min(wanted + KNOWN_CONNECTIONS, hard)
    if soft != resource.RLIM_INFINITY and soft < best:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (best, hard))
            soft = best
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return caps
    room = max(100, soft - KEPT_DESCRIPTORS)
    return replace(caps, connections=room * 2 // 3, unfinished=room // 3)


def read_little() -> None:
    """asyncio keeps a buffer of 256 KiB for each TLS connection; with thousands of idle strangers that is half a gigabyte."""
    sslproto.SSLProtocol.max_size = TLS_BUFFER


def main() -> None:
    """`python -m orchestrator.node.front PLAN LIFELINE`: started by the parent."""
    plan = decode_json(sys.argv[1], FrontPlan)
    end_with_parent()
    set_process_name("mv-front")
    log_to_standard_error(plan.log_format)
    logging.getLogger("mazevault").setLevel(plan.log_level)
    lifeline = Lifeline(int(sys.argv[2]))
    read_little()
    try:
        event_loop.run(_run(plan, lifeline))
    except OSError as error:
        lifeline.failed(f"port {plan.port} cannot be opened: {error.strerror or error}")
        sys.exit(1)


async def _run(plan: FrontPlan, lifeline: Lifeline) -> None:
    loop = asyncio.get_running_loop()
    front = make_front(plan)

    def tick() -> None:
        lifeline.progress.moved("the event loop", LOOP_SECONDS)
        loop.call_later(TICK_SECONDS, tick)

    tick()
    lifeline.start()
    await front.run(lifeline.ready)


LOOP_SECONDS = 5.0
"""A front whose event loop has not turned for so long stands still."""
TICK_SECONDS = 0.5

if __name__ == "__main__":
    main()
