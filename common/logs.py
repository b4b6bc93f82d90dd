"""Lines of the log: one for each entry, whatever is in it; as text for people, or as JSON objects for what collects logs.

Both forms make plain what others said by the same function (`plain`). Standard library and `protocol.plain` only: parent and
front of a node log with it too.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType

from protocol.plain import plain

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)
"""What LOG_FORMAT may be."""
FORMAT, TIME = "%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"
_Trace = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that this thread answers; callers are told it in `X-Request-Id`."""
_node: dict[str, str] = {}


def this_is(*, gateway: str, environment: str) -> None:
    """Entries of this process are of this gateway. A gateway knows it for sure once it is registered."""
    _node.update(gateway=gateway, environment=environment)


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
        return "\n".join(f"    {line}" for line in self.lines_of(ei))

    def lines_of(self, ei: _Trace) -> list[str]:
        """A traceback, each line made plain."""
        return [plain(line) for line in super().formatException(ei).split("\n")]


class JsonLine(OneLine):
    """The same entries, each as one JSON object on one line; an exception is one field of it.

    `gateway` and `environment` are of the entry, else of this process (`this_is`), else as the node was told at its start.
    Fields of which nothing is known are left out.
    """

    def __init__(self, gateway: str = "", environment: str = "") -> None:
        super().__init__()
        self._told = {"gateway": gateway, "environment": environment}

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": record.levelname,
            "logger": record.name,
            "message": plain(record.getMessage()),
            "request_id": plain(str(getattr(record, "request_id", "") or request_id.get())),
            **{name: plain(str(getattr(record, name, "") or _node.get(name) or told)) for name, told in self._told.items()},
            "exception": "\n".join(self.lines_of(record.exc_info)) if record.exc_info else "",
            "stack": "\n".join(plain(line) for line in record.stack_info.split("\n")) if record.stack_info else "",
        }
        return json.dumps({name: value for name, value in entry.items() if value or name == "message"})


def say(sentence: str, *, form: str, logger: str, level: int = logging.INFO) -> None:
    """Onto standard error what is said before logging is set up, or whatever its level is: as text the bare sentence.

    `form` is the setting as it was written.
    """
    if form.strip().lower() == JSON:
        sentence = JsonLine().format(logging.LogRecord(logger, level, "", 0, sentence, (), None))
    print(sentence, file=sys.stderr, flush=True)


def log_to_standard_error(form: str = TEXT) -> None:
    """For processes without the framework's settings. May be called again, with another form."""
    stream = logging.StreamHandler()
    stream.setFormatter(JsonLine() if form == JSON else OneLine())
    logging.basicConfig(handlers=[stream], level="WARNING", force=True)
