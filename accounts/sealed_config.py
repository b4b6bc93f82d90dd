"""Configurations with secrets in them: what is not on a short public list rests sealed and is never given back."""

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

PUBLIC = frozenset({
    "vault_url", "vault_id", "auth_method", "tenant_id", "client_id", "content_type", "expires_days",
    "azure_org", "azure_project", "azure_mode", "azure_variable_group_id", "azure_repo", "azure_branch", "azure_file_path",
    "issuer", "environment", "region", "namespace", "branch", "enabled",
})  # fmt: skip
"""The only fields that are shown and rest as they are: what providers with a schema call public, and a few harmless words.

A guess by name or value finds most secrets, never all (`dsn`, `kubeconfig`, `cookie`, `url` with a password in it), so whatever
nobody has listed is a secret. A public name inside of another field counts for nothing: nobody knows what it means there.
"""
LONGEST_PUBLIC = 400
_LOOKS_SECRET = re.compile(
    r"-----BEGIN|^eyJ[\w-]{5,}\.|://[^/\s]*@|[?&;#](sig|sv|se|key|code|token|secret|password|pwd|accountkey|sharedaccess\w{0,40})=",
    re.IGNORECASE,
)
"""A private key, a JWT, an address with a password or a signature in it: whatever its field is called."""
_SECRET_NAME = re.compile(
    r"(secret|password|passwd|passphrase|token|credential|conn(ection)?_?str(ing)?)s?(_value)?$"
    r"|(^|_)(pwd|pass|pat|sas|sas_url|secret_id|bearer|authorization)s?$"
    r"|(^|_)private_?key"
    r"|_keys?(_value)?$"
    r"|(^|_)(api|access|account|secret|shared|signing|encryption|master|storage|client|service)keys?(_value)?$"
)
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

    Nobody is shown what is sealed, so a client that sends back what it read, or changes a name only, has nothing to send for it
    (client-api: `client_secret` is not read back).

    A list is one secret: what is left out inside of it is gone, since nobody can say which element it was for.
    """
    plain, given = split(config)
    former, broken = _former(row, scope)
    kept = _merged(former, given, plain)
    _refuse_too_many(kept)
    changed = row.config != plain or former != kept or broken
    row.config = plain
    if former != kept or broken:
        row.secrets_version += 1
        row.sealed_secrets = _seal(row, scope, kept) if kept else None
    return changed


def seal_what_rests_plain(row: Configured, scope: str) -> bool:
    """Seal the fields of a stored configuration that are not public. Whether it had any.

    For rows of releases that left more in plain. Whoever seals leaves nothing in plain, so what lies there came later than what
    is sealed: it replaces that, as when such a configuration is saved; other fields that are sealed stay. A sealed part that does
    not open is told in the log and given up, as when such a configuration is saved again.
    """
    plain, given = split(row.config)
    if plain == row.config:
        return False
    former, _ = _former(row, scope)
    kept = _merged(former, given, plain)
    row.config = plain
    row.secrets_version += 1
    row.sealed_secrets = _seal(row, scope, kept) if kept else None
    return True


def secrets_of(row: Configured, scope: str) -> dict[str, Any]:
    """The secret parts by their names (`dotted`), for the code that signs in with them. Raises `Unreadable` (SEAL_BROKEN)."""
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


def split(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The public part, and everything else by dotted names such as `inner.token`. A list is one value."""
    plain = {name: value for name, value in config.items() if is_public(name, value)}
    hidden: dict[str, Any] = {}
    for name, value in config.items():
        if name not in plain:
            hidden.update(_leaves(dotted(name), value))
    return plain, hidden


def dotted(*names: str) -> str:
    """One name for a field inside of others. Dots and brackets of the names are escaped, so that `a.b` is not `b` in `a`."""
    return ".".join(re.sub(r"[\\.\[]", r"\\\g<0>", name) for name in names)


def is_public(name: str, value: Any) -> bool:
    """Whether a field at the top of a configuration may be shown and rest as it is."""
    return name in PUBLIC and not isinstance(value, dict | list) and not looks_secret(value)


def looks_secret(value: Any) -> bool:
    """Whether a value is a secret by its looks, such as an address with a password; a text of this length is no public one."""
    return isinstance(value, str) and (len(value) > LONGEST_PUBLIC or _LOOKS_SECRET.search(value) is not None)


def _leaves(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {name: value}
    return {place: leaf for inner, held in value.items() for place, leaf in _leaves(f"{name}.{dotted(inner)}", held).items()}


def _merged(former: Mapping[str, Any], given: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The secrets after a change: what is given counts, what it does not touch stays, null and "" clear."""
    staying = {name: value for name, value in former.items() if not _replaced(name, given, plain)}
    return {name: value for name, value in {**staying, **given}.items() if value not in (None, "")}


def _replaced(name: str, given: Mapping[str, Any], plain: Mapping[str, Any]) -> bool:
    """Whether a former secret is gone: its field has become public, a value where fields were, or fields where a value was."""
    steps = _steps(name)
    return name in plain or any(step in given for step in steps) or any(name in _steps(one) for one in given)


def _steps(name: str) -> list[str]:
    """The names of the fields that this one is inside of: `a`, `a.b` and `a.b[0]` for `a.b[0].c`."""
    return [name[: found.start(1)] for found in re.finditer(r"\\.|([.\[])", name) if found.group(1)]


def is_secret(name: str) -> bool:
    """Whether a field of this name surely holds a secret, for what must not be given in a place that is shown."""
    words = re.sub(r"[^A-Za-z0-9]+", "_", _CAMEL.sub("_", name)).strip("_").lower()
    return _SECRET_NAME.search(words) is not None and _PUBLIC_NAME.search(words) is None


def _refuse_too_many(kept: Mapping[str, Any]) -> None:
    """What is kept from before counts too, or a configuration would grow with each change."""
    if len(kept) > MOST_FIELDS or len(json.dumps(kept)) > LARGEST_SETTINGS:
        raise ValidationFailed(
            f"config: with those kept from before its secrets would be more than {MOST_FIELDS} or {LARGEST_SETTINGS} bytes; "
            "send null for those that are to go"
        )


def _seal(row: Configured, scope: str, kept: Mapping[str, Any]) -> bytes:
    return sealer().seal(*place(row, scope), json.dumps(kept, sort_keys=True).encode())
