"""Giving roles away. Nobody gives what they do not hold themselves in that very place, nor for longer than they hold it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet

from accounts import changes, grant_ends
from accounts.access import EVERYWHERE, Grant, Principal, Scope
from accounts.administrators import somebody_stays
from accounts.changes import By
from accounts.environments import slug_or_refused
from accounts.models import Environment, Organization, Project, Role, RoleGrant, ServiceIdentity, User
from accounts.principals import grant_of
from accounts.roles import ADMIN, MEMBER, ROLES_READ, ROLES_WRITE, VIEWER
from accounts.scoping import absent, environment_named, organization_seen, project_seen
from common.errors import Conflict, PermissionRefused, ValidationFailed
from common.rows import hold, kept, locked


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
        _keep_place(place)
        role = _kept_for(by.principal, role.id, place.scope, until)
        if kept(type(holder)._default_manager.filter(deleted_at=None), holder.pk) is None:
            raise absent("user" if isinstance(holder, User) else "service identity")
        same = RoleGrant.objects.filter(**_holder(holder), role=role, project=place.project, environment=place.environment)
        same = same.filter(Q(organization_id=place.scope.organization) if place.scope.organization else Q(organization=None))
        with changes.unique("this role in this place", "role_id", existing=lambda: same):
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
    """End a grant, or the role of the account itself, whose id is that of the account. It takes the same rights as giving it."""
    if isinstance(holder, User) and identifier == holder.id:
        _end_role_of_account(holder, by)
        return
    with transaction.atomic(), somebody_stays():
        hold(type(holder), [holder.pk], no_key=True)  # before its grants, as at a sign-in
        row = locked(grants_shown(by.principal, holder), identifier)
        if row is None:
            raise absent("assignment")
        require_grantable(by.principal, row.role.name, frozenset(row.role.permissions), grant_of(row).scope, row.expires_at)
        grant_ends.end([row], by)


def account_role(user: User) -> Role | None:
    """The role of the account itself, if it counts: it is held everywhere, beside all grants."""
    if user.sso_provider:
        return None
    return Role.objects.filter(name=VIEWER if user.role == MEMBER else user.role).first()


def _end_role_of_account(holder: User, by: By) -> None:
    """What is left is the least an account with a password can be."""
    with transaction.atomic(), somebody_stays():
        user = User.objects.select_for_update().filter(id=holder.id, deleted_at=None).first()
        role = account_role(user) if user else None
        if user is None or role is None or not by.principal.may(ROLES_READ, EVERYWHERE):
            raise absent("assignment")
        if role.name == VIEWER:
            raise Conflict("every account with a password here is at least a viewer; disable the account instead")
        require_grantable(by.principal, role.name, frozenset(role.permissions), EVERYWHERE)
        User.objects.filter(id=user.id).update(role=VIEWER)
        changes.record(by, "rbac.user.removed", "user", user.id, {"role": role.name, "assignment_id": user.id})
        changes.principal_changed(user)


def _keep_place(place: Place) -> None:
    """A place that ends in this moment ends the grant too, or the grant is refused. In the order of docs/adr/0033."""
    where = place.scope.organization
    if where and kept(Organization.objects.filter(deleted_at=None), where) is None:
        raise absent("organization")
    if place.project and kept(Project.objects.filter(deleted_at=None), place.project.pk) is None:
        raise absent("project")
    if not place.environment or not where:
        return
    living = Environment.objects.filter(organization_id=where, slug__iexact=place.environment, deleted_at=None)
    found = living.first()
    if found is None or kept(living, found.pk) is None:
        raise ValidationFailed("environment: was deleted in this very moment; choose another")


def _kept_for(principal: Principal, identifier: uuid.UUID, place: Scope, until: datetime | None) -> Role:
    """The role as it is until the transaction ends. It may have come to give more since it was read."""
    role = role_of(identifier, keep=True)
    require_grantable(principal, role.name, frozenset(role.permissions), place, until)
    return role


def grants_shown(principal: Principal, holder: User | ServiceIdentity) -> QuerySet[RoleGrant]:
    """The grants of a holder in places whose roles the caller may read."""
    return _rows_of(holder).filter(id__in=[row.id for row in list_shown(principal, holder)])


def list_shown(principal: Principal, holder: User | ServiceIdentity) -> list[RoleGrant]:
    """The same, read once."""
    return [row for row in _rows_of(holder) if principal.may(ROLES_READ, grant_of(row).scope)]


def _rows_of(holder: User | ServiceIdentity) -> QuerySet[RoleGrant]:
    return RoleGrant.objects.filter(**_holder(holder)).select_related("role", "project").order_by("created_at", "id")


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


def role_of(identifier: uuid.UUID, *, keep: bool = False) -> Role:
    """The role that is to be given. `keep`: nobody deletes or changes it until the transaction ends."""
    found = kept(Role.objects.all(), identifier) if keep else Role.objects.filter(id=identifier).first()
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
    if not text:
        return ""
    if where is None:
        return slug_or_refused(text)
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
