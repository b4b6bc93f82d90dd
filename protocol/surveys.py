"""What a look at a vault after a promotion found, as the result of its task."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from protocol.messages import Count, Message
from protocol.sync import Mark, Name, Stamp

"""A tag in a vault, which anybody may write who writes there; a vault holds no longer one."""
Epoch = Annotated[int, Meta(ge=0, lt=10**18)]
MOST_LATE = 25_000


class LateWrite(Message, frozen=True):
    """A write of an earlier epoch that came after that had ended. `owner` is whose it says it was."""

    name: Name
    owner: Mark
    epoch: Epoch
    operation: Mark
    at: Stamp


class Survey(Message, frozen=True):
    looked_at: Count
    late: Annotated[list[LateWrite], Meta(max_length=MOST_LATE)]
