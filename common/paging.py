"""Long lists in pages: `limit` and `offset` of the query."""

from __future__ import annotations

from typing import TypeVar

from django.db.models import Model, QuerySet
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from common.errors import ValidationFailed

SHOWN, MOST_SHOWN, FURTHEST = 100, 1000, 10_000_000
PAGE = [OpenApiParameter("limit", int), OpenApiParameter("offset", int)]

Row = TypeVar("Row", bound=Model)


def page_of(found: QuerySet[Row], request: Request) -> QuerySet[Row]:
    """The part of an ordered list that was asked for. Raises `ValidationFailed` with the field."""
    limit, offset = clamped(_number(request, "limit", SHOWN)), _number(request, "offset", 0)
    if offset > FURTHEST:
        raise ValidationFailed(f"offset: must be at most {FURTHEST}; narrow the search instead")
    return found[offset : offset + limit]


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
