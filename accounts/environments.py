"""Project environments of an organization, and the gateway environment each is mapped to (DESIGN §2).

`is_production` decides the mapping. It cannot change while secrets live there: they are sealed for one gateway environment.
Whoever held a role in an environment holds nothing in another one of the same slug: the grants end with it, and when it becomes
production or ceases to be.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from accounts import changes, grant_ends
from accounts.changes import By
from accounts.models import Environment, Organization, RoleGrant
from accounts.roles import SETTINGS_WRITE
from accounts.scoping import absent, organization_for
from common.errors import Conflict, ValidationFailed
from common.rows import locked

FIRST_ONES = (("dev", False), ("staging", False), ("qa", False), ("prod", True))
"""Name and slug of what every new organization has, and whether it is production."""
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def add_first_ones(organization: Organization) -> None:
    """The environments every organization begins with; part of its creation."""
    for name, is_production in FIRST_ONES:
        added = _add(organization, {"name": name, "slug": name, "is_production": is_production})
        changes.environment_changed(added)


def create(organization_id: uuid.UUID, wish: Mapping[str, Any], by: By) -> Environment:
    """Add an environment; without a slug it is made from the name. Raises `Conflict` when name or slug is taken."""
    slug = wish.get("slug") or slug_of(wish["name"])
    if not _SLUG.fullmatch(slug):
        raise ValidationFailed("slug: must be lower-case letters and digits, joined by single hyphens, for example pre-prod")
    with transaction.atomic():
        organization = organization_for(by.principal, organization_id, SETTINGS_WRITE)
        if locked(Organization.objects.filter(deleted_at=None), organization.id) is None:
            raise absent("organization")
        _refuse_old_grants(slug, gateway_environment_for(bool(wish.get("is_production"))))
        named = Q(name__iexact=wish["name"]) | Q(slug__iexact=slug)
        same = Environment.objects.filter(named, organization=organization, deleted_at=None)
        with changes.unique("an environment of this name or slug", existing=lambda: same):
            environment = _add(organization, {**wish, "slug": slug})
        _record(by, "environment.created", environment)
    environment.refresh_from_db()
    return environment


def change(organization_id: uuid.UUID, identifier: uuid.UUID, wish: Mapping[str, Any], by: By) -> Environment:
    """Change what the wish names. Raises `Conflict` when the mapping would change under living secrets."""
    with transaction.atomic():
        organization = organization_for(by.principal, organization_id, SETTINGS_WRITE)
        environment = _locked(organization, identifier)
        former = environment.gateway_environment
        wanted = {**wish, "gateway_environment": gateway_environment_for(wish.get("is_production", environment.is_production))}
        names = changes.altered(environment, wanted if "is_production" in wish else dict(wish))
        if former != environment.gateway_environment and holds_values(environment):
            raise Conflict(
                "is_production: values rest here, also those of deleted secrets, sealed for this gateway environment; "
                "make a new environment"
            )
        if former != environment.gateway_environment:
            _refuse_old_grants(environment.slug, environment.gateway_environment)
            grant_ends.of_environment(environment, by, "its environment belongs to another gateway environment now")
        if names:
            same = Environment.objects.filter(
                organization=organization_id, deleted_at=None, name__iexact=wish.get("name", "")
            )  # fmt: skip
            with changes.unique("an environment of this name", existing=lambda: same):
                environment.updated_at = Now()
                environment.save(update_fields=[*names, "updated_at"])
            _record(by, "environment.updated", environment, former, fields=names)
    environment.refresh_from_db()
    return environment


def delete(organization_id: uuid.UUID, identifier: uuid.UUID, by: By, now: datetime) -> None:
    """End an environment in which no secret lives; its name and slug become free."""
    with transaction.atomic():
        organization = organization_for(by.principal, organization_id, SETTINGS_WRITE)
        environment = _locked(organization, identifier)
        if holds_secrets(environment):
            raise Conflict("secrets live in this environment; delete them first")
        _end(environment, now)
        grant_ends.of_environment(environment, by, "its environment was deleted")
        _record(by, "environment.deleted", environment)


def end_all(organization: Organization, now: datetime) -> None:
    """End all environments; part of the organization's deletion."""
    for environment in Environment.objects.select_for_update().filter(organization=organization, deleted_at=None):
        _end(environment, now)
        changes.environment_changed(environment)


def gateway_environment_for(is_production: bool) -> str:
    """The blast radius of production and of everything else."""
    node = settings.MAZEVAULT
    return str(node.production_gateway_environment if is_production else node.default_gateway_environment)


def holds_secrets(environment: Environment) -> bool:
    """Whether a living project has a living secret here. The vault lies above this app and hangs on by its foreign key."""
    return environment.secrets.filter(deleted_at=None, project__deleted_at=None).exists()


def holds_values(environment: Environment) -> bool:
    """Whether anything here is sealed for its gateway environment or rests in a vault of it, deleted secrets included."""
    if holds_secrets(environment):
        return True
    return environment.secrets.filter(Q(versions__sealed_value__isnull=False) | Q(versions__external_version__gt="")).exists()


def slug_or_refused(text: str) -> str:
    """The slug that stands for environments of any organization. Raises `ValidationFailed` for what no environment can have."""
    if not _SLUG.fullmatch(text.lower()):
        raise ValidationFailed(
            "environment: without organization_id it is a slug such as dev: small letters and digits, joined by single hyphens"
        )
    return text.lower()


def slug_of(name: str) -> str:
    """How existing clients make a slug: lower case, runs of anything else become one hyphen."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _add(organization: Organization, fields: Mapping[str, Any]) -> Environment:
    code = gateway_environment_for(bool(fields.get("is_production")))
    return Environment.objects.create(organization=organization, gateway_environment=code, **fields)


def _refuse_old_grants(slug: str, code: str) -> None:
    """Roles held in every organization by this slug would count in production for the first time, which nobody meant."""
    production = settings.MAZEVAULT.production_gateway_environment
    known = Environment.objects.filter(slug__iexact=slug, gateway_environment=code, deleted_at=None)
    if code != production or known.exists():
        return
    held = RoleGrant.objects.filter(environment__iexact=slug, organization=None, project=None).count()
    if held:
        raise Conflict(
            f"is_production: {held} roles are held in environments named {slug} of every organization, given when none of them "
            "was production; withdraw them first, or choose another slug",
            code="GRANTS_OF_THIS_SLUG",
        )


def _end(environment: Environment, now: datetime) -> None:
    Environment.objects.filter(id=environment.id).update(deleted_at=now, updated_at=Now())


def _locked(organization: Organization, identifier: uuid.UUID) -> Environment:
    living = Environment.objects.select_for_update().filter(organization=organization, deleted_at=None)
    found = living.filter(id=identifier).first()
    if found is None:
        raise absent("environment")
    return found


def _record(by: By, action: str, environment: Environment, *former_codes: str, fields: Sequence[str] = ()) -> None:
    details = {
        "organization_id": environment.organization_id,
        "slug": environment.slug,
        "is_production": environment.is_production,
        "fields": sorted(fields),
    }
    changes.record(by, action, "environment", environment.id, details)
    changes.environment_changed(environment, *former_codes)
