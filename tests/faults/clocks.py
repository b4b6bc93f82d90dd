"""Steps of what one node calls the time, by libfaketime; the clocks that nobody can set go on as they are.

The Primary's database keeps the machine's time, so a step makes one node disagree with it, as a wrong clock on one machine does.
"""

from __future__ import annotations

import ctypes.util
from collections.abc import Mapping
from pathlib import Path

PLACES = (
    "/usr/lib/x86_64-linux-gnu/faketime",
    "/usr/lib/aarch64-linux-gnu/faketime",
    "/usr/lib/faketime",
    "/usr/local/lib/faketime",
)
LIBRARY = "libfaketimeMT.so.1"
SLEEP = """\
import select
import time

time.sleep = lambda seconds: select.select([], [], [], max(0.0, seconds)) and None
"""
ABSENT = "libfaketime is not installed (apt-get install faketime)"


def library() -> Path | None:
    """Where libfaketime lies; None where it is not installed."""
    named = [Path(place) / LIBRARY for place in PLACES]
    found = ctypes.util.find_library("faketimeMT")
    return next((path for path in [*named, *([Path(found)] if found else [])] if path.exists()), None)


class Clock:
    """The wall clock of one node. `variables` belong into its environment when it starts."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.step(0)

    def step(self, seconds: int) -> None:
        """Within a second the node's wall clock is so far from this machine's."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.replace(self._file)

    def variables(self) -> Mapping[str, str]:
        found = library()
        if found is None:
            return {}
        _put_sleep_beside(self._file.parent)
        return {
            "LD_PRELOAD": str(found), "FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "PYTHONPATH": str(self._file.parent),
        }  # fmt: skip


def _put_sleep_beside(folder: Path) -> None:
    """Python's `time.sleep` waits with `clock_nanosleep` until an absolute moment, which the library answers with EINVAL while it
    leaves the monotonic clock alone: each wait of the node would fail. `select` waits as well."""
    (folder / "sitecustomize.py").write_text(SLEEP)
