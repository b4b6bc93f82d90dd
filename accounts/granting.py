"""Giving roles away. Nobody gives what they do not hold themselves in that very place, nor for longer than they hold it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from accounts import changes
from accounts.access import Grant, Principal, Scope
from accounts.changes import By
from accounts.models import Organization, Project, Role, RoleGrant, ServiceIdentity, User
from accounts.principals import grant_of
from accounts.roles import ADMIN, ROLES_READ, ROLES_WRITE
from accounts.scoping import absent, environment_named, organization_seen, project_seen
from common.errors import PermissionRefused, ValidationFailed
from common.rows import locked


@dataclass(frozen=True)
class Place:
    """Where a role is to be held, as rows; an empty part stands for all."""

    organization: Organization | None = None
    project: Project | None = None
    environment: str = ""

    @property
    def scope(self) -> Scope:
        organization = self.project.organization_id if self.project else getattr(self.organization, "id", "")
        return Scope(str(organization), str(getattr(self.project, "id", "")), self.environment)


def grant(holder: User | ServiceIdentity, wish: Mapping[str, Any], by: By, now: datetime) -> RoleGrant:
    """Let a person or service identity hold a role in a place. Raises `Conflict` when they hold it there already."""
    role = role_of(wish["role_id"])
    place = _place(by.principal, wish)
    until = wish.get("expires_at")
    if until is not None and until <= now:
        raise ValidationFailed("expires_at: must be in the future")
    require_grantable(by.principal, role.name, frozenset(role.permissions), place.scope, until)
    with transaction.atomic():
        with changes.unique("this role in this place", "role_id"):
            row = RoleGrant.objects.create(
                **_holder(holder),
                role=role,
                organization_id=place.scope.organization or None,
                project=place.project,
                environment=place.environment,
                environment_given=wish.get("environment") or "",
                expires_at=until,
            )
        _record(by, "rbac.user.assigned", row)
    return row


def withdraw(holder: User | ServiceIdentity, identifier: uuid.UUID, by: By) -> None:
    """End a grant. It takes the same rights as giving it."""
    with transaction.atomic():
        row = locked(grants_shown(by.principal, holder), identifier)
        if row is None:
            raise absent("assignment")
        require_grantable(by.principal, row.role.name, frozenset(row.role.permissions), grant_of(row).scope, row.expires_at)
        _record(by, "rbac.user.removed", row)
        row.delete()


def grants_shown(principal: Principal, holder: User | ServiceIdentity) -> QuerySet[RoleGrant]:
    """The grants of a holder in places whose roles the caller may read."""
    rows = RoleGrant.objects.filter(**_holder(holder)).select_related("role", "project").order_by("created_at", "id")
    seen = [row.id for row in rows if principal.may(ROLES_READ, grant_of(row).scope)]
    return rows.filter(id__in=seen)


def require_grantable(
    granter: Principal, role: str, permissions: frozenset[str], place: Scope, until: datetime | None = None
) -> None:
    """Raise `PermissionRefused` unless the granter may grant in this place and holds all of it there, and for as long."""
    if not granter.may(ROLES_WRITE, place):
        raise PermissionRefused(f"this needs the permission {ROLES_WRITE} in this place")
    missing = sorted(permissions - _held_in(granter, place, until))
    if missing:
        raise PermissionRefused(f"nobody grants above themselves; you do not hold {missing[0]} in this place, or not as long")
    if role == ADMIN and not permissions <= granter.permissions:
        raise PermissionRefused("the role admin is granted by those only who hold it everywhere")


def require_above(manager: Principal, target: Principal) -> None:
    """Raise `PermissionRefused` unless the manager holds all the target holds, and as long: who resets a password can become
    its owner, who would stay when the manager's own right ends."""
    for held in target.living():
        missing = sorted(held.permissions - _held_in(manager, held.scope, held.expires_at))
        if missing:
            raise PermissionRefused(f"this account may do more than you: it holds {missing[0]}, or holds it longer")


def role_of(identifier: uuid.UUID) -> Role:
    found = Role.objects.filter(id=identifier).first()
    if found is None:
        raise ValidationFailed("role_id: there is no role with this id")
    return found


def _place(principal: Principal, wish: Mapping[str, Any]) -> Place:
    organization = organization_seen(principal, wish["organization_id"]) if wish.get("organization_id") else None
    project = project_seen(principal, wish["project_id"]) if wish.get("project_id") else None
    if organization and project and project.organization_id != organization.id:
        raise ValidationFailed("project_id: this project belongs to another organization")
    return Place(organization, project, _environment(wish.get("environment") or "", organization, project))


def _environment(text: str, organization: Organization | None, project: Project | None) -> str:
    """The slug that is meant; in an organization it must exist there, else the grant would silently give nothing."""
    where = project.organization_id if project else getattr(organization, "id", None)
    if not text or where is None:
        return text.lower()
    found = environment_named(where, text)
    if found is None:
        raise ValidationFailed("environment: the organization has no environment of this name or slug")
    return found.slug.lower()


def _held_in(principal: Principal, place: Scope, until: datetime | None) -> frozenset[str]:
    """What they hold in a place at least until then; None stands for ever."""
    lasting = (grant.permissions for grant in principal.living() if grant.covers(place) and _outlasts(grant, until))
    return frozenset[str]().union(*lasting)


def _outlasts(held: Grant, until: datetime | None) -> bool:
    return held.expires_at is None or (until is not None and until <= held.expires_at)


def _holder(holder: User | ServiceIdentity) -> dict[str, Any]:
    return {"user": holder} if isinstance(holder, User) else {"service": holder}


def _record(by: By, action: str, row: RoleGrant) -> None:
    holder = changes.holder_id(row)
    details = {
        "role": row.role.name,
        "assignment_id": row.id,
        "organization_id": row.organization_id,
        "project_id": row.project_id,
        "environment": row.environment,
    }
    changes.record(by, action, "user" if row.user_id else "service", holder, details)
    changes.principal_changed(holder)
