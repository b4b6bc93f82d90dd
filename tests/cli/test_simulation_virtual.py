"""`./mazevault simulate --virtual`: the same seed is the same run, and what breaks an invariant is found."""

from __future__ import annotations

import json
import random
import socket
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli.simulation.command import simulate
from cli.simulation.faults import Fault, FaultsInvalid, parse_faults, schedule
from cli.simulation.virtual import primary as virtual_primary
from cli.simulation.virtual.world import Outcome, World
from failover import machine
from gateway_runtime import lease
from gateways import reconciliation

ALL = tuple(Fault)
SEEDS = range(1, 6)
GATEWAYS, SECONDS = 60, 900.0

app = typer.Typer()
app.command()(simulate)


def told(seed: int, gateways: int = 40, faults: tuple[Fault, ...] = ALL) -> tuple[list[str], Outcome]:
    lines: list[str] = []
    return lines, World(gateways, SECONDS, seed, faults, write=lines.append).run()


def first_broken() -> Outcome:
    """The first of the seeds that breaks, or the last outcome."""
    for seed in SEEDS:
        outcome = World(GATEWAYS, SECONDS, seed, ALL).run()
        if outcome.broken:
            return outcome
    return outcome


def test_the_same_seed_is_the_same_run_to_the_byte_and_another_one_is_another() -> None:
    lines, outcome = told(7)
    again, second = told(7)
    assert "\n".join(lines).encode() == "\n".join(again).encode()
    assert outcome == second
    assert len(lines) == outcome.log_lines > 100
    assert told(8)[1].log_digest != outcome.log_digest


def test_it_needs_no_socket_and_never_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a run in virtual time asked the world outside")

    monkeypatch.setattr(time, "sleep", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert not told(1)[1].broken


def test_every_invariant_holds_and_what_is_to_be_tried_happens() -> None:
    outcomes = [World(GATEWAYS, SECONDS, seed, ALL).run() for seed in SEEDS]
    assert [outcome.broken for outcome in outcomes] == [""] * len(outcomes)
    for event in ("promoted", "fence_acknowledged", "lease_ran_out", "source_silent", "drained"):
        assert sum(outcome.moves.get(event, 0) for outcome in outcomes), event
    assert sum(outcome.refused_twice for outcome in outcomes) > 0
    assert sum(outcome.writes["applied"] for outcome in outcomes) > 1000
    assert sum(outcome.writes.get("quarantined", 0) for outcome in outcomes) > 0, "writes of a past epoch come late"


def test_without_faults_nobody_falls_silent_and_nothing_is_refused() -> None:
    lines, outcome = told(3, faults=())
    assert not outcome.broken and outcome.refused_twice == 0 and outcome.spells == ()
    assert not [line for line in lines if " is silent " in line or "breaker open" in line]


def promote_without_the_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "fence_ends_at", lambda until, _wait, _blocked=None: until)


def count_the_lease_from_later(monkeypatch: pytest.MonkeyPatch) -> None:
    real = lease.grant
    monkeypatch.setattr(lease, "grant", lambda **facts: real(**{**facts, "sent_boot": facts["sent_boot"] + 3.0}))


def apply_writes_of_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliation, "_stale", lambda _facts: "")


def promote_into_the_same_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    real = virtual_primary.VirtualPrimary.promote

    def promote(self, environment, gateway):
        environment.epoch = max(0, environment.epoch - 1)
        real(self, environment, gateway)

    monkeypatch.setattr(virtual_primary.VirtualPrimary, "promote", promote)


@pytest.mark.parametrize(
    ("mutant", "invariant"),
    [
        (promote_without_the_drift, "I2"), (count_the_lease_from_later, "I2"), (apply_writes_of_the_past, "I3"),
        (promote_into_the_same_epoch, "I1"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_found(mutant, invariant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    outcome = first_broken()
    assert outcome.broken.startswith(f"{invariant}:"), outcome.broken
    assert f"BROKEN {invariant}" in outcome.tail[-1]


def test_a_broken_run_ends_with_status_1_its_seed_and_the_end_of_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    count_the_lease_from_later(monkeypatch)
    shown = CliRunner().invoke(app, ["--virtual", "--gateways", "10", "--seconds", "300", "--seed", "4"])
    assert shown.exit_code == 1
    assert "--virtual --gateways 10 --seconds 300 --seed 4" in shown.stdout
    assert "BROKEN I2" in shown.stdout.splitlines()[-1]
    assert len([line for line in shown.stdout.splitlines() if "holds the lease" in line]) > 0


def test_the_log_is_written_and_is_what_the_digest_is_of(tmp_path: Path) -> None:
    arguments = ["--virtual", "--gateways", "10", "--seconds", "300", "-o", "json", "--log", str(tmp_path / "log")]
    shown = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert shown["holds"] and shown["log_lines"] == len((tmp_path / "log").read_text().splitlines())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--gateways", "3"], "--gateways is 3; give an even number"),
        (["--gateways", "1"], "Invalid value for '--gateways'"),
        (["--gateways", "many"], "Invalid value for '--gateways'"),
        (["--seconds", "1"], "Invalid value for '--seconds'"),
        (["--seconds", "nan"], "Invalid value for '--seconds'"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--faults", "flood"], "'flood' is not known; give some of restart, partition"),
        (["--faults", "none,skew"], "none stands alone"),
        (["--faults", ""], "a name is missing"),
        (["--output", "xml"], "--output must be text or json"),
        (["--virtual", "--waiting", "3"], "--waiting is for real runs"),
        (["--log", "x"], "--log is for --virtual"),
        (["--virtual", "--log", "/nowhere/at/all"], "/nowhere/at/all cannot be written: No such file or directory"),
    ],
)
def test_a_bad_flag_is_refused_with_a_sentence(arguments: list[str], sentence: str) -> None:
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code != 0
    assert sentence in shown.output, shown.output


def test_every_fault_comes_at_its_time_and_ends_before_the_run() -> None:
    for seconds in (10.0, 60.0, 3600.0):
        spells = schedule(ALL, seconds, random.Random(1))
        assert {spell.fault for spell in spells} == set(ALL)
        assert all(0 < spell.begins < spell.ends < seconds for spell in spells)
        assert spells == schedule(ALL, seconds, random.Random(1))


def test_faults_are_parsed_in_one_order_each_once() -> None:
    assert parse_faults("skew, restart,skew") == (Fault.RESTART, Fault.SKEW)
    assert parse_faults("none") == ()
    with pytest.raises(FaultsInvalid):
        parse_faults("restart,,skew")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_thousand_gateways_live_an_hour() -> None:
    outcome = World(10_000, 3600.0, 1, ALL).run()
    assert not outcome.broken, "\n".join(outcome.tail)
    assert outcome.moves["promoted"] > 5000
