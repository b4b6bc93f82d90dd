"""The machine lane of a Primary: one event loop that serves every gateway's call (docs/adr/0039).

A call costs no thread. Its statements are grouped with those of others, a waiting one costs a place in a table, and what may take
long is done apart, by a bounded number of threads. One connection listens: it wakes calls that wait, and empties what is
remembered of gateways and keys when their rows change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from datetime import datetime
from typing import Any, TypeVar

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.db import connection

from common import clock
from common.direct import connection_parameters
from common.errors import AuthenticationInvalid, Unavailable
from common.group_commit import Group
from common.grouped import Grouped, Item, Row, run_alone
from gateways import channel_keys, directives, heartbeats, instances, routes
from gateways.desks import certificate_of
from gateways.models import Gateway, GatewayCertificate

log = logging.getLogger("mazevault.lane")

KNOWN_CHANNEL = "mazevault_known"
"""NOTIFY channel of the triggers on gateways, certificates and the channel's keys. The payload is the gateway's id, or empty
for keys."""
MOST_KNOWN = 20_000
"""Certificates remembered, about 3 kB each."""
MOST_WAITING = 12_000
"""Directive calls that wait at once; who comes beyond is answered at once and told when to ask again."""
LOOK_SECONDS = 0.5
"""How often the listening connection proves that it is there. Nothing is remembered while it does not."""
ANSWER_SECONDS = 3.0
"""It is given up when it has not answered for so long."""
DUE_SECONDS = 5.0
"""How often it is asked what became due without a notice."""
CLOCK_SECONDS = 2.0
"""How often the database's clock is looked at where it must not be waited for."""
GROUPED = (instances.HEAR, heartbeats.LOOK, heartbeats.STORE, routes.RENEW, directives.ORDERED)

T = TypeVar("T")


class Threads:
    """A bounded number of threads with a bounded queue, for what uses Django's connection or takes long."""

    def __init__(self, name: str, threads: int, queue: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most, self._begun = threads + queue, 0

    async def run(self, work: Callable[[], T]) -> T:
        """Raises `Unavailable` when the queue is full. Who stops waiting leaves the work to its end."""
        if self._begun >= self._most:
            raise Unavailable("this node is busy; try again in a moment", retry_after=2)
        self._begun += 1
        done = asyncio.get_running_loop().run_in_executor(self._pool, _with_a_connection, work)
        done.add_done_callback(self._ended)
        return await asyncio.shield(done)

    def _ended(self, done: asyncio.Future[Any]) -> None:
        self._begun -= 1
        if not done.cancelled():
            done.exception()  # it was told to who asked, or nobody waits for it any more


def _with_a_connection(work: Callable[[], T]) -> T:
    try:
        return work()
    finally:
        connection.close()


class Known:
    """What is remembered until a notice says that it may have changed; nothing while no notice could arrive."""

    def __init__(self) -> None:
        self.is_on = False
        self._turn = 0
        self._certificates: OrderedDict[str, GatewayCertificate] = OrderedDict()
        self._of_gateway: dict[str, set[str]] = {}
        self._keys: dict[str, Any] = {}

    def turn_off(self) -> None:
        self.is_on = False
        self.forget_all()

    def forget_all(self) -> None:
        self._turn += 1
        self._certificates.clear()
        self._of_gateway.clear()
        self._keys.clear()

    def heed(self, payload: str) -> None:
        """A row changed: that of a gateway or of one of its certificates, or one of the keys."""
        self._turn += 1
        if not payload:
            self._keys.clear()
            channel_keys.forget()
        for fingerprint in self._of_gateway.pop(payload, ()):
            self._certificates.pop(fingerprint, None)

    @property
    def certificate_count(self) -> int:
        return len(self._certificates)

    def certificate(self, fingerprint: str) -> GatewayCertificate | None:
        return self._certificates.get(fingerprint)

    def key(self, name: str) -> Any:
        return self._keys.get(name)

    @property
    def turn(self) -> int:
        """Changes with each notice: what was looked up before one may be older than it."""
        return self._turn

    def remember(self, certificate: GatewayCertificate, turn: int) -> None:
        if not self.is_on or turn != self._turn:
            return
        while len(self._certificates) >= MOST_KNOWN:
            oldest, one = self._certificates.popitem(last=False)
            self._of_gateway.get(str(one.gateway_id), set()).discard(oldest)
        self._certificates[certificate.fingerprint] = certificate
        self._of_gateway.setdefault(str(certificate.gateway_id), set()).add(certificate.fingerprint)

    def remember_key(self, name: str, key: Any, turn: int) -> None:
        if self.is_on and turn == self._turn and len(self._keys) < channel_keys.MOST_REMEMBERED:
            self._keys[name] = key


class Doors:
    """Where directive calls wait: a set of places for each environment."""

    def __init__(self) -> None:
        self._turns: dict[str, int] = {}
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._count = 0
        self._closed = False

    def turn(self, code: str) -> int:
        return self._turns.get(code, 0)

    async def next_turn(self, code: str, after: int, seconds: float) -> bool:
        """Return when there was a notice after this turn, or when the time is over; False when no place is free."""
        if self._turns.get(code, 0) != after or self._closed:
            return True
        if self._count >= MOST_WAITING:
            return False
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        places = self._waiting.setdefault(code, set())
        places.add(place)
        self._count += 1
        try:
            async with asyncio.timeout(seconds):
                await place
        except TimeoutError:
            pass
        finally:
            self._count -= 1
            places.discard(place)
        return True

    def wake(self, code: str = "") -> None:
        """Let everybody of an environment look again; without one, everybody."""
        for one in [code] if code else {*self._waiting, *self._turns}:
            self._turns[one] = self._turns.get(one, 0) + 1
            for place in self._waiting.get(one, ()):
                if not place.done():
                    place.set_result(None)

    def close(self) -> None:
        """The process is ending: everybody looks once more and is answered."""
        self._closed = True
        self.wake()


class LaneDesk:
    """What the calls in one event loop share (`gateways.desks.Desk`). `urgent` does what leases and heartbeats rarely need."""

    def __init__(self, urgent: Threads) -> None:
        self._urgent = urgent
        self._known, self._doors = Known(), Doors()
        self._looking: dict[str, asyncio.Future[Any]] = {}
        parameters = connection_parameters()
        self._groups: Mapping[str, Group] = {statement.name: Group(statement, parameters, self._alone) for statement in GROUPED}
        self._parameters = parameters

    # What a call asks of its desk.

    def now(self) -> datetime:
        return clock.carried.last()

    async def caller(self, fingerprint: str, *, fresh: bool = False) -> GatewayCertificate | None:
        found = None if fresh else self._known.certificate(fingerprint)
        if found is not None:
            return found
        turn = self._known.turn
        looked_up: GatewayCertificate | None = await self._once(f"{fresh} {fingerprint}", lambda: certificate_of(fingerprint))
        if looked_up is not None:
            self._known.remember(looked_up, turn)
        return looked_up

    def row_of_now(self, gateway: Gateway) -> Gateway:
        found = Gateway.objects.filter(pk=gateway.pk, generation=gateway.generation).first()
        if found is None:
            raise AuthenticationInvalid("this client certificate is not a gateway's any more", code="CERTIFICATE_UNKNOWN")
        return found

    async def recipient_key(self, kid: str) -> X25519PrivateKey | None:
        found: X25519PrivateKey | None = await self._key(f"recipient {kid}", lambda: channel_keys.recipient_key(kid))
        return found

    async def signing_key(self) -> Ed25519PrivateKey:
        found: Ed25519PrivateKey = await self._key("signing", channel_keys.signing_key)
        return found

    async def run(self, statement: Grouped, item: Item) -> Row | None:
        return await self._groups[statement.name].ask(item)

    async def apart(self, work: Callable[[], T]) -> T:
        return await workers.get(self._urgent).run(work)

    def turn(self, code: str) -> int:
        return self._doors.turn(code)

    async def next_turn(self, code: str, after: int, seconds: float) -> bool:
        return await self._doors.next_turn(code, after, seconds)

    # What keeps it going.

    async def keep(self) -> None:
        """Serve the groups, listen, and look at the clock, until cancelled."""
        await self._urgent.run(clock.now)
        async with asyncio.TaskGroup() as tasks:
            for group in self._groups.values():
                tasks.create_task(group.run())
            tasks.create_task(self._keep_listening())
            tasks.create_task(self._keep_the_clock())

    def close(self) -> None:
        self._doors.close()

    async def _alone(self, statement: Grouped, item: Item) -> Row | None:
        return await self._urgent.run(lambda: run_alone(statement, item))

    async def _key(self, name: str, look_up: Callable[[], T]) -> T:
        found: T | None = self._known.key(name)
        if found is None:
            turn = self._known.turn
            found = await self._once(name, look_up)
            if found is not None:
                self._known.remember_key(name, found, turn)
        return found

    async def _once(self, name: str, look_up: Callable[[], T]) -> T:
        """Those who ask for the same thing while it is being looked up get what that finds."""
        looking = self._looking.get(name)
        if looking is None:
            looking = asyncio.ensure_future(self._urgent.run(look_up))
            self._looking[name] = looking
            looking.add_done_callback(lambda _: self._looking.pop(name, None))
        found: T = await asyncio.shield(looking)
        return found

    async def _keep_the_clock(self) -> None:
        while True:
            await asyncio.sleep(CLOCK_SECONDS)
            with contextlib.suppress(Unavailable, psycopg.Error):
                await self._urgent.run(clock.now)

    async def _keep_listening(self) -> None:
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError, TimeoutError) as error:
                log.warning("the lane lost its listening connection (%s) and remembers nothing until it is back", error)
            self._known.turn_off()
            await asyncio.sleep(LOOK_SECONDS)

    async def _listen(self) -> None:
        listening = await psycopg.AsyncConnection.connect(**self._parameters, autocommit=True)
        async with listening:
            await listening.execute(f"LISTEN {routes.DIRECTIVE_CHANNEL}")
            await listening.execute(f"LISTEN {KNOWN_CHANNEL}")
            self._known.forget_all()
            self._known.is_on = True
            self._doors.wake()
            looked = asyncio.get_running_loop().time()
            while True:
                async for notice in listening.notifies(timeout=LOOK_SECONDS):
                    self._heed(notice)
                async with asyncio.timeout(ANSWER_SECONDS):
                    looked = await self._prove(listening, looked)

    def _heed(self, notice: psycopg.Notify) -> None:
        if notice.channel == KNOWN_CHANNEL:
            self._known.heed(notice.payload)
        else:
            self._doors.wake(notice.payload)

    async def _prove(self, listening: psycopg.AsyncConnection[Any], looked: float) -> float:
        """One round trip: that the connection is there, or what became due meanwhile."""
        moment = asyncio.get_running_loop().time()
        if moment - looked < DUE_SECONDS:
            await listening.execute("SELECT 1")
            return looked
        due = await listening.execute(directives.DUE, [moment - looked + 1])
        for (code,) in await due.fetchall():
            self._doors.wake(code)
        return moment


workers: ContextVar[Threads] = ContextVar("workers")
"""The threads in which a call that may take long is worked on; the desk's own where nothing is said."""
