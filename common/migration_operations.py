"""Operations of migrations that stop nobody, beside those Django has.

`manage.py migrate` tries again what waited too long for a table. In a migration with `atomic = False` what was done before the
wait stays, so there each operation must find its own work done: `AddFieldOnce`, `BuildIndex` and `RunUntilDone` do.
"""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import NotSupportedError, transaction
from django.db.migrations.operations import AddField, AlterField, RunSQL
from django.db.models import CharField

_COLUMN = """
SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = %s AND NOT attisdropped AND attnum > 0
"""
_INDEX = """
SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relname = %s AND i.indrelid = to_regclass(%s)
"""


class LongerText(AlterField):
    """A higher limit for a text column, nothing else. PostgreSQL changes its catalogue only: no row and no index is read
    (release notes of 9.2, "ALTER TABLE"). Raises `ValueError` for any other change."""

    def state_forwards(self, app_label: str, state: Any) -> None:
        before = state.models[app_label, self.model_name_lower].fields[self.name]
        (_, _, old_args, old), (_, _, args, new) = before.deconstruct(), self.field.deconstruct()
        lengths = [facts.pop("max_length", None) for facts in (old, new)]
        same = type(before) is type(self.field) is CharField and (old_args, old) == (args, new)
        if not same or None in lengths or lengths[0] > lengths[1]:
            raise ValueError(f"{self.model_name}.{self.name}: only the limit of a text may grow here")
        super().state_forwards(app_label, state)


class AddFieldOnce(AddField):
    """A plain column, unless it is there already: of a try that was broken off, or of a migration that was divided since."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        table, column = model._meta.db_table, model._meta.get_field(self.name).column
        with transaction.atomic(using=schema_editor.connection.alias):  # a default is given and taken away in two statements
            if not _found(schema_editor, _COLUMN, [schema_editor.quote_name(table), column]):
                super().database_forwards(app_label, schema_editor, from_state, to_state)


class BuildIndex(AddIndexConcurrently):
    """An index that is built while others go on writing, and built once.

    A build that is broken off leaves an index of its name that is not valid, which PostgreSQL writes on but never uses ("Building
    Indexes Concurrently" on its page of CREATE INDEX): that one is dropped and built anew. A valid one is the work of an earlier
    try. Needs `atomic = False`.
    """

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        self._ensure_not_in_transaction(schema_editor)
        table = schema_editor.quote_name(to_state.apps.get_model(app_label, self.model_name)._meta.db_table)
        found = _found(schema_editor, _INDEX, [self.index.name, table])
        if found and found[0][0]:
            return
        if found:
            schema_editor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {schema_editor.quote_name(self.index.name)}")
        super().database_forwards(app_label, schema_editor, from_state, to_state)


class RunUntilDone(RunSQL):
    """A change of rows in batches, each committed by itself, so that no row stays locked for as long as the table is large.

    The statement bounds itself with LIMIT and finds only rows that still need it; it is run until it finds none. Needs
    `atomic = False`.
    """

    def __init__(self, sql: str) -> None:
        if "LIMIT" not in sql.upper():
            raise ValueError("a statement in batches bounds each of them with LIMIT")
        super().__init__(sql, RunSQL.noop)

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        return self.__class__.__qualname__, [], {"sql": self.sql}

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.in_atomic_block:
            raise NotSupportedError("RunUntilDone needs a migration with atomic = False")
        with schema_editor.connection.cursor() as cursor:
            cursor.execute(self.sql)
            while cursor.rowcount:
                cursor.execute(self.sql)


def _found(schema_editor: Any, sql: str, asked: list[str]) -> list[tuple[Any, ...]]:
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(sql, asked)
        return list(cursor.fetchall())
