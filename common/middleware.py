"""The only middleware: whatever goes wrong outside of a view leaves in the error shape, and odd paths are refused early."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from common.api import error_response, translate
from common.errors import MalformedBody


class ErrorShape:
    """Refuses paths and queries with NUL bytes; turns stray exceptions into the error shape."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if "\0" in request.path or "%00" in request.META.get("QUERY_STRING", ""):
            return error_response(MalformedBody("a NUL byte is not allowed in a path or query"))
        response = self._get_response(request)
        for name, value in getattr(request, "response_headers", {}).items():
            response.setdefault(name, value)
        response.setdefault("X-Content-Type-Options", "nosniff")
        response.setdefault("Cache-Control", "no-store")
        if "Content-Length" not in response and not response.streaming:
            response["Content-Length"] = str(len(response.content))
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse:
        return error_response(translate(exception))
