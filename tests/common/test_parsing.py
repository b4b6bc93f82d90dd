"""Strict JSON at the API's door: one object, of limited size and depth, in which every name stands once (DESIGN §5, I20)."""

from __future__ import annotations

import io
import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import MalformedBody, MazeVaultError, TooLarge, ValidationFailed
from common.parsing import (
    DEEPEST_BODY,
    LARGEST_BODY,
    LONGEST_NAME,
    MOST_VALUES,
    LimitedFormParser,
    StrictJSONParser,
    parse_object,
)

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
LEAVES = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False) | NAMES
OBJECTS = st.dictionaries(
    NAMES,
    st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12),
    max_size=5,
)


def nested(levels: int, opening: str = "[", closing: str = "]") -> bytes:
    """An object with `levels` levels in all, itself included."""
    return f'{{"a":{opening * (levels - 1)}1{closing * (levels - 1)}}}'.encode()


class TestAccepts:
    @given(OBJECTS)
    def test_every_plain_object_as_it_is(self, body: dict[str, Any]) -> None:
        assert parse_object(json.dumps(body).encode()) == body
        assert parse_object(json.dumps(body, ensure_ascii=False, indent=1).encode()) == body

    @pytest.mark.parametrize("raw", [b"", b" ", b"\r\n\t"])
    def test_an_empty_body_as_an_empty_object(self, raw: bytes) -> None:
        assert parse_object(raw) == {}

    def test_integers_of_any_length_people_write_without_rounding(self) -> None:
        assert parse_object(b'{"n": 9007199254740993}') == {"n": 9007199254740993}

    def test_brackets_inside_of_strings_are_no_levels(self) -> None:
        body = {"a": "[" * 100 + '\\"{' * 100, "b\\": '"[["'}
        assert parse_object(json.dumps(body).encode()) == body

    @pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")], ids=["lists", "objects"])
    def test_as_many_levels_as_are_allowed(self, opening: str, closing: str) -> None:
        assert parse_object(nested(DEEPEST_BODY, opening, closing))["a"]

    def test_many_brackets_side_by_side(self) -> None:
        assert parse_object(b'{"a":[' + b",".join([b"[]"] * 1000) + b"]}") == {"a": [[]] * 1000}


class TestRefuses:
    @pytest.mark.parametrize(
        ("raw", "sentence"),
        [
            (b"[]", "must be a JSON object"),
            (b"null", "must be a JSON object"),
            (b"1", "must be a JSON object"),
            (b'"{}"', "must be a JSON object"),
            (b"{", "not valid JSON"),
            (b"{}{}", "not valid JSON"),
            (b"{'a': 1}", "not valid JSON"),
            (b'{"a": 1,}', "not valid JSON"),
            (b'{"a": 01}', "not valid JSON"),
            (b'{"a": "\n"}', "not valid JSON"),
            (b'{"a": "\xff"}', "not valid JSON"),
            (b"\xef\xbb\xbf{}", "not valid JSON"),
            (b'{"a": 1, "a": 2}', "not valid JSON"),
            (b'{"a": {"b": 1, "\\u0062": 1}}', "not valid JSON"),
            (b'{"a": [{"b": 1, "b": 1}]}', "not valid JSON"),
            (b'{"a": NaN}', "not valid JSON"),
            (b'{"a": [Infinity]}', "not valid JSON"),
            (b'{"a": -Infinity}', "not valid JSON"),
            (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
            (nested(DEEPEST_BODY + 1), "nested deeper than 20"),
            (nested(DEEPEST_BODY + 1, '{"a":', "}"), "nested deeper than 20"),
            (nested(100_000), "nested deeper than 20"),
            (b"[" * 500_000, "nested deeper than 20"),
            (b'{"a": "\\"' + b'","b":' + b"[" * 30, "nested deeper than 20"),
        ],
        ids=["list", "null", "number", "text", "open", "two", "other quotes", "comma at the end", "octal", "bare line end",
             "not UTF-8", "byte order mark", "name twice", "name twice in two spellings", "name twice deep inside", "NaN",
             "Infinity", "-Infinity", "endless number", "a level too much of lists", "a level too much of objects",
             "a bomb", "an open bomb", "levels after an escaped quote"],
    )  # fmt: skip
    def test_what_is_no_such_object_with_a_sentence(self, raw: bytes, sentence: str) -> None:
        with pytest.raises(MalformedBody, match=sentence) as caught:
            parse_object(raw)
        assert (caught.value.status, caught.value.code) == (400, "INVALID_FORMAT")

    @pytest.mark.parametrize("raw", [b'{"a":1e999}', b'{"a":-1e999}', b'{"a":[1e400]}'])
    def test_numbers_that_are_infinite(self, raw: bytes) -> None:
        with pytest.raises(MalformedBody):
            parse_object(raw)

    @pytest.mark.parametrize("raw", [b'{"a":"\\ud800"}', b'{"a":["x","\\udfff"]}', b'{"\\ud800":1}'])
    def test_halves_of_surrogate_pairs(self, raw: bytes) -> None:
        with pytest.raises(ValidationFailed, match="half of a surrogate pair"):
            parse_object(raw)

    def test_but_not_a_whole_pair(self) -> None:
        assert parse_object(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}

    @pytest.mark.parametrize(
        ("raw", "sentence"),
        [
            (b'{"name": "a\\u0000b"}', "name: a NUL"),
            (b'{"urls": ["a", "\\u0000"]}', r"urls\[1\]: a NUL"),
            (b'{"a": {"b": [{"c": "\\u0000"}]}}', r"a\.b\[0\]\.c: a NUL"),
            (b'{"\\u0000": 1}', "the body: a NUL"),
            (b'{"a": {"\\u0000": 1}}', "a: a NUL"),
        ],
    )
    def test_a_nul_character_by_its_place(self, raw: bytes, sentence: str) -> None:
        """PostgreSQL stores none, so it would be an error of ours later on."""
        with pytest.raises(ValidationFailed, match=f"^{sentence}"):
            parse_object(raw)

    @pytest.mark.parametrize(
        "raw",
        [b'{"' + b'\\"' * (LARGEST_BODY // 2 - 8), b'"' * (LARGEST_BODY - 1), b'"\\' * (LARGEST_BODY // 2),
         b'{"' + b"\\" * LARGEST_BODY, b'{"a":"' + b"x" * LARGEST_BODY],
        ids=["escaped quotes without an end", "quotes", "escapes", "backslashes", "a string without an end"],
    )  # fmt: skip
    def test_a_mebibyte_of_strings_that_do_not_end_without_stalling(self, raw: bytes) -> None:
        """Anybody may send one: going back over what was read would take hours."""
        begun = time.monotonic()
        with pytest.raises(MalformedBody):
            parse_object(raw)
        assert time.monotonic() - begun < 5

    @pytest.mark.parametrize(
        ("raw", "sentence"),
        [
            (b'{"a":[' + b",".join([b"0"] * (MOST_VALUES + 1)) + b"]}", f"more than {MOST_VALUES} values"),
            (b'{"a":[' + b",".join([b"{}"] * 300_000) + b"]}", f"more than {MOST_VALUES} values"),
            (b'{"a":[' + b"[]" * 300_000 + b"]}", f"more than {MOST_VALUES} values"),
            (b'{"' + b"x" * 500_000 + b'":[' + b",".join([b"0"] * 9000) + b"]}", f"^x+: a name has at most {LONGEST_NAME} char"),
            (b'{"a":{"b":{"' + b"y" * (LONGEST_NAME + 1) + b'":1}}}', f"^a.b.y+: a name has at most {LONGEST_NAME} char"),
        ],
        ids=["numbers", "objects", "lists without commas", "a long name around many values", "a long name inside"],
    )
    def test_many_values_and_long_names_at_once(self, raw: bytes, sentence: str) -> None:
        begun = time.thread_time()
        with pytest.raises(MazeVaultError, match=sentence) as caught:
            parse_object(raw)
        assert caught.value.status == 400 and len(caught.value.sentence) < 200
        assert time.thread_time() - begun < 2

    def test_a_body_as_large_as_it_may_be_is_read_in_one_pass(self) -> None:
        """Names as long as allowed at every level, and as many values as allowed inside of them."""
        name = b'{"' + b"x" * (LONGEST_NAME - 1) + b'":'
        levels = DEEPEST_BODY - 1
        raw = name * levels + b"[" + b",".join([b'"v"'] * (MOST_VALUES - 100)) + b"]" + b"}" * levels
        begun = time.thread_time()
        assert parse_object(raw)
        assert time.thread_time() - begun < 2

    @given(st.binary(max_size=200))
    def test_arbitrary_bytes_by_an_error_that_has_an_answer(self, raw: bytes) -> None:
        try:
            assert isinstance(parse_object(raw), dict)
        except MazeVaultError as error:
            assert error.status == 400


class TestParser:
    def parse(self, raw: bytes) -> dict[str, Any]:
        return StrictJSONParser().parse(io.BytesIO(raw))

    def test_reads_a_body_of_exactly_the_largest_size(self) -> None:
        assert self.parse(b'{"a":1}' + b" " * (LARGEST_BODY - 7)) == {"a": 1}

    def test_refuses_one_byte_more_without_reading_on(self) -> None:
        stream = io.BytesIO(b'{"a":1}' + b" " * (2 * LARGEST_BODY))
        with pytest.raises(TooLarge) as caught:
            StrictJSONParser().parse(stream)
        assert caught.value.status == 413
        assert stream.tell() == LARGEST_BODY + 1

    @pytest.mark.parametrize("said", [str(LARGEST_BODY + 1), "9" * 20, "9" * 5000, "0" * 30 + "9" * 20])
    def test_refuses_a_length_that_is_too_much_before_it_reads(self, said: str) -> None:
        stream, context = io.BytesIO(b"{}"), {"request": SimpleNamespace(META={"CONTENT_LENGTH": said})}
        with pytest.raises(TooLarge):
            StrictJSONParser().parse(stream, parser_context=context)
        assert stream.tell() == 0

    def test_refuses_what_is_no_object(self) -> None:
        with pytest.raises(MalformedBody):
            self.parse(b"[]")


class TestFormParser:
    def test_reads_fields_as_they_are(self) -> None:
        form = LimitedFormParser().parse(io.BytesIO(b"a=1&b=x+y%26"))
        assert form.dict() == {"a": "1", "b": "x y&"}

    def test_refuses_one_byte_more_than_the_largest_size_without_reading_on(self) -> None:
        stream = io.BytesIO(b"a=" + b"x" * (2 * LARGEST_BODY))
        with pytest.raises(TooLarge):
            LimitedFormParser().parse(stream)
        assert stream.tell() == LARGEST_BODY + 1

    def test_refuses_a_form_of_thousands_of_fields(self) -> None:
        with pytest.raises(MalformedBody, match="too many fields"):
            LimitedFormParser().parse(io.BytesIO(b"&".join(b"a=1" for _ in range(2000))))
