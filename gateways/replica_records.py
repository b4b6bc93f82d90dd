"""What a gateway's copy is made of, as it is now: records of one gateway environment and of nothing else (I13).

The environment is a condition of every query, so a thing of another one cannot be met by its id either. Reads only.
"""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from django.db import DataError
from django.db.models import F, Q

from accounts import audiences
from accounts.access import Principal, Scope
from accounts.entra_bounds import end_of
from accounts.models import ApiToken, Environment, Organization, Project, ServiceIdentity, Session, Storage, User
from accounts.principals import principal_of_service, principal_of_user
from common.api import rfc3339
from common.errors import MazeVaultError
from integrations.access import storage_access
from integrations.storing import storage_integrations
from protocol.replica import (
    ReplicaEnvironment,
    ReplicaGrant,
    ReplicaKind,
    ReplicaOrganization,
    ReplicaPrincipal,
    ReplicaProject,
    ReplicaSecret,
    ReplicaToken,
    ReplicaVault,
    ReplicaVersion,
)
from vault import values
from vault.encryption import MasterKeyMismatch, SealBroken
from vault.models import Secret, SecretStatus, SecretVersion

log = logging.getLogger("mazevault.gateways.replica_records")

VERSIONS_SHOWN = 100
"""Newest versions of a secret that a copy lists, with the one they stand on; the Primary lists them all."""
VALUED = (SecretStatus.ACTIVE, SecretStatus.ARCHIVED)
"""A tombstone's value stays at the Primary."""
TOLD_FORM = 1
"""Grows with each change of what a principal is told as, or of when a credential counts at gateways (`told_principals`)."""
SECRET_PERMISSIONS = "secrets:"  # noqa: S105  how permissions on secrets begin

Thing = tuple[ReplicaKind, uuid.UUID]
Record = ReplicaOrganization | ReplicaEnvironment | ReplicaProject | ReplicaSecret | ReplicaPrincipal


@dataclass
class Records:
    """Records by what they are of, and what each one must not arrive without: its project, its environment, its organization."""

    by_thing: dict[Thing, Record] = field(default_factory=dict)
    needs: dict[Thing, list[Thing]] = field(default_factory=dict)

    def with_needs(self, thing: Thing) -> list[tuple[Thing, Record]]:
        """The record after everything it refers to; empty when it is not of this environment."""
        if thing not in self.by_thing:
            return []
        before = [(one, self.by_thing[one]) for one in self.needs.get(thing, []) if one in self.by_thing]
        return [*before, (thing, self.by_thing[thing])]


def load(
    code: str, things: Iterable[Thing], moment: datetime, *, with_values: bool = True, given_until: datetime | None = None
) -> Records:
    """The records of these things in this gateway environment. Principals carry what lives at `moment`, and of grants and
    credentials only those that were given until `given_until`, where that is said."""
    wanted: dict[ReplicaKind, set[uuid.UUID]] = defaultdict(set)
    for kind, identifier in things:
        wanted[kind].add(identifier)
    records = Records()
    secrets = list(_secrets(code, wanted[ReplicaKind.SECRET]))
    wanted[ReplicaKind.PROJECT] |= {secret.project_id for secret in secrets}
    wanted[ReplicaKind.ENVIRONMENT] |= {secret.environment_id for secret in secrets}
    projects = list(_projects(code, wanted[ReplicaKind.PROJECT]))
    environments = list(Environment.objects.filter(id__in=wanted[ReplicaKind.ENVIRONMENT], gateway_environment=code))
    wanted[ReplicaKind.ORGANIZATION] |= {project.organization_id for project in projects}
    wanted[ReplicaKind.ORGANIZATION] |= {environment.organization_id for environment in environments}
    for organization in _organizations(code, wanted[ReplicaKind.ORGANIZATION]):
        records.by_thing[ReplicaKind.ORGANIZATION, organization.id] = _organization_record(organization)
    _add_environments(records, environments)
    _add_projects(records, code, projects)
    _add_secrets(records, secrets, with_values)
    for principal in _principals(code, wanted[ReplicaKind.PRINCIPAL], moment, given_until):
        records.by_thing[ReplicaKind.PRINCIPAL, uuid.UUID(principal.id)] = principal
    return records


def _organizations(code: str, identifiers: set[uuid.UUID]) -> Iterable[Organization]:
    return Organization.objects.filter(id__in=identifiers, environments__gateway_environment=code).distinct()


def _projects(code: str, identifiers: set[uuid.UUID]) -> Iterable[Project]:
    return Project.objects.filter(id__in=identifiers, organization__environments__gateway_environment=code).distinct()


def _secrets(code: str, identifiers: set[uuid.UUID]) -> Iterable[Secret]:
    found = Secret.objects.filter(id__in=identifiers, environment__gateway_environment=code)
    return found.select_related("project", "environment")


def _organization_record(row: Organization) -> ReplicaOrganization:
    return ReplicaOrganization(
        id=str(row.id), name=row.name, deleted=row.deleted_at is not None, created_at=_time(row.created_at),
        updated_at=_time(row.updated_at),
    )  # fmt: skip


def _add_environments(records: Records, rows: Iterable[Environment]) -> None:
    for row in rows:
        thing = (ReplicaKind.ENVIRONMENT, row.id)
        records.needs[thing] = [(ReplicaKind.ORGANIZATION, row.organization_id)]
        records.by_thing[thing] = ReplicaEnvironment(
            id=str(row.id), organization=str(row.organization_id), name=row.name, slug=row.slug,
            is_production=row.is_production, deleted=row.deleted_at is not None, created_at=_time(row.created_at),
            updated_at=_time(row.updated_at),
        )  # fmt: skip


def _add_projects(records: Records, code: str, rows: list[Project]) -> None:
    here = Environment.objects.filter(organization_id__in={row.organization_id for row in rows}, gateway_environment=code)
    slugs = {(organization, slug.lower()) for organization, slug in here.values_list("organization_id", "slug")}
    vaults = _vaults_of(rows, code)
    for row in rows:
        thing = (ReplicaKind.PROJECT, row.id)
        default = row.default_environment if (row.organization_id, row.default_environment.lower()) in slugs else ""
        records.needs[thing] = [(ReplicaKind.ORGANIZATION, row.organization_id)]
        records.by_thing[thing] = ReplicaProject(
            id=str(row.id), organization=str(row.organization_id), name=row.name, type=row.type, default_environment=default,
            storage=row.storage, conflict_strategy=row.conflict_strategy, max_staleness_seconds=row.max_staleness_seconds,
            deleted=row.deleted_at is not None, created_at=_time(row.created_at), updated_at=_time(row.updated_at),
            vaults=vaults[row.id],
        )  # fmt: skip


def _vaults_of(rows: Iterable[Project], code: str) -> dict[uuid.UUID, list[ReplicaVault]]:
    """Where the values of projects rest that keep them in a vault of this gateway environment (I13)."""
    found: dict[uuid.UUID, list[ReplicaVault]] = defaultdict(list)
    kept = [row for row in rows if row.storage == Storage.KEY_VAULT and row.deleted_at is None]
    for integration in storage_integrations(kept):
        environment = integration.environment
        if environment is None or environment.gateway_environment != code:
            continue
        try:
            access = storage_access(integration, code)
        except (MazeVaultError, SealBroken, MasterKeyMismatch) as error:
            log.error("the vault of project %s is left out of the copy of a gateway: %s", integration.project_id, error)
            continue
        record = ReplicaVault(str(environment.id), integration.name, integration.secrets_version, access)
        found[integration.project_id].append(record)
    return found


def _add_secrets(records: Records, rows: list[Secret], with_values: bool) -> None:
    versions = _versions_of(rows)
    holders = _holders_of(rows) if with_values else {}
    for row in rows:
        thing = (ReplicaKind.SECRET, row.id)
        organization = (ReplicaKind.ORGANIZATION, row.environment.organization_id)
        records.needs[thing] = [
            organization, (ReplicaKind.ENVIRONMENT, row.environment_id), (ReplicaKind.PROJECT, row.project_id)
        ]  # fmt: skip
        records.by_thing[thing] = ReplicaSecret(
            id=str(row.id), project=str(row.project_id), environment=str(row.environment_id), key=row.key, type=row.type,
            description=row.description, tags=row.tags, metadata=row.metadata, ttl_hours=row.ttl_hours, rotation=row.rotation,
            status=row.status, version=row.version, value=_value(row, holders.get(row.id)), created_by=row.created_by,
            created_at=_time(row.created_at), updated_at=_time(row.updated_at), archived_at=rfc3339(row.archived_at),
            deleted_at=rfc3339(row.deleted_at), versions=versions[row.id],
        )  # fmt: skip


def _versions_of(rows: Iterable[Secret]) -> dict[uuid.UUID, list[ReplicaVersion]]:
    """The newest versions of each secret, newest first, and the one they stand on."""
    rows = list(rows)
    found: dict[uuid.UUID, list[ReplicaVersion]] = defaultdict(list)
    newest = SecretVersion.objects.filter(version__gt=F("secret__version") - VERSIONS_SHOWN).defer("sealed_value")
    for version in newest.filter(secret_id__in=[row.id for row in rows]).order_by("secret_id", "-version"):
        found[version.secret_id].append(_version_record(version))
    for version in _stood_on(rows):
        found[version.secret_id].append(_version_record(version))
    return found


def _stood_on(rows: Iterable[Secret]) -> Iterable[SecretVersion]:
    """The newest version before those that are listed that has a value, where that rests in a vault: after many changes that set
    no value nothing else names its place. Retention keeps the same one (`common.retained`), so a copy does not change by it."""
    long = [row.id for row in rows if row.version > VERSIONS_SHOWN]
    if not long:
        return []
    older = SecretVersion.objects.filter(secret_id__in=long, version__lte=F("secret__version") - VERSIONS_SHOWN)
    newest = values.valued(older).order_by("secret_id", "-version").distinct("secret_id").defer("sealed_value")
    return [version for version in newest if version.external_version]


def _version_record(row: SecretVersion) -> ReplicaVersion:
    return ReplicaVersion(
        version=row.version, operation=row.operation, author=row.author, origin=row.origin, reason=row.reason,
        created_at=_time(row.created_at), external_version=row.external_version,
        retired_at=rfc3339(row.retired_at),
    )  # fmt: skip


def _holders_of(rows: Iterable[Secret]) -> dict[uuid.UUID, SecretVersion]:
    """For each secret with a value to give, the version that holds the value it has now; none where that rests in a vault."""
    newest = values.newest_of(row for row in rows if row.status in VALUED)
    return {secret: row for secret, row in newest.items() if row.sealed_value is not None}


def _value(secret: Secret, holder: SecretVersion | None) -> str | None:
    """One value that does not open leaves a hole in the copy instead of stopping all the others."""
    if holder is None:
        return None
    try:
        return values.open_value(secret, holder)
    except (SealBroken, MasterKeyMismatch) as error:
        log.error("the value of secret %s, version %s does not open: %s", secret.id, holder.version, error)
        return None


def _principals(code: str, identifiers: set[uuid.UUID], moment: datetime, given_until: datetime | None) -> list[ReplicaPrincipal]:
    if not identifiers:
        return []
    here = _Here(code)
    tokens = _tokens_of(code, identifiers, moment, given_until)
    users = User.objects.filter(id__in=identifiers, is_active=True, deleted_at=None, must_change_password=False)
    services = ServiceIdentity.objects.filter(id__in=identifiers, status="active", deleted_at=None)
    holders: list[User | ServiceIdentity] = [*users, *services]
    records = [_loaded(holder, here, tokens, moment, given_until) for holder in holders]
    return [record for record in records if record and record.grants and record.tokens]


def _loaded(
    holder: User | ServiceIdentity,
    here: _Here,
    tokens: dict[uuid.UUID, list[ReplicaToken]],
    moment: datetime,
    given_until: datetime | None,
) -> ReplicaPrincipal | None:
    """One whose rows cannot be read is left out, which denies them there, instead of stopping all the others."""
    try:
        principal = (
            principal_of_user(holder, moment, given_until) if isinstance(holder, User)
            else principal_of_service(holder, moment, given_until)
        )  # fmt: skip
        return _principal_record(principal, here, tokens, moment)
    except (DataError, ValueError, TypeError, OverflowError) as error:
        log.error("principal %s is left out of the copy of a gateway: %s", holder.id, type(error).__name__)
        return None


class _Here:
    """Where a grant can count in this gateway environment."""

    def __init__(self, code: str) -> None:
        rows = Environment.objects.filter(gateway_environment=code, deleted_at=None).values_list("organization_id", "slug")
        self._places = {(str(organization), slug.lower()) for organization, slug in rows}
        self._owners: dict[str, str] = {}

    def meets(self, scope: Scope) -> bool:
        owner = self._owner(scope.project) if scope.project else ""
        return any(
            (not scope.organization or scope.organization == organization)
            and (not scope.environment or scope.environment == slug)
            and (not scope.project or owner == organization)
            for organization, slug in self._places
        )

    def _owner(self, project: str) -> str:
        if project not in self._owners:
            found = Project.objects.filter(id=project, deleted_at=None).values_list("organization_id", flat=True).first()
            self._owners[project] = str(found or "")
        return self._owners[project]


def _principal_record(
    principal: Principal, here: _Here, tokens: dict[uuid.UUID, list[ReplicaToken]], moment: datetime
) -> ReplicaPrincipal:
    """Only what counts here: permissions on secrets, in places of this environment, not yet expired."""
    grants = []
    for grant in principal.grants:
        permissions = sorted(name for name in grant.permissions if name.startswith(SECRET_PERMISSIONS))
        if permissions and grant.lives(moment) and here.meets(grant.scope):
            scope = grant.scope
            grants.append(
                ReplicaGrant(permissions, scope.organization, scope.project, scope.environment, rfc3339(grant.expires_at))
            )
    return ReplicaPrincipal(
        id=principal.id, kind=principal.kind.value, name=principal.name, grants=grants, tokens=tokens[uuid.UUID(principal.id)]
    )


def _tokens_of(
    code: str, identifiers: set[uuid.UUID], moment: datetime, given_until: datetime | None
) -> dict[uuid.UUID, list[ReplicaToken]]:
    """Hashes of the living sessions and API tokens of each holder that are meant for gateways of this environment."""
    found: dict[uuid.UUID, list[ReplicaToken]] = defaultdict(list)
    for model in (Session, ApiToken):
        counts_here = audiences.at_gateways_of(code, moment)
        if model is Session:
            counts_here = Q(gateway_environment=code) | (counts_here & Q(gateway_environment=""))
        living = model.objects.filter(counts_here, revoked_at=None, expires_at__gt=moment).order_by("expires_at", "id")
        if given_until is not None:
            living = living.filter(created_at__lte=given_until)
        for holder in ("user_id", "service_id"):
            for row in living.filter(**{f"{holder}__in": identifiers}).select_related("user"):
                until = audiences.end_at_gateways(row)
                if row.user:
                    until = end_of(model, row.user.sso_provider, row.user.entra_confirmed_at, until)
                if until <= moment:
                    continue
                scopes = row.scopes if isinstance(row, ApiToken) else None
                limited = None if scopes is None else sorted(s for s in scopes if s.startswith(SECRET_PERMISSIONS))
                found[getattr(row, holder)].append(ReplicaToken(row.token_hash, _time(until), limited))
    return found


def _time(moment: datetime) -> str:
    return rfc3339(moment) or ""
