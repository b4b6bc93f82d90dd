"""A network between a gateway's real `Channel` and the Primary's real views, without a socket.

Stands where `httpx.Client` stands. Addresses can be dead, and every answer can be changed or lost on its way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
from django.test import Client

from gateways.peer import PEER_CERTIFICATE
from protocol import paths

Change = Callable[[httpx.Response], httpx.Response]


def unchanged(answer: httpx.Response) -> httpx.Response:
    return answer


@dataclass
class Wire:
    """Call it for a client; it is one itself."""

    peer: bytes | None = None
    """The client certificate (DER) the Primary sees."""
    dead: set[str] = field(default_factory=set)
    """Addresses where nobody answers."""
    asked: list[str] = field(default_factory=list)
    """Every URL that was asked for, in order."""
    sent: list[bytes] = field(default_factory=list)
    """What was posted."""
    change: Change = unchanged
    """What becomes of an answer to a sealed message."""
    change_trust: Change = unchanged
    primary: Client = field(default_factory=Client)

    def __call__(self, **_options: Any) -> Wire:
        return self

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def close(self) -> None:
        return None

    def get(self, url: str) -> httpx.Response:
        answer = self.primary.get(self._path_of(url))
        return self.change_trust(httpx.Response(answer.status_code, content=answer.content, request=httpx.Request("GET", url)))

    def post(self, url: str, *, content: bytes, headers: dict[str, str], timeout: object) -> httpx.Response:
        path = self._path_of(url)
        self.sent.append(content)
        socket: dict[str, Any] = {PEER_CERTIFICATE: self.peer}
        answer = self.primary.post(path, data=content, content_type=headers["Content-Type"], **socket)
        return self.change(
            httpx.Response(answer.status_code, headers={"content-type": answer["Content-Type"]}, content=answer.content)
        )

    def fetched_trust(self) -> int:
        """How often the trust document was asked for."""
        return sum(url.endswith(paths.TRUST) for url in self.asked)

    def _path_of(self, url: str) -> str:
        parts = urlsplit(url)
        self.asked.append(url)
        if f"{parts.scheme}://{parts.netloc}" in self.dead:
            raise httpx.ConnectError("nobody answers here")
        return parts.path


def lost(_answer: httpx.Response) -> httpx.Response:
    """A change: the answer never arrives."""
    raise httpx.ReadTimeout("the answer was lost")
