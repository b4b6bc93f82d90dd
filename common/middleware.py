"""The only middleware: whatever goes wrong outside of a view leaves in the error shape, and odd paths are refused early."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from common.api import error_response, is_read, translate
from common.errors import MalformedBody, MazeVaultError, TooLarge
from common.logs import request_id
from common.parsing import is_longer
from protocol.envelope import MAX_WIRE_BYTES

LONGEST_PATH, LONGEST_QUERY, MOST_PARAMETERS = 2048, 4096, 50
"""Characters of a path, characters and parameters of a query: more than any of ours needs, and little enough to look through."""


class ErrorShape:
    """Refuses paths, queries and lengths that are out of bounds; turns stray exceptions into the error shape.

    Each request gets an id of our own: entries of the log have it, and the answer tells it in `X-Request-Id`.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        identifier = uuid.uuid4().hex
        token = request_id.set(identifier)
        try:
            response = self._answer(request)
        finally:
            request_id.reset(token)
        response["X-Request-Id"] = identifier
        return response

    def _answer(self, request: HttpRequest) -> HttpResponse:
        meta = request.META
        if refused := out_of_bounds(request.path, meta.get("QUERY_STRING", ""), meta.get("CONTENT_LENGTH") or ""):
            return error_response(refused)
        response = self._get_response(request)
        for name, value in getattr(request, "response_headers", {}).items():
            response.setdefault(name, value)
        response.setdefault("X-Content-Type-Options", "nosniff")
        response.setdefault("Cache-Control", "no-store")
        if "Content-Length" not in response and not response.streaming:
            response["Content-Length"] = str(len(response.content))
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse:
        return error_response(translate(exception, is_read=is_read(request)))


def out_of_bounds(path: str, query: str, length: str | int) -> MazeVaultError | None:
    """Why a request is not looked at, from what stands before its body."""
    if "\0" in path or "%00" in query:
        return MalformedBody("a NUL byte is not allowed in a path or query")
    if len(path) > LONGEST_PATH:
        return MalformedBody(f"the path is longer than {LONGEST_PATH} characters")
    if len(query) > LONGEST_QUERY:
        return MalformedBody(f"the query is longer than {LONGEST_QUERY} characters")
    if query.count("&") >= MOST_PARAMETERS:
        return MalformedBody(f"the query has more than {MOST_PARAMETERS} parameters")
    if is_longer(str(length), MAX_WIRE_BYTES):
        return TooLarge(f"Content-Length: a body has at most {MAX_WIRE_BYTES} bytes")
    return None
