"""One clock: what processes of a node store and compare comes from the database, however far apart their own clocks are."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from common import clock
from common.clock import CARRIED_SECONDS, CarriedClock, Seen, database_now, moment_of, now

ROOT = Path(__file__).parents[2]
PRODUCT = ("accounts", "common", "failover", "gateway_runtime", "gateways", "integrations", "orchestrator", "vault")
ALLOWED = {
    "common/clock.py": "shows that a machine was paused or set",
    "gateway_runtime/client.py": "what travels is stamped with the sender's clock and judged with an allowance; validity of keys",
    "gateway_runtime/node.py": "beside the boot clock: a wall clock that ran ahead ends the lease",
    "gateway_runtime/supervisor.py": "what the gateway says of its own clock, and days left of its certificate",
    "integrations/azure/credentials.py": "a vendor library compares it with its own clock",
    "integrations/azure/keyvault.py": "an expiry of a vault is judged by the vault's clock, which is nobody's here",
    "integrations/azure/translation.py": "a date in Retry-After is one of the sender's clock and named to whoever waits here",
    "orchestrator/listener.py": "validity of the listener's certificate",
    "vault/authorities.py": "validity of certificates",
}
"""Where the clock of the process is looked at, and why that is right."""
LOOKS = {
    ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"), ("timezone", "now"),
    ("time", "time"), ("time", "time_ns"), ("time", "localtime"), ("time", "gmtime"),
}  # fmt: skip


def looks_at_the_process_clock() -> Iterator[tuple[str, int]]:
    for package in PRODUCT:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "migrations" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in LOOKS:
                    yield str(path.relative_to(ROOT)), node.lineno


def test_the_clock_of_the_process_is_looked_at_in_the_named_places_only() -> None:
    stray = [found for found in looks_at_the_process_clock() if found[0] not in ALLOWED]
    assert not stray, "use common.clock.now(), or say here why not"


class Machine:
    """A database whose clock is looked at, and a machine with two clocks of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, ahead: float = 0.0) -> None:
        self.database, self.boot, self.wall = datetime(2026, 1, 1, tzinfo=UTC), 100.0, 1_000_000.0 + ahead
        self.looks, self.away = 0, False
        monkeypatch.setattr(clock, "boottime", lambda: self.boot)
        monkeypatch.setattr(clock, "process_clock", lambda: self.wall)
        self.clock = CarriedClock(self.look)

    def look(self) -> Seen:
        self.looks += 1
        if self.away:
            raise psycopg.OperationalError("no answer")
        return Seen(self.database, self.boot, self.wall)

    def pass_seconds(self, seconds: float) -> None:
        self.database += timedelta(seconds=seconds)
        self.boot += seconds
        self.wall += seconds


def test_the_databases_clock_is_carried_and_looked_at_again_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    for _ in range(30):
        assert machine.clock.now() == machine.database
        machine.pass_seconds(1.0)
    assert machine.looks == pytest.approx(30 / CARRIED_SECONDS, abs=1)


def test_a_machine_that_was_paused_or_set_looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    machine.clock.now()
    machine.database += timedelta(hours=1)
    machine.wall += 3600
    assert machine.clock.now() == machine.database and machine.looks == 2
    machine.wall -= 7200
    assert machine.clock.now() == machine.database and machine.looks == 3


def test_without_the_database_the_clock_goes_on_and_is_looked_for_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    machine.clock.now()
    machine.away = True
    machine.pass_seconds(CARRIED_SECONDS + 0.1)
    assert [machine.clock.now() for _ in range(5)] == [machine.database] * 5 and machine.looks == 2
    machine.pass_seconds(1.5)
    assert machine.clock.now() == machine.database and machine.looks == 3


def test_before_the_database_has_answered_nobody_is_told_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    machine.away = True
    with pytest.raises(psycopg.OperationalError):
        machine.clock.now()


@pytest.mark.parametrize("ahead", [-3600.0, -95.0, 95.0, 3600.0])
def test_the_clock_of_the_machine_changes_nothing(db: None, monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    clock.carried.forget()
    before = database_now()
    assert before - timedelta(seconds=2) <= now() <= database_now()
    clock.carried.forget()


@pytest.mark.parametrize(("text", "told"), [
    ("2026-11-30T12:00:00Z", "2026-11-30T12:00:00+00:00"),
    ("2026-11-30T12:00:00+23:59", "2026-11-29T12:01:00+00:00"),
    ("2026-11-30T12:00:00-23:59", "2026-12-01T11:59:00+00:00"),
    ("2026-11-30T12:00:00+01:00:00.5", "2026-11-30T10:59:59.500000+00:00"),
    ("0001-01-01T00:00:00+00:01", None), ("9999-12-31T23:59:59-00:01", None),
    ("2026-11-30T12:00:00", None), ("2026-13-30T12:00:00Z", None), ("infinity", None),
    ("a\0b", None), ("\ud800", None), ("", None),
])  # fmt: skip
def test_a_time_of_others_is_one_that_every_database_takes_or_none(text: str, told: str | None) -> None:
    found = moment_of(text)
    assert (found.isoformat() if found else None) == told
