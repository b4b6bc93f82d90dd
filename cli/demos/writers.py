"""Load on the secrets API of gateways, and the judge of what became of it: nothing lost, nothing twice, nothing out of order.

Every written value is unique, so the versions a secret has at the end tell the whole story by themselves.
"""

from __future__ import annotations

import itertools
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from cli.stack.primary_client import PrimaryClient

_NUMBERS = itertools.count(1)
"""Makes the values of each writer its own."""
PATIENCE = 20.0
"""Seconds one write may take before the writer counts its end as unknown."""


def client_of(url: str, ca_file: Path, token: str) -> httpx.Client:
    """A client of a node's API with this bearer token."""
    context = ssl.create_default_context(cafile=str(ca_file))
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=f"{url}/api/v1/", verify=context, timeout=PATIENCE, trust_env=False, headers=headers)


@dataclass(frozen=True)
class Accepted:
    """A write that a gateway promised. `write` follows it; `version` is known only when it was applied at once."""

    gateway: str
    secret: str
    value: str
    write: str
    applied: bool


@dataclass
class Ledger:
    """What all writers saw, in the order they saw it."""

    accepted: list[Accepted] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    unknown: set[str] = field(default_factory=set)
    """Values of writes whose answer never came, or said that the database went away: they may or may not have been accepted."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def queued(self) -> int:
        with self.lock:
            return sum(not one.applied for one in self.accepted)

    def total(self) -> int:
        with self.lock:
            return len(self.accepted)


class Writer(threading.Thread):
    """Writes one value after the other to its own secrets at one gateway until it is told to stop."""

    def __init__(self, gateway: str, url: str, ca_file: Path, token: str, secrets: Sequence[str], ledger: Ledger,
                 stop: threading.Event, *, label: str = "", limit: int = 0, pause: float = 0.0) -> None:  # fmt: skip
        super().__init__(name=f"{gateway}{label}-{next(_NUMBERS)}", daemon=True)
        self._gateway, self._secrets, self._ledger, self._halt = gateway, list(secrets), ledger, stop
        self._limit, self._pause = limit, pause
        self._http = client_of(url, ca_file, token)

    def run(self) -> None:
        with self._http:
            number = 0
            while not self._halt.is_set() and (not self._limit or number < self._limit):
                self._write(self._secrets[number % len(self._secrets)], f"{self.name}-{number}")
                number += 1
                self._halt.wait(self._pause)

    def _write(self, secret: str, value: str) -> None:
        try:
            answer = self._http.put(f"secrets/{secret}", json={"value": value})
        except httpx.HTTPError:
            with self._ledger.lock:
                self._ledger.unknown.add(value)
            time.sleep(0.2)
            return
        with self._ledger.lock:
            if answer.status_code in (200, 202):
                body = answer.json()
                write = str(body.get("write_id") or body["id"])
                self._ledger.accepted.append(Accepted(self._gateway, secret, value, write, answer.status_code == 200))
            else:
                code = _code(answer)
                self._ledger.refused[f"{answer.status_code} {code}"] += 1
                if code == "UNAVAILABLE":
                    self._ledger.unknown.add(value)
        if answer.status_code >= 500:
            time.sleep(0.1)


@dataclass(frozen=True)
class Verdict:
    """What became of every accepted write."""

    accepted: int
    applied: int
    conflicts: int
    lost: tuple[str, ...]
    duplicated: tuple[str, ...]
    reordered: tuple[str, ...]
    unexpected: tuple[str, ...]
    """Values somebody never wrote, or conflicts where none was to be expected, or the other way round."""

    @property
    def holds(self) -> bool:
        return not (self.lost or self.duplicated or self.reordered or self.unexpected)

    def line(self) -> str:
        return (
            f"accepted {self.accepted}, applied {self.applied}, conflicts {self.conflicts}, "
            f"lost {len(self.lost)}, duplicated {len(self.duplicated)}"
        )


def judge(primary: PrimaryClient, ledger: Ledger, secrets: Iterable[str], *, known: Mapping[str, set[str]],
          conflict_expected: Callable[[Accepted], bool]) -> Verdict:  # fmt: skip
    """Read every version of every secret at the Primary and compare. `known` are values written at the Primary itself."""
    places: dict[str, list[tuple[str, int]]] = defaultdict(list)
    unexpected: list[str] = []
    written = {one.value for one in ledger.accepted} | ledger.unknown
    for secret in secrets:
        for version, value in _versions(primary, secret):
            places[value].append((secret, version))
            if value not in written and value not in known.get(secret, set()):
                unexpected.append(f"{secret} version {version} holds a value nobody wrote")
    lost: list[str] = []
    conflicts = 0
    for one in ledger.accepted:
        in_conflict = not places.get(one.value) and _outcome(primary, one) == "conflict"
        conflicts += in_conflict
        if not in_conflict and not places.get(one.value):
            lost.append(f"{one.value}: {_outcome(primary, one)}")
        elif in_conflict != conflict_expected(one):
            unexpected.append(f"{one.value} is {'' if in_conflict else 'no '}conflict")
    applied = sum(bool(places.get(one.value)) for one in ledger.accepted)
    return Verdict(
        accepted=len(ledger.accepted),
        applied=applied,
        conflicts=conflicts,
        lost=tuple(lost),
        duplicated=tuple(value for value, found in places.items() if len(found) > 1),
        reordered=tuple(_reordered(ledger.accepted, places)),
        unexpected=tuple(unexpected),
    )


def _versions(primary: PrimaryClient, secret: str) -> list[tuple[int, str]]:
    rows = primary.get(f"secrets/{secret}/versions")
    numbers = sorted(row["version"] for row in rows)
    return [(number, primary.get(f"secrets/{secret}/versions/{number}")["value"]) for number in numbers]


def _outcome(primary: PrimaryClient, one: Accepted) -> str:
    answer = primary.raw("GET", f"writes/{one.write}")
    return str(answer.json().get("outcome")) if answer.status_code == 200 else f"unknown to the Primary ({answer.status_code})"


def _reordered(accepted: Iterable[Accepted], places: Mapping[str, list[tuple[str, int]]]) -> Iterable[str]:
    """Writes of one writer to one secret whose versions are not in the order they were accepted in."""
    newest: dict[tuple[str, str], int] = {}
    for one in accepted:
        stream = (one.value.rsplit("-", 1)[0], one.secret)
        for _, version in places.get(one.value, []):
            if version < newest.get(stream, 0):
                yield one.value
            newest[stream] = max(version, newest.get(stream, 0))


def _code(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["code"])
    except (ValueError, KeyError, TypeError):
        return "?"
