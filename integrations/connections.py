"""Integrations of a project as stored objects: made, replaced, deleted. The secret parts of a configuration are sealed."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from accounts import changes, sealed_config
from accounts.access import Principal
from accounts.changes import By
from accounts.models import Environment, Project
from accounts.roles import PROJECTS_READ, PROJECTS_WRITE
from accounts.scoping import absent, environment_named, kept_for_change, place_of, require, visible_projects
from common.errors import ValidationFailed
from common.rows import kept, locked
from common.sealing import Place
from integrations import providers, rules, storing, vaults
from integrations.azure.cloud import AuthMethod
from integrations.models import Integration

SEALED_WITHOUT_ENVIRONMENT = "platform"


def create(project_id: uuid.UUID, wish: Mapping[str, Any], by: By) -> Integration:
    """Connect a project. Raises `Conflict` when the project has one of this name in this environment."""
    with transaction.atomic():
        project = kept_for_change(by.principal, project_id)
        environment = _kept_environment(project, wish.get("environment", ""))
        integration = Integration(
            project=project,
            environment=environment,
            environment_given=wish.get("environment", ""),
            sealed_under=environment.gateway_environment if environment else SEALED_WITHOUT_ENVIRONMENT,
            **{name: wish[name] for name in ("name", "type", "provider")},
        )
        sealed_config.put(integration, integration.sealed_under, _config(integration, wish))
        _refuse_unusable(integration, by)
        with changes.unique("an integration of this name", existing=lambda: _named(integration)):
            integration.save(force_insert=True)
        _record(by, "integration.created", integration)
        changes.project_changed(project)
    integration.refresh_from_db()
    return integration


def replace(identifier: uuid.UUID, wish: Mapping[str, Any], by: By) -> Integration:
    """Make it what the wish says; its environment stays, and so do a secret that the wish leaves out and the whole configuration
    when the wish has none."""
    with transaction.atomic():
        integration = _locked(identifier, by)
        with storing.values_stay_findable(integration.project):
            _replace(integration, wish, by)
    integration.refresh_from_db()
    return integration


def delete(identifier: uuid.UUID, by: By, now: datetime) -> None:
    """End it, with the sync rules that use it; its secrets are wiped."""
    with transaction.atomic():
        integration = _locked(identifier, by)
        with storing.values_stay_findable(integration.project):
            rules.end_all(integration, by, now)
            Integration.objects.filter(id=integration.id).update(deleted_at=now, sealed_secrets=None)
        _record(by, "integration.deleted", integration)
        changes.project_changed(integration.project)


def _replace(integration: Integration, wish: Mapping[str, Any], by: By) -> None:
    _refuse_elsewhere(integration, wish.get("environment") or "")
    before = _leads_to(integration)
    names = changes.altered(integration, {name: wish[name] for name in ("name", "type", "provider")})
    if sealed_config.put(integration, integration.sealed_under, _config(integration, wish)):
        names += ["config", "sealed_secrets", "secrets_version"]
    if _leads_to(integration) != before:
        rules.refuse_while_running(integration)
    if names:
        _refuse_unusable(integration, by)
        integration.updated_at = Now()
        with changes.unique("an integration of this name", existing=lambda: _named(integration)):
            integration.save(update_fields=[*names, "updated_at"])
        _record(by, "integration.updated", integration)
        changes.project_changed(integration.project)


def _config(integration: Integration, wish: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration that is wished for. For a client that has no words for a vault's address: the address stays what it is,
    and a new integration leads to the one vault that is open to its project (`vaults.only_open`)."""
    before, given = integration.config, wish.get("config")
    if integration.provider != providers.AZURE_KEY_VAULT:
        return before if given is None else given
    if not given and before.get("vault_url"):
        return before
    config = given or {}
    if config.get("vault_url") or integration.environment is None:
        return config
    url = before.get("vault_url") or vaults.only_open(integration.project, integration.environment.gateway_environment)
    return {**config, **({"vault_url": url} if url else {})}


def _named(integration: Integration) -> QuerySet[Integration]:
    """Those of the project that have the name already, in the same environment."""
    others = integrations_of(integration.project).exclude(id=integration.id)
    return others.filter(name__iexact=integration.name, environment=integration.environment)


def _refuse_elsewhere(integration: Integration, environment: str) -> None:
    """It stays in the environment it was made for; naming that one again is fine, and so is naming none."""
    if environment in ("", integration.environment_given):
        return
    if _environment(integration.project, environment) != integration.environment:
        raise ValidationFailed("environment: an integration stays in the environment it was made for; make another one there")


def _leads_to(integration: Integration) -> tuple[object, ...]:
    """Which vault, and whom it sees: what must not change under a run."""
    config = integration.config
    return integration.provider, config.get("vault_url"), config.get("auth_method"), config.get("client_id")


def place(integration: Integration) -> Place:
    """What the secrets of an integration are sealed for."""
    return sealed_config.place(integration, integration.sealed_under)


def integrations_of(project: Project) -> QuerySet[Integration]:
    return project.integrations.filter(deleted_at=None).order_by("created_at", "id")


def integration_seen(principal: Principal, identifier: uuid.UUID) -> Integration:
    """A living integration of a project they may see. Raises `NotFound`."""
    found = _seen(principal).filter(id=identifier).first()
    if found is None:
        raise absent("integration")
    return found


def _seen(principal: Principal) -> QuerySet[Integration]:
    return Integration.objects.filter(deleted_at=None, project__in=visible_projects(principal)).select_related("project")


def _locked(identifier: uuid.UUID, by: By) -> Integration:
    found = locked(_seen(by.principal), identifier)
    if found is None:
        raise absent("integration")
    require(by.principal, PROJECTS_WRITE, place_of(found.project), readable=PROJECTS_READ, what="integration")
    return found


def _refuse_unusable(integration: Integration, by: By) -> None:
    """What its provider needs, and for a vault the environment it belongs to and whether the project may use it."""
    config = {**integration.config, **sealed_config.secrets_of(integration, integration.sealed_under)}
    providers.check(integration.provider, config, settings.MAZEVAULT.azure.cloud)
    if integration.provider == providers.AZURE_KEY_VAULT:
        if integration.environment is None:
            raise ValidationFailed("environment: name the environment of the organization whose secrets belong in this vault")
        vaults.bind(config["vault_url"], integration.environment.gateway_environment)
        if config.get("auth_method") != AuthMethod.CLIENT_SECRET:
            vaults.open_for_naming(config["vault_url"], integration.project, by)


def _kept_environment(project: Project, text: str) -> Environment | None:
    """The same, deleted and mapped anew by nobody until the transaction ends."""
    found = _environment(project, text)
    living = kept(Environment.objects.filter(deleted_at=None), found.pk) if found else None
    if found and living is None:
        raise ValidationFailed("environment: was deleted in this very moment; choose another")
    return living


def _environment(project: Project, text: str) -> Environment | None:
    if not text:
        return None
    found = environment_named(project.organization_id, text)
    if found is None:
        raise ValidationFailed("environment: the organization has no environment of this name or slug")
    return found


def _record(by: By, action: str, integration: Integration) -> None:
    details = {"name": integration.name, "provider": integration.provider, "project_id": integration.project_id}
    changes.record(by, action, "integration", integration.id, details)
