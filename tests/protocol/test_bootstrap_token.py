"""The bootstrap token is one text that carries the whole package, and says what is wrong with it without repeating it.

Proven here: what is packed is what is unpacked, it stays under 2 KiB, its secret is in no `repr` and in no sentence (I16), and
every damaged or foreign text is refused with a sentence for the person who copied it (I20).
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.bootstrap_token import (
    LONGEST,
    PREFIX,
    BootstrapToken,
    BootstrapTokenError,
    hash_secret,
    same_hash,
    unpack,
)

BODY: dict[str, Any] = {
    "id": "6f1f0f8e-6c1b-4a53-9a55-0d8f5f3f6a01",
    "secret": "s3cr3t-canary-" + "x" * 30,
    "urls": ["https://primary.example:8443", "https://primary-2.example:8443"],
    "pin": "sha256:" + "0a" * 32,
    "expires": 1795600000,
}
TOKEN = BootstrapToken(BODY["id"], BODY["secret"], tuple(BODY["urls"]), BODY["pin"], datetime.fromtimestamp(1795600000, UTC))
FROZEN = (
    "mzvb1.eyJpZCI6IjZmMWYwZjhlLTZjMWItNGE1My05YTU1LTBkOGY1ZjNmNmEwMSIsInNlY3JldCI6InMzY3IzdC1jYW5hcnkteHh4eHh4eHh4eHh4eHh4eH"
    "h4eHh4eHh4eHh4eHh4IiwidXJscyI6WyJodHRwczovL3ByaW1hcnkuZXhhbXBsZTo4NDQzIiwiaHR0cHM6Ly9wcmltYXJ5LTIuZXhhbXBsZTo4NDQzIl0sIn"
    "BpbiI6InNoYTI1NjowYTBhMGEwYTBhMGEwYTBhMGEwYTBhMGEwYTBhMGEwYTBhMGEwYTBhMGEwYTBhMGEwYTBhMGEwYTBhMGEwYTBhIiwiZXhwaXJlcyI6MT"
    "c5NTYwMDAwMH0"
)


def text_of(body: Any) -> str:
    return PREFIX + base64.urlsafe_b64encode(json.dumps(body).encode()).rstrip(b"=").decode()


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in BODY.items() if key != name}


class TestPacking:
    def test_a_token_given_out_by_the_first_version_is_still_read(self) -> None:
        assert unpack(FROZEN) == TOKEN
        assert TOKEN.pack() == FROZEN

    @given(
        identifier=st.uuids(),
        secret=st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", min_size=40, max_size=60),
        hosts=st.lists(st.from_regex(r"[a-z0-9.-]{1,60}", fullmatch=True), min_size=1, max_size=5),
        pin=st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True),
        expires=st.datetimes(datetime(2026, 1, 1), datetime(2040, 1, 1)),
    )
    def test_what_is_packed_is_what_is_unpacked(
        self, identifier: UUID, secret: str, hosts: list[str], pin: str, expires: datetime
    ) -> None:
        urls = tuple(f"https://{host}" for host in hosts)
        token = BootstrapToken(str(identifier), secret, urls, pin, expires.replace(microsecond=0, tzinfo=UTC))
        assert unpack(token.pack()) == token

    @pytest.mark.parametrize("around", [" {} ", "{}\n", "\t{}\r\n"])
    def test_white_space_from_copying_does_not_matter(self, around: str) -> None:
        assert unpack(around.format(FROZEN)) == TOKEN

    def test_more_addresses_than_fit_are_refused_with_advice(self) -> None:
        many = BootstrapToken(
            TOKEN.id, TOKEN.secret, tuple(f"https://{n}.example" for n in range(100)), TOKEN.pin, TOKEN.expires_at
        )
        with pytest.raises(BootstrapTokenError, match="use fewer or shorter addresses"):
            many.pack()

    def test_it_stays_under_two_kibibytes_and_what_is_packed_can_always_be_read(self) -> None:
        """Every length on both sides of the limit."""
        packed = []
        for size in range(1250, 1350):
            token = BootstrapToken(TOKEN.id, TOKEN.secret, (f"https://{'h' * size}",), TOKEN.pin, TOKEN.expires_at)
            try:
                packed.append((token.pack(), token))
            except BootstrapTokenError:
                continue
        assert 0 < len(packed) < 100
        assert 2040 < max(len(text) for text, _ in packed) < LONGEST == 2048
        assert all(unpack(text) == token for text, token in packed)


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("", "it is empty"),
            (" \n", "it is empty"),
            (PREFIX + "A" * LONGEST, "longer than 2048"),
            ("eyJpZCI6", "does not start with mzvb1"),
            ("MZVB1." + FROZEN[6:], "does not start with mzvb1"),
            (PREFIX, "cut off or changed"),
            (FROZEN[:-4], "cut off or changed"),
            (FROZEN[:200] + " " + FROZEN[200:], "cut off or changed"),
            (FROZEN[:200] + "é" + FROZEN[201:], "cut off or changed"),
            (text_of(BODY)[:-1] + "!", "cut off or changed"),
            (PREFIX + base64.urlsafe_b64encode(b"[" * 1400).decode(), "cut off or changed"),
            (PREFIX + base64.urlsafe_b64encode(b"\xff\xfe").decode(), "cut off or changed"),
            (text_of([BODY]), "holds no package"),
            (text_of(None), "holds no package"),
            *((text_of(without(name)), "a part is missing") for name in BODY),
            (text_of({**BODY, "id": "1"}), "a part is missing or of the wrong kind"),
            (text_of({**BODY, "id": None}), "a part is missing or of the wrong kind"),
            (text_of({**BODY, "expires": 10**30}), "a part is missing or of the wrong kind"),
            (text_of({**BODY, "expires": "1795600000"}), "its expiry"),
            (text_of({**BODY, "expires": 1795600000.5}), "its expiry"),
            (text_of({**BODY, "expires": None}), "its expiry"),
            (text_of({**BODY, "urls": []}), "https://"),
            (text_of({**BODY, "urls": "https://one.example"}), "https://"),
            (text_of({**BODY, "urls": ["http://primary.example"]}), "https://"),
            (text_of({**BODY, "urls": [*BODY["urls"], "http://primary.example"]}), "https://"),
            (text_of({**BODY, "urls": [7]}), "https://"),
            (text_of({**BODY, "secret": "x" * 39}), "its secret or its pin"),
            (text_of({**BODY, "secret": ["x"] * 40}), "its secret or its pin"),
            (text_of({**BODY, "pin": None}), "its secret or its pin"),
            (text_of({**BODY, "pin": "0a" * 32}), "its secret or its pin"),
            (text_of({**BODY, "pin": "sha256:" + "0A" * 32}), "its secret or its pin"),
            (text_of({**BODY, "pin": "sha256:" + "0a" * 31}), "its secret or its pin"),
            (text_of({**BODY, "pin": "sha256:" + "0a" * 33}), "its secret or its pin"),
        ],
        ids=lambda value: value[:24],
    )
    def test_a_damaged_token_is_refused_with_a_sentence_that_never_repeats_it(self, text: str, sentence: str) -> None:
        with pytest.raises(BootstrapTokenError, match=sentence) as caught:
            unpack(text)
        assert "canary" not in str(caught.value)
        assert text.strip()[6:40] not in str(caught.value) or len(text.strip()) <= 6

    @given(st.text(max_size=200) | st.text(max_size=200).map(PREFIX.__add__) | st.binary(max_size=200).map(
        lambda raw: PREFIX + base64.urlsafe_b64encode(raw).decode()))  # fmt: skip
    def test_any_other_text_is_refused_and_none_crashes(self, text: str) -> None:
        with pytest.raises(BootstrapTokenError):
            unpack(text)


class TestSecret:
    def test_it_is_in_no_repr(self) -> None:
        assert "canary" not in repr(unpack(FROZEN))
        assert TOKEN.id in repr(TOKEN)

    def test_what_is_stored_is_its_sha_256(self) -> None:
        assert hash_secret(TOKEN.secret) == hashlib.sha256(TOKEN.secret.encode()).hexdigest()

    def test_only_the_same_hash_is_the_same(self) -> None:
        stored = hash_secret(TOKEN.secret)
        assert same_hash(stored, hash_secret(unpack(FROZEN).secret))
        assert not same_hash(stored, hash_secret(TOKEN.secret + "x"))
        assert not same_hash(stored, "")


def test_the_moment_of_expiry_is_in_utc_to_the_second() -> None:
    late = BootstrapToken(TOKEN.id, TOKEN.secret, TOKEN.urls, TOKEN.pin, TOKEN.expires_at + timedelta(seconds=0.9))
    assert unpack(late.pack()).expires_at == TOKEN.expires_at
    assert unpack(late.pack()).expires_at.tzinfo is UTC
