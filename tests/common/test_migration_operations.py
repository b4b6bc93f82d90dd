"""What waited too long for a table is done again, and finds what an earlier try has done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import NotSupportedError, OperationalError, ProgrammingError, connection, models, transaction
from django.db.migrations import Migration
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations import AddField
from django.db.migrations.state import ModelState, ProjectState

from common.direct import open_connection
from common.migration_operations import AddFieldOnce, BuildIndex, RunUntilDone

TABLE = "common_thing_of_a_test"
COLUMN = ("thing", "mark", models.CharField(max_length=8, default="", db_default=""))
INDEX = ("thing", models.Index(fields=["mark"], name="things_by_mark"))


def say(sentence: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sentence)


def one(sentence: str, *asked: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sentence, asked)
        row = cursor.fetchone()
        return row[0] if row else None


@pytest.fixture
def table(transactional_db: None) -> Iterator[ProjectState]:
    say(f"CREATE TABLE {TABLE} (id integer PRIMARY KEY)")
    say("SET lock_timeout = '100ms'")
    state = ProjectState()
    state.add_model(ModelState("common", "thing", [("id", models.IntegerField(primary_key=True))], {"db_table": TABLE}))
    yield state
    say("RESET lock_timeout")
    say(f"DROP TABLE {TABLE}")


def applied(state: ProjectState, *operations: Any) -> None:
    made = Migration("0099_of_a_test", "common")
    made.operations = list(operations)
    with connection.schema_editor(atomic=False) as editor:
        made.apply(state.clone(), editor)


@contextmanager
def somebody_who_reads_since_before() -> Iterator[None]:
    """A snapshot that is older than an index is waited for at its end."""
    held, over = threading.Event(), threading.Event()

    def read() -> None:
        with open_connection() as other, other.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT count(*) FROM common_change")
            held.set()
            over.wait(10)
            cursor.execute("ROLLBACK")

    reader = threading.Thread(target=read)
    reader.start()
    assert held.wait(5)
    try:
        yield
    finally:
        over.set()
        reader.join()


def is_valid() -> Any:
    return one("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('things_by_mark')")


def test_what_was_broken_off_is_done_again(table: ProjectState) -> None:
    with somebody_who_reads_since_before(), pytest.raises(OperationalError, match="lock timeout"):
        applied(table, AddFieldOnce(*COLUMN), BuildIndex(*INDEX))
    assert is_valid() is False
    applied(table, AddFieldOnce(*COLUMN), BuildIndex(*INDEX))
    assert is_valid() is True
    assert one("SELECT count(*) FROM pg_indexes WHERE tablename = 'common_thing_of_a_test'") == 2, (
        "the other one is that of the primary key"
    )
    applied(table, AddFieldOnce(*COLUMN), BuildIndex(*INDEX))


def test_the_frameworks_own_cannot_be_done_again(table: ProjectState) -> None:
    """The reason for the operations here; when this fails, they are not needed any more."""
    with somebody_who_reads_since_before(), pytest.raises(OperationalError, match="lock timeout"):
        applied(table, AddField(*COLUMN), AddIndexConcurrently(*INDEX))
    with pytest.raises(ProgrammingError, match="already exists"):
        applied(table, AddField(*COLUMN))
    with pytest.raises(ProgrammingError, match="already exists"):
        applied(table, AddFieldOnce(*COLUMN), AddIndexConcurrently(*INDEX))


def test_rows_are_changed_in_batches_until_none_is_left(table: ProjectState) -> None:
    say("INSERT INTO common_thing_of_a_test SELECT generate_series(1, 25)")
    less = "UPDATE common_thing_of_a_test SET id = -id WHERE id IN (SELECT id FROM common_thing_of_a_test WHERE id > 0 LIMIT 10)"
    applied(table, RunUntilDone(less))
    assert one("SELECT count(*) FROM common_thing_of_a_test WHERE id > 0") == 0
    with transaction.atomic(), pytest.raises(NotSupportedError, match="atomic = False"):
        applied(table, RunUntilDone(less))
    with pytest.raises(ValueError, match="LIMIT"):
        RunUntilDone("UPDATE common_thing_of_a_test SET id = 0")


@pytest.mark.django_db(transaction=True)
def test_what_an_older_form_of_a_migration_left_is_found() -> None:
    """0010 of `vault` was one migration with everything: broken off after the first column, or after the first index."""
    loader = MigrationLoader(connection)
    divided = [name for name in sorted(loader.disk_migrations) if name[0] == "vault" and "0010" <= name[1][:4] <= "0013"]
    before = loader.project_state([("vault", "0009_kept_values")])
    say("ALTER TABLE vault_secretversion DROP COLUMN value_mark")
    for _ in range(2):
        state = before.clone()
        for name in divided:
            migration = loader.disk_migrations[name]
            with connection.schema_editor(atomic=migration.atomic) as editor:
                state = migration.apply(state, editor)
        for index in ("versions_by_value", "versions_by_digest"):
            assert one("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", index) is True
