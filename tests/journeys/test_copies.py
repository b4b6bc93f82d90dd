"""A gateway's machine is copied, or its database put back, with real processes: one writer, and both are named (I1, I2)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cli.stack import children
from cli.stack.observer import Observer
from tests.journeys.conftest import PATIENCE_SECONDS, Town
from tests.journeys.machines import Machine

SHORT_LEASE = 5.35
"""Lease and drift of the short times, in seconds."""


@pytest.fixture
def machine(town: Town, tmp_path: Path) -> Iterator[Callable[[str], Machine]]:
    yield lambda name: Machine(town.stack, name, tmp_path)
    for gateway in town.primary.get("gateways"):
        if gateway["held_at"]:
            town.primary.post(f"gateways/{gateway['id']}/release", {"reason": "the journey is over"})
            town.stack.stop(gateway["name"])  # go_home starts it: nothing is left of a quarantine


def why(town: Town, name: str) -> str:
    return " | ".join(town.health(name)["why"])


@pytest.mark.timeout(600)
@pytest.mark.long
@pytest.mark.parametrize("name", ["gw-npr-primary", "gw-npr-dr"])
def test_a_copy_never_serves_and_both_are_named(town: Town, machine: Callable[[str], Machine], name: str) -> None:
    here = machine(name)
    copy, there = here.copied()
    town.wait_for("the original to speak", lambda: town.health(name)["health"] == "healthy")
    if name == "gw-npr-primary":
        town.wait_for_a_lease()
    specs = [one for one in town.stack.layout.gateways if one.environment == "NPR"]
    try:
        with Observer(town.stack.layout, [*specs, there]) as observer:
            copy.start()
            town.wait_for("both to be named", lambda: "two machines use this identity" in why(town, name))
            children.stop([copy], 6.0)  # its next process begins with numbers that nobody used
            copy.start()
            time.sleep(2 * SHORT_LEASE)
        assert not [one for one in observer.sightings if one.name == "copy" and one.serving]
        assert observer.two_at_once() == []
        assert any(one.name == "copy" for one in observer.sightings)
    finally:
        children.stop([copy], 6.0)
    told = why(town, name)
    assert told.startswith("quarantined: ") or "| quarantined: " in told
    assert told.count("instance ") >= 2 and told.count("127.0.0.1") >= 2


@pytest.mark.timeout(600)
def test_a_database_that_was_put_back_serves_again_at_once(town: Town, machine: Callable[[str], Machine]) -> None:
    name = "gw-npr-primary"
    here = machine(name)
    town.stack.stop(name)
    here.copy_database("earlier")
    town.stack.start(name)
    town.wait_for_a_lease()
    town.wait_for("a heartbeat", lambda: town.health(name)["health"] == "healthy")
    town.stack.stop(name)
    own = urlsplit(here.url).path.lstrip("/")
    here.copy_database(own, "earlier")
    with Observer(town.stack.layout, [here.spec]) as observer:
        town.stack.start(name)
        observer.wait_until_serving(name, PATIENCE_SECONDS, time.monotonic())
    assert "put back to an earlier state" in why(town, name) and "quarantined" not in why(town, name)
    log = (town.stack.layout.logs / f"{name}.log").read_text()
    assert log.count("its database was put back to an earlier state, or another machine uses its identity") >= 1
    assert "REPLAYED" not in log
