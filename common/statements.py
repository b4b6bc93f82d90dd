"""Statements of paths that are called all the time, on the connection the request has anyway and without the ORM.

The ORM makes the same text anew for each call, which costs more than the database takes for it. These texts are constants, so
the driver and the database keep what they made of them. Whoever watches statements (`execute_wrapper`, the log of queries) sees
these too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, LiteralString

import psycopg
from django.db import connection
from django.db.models import Field, Model
from django.db.models.expressions import DatabaseDefault

PREPARE_AFTER = 3
"""Times a connection sees a text before the database keeps a plan for it."""


def fetch(text: LiteralString, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The rows of a statement. Parameters are named and carry a cast where their type is not plain from where they stand.

    Raises the errors of `django.db`, as the ORM would.
    """
    with _executed(text, values) as cursor:
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def run(text: str, values: Mapping[str, Any]) -> None:
    """A statement without rows, else as `fetch`. Its text is one of few: each connection keeps a plan for it."""
    with _executed(text, values):
        pass


def insert(row: Model) -> None:
    """Insert a row of a plain model (no parents, no computed columns, nothing that is set at each save): no signals, and what the
    database filled in is not learned.

    Raises `django.db.IntegrityError` where a constraint refuses it.
    """
    model = type(row)
    fields = tuple(
        field for field in model._meta.local_concrete_fields
        if not isinstance(value := getattr(row, field.attname), DatabaseDefault) and not (field.primary_key and value is None)
    )  # fmt: skip
    run(_insert_text(model, fields), {
        field.attname: field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields
    })  # fmt: skip
    row._state.adding = False


@lru_cache(maxsize=64)
def _insert_text(model: type[Model], fields: tuple[Field[Any, Any], ...]) -> str:
    columns, values = ", ".join(str(field.column) for field in fields), ", ".join(f"%({field.attname})s" for field in fields)
    return f"INSERT INTO {model._meta.db_table} ({columns}) VALUES ({values})"  # noqa: S608  names of our models


@contextmanager
def _executed(text: str, values: Mapping[str, Any]) -> Iterator[Any]:
    if connection.execute_wrappers or connection.queries_logged:
        with connection.cursor() as watched:
            watched.execute(text, values)
            yield watched
        return
    connection.ensure_connection()
    raw = connection.connection
    with connection.wrap_database_errors:
        before, raw.prepare_threshold = raw.prepare_threshold, PREPARE_AFTER
        try:
            with psycopg.Cursor(raw) as cursor:
                cursor.execute(text.encode(), values)
                yield cursor
        finally:
            raw.prepare_threshold = before


def plain(value: Any) -> Any:
    """A JSON column as a plain value, however the connection hands it over."""
    return json.loads(value) if isinstance(value, str) else value
