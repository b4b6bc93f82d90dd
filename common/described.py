"""What an operation takes: said once, for its description and for its refusals. Whatever it does not name is a 400 (ADR 0041).

`described` stands where the framework's `extend_schema` would. What it names as `request` and `parameters` is what the OpenAPI
document shows and what `refuse_unknown` lets in, so neither can say more than the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from django.http import QueryDict
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from common.errors import ValidationFailed
from common.nearest import refusal

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class Accepted:
    """The names of the query, and the form of the body; `more` lets unknown parameters of the query pass."""

    query: frozenset[str] = frozenset()
    body: type[serializers.Serializer] | None = None
    more: bool = False


NOTHING = Accepted()


def described(
    *,
    request: type[serializers.Serializer] | None = None,
    parameters: Sequence[OpenApiParameter] = (),
    more_parameters: bool = False,
    **said: Any,
) -> Callable[[View], View]:
    """Describe a method of an `Operation`, and let in what is described. `more_parameters`: others decide what is sent."""
    accepted = Accepted(frozenset(one.name for one in parameters), request, more_parameters)
    describe = extend_schema(request=request, parameters=list(parameters), **said)

    def decorate(view: View) -> View:
        decorated: View = describe(view)
        vars(decorated)["accepted"] = accepted
        return decorated

    return decorate


def accepted_by(view: object, method: str) -> Accepted:
    """What a method of a view takes; HEAD takes what GET takes."""
    served = getattr(view, "get" if method == "HEAD" else method.lower(), None)
    found: Accepted = getattr(served, "accepted", NOTHING)
    return found


def refuse_unknown(view: object, request: Request) -> None:
    """Raise `UnknownFields` for the first names of query and body that the operation does not take, whoever asks."""
    if not hasattr(view, (request.method or "").lower()):
        return  # which is a 405, whatever else is sent
    accepted = accepted_by(view, request.method or "")
    if not accepted.more:
        refuse_query(request.query_params, accepted.query)
    body = request.data
    if body and (refused := refusal(unknown_in(accepted.body, body))):
        raise refused


def refuse_query(query: QueryDict, known: frozenset[str]) -> None:
    """Raise `UnknownFields` for parameters that are not known, `ValidationFailed` for one that comes more than once."""
    if refused := refusal((("", name, known) for name in query if name not in known), "parameter of the query"):
        raise refused
    for name, values in query.lists():
        if len(values) > 1:
            raise ValidationFailed(f"{name}: comes more than once in the query; send it once")


def unknown_in(
    form: type[serializers.Serializer] | None, body: Any, place: str = ""
) -> Iterator[tuple[str, str, frozenset[str] | set[str]]]:
    """Each name of a body that its form does not have: where it stands, the name, and those that are known there."""
    fields: Mapping[str, Any] = form._declared_fields if form else {}
    known = {name for name, field in fields.items() if not field.read_only}
    for name in body:
        if name not in known:
            yield place, name, known
        else:
            yield from _inside(fields[name], body[name], f"{place}.{name}" if place else name)


def _inside(field: Any, value: Any, place: str) -> Iterator[tuple[str, str, frozenset[str] | set[str]]]:
    if isinstance(field, serializers.Serializer) and isinstance(value, Mapping):
        yield from unknown_in(type(field), value, place)
    elif isinstance(field, serializers.ListSerializer | serializers.ListField) and isinstance(value, list):
        for index, element in enumerate(value):
            yield from _inside(field.child, element, f"{place}[{index}]")
