"""Configurations with secrets in them: the secret parts rest sealed and are never given back (client-api B.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Protocol
from uuid import UUID

from common.sealing import Place, sealer

_SECRET_NAME = re.compile(
    r"(^|_)(secret|password|passphrase|pat|token|private_key|api_?key|access_key|account_key|connection_string|credentials?|sas)$"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Configured(Protocol):
    """A row with a configuration: the plain part, and the sealed part with the number of times it was sealed."""

    id: UUID
    config: Any
    sealed_secrets: Any
    secrets_version: int


def put(row: Configured, scope: str, config: Mapping[str, Any]) -> bool:
    """Set the configuration; returns whether anything changed. A secret that is left out is kept, null or "" clears it."""
    plain, given = split(config)
    former = secrets_of(row, scope)
    kept = {name: value for name, value in {**former, **given}.items() if value not in (None, "")}
    changed = row.config != plain or former != kept
    row.config = plain
    if former != kept:
        row.secrets_version += 1
        row.sealed_secrets = _seal(row, scope, kept) if kept else None
    return changed


def secrets_of(row: Configured, scope: str) -> dict[str, Any]:
    """The secret parts by their dotted names, for the code that signs in with them."""
    if not row.sealed_secrets:
        return {}
    opened: dict[str, Any] = json.loads(sealer().open_sealed(*place(row, scope), bytes(row.sealed_secrets)))
    return opened


def place(row: Configured, scope: str) -> Place:
    """What the secret parts are sealed for; the version grows with each change, so an older state put back does not open."""
    return scope, str(type(row)._meta.db_table), str(row.id), row.secrets_version  # type: ignore[attr-defined]


def split(config: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """The plain part, and the secret parts by their dotted names."""
    plain: dict[str, Any] = {}
    hidden: dict[str, Any] = {}
    for name, value in config.items():
        if is_secret(name):
            hidden[prefix + name] = value
        elif isinstance(value, dict):
            plain[name], inner = split(value, f"{prefix}{name}.")
            hidden.update(inner)
        else:
            plain[name] = value
    return plain, hidden


def is_secret(name: str) -> bool:
    """Whether a field of this name holds a secret."""
    return _SECRET_NAME.search(_CAMEL.sub("_", name).replace("-", "_").lower()) is not None


def _seal(row: Configured, scope: str, kept: Mapping[str, Any]) -> bytes:
    return sealer().seal(*place(row, scope), json.dumps(kept, sort_keys=True).encode())
