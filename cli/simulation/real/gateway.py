"""A light gateway: heartbeat, lease and waiting call as the shipped one makes them, with its own backoff and breaker.

It keeps two connections, as the shipped one does: one for what is urgent, one for the waiting call.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from cli.simulation.faults import Loss
from cli.simulation.real.counts import Counts
from cli.simulation.real.http import Connection
from cli.simulation.real.speaker import Speaker
from gateway_runtime import lease as leases
from gateway_runtime import pacing
from gateway_runtime.breaker import PAUSE_CAP, Breaker
from gateway_runtime.lease import Lease
from protocol.envelope import EnvelopeRefused
from protocol.messages import Directive, LeaseAnswer, Message, MessageError
from protocol.timing import TimeProfile
from protocol.vocabulary import Assignment, LeaseVerdict

RETRY_BASE, RETRY_CAP = 1.0, 15.0
"""As in the shipped gateway: first and longest pause in seconds after a failed call."""
REFUSED_PAUSE = 10.0
BUSY = frozenset({429, 503})
ACTING = (Assignment.ACTIVE, Assignment.DRAINING)


class Unreachable(Exception):
    """No answer came."""


class Refused(Exception):
    """The answer was no. `retry_after` is in seconds where the Primary named one."""

    def __init__(self, status: int, retry_after: float | None) -> None:
        super().__init__(str(status))
        self.status, self.retry_after = status, retry_after


@dataclass(frozen=True)
class Surroundings:
    """What all gateways of a run share. `twice` is asked before each message whether it is to be sent twice."""

    port: int
    root: str
    timing: TimeProfile
    counts: Counts
    twice: Callable[[], bool]


class LightGateway:
    """One gateway. `cut` is set while a fault holds; `was_hit` for good once one did that may take its lease."""

    def __init__(self, speaker: Speaker, around: Surroundings, address: str, randomness: random.Random, *, waits: bool) -> None:
        self.speaker, self._around, self._random, self._waits = speaker, around, randomness, waits
        self.context: ssl.SSLContext = speaker.context(around.root)
        self._urgent = Connection(around.port, self.context, source=address)
        self._waiting = Connection(around.port, self.context, source=address)
        self._one_at_a_time = asyncio.Lock()
        self._breaker = Breaker(randomness, longest_pause=min(PAUSE_CAP, around.timing.lease_renew))
        self._lease: Lease | None = None
        self._lease_wanted = asyncio.Event()
        self._revision = ""
        self.cut: Loss | None = None
        self.was_hit = False
        self.heard_at = 0.0
        """When the Primary last answered it."""
        self.least_left: float | None = None
        """Seconds its lease had left when it had least, since it first held one. Below 0 it could not act for a while."""

    @property
    def is_active(self) -> bool:
        return self.speaker.role in ACTING

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """What this gateway does until it is cancelled."""
        made = [self._loop(self._heartbeat, self._around.timing.heartbeat_interval), self._loop(self._renew, 0.5)]
        return [*made, self._loop(self._ask, self._around.timing.directive_wait)] if self._waits else made

    def close(self) -> None:
        self._urgent.close()
        self._waiting.close()

    def note_lease(self) -> None:
        """Look how much the lease has left now; called before it is renewed and at the end."""
        if self._lease is not None:
            left = self._lease.until_boot - time.monotonic()
            self.least_left = left if self.least_left is None else min(self.least_left, left)

    async def _loop(self, step: Callable[[], Awaitable[float]], spread: float) -> None:
        await asyncio.sleep(self._random.uniform(0, spread))
        attempt = 0
        while True:
            pause, attempt = await self._one_step(step, attempt)
            await asyncio.sleep(pause)

    async def _one_step(self, step: Callable[[], Awaitable[float]], attempt: int) -> tuple[float, int]:
        """One step through the breaker; the pause behind it and the failures in a row."""
        now = time.monotonic()
        if not self._breaker.allows(now):
            return self._breaker.pause(now), attempt
        cap = min(RETRY_CAP, self._around.timing.lease_renew)
        try:
            pause = await step()
        except Unreachable:
            self._breaker.failed(time.monotonic())
            return pacing.backoff(attempt, RETRY_BASE, cap, self._random), attempt + 1
        except Refused as refused:
            self._breaker.succeeded(time.monotonic())
            if refused.status not in BUSY:
                return pacing.jittered(min(REFUSED_PAUSE, self._around.timing.heartbeat_interval), 0.2, self._random), attempt + 1
            pause = pacing.backoff(attempt, RETRY_BASE, cap, self._random)
            return pacing.not_before(pause, refused.retry_after, cap, self._random), attempt + 1
        self._breaker.succeeded(time.monotonic())
        return pause, 0

    async def _heartbeat(self) -> float:
        left = leases.seconds_left(self._lease, time.monotonic(), time.monotonic()) if self._lease else 0.0
        directive = await self._urgently("heartbeat", lambda: self.speaker.heartbeat(left), Directive)
        self._obey(directive)
        return pacing.jittered(directive.next_heartbeat_seconds, 0.05, self._random)

    async def _renew(self) -> float:
        await self._lease_wanted.wait()
        sent = time.monotonic()
        answer = await self._urgently("lease", self.speaker.lease, LeaseAnswer)
        usual = pacing.jittered(self._around.timing.lease_renew, 0.1, self._random)
        if answer.verdict is not LeaseVerdict.GRANTED:
            self.speaker.epoch = max(self.speaker.epoch, answer.epoch)
            self._lease = None
            return min(answer.retry_after_seconds, usual) or usual
        self.note_lease()
        granted = leases.grant(
            sent_boot=sent, sent_wall=sent, ttl=min(answer.ttl_seconds, self._around.timing.lease_ttl), epoch=answer.epoch,
            highest_epoch_seen=self.speaker.epoch, fenced=None,
        )  # fmt: skip
        self._lease = granted if isinstance(granted, Lease) else None
        return usual

    async def _ask(self) -> float:
        wait = self._around.timing.directive_wait
        longest = wait + self._around.timing.round_trip_max

        def make() -> bytes:
            return self.speaker.directive(self._revision, wait)

        directive = await self._call("directive", self._waiting, make, Directive, longest)
        self._obey(directive)
        self._revision = directive.revision
        return directive.retry_after_seconds

    def _obey(self, directive: Directive) -> None:
        if directive.epoch < self.speaker.epoch:
            return
        self.speaker.epoch, self.speaker.role = directive.epoch, directive.assigned_role
        if self.is_active and not directive.waits:
            self._lease_wanted.set()
        else:
            self._lease_wanted.clear()
            self._lease = None

    async def _urgently(self, kind: str, make: Callable[[], bytes], answer: type[Message]) -> Any:
        async with self._one_at_a_time:
            return await self._call(kind, self._urgent, make, answer, self._around.timing.round_trip_max)

    async def _call(
        self, kind: str, connection: Connection, make: Callable[[], bytes], answer: type[Message], seconds: float
    ) -> Any:
        """Send one message and open its answer. Raises `Unreachable` or `Refused`."""
        counts, began = self._around.counts, time.monotonic()
        try:
            status, body = await self._exchanged(kind, connection, make, seconds)
            if self.cut is not None:
                raise TimeoutError
            counts.answered(kind, status, connection.retry_after, time.monotonic() - began, body)
            if status != 200:
                raise Refused(status, connection.retry_after)
            found = self.speaker.opened(body, answer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, EnvelopeRefused,
                MessageError) as error:  # fmt: skip
            counts.broken += 1
            connection.close()
            if self.cut is not None:
                await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
            raise Unreachable(repr(error)) from error
        self.heard_at = time.monotonic()
        return found

    async def _exchanged(self, kind: str, connection: Connection, make: Callable[[], bytes], seconds: float) -> tuple[int, bytes]:
        if self.cut in (Loss.BOTH, Loss.UP):
            raise TimeoutError
        if not connection.is_open:
            connection.close()
            async with asyncio.timeout(seconds):
                await connection.open()
        wire = make()
        self._around.counts.sent(kind)
        answered = await connection.ask(wire, seconds)
        if self._around.twice() and kind != "directive":
            await self._send_again(kind, connection, wire, seconds)
        return answered

    async def _send_again(self, kind: str, connection: Connection, wire: bytes, seconds: float) -> None:
        """The same bytes once more: taken twice would be wrong."""
        counts = self._around.counts
        retry_after = connection.retry_after
        counts.sent(f"{kind} again")
        status, _ = await connection.ask(wire, seconds)
        connection.retry_after = retry_after
        counts.doubled += 1
        counts.doubled_taken += status == 200
