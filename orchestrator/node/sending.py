"""What leaves on one connection, in pieces: a slow reader shows that it reads, and one who takes nothing loses its connection.

Sizes are bytes, times seconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from orchestrator.node import limits

AT_ONCE = 16 * 1024
"""Given to the transport at once: one TLS record. Nothing more is given before it has taken all of that. With TLS up to 64 KiB
more are on their way below, so whoever takes 4 kB/s is never seen to stand still."""


class Outgoing:
    """Holds what the peer has not taken yet. Its timer runs while the transport takes nothing, and anew after each piece."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._waiting: deque[memoryview] = deque()
        self._is_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._sent = asyncio.Event()
        self._sent.set()
        self.held = 0
        """Bytes that wait here; what the transport holds is not among them."""

    @property
    def is_sent(self) -> bool:
        return self._sent.is_set()

    async def until_sent(self) -> None:
        await self._sent.wait()

    def write(self, data: bytes) -> None:
        if data:
            self._waiting.append(memoryview(data))
            self.held += len(data)
            self._push()

    def pause(self) -> None:
        self._is_paused = True
        self._sent.clear()
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(limits.SEND_SECONDS, self._transport.abort)

    def resume(self) -> None:
        self._is_paused = False
        self._stop_timer()
        self._push()

    def lost(self) -> None:
        """Nobody is there any more: whoever waits goes on."""
        self._stop_timer()
        self._waiting.clear()
        self.held = 0
        self._sent.set()

    def _push(self) -> None:
        while self._waiting and not self._is_paused:
            piece = self._waiting.popleft()
            if len(piece) > AT_ONCE:
                self._waiting.appendleft(piece[AT_ONCE:])
                piece = piece[:AT_ONCE]
            self.held -= len(piece)
            self._transport.write(piece)
        if not self._waiting and not self._is_paused:
            self._sent.set()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
