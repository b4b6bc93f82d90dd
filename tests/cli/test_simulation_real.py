"""`./mazevault simulate` over the real wire: a real Primary, real certificates, real faults."""

from __future__ import annotations

import json
import resource
import subprocess
from typing import Any

import pytest

from cli.simulation.limits import TooFewFiles, require_open_files
from cli.simulation.real.outcome import Restart, problems_of, shown
from cli.stack.layout import ROOT
from tests.cli.test_launcher import Home


def simulated(folder, *arguments: str, profile: str = "short") -> dict[str, Any]:
    """What a run of the command says as JSON. It must not touch the data folder it was started with."""
    home = Home(folder / "var", MAZEVAULT_TIME_PROFILE=profile)
    command = [str(ROOT / "mazevault"), "simulate", "-o", "json", *arguments]
    done = subprocess.run(command, env=home.environ, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["holds"] else 1)
    assert not home.var.exists()
    return found


@pytest.mark.journey
@pytest.mark.xdist_group("journeys")
def test_a_small_fleet_enrols_speaks_and_is_heard_again_after_a_restart(tmp_path) -> None:
    found = simulated(tmp_path, "--gateways", "8", "--seconds", "10", "--faults", "restart,duplicates")
    assert found["holds"], found["problems"]
    assert {"heartbeat", "lease", "directive"} <= set(found["quiet"]["kinds"])
    assert len(found["restarts"]) == 1 and found["restarts"][0]["silent"] == 0
    assert found["statuses"]["200"] > 20 and found["taken_twice"] == 0
    assert {"front", "machine", "loops", "postgres"} <= set(found["memory_mb"])


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_two_hundred_gateways_outlive_every_fault(tmp_path) -> None:
    found = simulated(tmp_path, "--gateways", "200", "--seconds", "300", profile="standard")
    assert found["holds"], found["problems"]
    assert found["least_lease_left_seconds"] > 0
    assert found["sent_twice"] > 0


def test_too_few_open_files_are_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    with pytest.raises(TooFewFiles, match="needs 20300 open files in one process and this machine allows 4096"):
        require_open_files(20300)


def test_the_soft_limit_is_raised_as_far_as_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    require_open_files(1000)
    require_open_files(3000)
    assert asked == [(3000, 4096)]


def test_a_slow_restart_a_nameless_5xx_and_a_message_taken_twice_are_problems() -> None:
    found = _outcome(restarts=[Restart(3.0, 50.0, 61.0, 0)], statuses={"200": 9, "500": 2, "503 with a pause": 5}, taken_twice=1)
    problems = " ".join(problems_of(found))
    assert "2 answers of the 5xx kind" in problems and "taken twice" in problems and "the last one after 61.0 s" in problems
    assert problems_of(_outcome(restarts=[Restart(3.0, 5.0, 9.0, 0)], statuses={"200": 9, "503 with a pause": 5})) == []
    assert shown(_outcome(problems=["it broke"]))[-1] == "BROKEN it broke" and shown(_outcome())[-1] == "everything held"


def _outcome(**facts: Any) -> Any:
    from cli.simulation.real.outcome import Outcome

    usual: dict[str, Any] = dict.fromkeys(Outcome.__dataclass_fields__, 0)
    quiet = {"messages_per_second": 1.0, "cpu_ms_a_message": {}}
    empty: dict[str, Any] = {
        "kinds": {},
        "statuses": {},
        "latency_ms": {},
        "restarts": [],
        "memory_mb": {},
        "spells": [],
        "problems": [],
    }
    return Outcome(**{**usual, **empty, "quiet": quiet, "least_lease_left_seconds": None, "last_refusal": "", **facts})
