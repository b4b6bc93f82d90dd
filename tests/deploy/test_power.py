"""Stopping and starting are lines of shell: they do nothing when all is as it should be, and fail when the CLI fails."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.deploy.conftest import MODULES

CASES = [
    pytest.param("cluster", "az aks", "Running", id="cluster"),
    pytest.param("database", "az postgres flexible-server", "Ready", id="database"),
]


def command(module: str, verb: str) -> str:
    """The shell of a module with its wishes filled in, as Terraform does before it runs it."""
    text = (MODULES / module / "main.tf").read_text()
    states = dict(re.findall(r'\{ verb = "(\w+)", state = "(\w+)" \}', text))
    found = re.search(r"command +=\s+<<-SH\n(.*?)\n\s+SH\n", text, re.S)
    assert found and set(states) == {"stop", "start"}
    filled = found.group(1).replace("${var.resource_group_name}", "rg-x").replace("${var.name}", "name-x")
    return filled.replace("${local.power.verb}", verb).replace("${local.power.state}", states[verb])


def run(folder: Path, line: str, *, found: str, fails: bool = False) -> tuple[int, list[str]]:
    """The exit status, and what was asked of an `az` that finds the thing in a state."""
    asked = folder / "asked"
    script = f'#!/bin/sh\necho "az $*" >> {asked}\ncase "$*" in *" show "*) echo {found};; *) exit {int(fails)};; esac\n'
    (folder / "az").write_text(script)
    (folder / "az").chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", line], env={"PATH": f"{folder}:/usr/bin:/bin"}, capture_output=True, timeout=10, check=False
    )
    return done.returncode, asked.read_text().splitlines()


@pytest.mark.parametrize(("module", "az", "up"), CASES)
class TestPower:
    def test_what_runs_is_stopped_and_what_is_stopped_is_started(self, tmp_path: Path, module: str, az: str, up: str) -> None:
        status, asked = run(tmp_path, command(module, "stop"), found=up)
        assert (status, asked[1:]) == (0, [f"{az} stop --resource-group rg-x --name name-x"])
        (tmp_path / "asked").unlink()
        status, asked = run(tmp_path, command(module, "start"), found="Stopped")
        assert (status, asked[1:]) == (0, [f"{az} start --resource-group rg-x --name name-x"])

    def test_what_is_as_it_should_be_is_left_alone(self, tmp_path: Path, module: str, az: str, up: str) -> None:
        status, asked = run(tmp_path, command(module, "stop"), found="Stopped")
        assert (status, len(asked)) == (0, 1)
        (tmp_path / "asked").unlink()
        status, asked = run(tmp_path, command(module, "start"), found=up)
        assert (status, len(asked)) == (0, 1)

    def test_a_failure_of_the_cli_is_a_failure_of_the_apply(self, tmp_path: Path, module: str, az: str, up: str) -> None:
        status, _ = run(tmp_path, command(module, "stop"), found=up, fails=True)
        assert status == 1
