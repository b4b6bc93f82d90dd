"""When a value that was moved into a vault may be removed here. Pure: what was seen in, what becomes of our own value out.

Whoever can write to the vault can also delete there after any look, so no look proves more than the moment. What a gateway says
it saw is its word; two looks of it lie a grace period apart, each answers a question nobody could know before (ADR 35).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from protocol.storage import Sight

FIRST_LOOK = timedelta(seconds=60)
"""After the move: another task, when the one that moved has long forgotten what it had in hand."""
LOOK_AGAIN = timedelta(hours=1)
"""After a look that could not see it."""


class Step(StrEnum):
    """What becomes of the value that still rests here."""

    REMOVE = "remove"
    WAIT = "wait"
    PUT_BACK = "put_back"
    """The version rests here again, and the move of its secret counts as failed."""


@dataclass(frozen=True)
class Look:
    """One look. `same`: what was read there is our value, proven by whoever looked. `own`: the Primary itself looked.

    `first_seen` is when a gateway saw it before.
    """

    sight: Sight
    same: bool
    own: bool
    first_seen: datetime | None


@dataclass(frozen=True)
class Decision:
    """`look_at` is when to look next, where it stays."""

    step: Step
    look_at: datetime | None = None


def decide(look: Look, now: datetime, grace: timedelta) -> Decision:
    if look.sight is Sight.UNREADABLE:
        return Decision(Step.WAIT, now + LOOK_AGAIN)
    if look.sight is Sight.GONE or not look.same:
        return Decision(Step.PUT_BACK)
    if look.own:
        return Decision(Step.REMOVE)
    first = look.first_seen or now
    return Decision(Step.REMOVE) if look.first_seen and now >= first + grace else Decision(Step.WAIT, first + grace)
