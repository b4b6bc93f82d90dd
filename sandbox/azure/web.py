"""What a handler gets and gives: plain values, so that each handler is a function from a request to an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from sandbox.azure.world import World

LOST = 0
"""The status of an answer that never arrives: the connection is closed instead."""


@dataclass(frozen=True)
class Request:
    """One HTTP request. Header names are in lower case; `parts` are the named pieces of the path."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    peer: str = "127.0.0.1"
    secure: bool = True
    parts: Mapping[str, str] = field(default_factory=dict)

    def form(self) -> dict[str, str]:
        """The fields of an URL-encoded body; of a repeated name the last one."""
        return dict(parse_qsl(self.body.decode(errors="replace"), keep_blank_values=True))

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object; an empty body is an empty object. Raises `ValueError`."""
        found = json.loads(self.body or b"{}")
        if not isinstance(found, dict):
            raise ValueError("the body must be a JSON object")
        return found


@dataclass(frozen=True)
class Answer:
    """What goes back. `body` is sent as it is."""

    status: int
    body: bytes = b""
    content_type: str = "application/json; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[["World", Request], Answer]


@dataclass(frozen=True)
class Route:
    """A method and a path such as `/{tenant}/oauth2/v2.0/token`; `{scope*}` takes slashes too. `plain` routes need no TLS."""

    method: str
    path: str
    handle: Handler
    plain: bool = False

    def parts_of(self, path: str) -> Mapping[str, str] | None:
        """The named pieces when the path fits, else None."""
        found = re.fullmatch("".join(_pattern(piece) for piece in re.split(r"(\{\w+\*?\})", self.path)), path)
        return found.groupdict() if found else None


def _pattern(piece: str) -> str:
    if piece[:1] != "{":
        return re.escape(piece)
    return f"(?P<{piece[1:-2]}>.+)" if piece.endswith("*}") else f"(?P<{piece[1:-1]}>[^/]+)"


class Refusal(Exception):
    """Raised by a handler that refuses; it knows its own answer."""

    def answer(self) -> Answer:
        raise NotImplementedError


class ApiRefusal(Refusal):
    """A refusal in the shape of Graph, Resource Manager and Key Vault: `{"error": {"code", "message"}}`."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}

    def answer(self) -> Answer:
        return json_answer({"error": {"code": self.code, "message": self.message}}, self.status, self.headers)


def json_answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(value).encode(), headers=headers or {})


def html_answer(page: str, status: int = 200) -> Answer:
    """A page that may load nothing, run nothing and be framed by nobody."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
    return Answer(status, page.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": policy})


def redirect(location: str) -> Answer:
    return Answer(302, headers={"Location": location})
