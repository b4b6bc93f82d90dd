"""The written order of locks, and that the suite notices whoever breaks it (docs/adr/0033)."""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection, transaction

from common import process_locks
from common.errors import Unavailable
from common.process_locks import Condition, ProcessLock, Rank
from common.progress import Progress
from tests.lock_watch import findings, watch

ROOT = Path(__file__).parents[2]
PRODUCT = ("accounts", "common", "failover", "gateway_runtime", "gateways", "integrations", "orchestrator", "vault")
PLAIN = {"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore"}
OWN_WAYS = {
    "common/process_locks.py": "the one class",
    "orchestrator/node/inner.py": "counts the requests of one process, for moments",
    "orchestrator/node/lifeline.py": "a sign of life depends on nothing else",
    "integrations/azure/egress.py": "guards the sockets of one call, for moments; nothing of the product is called under it",
    "integrations/azure/credentials.py": "one msal application of one integration, made outside of any transaction",
    "accounts/entra.py": "keys and endpoints of Entra, fetched outside of any transaction",
}
"""Where a lock of the standard library may be made, and why."""


def plain_locks() -> Iterator[str]:
    for package in PRODUCT:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in PLAIN and getattr(node.value, "id", "") == "threading":
                    yield str(path.relative_to(ROOT))


def test_locks_between_threads_are_made_through_the_class_that_knows_their_order() -> None:
    assert set(plain_locks()) <= set(OWN_WAYS), "use common.process_locks, or say here why not"


@pytest.mark.django_db
def test_a_lock_under_a_transaction_is_found() -> None:
    lock = ProcessLock("of a test", Rank.FACTS)
    with findings() as found, transaction.atomic(), lock:
        pass
    assert len(found) == 1 and "'of a test' (FACTS) is taken while a transaction is open" in found[0]


@pytest.mark.django_db
def test_a_transaction_under_a_long_lock_is_in_order_and_a_statement_under_a_short_one_is_found() -> None:
    with findings() as found, ProcessLock("long", Rank.FACTS), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert not found
    with findings() as found, ProcessLock("short"), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert len(found) == 1 and "a statement is made under the lock 'short'" in found[0]


@pytest.mark.parametrize(("first", "second"), [(Rank.FACTS, Rank.ORDERS), (Rank.FACTS, Rank.FACTS), (Rank.MEMORY, Rank.NUMBERS)])
def test_locks_against_their_ranks_are_found(first: Rank, second: Rank) -> None:
    with findings() as found, ProcessLock("one", first), ProcessLock("two", second):
        pass
    assert len(found) == 1 and "'two'" in found[0] and "is taken under the lock 'one'" in found[0]


def test_locks_in_the_order_of_their_ranks_are_in_order_also_behind_a_condition() -> None:
    room = Condition("room")
    with findings() as found, ProcessLock("one", Rank.ORDERS), ProcessLock("two", Rank.NUMBERS), room:
        room.notify_all()
    with findings() as waited, room:
        room.wait(0.01)
    assert not found and not waited
    assert not watch._held()


@pytest.mark.django_db
def test_waiting_for_somebody_in_a_transaction_or_under_another_lock_is_found() -> None:
    room = Condition("room")
    with findings() as found, transaction.atomic(), room:
        room.wait(0.01)
    assert len(found) == 1 and "waited for while a transaction is open" in found[0]
    with findings() as found, ProcessLock("one", Rank.FACTS), room:
        room.wait(0.01)
    assert len(found) == 1 and "waited for under the lock 'one'" in found[0]


def test_nobody_waits_for_a_lock_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_locks, "LONGEST_WAIT", 0.05)
    lock, taken, done = ProcessLock("busy", Rank.FACTS), threading.Event(), threading.Event()

    def holds() -> None:
        with lock:
            taken.set()
            done.wait(10)

    thread = threading.Thread(target=holds)
    thread.start()
    taken.wait(5)
    with pytest.raises(Unavailable, match="busy") as refused, lock:
        pass
    done.set()
    thread.join()
    assert (refused.value.status, refused.value.retry_after) == (503, 5)


def test_progress_tells_which_loop_is_late() -> None:
    progress = Progress()
    progress.moved("lease", 10.0, now=100.0)
    progress.moved("tasks", 100.0, now=100.0)
    assert not progress.late(now=110.0)
    assert set(progress.late(now=111.0)) == {"lease"}
    progress.moved("lease", 10.0, now=111.0)
    assert progress.steps()["lease"].count == 2 and not progress.late(now=112.0)
    progress.ended("tasks")
    assert set(progress.steps()) == {"lease"}
