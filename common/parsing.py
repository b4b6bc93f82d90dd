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
MOST_VALUES = 20_000
"""Values of a body in all, objects and lists included: the largest list that anybody may send has a thousand."""
LONGEST_NAME = 1000
"""Characters of a name of a JSON object, which sentences of refusals repeat."""
SHOWN_OF_A_NAME = 60


class StrictJSONParser(BaseParser):
    """JSON objects only, of limited size and depth, without NUL characters, repeated names or numbers that are none."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> dict[str, Any]:
        return parse_object(_limited(stream, parser_context))


class LimitedFormParser(BaseParser):
    """A form of limited size and number of fields. The framework's own one reads whatever is sent."""

    media_type = "application/x-www-form-urlencoded"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> QueryDict:
        raw = _limited(stream, parser_context)
        try:
            return QueryDict(raw, encoding="utf-8")
        except TooManyFieldsSent as error:
            raise MalformedBody("the form has too many fields") from error


def parse_object(raw: bytes) -> dict[str, Any]:
    """A JSON object from untrusted bytes; an empty body is an empty object. Raises `MalformedBody` or `ValidationFailed`."""
    if not raw.strip():
        return {}
    _refuse_many_or_deep(raw)
    try:
        body = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise MalformedBody("the body is not valid JSON") from error
    if not isinstance(body, dict):
        raise MalformedBody("the body must be a JSON object such as {}")
    _refuse_unfit(body)
    return body


def _limited(stream: Any, context: Any) -> bytes:
    """Raises `TooLarge`: before it reads, when the request says so itself."""
    said = context["request"].META.get("CONTENT_LENGTH", "") if context and "request" in context else ""
    if is_longer(said, LARGEST_BODY):
        raise _too_large()
    raw: bytes = stream.read(LARGEST_BODY + 1)
    if len(raw) > LARGEST_BODY:
        raise _too_large()
    return raw


def is_longer(content_length: str, most: int) -> bool:
    """Whether a Content-Length says more than this; one of hundreds of digits is not even counted."""
    digits = content_length.strip().lstrip("0")
    return digits.isdecimal() and (len(digits) > len(str(most)) or int(digits) > most)


def _too_large() -> TooLarge:
    return TooLarge(f"the body is larger than {LARGEST_BODY} bytes")


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
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_Place = tuple[Any, str | int] | None
"""Where a value stands: the place of what it is in, and its name or number there."""


def _refuse_many_or_deep(raw: bytes) -> None:
    """Count brackets and commas outside of strings before the recursive parser sees them."""
    outside = _STRINGS.sub(b"", raw)
    depth = 0
    for byte in outside.translate(None, _NO_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        if depth > DEEPEST_BODY:
            raise MalformedBody(f"the body is nested deeper than {DEEPEST_BODY} levels")
    if sum(map(outside.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise MalformedBody(f"the body has more than {MOST_VALUES} values")


def _refuse_unfit(body: dict[str, Any]) -> None:
    """Every name and text of a body, each looked at once. Where a wrong one is, is put into words only when there is one."""
    waiting: list[tuple[Any, _Place]] = [(body, None)]
    while waiting:
        holder, place = waiting.pop()
        for step, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(step, str):
                _refuse_name(step, place)
            if isinstance(value, str):
                if _UNSTORABLE.search(value):
                    _refuse_text(value, (place, step))
            elif isinstance(value, dict | list):
                waiting.append((value, (place, step)))


def _refuse_name(name: str, place: _Place) -> None:
    if len(name) > LONGEST_NAME:
        raise ValidationFailed(f"{_name_of((place, name))}: a name has at most {LONGEST_NAME} characters")
    _refuse_text(name, place)


def _refuse_text(text: str, place: _Place) -> None:
    if found := _UNSTORABLE.search(text):
        what = "a NUL character" if found.group() == "\0" else "half of a surrogate pair"
        raise ValidationFailed(f"{_name_of(place) or 'the body'}: {what} is not allowed")


def _name_of(place: _Place) -> str:
    """Such as `urls[1].name`."""
    steps = []
    while place is not None:
        place, step = place
        steps.append(f"[{step}]" if isinstance(step, int) else f".{step[:SHOWN_OF_A_NAME]}")
    return "".join(reversed(steps)).removeprefix(".")
