"""How large a configuration that somebody sends may be. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST_FIELD_NAME = 100
"""Characters of the name of a field, at any depth."""
MOST_FIELDS = 200
"""Fields and elements of lists in all, at any depth."""
LARGEST_SETTINGS = 64 * 1024
"""Bytes of the whole as JSON."""
LONGEST_VALUE = 32 * 1024
"""Characters of one text: a certificate with its chain fits."""


def excess(settings: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first field that is beyond a bound and what is wrong with it, or None. An empty name stands for the whole."""
    for counted, (place, own, value) in enumerate(_walk(settings, ""), start=1):
        if counted > MOST_FIELDS:
            return "", f"may have at most {MOST_FIELDS} fields, those inside of others included"
        if len(own) > LONGEST_FIELD_NAME:
            return f"{own[:LONGEST_FIELD_NAME]}…", f"a name may have at most {LONGEST_FIELD_NAME} characters"
        if isinstance(value, str) and len(value) > LONGEST_VALUE:
            return place, f"may have at most {LONGEST_VALUE} characters"
    if len(json.dumps(settings)) > LARGEST_SETTINGS:
        return "", f"may have at most {LARGEST_SETTINGS} bytes as JSON"
    return None


def _walk(value: Any, place: str) -> Iterator[tuple[str, str, Any]]:
    """Each field with its dotted name, its own name and what is in it; one at a time, so that the reader may stop."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            at = f"{place}.{name}" if place else name
            yield at, name, inner
            yield from _walk(inner, at)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield f"{place}[{index}]", "", inner
            yield from _walk(inner, f"{place}[{index}]")
