"""Calls of gateways to the Primary: sent, lost, late, doubled, answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cli.simulation.virtual.gateway import VirtualGateway
    from cli.simulation.virtual.world import World


class Refused:
    """The answer is no: the message was taken before."""


REFUSED: Final = Refused()
Answer = Any
"""What the handler answered; `REFUSED`; None when nothing came in time."""
NOBODY_LISTENS = 0.01
"""Seconds until a gateway knows that the Primary's port is closed."""


class Wire:
    """Carries calls. A call ends once, at its timeout at the latest; the handler may run without the caller hearing of it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def call(
        self, gateway: VirtualGateway, handle: Callable[..., Any], body: tuple[Any, ...], done: Callable[[Answer], None]
    ) -> None:
        gateway.number += 1
        events, ends = self._world.events, self._world.events.now + self._world.timing.round_trip_max
        after, again = self._world.network.up(gateway.index)
        if after is None:
            events.at(ends, done, None)
            return
        events.after(after, self._arrive, gateway, gateway.number, handle, body, done, ends)
        if again is not None:
            events.after(again, self._arrive, gateway, gateway.number, handle, body, None, ends)

    def _arrive(
        self, gateway: VirtualGateway, number: int, handle: Callable[..., Any], body: tuple[Any, ...],
        done: Callable[[Answer], None] | None, ends: float,
    ) -> None:  # fmt: skip
        world, now = self._world, self._world.events.now
        if not world.primary.is_up:
            if done is not None:
                world.events.at(min(now + NOBODY_LISTENS, max(now, ends)), done, None)
            return
        answer = handle(gateway, *body) if world.primary.takes(gateway, number) else REFUSED
        if done is None:
            return  # the second copy: whatever is said to it reaches nobody
        back = world.network.down(gateway.index)
        arrives = None if back is None else now + back
        if arrives is None or arrives > ends:
            world.events.at(max(now, ends), done, None)
        else:
            world.events.at(arrives, done, answer)
