"""The machine lane in an event loop of its own thread, and a client for the cast's gateways that calls it instead of a view."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from gateways.lane import LaneDesk, Threads
from gateways.peer import PEER_CERTIFICATE
from orchestrator.node.machine_lane import MachineLane
from orchestrator.node.wire import Answered, Asked, Peer
from tests.fakes.gateway import FakeGateway

PATIENCE_SECONDS = 30.0
T = TypeVar("T")


@dataclass
class Answer:
    status_code: int
    content: bytes
    headers: dict[str, str]


class RunningLane:
    """One machine lane as in the machine process, without its socket."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lane", daemon=True)
        self._thread.start()
        self.desk, self.lane = self.do(self._made())
        self._keeping = asyncio.run_coroutine_threadsafe(self.desk.keep(), self._loop)

    async def _made(self) -> tuple[LaneDesk, MachineLane]:
        threads = [Threads(name, 4, 64) for name in ("urgent", "bulk", "strangers")]
        desk = LaneDesk(threads[0])
        return desk, MachineLane(desk, *threads)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run this in the lane's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

    def take(self, gateway: FakeGateway) -> FakeGateway:
        """This gateway calls the lane from now on."""
        gateway.client = self  # type: ignore[assignment]
        return gateway

    def post(self, path: str, data: bytes, content_type: str, **socket: Any) -> Answer:
        """As Django's test client has it."""
        peer = Peer("127.0.0.1", 1, socket[PEER_CERTIFICATE])
        asked = Asked("POST", path.encode(), b"", [(b"content-type", content_type.encode())], data, peer)
        answered: Answered = self.do(self.lane.answer(asked))
        return Answer(answered.status, answered.body, dict(answered.headers))

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._keeping.cancel)
        with_all_ended = asyncio.run_coroutine_threadsafe(_rest(), self._loop)
        with_all_ended.result(PATIENCE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)


async def _rest() -> None:
    """Let what was cancelled come to its end."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    await asyncio.wait(others, timeout=5) if others else None


@contextmanager
def running_lane() -> Iterator[RunningLane]:
    made = RunningLane()
    try:
        yield made
    finally:
        made.end()
