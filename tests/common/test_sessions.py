"""No session waits, or is waited for, without end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.commands import migrate as djangos
from django.db import Error, OperationalError, connection, transaction
from psycopg import errors

from common.api import translate
from common.direct import open_connection
from common.models import Change
from common.sessions import IDLE_SECONDS, LIMITS, LOCK_SECONDS, STATEMENT_SECONDS, with_limits
from orchestrator.management.commands import migrate

NAMES = {
    "lock_timeout": LOCK_SECONDS,
    "statement_timeout": STATEMENT_SECONDS,
    "idle_in_transaction_session_timeout": IDLE_SECONDS,
}


def told(cursor: Any) -> dict[str, int]:
    cursor.execute("SELECT name, setting::int / 1000 FROM pg_settings WHERE name = ANY(%s)", [list(NAMES)])
    return dict(cursor.fetchall())


def test_every_session_has_limits(db: None) -> None:
    with connection.cursor() as cursor:
        assert told(cursor) == NAMES
    with open_connection() as own, own.cursor() as cursor:
        assert told(cursor) == NAMES
    given = connection.get_connection_params()
    assert {name: int(given[name]) for name in LIMITS} == dict(LIMITS)


def test_what_the_url_says_goes_before() -> None:
    made = with_limits({"connect_timeout": "9", "options": "-c lock_timeout=1s"})
    assert made["connect_timeout"] == "9" and made["options"].endswith("-c lock_timeout=1s")


@contextmanager
def somebody(does: Callable[[], None]) -> Iterator[threading.Event]:
    """Another thread in a transaction that has done this and then stands still until the block is left."""
    done, left = threading.Event(), threading.Event()

    def run() -> None:
        try:
            with transaction.atomic():
                does()
                done.set()
                left.wait(20)
        except Error:
            pass
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert done.wait(10)
    try:
        yield left
    finally:
        left.set()
        thread.join()


def change() -> Change:
    return Change.objects.create(scope="NPR", kind="secret", entity_id="00000000-0000-0000-0000-000000000001")


def say(sentence: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sentence)


@pytest.mark.django_db(transaction=True)
def test_who_waits_too_long_for_a_row_is_told_to_come_again() -> None:
    row = change()
    with somebody(lambda: bool(Change.objects.select_for_update().get(pk=row.pk))):
        say("SET lock_timeout = '200ms'")
        with pytest.raises(Error) as refused:
            Change.objects.filter(pk=row.pk).update(kind="project")
        connection.close()
    answer = translate(refused.value)
    assert (answer.status, answer.retry_after) == (503, 2) and "nothing was changed; try again" in answer.sentence


@pytest.mark.django_db(transaction=True)
def test_a_session_that_holds_a_row_and_does_nothing_is_ended_and_the_others_go_on() -> None:
    connection.close()  # whatever a test before has set for this session
    row, ended = change(), list[Exception]()

    def holds() -> None:
        say("SET idle_in_transaction_session_timeout = '300ms'")
        Change.objects.select_for_update().get(pk=row.pk)

    def goes_on() -> bool:
        with somebody(holds):
            began = time.monotonic()
            with contextlib.suppress(OperationalError):
                Change.objects.filter(pk=row.pk).update(kind="project")
                return time.monotonic() - began < 5
        return False

    assert goes_on() or goes_on(), "the server ends such a session by a timer of its own, which may be late"
    try:
        with transaction.atomic():
            say("SET LOCAL idle_in_transaction_session_timeout = '100ms'")
            time.sleep(0.6)
            say("SELECT 1")
    except Exception as error:
        ended.append(error)
    connection.close()
    assert translate(ended[0]).status == 503


@pytest.mark.django_db(transaction=True)
def test_a_migration_waits_briefly_and_often(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []

    def needs_a_table(self: Any, *_: Any, **__: Any) -> None:
        tries.append(time.monotonic())
        with transaction.atomic():
            say("LOCK TABLE common_change IN ACCESS EXCLUSIVE MODE")

    monkeypatch.setattr(djangos.Command, "handle", needs_a_table)
    monkeypatch.setattr(migrate, "LIMITS", {**migrate.LIMITS, "lock_timeout": 1})
    monkeypatch.setattr(migrate, "PAUSE_SECONDS", 0.2)
    with somebody(lambda: bool(change())) as left:
        threading.Timer(1.5, left.set).start()
        call_command("migrate")
    assert len(tries) > 1
    with connection.cursor() as cursor:
        assert told(cursor) == NAMES, "the session is as it was"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("state", "tries"), [("40P01", 2), ("55P03", 2), ("42601", 1)])
def test_a_migration_tries_again_after_what_passes_by_itself_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, state: str, tries: int
) -> None:
    """Two that waited for each other are as good a reason as a table in use."""
    made = list[str]()

    def fails_once(self: Any, *_: Any, **__: Any) -> None:
        made.append(state)
        if len(made) == 1:
            raise OperationalError("no") from errors.lookup(state)("no")

    monkeypatch.setattr(djangos.Command, "handle", fails_once)
    monkeypatch.setattr(migrate, "PAUSE_SECONDS", 0.01)
    with contextlib.suppress(OperationalError):
        call_command("migrate")
    assert len(made) == tries


@pytest.mark.django_db(transaction=True)
def test_a_migration_that_never_gets_its_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(djangos.Command, "handle", lambda *_, **__: say("LOCK TABLE common_change"))
    monkeypatch.setattr(migrate, "TRIES", 1)
    with pytest.raises(Error):
        call_command("migrate")
