"""The order to read the copy again: followed once, though it stands in every directive until a heartbeat showed the new copy."""

from __future__ import annotations

import time

from gateway_runtime import replica, state
from protocol.messages import Directive

AGAIN_BEATS = 3
"""An order that still stands so many heartbeats after it was followed is a new order."""


class ResyncOrder:
    """Remembers when the standing order was followed."""

    def __init__(self, heartbeat_interval: float) -> None:
        self._repeat = AGAIN_BEATS * heartbeat_interval
        self._followed_at = float("-inf")

    def follow(self, directive: Directive | None) -> None:
        """Begin the copy anew when this directive orders it and that was not done yet."""
        if directive is None or not directive.resync_replica:
            self._followed_at = float("-inf")
            return
        if time.monotonic() - self._followed_at > self._repeat and not state.this_life().replica_resyncing:
            replica.begin_resync()
            self._followed_at = time.monotonic()
