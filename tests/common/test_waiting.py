"""A time to wait is read in every form HTTP and Azure have for it; what cannot be read is no time (RFC 9110 §10.2.3)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from common.waiting import LONGEST_SECONDS, seconds_named

NOW = datetime(2026, 11, 6, 8, 49, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"retry-after": " 7 "}, 7),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "Fri, 06 Nov 2026 08:49:37 GMT"}, 30),
        ({"Retry-After": "Friday, 06-Nov-26 08:49:37 GMT"}, 30),
        ({"Retry-After": "Fri Nov  6 08:49:37 2026"}, 30),
        ({"Retry-After": "Fri, 06 Nov 2026 08:49:37 GMT", "Date": "Fri, 06 Nov 2026 08:49:36 GMT"}, 1),
        ({"Retry-After": "Fri, 06 Nov 2026 08:49:37 GMT", "Date": "soon"}, 30),
        ({"Retry-After": "Thu, 05 Nov 2026 08:49:37 GMT"}, 0),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, LONGEST_SECONDS),
        ({"Retry-After": "999999999"}, LONGEST_SECONDS),
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "250", "Retry-After": "9"}, 0.25),
        ({"retry-after-ms": "soon", "Retry-After": "9"}, 9),
    ],
)
def test_each_form_of_a_time_is_read(headers: dict[str, str], seconds: float) -> None:
    assert seconds_named(headers, NOW) == seconds


def test_a_pause_that_is_not_believed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert seconds_named({"Retry-After": "3600"}, NOW) == 3600 and not caplog.records
    assert seconds_named({"Retry-After": "604800"}, NOW) == 3600
    assert "asks to wait for 604800 s; it is asked again after 3600 s" in caplog.text


@pytest.mark.parametrize(
    "text", ["", "soon", "-3", "1e3", "٣", "0x10", "9" * 400, "Fri, 99 Nov 2026 08:49:37 GMT", "1, 2", "inf"]
)
def test_what_cannot_be_read_is_no_time(text: str) -> None:
    assert seconds_named({"Retry-After": text}, NOW) is None
    assert seconds_named({}, NOW) is None
