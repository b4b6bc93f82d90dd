"""The two kinds of moves, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from failover.machine import Event, State
from protocol.vocabulary import Role


@dataclass(frozen=True)
class Kind:
    """`goal` is the state in which the wish is fulfilled already."""

    name: str
    event: Event
    goal: State
    target_role: str


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("activate-dr", Event.ACTIVATE_DR, State.DR_ACTIVE, Role.DR_STANDBY.value),
        Kind("failback", Event.FAILBACK, State.PRIMARY_ACTIVE, Role.PRIMARY.value),
    )
}
