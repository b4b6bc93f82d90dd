"""Durations as existing clients write them (Go's form): `24h`, `720h`, `1h30m`, `1.5h`. Pure."""

from __future__ import annotations

import re
from datetime import timedelta

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(h|ms|m|s|us|µs|ns)")


def go_duration(text: str) -> timedelta:
    """The length of time; raises `ValueError` for anything that is no positive duration."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError("no duration")
    total = timedelta(seconds=sum(float(number) * _SECONDS[unit] for number, unit in parts))
    if total <= timedelta(0):
        raise ValueError("not positive")
    return total
