"""The lock of the one process: it is noticed when it is lost, in whatever way, and is taken again (DESIGN §7)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from django.db import connection

from common.direct import answering_within, open_connection
from common.sessions import LIMITS
from gateway_runtime import state
from gateway_runtime.state import OneProcess
from tests.gateway_runtime.conftest import take_lock

pytestmark = pytest.mark.django_db


@pytest.fixture
def processes() -> Iterator[Callable[[], OneProcess]]:
    made: list[OneProcess] = []

    def process() -> OneProcess:
        made.append(OneProcess())
        return made[-1]

    yield process
    for one in made:
        one.give_up()


Processes = Callable[[], OneProcess]


def session_of(process: OneProcess) -> int:
    assert process._connection is not None
    return process._connection.info.backend_pid


def end_session(process: OneProcess) -> None:
    """The database ends the session; that of the client does not know yet."""
    pid = session_of(process)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
        until = time.monotonic() + 10
        while time.monotonic() < until:
            cursor.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid])
            if cursor.fetchone() is None:
                return
            time.sleep(0.02)


def take_soon(process: OneProcess) -> bool:
    """Try as the supervisor does: again after an error."""
    for _ in range(3):
        try:
            return process.take()
        except psycopg.Error:
            continue
    return False


def test_one_process_at_a_time_holds_the_lock(processes: Processes) -> None:
    first, second = processes(), processes()
    take_lock(first)
    assert not second.take() and not second.take()
    assert first.take() and first.still_held(), "taking what one holds changes nothing"
    first.give_up()
    assert not first.still_held()
    take_lock(second)


def test_a_process_that_never_took_the_lock_does_not_hold_it(processes: Processes) -> None:
    assert not processes().still_held()


def test_a_lock_whose_session_ended_is_not_held_and_can_be_taken_again(processes: Processes) -> None:
    process = processes()
    take_lock(process)
    end_session(process)
    assert not process.still_held()
    take_lock(process)
    assert process.still_held()


def test_a_process_that_waits_gets_over_the_loss_of_its_session(processes: Processes) -> None:
    """It keeps no session while it waits, so there is none to be lost: the next look takes what is free."""
    first, second = processes(), processes()
    take_lock(first)
    assert not second.take() and second._connection is None and not second.still_held()
    first.give_up()
    take_lock(second)
    assert second.still_held()


@pytest.mark.parametrize("ask", [OneProcess.still_held, take_soon], ids=["still_held", "take"])
def test_a_session_that_does_not_answer_is_lost(
    processes: Processes, ask: Callable[[OneProcess], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "ANSWER_SECONDS", 0.5)
    process = processes()
    take_lock(process)
    frozen = session_of(process)
    os.kill(frozen, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert not ask(process), "the frozen session still has the lock"
        assert time.monotonic() - began < 5
    finally:
        os.kill(frozen, signal.SIGCONT)


def test_a_connection_is_cut_only_when_it_takes_too_long() -> None:
    with open_connection() as asked:
        with answering_within(asked, 5):
            assert asked.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError), answering_within(asked, 0.2):
            asked.execute("SELECT pg_sleep(5)")


def test_connections_notice_a_host_that_is_gone() -> None:
    with open_connection() as made:
        told = made.info.get_parameters()
    assert {name: told.get(name) for name in LIMITS} == {name: str(value) for name, value in LIMITS.items()}
