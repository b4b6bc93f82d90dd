"""What a principal may see and do where. Somebody else's object and one that never was get the same answer.

Reading a container (an organization, a project) needs the permission in it or in some part of it; everything else needs it in
the very place.
"""

from __future__ import annotations

import uuid

from django.db.models import Q, QuerySet

from accounts.access import EVERYWHERE, Principal, Scope
from accounts.models import Environment, Organization, Project
from accounts.roles import PROJECTS_READ, PROJECTS_WRITE
from common.errors import NotFound, PermissionRefused
from common.rows import kept


def require(principal: Principal, permission: str, place: Scope, *, readable: str, what: str = "object") -> None:
    """Raise `NotFound` when they may not even read (`readable`) in this place, `PermissionRefused` when they may only read."""
    if principal.may(permission, place):
        return
    if place != EVERYWHERE and not principal.may_within(readable, place):
        raise absent(what)
    raise PermissionRefused(f"this needs the permission {permission} here")


def absent(what: str) -> NotFound:
    """The one answer for what is not there and what is not theirs."""
    return NotFound(f"there is no {what} with this id", code="PROJECT_NOT_FOUND" if what == "project" else None)


def place_of(thing: Organization | Project) -> Scope:
    """Where an organization or a project is."""
    if isinstance(thing, Project):
        return Scope(organization=str(thing.organization_id), project=str(thing.id))
    return Scope(organization=str(thing.id))


def place_in(project: Project, environment: Environment) -> Scope:
    """Where a secret of a project lives in one environment."""
    return Scope(str(project.organization_id), str(project.id), environment.slug.lower())


def visible_organizations(principal: Principal, permission: str = PROJECTS_READ) -> QuerySet[Organization]:
    """The living organizations in some part of which they hold the permission."""
    living = Organization.objects.filter(deleted_at=None)
    scopes = principal.scopes_of(permission)
    if any(not scope.organization for scope in scopes):
        return living
    return living.filter(id__in={scope.organization for scope in scopes})


def visible_projects(principal: Principal, permission: str = PROJECTS_READ) -> QuerySet[Project]:
    """The living projects in some part of which they hold the permission."""
    living = Project.objects.filter(deleted_at=None, organization__deleted_at=None)
    scopes = principal.scopes_of(permission)
    if any(not scope.organization and not scope.project for scope in scopes):
        return living
    whole = {scope.organization for scope in scopes if not scope.project}
    single = {scope.project for scope in scopes if scope.project}
    return living.filter(Q(organization_id__in=whole) | Q(id__in=single))


def organization_seen(principal: Principal, identifier: uuid.UUID, readable: str = PROJECTS_READ) -> Organization:
    """A living organization they may know of. Raises `NotFound`."""
    found = visible_organizations(principal, readable).filter(id=identifier).first()
    if found is None:
        raise absent("organization")
    return found


def organization_for(
    principal: Principal, identifier: uuid.UUID, permission: str, *, readable: str = PROJECTS_READ
) -> Organization:
    """A living organization in which they hold the permission. Raises `NotFound` or `PermissionRefused`."""
    found = organization_seen(principal, identifier, readable)
    require(principal, permission, place_of(found), readable=readable, what="organization")
    return found


def project_seen(principal: Principal, identifier: uuid.UUID, readable: str = PROJECTS_READ) -> Project:
    """A living project they may know of. Raises `NotFound`."""
    found = visible_projects(principal, readable).select_related("organization").filter(id=identifier).first()
    if found is None:
        raise absent("project")
    return found


def project_for(principal: Principal, identifier: uuid.UUID, permission: str, *, readable: str = PROJECTS_READ) -> Project:
    """A living project in which they hold the permission. Raises `NotFound` or `PermissionRefused`."""
    found = project_seen(principal, identifier, readable)
    require(principal, permission, place_of(found), readable=readable, what="project")
    return found


def kept_for_change(principal: Principal, identifier: uuid.UUID) -> Project:
    """A project they may change, which nobody deletes until the transaction ends: what is put into it does not outlive it."""
    seen = project_for(principal, identifier, PROJECTS_WRITE)
    found = kept(visible_projects(principal).select_related("organization"), seen.pk)
    if found is None:
        raise absent("project")
    return found


def environment_named(organization_id: uuid.UUID, text: str) -> Environment | None:
    """The living environment of an organization with this slug or name, in any case of letters; a slug goes first."""
    living = Environment.objects.filter(organization_id=organization_id, deleted_at=None)
    return living.filter(slug__iexact=text).first() or living.filter(name__iexact=text).first()
