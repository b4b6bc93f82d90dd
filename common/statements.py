"""Statements of paths that are called all the time, on the connection the request has anyway and without the ORM.

The ORM makes the same text anew for each call, which costs more than the database takes for it. These texts are constants, so
the driver and the database keep what they made of them. Whoever watches statements (`execute_wrapper`, the log of queries) sees
these too.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, LiteralString
from weakref import WeakKeyDictionary

import msgspec
import psycopg
from django.db import connection
from django.db.models import Field, Model
from django.db.models.expressions import DatabaseDefault
from psycopg import errors
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

PREPARE_AFTER = 3
"""Times a connection sees a text before the database keeps a plan for it."""
MOST_PLANS = 300
"""Texts and types of parameters that a connection remembers. The texts are constants, of which there are fewer."""


def fetch(text: LiteralString, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The rows of a statement. Parameters are named and carry a cast where their type is not plain from where they stand.

    Raises the errors of `django.db`, as the ORM would.
    """
    return _executed(text, values)[1]


def fetch_named(text: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows by column name, else as `fetch`."""
    names, rows = _executed(text, values)
    return [dict(zip(names, row, strict=True)) for row in rows]


def run(text: str, values: Mapping[str, Any]) -> None:
    """A statement whose rows nobody wants, else as `fetch`. Its text is one of few: each connection keeps a plan for it."""
    _executed(text, values)


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


def _executed(text: str, values: Mapping[str, Any]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The names of the columns, and the rows."""
    if not (connection.execute_wrappers or connection.queries_logged):
        connection.ensure_connection()
        raw = connection.connection
        if raw.autocommit or raw.pgconn.transaction_status != TransactionStatus.IDLE:
            with connection.wrap_database_errors:
                return _asked(raw, text, values)
    with connection.cursor() as cursor:  # it is watched, or a transaction has to be begun first
        cursor.execute(text, values)
        if not cursor.description:
            return [], []
        return [column.name for column in cursor.description], cursor.fetchall()


def _asked(raw: psycopg.Connection[Any], text: str, values: Mapping[str, Any]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """What the driver's cursor does, with the same adaptation of types, but for what it does anew each time: reading the text,
    making objects, switching between its generators. That was two thirds of what a short statement costs here.
    """
    plain_text, wanted = _numbered(text)
    adapted = Transformer(raw)
    parameters = adapted.dump_sequence([values[name] for name in wanted], [PyFormat.AUTO] * len(wanted))
    types, formats = adapted.types or (), adapted.formats
    with raw.lock:
        plan = _plans_of(raw).plan(raw, plain_text, types)
        if plan is None:
            result = raw.pgconn.exec_params(plain_text, parameters, types, formats)
        else:
            result = raw.pgconn.exec_prepared(plan, parameters, formats)  # type: ignore[arg-type]  # None is a NULL here too
    if result.status == ExecStatus.TUPLES_OK:
        adapted.set_pgresult(result)
        names = [(result.fname(column) or b"").decode() for column in range(result.nfields)]
        return names, adapted.load_rows(0, result.ntuples, tuple)
    if result.status == ExecStatus.COMMAND_OK:
        return [], []
    raise _error_of(raw, result)


def _error_of(raw: psycopg.Connection[Any], result: PGresult) -> psycopg.Error:
    if raw.pgconn.status != ConnStatus.OK:
        return psycopg.OperationalError(raw.pgconn.get_error_message(raw.info.encoding))
    return errors.error_from_result(result, encoding=raw.info.encoding)


_PARAMETER = re.compile(r"%(?:\((\w+)\)s|%)|%")


@lru_cache(maxsize=512)
def _numbered(text: str) -> tuple[bytes, tuple[str, ...]]:
    """The text with `$1` for `%(name)s`, and the names in the order of their numbers. Raises `ValueError` for any other `%`."""
    names: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        if found[1] is None:
            raise ValueError("a per cent sign in a statement is written %%, a parameter %(name)s")
        return f"${names.setdefault(found[1], len(names) + 1)}"

    return _PARAMETER.sub(number, text).encode(), tuple(names)


class _Plans:
    """What the database keeps for one connection: statements under a name, by text and types of the parameters."""

    def __init__(self) -> None:
        self._seen: dict[tuple[bytes, tuple[int, ...]], int | bytes] = {}
        """How often a statement was seen, then the name of its plan."""
        self._names = (b"mazevault_%d" % number for number in itertools.count())

    def plan(self, raw: psycopg.Connection[Any], text: bytes, types: tuple[int, ...]) -> bytes | None:
        """The name of the plan; None for a statement that is not worth one yet, or when there are too many. Raises the errors of
        psycopg."""
        key = (text, types)
        seen = self._seen.get(key, 0)
        if isinstance(seen, bytes):
            return seen
        if not seen and len(self._seen) >= MOST_PLANS:
            return None
        if seen + 1 < PREPARE_AFTER:
            self._seen[key] = seen + 1
            return None
        name = next(self._names)
        result = raw.pgconn.prepare(name, text, types)
        if result.status != ExecStatus.COMMAND_OK:
            raise _error_of(raw, result)
        self._seen[key] = name
        return name


_plans: WeakKeyDictionary[psycopg.Connection[Any], _Plans] = WeakKeyDictionary()


def _plans_of(raw: psycopg.Connection[Any]) -> _Plans:
    found = _plans.get(raw)
    if found is None:
        found = _plans[raw] = _Plans()
    return found


def plain(value: Any) -> Any:
    """A JSON column as a plain value, however the connection hands it over."""
    return msgspec.json.decode(value) if isinstance(value, str) else value
