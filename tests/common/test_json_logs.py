"""LOG_FORMAT=json: one entry is one JSON object on one line, and says no less and nothing worse than the text does."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from cli.stack.layout import ROOT
from common import logs
from common.logs import JsonLine, OneLine
from common.middleware import ErrorShape

FORGED = 'x\n{"level":"INFO","message":"FORGED"}\x1b[32m\u202e \ud800 "quoted"'


@pytest.fixture(autouse=True)
def of_no_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_node", {})


def entry(message: str, *words: object, form: JsonLine | None = None, trace: bool = False, **more: object) -> dict[str, Any]:
    record = logging.LogRecord("mazevault.x", logging.ERROR, "", 0, message, words, sys.exc_info() if trace else None)
    record.__dict__.update(more)
    line = (form or JsonLine()).format(record)
    assert "\n" not in line and line.isascii() and line.isprintable()
    return dict(json.loads(line))


def test_an_entry_has_time_level_logger_and_message() -> None:
    told = entry("%s refuses", "gw")
    assert set(told) == {"time", "level", "logger", "message"}
    assert (told["level"], told["logger"], told["message"]) == ("ERROR", "mazevault.x", "gw refuses")
    assert told["time"].endswith("Z") and len(told["time"]) == len("2026-01-01T00:00:00.000000Z")


def test_words_of_others_are_made_plain_as_in_the_text() -> None:
    record = logging.LogRecord("mazevault.x", logging.ERROR, "", 0, "%s", (FORGED,), None)
    assert OneLine().format(record).endswith(f" {entry('%s', FORGED)['message']}")
    assert entry("%s", FORGED)["message"].isprintable()
    assert entry("m", gateway=FORGED)["gateway"].isprintable()


def test_an_exception_is_one_field_and_none_of_its_lines_moves_a_cursor() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        told = entry("unexpected failure", trace=True)
    lines = told["exception"].split("\n")
    assert lines[0].startswith("Traceback") and any(line.startswith("ValueError: x") for line in lines)
    assert all(line.isprintable() for line in lines)


def test_an_entry_names_its_gateway_its_process_s_or_the_one_the_node_was_told() -> None:
    def named(**more: object) -> tuple[str, str]:
        told = entry("m", form=JsonLine("gw-told", "PRO"), **more)
        return told["gateway"], told["environment"]

    assert named() == ("gw-told", "PRO")
    logs.this_is(gateway="gw-npr-dr", environment="NPR")
    assert named() == ("gw-npr-dr", "NPR")
    assert named(gateway="gw-other") == ("gw-other", "NPR")


def test_entries_of_a_request_have_the_id_its_answer_tells() -> None:
    seen: list[str] = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.append(entry("m")["request_id"])
        return HttpResponse()

    shape = ErrorShape(view)
    answers = [shape(RequestFactory().get("/", headers={"X-Request-Id": "chosen-by-others"})) for _ in range(2)]
    assert [answer["X-Request-Id"] for answer in answers] == seen
    assert len(set(seen)) == 2 and "chosen-by-others" not in seen
    assert "request_id" not in entry("m")


def test_what_is_said_before_logging_is_set_up_has_the_form_too(capfd: pytest.CaptureFixture[str]) -> None:
    for form in ("text", " JSON "):
        logs.say("this node cannot run: 100% of x", form=form, logger="mazevault.node", level=logging.CRITICAL)
    text, line = capfd.readouterr().err.splitlines()
    told = json.loads(line)
    assert text == told["message"] == "this node cannot run: 100% of x"
    assert (told["level"], told["logger"]) == ("CRITICAL", "mazevault.node")


def test_a_node_logs_in_the_form_it_is_told_from_its_first_process_on() -> None:
    program = (
        "import logging; from common.logs import log_to_standard_error as log\n"
        "log(); log('json'); logging.getLogger('mazevault.node').warning('a\\nb')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=True
    )
    assert json.loads(done.stderr)["message"] == "a\\nb"
