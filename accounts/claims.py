"""From the claims of a verified token to roles here. Pure; the algorithm is written out in docs/operations/entra.md.

Only values Entra itself fixes are compared: App Role values and ids of groups. Display names from Graph are not: whoever may
create a group in the tenant may give it any name, also that of an App Role.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from accounts.addresses import fault

PRIORITY: Mapping[str, int] = {
    "viewer": 1,
    "user": 2,
    "secret_reader": 2,
    "finance": 3,
    "auditor": 4,
    "certificate_manager": 5,
    "secret_manager": 5,
    "ssh_admin": 5,
    "project_admin": 6,
    "admin": 7,
}
"""Which of several roles is shown (client-api G); permissions are the union of all."""
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_ADDRESS = re.compile(r"[^@\s]{1,64}@[^@\s]{1,185}")
LONGEST_LIST = 1000


class ClaimsRefused(Exception):
    """The claims cannot be used; the sentence says which and why."""


class GroupsAsRoles(ClaimsRefused):
    """The `roles` claim holds ids of groups (emit_as_roles)."""


@dataclass(frozen=True)
class Person:
    """Who a token speaks of. `overage` says that the groups are not in it and must be asked for; `said_at` when Entra said it."""

    external_id: str
    address: str
    name: str
    app_roles: tuple[str, ...]
    groups: tuple[str, ...]
    overage: bool
    said_at: datetime


@dataclass(frozen=True)
class MappingRow:
    """One mapping: two names of the same App Role or group, and the role it gives."""

    external_id: str
    display_name: str
    role: str
    id: str = ""


def person_of(claims: Mapping[str, Any]) -> Person:
    """Read a verified token. Raises `ClaimsRefused`, or `GroupsAsRoles` when emit_as_roles is switched on."""
    roles, groups = _texts(claims, "roles"), _texts(claims, "groups")
    if any(_GUID.fullmatch(role) for role in roles):
        raise GroupsAsRoles("roles: holds ids of groups")
    return Person(
        external_id=str(claims["oid"]),
        address=_address(claims),
        name=_name(claims),
        app_roles=roles,
        groups=groups,
        overage=_has_overage(claims),
        said_at=datetime.fromtimestamp(claims["iat"], UTC),
    )


def roles_for(identifiers: Iterable[str], mappings: Iterable[MappingRow]) -> tuple[str, ...]:
    """Every role of a mapping that names one of the identifiers, in any case of letters; sorted, each once."""
    return tuple(reasons_for(identifiers, mappings))


def reasons_for(identifiers: Iterable[str], mappings: Iterable[MappingRow]) -> dict[str, list[str]]:
    """The same roles in the same order, each with the ids of all mappings that give it."""
    held = {text.strip().casefold() for text in identifiers if text.strip()}
    found: dict[str, list[str]] = {}
    for row in mappings:
        if held & _names(row):
            found.setdefault(row.role, []).append(row.id)
    return {role: sorted(found[role]) for role in sorted(found)}


def shown_role(roles: Sequence[str], default: str) -> str:
    """The one role that stands for several: the highest of the system's, else the first own one, else the default."""
    known = [role for role in roles if role in PRIORITY]
    if known:
        return max(sorted(known), key=lambda role: PRIORITY[role])
    return roles[0] if roles else default


def _names(row: MappingRow) -> set[str]:
    return {text.strip().casefold() for text in (row.external_id, row.display_name) if text.strip()}


def _has_overage(claims: Mapping[str, Any]) -> bool:
    """Too many groups: a link instead of the list, also beside `roles`. The link itself is never followed."""
    names = claims.get("_claim_names")
    return (isinstance(names, dict) and "groups" in names) or claims.get("hasgroups") in (True, "true")


def _texts(claims: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = claims.get(name, [])
    if not isinstance(value, list) or len(value) > LONGEST_LIST or not all(isinstance(item, str) for item in value):
        raise ClaimsRefused(f"{name}: must be a list of texts")
    return tuple(value)


def _address(claims: Mapping[str, Any]) -> str:
    """The sign-in name, which is unique in a tenant and set by its administrators; the `email` claim is neither."""
    text = claims.get("preferred_username") or claims.get("upn") or ""
    if not isinstance(text, str) or not _ADDRESS.fullmatch(text) or not text.isprintable():
        raise ClaimsRefused("preferred_username: is missing or no address; ask for the scope profile")
    if wrong := fault(text):
        raise ClaimsRefused(f"preferred_username: {wrong}")
    return text.lower()


def _name(claims: Mapping[str, Any]) -> str:
    name = claims.get("name", "")
    return "".join(char for char in name if char.isprintable())[:200] if isinstance(name, str) else ""
