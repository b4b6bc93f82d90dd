"""Decoding as strict as that of existing clients: an integer is an integer, a time is RFC 3339 with `Z`, keys are all there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

Shape = Mapping[str, Callable[[Any], bool]]
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def identifier(value: Any) -> bool:
    return isinstance(value, str) and bool(_ID.fullmatch(value))


def text(value: Any) -> bool:
    return isinstance(value, str)


def filled(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def whole(value: Any) -> bool:
    return type(value) is int


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def time(value: Any) -> bool:
    return isinstance(value, str) and bool(_TIME.fullmatch(value)) and bool(datetime.fromisoformat(value))


def texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def thing(value: Any) -> bool:
    return isinstance(value, dict)


def absent(value: Any) -> bool:
    return value is None


def or_null(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or kind(value)


def decoded(raw: bytes) -> Any:
    """JSON without floats: the contract has none, and a Go client refuses one where an integer belongs."""
    return json.loads(raw, parse_float=_no_float)


def wrong_fields(row: Any, shape: Shape) -> list[str]:
    """The fields of an answer that a strict client could not take."""
    assert isinstance(row, dict), row
    missing = [f"{name} is missing" for name in shape if name not in row]
    return missing + [f"{name} is {row[name]!r}" for name, fits in shape.items() if name in row and not fits(row[name])]


def _no_float(number: str) -> float:
    raise AssertionError(f"{number} is no integer")
