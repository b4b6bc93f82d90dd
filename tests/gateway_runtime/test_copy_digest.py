"""The digest of a gateway's copy: moved with each page, known again after an upgrade, put right when it is wrong."""

from __future__ import annotations

import uuid

import pytest

from gateway_runtime import copy_digest
from gateway_runtime.models import CopySum, ReplicaRow
from protocol.replica import EMPTY_DIGEST, ReplicaKind, digest

pytestmark = pytest.mark.django_db
THINGS = [(ReplicaKind.SECRET, uuid.uuid4()) for _ in range(7)]


def held() -> str:
    return digest(ReplicaRow.objects.values_list("fingerprint", flat=True))


def remember(*numbers: int, position: int = 1, text: str = "a") -> None:
    copy_digest.remember({THINGS[number]: f"{number:x}{text}" for number in numbers}, 1, position)


def run_a_round() -> int:
    steps = 1
    while copy_digest.check():
        steps += 1
    return steps


def test_it_is_the_sum_of_what_is_held_after_things_come_change_and_go() -> None:
    remember(0, 1, 2)
    remember(1, 3, position=2, text="b")
    assert copy_digest.at(1, 2) == held() != EMPTY_DIGEST
    copy_digest.forget(ReplicaRow.objects.filter(entity_id=THINGS[0][1]))
    assert copy_digest.at(1, 2) == held() == digest(["1b", "2a", "3b"])


def test_it_is_not_told_for_another_position_or_round() -> None:
    remember(0, position=5)
    assert [bool(copy_digest.at(*place)) for place in ((1, 5), (1, 4), (2, 5))] == [True, False, False]


def test_a_copy_of_an_earlier_version_is_summed_up_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(0, 1, 2, 3)
    CopySum.objects.update(digest="")
    monkeypatch.setattr(copy_digest, "CHECKED_AT_ONCE", 2)
    copy_digest.check()
    remember(0, 4, text="b")
    copy_digest.forget(ReplicaRow.objects.filter(entity_id=THINGS[1][1]))
    assert copy_digest.at(1, 1) == ""
    assert run_a_round() >= 3
    assert copy_digest.at(1, 1) == held()


def test_looking_again_finds_nothing_where_nothing_is_wrong_and_puts_right_what_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(copy_digest, "CHECKED_AT_ONCE", 2)
    remember(0, 1, 2, 3, 4)
    copy_digest.check()
    remember(0, 5, text="b")
    run_a_round()
    assert "put right" not in caplog.text
    CopySum.objects.update(digest=digest(["1"]))
    run_a_round()
    assert "put right" in caplog.text and copy_digest.at(1, 1) == held()
