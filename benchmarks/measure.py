"""Numbers out of samples."""

from __future__ import annotations

import statistics


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, 95th percentile and longest, in milliseconds."""
    ordered = sorted(seconds)
    return {
        "median_ms": round(statistics.median(ordered) * 1000, 2),
        "p95_ms": round(ordered[int(len(ordered) * 0.95)] * 1000, 2),
        "longest_ms": round(ordered[-1] * 1000, 2),
        "samples": len(ordered),
    }
