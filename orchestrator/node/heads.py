"""Heads of requests and answers: what a request must say, and the bytes of an answer. Pure.

What could be read in two ways by two programs is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus

from orchestrator.node import limits
from orchestrator.node.wire import Answered

HSTS = "max-age=31536000"
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "trailer", "te", "proxy-connection"})
BODILESS = frozenset({204, 304})


class Refused(Exception):
    """This is no request we take. Answered in the error shape, then the connection is closed."""

    def __init__(self, status: int, code: str, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.code, self.sentence, self.retry_after = status, code, sentence, retry_after

    def answer(self) -> Answered:
        return error_answer(self.status, self.code, self.sentence, self.retry_after)


def error_answer(status: int, code: str, sentence: str, retry_after: int | None = None) -> Answered:
    """A refusal of the front in the one error shape (DESIGN §5)."""
    return json_answer(
        status, {"error": sentence, "code": code}, {} if retry_after is None else {"Retry-After": str(retry_after)}
    )


def json_answer(status: int, body: object, headers: dict[str, str] | None = None) -> Answered:
    """A small answer the front makes itself."""
    text = json.dumps(body, separators=(",", ":")).encode()
    named = {
        "Content-Type": "application/json", "Content-Length": str(len(text)), "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff", **(headers or {}),
    }  # fmt: skip
    return Answered(status, _reason(status), list(named.items()), text)


def malformed(sentence: str) -> Refused:
    return Refused(400, "INVALID_FORMAT", sentence)


@dataclass
class Incoming:
    """A request while it comes in."""

    target: bytearray = field(default_factory=bytearray)
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    method: str = ""
    path: bytes = b""
    query: bytes = b""
    head_size: int = 0
    head_complete: bool = False
    keep_alive: bool = True
    is_old: bool = False
    """HTTP/1.0: no chunks in the answer."""
    limit: int = 0


def read_head(request: Incoming, method: bytes, version: str, keep_alive: bool) -> None:
    """Take the head apart. Raises `Refused` for what could be read in two ways, and for what we do not speak."""
    if version not in ("1.0", "1.1"):
        raise Refused(505, "INVALID_FORMAT", "speak HTTP/1.1")
    request.is_old = version == "1.0"
    request.method, request.keep_alive = method.decode("latin-1"), keep_alive
    hosts = _values(request.headers, b"host")
    if len(hosts) > 1 or (not hosts and not request.is_old):
        raise malformed("a request names exactly one Host")
    _refuse_two_lengths(request)
    request.path, request.query = split_target(bytes(request.target), hosts[0] if hosts else b"")
    expected = _values(request.headers, b"expect")
    if expected and [value.lower() for value in expected] != [b"100-continue"]:
        raise Refused(417, "INVALID_FORMAT", "the only expectation that is met is 100-continue")


def _refuse_two_lengths(request: Incoming) -> None:
    lengths, codings = _values(request.headers, b"content-length"), _values(request.headers, b"transfer-encoding")
    if len(lengths) > 1 or (lengths and codings):
        raise malformed("a request says once how long its body is")
    if lengths and not lengths[0].isdigit():
        raise malformed("Content-Length is a whole number")
    if codings and (request.is_old or [value.lower() for value in codings] != [b"chunked"]):
        raise Refused(501, "INVALID_FORMAT", "the only transfer coding that is taken is chunked, in HTTP/1.1")


def split_target(target: bytes, host: bytes) -> tuple[bytes, bytes]:
    """(path, query) of a request line. The form with scheme and host must name the host that the Host header names."""
    for scheme in (b"http://", b"https://"):
        if target[: len(scheme)].lower() == scheme:
            authority, _, rest = target[len(scheme) :].partition(b"/")
            if authority.lower() != host.lower():
                raise malformed("the request line and the Host header name different hosts")
            target = b"/" + rest
    if not target.startswith(b"/"):
        raise malformed("a request line holds a path that begins with /")
    path, _, query = target.partition(b"#")[0].partition(b"?")
    return path, query


def declared_length(headers: list[tuple[bytes, bytes]]) -> int:
    found = _values(headers, b"content-length")
    return int(found[0]) if found else 0


def wants_to_be_told(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether the client waits for a word before it sends the body."""
    return bool(_values(headers, b"expect"))


def _values(headers: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value.strip() for found, value in headers if found == name]


def too_large(limit: int) -> Refused:
    return Refused(413, "PAYLOAD_TOO_LARGE", f"the body is larger than {limit} bytes")


def head_too_large() -> Refused:
    return Refused(431, "INVALID_FORMAT", f"the head of a request may have {limits.LARGEST_HEAD} bytes")


def refusal_of(complaint: str) -> Refused:
    """What the parser says about what it could not take."""
    if complaint == "Content-Length overflow":
        return too_large(limits.LARGEST_BODY)
    if complaint == "Invalid HTTP version":
        return Refused(505, "INVALID_FORMAT", "speak HTTP/1.1")
    return malformed(f"this is not HTTP/1.1 as we take it: {complaint}")


def head_bytes(head: Answered, *, keep_alive: bool, chunked: bool, secure: bool) -> bytes:
    """Status line and header fields."""
    lines = [f"HTTP/1.1 {head.status} {head.reason or _reason(head.status)}"]
    lines += [f"{name}: {value}" for name, value in head.headers if name.lower() not in _HOP_BY_HOP]
    lines.append(f"Date: {formatdate(usegmt=True)}")
    if secure:
        lines.append(f"Strict-Transport-Security: {HSTS}")
    if chunked:
        lines.append("Transfer-Encoding: chunked")
    lines.append("Connection: keep-alive" if keep_alive else "Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def head_and_body(answer: Answered, *, secure: bool) -> bytes:
    """A whole answer after which the connection is closed."""
    return head_bytes(answer, keep_alive=False, chunked=False, secure=secure) + answer.body


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
