"""What rests in the database opens in its own place only, and only under the master key it was sealed with (DESIGN §10).

Proven here on real PostgreSQL rows: a sealed value moved to another scope, table, row or version does not open; no bit of it or
of its key's row can be changed; a thief of the database finds no plaintext (I16); another environment's key is no use (I13).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db import transaction
from hypothesis import given
from hypothesis import strategies as st

from common.clock import now
from vault import encryption
from vault.encryption import KEY_SECONDS, MasterKeyMismatch, SealBroken, forget_keys, open_sealed, seal
from vault.models import KeyEncryptionKey

pytestmark = pytest.mark.django_db
PLACE = ("NPR", "vault_secretversion", "6f1f0f8e-6c1b-4a53-9a55-0d8f5f3f6a01", 3)


@pytest.fixture(autouse=True)
def no_keys_in_memory() -> Iterator[None]:
    """Each test reads its keys from the database, as a fresh process does."""
    forget_keys()
    yield
    forget_keys()


@pytest.fixture
def master_key(settings: Any) -> Callable[[bytes], None]:
    """Go on under another master key, as after a restart with another environment."""

    def change(key: bytes) -> None:
        settings.MAZEVAULT = replace(settings.MAZEVAULT, master_key=key)
        forget_keys()

    return change


class TestPlace:
    @pytest.mark.parametrize("value", [b"", b"s", b"hunter2" * 1000])
    def test_a_value_opens_in_its_own_place(self, value: bytes) -> None:
        assert open_sealed(*PLACE, seal(*PLACE, value)) == value

    @pytest.mark.parametrize(
        "other",
        [
            ("PRO", *PLACE[1:]),
            ("npr", *PLACE[1:]),
            (PLACE[0], "vault_certificateauthority", *PLACE[2:]),
            (*PLACE[:2], "6f1f0f8e-6c1b-4a53-9a55-0d8f5f3f6a02", PLACE[3]),
            (*PLACE[:3], 2),
            (*PLACE[:3], 4),
            (*PLACE[:3], 33),
        ],
        ids=[
            "environment",
            "case of environment",
            "table",
            "row",
            "version before",
            "version after",
            "version with a digit more",
        ],
    )
    def test_a_value_moved_elsewhere_does_not_open(self, other: tuple[str, str, str, int]) -> None:
        sealed = seal(*PLACE, b"hunter2")
        seal(*other, b"that place has its own key")
        with pytest.raises(SealBroken):
            open_sealed(*other, sealed)

    def test_a_key_of_another_environment_is_not_even_tried(self) -> None:
        """I13."""
        sealed = seal("PRO", *PLACE[1:], b"hunter2")
        with pytest.raises(SealBroken, match="a key that does not belong to NPR"):
            open_sealed(*PLACE, sealed)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (("NPR", "a|b", "c", 1), ("NPR", "a", "b|c", 1)),
            (("NPR", "ab", "c", 1), ("NPR", "a", "bc", 1)),
            (("NPR", "t", "r1", 1), ("NPR", "t", "r", 11)),
            (("NPR", "t", "r|1", 2), ("NPR", "t", "r", 12)),
        ],
    )
    def test_no_two_places_are_spelled_alike(self, one: tuple[str, str, str, int], other: tuple[str, str, str, int]) -> None:
        sealed = seal(*one, b"hunter2")
        with pytest.raises(SealBroken):
            open_sealed(*other, sealed)

    def test_swapped_values_of_two_rows_both_stay_shut(self) -> None:
        first, second = ("NPR", "t", "row-1", 1), ("NPR", "t", "row-2", 1)
        sealed = {first: seal(*first, b"one"), second: seal(*second, b"two")}
        for place, foreign in ((first, sealed[second]), (second, sealed[first])):
            with pytest.raises(SealBroken, match="does not belong"):
                open_sealed(*place, foreign)

    def test_halves_of_two_values_do_not_make_one(self) -> None:
        """The wrapped data key of one version in front of the ciphertext of another."""
        one, two = seal(*PLACE, b"one"), seal(*PLACE, b"two")
        head = 1 + 16 + encryption.WRAPPED
        with pytest.raises(SealBroken):
            open_sealed(*PLACE, one[:head] + two[head:])


class TestTampering:
    def test_no_single_bit_of_a_sealed_value_can_be_flipped(self) -> None:
        sealed = seal(*PLACE, b"hunter2")
        for position in range(len(sealed) * 8):
            flipped = bytearray(sealed)
            flipped[position // 8] ^= 1 << position % 8
            with pytest.raises(SealBroken):
                open_sealed(*PLACE, bytes(flipped))

    def test_a_sealed_value_cut_off_anywhere_does_not_open(self) -> None:
        sealed = seal(*PLACE, b"hunter2")
        for length in range(len(sealed)):
            with pytest.raises(SealBroken):
                open_sealed(*PLACE, sealed[:length])

    def test_a_key_row_changed_in_the_database_is_found(self) -> None:
        sealed = seal(*PLACE, b"hunter2")
        row = KeyEncryptionKey.objects.get(scope="NPR")
        wrapped = bytearray(row.wrapped)
        wrapped[-1] ^= 1
        KeyEncryptionKey.objects.filter(pk=row.pk).update(wrapped=bytes(wrapped))
        forget_keys()
        with pytest.raises(SealBroken, match="key of NPR was changed"):
            open_sealed(*PLACE, sealed)

    def test_a_key_row_relabelled_for_another_environment_does_not_open(self) -> None:
        """I13: a writer of the database makes NPR's key PRO's; the name is bound into the wrapping."""
        sealed = seal(*PLACE, b"hunter2")
        KeyEncryptionKey.objects.filter(scope="NPR").update(scope="PRO")
        forget_keys()
        with pytest.raises(SealBroken, match="key of PRO was changed"):
            open_sealed("PRO", *PLACE[1:], sealed)

    @pytest.mark.parametrize("rubbish", [b"", b"\x01", b"\x02" * 200, bytes(200)])
    def test_what_was_never_sealed_is_damaged(self, rubbish: bytes) -> None:
        with pytest.raises(SealBroken, match="damaged"):
            open_sealed(*PLACE, rubbish)


class TestKeys:
    def test_the_same_value_sealed_twice_shares_nothing_but_the_name_of_its_key(self) -> None:
        one, two = seal(*PLACE, b"hunter2" * 20), seal(*PLACE, b"hunter2" * 20)
        head = 1 + 16
        assert one[:head] == two[:head]
        assert one[head : head + encryption.WRAPPED] != two[head : head + encryption.WRAPPED]
        assert one[head + encryption.WRAPPED :] != two[head + encryption.WRAPPED :]

    def test_another_master_key_opens_nothing_and_says_what_to_do(self, master_key: Callable[[bytes], None]) -> None:
        sealed = seal(*PLACE, b"hunter2")
        master_key(secrets.token_bytes(32))
        with pytest.raises(MasterKeyMismatch, match="MAZEVAULT_MASTER_KEY"):
            open_sealed(*PLACE, sealed)
        with pytest.raises(MasterKeyMismatch):
            seal(*PLACE, b"hunter3")

    def test_another_master_key_opens_nothing_even_under_a_forged_key_id(self, master_key: Callable[[bytes], None]) -> None:
        sealed = seal(*PLACE, b"hunter2")
        master_key(secrets.token_bytes(32))
        seal("PRO", *PLACE[1:], b"makes a row that names the new master key")
        forged = KeyEncryptionKey.objects.get(scope="PRO").master_key_id
        KeyEncryptionKey.objects.filter(scope="NPR").update(master_key_id=forged)
        with pytest.raises(SealBroken, match="key of NPR was changed"):
            open_sealed(*PLACE, sealed)

    def test_each_environment_has_its_own_key_and_only_one(self) -> None:
        for scope in ("NPR", "PRO", "NPR", "PRO"):
            seal(scope, *PLACE[1:], b"hunter2")
        assert sorted(KeyEncryptionKey.objects.values_list("scope", flat=True)) == ["NPR", "PRO"]

    def test_values_of_a_retired_key_still_open_and_new_ones_use_the_new_key(self) -> None:
        before = seal(*PLACE, b"old")
        KeyEncryptionKey.objects.filter(scope="NPR").update(retired_at=now())
        after = seal(*PLACE, b"new")
        assert before[1:17] != after[1:17]
        assert (open_sealed(*PLACE, before), open_sealed(*PLACE, after)) == (b"old", b"new")

    def test_neither_value_nor_key_stands_in_the_database_in_the_clear(self, settings: Any) -> None:
        sealed = seal(*PLACE, b"a-canary-of-nineteen")
        row = KeyEncryptionKey.objects.get(scope="NPR")
        unwrapped_length = len(bytes(row.wrapped)) - encryption.NONCE - encryption.TAG
        assert b"canary" not in sealed
        assert settings.MAZEVAULT.master_key not in bytes(row.wrapped)
        assert settings.MAZEVAULT.master_key.hex()[:32] != row.master_key_id
        assert unwrapped_length == encryption.KEY == 32

    def test_a_refusal_names_the_place_and_not_the_value(self) -> None:
        sealed = seal("NPR", "t", "row-1", 1, b"a-canary-of-nineteen")
        with pytest.raises(SealBroken) as caught:
            open_sealed("NPR", "t", "row-2", 1, sealed)
        assert "t, row row-2, version 1 of NPR" in str(caught.value)
        assert "canary" not in str(caught.value)


@given(value=st.binary(max_size=300), row=st.text(max_size=40), version=st.integers(0, 2**40))
def test_any_value_of_any_row_survives_the_trip(value: bytes, row: str, version: int) -> None:
    assert open_sealed("NPR", "t", row, version, seal("NPR", "t", row, version, value)) == value


def test_a_key_that_was_destroyed_opens_nothing_after_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    with transaction.atomic():
        sealed = seal("NPR", "t", "r", 1, b"x")
    assert open_sealed("NPR", "t", "r", 1, sealed) == b"x"
    KeyEncryptionKey.objects.filter(scope="NPR").delete()
    assert open_sealed("NPR", "t", "r", 1, sealed) == b"x", "what is under way may end"
    later = time.monotonic() + KEY_SECONDS
    monkeypatch.setattr("vault.encryption.time.monotonic", lambda: later)
    with pytest.raises(SealBroken):
        open_sealed("NPR", "t", "r", 1, sealed)
