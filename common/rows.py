"""Lock first, read second (docs/adr/0033).

A statement that waits for a row looks at that row again afterwards, but not at what it read of other rows: a joined thing is
as it was before the wait, or seems not to be there at all. So a row is locked by its key alone, and then read with what it
refers to.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from django.db import connection
from django.db.models import Model, QuerySet

Row = TypeVar("Row", bound=Model)


def locked(rows: QuerySet[Row], identifier: Any, *, no_key: bool = False, skip_locked: bool = False) -> Row | None:
    """The row with this key, held until the transaction ends and read after that; None when these rows have none, or, where
    held ones are skipped, when somebody else holds it.

    `no_key`: rows may go on to be made that refer to this one.
    """
    if hold(rows.model, [identifier], no_key=no_key, skip_locked=skip_locked):
        return rows.filter(pk=identifier).first()
    return None


def kept(rows: QuerySet[Row], identifier: Any) -> Row | None:
    """The row with this key, read when nobody can delete it any more until the transaction ends; None when these rows have none.

    For a row that a new one is to refer to. It is the lock that a foreign key takes (FOR KEY SHARE,
    https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-ROWS), but before the row is read and not at the commit,
    when all that is left to say is an error of the database. A deletion, a soft one too, takes the row with `locked`.
    """
    return rows.filter(pk=identifier).first() if _read_locked(rows.model, [identifier], "KEY SHARE") else None


def ensure(model: type[Model], **values: Any) -> None:
    """Make this row unless one is there already. Two who do it at the same time meet no error of the database."""
    model._base_manager.bulk_create([model(**values)], ignore_conflicts=True)


def hold(model: type[Model], identifiers: Any, *, no_key: bool = False, skip_locked: bool = False) -> list[Any]:
    """Lock the rows with these keys, in the order of their keys so that two never meet half way; returns those there are."""
    rows = model._base_manager.select_for_update(no_key=no_key, skip_locked=skip_locked)
    return list(rows.filter(pk__in=identifiers).order_by("pk").values_list("pk", flat=True))


def share(model: type[Model], identifiers: Any) -> list[Any]:
    """Keep the rows with these keys as they are until the transaction ends, together with others who only read them (FOR SHARE);
    returns those there are. In the order of `hold`."""
    return _read_locked(model, identifiers, "SHARE")


def _read_locked(model: type[Model], identifiers: Any, strength: Literal["SHARE", "KEY SHARE"]) -> list[Any]:
    key = model._meta.pk
    wanted = [key.get_db_prep_value(key.to_python(one), connection) for one in identifiers]
    if not wanted:
        return []
    table, column = (connection.ops.quote_name(str(name)) for name in (model._meta.db_table, key.column))
    with connection.cursor() as cursor:
        query = f"SELECT {column} FROM {table} WHERE {column} = ANY(%s) ORDER BY {column} FOR {strength}"  # noqa: S608
        cursor.execute(query, [wanted])
        return [row[0] for row in cursor.fetchall()]
