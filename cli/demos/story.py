"""What all demos share: lines with the time since the beginning, and the one way to say that a promise did not hold."""

from __future__ import annotations

import os
import time

from protocol.timing import PROFILES


class Broken(Exception):
    """A promise did not hold."""


class Story:
    """Says each line with the seconds since the beginning."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, line: str) -> None:
        print(f"[{time.monotonic() - self._began:6.1f} s] {line}", flush=True)


def profile_name() -> str:
    """The time profile the demo runs with: MAZEVAULT_TIME_PROFILE, else the short one."""
    name = os.environ.get("MAZEVAULT_TIME_PROFILE") or "short"
    if name not in PROFILES:
        raise SystemExit(f"MAZEVAULT_TIME_PROFILE is {name!r}; set it to {' or '.join(PROFILES)}")
    return name
