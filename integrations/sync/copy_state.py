"""How far a vault of the DR region is behind. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CopyState:
    """One copy that a rule keeps. `lag` in seconds, 0 when current, None when it was never complete; `allowed` in seconds.

    `left_out` counts the secrets that the last complete run left alone. Without `pushes` the rule takes from the vault what a
    copy should be given, so it keeps none.
    """

    rule: str
    target: str
    lag: float | None
    allowed: float
    paused: bool
    left_out: int = 0
    pushes: bool = True

    @property
    def current(self) -> bool:
        """Whether what the project serves is there."""
        complete = self.lag is not None and self.lag <= self.allowed and not self.left_out
        return complete and self.pushes and not self.paused
