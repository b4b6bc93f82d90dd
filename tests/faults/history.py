"""What clients saw, and the judge of it. What nobody saw the end of may or may not have happened; everything else must fit.

Every written value is unique and every answer names a version, so an order of versions that agrees with the order of time is all
that a register needs to be linearizable. The judge is linear in the number of operations but for one sort of each secret's.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

PRIMARY = "primary"
"""The node whose reads tell the newest version; a gateway's copy may be behind, but never goes back."""


class End(StrEnum):
    """How an operation ended for its caller."""

    APPLIED = "applied"
    QUEUED = "queued"
    """Promised (202): it ends as a version, or as an outcome that a person is shown."""
    FAILED = "failed"
    """Refused with an answer that says that nothing happened."""
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Operation:
    """One call to the secrets API. `began` and `ended` are monotonic seconds; `version` is 0 where the answer named none."""

    node: str
    secret: str
    value: str
    began: float
    ended: float
    end: End
    is_write: bool
    version: int = 0
    write: str = ""
    life: int = 0
    """Which process of the node answered, as far as the test knows: one that was put back may know less."""


@dataclass
class History:
    """Operations of all clients, in any order."""

    operations: list[Operation] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, operation: Operation) -> None:
        with self.lock:
            self.operations.append(operation)

    def count(self, end: End) -> int:
        with self.lock:
            return sum(one.end is end and one.is_write for one in self.operations)

    def reads(self) -> int:
        with self.lock:
            return sum(not one.is_write for one in self.operations)


@dataclass(frozen=True)
class Final:
    """What is stored when everything has come to rest: versions with their values by secret, and the outcome of each queued
    write that is no version (`conflict`, `quarantined`, …)."""

    versions: Mapping[str, Mapping[int, str]]
    outcomes: Mapping[str, str]


SHOWN = frozenset({"conflict", "quarantined", "superseded", "dead_letter", "discarded"})
"""Outcomes that a person is shown: such a write is not lost."""


def violations(operations: Iterable[Operation], final: Final) -> list[str]:
    """Everything that contradicts "nothing acknowledged is lost, nothing is applied twice, nothing goes back"."""
    by_secret: dict[str, list[Operation]] = defaultdict(list)
    for one in operations:
        by_secret[one.secret].append(one)
    found: list[str] = []
    for secret in sorted({*by_secret, *final.versions}):
        own, versions = by_secret[secret], final.versions.get(secret, {})
        for rule in (_lost, _twice, _unwritten, _disordered, _gone_back, _changed):
            found += [f"{secret}: {sentence}" for sentence in rule(own, versions, final)]
    return found


Versions = Mapping[int, str]


def _lost(own: list[Operation], versions: Versions, final: Final) -> Iterator[str]:
    stored = set(versions.values())
    for one in own:
        if not one.is_write or one.value in stored:
            continue
        if one.end is End.APPLIED:
            yield f"{one.value} was applied by {one.node} and is no version"
        elif one.end is End.QUEUED and final.outcomes.get(one.write) not in SHOWN:
            yield f"{one.value} was promised by {one.node} and ended as {final.outcomes.get(one.write, 'nothing')}"


def _twice(_own: list[Operation], versions: Versions, _final: Final) -> Iterator[str]:
    seen: dict[str, int] = {}
    for number, value in sorted(versions.items()):
        if value in seen:
            yield f"{value} is version {seen[value]} and version {number}"
        seen[value] = number


def _unwritten(own: list[Operation], versions: Versions, _final: Final) -> Iterator[str]:
    """A value that was refused, or that nobody wrote, stored or read; or read before anybody wrote it."""
    writes = {one.value: one for one in own if one.is_write}
    for number, value in versions.items():
        if value not in writes:
            yield f"version {number} holds a value that nobody wrote"
        elif writes[value].end is End.FAILED:
            yield f"version {number} holds {value}, which was refused"
    for one in own:
        if one.is_write or one.end is not End.APPLIED:
            continue
        written = writes.get(one.value)
        if written is None or written.end is End.FAILED:
            yield f"{one.node} gave out {one.value!r}, which {'was refused' if written else 'nobody wrote'}"
        elif written.began > one.ended:
            yield f"{one.node} gave out {one.value} before it was written"


def _disordered(own: list[Operation], versions: Versions, _final: Final) -> Iterator[str]:
    """Of two applied writes the one that had ended before the other began has the lower version."""
    number_of = {value: number for number, value in versions.items()}
    applied = [one for one in own if one.is_write and one.end is End.APPLIED and one.value in number_of]
    yield from _against_time([(one, number_of[one.value]) for one in applied], strictly=True)


def _gone_back(own: list[Operation], versions: Versions, _final: Final) -> Iterator[str]:
    """The Primary never tells less than it told before, nor does one life of a gateway."""
    number_of = {value: number for number, value in versions.items()}
    by_reader: dict[tuple[str, int], list[tuple[Operation, int]]] = defaultdict(list)
    for one in own:
        if one.end is not End.APPLIED:
            continue
        if not one.is_write:
            by_reader[one.node, one.life if one.node != PRIMARY else 0].append((one, one.version))
        elif one.value in number_of:
            by_reader[PRIMARY, 0].append((one, number_of[one.value]))
    for told in by_reader.values():
        yield from _against_time(told, strictly=False)


def _changed(own: list[Operation], versions: Versions, _final: Final) -> Iterator[str]:
    """One version has one value, whoever tells it and whenever."""
    known = dict(versions)
    for one in own:
        told = not one.is_write and one.end is End.APPLIED and one.version
        if told and known.setdefault(one.version, one.value) != one.value:
            yield f"{one.node} gave out {one.value} as version {one.version}, which is {known[one.version]}"


def _against_time(told: list[tuple[Operation, int]], *, strictly: bool) -> Iterator[str]:
    """Pairs whose numbers contradict the order of time: the highest number that had been told when an operation began."""
    ends = sorted(told, key=lambda one: one[0].ended)
    following, highest, by = 0, -1, ""
    for one, number in sorted(told, key=lambda row: row[0].began):
        while following < len(ends) and ends[following][0].ended < one.began:
            if ends[following][1] > highest:
                highest, by = ends[following][1], ends[following][0].value
            following += 1
        if number < highest or (strictly and number == highest):
            yield f"{one.node}: {one.value} is number {number}, but {by} was number {highest} before it began"
