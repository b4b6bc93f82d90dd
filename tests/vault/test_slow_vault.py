"""One slow vault stays alone: many writers wait for it, and everybody else is served as before (ADR 30)."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import OperationalError, connection

from accounts.access import Grant, Principal, PrincipalKind
from accounts.models import Environment, Project
from common import lanes, outside
from common.clock import boottime, now
from common.errors import MazeVaultError
from common.lanes import Lane
from gateway_runtime import state
from gateway_runtime.secrets_node import GatewayNode
from gateway_runtime.storage_ways import GatewayWays
from gateways.storage_ways import PrimaryWays
from integrations import keeping, places
from integrations.azure.cloud import AuthMethod, Cloud, Connection
from integrations.azure.egress import Guard
from integrations.azure.errors import ObjectMissing
from integrations.keeping import VaultKeeper
from protocol.messages import FenceOrder
from protocol.vocabulary import WriteOperation
from protocol.writes import WriteBody
from tests import factories
from tests.conftest import Person, fleet_of
from tests.gateway_runtime.conftest import SECRETS, Site, as_gateway, site  # noqa: F401  fixtures
from vault.node import PrimaryNode
from vault.ports import Asker, SecretChange, SecretNode

URL = "https://slow-vault.vault.azure.net"
STANDS_SECONDS = 30.0
"""The vault answers nobody before everything was looked at."""
WRITERS = 40
QUICK_SECONDS = 4.0
"""Half of what a thread waits for a database connection before it gives up."""


class SlowVault:
    """Knows no name, takes every value, and answers when it is told to."""

    answers = threading.Event()
    asked = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> SlowVault:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def get(self, name: str, version: str = "") -> Any:
        self._wait()
        raise ObjectMissing("not there", "nothing")

    def put(self, *_: Any, **__: Any) -> Any:
        self._wait()
        return SimpleNamespace(version=uuid.uuid4().hex)

    def _wait(self) -> None:
        outside.begins("the slow vault")
        if not self.answers.is_set():
            SlowVault.asked += 1
            self.answers.wait(STANDS_SECONDS)


class _ToTheSlowVault:
    def connect(self, integration: Any, asker: Any) -> Any:
        return Connection(URL, AuthMethod.MANAGED_IDENTITY), None

    def guard(self) -> Guard:
        return Guard(Cloud())


class AtPrimary(_ToTheSlowVault, PrimaryWays):
    pass


class AtGateway(_ToTheSlowVault, GatewayWays):
    pass


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A vault that is slow, and the smallest pool a production node has."""
    monkeypatch.setattr(keeping, "KeyVault", SlowVault)
    monkeypatch.setattr(keeping, "storage_of", lambda project, environment: SimpleNamespace(config={"vault_url": URL}))
    monkeypatch.setattr(lanes, "MOST_OF_PEOPLE", lanes.LEAST_OF_PEOPLE)
    _fresh_pools()
    yield
    monkeypatch.undo()
    _fresh_pools()


def _fresh_pools() -> None:
    connection.close()
    connection.close_pool()


class Crowd:
    """Many writers at once, each with a secret of its own."""

    def __init__(self, node: SecretNode, project: Project, environment: Environment) -> None:
        self.answers: Counter[str] = Counter()
        self._node, self._project, self._environment = node, project, environment
        self._asker = Asker(Principal(PrincipalKind.USER, str(uuid.uuid4()), "ann", (Grant(frozenset(SECRETS)),), now()))
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)]

    def __enter__(self) -> Crowd:
        """Until each of them waits for the vault or was sent away; or for as long as that takes when they hold each other up."""
        SlowVault.answers.clear()
        SlowVault.asked = 0
        for thread in self._threads:
            thread.start()
        until = time.monotonic() + STANDS_SECONDS / 2
        while SlowVault.asked + sum(self.answers.values()) < WRITERS and time.monotonic() < until:
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        SlowVault.answers.set()
        for thread in self._threads:
            thread.join()

    def _write(self, number: int) -> None:
        place = self._project.id, self._environment.id, f"KEY_{number}"
        change = SecretChange(WriteOperation.CREATE, uuid.uuid4(), *place, None, WriteBody(value="x"))
        try:
            self.answers[self._node.write(change, self._asker, idempotency_key="", now=now()).outcome] += 1
        except MazeVaultError as refused:
            assert refused.code != "VAULT_BUSY" or "slow-vault" in refused.sentence, refused.sentence
            self.answers[refused.code] += 1
        except OperationalError:
            self.answers["the database does not answer"] += 1
        finally:
            connection.close()


def took(lane: Lane, work: Callable[[], object]) -> float:
    """Seconds of a piece of work in a thread of this lane."""
    found = list[float]()

    def run() -> None:
        lanes.enter(lane)
        began = time.monotonic()
        try:
            work()
            found.append(time.monotonic() - began)
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found, "it failed"
    return found[0]


@pytest.mark.django_db(transaction=True)
def test_at_the_primary_machines_and_people_go_on(committed_primary: None, person: Callable[[str], Person], slow: None) -> None:
    admin, (active, _) = person("admin"), fleet_of("PRO")
    project = factories.project()
    Project.objects.filter(id=project.id).update(storage="key_vault")
    with Crowd(PrimaryNode(VaultKeeper(AtPrimary())), project, factories.environment_of(project)) as crowd:
        seconds = {
            "status": took(Lane.PEOPLE, lambda: admin.get("admin/failover/PRO")),
            "heartbeat": took(Lane.MACHINES, active.heartbeat),
            "lease": took(Lane.MACHINES, active.renew_lease),
        }
    assert max(seconds.values()) < QUICK_SECONDS, seconds
    assert crowd.answers == {"applied": places.OF_A_PROJECT, "VAULT_BUSY": WRITERS - places.OF_A_PROJECT}


@pytest.mark.django_db(transaction=True)
def test_at_a_gateway_a_fence_is_committed_meanwhile(site: Site, slow: None) -> None:  # noqa: F811
    Project.objects.filter(id=site.project.id).update(storage="key_vault")
    node = site.supervisor.node
    node.take_over()
    node.take_lease(epoch=1, ttl=45.0, sent_boot=boottime(), sent_wall=time.time())
    order = FenceOrder(operation=str(uuid.uuid4()), epoch=1, number=1, cancelled=False)
    with Crowd(GatewayNode(VaultKeeper(AtGateway())), site.project, site.environment):
        seconds = took(Lane.CORE, lambda: node.fence(order, 0.0))
    assert seconds < QUICK_SECONDS and state.fence_of(state.this_life()) is not None


@pytest.mark.django_db(transaction=True)
def test_people_who_hold_all_their_connections_hold_none_of_the_others(slow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "WAIT_SECONDS", 0.5)
    ready, done = threading.Barrier(lanes.LEAST_OF_PEOPLE + 1), threading.Event()

    def hold() -> None:
        connection.ensure_connection()
        ready.wait(20)
        done.wait(20)
        connection.close()

    holders = [threading.Thread(target=hold) for _ in range(lanes.LEAST_OF_PEOPLE)]
    for holder in holders:
        holder.start()
    ready.wait(20)
    try:
        with pytest.raises(OperationalError):
            connection.ensure_connection()
        for lane in (Lane.CORE, Lane.MACHINES, Lane.LOOPS):
            assert took(lane, connection.ensure_connection) < QUICK_SECONDS
    finally:
        done.set()
        for holder in holders:
            holder.join()


@pytest.mark.parametrize(("threads", "most"), [(1, (1, 1)), (4, (1, 2)), (8, (2, 4)), (16, (4, 8)), (64, (6, 32))])
def test_one_vault_never_takes_a_node_of_few_threads(threads: int, most: tuple[int, int]) -> None:
    assert places.most(threads) == most
