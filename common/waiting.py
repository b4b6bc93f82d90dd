"""How long an answer asks its caller to wait (RFC 9110 §10.2.3), however it says so."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

log = logging.getLogger("mazevault.waiting")

LONGEST_SECONDS = 3600.0
"""No answer is believed further ahead, and the log says so. Whoever means a longer pause says it again after an hour; a date in
another year is a clock that is wrong, and what stands in between must not end all work for days with one header."""
_NUMBER = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)
_MILLISECONDS = ("retry-after-ms", "x-ms-retry-after-ms")
"""What Azure sends beside or instead of `Retry-After`, in milliseconds; the finer one counts."""


def seconds_named(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait, from 0 to `LONGEST_SECONDS`; None where the answer names no time, or none that can be read.

    `Retry-After` is a number of seconds (a fraction is taken too) or a date in any form of RFC 9110 §5.6.7. A date is compared
    with the answer's own `Date`, so that only the sender's clock counts, and with `now` where there is none.
    """
    said = {name.lower(): str(text).strip() for name, text in headers.items()}
    for name in _MILLISECONDS:
        if _NUMBER.fullmatch(said.get(name, "")):
            return _bounded(float(said[name]) / 1000)
    text = said.get("retry-after", "")
    if _NUMBER.fullmatch(text):
        return _bounded(float(text))
    until = _moment(text)
    if until is None:
        return None
    return _bounded((until - (_moment(said.get("date", "")) or now)).total_seconds())


def _moment(text: str) -> datetime | None:
    """A date of HTTP; the two old forms name no zone, or a year of two digits."""
    try:
        found = parsedate_to_datetime(text)
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _bounded(seconds: float) -> float:
    if seconds > LONGEST_SECONDS:
        log.warning("an answer asks to wait for %.0f s; it is asked again after %.0f s", seconds, LONGEST_SECONDS)
    return min(max(seconds, 0.0), LONGEST_SECONDS)
