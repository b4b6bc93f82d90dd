"""The vaults and what lies in them. Every change is one line of a journal, and the state is that journal applied in order.

So the append log that proves who wrote what is the very thing the state is made of, and a restarted sandbox has kept everything.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from sandbox.azure.directory import SUBSCRIPTION

KINDS = ("secrets", "keys", "certificates")
REGIONS = {"gwc": "germanywestcentral", "we": "westeurope"}


@dataclass(frozen=True)
class Version:
    """One version of a secret, key or certificate. Times are seconds since 1970; `data` is what only its kind has."""

    id: str
    created: int
    updated: int
    enabled: bool = True
    nbf: int | None = None
    exp: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    managed: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Item:
    """A named object with its versions, oldest first. `deleted_at` is set while it is deleted but recoverable.

    Until `settles_at` its deletion or recovery is not finished, and it is in neither collection.
    """

    kind: str
    name: str
    versions: dict[str, Version] = field(default_factory=dict)
    deleted_at: int | None = None
    settles_at: float = 0.0

    @property
    def latest(self) -> Version:
        return next(reversed(self.versions.values()))


@dataclass(frozen=True)
class Write:
    """One line of the journal: who did what to which object. `state` is the version as it is afterwards."""

    sequence: int
    at: float
    vault: str
    action: str
    kind: str
    name: str
    version: str
    tags: Mapping[str, str]
    caller: str
    caller_name: str
    application: str
    state: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Without the state, since that holds values."""
        return {name: value for name, value in asdict(self).items() if name != "state"}


@dataclass
class Vault:
    """A vault. Names of objects ignore case, as Key Vault's do."""

    name: str
    location: str
    resource_group: str
    purge_protection: bool = False
    items: dict[tuple[str, str], Item] = field(default_factory=dict)

    @property
    def resource_id(self) -> str:
        group = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{self.resource_group}"
        return f"{group}/providers/Microsoft.KeyVault/vaults/{self.name}"

    def item(self, kind: str, name: str, *, deleted: bool = False) -> Item | None:
        found = self.items.get((kind, name.lower()))
        return found if found and (found.deleted_at is not None) == deleted else None

    def listed(self, kind: str, *, deleted: bool = False) -> list[Item]:
        """By name, as Key Vault lists them."""
        found = [item for (its_kind, _), item in self.items.items() if its_kind == kind]
        return sorted((item for item in found if (item.deleted_at is not None) == deleted), key=lambda item: item.name.lower())

    def apply(self, write: Write) -> None:
        """Change the state as one line of the journal says."""
        key = (write.kind, write.name.lower())
        if write.action == "purge":
            self.items.pop(key, None)
        elif write.action in ("delete", "recover"):
            self.items[key].deleted_at = int(write.at) if write.action == "delete" else None
        else:
            item = self.items.setdefault(key, Item(write.kind, write.name))
            item.versions[write.version] = Version(**(write.state or {}))


class Vaults:
    """All vaults and their one journal, in memory and in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._start([])
        self._start(_read(path))

    def reset(self) -> None:
        """Empty vaults and an empty journal."""
        self._start([])
        if self._file:
            self._file.close()
            self._file = None
        self._path.unlink(missing_ok=True)

    def named(self, name: str) -> Vault | None:
        return self._vaults.get(name.lower())

    def all(self) -> list[Vault]:
        return list(self._vaults.values())

    def record(self, write: Write) -> None:
        """Write the line, then apply it."""
        if self._file is None:
            self._file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a")
        self._file.write(json.dumps(asdict(write)) + "\n")
        self._file.flush()
        self.journal.append(write)
        self._vaults[write.vault].apply(write)

    def _start(self, journal: list[Write]) -> None:
        self._vaults = {vault.name: vault for vault in _seeded()}
        self.journal = journal
        for write in journal:
            self._vaults[write.vault].apply(write)


def new_version_id() -> str:
    return secrets.token_hex(16)


def _read(path: Path) -> list[Write]:
    """The journal of an earlier run; a line cut off by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        with path.open("r+") as journal:  # it keeps its mode: values stand in it
            journal.write("".join(whole))
            journal.truncate()
    return [Write(**json.loads(line)) for line in whole]


def _seeded() -> list[Vault]:
    """For each environment the vault of its projects, its copy in the DR region, and the gateway's own."""
    return [
        Vault(f"kv-mazevault-{middle}{code}", REGIONS[region], resource_group(code, region), purge_protection=code == "pro")
        for code in ("npr", "pro")
        for middle, region in (("", "gwc"), ("we-", "we"), ("gw-", "gwc"))
    ]


def resource_group(code: str, region: str = "gwc") -> str:
    return f"rg-crd-{code}-int-mzv-{region}"
