"""Names that cannot be told apart are one name or none (B17)."""

from __future__ import annotations

import pytest

from protocol.spelling import hidden, normal

UNSEEN = [
    "\u200b", "\ufeffbom", "a\u202eb", "a\u00a0b", "\u3000", "a\u2028b", "a\u00adb", "\u2060", "a\u034fb", "\u3164", "a\u115fb",
    "a\ufe0fb", "a\U000e0041b", "a\U000e0100b", "\u2800", "a\x00b", "a\x85b", "\ue000", "\u0378", "a\u180eb", "a\u2066b",
    "\u061c",
]  # fmt: skip
SEEN = ["a/b", "ключ", "é", "🔑", "ß", "日本", "{{key}}", "x" * 255, "a b", "-", "__proto__", "עברית", "नमस्ते", "한글", ""]


@pytest.mark.parametrize("text", UNSEEN, ids=ascii)
def test_what_is_not_seen_is_found_and_named(text: str) -> None:
    assert "U+" in hidden(text) and hidden(text).isprintable()


@pytest.mark.parametrize("text", SEEN)
def test_what_is_seen_is_no_fault(text: str) -> None:
    assert hidden(text) == "" and normal(text) == text


def test_one_letter_has_one_form() -> None:
    assert normal("e\u0301") == "é" and normal("\u212b") == "Å" and normal("각") == "각"
