"""Statements over many items at once: arrays go in, one row for each item comes out (docs/adr/0039).

One text serves both a single item, which waits for rows that somebody else holds, and a group of many callers' items. A group
never waits for a row: it takes hold of what is free first, an item whose row is held is left out of its answer and is then run
alone, so that it holds up none of its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection
from psycopg.types.numeric import Int4, Int8

Item = Mapping[str, Any]
Row = dict[str, Any]


_BINARY: Mapping[str, Callable[[Any], Any]] = {
    "bigint": Int8, "int": Int4, "float8": float, "timestamptz": lambda moment: moment.isoformat(),
}  # fmt: skip
"""What a value of this SQL type is made to first. A time goes as text: an array of nothing but NULL would have another type."""


@dataclass(frozen=True)
class Grouped:
    """`text` finds its items in `{asked}`, a relation with the columns of `types` and `place`, the number of the item, and
    returns `place` first. Of two items with the same `key` only one is in a group."""

    name: str
    text: str
    types: Mapping[str, str]
    """Name to SQL type of what an item has."""
    key: str
    hold: str = ""
    """Stands for `{hold}` in a group: how the rows of the items are taken hold of, with SKIP LOCKED. A single item does not take
    hold of its row before it changes it: what it joins would be older than the row it waited for (docs/adr/0033)."""

    def sql(self, *, group: bool) -> str:
        form = "b" if group else "s"
        arrays = ", ".join(f"%({name}){form}::{kind}[]" for name, kind in self.types.items())
        asked = f"unnest({arrays}) WITH ORDINALITY AS asked ({', '.join(self.types)}, place)"
        return self.text.format(asked=asked, hold=self.hold if group else "")

    def arrays(self, items: Sequence[Item]) -> dict[str, list[Any]]:
        return {name: [item[name] for item in items] for name in self.types}

    def binary_arrays(self, items: Sequence[Item]) -> dict[str, list[Any]]:
        """The same for a group, whose values travel as they are: each array has one type whatever is in it, so that the statement
        stays the one that was prepared."""
        found = {}
        for name, kind in self.types.items():
            of_kind = _BINARY.get(kind)
            found[name] = [item[name] if of_kind is None or item[name] is None else of_kind(item[name]) for item in items]
        return found


def rows_by_place(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[int, Row]:
    """The rows of an answer, by the number of their item from 0 on."""
    return {row[0] - 1: dict(zip(names[1:], row[1:], strict=True)) for row in rows}


def run_alone(statement: Grouped, item: Item) -> Row | None:
    """One item on Django's connection; waits for its rows. None when there is no answer for it."""
    with connection.cursor() as cursor:
        cursor.execute(statement.sql(group=False), statement.arrays([item]))
        names = [column.name for column in cursor.description or ()]
        return rows_by_place(names, cursor.fetchall()).get(0)
