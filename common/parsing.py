"""Strict JSON and forms from untrusted bytes (DESIGN §5)."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from django.core.exceptions import TooManyFieldsSent
from django.http import QueryDict
from rest_framework.parsers import BaseParser

from common.errors import MalformedBody, TooLarge, ValidationFailed

LARGEST_BODY = 1024 * 1024
DEEPEST_BODY = 20


class StrictJSONParser(BaseParser):
    """JSON objects only, of limited size and depth, without NUL characters, repeated names or numbers that are none."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> dict[str, Any]:
        return parse_object(_limited(stream))


class LimitedFormParser(BaseParser):
    """A form of limited size and number of fields. The framework's own one reads whatever is sent."""

    media_type = "application/x-www-form-urlencoded"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> QueryDict:
        raw = _limited(stream)
        try:
            return QueryDict(raw, encoding="utf-8")
        except TooManyFieldsSent as error:
            raise MalformedBody("the form has too many fields") from error


def parse_object(raw: bytes) -> dict[str, Any]:
    """A JSON object from untrusted bytes; an empty body is an empty object. Raises `MalformedBody` or `ValidationFailed`."""
    if not raw.strip():
        return {}
    _refuse_depth(raw)
    try:
        body = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise MalformedBody("the body is not valid JSON") from error
    if not isinstance(body, dict):
        raise MalformedBody("the body must be a JSON object such as {}")
    _refuse_unstorable(body, "")
    return body


def _limited(stream: Any) -> bytes:
    raw: bytes = stream.read(LARGEST_BODY + 1)
    if len(raw) > LARGEST_BODY:
        raise TooLarge(f"the body is larger than {LARGEST_BODY} bytes")
    return raw


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is too large")
    return number


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""One pass: what was read is never tried again, and a string that does not end takes the rest, which is no JSON anyway."""


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""What neither PostgreSQL nor UTF-8 can hold."""


def _refuse_depth(raw: bytes) -> None:
    """Count brackets outside of strings before the recursive parser sees them."""
    depth = 0
    for byte in _STRINGS.sub(b"", raw):
        depth += (byte in b"[{") - (byte in b"]}")
        if depth > DEEPEST_BODY:
            raise MalformedBody(f"the body is nested deeper than {DEEPEST_BODY} levels")


def _refuse_unstorable(value: Any, where: str) -> None:
    found = _UNSTORABLE.search(value) if isinstance(value, str) else None
    if found:
        what = "a NUL character" if found.group() == "\0" else "half of a surrogate pair"
        raise ValidationFailed(f"{where or 'the body'}: {what} is not allowed")
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_unstorable(name, where)
            _refuse_unstorable(inner, f"{where}.{name}" if where else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_unstorable(inner, f"{where}[{index}]")
