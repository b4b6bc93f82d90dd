"""Writes while the Primary is away, with processes killed in the middle: lost 0, duplicated 0, reordered 0 (I7 to I10, I19)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice

import pytest
import redis

from cli.demos import outage
from cli.demos.story import Story
from cli.stack.stack import Stack
from tests.journeys.conftest import Town

ACCEPTED = 120
GATEWAY = "gw-npr-primary"


def kill_and_start(*names: str) -> Callable[[Stack], None]:
    """kill -9 of these processes in the middle of the outage, each started again at once."""

    def vandal(stack: Stack) -> None:
        for name in names:
            time.sleep(0.5)
            stack.kill(name)
            time.sleep(0.3)
            stack.start(name)

    return vandal


def start_and_kill_the_primary(stack: Stack) -> None:
    """The Primary comes back, takes some of the queue, and dies again."""
    stack.start("primary")
    stack.wait_until_primary_answers()
    time.sleep(1.5)
    stack.kill("primary")


def kill_the_worker_and_empty_valkey(stack: Stack) -> None:
    """All that only hurries the work along is gone (I19)."""
    kill_and_start("worker")(stack)
    url = stack.environment_of("primary")["REDIS_URL"]
    with redis.Redis.from_url(url) as client:
        client.flushall()


CALM = "nothing else"
VANDALS: dict[str, Callable[[Stack], None]] = {
    CALM: lambda stack: None,
    "the gateway": kill_and_start(GATEWAY),
    "the Primary again": start_and_kill_the_primary,
    "PostgreSQL": kill_and_start("postgres"),
    "the gateway, then PostgreSQL": kill_and_start(GATEWAY, "postgres"),
    "the worker, and Valkey emptied": kill_the_worker_and_empty_valkey,
}


QUICK = ("the gateway, then PostgreSQL",)
"""Where what was acknowledged lies; each alone, and the others, are killed in the long run."""


def rounds(count: int) -> Iterator[tuple[int, str]]:
    return enumerate(islice(cycle(VANDALS), count))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", [one if one in QUICK else pytest.param(one, marks=pytest.mark.long) for one in VANDALS])
def test_an_outage_loses_nothing_whatever_is_killed(town: Town, victim: str) -> None:
    verdict = outage.tell(town.stack, town.primary, Story(), lambda: False, accepted=ACCEPTED, vandal=VANDALS[victim])
    assert verdict.holds, verdict
    assert verdict.conflicts > 0 and verdict.applied > ACCEPTED / 2


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_twenty_outages_lose_nothing(town: Town) -> None:
    for number, victim in rounds(20):
        verdict = outage.tell(town.stack, town.primary, Story(), lambda: False, accepted=ACCEPTED, vandal=VANDALS[victim])
        assert verdict.holds, (number, victim, verdict)
        town.go_home()
