"""One outage is two lines of the log, however many loops, tasks and requests meet it, and its end is noticed within seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from celery import Celery
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection
from psycopg_pool import ConnectionPool

from common import outages
from common.api import translate
from common.clock import now
from common.outages import QUIET_SECONDS, Outage, PoolCrowded, is_outage
from common.postgresql import base
from failover import driver
from gateways import rotations, surveys
from orchestrator import loops
from orchestrator.celery import Job, app

GONE = OperationalError("connection failed: Connection refused\n\tIs the server running?")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def wrapped(state: str) -> OperationalError:
    """An error of the framework with the driver's behind it, which names a SQLSTATE."""
    kind = psycopg.errors.lookup(state)
    error = OperationalError("x")
    error.__cause__ = kind("x")
    return error


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """The lines of one fresh outage."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Lines()
    outages.log.addHandler(handler)
    monkeypatch.setattr(outages, "database", Outage("the database", Clock()))
    yield lines
    outages.log.removeHandler(handler)


def test_it_is_told_when_it_begins_and_when_it_is_over(told: list[str]) -> None:
    clock = Clock()
    outage = Outage("the database", clock)
    for _ in range(50):
        outage.failed(GONE)
        clock.now += 1.5
    outage.answered()
    outage.answered()
    assert told == [
        "the database does not answer: connection failed: Connection refused; what needs it tries again until it does",
        "the database answers again after 75 s",
    ]


def test_a_server_that_flutters_is_one_outage(told: list[str]) -> None:
    clock = Clock()
    outage = Outage("the database", clock)
    for _ in range(20):
        outage.failed(GONE)
        clock.now += 0.5
        outage.answered()
    assert len(told) == 2
    clock.now += QUIET_SECONDS
    outage.failed(GONE)
    assert len(told) == 3


def test_one_that_goes_on_in_part_is_told_again(told: list[str]) -> None:
    """One of several hosts is away: some are answered all the time."""
    clock = Clock()
    outage = Outage("the database", clock)
    for _ in range(300):
        outage.failed(GONE)
        clock.now += 0.25
        outage.answered()
        clock.now += 0.25
    assert told[:2] == [
        "the database does not answer: connection failed: Connection refused; what needs it tries again until it does",
        "the database answers again after 0 s",
    ]
    assert [line[:60] for line in told[2:]] == ["the database answers in part only: 120 times it did not within"[:60]] * 2


@pytest.mark.django_db
def test_a_crowded_pool_is_no_outage_of_the_database(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = {name: value for name, value in connection.get_connection_params().items() if name != "context"}
    monkeypatch.setattr(outages, "crowded", outages.Told())
    with ConnectionPool(kwargs=parameters, min_size=1, max_size=1, timeout=0.2, name="people", open=True) as pool:
        monkeypatch.setattr(base.DatabaseWrapper, "pool", pool)
        with pool.connection():
            for _ in range(2):
                with pytest.raises(PoolCrowded) as caught:
                    connection.copy().get_new_connection({})
    assert told == ["all 1 connections of people to the database were in use for 8 s; who asks now is told to try again"]
    wrapped = OperationalError("x")
    wrapped.__cause__ = caught.value
    refused = translate(wrapped)
    assert refused.status == 503 and "in use" in refused.sentence and not is_outage(wrapped) and len(told) == 1


@pytest.mark.django_db
def test_a_pool_whose_connections_are_refused_is_one(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = {"host": "127.0.0.1", "port": 1, "connect_timeout": 1}
    with ConnectionPool(kwargs=nowhere, min_size=1, max_size=1, timeout=0.5, reconnect_timeout=0.2, open=True) as pool:
        monkeypatch.setattr(base.DatabaseWrapper, "pool", pool)
        with pytest.raises(psycopg.OperationalError) as caught:
            connection.copy().get_new_connection({})
    assert not isinstance(caught.value, PoolCrowded) and told and "does not answer" in told[0]


@pytest.mark.parametrize(
    ("error", "away"),
    [(GONE, True), (psycopg.OperationalError("gone"), True), (wrapped("57P01"), True), (wrapped("57P03"), True),
     (wrapped("08006"), True), (wrapped("55P03"), False), (wrapped("40P01"), False), (wrapped("57014"), False),
     (ValueError("x"), False)],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_a_server_that_answered_no_is_not_away(told: list[str], error: Exception, away: bool) -> None:
    assert is_outage(error) is away and bool(told) is away


def test_tasks_and_loops_tell_nothing_of_their_own(told: list[str], monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def gone() -> None:
        raise GONE

    worker = Celery("test", task_cls=Job, set_as_current=False)
    task = worker.task(gone)
    turns = iter([False, False, False, True])
    monkeypatch.setattr(loops, "_waits", lambda *_: next(turns))
    monkeypatch.setattr(loops.threading.Event, "wait", lambda *_: False)
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            assert task() is None
        loops._run("reconcile-writes", gone, 1.0, loops.threading.Event())
    assert len(told) == 1 and not [one for one in caplog.records if one.exc_info]
    assert issubclass(app.Task, Job)


def _drive(monkeypatch: pytest.MonkeyPatch, step: Callable[..., Any]) -> None:
    monkeypatch.setattr(driver, "_environments_to_look_at", lambda: ["NPR", "PRO"])
    monkeypatch.setattr(driver, "drive", step)
    driver.drive_all()


def _read_a_survey(monkeypatch: pytest.MonkeyPatch, step: Callable[..., Any]) -> None:
    monkeypatch.setattr(surveys, "_read", step)
    surveys._alone("x", now())


def _rotate(_: pytest.MonkeyPatch, step: Callable[..., Any]) -> None:
    rotations._alone(step, "x", now())


@pytest.mark.parametrize("work", [_drive, _read_a_survey, _rotate])
@pytest.mark.parametrize("error", [GONE, InterfaceError("the connection is closed")], ids=["refused", "closed"])
def test_work_that_goes_item_by_item_leaves_an_outage_to_who_called(
    told: list[str], monkeypatch: pytest.MonkeyPatch, caplog: Any, work: Callable[..., None], error: Exception
) -> None:
    """Else each item, each environment and each second has lines of its own, some with a traceback."""

    def step(*_: Any) -> int:
        raise error

    with caplog.at_level(logging.DEBUG), pytest.raises(type(error)):
        work(monkeypatch, step)
    assert not [one for one in caplog.records if one.name != outages.log.name]


def test_a_step_that_a_living_database_refused_is_told_in_one_line(
    told: list[str], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def step(*_: Any) -> int:
        raise wrapped("55P03")

    _drive(monkeypatch, step)
    lines = [one.getMessage() for one in caplog.records if one.name == driver.log.name]
    assert [line.split(":")[0] for line in lines] == ["NPR", "PRO"] and told == []


def test_the_pool_tells_nothing_of_each_try_and_gives_up_early_to_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the library's pauses, which double up to minutes, work stood still long after the database was back."""
    assert settings.LOGGING["loggers"]["psycopg.pool"]["level"] == "ERROR"
    assert base.RECONNECT_SECONDS <= 5
    made = connection._new_pool({"threads": 8}) if hasattr(connection, "_new_pool") else None
    assert made is not None and made.reconnect_timeout == base.RECONNECT_SECONDS


def test_a_pool_that_gave_up_connects_as_soon_as_somebody_asks() -> None:
    down = [True]

    class Flaky(psycopg.Connection[Any]):
        @classmethod
        def connect(cls, *args: Any, **more: Any) -> Any:
            if down[0]:
                raise psycopg.OperationalError("connection refused")
            return super().connect(*args, **more)

    logging.getLogger("psycopg.pool").setLevel("ERROR")
    parameters = {name: value for name, value in connection.get_connection_params().items() if name != "context"}
    with ConnectionPool(kwargs=parameters, connection_class=Flaky, open=False, min_size=1, reconnect_timeout=0.1) as pool:
        time.sleep(1.2)  # by now it has given up
        down[0] = False
        began = time.monotonic()
        pool.putconn(pool.getconn(timeout=2))
        assert time.monotonic() - began < 0.5
