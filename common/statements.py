"""Statements of paths that are called all the time, on the connection the request has anyway and without the ORM.

The ORM makes the same text anew for each call, which costs more than the database takes for it. These texts are constants, so
the driver and the database keep what they made of them. Whoever watches statements (`execute_wrapper`, the log of queries) sees
these too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, LiteralString

import psycopg
from django.db import connection

PREPARE_AFTER = 3
"""Times a connection sees a text before the database keeps a plan for it."""


def fetch(text: LiteralString, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The rows of a statement. Parameters are named and carry a cast where their type is not plain from where they stand.

    Raises the errors of `django.db`, as the ORM would.
    """
    if connection.execute_wrappers or connection.queries_logged:
        return _fetch_watched(text, values)
    connection.ensure_connection()
    raw = connection.connection
    with connection.wrap_database_errors:
        before, raw.prepare_threshold = raw.prepare_threshold, PREPARE_AFTER
        try:
            with psycopg.Cursor(raw) as cursor:
                return cursor.execute(text, values).fetchall()
        finally:
            raw.prepare_threshold = before


def _fetch_watched(text: LiteralString, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(text, values)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows
