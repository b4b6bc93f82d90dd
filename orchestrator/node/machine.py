"""The machine process of a Primary: the calls of gateways in one event loop, over the private socket (docs/adr/0039)."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from orchestrator.node.inner import private_socket
from orchestrator.node.lifeline import Lifeline
from orchestrator.node.wire import (
    QUESTIONS,
    Answered,
    Asked,
    AskListener,
    Frames,
    Listener,
    Numbered,
    Ping,
    Pong,
    Told,
)

log = logging.getLogger("mazevault.server")

LOOP_SECONDS = 8.0
"""An event loop that has not turned for so long stands still."""
TICK_SECONDS = 0.5
LEAVE_SECONDS = 5.0
"""Once told to end it serves on for so long, or until it is told again: by then the front has ended."""
SWITCH_SECONDS = 0.0005
"""How long a thread may hold the interpreter while the loop waits for it: no lease waits for a page that is being sealed."""

Answer = Callable[[Asked], Awaitable[Answered]]


class Machine:
    """Serves numbered requests. `answer` never raises."""

    def __init__(self, path: Path, answer: Answer, listener: Callable[[], Listener] | None) -> None:
        self._path, self._answer, self._listener = path, answer, listener
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[Frames] = set()

    async def run(self, stopped: asyncio.Event) -> None:
        """Serve until told to stop."""
        server = await asyncio.get_running_loop().create_unix_server(self._frames, sock=private_socket(self._path))
        try:
            await stopped.wait()
        finally:
            server.close()
            for frames in list(self._open):
                frames.close()

    def _frames(self) -> Frames:
        frames = Frames(QUESTIONS, self._heard, lambda: self._open.discard(frames))
        self._open.add(frames)
        return frames

    def _heard(self, frames: Frames, question: Any) -> None:
        if isinstance(question, Numbered):
            self._spawn(self._told(frames, question))
        elif isinstance(question, Ping):
            frames.say(Pong())
        elif isinstance(question, AskListener) and self._listener is not None:
            self._spawn(self._tell_listener(frames, self._listener))
        else:
            frames.close()

    async def _told(self, frames: Frames, question: Numbered) -> None:
        frames.say(Told(question.number, await self._answer(question.asked)))

    async def _tell_listener(self, frames: Frames, listener: Callable[[], Listener]) -> None:
        try:
            frames.say(await asyncio.to_thread(listener))
        except Exception as error:  # the front asks again
            log.warning("what the TLS listener is made of cannot be told: %s", type(error).__name__)
            frames.close()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def live(machine: Machine, lifeline: Lifeline, on_stop: Callable[[], None]) -> None:
    """Show signs of life and serve until told to end."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    sys.setswitchinterval(SWITCH_SECONDS)

    def tick() -> None:
        lifeline.progress.moved("the event loop", LOOP_SECONDS)
        loop.call_later(TICK_SECONDS, tick)

    def told_to_end() -> None:
        if ending:
            stopped.set()
            return
        ending.append(True)
        lifeline.close()
        on_stop()
        loop.call_later(LEAVE_SECONDS, stopped.set)

    ending: list[bool] = []
    tick()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        loop.add_signal_handler(number, told_to_end)
    loop.call_soon(lifeline.ready)
    await machine.run(stopped)
