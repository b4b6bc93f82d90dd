"""What a real run saw."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

UNAVAILABLE = 503


@dataclass
class Counts:
    """Filled by the gateways while they run. Times are of the monotonic clock."""

    began: float = field(default_factory=time.monotonic)
    arrivals: Counter[int] = field(default_factory=Counter)
    """Messages sent over an open connection, by whole second since the begin."""
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    """Answers by status; a 503 that names a pause is counted apart."""
    broken: int = 0
    """Calls without an answer."""
    doubled: int = 0
    doubled_taken: int = 0
    """Messages sent twice, and how many of them were taken twice."""
    latencies: dict[str, list[float]] = field(default_factory=dict)
    last_refusal: str = ""

    def begin_anew(self) -> None:
        """What came before belongs to the start."""
        vars(self).update(vars(Counts()))

    def sent(self, kind: str) -> None:
        self.arrivals[int(time.monotonic() - self.began)] += 1
        self.kinds[kind] += 1

    def answered(self, kind: str, status: int, retry_after: float | None, seconds: float, body: bytes) -> None:
        told = status == UNAVAILABLE and retry_after is not None
        self.statuses[f"{status} with a pause" if told else str(status)] += 1
        if status >= 400:
            self.last_refusal = body[:200].decode(errors="replace")
        elif kind != "directive":
            self.latencies.setdefault(kind, []).append(seconds)
