"""Rows turned into principals: who a person or a service identity is and all they may do. Reads only."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.db.models import QuerySet

from accounts.access import EVERYWHERE, Grant, Principal, PrincipalKind, Scope
from accounts.models import RoleGrant, ServiceIdentity, User
from accounts.roles import permissions_of_account


def principal_of_user(user: User, now: datetime) -> Principal:
    """The person with the role of their account everywhere, and their further grants where those say."""
    everywhere = Grant(permissions_of_account(user.role), EVERYWHERE)
    grants = (everywhere, *_grants(RoleGrant.objects.filter(user=user)))
    return Principal(PrincipalKind.USER, str(user.id), user.email, grants, now)


def principal_of_service(service: ServiceIdentity, now: datetime) -> Principal:
    """The service identity with its grants; it has no role of its own."""
    return Principal(
        PrincipalKind.SERVICE, str(service.id), service.display_name, _grants(RoleGrant.objects.filter(service=service)), now
    )


def grant_of(row: RoleGrant) -> Grant:
    """What a row gives where. Its role and project should be loaded with it."""
    place = Scope(_organization_of(row), str(row.project_id or ""), row.environment.lower())
    return Grant(frozenset(row.role.permissions), place, row.expires_at)


def _grants(rows: QuerySet[RoleGrant]) -> tuple[Grant, ...]:
    return tuple(grant_of(row) for row in rows.select_related("role", "project"))


def principal_named(actor: str, now: datetime) -> Principal | None:
    """The living person or service identity the audit names so (`Principal.actor`), with all they may do now; None for others."""
    kind, _, text = actor.partition(":")
    try:
        identifier = uuid.UUID(text)
    except ValueError:
        return None
    if kind == PrincipalKind.USER.value:
        user = User.objects.filter(id=identifier, is_active=True, deleted_at=None).first()
        return principal_of_user(user, now) if user else None
    if kind == PrincipalKind.SERVICE.value:
        service = ServiceIdentity.objects.filter(id=identifier, status="active", deleted_at=None).first()
        return principal_of_service(service, now) if service else None
    return None


def _organization_of(row: RoleGrant) -> str:
    """A grant in a project is one in its organization, whatever the row says."""
    return str((row.project.organization_id if row.project else row.organization_id) or "")
