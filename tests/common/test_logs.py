"""One entry of the log is one line, whatever others put into it."""

from __future__ import annotations

import logging
import sys

from common.logs import OneLine

FORGED = "x\n2026-01-01T00:00:00+0000 INFO mazevault.audit FORGED\x1b[32m\u202e"


def line(message: str, *words: object, trace: bool = False) -> str:
    record = logging.LogRecord("mazevault.x", logging.ERROR, "", 0, message, words, sys.exc_info() if trace else None)
    return OneLine().format(record)


def test_words_of_others_begin_no_line_and_move_no_cursor() -> None:
    written = line("%s refuses: %s", "gw", FORGED)
    assert "\n" not in written and written.isprintable() and "\\n2026" in written


def test_lines_of_a_traceback_look_like_no_entry() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        first, *more = line("unexpected failure", trace=True).split("\n")
    assert first.endswith("unexpected failure")
    assert more and all(one.startswith("    ") and one.isprintable() for one in more)
