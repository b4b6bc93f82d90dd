"""Telling the audit and the change feed what happened, in the transaction in which it happens (I17).

Gateways follow the feed: an organization, its environments and its projects concern the gateway environments that the
organization's environments are mapped to; a principal concerns all of them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from psycopg.errors import UniqueViolation

from accounts import rights
from accounts.access import Principal
from accounts.models import ApiToken, Environment, Organization, Project, RoleGrant, ServiceIdentity, Session, User
from common import audit, feed
from common.errors import Conflict
from protocol.replica import ReplicaKind


@dataclass(frozen=True)
class By:
    """Who makes a change, and from which address."""

    principal: Principal
    address: str = ""

    @property
    def actor(self) -> str:
        return self.principal.actor


SYSTEM = "system"


def record(
    by: By | None,
    action: str,
    entity: str,
    entity_id: uuid.UUID,
    details: Mapping[str, Any] | None = None,
    *,
    severity: audit.Severity = audit.Severity.INFO,
) -> None:
    """One audit row; `by` is None for what the product does by itself. Values of details must not be secret."""
    said = details or {}
    project = said.get("project_id")
    audit.record(
        actor=by.actor if by else SYSTEM,
        action=action,
        entity=entity,
        entity_id=str(entity_id),
        severity=severity,
        address=by.address if by else "",
        organization=said.get("organization_id") or _organization_of(project),
        project=project,
        details={name: _plain(value) for name, value in said.items()},
    )


def organization_changed(organization: Organization) -> None:
    feed.note(codes_of(organization.id), ReplicaKind.ORGANIZATION, organization.id)


def project_changed(project: Project) -> None:
    feed.note(codes_of(project.organization_id), ReplicaKind.PROJECT, project.id)


def environment_changed(environment: Environment, *former_codes: str) -> None:
    """Also says everything of the organization again: a gateway environment may hear of it for the first or the last time."""
    codes = {environment.gateway_environment, *former_codes}
    feed.note(codes, ReplicaKind.ORGANIZATION, environment.organization_id)
    feed.note(codes, ReplicaKind.ENVIRONMENT, environment.id)
    for project in Project.objects.filter(organization_id=environment.organization_id, deleted_at=None).values_list(
        "id", flat=True
    ):
        feed.note(codes, ReplicaKind.PROJECT, project)
    scoped = Q(organization_id=environment.organization_id) | ~Q(environment="")
    for user, service in RoleGrant.objects.filter(scoped).values_list("user_id", "service_id").distinct():
        feed.note(codes, ReplicaKind.PRINCIPAL, user or service)


def principal_changed(holder: User | ServiceIdentity | uuid.UUID) -> None:
    """A role, a grant, a session, a token or the state of a person or service identity changed."""
    identifier = holder if isinstance(holder, uuid.UUID) else holder.id
    rights.forget_after_commit()
    feed.note(settings.MAZEVAULT.gateway_environments, ReplicaKind.PRINCIPAL, identifier)


def principals_changed(holders: Iterable[uuid.UUID]) -> None:
    """`principal_changed` of many, with one statement."""
    rights.forget_after_commit()
    codes = sorted(settings.MAZEVAULT.gateway_environments)
    feed.note_all((code, ReplicaKind.PRINCIPAL, holder) for holder in sorted(holders) for code in codes)


def credential_changed(credential: Session | ApiToken) -> None:
    """A session or token was made or ended."""
    principal_changed(holder_id(credential))


def holder_id(credential: Session | ApiToken | RoleGrant) -> uuid.UUID:
    """The person or service identity a session, token or grant belongs to."""
    found = credential.user_id or credential.service_id
    if found is None:
        raise ValueError("a credential has a holder")
    return found


def codes_of(organization_id: uuid.UUID) -> Iterable[str]:
    """The gateway environments an organization is or was mapped to; all when it has none yet."""
    rows = Environment.objects.filter(organization_id=organization_id)
    return set(rows.values_list("gateway_environment", flat=True)) or settings.MAZEVAULT.gateway_environments


@contextmanager
def unique(what: str, field: str = "name", *, existing: Callable[[], QuerySet[Any]] | None = None) -> Iterator[None]:
    """Turn the database's refusal of a duplicate into a 409 with the words existing clients look for.

    `existing` finds what is there already, among what the caller may see: its id stands in `details`.
    """
    try:
        with transaction.atomic():
            yield
    except IntegrityError as error:
        if not isinstance(error.__cause__, UniqueViolation):
            raise
        there = existing().values_list("pk", flat=True).first() if existing else None
        details = f"the id of the one that exists: {there}" if there else None
        raise Conflict(f"{field}: {what} already exists", code="DUPLICATE_NAME", details=details) from error


def altered(row: Any, wanted: Mapping[str, Any]) -> list[str]:
    """Set the fields of a row; returns the names of those that were different."""
    names = [name for name, value in wanted.items() if getattr(row, name) != value]
    for name in names:
        setattr(row, name, wanted[name])
    return names


def _organization_of(project: uuid.UUID | None) -> uuid.UUID | None:
    """An entry about a project is one about its organization, also where the caller names the project only."""
    return Project.objects.filter(id=project).values_list("organization_id", flat=True).first() if project else None


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, uuid.UUID) else value
