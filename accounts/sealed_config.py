"""Configurations with secrets in them: the secret parts rest sealed and are never given back (client-api B.1)."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any, Protocol
from uuid import UUID

from common.bounds import LARGEST_SETTINGS, MOST_FIELDS
from common.errors import ValidationFailed
from common.sealing import CHANGED_ROW, Place, SealBroken, Unreadable, sealer

log = logging.getLogger("mazevault.accounts")

_SECRET_NAME = re.compile(
    r"(secret|password|passwd|passphrase|token|credential|conn(ection)?_?str(ing)?)s?(_value)?$"
    r"|(^|_)(pwd|pass|pat|sas|sas_url|secret_id|bearer|authorization)s?$"
    r"|(^|_)private_?key"
    r"|_keys?(_value)?$"
    r"|(^|_)(api|access|account|secret|shared|signing|encryption|master|storage|client|service)keys?(_value)?$"
)
"""Rather one name too many than one too few: a secret that is shown is out, a plain value that is sealed still works."""
_PUBLIC_NAME = re.compile(r"(^|_)(public|foreign|partition|sort|cache|row|object|lookup|group|tag)_key$")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Configured(Protocol):
    """A row with a configuration: the plain part, and the sealed part with the number of times it was sealed."""

    id: UUID
    config: Any
    sealed_secrets: Any
    secrets_version: int


def put(row: Configured, scope: str, config: Mapping[str, Any]) -> bool:
    """Set the configuration; returns whether anything changed. A secret that is left out is kept, null or "" clears it.

    One inside of a list is kept only while what is plain around it stays: else it could go to another element than it was for.
    """
    plain, given = split(config)
    former, broken = _former(row, scope)
    staying = {name: value for name, value in former.items() if "[" not in name or _same_around(name, row.config, plain)}
    kept = {name: value for name, value in {**staying, **given}.items() if value not in (None, "")}
    _refuse_too_many(kept)
    changed = row.config != plain or former != kept or broken
    row.config = plain
    if former != kept or broken:
        row.secrets_version += 1
        row.sealed_secrets = _seal(row, scope, kept) if kept else None
    return changed


def secrets_of(row: Configured, scope: str) -> dict[str, Any]:
    """The secret parts by their dotted names, for the code that signs in with them. Raises `Unreadable` (SEAL_BROKEN)."""
    if not row.sealed_secrets:
        return {}
    try:
        opened: dict[str, Any] = json.loads(sealer().open_sealed(*place(row, scope), bytes(row.sealed_secrets)))
    except SealBroken as broken:
        kind, name = type(row).__name__.lower(), getattr(row, "name", "")
        log.error("the secrets of the %s %s (%s) do not open: %s", kind, row.id, name, broken)
        raise Unreadable(
            f"the secrets of the {kind} {name!r} do not open: {CHANGED_ROW}. Save its configuration again with all of its secrets"
        ) from None
    return opened


def _former(row: Configured, scope: str) -> tuple[dict[str, Any], bool]:
    """The secrets it had, and whether they do not open: then nothing of them is kept, and saving them again mends it."""
    try:
        return secrets_of(row, scope), False
    except Unreadable:
        return {}, True


def place(row: Configured, scope: str) -> Place:
    """What the secret parts are sealed for; the version grows with each change, so an older state put back does not open."""
    return scope, str(type(row)._meta.db_table), str(row.id), row.secrets_version  # type: ignore[attr-defined]


def split(config: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """The plain part, and the secret parts by their dotted names, such as `inner.token` and `servers[0].password`."""
    plain: dict[str, Any] = {}
    hidden: dict[str, Any] = {}
    for name, value in config.items():
        if is_secret(name):
            hidden[prefix + name] = value
        else:
            plain[name], inner = _split_value(value, prefix + name)
            hidden.update(inner)
    return plain, hidden


def is_secret(name: str) -> bool:
    """Whether a field of this name holds a secret."""
    words = re.sub(r"[^A-Za-z0-9]+", "_", _CAMEL.sub("_", name)).strip("_").lower()
    return _SECRET_NAME.search(words) is not None and _PUBLIC_NAME.search(words) is None


def _split_value(value: Any, name: str) -> tuple[Any, dict[str, Any]]:
    if isinstance(value, dict):
        return split(value, f"{name}.")
    if not isinstance(value, list):
        return value, {}
    hidden: dict[str, Any] = {}
    plain = []
    for index, element in enumerate(value):
        shown, inner = _split_value(element, f"{name}[{index}]")
        plain.append(shown)
        hidden.update(inner)
    return plain, hidden


def _refuse_too_many(kept: Mapping[str, Any]) -> None:
    """What is kept from before counts too, or a configuration would grow with each change."""
    if len(kept) > MOST_FIELDS or len(json.dumps(kept)) > LARGEST_SETTINGS:
        raise ValidationFailed(
            f"config: with those kept from before its secrets would be more than {MOST_FIELDS} or {LARGEST_SETTINGS} bytes; "
            "send null for those that are to go"
        )


def _same_around(name: str, former: Mapping[str, Any], plain: Mapping[str, Any]) -> bool:
    """Whether the field of the configuration that a secret is in has the same plain part as before."""
    return all(former[top] == plain.get(top) for top in former if name.startswith((f"{top}[", f"{top}.")))


def _seal(row: Configured, scope: str, kept: Mapping[str, Any]) -> bytes:
    return sealer().seal(*place(row, scope), json.dumps(kept, sort_keys=True).encode())
