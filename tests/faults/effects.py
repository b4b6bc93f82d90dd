"""How often each kind of fault was applied and was seen to have an effect: a fault that did nothing tried nothing."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections import Counter
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from cli.stack.layout import Layout

CERTAIN = ("cut", "kill", "freeze", "clone", "clock", "second")
"""Kinds, by their first word, that cannot all have been without effect: a move may be refused each time, these may not."""


@dataclass
class Effects:
    applied: Counter[str] = field(default_factory=Counter)
    effective: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    """Kinds that cannot be tried on this machine, with the reason."""

    def note(self, kind: str, had_effect: bool) -> None:
        self.applied[kind] += 1
        self.effective[kind] += had_effect

    def lines(self) -> list[str]:
        found = [f"{kind}: {self.applied[kind]} times, {self.effective[kind]} with an effect" for kind in sorted(self.applied)]
        return [*found, *(f"{kind}: SKIPPED, {why}" for kind, why in sorted(self.skipped.items()))]

    def without(self) -> list[str]:
        """Certain kinds that were applied more than once and never had an effect."""
        certain = [kind for kind in sorted(self.applied) if kind.split()[0] in CERTAIN]
        return [kind for kind in certain if self.applied[kind] > 1 and not self.effective[kind]]


def states_of(group: int) -> list[str]:
    """One letter for each process of a process group: `T` is stopped, `Z` is dead."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError, ValueError):
            rest = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdecimal() else []
            if rest and int(rest[2]) == group:
                found.append(rest[0])
    return found


def all_stand_still(group: int, seconds: float = 2.0) -> bool:
    """Whether every living process of a group is stopped; a signal needs a moment."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        living = [state for state in states_of(group) if state != "Z"]
        if living and set(living) <= {"T", "t"}:
            return True
        time.sleep(0.05)
    return False


def own_clock_of(url: str, layout: Layout) -> float | None:
    """What a node calls the time, less what this machine calls it (seconds); None when it does not answer."""
    context = ssl.create_default_context(cafile=str(layout.ca_file))
    with (
        contextlib.suppress(httpx.HTTPError, KeyError, ValueError),
        httpx.Client(verify=context, timeout=3, trust_env=False) as http,
    ):
        return parsedate_to_datetime(http.get(f"{url}/api/v1/health/live").headers["Date"]).timestamp() - time.time()
    return None
