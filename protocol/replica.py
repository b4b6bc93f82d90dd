"""A gateway's copy of its environment: how it is sent, and how it is compared without sending it (anti-entropy).

One fingerprint a thing, one digest for all. Values do not enter: a value belongs to its version, and who changes one changes the
version. Principals stay out, since their credentials expire by themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from protocol.messages import Count, Identifier, Message, SignedMark
from protocol.vault_access import VaultAccess


class ReplicaKind(StrEnum):
    """The things a copy is made of, as the change feed names them."""

    ORGANIZATION = "organization"
    ENVIRONMENT = "environment"
    PROJECT = "project"
    SECRET = "secret"  # noqa: S105  a kind of thing, not one
    PRINCIPAL = "principal"


class AskChanges(Message, frozen=True, omit_defaults=True):
    """The next changes after a cursor. `generation` is the Primary's one the cursor belongs to; empty at first."""

    after: Count
    generation: Annotated[str, Meta(max_length=36)] = ""
    limit: Annotated[int, Meta(ge=1, le=500)] = 200
    rights_after: Count | None = None
    """How far it has heard who lost rights, while it is quarantined. None: it knows no pages of rights only (former version)."""


class ReplicaOrganization(Message, frozen=True):
    id: Identifier
    name: str
    deleted: bool
    created_at: str
    updated_at: str


class ReplicaEnvironment(Message, frozen=True):
    id: Identifier
    organization: Identifier
    name: str
    slug: str
    is_production: bool
    deleted: bool
    created_at: str
    updated_at: str


class ReplicaVault(Message, frozen=True):
    """The vault in which the values of a project rest in one environment. `version` changes with the secret parts."""

    environment: Identifier
    name: str
    version: Count
    access: VaultAccess


class ReplicaProject(Message, frozen=True):
    id: Identifier
    organization: Identifier
    name: str
    type: str
    default_environment: str
    storage: str
    conflict_strategy: str
    max_staleness_seconds: int | None
    deleted: bool
    created_at: str
    updated_at: str
    vaults: list[ReplicaVault] = []


class ReplicaVersion(Message, frozen=True):
    """A version without its value; `external_version` says where in the vault it is, if it is there."""

    version: Count
    operation: str
    author: str
    origin: str
    reason: str
    created_at: str
    external_version: str = ""
    retired_at: str | None = None


class ReplicaSecret(Message, frozen=True):
    """A secret with its newest value; `value` is None for tombstones and where the value rests elsewhere."""

    hidden: ClassVar[frozenset[str]] = frozenset({"value", "metadata", "description", "rotation"})

    id: Identifier
    project: Identifier
    environment: Identifier
    key: str
    type: str
    description: str
    tags: list[str]
    metadata: dict[str, str]
    ttl_hours: int
    rotation: dict[str, Any] | None
    status: str
    version: Count
    value: str | None
    created_by: str
    created_at: str
    updated_at: str
    archived_at: str | None
    deleted_at: str | None
    versions: list[ReplicaVersion]


class ReplicaGrant(Message, frozen=True):
    """Permissions in one scope (`accounts.access.Grant`); empty parts stand for all."""

    permissions: list[str]
    organization: str = ""
    project: str = ""
    environment: str = ""
    expires_at: str | None = None


class ReplicaToken(Message, frozen=True):
    """A credential of a principal: its hash, its end, and the permissions it is limited to (None: not limited)."""

    hash: str
    expires_at: str
    scopes: list[str] | None = None


class ReplicaPrincipal(Message, frozen=True):
    """Somebody with a grant in this gateway environment; without grants or tokens it is to be forgotten."""

    id: Identifier
    kind: str
    name: str
    grants: list[ReplicaGrant]
    tokens: list[ReplicaToken]


class Changes(Message, frozen=True, omit_defaults=True):
    """Things that changed, as they are now, up to `position`. `more`: ask again at once. `head` is the newest position."""

    generation: Identifier
    position: Count
    head: Count
    more: bool
    organizations: list[ReplicaOrganization] = []
    environments: list[ReplicaEnvironment] = []
    projects: list[ReplicaProject] = []
    secrets: list[ReplicaSecret] = []
    principals: list[ReplicaPrincipal] = []
    mark: SignedMark | None = None
    """That the feed had come to `position`; only with something new."""
    rights_only: bool = False
    """The gateway is quarantined: nothing but what people it knows have left of their rights, up to `rights_position`. `position`
    stays, and its copy as old as it is."""
    rights_position: Count = 0


Compared = ReplicaOrganization | ReplicaEnvironment | ReplicaProject | ReplicaSecret


def fingerprint(record: Compared) -> str:
    """SHA-256 (hex) of a record without its value or other secret parts."""
    bare = msgspec.json.encode(_bare(record), order="deterministic")
    return hashlib.sha256(type(record).__name__.encode() + b"\0" + bare).hexdigest()


def _bare(record: Compared) -> Compared:
    if isinstance(record, ReplicaSecret):
        return replace(record, value=None)
    if isinstance(record, ReplicaProject):
        vaults = [replace(one, access=replace(one.access, client_secret="")) for one in record.vaults]
        return replace(record, vaults=vaults)
    return record


DIGEST_FORM = "2:"
"""Begins each digest; digests of other forms cannot be compared with it."""
_MODULUS = 2**248
"""The sum and the form together are 64 characters."""
EMPTY_DIGEST = f"{DIGEST_FORM}{0:062x}"


def digest(fingerprints: Iterable[str]) -> str:
    """The sum of all fingerprints: whatever their order, and one that comes or goes changes it without a look at the others."""
    return moved(EMPTY_DIGEST, came=fingerprints)


def moved(known: str, came: Iterable[str] = (), went: Iterable[str] = ()) -> str:
    """A digest after some fingerprints came and others went."""
    number = int(known.removeprefix(DIGEST_FORM), 16) + sum(int(one, 16) for one in came) - sum(int(one, 16) for one in went)
    return f"{DIGEST_FORM}{number % _MODULUS:062x}"


def comparable(said: str) -> bool:
    """Whether a digest is of this form. A gateway of an earlier version has another one."""
    return said.startswith(DIGEST_FORM)
