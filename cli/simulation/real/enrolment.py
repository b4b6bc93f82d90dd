"""Enrolling a whole fleet: a bootstrap token for each gateway, redeemed, several at once."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cli.simulation.real.http import Connection, request
from cli.simulation.real.speaker import Speaker
from cli.stack.layout import StackError

AT_ONCE = 8
"""Connections that ask for tokens and redeem them."""
BUSY, LONGEST_PAUSE, TRIES = frozenset({429, 503}), 5.0, 20
TOLD_EVERY = 500


@dataclass(frozen=True)
class Enrolled:
    """The fleet, and what enrolling it took in seconds."""

    speakers: list[Speaker]
    seconds: float


class Enroller:
    """Asks for tokens as the administrator and redeems each at once."""

    def __init__(self, port: int, ca: ssl.SSLContext, bearer: str, trust: dict[str, Any], say: Callable[[str], None]) -> None:
        self._port, self._ca, self._bearer, self._trust, self._say = port, ca, bearer, trust, say
        self.made: list[Speaker] = []

    async def enrol(self, codes: tuple[str, ...]) -> Enrolled:
        """A primary and a DR gateway for each environment. Raises `StackError` with what the Primary said."""
        began = time.monotonic()
        wishes = iter([(code, role) for code in codes for role in ("primary", "dr-standby")])
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._work(wishes))
        return Enrolled(self.made, time.monotonic() - began)

    async def _work(self, wishes: Iterator[tuple[str, str]]) -> None:
        connection = Connection(self._port, self._ca)
        try:
            for code, role in wishes:
                speaker = Speaker(self._trust, code)
                speaker.take(await self._asked(connection, speaker.registration(await self._token(connection, code, role))))
                self.made.append(speaker)
                if len(self.made) % TOLD_EVERY == 0:
                    self._say(f"enrolled {len(self.made)} gateways")
        finally:
            connection.close()

    async def _token(self, connection: Connection, code: str, role: str) -> str:
        wish = json.dumps({"name": f"gw-{code.lower()}-{role}", "environment": code, "role": role}).encode()
        asked = request("POST", "/api/v1/gateways/bootstrap", wish, Authorization=f"Bearer {self._bearer}")
        return str(json.loads(await self._asked(connection, asked))["token"])

    async def _asked(self, connection: Connection, wire: bytes) -> bytes:
        """The body of the answer; what is busy is asked again after the pause it names."""
        for _ in range(TRIES):
            try:
                status, body = await connection.ask(wire)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                connection.close()
                status, body = 503, repr(error).encode()
            if 200 <= status < 300:
                return body
            if status not in BUSY:
                break
            await asyncio.sleep(min(LONGEST_PAUSE, connection.retry_after or 1.0))
        raise StackError(f"a gateway could not be enrolled: {status} {body[:300].decode(errors='replace')}")
