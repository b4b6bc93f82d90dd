"""How far a vault of the DR region is behind. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CopyState:
    """One copy that a rule keeps. `lag` in seconds, 0 when current, None when it was never complete; `allowed` in seconds."""

    rule: str
    target: str
    lag: float | None
    allowed: float
    paused: bool
