"""The clock of one node can be stepped, and nothing else of it changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.clocks import ABSENT, Clock, library

ASK = "import time; began = time.monotonic(); time.sleep(0.05); print(time.time(), time.monotonic() - began, time.monotonic())"


@pytest.mark.skipif(library() is None, reason=ABSENT)
def test_a_process_with_another_time_sleeps_and_measures_as_ever(tmp_path: Path) -> None:
    def asked(clock: Clock | None) -> list[float]:
        more = clock.variables() if clock else {}
        said = subprocess.run([sys.executable, "-c", ASK], env={**os.environ, **more}, capture_output=True, text=True, check=True)
        return [float(one) for one in said.stdout.split()]

    clock = Clock(tmp_path / "clock")
    clock.step(3600)
    here, there = asked(None), asked(clock)
    assert 3500 < there[0] - here[0] < 3700
    assert 0.04 < there[1] < 5
    assert abs(there[2] - here[2]) < 60
