"""Statements past the driver's cursor answer, refuse and keep transactions as the cursor does."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import DataError, IntegrityError, OperationalError, ProgrammingError, connection, transaction

from common import statements
from common.statements import MOST_PLANS, PREPARE_AFTER, fetch, fetch_named, run

pytestmark = pytest.mark.django_db(transaction=True)
EVERY_TYPE = """
SELECT %(nothing)s::text, %(truth)s::boolean, %(small)s::int, %(large)s::bigint, %(real)s::float8, %(exact)s::numeric,
       %(text)s::text, %(bytes)s::bytea, %(uuid)s::uuid, %(moment)s::timestamptz, %(day)s::date, %(texts)s::text[],
       %(uuids)s::uuid[], %(json)s::text::jsonb, '5 %%', %(text)s::text
"""
VALUES: dict[str, Any] = {
    "nothing": None, "truth": True, "small": -3, "large": 2**62, "real": 0.5, "exact": Decimal("1.20"),
    "text": "größer 'x' %s \\", "bytes": b"\x00\xff'", "uuid": uuid.UUID(int=7), "day": date(2030, 1, 2),
    "moment": datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "texts": ["a", "b,c", ""], "uuids": [uuid.UUID(int=1)],
    "json": json.dumps({"a": [1, None]}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def unwatched(db: None) -> Iterator[None]:
    """The tests watch statements, which takes the cursor; nobody does in a node."""
    connection.ensure_connection()
    watching = connection.execute_wrappers[:]
    connection.execute_wrappers.clear()
    yield
    connection.execute_wrappers[:] = watching


def by_cursor(text: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(text, values)
        return list(cursor.fetchall())


def test_values_and_rows_are_those_of_the_cursor_before_and_after_the_statement_is_prepared() -> None:
    for _ in range(PREPARE_AFTER + 1):
        assert fetch(EVERY_TYPE, VALUES) == by_cursor(EVERY_TYPE, VALUES)
    names = by_cursor("SELECT name FROM pg_prepared_statements WHERE statement LIKE '%%$14%%' AND name LIKE 'mazevault%%'", {})
    assert len(names) == 1


def test_the_same_text_with_other_types_is_another_plan() -> None:
    for value in (1, None, 2**40, 3) * (PREPARE_AFTER + 1):
        assert fetch("SELECT %(value)s::bigint", {"value": value}) == [(value,)]


@pytest.mark.parametrize(
    ("text", "values", "error"),
    [
        ("SELECT 1 / %(by)s::int", {"by": 0}, DataError),
        ("SELECT nothing_of_this_name", {}, ProgrammingError),
        ("INSERT INTO accounts_ratecount (key, minute, count) VALUES (%(key)s, NULL, 1)", {"key": "x"}, IntegrityError),
    ],
)
def test_what_the_database_refuses_is_the_error_of_django_and_the_connection_goes_on(
    text: Any, values: dict[str, Any], error: type[Exception]
) -> None:
    for _ in range(PREPARE_AFTER + 1):
        with pytest.raises(error):
            fetch(text, values)
    assert fetch("SELECT 1", {}) == [(1,)]


def test_the_first_statement_of_a_transaction_is_inside_of_it() -> None:
    for _ in range(PREPARE_AFTER + 1):
        with transaction.atomic():
            run("INSERT INTO accounts_ratecount (key, minute, count) VALUES (%(key)s, %(at)s, 1)", {"key": "k", "at": 5})
            transaction.set_rollback(True)
    assert fetch("SELECT count(*) FROM accounts_ratecount WHERE key = %(key)s", {"key": "k"}) == [(0,)]


def test_a_plan_that_was_made_in_a_transaction_that_failed_serves_the_next_one() -> None:
    text: Any = "SELECT 7 / %(by)s::int"
    for by in [1] * (PREPARE_AFTER - 1):
        fetch(text, {"by": by})
    with pytest.raises(DataError), transaction.atomic():
        fetch(text, {"by": 0})
    assert fetch(text, {"by": 1}) == [(7,)]


def test_a_per_cent_sign_that_is_no_parameter_is_a_mistake_of_the_programmer() -> None:
    for text in ("SELECT 1 % 2", "SELECT %s", "SELECT %(a"):
        with pytest.raises(ValueError, match="per cent"):
            fetch(text, {})
    with pytest.raises(KeyError):
        fetch("SELECT %(missing)s::int", {})


def test_what_a_connection_remembers_is_bounded() -> None:
    for number in range(MOST_PLANS + 5):
        fetch(f"SELECT {number}", {})
    text: Any = "SELECT %(late)s::int"
    for _ in range(PREPARE_AFTER + 1):
        assert fetch(text, {"late": 4}) == [(4,)]
    assert len(statements._plans_of(connection.connection)._seen) == MOST_PLANS


def test_rows_can_be_asked_for_by_name() -> None:
    for _ in range(PREPARE_AFTER + 1):
        assert fetch_named("SELECT 1 AS one, %(two)s::text AS two", {"two": "b"}) == [{"one": 1, "two": "b"}]
    with connection.execute_wrapper(lambda execute, *rest: execute(*rest)):
        assert fetch_named("SELECT 1 AS one WHERE false", {}) == []
        assert fetch_named("SELECT 1 AS one", {}) == [{"one": 1}]


def test_who_watches_statements_sees_these_too() -> None:
    seen = list[str]()
    with connection.execute_wrapper(lambda execute, sql, *rest: (seen.append(sql), execute(sql, *rest))[1]):
        assert fetch("SELECT %(one)s::int", {"one": 1}) == [(1,)]
        run("DELETE FROM accounts_ratecount WHERE key = ''", {})
    assert seen == ["SELECT %(one)s::int", "DELETE FROM accounts_ratecount WHERE key = ''"]


def test_a_connection_that_ended_is_an_operational_error() -> None:
    pid = fetch("SELECT pg_backend_pid()", {})[0][0]

    def end_it() -> None:
        run("SELECT pg_terminate_backend(%(pid)s::int)", {"pid": pid})
        connection.close()

    other = threading.Thread(target=end_it)
    other.start()
    other.join()
    with pytest.raises(OperationalError):
        fetch("SELECT 1", {})
    connection.close()
    assert fetch("SELECT 1", {}) == [(1,)]


def test_other_threads_run_while_the_database_works() -> None:
    began = time.monotonic()
    count = threading.Thread(target=lambda: (fetch("SELECT pg_sleep(0.4)", {}), connection.close()))
    count.start()
    turns = 0
    while count.is_alive() and time.monotonic() - began < 5:
        turns += 1
        time.sleep(0.01)
    assert turns > 10


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-30 15:21:22.120000+00", "2026-11-30 15:21:22+00", "2026-01-01 00:00:00.000001+00",
        "2099-12-31 23:59:59.999999+00", "1999-12-31 23:59:59.5+00", "0001-01-01 00:00:00+00", "9999-12-31 23:59:59+00",
        "2026-06-30 12:00:00.25+02",
    ],
)  # fmt: skip
def test_times_are_those_of_the_frameworks_loader(text: str) -> None:
    ((found,),) = fetch("SELECT %(text)s::text::timestamptz", {"text": text})
    assert found == datetime.fromisoformat(text) and found.tzinfo is UTC
    assert by_cursor("SELECT %(text)s::text::timestamptz", {"text": text}) == [(found,)]


@pytest.mark.parametrize("text", ["infinity", "-infinity", "12026-01-01 00:00:00+00"])
def test_times_that_python_has_not_are_refused(text: str) -> None:
    with pytest.raises(DataError):
        fetch("SELECT %(text)s::text::timestamptz", {"text": text})
