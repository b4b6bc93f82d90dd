"""Load on a whole stack while it is broken on purpose, then the judgement: nothing lost, twice, out of order or given back (I7 to
I10), never two gateways that act but where a person forced it (I1, I2)."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import pytest

from cli.stack.layout import ADMIN_EMAIL
from cli.stack.observer import Sighting
from cli.stack.primary_client import PrimaryClient
from cli.stack.stack import throwaway
from protocol.timing import time_profile
from tests.faults.history import End, Final, History, violations
from tests.faults.nemesis import ENVIRONMENT, PAIR, Nemesis
from tests.faults.network import Cut
from tests.faults.workload import Client, begin, begin_in_vault, final
from tests.journeys.conftest import NotYet, Town

CLIENTS, SECRETS, IN_VAULT = 4, 8, 8
VAULT = "kv-mazevault-npr"
LONG_SECONDS = 600.0
UNHURRIED: Mapping[str, float] = {
    "heartbeat_interval": 5, "heartbeat_full_age": 10, "heartbeat_zero_age": 25, "standby_fresh_age": 16, "lease_renew": 3,
    "lease_ttl": 16, "effect_deadline": 5, "round_trip_max": 5, "sign_of_life": 12, "drain_limit": 40, "queue_wait": 20,
}  # fmt: skip
"""Of the time profile, in seconds."""
SEEDS = (1, 2, 3, 4)


def times() -> Mapping[str, float]:
    """What differs from the short times. On a machine that many share, a lease of five seconds says more of them than of us."""
    return UNHURRIED if os.environ.get("NEMESIS_TIMES") == "unhurried" else {}


@pytest.fixture
def town() -> Iterator[Town]:
    """A stack of its own: what is broken here must not reach other journeys."""
    own = {f"MAZEVAULT_TIME_{name.upper()}": str(value) for name, value in times().items()}
    with throwaway(azure=True, environ=own) as stack, stack.client() as primary:
        yield Town(stack, primary)


def at_rest(town: Town, nemesis: Nemesis) -> None:
    """Everything runs again, no operation is open, and no promised write waits for anything but a person."""
    for name in town.stack.children:
        nemesis.start(name)
    for wire in nemesis.wires.values():
        wire.cut(Cut.NONE)
    town.stack.wait_until_primary_answers()
    nemesis.release_all()
    town.wait_for("an end of every operation", lambda: town.status(ENVIRONMENT)["operation"] is None, 400)
    state = town.status(ENVIRONMENT)
    assert state["hold_reason"] == "", f"the environment stands in HOLD: {state['hold_reason']}"
    town.wait_for_a_lease(ENVIRONMENT)
    since = time.time()

    def empty() -> bool:
        nemesis.release_all()  # what a copy left behind may show only later, as a chain that contradicts itself
        rows = [town.health(name) for name in PAIR]
        fresh = all(time.time() - since > 1 and row["write_queue"]["depth"] == 0 for row in rows)
        if not fresh or town.primary.get("admin/writes?outcome=received"):
            raise NotYet(str([row["write_queue"] for row in rows]))
        return True

    town.wait_for("empty queues", empty, 180)


def stated(nemesis: Nemesis, pair: tuple[Sighting, Sighting]) -> bool:
    """Whether both were seen in the time for which a forced move says that two may act."""
    timing = nemesis.timing
    risk = timing.lease_ttl + timing.fence_wait
    return any(moment <= one.answered <= moment + risk for moment in nemesis.forced for one in pair[1:])


def one_after_the_other(pair: tuple[Sighting, Sighting], seen: Sequence[Sighting]) -> bool:
    """Whether a gateway and its copy acted in one epoch without ever being mixed: the first had given its lease back, and to the
    Primary the copy was its next process."""
    first, second = pair
    if "copy" not in (first.name, second.name) or first.epoch != second.epoch:
        return False
    again = [one.answered for one in seen if one.serving and one.name == first.name and one.asked > second.answered]
    return not any(
        one.serving and one.name == second.name and one.epoch == first.epoch and one.asked > moment
        for one in seen
        for moment in again[:1]
    )


def vault_url(town: Town) -> str:
    nodes = town.stack.layout
    rows = httpx.get(f"{nodes.sandbox_url}/_control/vaults", verify=str(nodes.node("sandbox") / "ca.crt"), trust_env=False)
    return next(str(one["url"]) for one in rows.json()["value"] if one["name"] == VAULT)


def stored(town: Town, history: History, secrets: list[str]) -> Final:
    active = town.status(ENVIRONMENT)["active_gateway"]
    url = next(spec.url for spec in town.stack.layout.gateways if spec.name == active)
    with PrimaryClient(url, town.stack.layout.ca_file, ADMIN_EMAIL, town.stack.layout.password_file) as gateway:
        return final(town.primary, history, secrets, gateway)


def play(town: Town, seed: int, seconds: float, folder: Path) -> None:
    history, stop = History(), threading.Event()
    nemesis = Nemesis(town.stack, town.primary, seed, folder, time_profile("short", times()))
    try:
        nemesis.take_hold()
        town.wait_for_a_lease(ENVIRONMENT)
        secrets = begin(town.primary, history, environment="dev", count=SECRETS)
        secrets += begin_in_vault(town.primary, history, vault_url(town), environment="dev", count=IN_VAULT)
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
            observer.add(nemesis.sightings)
        found = violations(history.operations, stored(town, history, secrets))
        twice = [
            pair
            for pair in observer.two_at_once()
            if not (stated(nemesis, pair) or one_after_the_other(pair, observer.sightings))
        ]
    except Exception as error:  # whatever it was, it is told with what had happened until then
        raise AssertionError(
            "\n".join([f"seed {seed}: {error!r}", f"the logs are in {folder}", *nemesis.effects.lines(), *nemesis.log])
        ) from error
    finally:
        stop.set()
        nemesis.close()
        shutil.copytree(town.stack.layout.logs, folder / "logs", dirs_exist_ok=True)
    counts = ", ".join(f"{end.value} {history.count(end)}" for end in End)
    print(f"\nseed {seed}: {counts}, reads {history.reads()}; forced {len(nemesis.forced)}; violations {len(found)}, "
          f"two at once {len(twice)}")  # fmt: skip
    print("\n".join(nemesis.effects.lines()))
    assert not found and not twice, "\n".join([f"seed {seed}", *found, *map(str, twice), *nemesis.log])
    assert history.count(End.APPLIED) + history.count(End.QUEUED) > seconds / 4, "too little was accepted to prove anything"
    assert not nemesis.effects.without(), f"never had an effect: {nemesis.effects.without()}"


def at(name: str, moment: float) -> Sighting:
    return Sighting(name, moment, moment + 0.1, True, 1)


@pytest.mark.parametrize(
    ("seen", "holds"),
    [(["gw", "copy"], True), (["gw", "copy", "copy", "gw", "gw"], True), (["gw", "copy", "gw", "copy"], False)],
)
def test_a_copy_that_acts_after_its_original_is_told_from_one_that_acts_beside_it(seen: list[str], holds: bool) -> None:
    sightings = [at(name, float(number)) for number, name in enumerate(seen)]
    assert one_after_the_other((sightings[0], sightings[1]), sightings) is holds
    assert not one_after_the_other((at("gw", 0), at("dr", 1)), sightings)


@pytest.mark.long
@pytest.mark.journey
@pytest.mark.xdist_group("journeys")
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("seed", SEEDS)
def test_ten_minutes_of_faults_break_no_promise(town: Town, seed: int, tmp_path: Path) -> None:
    play(town, seed, float(os.environ.get("NEMESIS_SECONDS", LONG_SECONDS)), tmp_path)
