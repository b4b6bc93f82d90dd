"""Envelope encryption for the layers below the vault: they seal and open, the vault knows the keys (DESIGN §10).

The vault registers itself when its app is ready, so nothing here knows how values are sealed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from common.errors import MazeVaultError

CHANGED_ROW = "its row in the database was changed, moved or taken from another backup"


class SealBroken(Exception):
    """The sealed value was changed, or does not belong to this row, scope or version."""


class Unreadable(MazeVaultError, SealBroken):
    """The same for people: the sentence names what does not open, and what to do."""

    default_code = "SEAL_BROKEN"


Place = tuple[str, str, str, int]
"""Scope, table, row and version a value is sealed for."""


class Sealer(Protocol):
    """Seals a value for exactly one place: scope, table, row and version. `open_sealed` raises for any other place."""

    def seal(self, scope: str, table: str, row: str, version: int, plaintext: bytes) -> bytes: ...

    def open_sealed(self, scope: str, table: str, row: str, version: int, sealed: bytes) -> bytes: ...


@dataclass(frozen=True)
class SealedColumn:
    """A column that holds sealed values, so that a new key can be given to all of them (`vault.keys`).

    `model` is Django's label. `place` tells from a row what its value is sealed for; `related` names what it looks at beside the
    row. `keyed` gives further columns whose content depends on the key, from the row and the opened value.
    """

    model: str
    column: str
    place: Callable[[Any], Place]
    related: tuple[str, ...] = ()
    keyed: Callable[[Any, bytes], dict[str, object]] = field(default=lambda _row, _plaintext: {})


_sealers: list[Sealer] = []
_columns: dict[tuple[str, str], SealedColumn] = {}


def register_column(column: SealedColumn) -> None:
    """Called by the app that owns the table, when it is ready. A column that is not known here would lose its values with the
    first rotation of a key, so a test compares this register with all models. Raises `ValueError` when two apps claim one."""
    known = _columns.setdefault((column.model, column.column), column)
    if known != column:
        raise ValueError(f"{column.model}.{column.column} is registered twice")


def columns() -> list[SealedColumn]:
    """All registered columns, in a fixed order."""
    return [_columns[name] for name in sorted(_columns)]


def register(sealer: Sealer) -> None:
    """Called once by the app that holds the keys."""
    _sealers[:] = [sealer]


def sealer() -> Sealer:
    """The registered sealer. Raises `RuntimeError` when no app that holds keys is installed."""
    if not _sealers:
        raise RuntimeError("no app that can seal values is installed")
    return _sealers[0]
