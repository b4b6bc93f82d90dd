"""Lines of the log: one for each entry, whatever is in it."""

from __future__ import annotations

import logging
from types import TracebackType

from protocol.plain import plain

FORMAT, TIME = "%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"
_Trace = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class OneLine(logging.Formatter):
    """Nobody whose words are logged ends a line, moves the cursor or begins another entry.

    The lines of a traceback are indented, so that none of them looks like an entry either.
    """

    def __init__(self) -> None:
        super().__init__(FORMAT, TIME)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = plain(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: _Trace) -> str:
        return "\n".join(f"    {plain(line)}" for line in super().formatException(ei).split("\n"))


def log_to_standard_error() -> None:
    """For processes without the framework's settings."""
    stream = logging.StreamHandler()
    stream.setFormatter(OneLine())
    logging.basicConfig(handlers=[stream], level="WARNING")
