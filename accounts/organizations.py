"""Organizations: made with four environments, renamed, and deleted once nothing in them lives."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from accounts import changes, environments, grant_ends
from accounts.access import EVERYWHERE, Principal
from accounts.changes import By
from accounts.models import Organization
from accounts.roles import PROJECTS_READ, PROJECTS_WRITE, SETTINGS_WRITE
from accounts.scoping import organization_for, organization_seen, require, visible_organizations
from common.errors import Conflict, ValidationFailed
from common.locks import transaction_lock

DEFAULT_NAME = "Default"


def ensure_default_organization() -> None:
    """An organization for newcomers when there is none at all. Safe to repeat."""
    with transaction.atomic():
        transaction_lock("default-organization")
        if not Organization.objects.filter(deleted_at=None).exists():
            _create(DEFAULT_NAME, None)


def create(name: str, by: By) -> Organization:
    """A new organization with dev, staging, qa and prod. Raises `Conflict` when the name is taken."""
    require(by.principal, SETTINGS_WRITE, EVERYWHERE, readable=PROJECTS_READ)
    with transaction.atomic():
        return _create(name, by)


def rename(identifier: uuid.UUID, name: str, by: By) -> Organization:
    """Give it another name; the same name changes nothing."""
    with transaction.atomic():
        organization = locked(organization_for(by.principal, identifier, SETTINGS_WRITE))
        if organization.name != name:
            organization.name = name
            with changes.unique("an organization of this name", existing=lambda: _named(name, by)):
                Organization.objects.filter(id=organization.id).update(name=name, updated_at=Now())
            changes.record(by, "organization.renamed", "organization", organization.id, {"name": name})
            changes.organization_changed(organization)
    organization.refresh_from_db()
    return organization


def delete(identifier: uuid.UUID, by: By, now: datetime) -> None:
    """End an organization in which no project lives. Its environments end with it; its name becomes free."""
    seen = organization_seen(by.principal, identifier)
    require(by.principal, SETTINGS_WRITE, EVERYWHERE, readable=PROJECTS_READ)
    with transaction.atomic():
        organization = locked(seen)
        if organization.projects.filter(deleted_at=None).exists():
            raise Conflict("the organization still has projects; delete them first")
        changes.organization_changed(organization)
        grant_ends.of_organization(organization, by)
        environments.end_all(organization, now)
        Organization.objects.filter(id=organization.id).update(deleted_at=now, updated_at=Now())
        changes.record(by, "organization.deleted", "organization", organization.id, {"name": organization.name})


def chosen_for_projects(principal: Principal, identifier: uuid.UUID | None) -> Organization:
    """The organization a new project goes to: the named one, else the only one they may use, else the one named Default."""
    if identifier is not None:
        return organization_for(principal, identifier, PROJECTS_WRITE)
    usable = visible_organizations(principal, PROJECTS_WRITE)
    found = list(usable[:2])
    if len(found) == 1:
        return organization_for(principal, found[0].id, PROJECTS_WRITE)
    default = usable.filter(name__iexact=DEFAULT_NAME).first()
    if default is None:
        raise ValidationFailed("organization_id: is required; there are several organizations and none is named Default")
    return organization_for(principal, default.id, PROJECTS_WRITE)


def locked(organization: Organization) -> Organization:
    """The row, held until the transaction ends, so that nothing is put into an organization that is being deleted."""
    found = Organization.objects.select_for_update().filter(id=organization.id, deleted_at=None).first()
    if found is None:
        raise Conflict("the organization was deleted meanwhile")
    return found


def _named(name: str, by: By | None) -> QuerySet[Organization]:
    """The one that has the name already, for whoever may see it."""
    seen = visible_organizations(by.principal) if by else Organization.objects.filter(deleted_at=None)
    return seen.filter(name__iexact=name)


def _create(name: str, by: By | None) -> Organization:
    with changes.unique("an organization of this name", existing=lambda: _named(name, by)):
        organization = Organization.objects.create(name=name)
    environments.add_first_ones(organization)
    changes.record(by, "organization.created", "organization", organization.id, {"name": name})
    changes.organization_changed(organization)
    organization.refresh_from_db()
    return organization
