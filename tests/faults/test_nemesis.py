"""Load on a whole stack while it is broken on purpose, then the judgement: nothing lost, twice, out of order or given back (I7 to
I10), never two gateways that act but where a person forced it (I1, I2)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from cli.stack.observer import Sighting
from cli.stack.primary_client import PrimaryError
from cli.stack.stack import throwaway
from protocol.timing import PROFILES
from tests.faults.history import End, History, violations
from tests.faults.nemesis import ENVIRONMENT, PAIR, Nemesis
from tests.faults.network import Cut
from tests.faults.workload import Client, begin, final
from tests.journeys.conftest import NotYet, Town

CLIENTS, SECRETS = 4, 12
LONG_SECONDS = 600.0
SEEDS = (1, 2, 3, 4)


@pytest.fixture
def town() -> Iterator[Town]:
    """A stack of its own: what is broken here must not reach other journeys."""
    with throwaway(azure=True) as stack, stack.client() as primary:
        yield Town(stack, primary)


def at_rest(town: Town, nemesis: Nemesis) -> None:
    """Everything runs again, no operation is open, and no promised write waits for anything but a person."""
    for name in town.stack.children:
        if name not in PAIR:
            town.stack.start(name)
    for wire in nemesis.wires.values():
        wire.cut(Cut.NONE)
    town.stack.wait_until_primary_answers()
    town.wait_for("an end of every operation", lambda: town.status(ENVIRONMENT)["operation"] is None, 400)
    state = town.status(ENVIRONMENT)
    assert state["hold_reason"] == "", f"the environment stands in HOLD: {state['hold_reason']}"
    town.wait_for_a_lease(ENVIRONMENT)
    since = time.time()

    def empty() -> bool:
        rows = [town.health(name) for name in PAIR]
        fresh = all(time.time() - since > 1 and row["write_queue"]["depth"] == 0 for row in rows)
        if not fresh or town.primary.get("admin/writes?outcome=received"):
            raise NotYet(str([row["write_queue"] for row in rows]))
        return True

    town.wait_for("empty queues", empty, 180)


def stated(nemesis: Nemesis, pair: tuple[Sighting, Sighting]) -> bool:
    """Whether both were seen in the time for which a forced move says that two may act."""
    timing = PROFILES["short"]
    risk = timing.lease_ttl + timing.fence_wait
    return any(moment <= one.answered <= moment + risk for moment in nemesis.forced for one in pair[1:])


def play(town: Town, seed: int, seconds: float) -> None:
    history, stop = History(), threading.Event()
    nemesis = Nemesis(town.stack, town.primary, seed)
    try:
        nemesis.put_wires()
        secrets = begin(town.primary, history, environment="dev", count=SECRETS)
        town.wait_for_a_lease(ENVIRONMENT)
        clients = [
            Client(f"client{number}", town.stack, town.primary, PAIR, secrets[number::CLIENTS], history, stop, seed)
            for number in range(CLIENTS)
        ]
        with town.observe(ENVIRONMENT) as observer:
            for one in clients:
                one.start()
            nemesis.run(seconds)
            stop.set()
            for one in clients:
                one.join(60)
            at_rest(town, nemesis)
        found = violations(history.operations, final(town.primary, history, secrets))
        twice = [pair for pair in observer.two_at_once() if not stated(nemesis, pair)]
    except (AssertionError, PrimaryError) as error:
        raise AssertionError("\n".join([f"seed {seed}: {error}", *nemesis.log])) from error
    finally:
        stop.set()
        nemesis.close()
    counts = ", ".join(f"{end.value} {history.count(end)}" for end in End)
    print(f"seed {seed}: {counts}; forced {len(nemesis.forced)}; violations {len(found)}, two at once {len(twice)}")
    assert history.count(End.APPLIED) + history.count(End.QUEUED) > seconds / 4, "too little was accepted to prove anything"
    assert not found and not twice, "\n".join([f"seed {seed}", *found, *map(str, twice), *nemesis.log])


@pytest.mark.long
@pytest.mark.journey
@pytest.mark.xdist_group("journeys")
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("seed", SEEDS)
def test_ten_minutes_of_faults_break_no_promise(town: Town, seed: int) -> None:
    play(town, seed, LONG_SECONDS)
