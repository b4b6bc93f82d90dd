"""The judge finds each kind of fault, and nothing in a history that holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.history import End, Final, Operation, violations

GATEWAY = "gw-npr-primary"


def write(value: str, began: float, ended: float, end: End = End.APPLIED, node: str = GATEWAY) -> Operation:
    return Operation(node, "s", value, began, ended, end, is_write=True, write=f"id of {value}")


def read(value: str, version: int, began: float, ended: float, node: str = "primary", life: int = 0) -> Operation:
    return Operation(node, "s", value, began, ended, End.APPLIED, is_write=False, version=version, life=life)


A, B = write("a", 0, 1), write("b", 2, 3)
SOUND = [A, B, read("a", 1, 1.2, 1.4), read("b", 2, 3.1, 3.2), read("a", 1, 3.3, 3.4, GATEWAY)]
STORED = Final({"s": {1: "a", 2: "b"}}, {})


def test_a_history_that_holds_has_no_violation():
    assert violations(SOUND, STORED) == []


def test_what_nobody_saw_the_end_of_may_have_happened_or_not():
    unsure = write("c", 4, 9, End.UNKNOWN)
    assert violations([*SOUND, unsure], STORED) == []
    assert violations([*SOUND, unsure, read("c", 3, 5, 6)], Final({"s": {1: "a", 2: "b", 3: "c"}}, {})) == []


def test_a_promise_may_end_as_something_that_a_person_is_shown():
    promised = write("c", 4, 5, End.QUEUED)
    assert violations([*SOUND, promised], Final(STORED.versions, {promised.write: "conflict"})) == []


def test_concurrent_writes_may_have_either_order():
    assert violations([write("a", 0, 3), write("b", 1, 2)], Final({"s": {1: "b", 2: "a"}}, {})) == []


def test_a_gateway_whose_database_was_put_back_is_another_life():
    reads = [read("b", 2, 4, 5, GATEWAY), read("a", 1, 6, 7, GATEWAY, life=1)]
    assert violations([A, B, *reads], STORED) == []


@pytest.mark.parametrize(
    ("operations", "final", "said"),
    [
        ([A, B], Final({"s": {1: "a"}}, {}), "b was applied by gw-npr-primary and is no version"),
        ([write("c", 0, 1, End.QUEUED)], Final({}, {}), "c was promised by gw-npr-primary and ended as nothing"),
        ([write("c", 0, 1, End.QUEUED)], Final({}, {"id of c": "received"}), "ended as received"),
        ([A], Final({"s": {1: "a", 2: "a"}}, {}), "a is version 1 and version 2"),
        ([A, replace(B, end=End.FAILED)], STORED, "holds b, which was refused"),
        ([A], STORED, "version 2 holds a value that nobody wrote"),
        ([A, B], Final({"s": {1: "b", 2: "a"}}, {}), "b is number 1, but a was number 2 before it began"),
        ([*SOUND, read("a", 1, 5, 6)], STORED, "primary: a is number 1, but b was number 2"),
        ([A, B, read("b", 2, 4, 5, GATEWAY), read("a", 1, 6, 7, GATEWAY)], STORED, "a is number 1, but b was number 2"),
        ([A, B, read("b", 1, 4, 5, GATEWAY)], STORED, "gave out b as version 1, which is a"),
        ([A, B, read("b", 2, 0.5, 0.6, GATEWAY)], STORED, "gave out b before it was written"),
        ([A, B, read("x", 2, 4, 5, GATEWAY)], STORED, "gave out 'x', which nobody wrote"),
    ],
)
def test_each_kind_of_fault_is_found(operations: list[Operation], final: Final, said: str):
    assert any(said in sentence for sentence in violations(operations, final)), violations(operations, final)
