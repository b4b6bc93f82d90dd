"""A slot of a lane is always with a request that is worked on, or free: whoever leaves, and whenever."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from pathlib import Path

import pytest

from orchestrator.node.lanes import Busy, Lane, Lanes, Process


def made(slots: int = 1, patience: float = 5.0) -> tuple[Lanes, Lane, Process]:
    lane = Lane("urgent", "machine", slots, 50, patience)
    process = Process("machine", "machine", Path("/nowhere"), seen=time.monotonic() + 60)
    return Lanes([lane], [process]), lane, process


def test_a_client_that_leaves_in_the_turn_in_which_it_is_given_a_slot_keeps_none() -> None:
    async def run() -> int:
        lanes, lane, process = made()
        await lanes._slot(lane)
        waiter = asyncio.ensure_future(lanes._slot(lane))
        await asyncio.sleep(0)
        lanes.give_back(process, lane, None)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        return process.busy["urgent"]

    assert asyncio.run(run()) == 0


def test_whose_patience_ends_in_the_turn_in_which_it_is_given_a_slot_keeps_none() -> None:
    async def run() -> int:
        lanes, lane, process = made(patience=0.05)
        await lanes._slot(lane)
        waiter = asyncio.ensure_future(lanes._slot(lane))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.0495, lanes.give_back, process, lane, None)
        await asyncio.sleep(0.01)
        time.sleep(0.06)  # both are due in one turn of the loop
        with pytest.raises(Busy):
            await waiter
        return process.busy["urgent"]

    assert asyncio.run(run()) == 0


@pytest.mark.parametrize("seed", range(20))
def test_in_any_order_of_ends_and_departures_as_many_are_out_as_are_counted(seed: int) -> None:
    async def run() -> None:
        chance, (lanes, lane, process) = random.Random(seed), made(slots=3, patience=0.02)
        out: list[Process] = []

        async def ask() -> None:
            with contextlib.suppress(Busy):
                out.append(await lanes._slot(lane))

        asking = []
        for _ in range(200):
            if out and chance.random() < 0.5:
                lanes.give_back(out.pop(), lane, None)
            asking.append(asyncio.ensure_future(ask()))
            for one in chance.sample(asking, min(len(asking), chance.randrange(4))):
                one.cancel()
            if chance.random() < 0.7:
                await asyncio.sleep(chance.choice((0, 0, 0, 0.001)))
        await asyncio.gather(*asking, return_exceptions=True)
        assert process.busy["urgent"] == len(out) <= lane.slots and not lanes._waiting["urgent"]

    asyncio.run(run())
