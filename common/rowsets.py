"""Many rows of one table in one statement, whatever their number (docs/adr/0037).

Rows travel as one JSON text: a statement stays the same for one row and for a thousand, and nothing is built from values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from common.statements import run

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Rowset:
    """Columns of a table with their PostgreSQL types. `bytea` is given as bytes, `jsonb` as a value or as `msgspec.Raw` text."""

    table: str
    columns: Mapping[str, str]
    key: str = "id"

    def insert(self, rows: Sequence[Row]) -> None:
        """Insert them in their order. A column that a row does not have is NULL."""
        self._run(self._insert, rows)

    def upsert(self, rows: Sequence[Row], *, unique: Sequence[str], changed: Sequence[str]) -> None:
        """Insert them, or give those that are there by their `unique` columns the `changed` ones. Each once."""
        taken = ", ".join(f"{name} = excluded.{name}" for name in changed)
        self._run(f"{self._insert} ON CONFLICT ({', '.join(unique)}) DO UPDATE SET {taken}", rows)

    def update(self, rows: Sequence[Row]) -> None:
        """Give the rows with these keys these columns. Each key once."""
        self._run(self._update, rows)

    def _run(self, statement: str, rows: Sequence[Row]) -> None:
        if rows:
            run(statement, {"rows": msgspec.json.encode(rows).decode()})

    @cached_property
    def _insert(self) -> str:
        names = ", ".join(self.columns)
        return f"INSERT INTO {self.table} ({names}) SELECT {', '.join(map(self._value, self.columns))} FROM {self._source}"  # noqa: S608

    @cached_property
    def _update(self) -> str:
        changed = ", ".join(f"{name} = {self._value(name)}" for name in self.columns if name != self.key)
        return f"UPDATE {self.table} AS t SET {changed} FROM {self._source} WHERE t.{self.key} = r.{self.key}"  # noqa: S608

    @property
    def _source(self) -> str:
        types = {name: "text" if kind == "bytea" else kind for name, kind in self.columns.items()}
        return f"json_to_recordset(%(rows)s::json) AS r({', '.join(f'{name} {kind}' for name, kind in types.items())})"

    def _value(self, name: str) -> str:
        return f"decode(r.{name}, 'base64')" if self.columns[name] == "bytea" else f"r.{name}"
