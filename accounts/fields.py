"""Strict fields of request bodies: the framework's own ones take `"5"` for a number and `1` for true."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from common.api import Text
from common.bounds import excess
from protocol.spelling import hidden, normal

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})")


EARLIEST_YEAR, LATEST_YEAR = 2000, 9000
"""Years of UTC that every store and language between here and an agent holds; PostgreSQL alone would take the year 10000."""


LONGEST = 64
"""Characters of an id or a time, in every spelling."""


class Name(Text):
    """One line that is given back as it came, so nothing is trimmed: spaces at an end are refused, and so is what is not seen.

    Letters with accents are kept in their composed form (NFC), or one name would be two.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"trim_whitespace": False, "max_length": 200, **options})

    def to_internal_value(self, data: Any) -> str:
        text = normal(super().to_internal_value(data))
        if _CONTROL.search(text):
            raise serializers.ValidationError("must be one line without control characters")
        if found := hidden(text):
            raise serializers.ValidationError(f"must not have {found}")
        if text != text.strip():
            raise serializers.ValidationError("must not begin or end with spaces")
        return text


class Words(Text):
    """Free text that is given back exactly as it came; may be empty."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"trim_whitespace": False, "max_length": 1000, "allow_blank": True, **options})


@extend_schema_field(OpenApiTypes.INT)
class Whole(serializers.IntegerField):
    """A JSON integer."""

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, int) or isinstance(data, bool):
            raise serializers.ValidationError("must be a whole number")
        return int(data)


@extend_schema_field(OpenApiTypes.BOOL)
class Flag(serializers.BooleanField):
    """JSON true or false."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            raise serializers.ValidationError("must be true or false")
        return data


@extend_schema_field(OpenApiTypes.UUID)
class Id(Text):
    """A UUID; an empty text counts as absent, as some clients write it."""

    def run_validation(self, data: Any = serializers.empty) -> Any:
        if isinstance(data, str) and not data.strip():
            return None if not self.required else self.fail("required")
        return super().run_validation(data)

    def to_internal_value(self, data: Any) -> Any:
        text = super().to_internal_value(data)
        try:
            return uuid.UUID(text[: LONGEST + 1])
        except ValueError:
            raise serializers.ValidationError("must be a UUID") from None


@extend_schema_field(OpenApiTypes.DATETIME)
class Moment(Text):
    """An RFC 3339 time with its zone."""

    def to_internal_value(self, data: Any) -> Any:
        text = super().to_internal_value(data)
        try:
            found = datetime.fromisoformat(text.upper()) if len(text) <= LONGEST and _RFC3339.fullmatch(text) else None
        except ValueError:
            found = None
        if found is None:
            raise serializers.ValidationError("must be a time such as 2027-01-31T12:00:00Z")
        return _within_reach(found)


AUDIENCE = "where it counts: PRIMARY, and codes of gateway environments; null: everywhere, in production at the Primary only"


class Texts(serializers.ListField):
    """A list of short texts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"child": Name(), "max_length": 200, **options})


class Settings(serializers.DictField):
    """A JSON object of names and values that its sender chooses, within `common.bounds`."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (found := excess(data)):
            name, wrong = found
            raise serializers.ValidationError({name: [wrong]} if name else [wrong])
        return super().to_internal_value(data)


def _within_reach(moment: datetime) -> datetime:
    try:
        year = moment.astimezone(UTC).year
    except OverflowError:
        year = 0
    if not EARLIEST_YEAR <= year <= LATEST_YEAR:
        raise serializers.ValidationError(f"must be in the years {EARLIEST_YEAR} to {LATEST_YEAR} (UTC)")
    return moment
