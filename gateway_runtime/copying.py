"""Storing a page of changes in the gateway's own tables: the same tables as the Primary's, values sealed under keys of this node.

Only the newest value of a secret is held, with its newest version; what an older version held is known at the Primary only.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.db.models import F, Model

from accounts import sealed_config
from accounts.models import Environment, Organization, Project
from common.rowsets import Row, Rowset
from gateway_runtime import copy_digest
from gateway_runtime.models import NodeState, ReplicaPrincipal, ReplicaToken
from integrations.models import Integration
from integrations.providers import AZURE_KEY_VAULT
from protocol import replica as told
from protocol.replica import Changes, ReplicaKind
from vault import values
from vault.encryption import Sealing
from vault.models import Secret, SecretStatus, SecretVersion

_TIMES = ["created_at", "updated_at"]
_ORGANIZATION = ["name", "deleted_at", *_TIMES]
_ENVIRONMENT = ["organization", "name", "slug", "is_production", "gateway_environment", "deleted_at", *_TIMES]
_PROJECT = [
    "organization", "name", "type", "default_environment", "storage", "conflict_strategy", "max_staleness_seconds", "deleted_at",
    *_TIMES,
]  # fmt: skip
_SECRETS = Rowset("vault_secret", {
    "id": "uuid", "project_id": "uuid", "environment_id": "uuid", "key": "text", "type": "text", "description": "text",
    "tags": "jsonb", "metadata": "jsonb", "ttl_hours": "integer", "rotation": "jsonb", "status": "text", "version": "integer",
    "created_by": "text", "archived_at": "timestamptz", "deleted_at": "timestamptz", "created_at": "timestamptz",
    "updated_at": "timestamptz",
})  # fmt: skip
_SECRET = [name for name in _SECRETS.columns if name != "id"]
_VERSIONS = Rowset("vault_secretversion", {
    "id": "uuid", "secret_id": "uuid", "version": "integer", "operation": "text", "author": "text", "origin": "text",
    "reason": "text", "created_at": "timestamptz", "external_version": "text", "retired_at": "timestamptz",
    "sealed_value": "bytea", "value_digest": "text",
})  # fmt: skip
_VALUE, _LATER = ["sealed_value", "value_digest"], ["external_version", "retired_at"]
_VERSION = ["operation", "author", "origin", "reason", "created_at", *_LATER]
STORED_AT_ONCE = 2000
"""Versions stored with one statement; a page of secrets with a long history has fifty thousand."""


def store(page: Changes, row: NodeState, environment: str, moment: datetime) -> None:
    """All records of a page, in the caller's transaction. Things come before what refers to them."""
    _store_organizations(page.organizations, moment)
    _store_environments(page.environments, environment, moment)
    _store_projects(page.projects, moment)
    _store_secrets(page.secrets, moment, rewrite=row.replica_resyncing)
    store_principals(page.principals, row.replica_round)
    _mark(page, row.replica_round)


def _store_organizations(records: Iterable[told.ReplicaOrganization], moment: datetime) -> None:
    rows = [
        Organization(id=uuid.UUID(one.id), name=one.name, deleted_at=_gone(one), **_times(one)) for one in records
    ]  # fmt: skip
    _make_room(Organization, {(one.name.lower(),): one.id for one in rows if not one.deleted_at}, ("name",), {}, moment)
    _upsert(rows, _ORGANIZATION)


def _store_environments(records: Iterable[told.ReplicaEnvironment], code: str, moment: datetime) -> None:
    rows = [
        Environment(
            id=uuid.UUID(one.id), organization_id=uuid.UUID(one.organization), name=one.name, slug=one.slug,
            is_production=one.is_production, gateway_environment=code, deleted_at=_gone(one), **_times(one),
        )
        for one in records
    ]  # fmt: skip
    living = [one for one in rows if not one.deleted_at]
    owners = {"organization__in": {one.organization_id for one in living}}
    for name in ("name", "slug"):
        wanted = {(one.organization_id, getattr(one, name).lower()): one.id for one in living}
        _make_room(Environment, wanted, ("organization_id", name), owners, moment)
    _upsert(rows, _ENVIRONMENT)


def _store_projects(records: Iterable[told.ReplicaProject], moment: datetime) -> None:
    rows = [
        Project(
            id=uuid.UUID(one.id), organization_id=uuid.UUID(one.organization), name=one.name, type=one.type,
            default_environment=one.default_environment, storage=one.storage, conflict_strategy=one.conflict_strategy,
            max_staleness_seconds=one.max_staleness_seconds, deleted_at=_gone(one), **_times(one),
        )
        for one in records
    ]  # fmt: skip
    living = [one for one in rows if not one.deleted_at]
    wanted = {(one.organization_id, one.name.lower()): one.id for one in living}
    owners = {"organization__in": {one.organization_id for one in living}}
    _make_room(Project, wanted, ("organization_id", "name"), owners, moment)
    _upsert(rows, _PROJECT)
    _store_vaults(records)


def _store_vaults(records: Iterable[told.ReplicaProject]) -> None:
    """The vaults of the projects as they are told now; their secret parts are sealed under keys of this node."""
    records = list(records)
    named = {uuid.UUID(one.access.integration) for record in records for one in record.vaults}
    Integration.objects.filter(project__in=[record.id for record in records]).exclude(id__in=named).delete()
    environments = Environment.objects.in_bulk({uuid.UUID(one.environment) for record in records for one in record.vaults})
    for record in records:
        for one in record.vaults:
            environment = environments.get(uuid.UUID(one.environment))
            if environment is not None:
                _store_vault(uuid.UUID(record.id), environment, one)


def _store_vault(project: uuid.UUID, environment: Environment, one: told.ReplicaVault) -> None:
    access, identifier = one.access, uuid.UUID(one.access.integration)
    row = Integration.objects.filter(id=identifier).first() or Integration(
        id=identifier, project_id=project, environment=environment, type="key_vault", provider=AZURE_KEY_VAULT
    )
    row.name, row.environment, row.sealed_under = one.name, environment, environment.gateway_environment
    config = {"vault_url": access.vault_url, "auth_method": access.auth_method}
    parts = {name: getattr(access, name) for name in ("tenant_id", "client_id", "client_secret", "vault_id")}
    sealed_config.put(row, row.sealed_under, {**config, **{name: text for name, text in parts.items() if text}})
    row.save()


def _store_secrets(records: list[told.ReplicaSecret], moment: datetime, *, rewrite: bool) -> None:
    if not records:
        return
    rows = [_secret(one) for one in records]
    living = [one for one in rows if not one.deleted_at]
    wanted = {(one.project_id, one.environment_id, one.key): one.id for one in living}
    places = {"project__in": {one.project_id for one in living}, "key__in": {one.key for one in living}}
    _make_room(Secret, wanted, ("project_id", "environment_id", "key"), places, moment)
    _SECRETS.upsert([{name: getattr(row, name) for name in _SECRETS.columns} for row in rows], unique=["id"], changed=_SECRET)
    _store_versions({record.id: row for row, record in zip(rows, records, strict=True)}, records, rewrite)


def _secret(one: told.ReplicaSecret) -> Secret:
    return Secret(
        id=uuid.UUID(one.id), project_id=uuid.UUID(one.project), environment_id=uuid.UUID(one.environment), key=one.key,
        type=one.type, description=one.description, tags=one.tags, metadata=one.metadata, ttl_hours=one.ttl_hours,
        rotation=one.rotation, status=one.status, version=one.version, created_by=one.created_by,
        archived_at=_moment(one.archived_at), deleted_at=_moment(one.deleted_at), **_times(one),
    )  # fmt: skip


def _store_versions(rows: Mapping[str, Secret], records: Iterable[told.ReplicaSecret], rewrite: bool) -> None:
    """The history, and with the newest version the newest value; every other value is dropped, so that none is taken for it.

    A version never changes but for where its value rests and whether it was retired. After a restore of the Primary a number may
    mean another one: `rewrite`.
    """
    identifiers = [row.id for row in rows.values()]
    SecretVersion.objects.filter(secret__in=identifiers, sealed_value__isnull=False).update(sealed_value=None, value_digest="")
    _attach_environments(rows.values())
    sealings = {code: Sealing.begin(code) for code in {one.environment.gateway_environment for one in rows.values()}}
    found = [
        _version(rows[record.id], version, record.value if version is record.versions[0] else None, sealings)
        for record in records for version in record.versions
    ]  # fmt: skip
    changed = [*_VALUE, *(_VERSION if rewrite else _LATER)]
    for first in range(0, len(found), STORED_AT_ONCE):
        _VERSIONS.upsert(found[first : first + STORED_AT_ONCE], unique=["secret_id", "version"], changed=changed)
    SecretVersion.objects.filter(secret__in=identifiers, version__gt=F("secret__version")).delete()


def _attach_environments(rows: Iterable[Secret]) -> None:
    """There are few of them for many secrets."""
    rows = list(rows)
    environments = Environment.objects.in_bulk({row.environment_id for row in rows})
    for row in rows:
        row.environment = environments[row.environment_id]


def _version(secret: Secret, one: told.ReplicaVersion, value: str | None, sealings: Mapping[str, Sealing]) -> Row:
    sealing = sealings[values.scope_of(secret)]
    return {
        "id": uuid.uuid4(), "secret_id": secret.id, "version": one.version, "operation": one.operation, "author": one.author,
        "origin": one.origin, "reason": one.reason, "created_at": one.created_at, "external_version": one.external_version,
        "retired_at": one.retired_at,
        "sealed_value": None if value is None else values.seal_value(secret, one.version, value, sealing),
        "value_digest": "" if value is None else values.digest_of(secret, value, sealing),
    }  # fmt: skip


def store_principals(records: Iterable[told.ReplicaPrincipal], round_number: int) -> None:
    """Credentials are replaced as a whole, so that a revoked one is gone with the page that does not name it."""
    records = list(records)
    living = [one for one in records if one.grants and one.tokens]
    gone = {one.id for one in records} - {one.id for one in living}
    ReplicaToken.objects.filter(principal__in=[one.id for one in records]).delete()
    ReplicaPrincipal.objects.filter(id__in=gone).delete()
    rows = [
        ReplicaPrincipal(id=uuid.UUID(one.id), kind=one.kind, name=one.name[:254], round=round_number, grants=_grants(one))
        for one in living
    ]
    _upsert(rows, ["kind", "name", "grants", "round"])
    tokens = [
        ReplicaToken(
            hash=token.hash, principal_id=uuid.UUID(one.id), expires_at=datetime.fromisoformat(token.expires_at),
            scopes=token.scopes,
        )
        for one in living for token in one.tokens
    ]  # fmt: skip
    ReplicaToken.objects.bulk_create(tokens)


def _grants(one: told.ReplicaPrincipal) -> list[dict[str, Any]]:
    return [
        {
            "permissions": grant.permissions, "organization": grant.organization, "project": grant.project,
            "environment": grant.environment, "expires_at": grant.expires_at,
        }
        for grant in one.grants
    ]  # fmt: skip


def _mark(page: Changes, round_number: int) -> None:
    """Remember each thing as it came, for the digest and for the sweep."""
    groups: tuple[tuple[ReplicaKind, Iterable[told.Compared]], ...] = (
        (ReplicaKind.ORGANIZATION, page.organizations),
        (ReplicaKind.ENVIRONMENT, page.environments),
        (ReplicaKind.PROJECT, page.projects),
        (ReplicaKind.SECRET, page.secrets),
    )
    came = {(kind, uuid.UUID(one.id)): told.fingerprint(one) for kind, records in groups for one in records}
    copy_digest.remember(came, round_number, page.position)


def _make_room(
    model: Any, wanted: Mapping[tuple[Any, ...], uuid.UUID], fields: tuple[str, ...], where: dict[str, Any], moment: datetime
) -> None:
    """A name that a record brings may be held here by another thing, whose own change comes later: it steps back until then.

    At the Primary a name is held once at any time, so the other one has lost it already.
    """
    if not wanted:
        return
    holders = model.objects.filter(deleted_at=None, **where).values_list("id", *fields)
    in_the_way = [
        holder for holder, *names in holders if wanted.get(_folded(names, fields), holder) != holder
    ]  # fmt: skip
    if in_the_way:
        lost: dict[str, Any] = {"status": SecretStatus.DELETED} if model is Secret else {}
        model.objects.filter(id__in=in_the_way).update(deleted_at=moment, **lost)


def _folded(names: Iterable[Any], fields: tuple[str, ...]) -> tuple[Any, ...]:
    """Names are compared without regard to case; keys are not."""
    return tuple(
        one.lower() if field in ("name", "slug") else one for one, field in zip(names, fields, strict=True)
    )  # fmt: skip


def _upsert(rows: list[Any], fields: list[str]) -> None:
    if rows:
        model: type[Model] = type(rows[0])
        model._default_manager.bulk_create(rows, update_conflicts=True, unique_fields=["id"], update_fields=fields)


def _gone(one: told.ReplicaOrganization | told.ReplicaEnvironment | told.ReplicaProject) -> datetime | None:
    return _moment(one.updated_at) if one.deleted else None


def _times(one: Any) -> dict[str, Any]:
    return {"created_at": datetime.fromisoformat(one.created_at), "updated_at": datetime.fromisoformat(one.updated_at)}


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
