"""Numbers out of samples."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Seconds that passed, and seconds of a core that this process and the database's session used."""

    wall: float
    here: float
    there: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.here + other.here, self.there + other.there)

    def rates(self, count: int) -> dict[str, float]:
        """How many a second, a second of a core, and microseconds of a core for each, here and in the session."""
        return {
            "per_second": round(count / self.wall),
            "per_core_second": round(count / max(self.here + self.there, 0.001)),
            "core_us_here": round(self.here / count * 1e6),
            "core_us_in_database": round(self.there / count * 1e6),
        }


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, 95th percentile and longest, in milliseconds."""
    ordered = sorted(seconds)
    return {
        "median_ms": round(statistics.median(ordered) * 1000, 2),
        "p95_ms": round(ordered[int(len(ordered) * 0.95)] * 1000, 2),
        "longest_ms": round(ordered[-1] * 1000, 2),
        "samples": len(ordered),
    }
