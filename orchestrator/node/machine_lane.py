"""What the machine process answers: the calls of the channel in the lane's loop, registration and trust beside them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote_to_bytes

from django.conf import settings
from django.http import HttpResponse, QueryDict

from common.api import asked as api_asked
from common.api import error_response, translate
from common.described import refuse_query
from common.errors import MethodNotAllowed, NotFound
from common.middleware import out_of_bounds
from gateways import urls
from gateways.channel import Question
from gateways.door_views import Served
from gateways.lane import LaneDesk, Threads, workers
from gateways.machine_api import trust_text
from orchestrator.listener import primary_files
from orchestrator.node import event_loop
from orchestrator.node.lanes import FIRST_PATHS, URGENT_PATHS
from orchestrator.node.lifeline import Lifeline
from orchestrator.node.machine import Machine, live
from orchestrator.node.wire import Answered, Asked
from protocol import paths
from protocol.envelope import CONTENT_TYPE

log = logging.getLogger("mazevault.server")

URGENT_THREADS, STRANGER_THREADS = 8, 4
URGENT_QUEUE, STRANGER_QUEUE, BULK_QUEUE = 512, 64, 256


class MachineLane:
    """Every path of the machine process. A call that is long is worked on by threads of its own, so that none takes a lease's."""

    def __init__(self, desk: LaneDesk, urgent: Threads, bulk: Threads, strangers: Threads) -> None:
        self._desk = desk
        self._urgent, self._bulk, self._strangers = urgent, bulk, strangers
        self._served = served_paths()

    async def answer(self, asked: Asked) -> Answered:
        try:
            return await self._answered(asked)
        except Exception as error:  # the edge of the program: whatever was raised gets an answer and a log line
            return answered_with(error_response(translate(error)))

    async def _answered(self, asked: Asked) -> Answered:
        text = unquote_to_bytes(asked.path).decode("utf-8", "replace")
        if refused := out_of_bounds(text, asked.query.decode("latin-1"), len(asked.body)):
            raise refused
        refuse_query(QueryDict(asked.query), frozenset())
        path = text.rstrip("/")
        if path == paths.TRUST:
            return await self._trust(asked)
        serve = self._served.get(path)
        if serve is None:
            raise NotFound("there is nothing at this path", details=api_asked(asked.method, text))
        workers.set(self._threads_for(path))
        question = Question(asked.method, path, asked.body, asked.peer.certificate, asked.peer.address)
        return plain(200, CONTENT_TYPE, await serve(self._desk, question))

    def _threads_for(self, path: str) -> Threads:
        if path in URGENT_PATHS or path == paths.DIRECTIVE:
            return self._urgent
        return self._strangers if path in FIRST_PATHS else self._bulk

    async def _trust(self, asked: Asked) -> Answered:
        if asked.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("this path takes GET only")
        return plain(200, "application/json", await self._strangers.run(trust_text))


def served_paths() -> Mapping[str, Served]:
    """The calls of the channel and registration, by path, from the one table of routes."""
    found = {f"{paths.API}/{str(one.pattern).rstrip('/')}": vars(one.callback).get("serve") for one in urls.urlpatterns}
    return {path: serve for path, serve in found.items() if serve is not None}


def plain(status: int, kind: str, body: bytes) -> Answered:
    headers = [
        ("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ]  # fmt: skip
    return Answered(status, "", headers, body)


def answered_with(response: HttpResponse) -> Answered:
    """A refusal in the one error shape, which is made in `common.api` and nowhere else."""
    made = plain(response.status_code, response["Content-Type"], response.content)
    known = {name.lower() for name, _ in made.headers}
    made.headers.extend((name, value) for name, value in response.items() if name.lower() not in known)
    return made


def serve(socket: Path, lifeline: Lifeline) -> None:
    """Be the machine process until told to end. Does not return: threads that wait for something must not hold its end."""
    event_loop.run(_serve(socket, lifeline))
    logging.shutdown()
    os._exit(0)


async def _serve(socket: Path, lifeline: Lifeline) -> None:
    urgent = Threads("urgent", URGENT_THREADS, URGENT_QUEUE)
    bulk = Threads("bulk", max(4, settings.MAZEVAULT.threads // 2), BULK_QUEUE)
    desk = LaneDesk(urgent)
    lane = MachineLane(desk, urgent, bulk, Threads("strangers", STRANGER_THREADS, STRANGER_QUEUE))
    keeping = asyncio.ensure_future(desk.keep())
    serving = asyncio.ensure_future(live(Machine(socket, lane.answer, primary_files), lifeline, desk.close))
    await asyncio.wait({keeping, serving}, return_when=asyncio.FIRST_COMPLETED)
    if keeping.done():
        keeping.result()  # it never ends by itself: a failure ends the process, and the parent starts another one
