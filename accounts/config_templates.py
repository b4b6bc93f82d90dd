"""Config templates of an organization, for example its naming convention."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from accounts import changes, sealed_config
from accounts.changes import By
from accounts.models import ConfigTemplate, Organization
from accounts.roles import SETTINGS_WRITE
from accounts.scoping import absent, organization_for
from common.errors import ValidationFailed
from common.rows import kept

_EMPTY: Mapping[str, Any] = {"description": "", "format": "", "variables": {}}


def create(organization_id: uuid.UUID, wish: Mapping[str, Any], by: By) -> ConfigTemplate:
    organization = organization_for(by.principal, organization_id, SETTINGS_WRITE)
    _refuse_secrets(wish.get("variables") or {}, "variables")
    with transaction.atomic():
        if kept(Organization.objects.filter(deleted_at=None), organization.id) is None:
            raise absent("organization")
        with changes.unique("a template of this name", existing=lambda: _named(organization.id, wish)):
            template = ConfigTemplate.objects.create(organization=organization, **{**_EMPTY, **wish})
        _record(by, "system.config.created", template)
    template.refresh_from_db()
    return template


def replace(organization_id: uuid.UUID, identifier: uuid.UUID, wish: Mapping[str, Any], by: By) -> ConfigTemplate:
    """Make it what the wish says; the same wish again changes nothing."""
    with transaction.atomic():
        template = _locked(organization_id, identifier, by)
        _refuse_secrets(wish.get("variables") or {}, "variables")
        names = changes.altered(template, {**_EMPTY, **wish})
        if names:
            with changes.unique("a template of this name", existing=lambda: _named(organization_id, wish)):
                template.updated_at = Now()
                template.save(update_fields=[*names, "updated_at"])
            _record(by, "system.config.changed", template)
    template.refresh_from_db()
    return template


def delete(organization_id: uuid.UUID, identifier: uuid.UUID, by: By) -> None:
    with transaction.atomic():
        template = _locked(organization_id, identifier, by)
        _record(by, "system.config.deleted", template)
        template.delete()


def _named(organization: uuid.UUID, wish: Mapping[str, Any]) -> QuerySet[ConfigTemplate]:
    return ConfigTemplate.objects.filter(organization=organization, name__iexact=wish["name"])


def _refuse_secrets(held: Any, place: str) -> None:
    """Variables are shown to everybody who sees the organization. Raises `ValidationFailed` for what is surely a secret."""
    for name, value in held.items() if isinstance(held, dict) else enumerate(held):
        at = f"{place}[{name}]" if isinstance(held, list) else f"{place}.{name}"
        if isinstance(value, dict | list):
            _refuse_secrets(value, at)
        elif value not in (None, "") and (sealed_config.looks_secret(value) or sealed_config.is_secret(str(name))):
            fix = "variables of a template are shown; keep it as a secret and name that here"
            raise ValidationFailed(f"{at}: looks like a secret, and {fix}")


def _locked(organization_id: uuid.UUID, identifier: uuid.UUID, by: By) -> ConfigTemplate:
    organization = organization_for(by.principal, organization_id, SETTINGS_WRITE)
    found = ConfigTemplate.objects.select_for_update().filter(organization=organization, id=identifier).first()
    if found is None:
        raise absent("config template")
    return found


def _record(by: By, action: str, template: ConfigTemplate) -> None:
    details = {"name": template.name, "organization_id": template.organization_id}
    changes.record(by, action, "config_template", template.id, details)
