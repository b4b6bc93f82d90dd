"""Moves among the dead, the frozen and the forced, with real processes: who is moved to, who wrote when (I1, I2)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import httpx
import pytest

from cli.demos.portal import Portal
from cli.demos.writers import client_of
from cli.stack.stack import throwaway
from protocol.timing import PROFILES, TimeProfile
from tests.faults.network import Cut, Wire
from tests.journeys.conftest import NotYet, Town

OLD, NEW = "gw-npr-primary", "gw-npr-dr"
TIMING = PROFILES["short"]
SECRETS = 4
CALL_SECONDS = 40.0
"""How long a writer waits for an answer that a frozen gateway owes."""


@contextmanager
def frozen(town: Town, name: str) -> Iterator[None]:
    town.stack.freeze(name)
    try:
        yield
    finally:
        town.stack.thaw(name)


@contextmanager
def killed(town: Town, name: str) -> Iterator[None]:
    town.stack.kill(name)
    try:
        yield
    finally:
        town.stack.start(name)


@pytest.mark.parametrize("harm", [frozen, pytest.param(killed, marks=pytest.mark.long)])
def test_nobody_is_fenced_for_a_target_that_is_not_there(town: Town, harm: Callable[[Town, str], Any]) -> None:
    """Its last heartbeat is young; only its silence now tells the truth. The active gateway serves all the while."""
    epoch = town.status()["epoch"]
    with town.observe() as observer:
        observer.wait_until_serving(OLD, 10)
        town.wait_for("a young heartbeat", lambda: town.health(NEW)["heartbeat_age_seconds"] < 2)
        with harm(town, NEW):
            asked = town.primary.post("admin/failover/NPR/activate-dr")
            assert (asked["state"], asked["operation"]["target_gateway"]) == ("FO_PREFLIGHT", NEW)
            row = town.wait_for_state("PRIMARY_ACTIVE")
        assert (row["epoch"], row["last_operation"]["outcome"]) == (epoch, "aborted")
        served = [one.answered for one in observer.sightings if one.name == OLD and one.serving]
    told = town.primary.get("admin/failover/NPR/history")[0]["sentence"]
    assert "nothing was changed" in told and NEW in told
    gap = max(after - before for before, after in pairwise(served))
    print(f"{harm.__name__}: the longest time without a serving gateway was {gap:.2f} s")
    assert gap < TIMING.lease_ttl


class Writers:
    """A project whose values rest in the environment's vault, and people who change its secrets at a gateway."""

    def __init__(self, town: Town, portal: Portal) -> None:
        self.town = town
        primary, self.name = town.primary, f"MOVES_{time.time_ns() % 10**9}"
        self.project = primary.post("projects", {"name": f"moves {time.time():.3f}"})["id"]
        vault = {"name": "vault", "type": "key_vault", "provider": "azure_key_vault", "environment": "dev",
                 "config": {"vault_url": portal.url}}  # fmt: skip
        primary.post(f"projects/{self.project}/integrations", vault)
        shown = primary.post(f"projects/{self.project}/storage", {"to": "key_vault"})
        primary.post(f"projects/{self.project}/storage", {"to": "key_vault", "confirm": shown["digest"]})
        self.secrets = [self.made(number) for number in range(SECRETS)]

    def client(self, name: str) -> httpx.Client:
        spec = next(spec for spec in self.town.stack.layout.gateways if spec.name == name)
        http = client_of(spec.url, self.town.stack.layout.ca_file, self.town.primary.token)
        http.timeout = httpx.Timeout(CALL_SECONDS)
        return http

    def made(self, number: int) -> str:
        """A secret that is there; each try has a name of its own, since one that was only promised may come to nothing."""
        wish = {"project_id": self.project, "environment": "dev", "value": "first"}

        def create() -> str:
            wish["key"] = f"{self.name}_{number}_{time.time_ns() % 10**6}"
            with self.client(OLD) as http:
                answer = http.post("secrets", json=wish)
            if answer.status_code != 201:
                raise NotYet(answer.text)
            return str(answer.json()["id"])

        return str(self.town.wait_for("a first value", create))

    def put(self, name: str, secret: str, value: str) -> int:
        """The status of one change; 0 when no answer came."""
        with self.client(name) as http:
            try:
                return http.put(f"secrets/{secret}", json={"value": value}).status_code
            except httpx.HTTPError:
                return 0

    def put_until_taken(self, name: str, secret: str, value: str) -> None:
        def take() -> bool:
            status = self.put(name, secret, value)
            if status in (200, 202):
                return True
            raise NotYet(f"{name} answered {status}")

        self.town.wait_for(f"{value} at {name}", take)

    def value(self, name: str, secret: str) -> str:
        with self.client(name) as http:
            return str(http.get(f"secrets/{secret}").json().get("value"))

    def many(self, name: str, tag: str) -> list[threading.Thread]:
        """Everybody changes a secret at once."""
        all_of_them = [
            threading.Thread(target=self.put, args=(name, secret, f"{tag}-{number}"), daemon=True)
            for number, secret in enumerate(self.secrets)
        ]
        for one in all_of_them:
            one.start()
        return all_of_them


@pytest.fixture
def portal(town: Town) -> Iterator[Portal]:
    with Portal(town.stack.layout, "kv-mazevault-npr", "npr") as opened:
        yield opened


def late_of(portal: Portal, epoch: int, since: float) -> list[dict[str, Any]]:
    """Changes of an epoch that is over which the vault took after this moment (seconds since 1970)."""
    return [
        row for row in portal.changes() if int(row["tags"].get("mazevault-epoch") or epoch + 1) <= epoch and row["at"] > since
    ]


def told_late(town: Town, since: float) -> list[dict[str, Any]]:
    rows = town.primary.post("audit-logs/search", {"action": "vault.late_writes"})
    found = rows["items"] if isinstance(rows, dict) else rows
    return [row for row in found if row["created_at"] >= time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since))]


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("after", [0.05, 0.2, 0.6])
def test_a_gateway_frozen_in_the_middle_of_vault_writes_takes_nothing_back_when_it_wakes(
    town: Town, portal: Portal, after: float
) -> None:
    """What the new gateway has acknowledged stays, whatever the old one was about to do when it stood still."""
    writers, epoch = Writers(town, portal), town.status()["epoch"]
    begun = writers.many(OLD, "old")
    time.sleep(after)
    with frozen(town, OLD):
        town.ask_for("activate-dr")
        town.wait_for_state("DR_ACTIVE")
        moved = time.time()
        for number, secret in enumerate(writers.secrets):
            writers.put_until_taken(NEW, secret, f"new-{number}")
    for one in begun:
        one.join(CALL_SECONDS)
    town.wait_for(f"{OLD} fenced", lambda: town.health(OLD)["reported_role"] == "fenced")
    late = late_of(portal, epoch, moved)
    print(f"frozen after {after} s: {len(late)} effects of the old epoch after the promotion")
    assert late == []
    for number, secret in enumerate(writers.secrets):
        town.wait_for(f"new-{number}", lambda secret=secret, number=number: writers.value(NEW, secret) == f"new-{number}")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_forced_move_while_the_old_gateway_acts_states_its_risk_and_tells_what_came_late() -> None:
    """Cut off from the Primary the old gateway acts until its lease ends: the window is stored, what came is told."""
    with (
        throwaway(azure=True, time_profile="standard") as stack,
        stack.client() as primary,
        Portal(stack.layout, "kv-mazevault-npr", "npr") as portal,
    ):
        _forced(Town(stack, primary), portal, PROFILES["standard"])


def _forced(town: Town, portal: Portal, timing: TimeProfile) -> None:
    """With the real lease, so that the old gateway has time to act in the window."""
    writers = Writers(town, portal)
    wire = Wire(lambda: [town.stack.layout.primary_port])
    town.stack.stop(OLD)
    town.stack.start(OLD, {"PRIMARY_BACKEND_URL": f"https://localhost:{wire.port}"})
    try:
        town.wait_for_a_lease()
        town.wait_for_a_plan("activate-dr")
        writers.put_until_taken(OLD, writers.secrets[0], "before the cut")
        epoch, ended = town.status()["epoch"], threading.Event()
        written = list[Any]()

        def write_on() -> None:
            while not ended.wait(0.1):
                written.append(writers.put(OLD, writers.secrets[0], f"cut off {len(written)}"))

        writer = threading.Thread(target=write_on, daemon=True)
        writer.start()
        wire.cut(Cut.BOTH)
        wish = {"confirm": "NPR", "reason": "rehearsal: the link is cut"}
        town.ask_for("activate-dr")
        row = town.primary.post("admin/failover/NPR/force", wish)
        if row["state"] != "DR_ACTIVE":
            row = town.primary.post("admin/failover/NPR/force", wish)
        moved = time.time()
        assert (row["state"], row["active_gateway"]) == ("DR_ACTIVE", NEW)
        risk = row["operation"]["split_risk_until"]
        assert risk and row["operation"]["forced_by"]
        time.sleep(timing.lease_ttl + timing.drift + timing.effect_deadline)
        late = late_of(portal, epoch, moved)
        print(f"forced: {len(late)} effects of the old epoch after the promotion, risk until {risk}")
        stated = time.strptime(risk.split(".")[0], "%Y-%m-%dT%H:%M:%S")
        over = time.mktime(stated) - time.timezone + 1 + timing.effect_deadline
        assert all(one["at"] <= over for one in late), "an effect after the stated risk was over"
        ended.set()
        writer.join(CALL_SECONDS)
        writers.put_until_taken(NEW, writers.secrets[1], "after the move")
        assert late, "nothing was written in the window, so nothing was tried"
        town.wait_for("the late writes to be told", lambda: told_late(town, moved), 120)
    finally:
        wire.cut(Cut.NONE)
        town.stack.stop(OLD)
        town.stack.start(OLD)
        wire.close()
