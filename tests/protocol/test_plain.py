"""Texts of others before they are shown."""

from __future__ import annotations

import pytest

from protocol.messages import AuditRecord, AuditUpload, Countersigned, TaskResult
from protocol.plain import plain, plain_message
from protocol.vocabulary import TaskOutcome

ID = "00000000-0000-4000-8000-000000000000"
NASTY = "a\nb\x1b[31m\x7f\x9b\u202e\u2028\u2066c"


def test_what_moves_ends_or_turns_is_spelled_out_and_nothing_else() -> None:
    assert plain(NASTY) == "a\\nb\\x1b[31m\\x7f\\x9b\\u202e\\u2028\\u2066c"
    assert plain("Zoë 日本 🙂 \\n") == "Zoë 日本 🙂 \\n"


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x202A, 0x202E, 0x2066, 0x2069, 0xD800])
def test_each_of_them_leaves_no_trace(code: int) -> None:
    assert plain(f"x{chr(code)}y").isprintable()


def test_every_text_of_a_message_but_what_is_proof_or_a_value() -> None:
    result = TaskResult(ID, ID, 1, TaskOutcome.FAILED, 1.0, NASTY, {"stages": [{"cause": NASTY, NASTY: 1}], "n": 2})
    made = plain_message(result)
    assert made.detail == plain(NASTY) and made.result == {"stages": [{"cause": plain(NASTY), plain(NASTY): 1}], "n": 2}
    upload = AuditUpload([AuditRecord(1, NASTY, "h")])
    assert plain_message(upload) is upload
    assert plain_message(Countersigned(1, "d", refusal=NASTY)).refusal == plain(NASTY)


def test_a_message_of_plain_texts_is_the_same_object() -> None:
    result = TaskResult(ID, ID, 1, TaskOutcome.SUCCEEDED, 1.0, "done", {"a": [{"b": "c"}]})
    assert plain_message(result) is result
