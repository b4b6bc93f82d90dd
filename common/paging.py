"""Long lists in pages: `limit` and `offset` of the query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from django.db.models import Model, QuerySet
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from common.errors import ValidationFailed

SHOWN, MOST_SHOWN, FURTHEST = 100, 1000, 10_000_000
PAGE = [OpenApiParameter("limit", int), OpenApiParameter("offset", int)]

Row = TypeVar("Row", bound=Model)
Item = TypeVar("Item", covariant=True)


class Sliced(Protocol[Item]):
    """A list, or a queryset in its order."""

    def __getitem__(self, part: slice, /) -> Sliced[Item]: ...
    def __iter__(self) -> Iterator[Item]: ...


def page_of(found: QuerySet[Row], request: Request) -> QuerySet[Row]:
    """The part of an ordered list that was asked for. Raises `ValidationFailed` with the field."""
    limit, offset = asked(request)
    return found[offset : offset + limit]


def page_if_asked(found: Sliced[Item], request: Request) -> Iterable[Item]:
    """All of an ordered list, because clients of its resource read no second page; a part of it for who asks for one."""
    if not {"limit", "offset"} & set(request.query_params):
        return found
    limit, offset = asked(request)
    return found[offset : offset + limit]


def asked(request: Request) -> tuple[int, int]:
    """`limit` and `offset` of a query. Raises `ValidationFailed` with the field."""
    limit, offset = clamped(_number(request, "limit", SHOWN)), _number(request, "offset", 0)
    if offset > FURTHEST:
        raise ValidationFailed(f"offset: must be at most {FURTHEST}; narrow the search instead")
    return limit, offset


def clamped(limit: int) -> int:
    """Clients ask for more than there is to give; they page by what they get."""
    return max(1, min(limit, MOST_SHOWN))


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise ValidationFailed(f"{name}: must be a whole number from 0 on")
    return int(text)
