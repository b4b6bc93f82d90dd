"""Base of the API: one error shape, strict bodies, deny by default, both slash forms of a path (DESIGN §5)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import wraps
from itertools import islice
from typing import Any, NoReturn

from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, InternalError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse, RawPostDataException
from django.urls import URLPattern, path
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions as drf
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.views import APIView

from common import outages
from common.described import refuse_query, refuse_unknown
from common.errors import (
    AuthenticationRequired,
    MalformedBody,
    MazeVaultError,
    MethodNotAllowed,
    NotFound,
    PermissionRefused,
    TooLarge,
    Unavailable,
    ValidationFailed,
)
from common.parsing import LARGEST_BODY
from common.permissions import SIGNED_IN as SIGNED_IN
from common.sealing import CHANGED_ROW, SealBroken, Unreadable

log = logging.getLogger("mazevault.api")
MOST_TOLD = 20
"""Fields of one refusal; a body with more mistakes is another body."""
READS = ("GET", "HEAD", "OPTIONS")
_UNREAD = "the database does not answer right now; ask again in a moment"
LONGEST_SHOWN = 200
"""Characters of a path in a refusal."""
_NO_DATABASE = """the database does not answer right now; a change may have been kept or not: \
read first, or repeat a change of a secret with the same Idempotency-Key"""
"""A connection that ends during COMMIT tells nobody which."""


GIVEN_UP = {
    "55P03": "somebody else holds what this needs for too long",
    "40P01": "two changes waited for each other",
    "40001": "another change came in between",
    "57014": "the database took too long",
    "25P03": "this took too long between two steps",
}
"""SQLSTATEs of transactions that PostgreSQL has taken back, with the reason as callers read it."""


def error_response(error: MazeVaultError) -> JsonResponse:
    """The one error shape: `error`, `code`, and `details` only when there are some."""
    body: dict[str, object] = {"error": error.sentence, "code": error.code}
    if error.details:
        body["details"] = error.details
    response = JsonResponse({**body, **error.extra}, status=error.status)
    if error.retry_after is not None:
        response["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    for name, value in error.headers.items():
        response[name] = value
    if error.status == 401:
        response["WWW-Authenticate"] = "Bearer"
    return response


def translate(error: Exception, *, is_read: bool = False) -> MazeVaultError:
    """Any exception as an error of our tree. The unexpected becomes a 500 whose cause is only in the log.

    `is_read`: nothing was to be changed, so no doubt is raised about a change.
    """
    if isinstance(error, MazeVaultError):
        return error
    if isinstance(error, drf.APIException):
        return _from_framework(error)
    if isinstance(error, SealBroken):  # of a value that no use case has words for
        log.error("a stored value does not open: %s", error)
        return Unreadable(f"a stored value does not open: {CHANGED_ROW}; the log names it, and saving it again mends it")
    if isinstance(error, OperationalError | InterfaceError | InternalError) and (refused := _of_the_database(error, is_read)):
        return refused
    if isinstance(error, RequestDataTooBig):
        return TooLarge(f"the body is larger than {LARGEST_BODY} bytes")
    if isinstance(error, SuspiciousOperation):  # also a query of thousands of fields
        return MalformedBody("the request is malformed")
    if isinstance(error, RawPostDataException | ConnectionError):
        return MalformedBody("the body could not be read to its end")
    log.error("unexpected failure", exc_info=error)
    return MazeVaultError("something went wrong here; the log of the server names the cause")


def _of_the_database(error: Exception, is_read: bool) -> MazeVaultError | None:
    """What passes by itself. None for a mistake of ours, which a repetition would only repeat."""
    state = getattr(error.__cause__, "sqlstate", None) or ""
    if state in GIVEN_UP:
        log.warning("a transaction was given up: %s", GIVEN_UP[state])
        return Unavailable(f"{GIVEN_UP[state]}{'' if is_read else ', so nothing was changed'}; try again", retry_after=2)
    if isinstance(error, InternalError):
        return None
    if isinstance(error.__cause__, outages.PoolCrowded):
        return Unavailable("all connections of this node to its database are in use; try again", retry_after=2)
    outages.database.failed(error)
    return Unavailable(_UNREAD if is_read else _NO_DATABASE, retry_after=2)


def exception_handler(error: Exception, context: Mapping[str, Any]) -> HttpResponse:
    """Django REST framework's hook."""
    view, request = context.get("view"), context.get("request")
    return error_response(translate(error, is_read=is_read(request, view)))


def asked(method: str | None, path: str) -> str:
    """What was asked for, for a sentence: existing clients show no more of a refusal than `error` and `details`."""
    return f"{method or ''} {''.join(letter if letter.isprintable() else '?' for letter in path[:LONGEST_SHOWN])}"


def is_read(request: Request | HttpRequest | None, view: object = None) -> bool:
    """Whether a request only asks: by its method, or because its operation says so (`Operation.only_asks`)."""
    method = request.method if request is not None else ""
    return method in READS or bool(getattr(view, "only_asks", False))


def guarded(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Give a plain view the error shape. It takes no parameters of a query: of what would it be told?"""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            refuse_query(request.GET, frozenset())
            return view(request, *args, **kwargs)
        except Exception as error:  # the edge of the program: whatever was raised gets an answer and a log line
            return error_response(translate(error, is_read=is_read(request)))

    return csrf_exempt(wrapped)  # plain views authenticate by certificate or bearer, never by cookie


def client_address(request: HttpRequest) -> str:
    """The peer of our own socket. No forwarding header is believed."""
    return str(request.META.get("REMOTE_ADDR", ""))


def rfc3339(moment: datetime | None) -> str | None:
    """A time in UTC with microseconds and `Z`, or None; the same text in every answer about the same object."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else None


def routes(route: str, view: Callable[..., Any], name: str) -> list[URLPattern]:
    """A path with and without trailing slash, so that no client is ever redirected."""
    return [path(route, view, name=name), path(f"{route}/", view, name=f"{name}-slash")]


class Operation(APIView):
    """One path. `permissions` maps each method to the permission it needs; a method that is not named is refused.

    `scoped` says that the permission may be held in a part of the world only, and that the use case asks for the very place.
    `only_asks`: its POST changes nothing, it asks with a body.
    `open_before_password_change`: also to somebody who must choose a new password before anything else.
    """

    public = False
    scoped = False
    only_asks = False
    open_before_password_change = False
    permissions: Mapping[str, str] = {}
    metadata_class = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Who calls and whether they may, then whether every name they send is known here (`common.described`)."""
        super().initial(request, *args, **kwargs)
        refuse_unknown(self, request)

    def permission_denied(self, request: Request, message: str | None = None, code: str | None = None) -> NoReturn:
        raise PermissionRefused("this operation is not open to anybody")

    @property
    def actor(self) -> str:
        """Who calls, as the audit names them."""
        return str(getattr(self.request.user, "actor", "anonymous"))

    @property
    def address(self) -> str:
        return client_address(self.request)


class Text(serializers.CharField):
    """A JSON string and nothing else: the framework's own field takes numbers too."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError("must be a string")
        value: str = super().to_internal_value(data)
        return value


def checked(serializer: type[serializers.Serializer], data: Any) -> dict[str, Any]:
    """The validated fields of a body, or `ValidationFailed` with a sentence for each field that is missing or wrong."""
    instance = serializer(data=data)
    if not instance.is_valid():
        raise ValidationFailed(_told(instance.errors))
    return dict(instance.validated_data)


def handler400(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_response(MalformedBody("the request is malformed"))


def handler403(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_response(PermissionRefused("this is not allowed"))


def handler404(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_response(NotFound("there is nothing at this path", details=asked(request.method, request.path)))


def handler500(request: HttpRequest) -> HttpResponse:
    return error_response(MazeVaultError("something went wrong here; the log of the server names the cause"))


def _from_framework(error: drf.APIException) -> MazeVaultError:
    if isinstance(error, drf.ValidationError):
        return ValidationFailed(_told(error.detail))
    if isinstance(error, drf.MethodNotAllowed):
        return MethodNotAllowed("this path does not take this method")
    if isinstance(error, drf.NotAuthenticated | drf.AuthenticationFailed):
        return AuthenticationRequired("send an Authorization: Bearer header with a token from POST /api/v1/auth/login")
    if isinstance(error, drf.NotFound):
        return NotFound("there is nothing at this path")
    if isinstance(error, drf.UnsupportedMediaType):
        return MalformedBody("send the body as JSON, with Content-Type: application/json", status=415)
    if isinstance(error, drf.NotAcceptable):
        return MalformedBody("this API answers with application/json only", status=406)
    if isinstance(error, drf.PermissionDenied):
        return PermissionRefused("this is not allowed")
    return MalformedBody("the request is malformed", status=error.status_code)


def _told(errors: Any) -> str:
    """All that is missing or wrong of a body, so that nobody learns of it one call at a time."""
    return "; ".join(islice(_sentences(errors, ""), MOST_TOLD))


def _sentences(errors: Any, where: str) -> Iterator[str]:
    """One for each field; of several of one field, or of many items of a list, the first."""
    if isinstance(errors, dict) and all(isinstance(key, int) for key in errors):  # items of a list
        key, inner = next(iter(errors.items()))
        yield from islice(_sentences(inner, f"{where}.{key}"), 1)
    elif isinstance(errors, dict):
        for field, inner in errors.items():
            name = str(field) if not where else f"{where}.{field}"
            yield from _sentences(inner, where if field == "non_field_errors" else name)
    elif isinstance(errors, list):
        yield from islice(_sentences(next((one for one in errors if one), ""), where), 1)
    else:
        text = str(errors)
        sentence = {"This field is required.": "is required", "This field may not be null.": "must not be null"}.get(text, text)
        yield f"{where}: {sentence}" if where else sentence
