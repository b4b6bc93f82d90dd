"""The machine channel as views: what the suite's gateways call, in the functions that serve real ones in the machine lane.

A node never routes a gateway's call here: the front hands it to the machine process, which knows no request of a framework.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse

from common.api import client_address, guarded
from common.errors import TooLarge
from common.parsing import is_longer
from gateways.channel import Door, Question
from gateways.desks import Desk, RequestDesk, at_once
from gateways.peer import peer_certificate
from protocol.envelope import CONTENT_TYPE, MAX_WIRE_BYTES
from protocol.messages import Message

View = Callable[[HttpRequest], HttpResponse]
Served = Callable[[Desk, Question], Coroutine[Any, Any, bytes]]


def channel(
    kind: type[Message], *, waiting: bool = False, quarantined: bool = False, held: bool = False
) -> Callable[[Callable], View]:
    """Make a door (`gateways.channel.Door`) of a function `(call, body) -> message`, and a view of it."""

    def decorate(handle: Callable) -> View:
        door = Door(kind, handle, waiting, quarantined, held)
        view = served(handle, door.pass_through)
        vars(view)["kind"] = kind  # what may be said there, for whoever looks at the routes
        vars(view)["door"] = door
        return view

    return decorate


def served(named: Callable[..., Any], serve: Served) -> View:
    """A view with the name of `named` that answers what `serve` does."""

    @wraps(named)
    @guarded
    def view(request: HttpRequest) -> HttpResponse:
        body = at_once(serve(RequestDesk(), question_of(request)))
        response = HttpResponse(body, content_type=CONTENT_TYPE)
        response["Content-Length"] = str(len(body))
        response["Cache-Control"] = "no-store"
        return response

    vars(view)["serve"] = serve
    return view


def question_of(request: HttpRequest) -> Question:
    length = str(request.META.get("CONTENT_LENGTH") or "0")
    if request.method == "POST" and (not length.isdecimal() or is_longer(length, MAX_WIRE_BYTES)):
        raise TooLarge(f"a sealed message is at most {MAX_WIRE_BYTES} bytes and names its length")
    return Question(
        request.method or "", request.path.rstrip("/"), request.body if request.method == "POST" else b"",
        peer_certificate(request), client_address(request),
    )  # fmt: skip
