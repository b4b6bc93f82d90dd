"""Envelope encryption for the layers below the vault: they seal and open, the vault knows the keys (DESIGN §10).

The vault registers itself when its app is ready, so nothing here knows how values are sealed.
"""

from __future__ import annotations

from typing import Protocol


class Sealer(Protocol):
    """Seals a value for exactly one place: scope, table, row and version. `open_sealed` raises for any other place."""

    def seal(self, scope: str, table: str, row: str, version: int, plaintext: bytes) -> bytes: ...

    def open_sealed(self, scope: str, table: str, row: str, version: int, sealed: bytes) -> bytes: ...


_sealers: list[Sealer] = []


def register(sealer: Sealer) -> None:
    """Called once by the app that holds the keys."""
    _sealers[:] = [sealer]


def sealer() -> Sealer:
    """The registered sealer. Raises `RuntimeError` when no app that holds keys is installed."""
    if not _sealers:
        raise RuntimeError("no app that can seal values is installed")
    return _sealers[0]
