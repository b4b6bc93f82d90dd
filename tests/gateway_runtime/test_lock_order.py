"""Vault writes meet directives and the end of a block of message numbers: everybody goes on (docs/adr/0033)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connection, transaction

from common.clock import boottime, now
from common.direct import open_connection
from gateway_runtime import replica, state
from gateway_runtime.models import NodeState
from gateway_runtime.node import Node
from gateway_runtime.secrets_node import GatewayNode
from gateway_runtime.state import Sequences
from protocol.messages import Directive, FenceOrder
from protocol.timing import SHORT
from protocol.vocabulary import Assignment
from tests import factories
from tests.gateway_runtime.conftest import Site
from tests.lock_watch import findings
from vault.models import Secret, SecretVersion
from vault.ports import Asker, Done, SecretChange

ROUND_SECONDS = 2.0
PATIENCE = 10.0
"""Seconds after which a thread that should have ended long ago stands still."""


@dataclass
class Vault:
    """A vault that takes a moment and is changed under the node's right to act only."""

    node: Node
    sets: int = 0
    seconds: float = 1.0

    def place_to_write(self, secret: Secret) -> str:
        return "https://a-vault"

    def carry_out(self, change: SecretChange, secret: Secret, asker: Asker | None, hold: Any) -> Done:
        with self.node.effect():
            time.sleep(0.005)
        self.sets += 1
        return Done(f"version-{self.sets}")

    def look_into(self, change: SecretChange, secret: Secret, asker: Asker | None, operation: str) -> Done | None:
        return None

    def put_back(self, change: SecretChange, secret: Secret, asker: Asker | None, hold: Any, version: str) -> bool:
        return True

    def read(self, secret: Secret, recorded: str, asker: Asker, *, newest: bool) -> Any:
        raise NotImplementedError


@dataclass
class Numbered:
    """The channel: every message takes a number."""

    primary: Any
    sequences: Sequences
    taken: list[int] = field(default_factory=list)

    def call(self, path: str, message: Any, kind: Any, *, timeout: float) -> Any:
        self.taken.append(self.sequences.take())
        time.sleep(0.002)
        return self.primary.call(path, message, kind, timeout=timeout)


@pytest.fixture
def unhang(transactional_db: None) -> Iterator[None]:
    """Whatever a test left standing is ended, so that a deadlock fails one test and not the suite."""
    yield
    with open_connection() as session:
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle in transaction'"
        )


def in_threads(*work: Callable[[], None]) -> list[threading.Thread]:
    def run(one: Callable[[], None]) -> None:
        try:
            one()
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(one,), daemon=True) for one in work]
    for thread in threads:
        thread.start()
    return threads


def standing_still(threads: list[threading.Thread]) -> int:
    until = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return sum(thread.is_alive() for thread in threads)


def directive(epoch: int, role: Assignment = Assignment.ACTIVE) -> Directive:
    return Directive(revision="r", assigned_role=role, epoch=epoch, poll_tasks=True, next_heartbeat_seconds=1)


def vaulted(site: Site, number: int) -> Secret:
    made = site.secret(key=f"KEY_{number}")
    SecretVersion.objects.filter(secret=made).update(sealed_value=None, external_version="version-0")
    return made


def test_vault_writes_meet_directives_and_the_end_of_a_block_of_numbers(
    unhang: None, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "SEQUENCE_BLOCK", 3)
    node, ends, answers = site.supervisor.node, time.monotonic() + ROUND_SECONDS, {True: 0, False: 0}
    site.supervisor.channel = channel = Numbered(site.primary, site.supervisor.sequences)  # type: ignore[assignment]
    site.project.storage = "key_vault"
    site.project.save()
    writing = GatewayNode(Vault(node))

    def writes(secret: Secret) -> Callable[[], None]:
        def run() -> None:
            asker, tries = Asker(factories.principal()), 0
            while time.monotonic() < ends:
                tries += 1
                answers[answered(writing, site.change(secret, value=f"value-{tries}"), asker)] += 1

        return run

    def moves() -> None:
        epoch = 1
        while time.monotonic() < ends:
            epoch += 2
            with suppress(DatabaseError):  # as the loop of the directive does, it goes on
                node.learn_epoch(epoch)
                node.fence(FenceOrder(operation=str(site.project.id), epoch=epoch, number=epoch), 0.05)
                node.obey(directive(epoch + 1))
            node.take_lease(epoch=epoch + 1, ttl=SHORT.lease_ttl * 10, sent_boot=boottime(), sent_wall=time.time())
            time.sleep(0.02)

    def looks() -> None:
        while time.monotonic() < ends:
            node.standing()
            time.sleep(0.001)

    work = [writes(vaulted(site, number)) for number in range(4)]
    assert standing_still(in_threads(*work, moves, looks)) == 0, "threads of the gateway wait for each other"
    assert answers[True], "nothing was written, so nothing was shown"
    assert len(channel.taken) > state.SEQUENCE_BLOCK and len(set(channel.taken)) == len(channel.taken)


def answered(node: GatewayNode, change: SecretChange, asker: Asker) -> bool:
    """Whether the change was made or promised; what a move refuses is refused at once."""
    try:
        node.write(change, asker, idempotency_key="", now=now())
    except Exception:
        return False
    return True


def test_the_right_to_act_is_asked_for_without_waiting_for_the_database(unhang: None, site: Site) -> None:
    node, held, done = site.supervisor.node, threading.Event(), threading.Event()
    node.take_lease(epoch=1, ttl=45.0, sent_boot=boottime(), sent_wall=time.time())

    def holds_the_row() -> None:
        with transaction.atomic():
            NodeState.objects.select_for_update().get(id=1)
            held.set()
            done.wait(PATIENCE)

    threads = in_threads(holds_the_row, lambda: bool(held.wait(5)) and bool(node.obey(directive(2))))
    held.wait(5)
    time.sleep(0.2)
    try:
        began = time.monotonic()
        with node.effect() as epoch:
            assert epoch == 1
        assert node.standing().serving and node.wants_lease() is False
        assert site.supervisor.sequences.take() > 0, "numbers wait for nobody's transaction"
        assert time.monotonic() - began < 1
    finally:
        done.set()
    assert standing_still(threads) == 0
    assert node.highest_epoch == 2


def test_a_grant_that_comes_while_a_fence_is_committed_does_not_outlive_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    node, commit = site.supervisor.node, state.commit_fence

    def meanwhile(*arguments: Any) -> None:
        assert node.take_lease(epoch=1, ttl=45.0, sent_boot=boottime(), sent_wall=time.time())
        commit(*arguments)

    monkeypatch.setattr(state, "commit_fence", meanwhile)
    assert node.fence(FenceOrder(operation=str(site.project.id), epoch=1, number=1), 1)
    assert node.lease_seconds_left() == 0


def test_a_fence_that_could_not_be_committed_is_committed_by_the_next_order(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    node, commit, order = site.supervisor.node, state.commit_fence, FenceOrder(str(site.project.id), 1, 1)

    def fails(*_: Any) -> None:
        raise psycopg.OperationalError("the connection is gone")

    monkeypatch.setattr(state, "commit_fence", fails)
    with pytest.raises(psycopg.OperationalError):
        node.fence(order, 1)
    monkeypatch.setattr(state, "commit_fence", commit)
    assert node.fence(order, 1) and NodeState.objects.get().fenced_epoch == 1


def test_numbers_taken_in_a_transaction_that_is_taken_back_never_come_again(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "SEQUENCE_BLOCK", 2)
    sequences, taken = Sequences(), list[int]()
    with findings() as against, transaction.atomic():
        taken += [sequences.take() for _ in range(5)]
        transaction.set_rollback(True)
    assert against, "a caller in a transaction is told by the watch"
    taken += [sequences.take() for _ in range(5)]
    taken += [Sequences().take() for _ in range(3)]
    assert sorted(set(taken)) == taken


def test_numbers_whose_commit_nobody_saw_are_skipped(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences, reserve = Sequences(), state._reserve
    first = sequences.take()

    def unseen(*arguments: Any, **more: Any) -> int:
        reserve(*arguments, **more)
        raise psycopg.OperationalError("the connection was lost during COMMIT")

    monkeypatch.setattr(state, "SEQUENCE_BLOCK", 1)
    sequences = Sequences()
    monkeypatch.setattr(state, "_reserve", unseen)
    with pytest.raises(psycopg.OperationalError):
        sequences.take()
    monkeypatch.setattr(state, "_reserve", reserve)
    assert sequences.take() == first + 1000 + 1


def test_skipped_numbers_stay_skipped(db: None) -> None:
    sequences = Sequences()
    far = sequences.take() + 50_000
    sequences.skip_to(far)
    assert sequences.take() == far
    sequences.skip_to(7)
    assert sequences.take() == far + 1
    assert Sequences().take() > far + 1
    lagging = Sequences()
    lagging.skip_to(far - 1)
    assert lagging.take() > far + 1


def test_twenty_threads_share_no_number(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "SEQUENCE_BLOCK", 4)
    both, taken = (Sequences(), Sequences()), list[int]()

    def run(one: Sequences) -> Callable[[], None]:
        return lambda: taken.extend([one.take() for _ in range(10)])

    assert standing_still(in_threads(*(run(both[number % 2]) for number in range(20)))) == 0
    assert len(taken) == len(set(taken)) == 200


def test_a_page_is_stored_without_holding_up_writes_and_fences(unhang: None, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    storing, done = threading.Event(), threading.Event()

    def slow(*_: Any) -> None:
        storing.set()
        done.wait(PATIENCE)

    monkeypatch.setattr(replica.copying, "store", slow)
    site.primary.generation = ""
    page = replica.Changes(generation="g", position=5, head=5, more=False)
    cursor = state.this_life()
    threads = in_threads(lambda: bool(replica.apply_page(page, cursor, "NPR", now())))
    try:
        assert storing.wait(5)
        began = time.monotonic()
        assert site.supervisor.node.fence(FenceOrder(str(site.project.id), 1, 1), 1)
        assert time.monotonic() - began < 2
    finally:
        done.set()
    assert standing_still(threads) == 0
    assert state.this_life().replica_position == 5


@pytest.mark.parametrize("meanwhile", [replica.begin_resync, lambda: NodeState.objects.update(replica_position=3)])
def test_a_page_whose_cursor_moved_while_it_was_stored_leaves_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None]
) -> None:
    monkeypatch.setattr(replica.copying, "store", lambda *_: (site.secret(key="OF_THE_PAGE"), meanwhile()))
    page = replica.Changes(generation="g", position=5, head=5, more=False)
    assert replica.apply_page(page, state.this_life(), "NPR", now()) is replica.Pulled.OUTDATED
    assert not Secret.objects.filter(key="OF_THE_PAGE").exists()
