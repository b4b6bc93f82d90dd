"""A load generator for HTTP/1.1 over TLS, in a process of its own: closed loop for capacity, open loop for latency.

It reads just enough of an answer to know its status and its length, so that the server is what is measured. Run it on
another core than the server's.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cli.simulation.real.http import Connection


@dataclass
class Tally:
    """What a run saw. `latencies` are seconds; `refused` counts answers that are not 2xx by status."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    refused: dict[int, int] = field(default_factory=dict)
    broken: int = 0
    """Connections that ended without an answer."""
    last: bytes = b""
    """Body of the last refused answer, for a person."""

    def note(self, status: int, seconds: float, body: bytes) -> None:
        if 200 <= status < 300:
            self.latencies.append(seconds)
        else:
            self.refused[status] = self.refused.get(status, 0) + 1
            self.last = body[:300]

    def summary(self) -> dict[str, object]:
        ordered = sorted(self.latencies) or [0.0]
        shown: dict[str, object] = {
            "per_second": round(len(self.latencies) / self.seconds, 1) if self.seconds else 0.0,
            "p50_ms": round(ordered[len(ordered) // 2] * 1000, 2),
            "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 2),
            "answers": len(self.latencies),
        }
        if self.refused or self.broken:
            shown |= {"refused": self.refused, "broken": self.broken, "last_refusal": self.last.decode(errors="replace")}
        return shown


Asker = Callable[[], bytes]
"""Makes the next request of one client."""


async def closed_loop(clients: Sequence[tuple[Connection, Asker]], seconds: float, *, anew: bool = False) -> Tally:
    """Every client asks again as soon as it was answered. `anew` makes a new connection for each request."""
    tally, until = Tally(), time.perf_counter() + seconds
    if not anew:
        await asyncio.gather(*(connection.open() for connection, _ in clients))
    began = time.perf_counter()

    async def drive(connection: Connection, make: Asker) -> None:
        while time.perf_counter() < until:
            if anew:
                connection.close()
            await _one(tally, connection, make, time.perf_counter())

    await asyncio.gather(*(drive(*client) for client in clients))
    tally.seconds = time.perf_counter() - began
    for connection, _ in clients:
        connection.close()
    return tally


async def open_loop(clients: Sequence[tuple[Connection, Asker]], rate: float, seconds: float) -> Tally:
    """`rate` requests a second whatever the server does; latency counts from the moment a request was due."""
    tally, numbers = Tally(), itertools.count()
    await asyncio.gather(*(connection.open() for connection, _ in clients))
    began = time.perf_counter()

    async def drive(connection: Connection, make: Asker) -> None:
        while (due := began + next(numbers) / rate) < began + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await _one(tally, connection, make, due)

    await asyncio.gather(*(drive(*client) for client in clients))
    tally.seconds = time.perf_counter() - began
    for connection, _ in clients:
        connection.close()
    return tally


async def _one(tally: Tally, connection: Connection, make: Asker, due: float) -> None:
    try:
        status, body = await connection.ask(make())
    except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
        tally.broken += 1
        connection.close()
        await asyncio.sleep(0.05)
        return
    tally.note(status, time.perf_counter() - due, body)
