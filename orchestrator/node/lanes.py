"""Which process serves a request, and what happens when it cannot: slots, a bounded queue, an answer at once beyond it.

A lane is a number of slots at the processes of one role, so what waits in one lane takes nothing from another: waiting directive
calls never hold up a lease, strangers never a gateway. A slot is one connection of the private socket and one thread over there;
in the lanes of machines it is a number on the one connection of all, and costs no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter, deque
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from orchestrator.node.wire import (
    REPLIES,
    Answered,
    Asked,
    AskListener,
    Frames,
    Listener,
    Numbered,
    Piece,
    Ping,
    Pong,
    Question,
    Reply,
    Told,
    WireBroken,
)
from protocol import paths

PING_SECONDS = 0.5
"""How often a process is asked whether it accepts and answers."""
SUSPECT_SECONDS = 2.5
"""A process that has not answered for so long gets no new request; those that wait go to another one, or to its successor."""
PATIENCE_SECONDS = 5.0
"""How long a request waits for a slot; longer than the restart of a worker, shorter than a gateway's own patience."""
HEALTH_SECONDS = 0.9
"""Health answers within a second, whatever is down."""
URGENT_SLOTS, STRANGER_SLOTS, HEALTH_SLOTS = 512, 8, 2
"""An urgent call waits for its group to commit and for nothing else; some hundred gathered ones make a commit worth while."""
WAITING_SLOTS = 12_500
"""More than the lane has places for directive calls, so that who gets none hears so at once."""
BULK_BEYOND = 64
"""Bulk calls beyond the threads that work on them; the lane lets so many wait itself."""

URGENT_PATHS = frozenset({
    paths.LEASE_RENEW, paths.LEASE_RELEASE, paths.HEARTBEAT, paths.FENCE_ACKNOWLEDGE, paths.DRAIN_REPORT, paths.SIGN_OF_LIFE,
})  # fmt: skip
FIRST_PATHS = frozenset({paths.TRUST, paths.REGISTER})
"""What a gateway asks before it is somebody."""
CHANNEL_PREFIX = f"{paths.API}/gateways/channel/"
READY = f"{paths.HEALTH}/ready"
LIVE = f"{paths.HEALTH}/live"


class Busy(Exception):
    """No slot came free in time. The request was not begun."""


class Lost(Exception):
    """The process ended, or did not answer in time, after the request was handed over; nobody knows whether it was done."""


@dataclass(frozen=True)
class Lane:
    """Slots at each process of `role`; so many requests may wait for one, each so long."""

    name: str
    role: str
    slots: int
    queue: int
    patience: float
    answer_seconds: float | None = None
    """The front answers itself when the worker has not by then; None waits as long as the worker lives."""
    shared: bool = False
    """All slots are numbers on one connection, and answers come whole."""


def primary_lanes(threads: int) -> tuple[Lane, ...]:
    """The lanes of a Primary whose processes have so many threads for people and for bulk each."""
    half = max(4, threads // 2)
    return (
        Lane("urgent", "machine", URGENT_SLOTS, 512, PATIENCE_SECONDS, shared=True),
        Lane("waiting", "machine", WAITING_SLOTS, 512, PATIENCE_SECONDS, shared=True),
        Lane("machine", "machine", half + BULK_BEYOND, 256, PATIENCE_SECONDS, shared=True),
        Lane("strangers", "machine", STRANGER_SLOTS, 64, PATIENCE_SECONDS, shared=True),
        *_people_lanes("people", threads),
    )


def gateway_lanes(threads: int) -> tuple[Lane, ...]:
    """A gateway has one process for everything."""
    return _people_lanes("core", threads)


def _people_lanes(role: str, threads: int) -> tuple[Lane, ...]:
    return (
        Lane("health", role, HEALTH_SLOTS, 32, patience=HEALTH_SECONDS / 2, answer_seconds=HEALTH_SECONDS),
        Lane("people", role, threads, 4 * threads, PATIENCE_SECONDS),
    )


def plain_path(target: bytes) -> str:
    """A path as the router sees it: decoded, without trailing slash."""
    return unquote_to_bytes(target).decode("utf-8", "replace").rstrip("/")


def lane_name(path: str, *, known: bool) -> str:
    """The lane of a Primary's path (`plain_path`). `known`: the caller has shown a client certificate of ours."""
    if path in (paths.HEALTH, READY):
        return "health"
    if path in FIRST_PATHS:
        return "machine" if known and path == paths.TRUST else "strangers"
    if path != CHANNEL_PREFIX[:-1] and not path.startswith(CHANNEL_PREFIX):
        return "people"
    if not known:
        return "strangers"
    if path in URGENT_PATHS:
        return "urgent"
    return "waiting" if path == paths.DIRECTIVE else "machine"


@dataclass
class Process:
    """A worker as the front sees it."""

    name: str
    role: str
    socket: Path
    seen: float = float("-inf")
    """Monotonic second of its last sign of life."""
    busy: Counter[str] = field(default_factory=Counter)
    served: int = 0
    idle: dict[str, list[Link]] = field(default_factory=dict)
    shared: SharedLink | None = None

    def is_usable(self, now: float) -> bool:
        return now - self.seen < SUSPECT_SECONDS


class Link:
    """One connection of the private socket, for one request at a time. What nobody has asked for yet is not read further."""

    def __init__(self) -> None:
        self._frames = Frames(REPLIES, self._heard, self._lost)
        self._unread: deque[Reply] = deque()
        self._asked: asyncio.Future[Reply] | None = None

    @staticmethod
    async def opened(path: Path) -> Link:
        """Raises `OSError`."""
        link = Link()
        await asyncio.get_running_loop().create_unix_connection(lambda: link._frames, str(path))
        return link

    @property
    def is_open(self) -> bool:
        return self._frames.is_open

    def say(self, question: Question) -> None:
        """Nothing happens when the connection has ended: `reply` tells."""
        self._frames.say(question)

    @property
    def is_clean(self) -> bool:
        """Open, and with no frame on it that belongs to the request before."""
        return self.is_open and self._asked is None and not self._unread

    async def reply(self) -> Reply:
        """The next frame, in the order of their coming; who stops waiting for it leaves it to the next one who asks.

        Raises `WireBroken`.
        """
        if self._asked is None:
            if self._unread:
                return self._unread_one()
            if not self.is_open:
                raise WireBroken("closed")
            self._asked = asyncio.get_running_loop().create_future()
        reply = await asyncio.shield(self._asked)  # who is cancelled at the moment of its coming must not take it along
        self._asked = None
        return reply

    def close(self) -> None:
        self._frames.close()

    def _unread_one(self) -> Reply:
        found = self._unread.popleft()
        if not self._unread:
            self._frames.go_on()
        return found

    def _heard(self, frames: Frames, reply: Any) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(reply)
        else:
            self._unread.append(reply)
            frames.wait()

    def _lost(self) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(WireBroken("the connection ended"))
            self._asked.exception()  # perhaps nobody waits any more


class SharedLink:
    """The connection on which many numbered requests are on their way at once."""

    def __init__(self) -> None:
        self._frames = Frames(REPLIES, self._heard, self._lost)
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Answered]] = {}

    @staticmethod
    async def opened(path: Path) -> SharedLink:
        """Raises `OSError`."""
        link = SharedLink()
        await asyncio.get_running_loop().create_unix_connection(lambda: link._frames, str(path))
        return link

    @property
    def is_open(self) -> bool:
        return self._frames.is_open

    def close(self) -> None:
        self._frames.close()

    def ask(self, asked: Asked) -> asyncio.Future[Answered]:
        """The answer, or `WireBroken` when the connection ends before it."""
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        if not self.is_open:
            answer.set_exception(WireBroken("closed"))
            return answer
        self._waiting[number] = answer
        self._frames.say(Numbered(number, asked))
        return answer

    def _heard(self, frames: Frames, reply: Any) -> None:
        answer = self._waiting.pop(reply.number, None) if isinstance(reply, Told) else None
        if answer is not None and not answer.done():
            answer.set_result(reply.answered)

    def _lost(self) -> None:
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(WireBroken("the connection ended"))
        self._waiting.clear()


class SharedTalk:
    """A request on a shared connection. Its slot is free once the answer is there, whether or not anybody still wants it."""

    def __init__(self, lanes: Lanes, lane: Lane, process: Process, link: SharedLink) -> None:
        self._lanes, self._lane, self._process, self._link = lanes, lane, process, link
        self._answer: asyncio.Future[Answered] | None = None

    async def begin(self, asked: Asked) -> Answered:
        """Hand the request over and return its answer. Raises `Lost`."""
        self._answer = self._link.ask(asked)
        try:
            return await asyncio.shield(self._answer)
        except WireBroken as error:
            self._process.seen = float("-inf")
            raise Lost(f"{self._process.name}: {error}") from error

    async def piece(self) -> Piece:
        raise Lost("the answer came whole")

    def close(self) -> None:
        if self._answer is None:
            self._lanes.give_back(self._process, self._lane, None)
        else:
            self._answer.add_done_callback(self._end)

    def _end(self, answer: asyncio.Future[Answered]) -> None:
        if not answer.cancelled():
            answer.exception()  # it was told, or nobody waits for it any more
        self._lanes.give_back(self._process, self._lane, None)


class Talk:
    """One request on its way: the head of the answer, then its pieces. Ends with `close`, also when nobody wants the rest."""

    def __init__(self, lanes: Lanes, lane: Lane, process: Process, link: Link) -> None:
        self._lanes, self._lane, self._process = lanes, lane, process
        self._link: Link | None = link
        self._begun, self._more = False, True

    async def begin(self, asked: Asked) -> Answered:
        """Hand the request over and return the head of the answer. Raises `Lost`."""
        try:
            assert self._link is not None  # noqa: S101  it is ours until `close`
            self._link.say(asked)
            self._begun = True
            reply = await self._link.reply()
        except WireBroken as error:
            self._process.seen = float("-inf")
            raise Lost(f"{self._process.name}: {error}") from error
        if not isinstance(reply, Answered):
            self._end(keep=False)
            raise Lost(f"{self._process.name} answers {type(reply).__name__}")
        self._more = reply.more
        return reply

    async def piece(self) -> Piece:
        """The next piece of the body. Raises `Lost`."""
        assert self._link is not None  # noqa: S101  it is ours until `close`
        try:
            reply = await self._link.reply()
        except WireBroken as error:
            raise Lost(f"{self._process.name}: {error}") from error
        if not isinstance(reply, Piece) or reply.broken:
            self._end(keep=False)  # nothing comes after it
            raise Lost(f"{self._process.name} failed within an answer")
        self._more = reply.more
        return reply

    def close(self) -> None:
        """Give the slot back as soon as the worker's thread is free: it works on while nobody listens."""
        if not self._more or not self._begun:
            self._end(keep=not self._more)
        elif self._link is not None:
            self._lanes.spawn(self._read_to_the_end(self._link))

    async def _read_to_the_end(self, link: Link) -> None:
        keep = False
        try:
            with contextlib.suppress(WireBroken):
                while self._more:
                    reply = await link.reply()
                    if not isinstance(reply, Answered | Piece) or (isinstance(reply, Piece) and reply.broken):
                        return
                    self._more = reply.more
                keep = True
        finally:
            self._end(keep=keep)

    def _end(self, *, keep: bool) -> None:
        """Once: a slot that was given back twice would let in one more than there are threads."""
        link, self._link = self._link, None
        if link is None:
            return
        keep = keep and link.is_clean
        if not keep:
            link.close()
        self._lanes.give_back(self._process, self._lane, link if keep else None)


class Lanes:
    """All lanes of one front."""

    def __init__(self, lanes: Iterable[Lane], processes: Iterable[Process]) -> None:
        self.lanes: Mapping[str, Lane] = {lane.name: lane for lane in lanes}
        self.processes = tuple(processes)
        self._waiting: dict[str, deque[asyncio.Future[Process]]] = {name: deque() for name in self.lanes}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, name: str, asked: Asked) -> tuple[Talk | SharedTalk, Answered]:
        """Hand a request to a process of this lane. Raises `Busy` or `Lost`; the caller closes the talk."""
        lane = self.lanes[name]
        talk = await self._reached(lane)
        try:
            async with asyncio.timeout(lane.answer_seconds):
                return talk, await talk.begin(asked)
        except TimeoutError:
            talk.close()
            raise Lost(f"no answer within {lane.answer_seconds} s") from None
        except BaseException:
            talk.close()
            raise

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something to its end beside the requests."""
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _link(self, process: Process, lane: Lane) -> Link:
        """A connection to this process that nobody uses."""
        idle = process.idle.get(lane.name, [])
        while idle:
            found = idle.pop()
            if found.is_clean:
                return found
            found.close()
        return await Link.opened(process.socket)

    def give_back(self, process: Process, lane: Lane, link: Link | None) -> None:
        """The slot is free, and with it the connection unless it broke."""
        process.served += 1
        process.busy[lane.name] -= 1
        if link is not None:
            process.idle.setdefault(lane.name, []).append(link)
        self._serve_the_queue(lane)

    async def watch(self, process: Process) -> None:
        """Ask this process again and again whether it is there; the queue moves when it comes back."""
        while True:
            with contextlib.suppress(OSError, WireBroken, TimeoutError):
                async with asyncio.timeout(SUSPECT_SECONDS):
                    await _one_question(process, Ping(), Pong)
                    process.seen = time.monotonic()
                    for lane in self.lanes.values():
                        if lane.role == process.role:
                            self._serve_the_queue(lane)
            await asyncio.sleep(PING_SECONDS)

    async def listener(self, role: str) -> Listener:
        """What the TLS listener is made of, from any process of this role. Raises `WireBroken` or `OSError`."""
        process = next(one for one in self.processes if one.role == role)
        return await _one_question(process, AskListener(), Listener)

    def missing(self) -> list[str]:
        """Roles without any process that answers; empty when all is well."""
        now, roles = time.monotonic(), dict.fromkeys(process.role for process in self.processes)
        living = {process.role for process in self.processes if process.is_usable(now)}
        return [role for role in roles if role not in living]

    async def _shared_link(self, process: Process) -> SharedLink:
        if process.shared is None or not process.shared.is_open:
            opened = await SharedLink.opened(process.socket)
            if process.shared is None or not process.shared.is_open:
                process.shared = opened
            else:  # another one was faster
                opened.close()
        return process.shared

    async def _reached(self, lane: Lane) -> Talk | SharedTalk:
        """A slot and its connection. A process that cannot be reached gets nothing until it answers again. Raises `Busy`."""
        while True:
            process = await self._slot(lane)
            try:
                if lane.shared:
                    return SharedTalk(self, lane, process, await self._shared_link(process))
                return Talk(self, lane, process, await self._link(process, lane))
            except OSError:
                process.seen = float("-inf")
                self.give_back(process, lane, None)
            except BaseException:
                self.give_back(process, lane, None)
                raise

    async def _slot(self, lane: Lane) -> Process:
        free = self._free(lane)
        if free is not None:
            free.busy[lane.name] += 1
            return free
        waiting = self._waiting[lane.name]
        if len(waiting) >= lane.queue:
            raise Busy
        place: asyncio.Future[Process] = asyncio.get_running_loop().create_future()
        waiting.append(place)
        try:
            async with asyncio.timeout(lane.patience):
                return await place
        except BaseException as error:
            self._leave(lane, place)
            if isinstance(error, TimeoutError):
                raise Busy from None
            raise

    def _leave(self, lane: Lane, place: asyncio.Future[Process]) -> None:
        """Nobody waits here any more. A slot that was given in the same turn of the loop goes to the next one."""
        if place.done() and not place.cancelled():
            self.give_back(place.result(), lane, None)
        else:
            with contextlib.suppress(ValueError):
                self._waiting[lane.name].remove(place)

    def _serve_the_queue(self, lane: Lane) -> None:
        waiting = self._waiting[lane.name]
        while waiting and (free := self._free(lane)) is not None:
            place = waiting.popleft()
            if not place.done():
                free.busy[lane.name] += 1
                place.set_result(free)

    def _free(self, lane: Lane) -> Process | None:
        """The process of this lane that is usable and has the least to do; None when all slots are taken."""
        now = time.monotonic()
        able = [
            one for one in self.processes
            if one.role == lane.role and one.is_usable(now) and one.busy[lane.name] < lane.slots
        ]  # fmt: skip
        return min(able, key=lambda one: (one.busy[lane.name], one.served), default=None)


Kind = TypeVar("Kind", Pong, Listener)


async def _one_question(process: Process, question: Ping | AskListener, kind: type[Kind]) -> Kind:
    """Ask on a connection of its own, so that the answer proves that new connections are accepted."""
    link = await Link.opened(process.socket)
    try:
        link.say(question)
        reply = await link.reply()
    finally:
        link.close()
    if not isinstance(reply, kind):
        raise WireBroken(f"{process.name} answers {type(reply).__name__}")
    return reply
