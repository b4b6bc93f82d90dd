"""Sync rules of a project as stored objects: made, replaced, deleted."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from accounts import changes
from accounts.changes import By
from accounts.models import ConflictStrategy, Environment, Project
from accounts.roles import PROJECTS_READ, PROJECTS_WRITE
from accounts.scoping import absent, environment_named, kept_for_change, place_of, require, visible_projects
from common.errors import Conflict, ValidationFailed
from common.rows import kept, locked
from integrations.models import Integration, RunState, SyncDirection, SyncMode, SyncRule, SyncRun
from integrations.providers import AZURE_KEY_VAULT
from integrations.sync.transform import TransformInvalid, parse_transform, pieces_of

ANY_ENVIRONMENT = "env"
"""Stands for the environment where a template is checked: a run has one, whatever the rule says."""
PLACEHOLDERS = frozenset({"key", "environment"})
WHEN_ABSENT: Mapping[str, Any] = {
    "target_environment": "",
    "source_path": "",
    "key_transform_template": "",
    "conflict_strategy": ConflictStrategy.MANUAL_RESOLUTION,
    "sync_direction": SyncDirection.PULL,
    "sync_mode": SyncMode.INCREMENTAL,
}


def create(project_id: uuid.UUID, wish: Mapping[str, Any], by: By) -> SyncRule:
    """Add a rule. Raises `Conflict` when the project has one of this name."""
    with transaction.atomic():
        project = kept_for_change(by.principal, project_id)
        fields = _fields(project, wish)
        with changes.unique("a sync rule of this name", existing=lambda: _named(project, wish)):
            rule = SyncRule.objects.create(project=project, **fields)
        _record(by, "sync_rule.created", rule)
    rule.refresh_from_db()
    return rule


def _named(project: Project, wish: Mapping[str, Any]) -> QuerySet[SyncRule]:
    return SyncRule.objects.filter(project=project, deleted_at=None, name__iexact=wish["name"])


def replace(identifier: uuid.UUID, wish: Mapping[str, Any], by: By) -> SyncRule:
    """Make it what the wish says; the same wish again changes nothing."""
    with transaction.atomic():
        kept(Integration.objects.all(), wish["integration_id"])  # before the rule, as its deletion does
        rule = _locked(identifier, by)
        names = changes.altered(rule, _fields(rule.project, wish))
        if names:
            if rule.runs.filter(state=RunState.RUNNING).exists():
                raise Conflict("a run of this rule is not over; wait for it or stop it", code="SYNC_RUNNING")
            # Whoever scheduled it did not schedule this; its runs would have their rights.
            rule.interval_minutes, rule.scheduled_by, rule.updated_at = 0, "", Now()
            with changes.unique("a sync rule of this name", existing=lambda: _named(rule.project, wish)):
                rule.save(update_fields=[*names, "interval_minutes", "scheduled_by", "updated_at"])
            _record(by, "sync_rule.updated", rule)
    rule.refresh_from_db()
    return rule


def delete(identifier: uuid.UUID, by: By, now: datetime) -> None:
    with transaction.atomic():
        _end(_locked(identifier, by), by, now)


def end_all(integration: Integration, by: By, now: datetime) -> None:
    """End the rules that use an integration; part of its deletion."""
    for rule in SyncRule.objects.select_for_update().filter(integration=integration, deleted_at=None):
        _end(rule, by, now)


def refuse_while_running(integration: Integration) -> None:
    """Raises `Conflict` (SYNC_RUNNING) while a run of a rule of this integration is not over."""
    if SyncRun.objects.filter(rule__integration=integration, state=RunState.RUNNING).exists():
        raise Conflict("a run of a rule of this integration is not over; wait for it or stop it", code="SYNC_RUNNING")


def rules_of(project: Project) -> QuerySet[SyncRule]:
    return (
        project.sync_rules.filter(deleted_at=None)
        .select_related("project", "integration__environment")
        .order_by("created_at", "id")
    )


def environment_of(rule: SyncRule) -> Environment | None:
    """The project environment whose secrets the rule is about: its own target, else the integration's, else the project's.

    None for one that was deleted: no other one takes its place.
    """
    organization = rule.project.organization_id
    if rule.target_environment:
        return environment_named(organization, rule.target_environment)
    if (own := rule.integration.environment) is not None:
        return own if own.deleted_at is None else None
    return environment_named(organization, rule.project.default_environment) if rule.project.default_environment else None


def strategy_that_counts(rule: SyncRule) -> str:
    """What happens on a conflict in the rule's environment: in production a person decides, whatever the rule says."""
    target = environment_of(rule)
    return ConflictStrategy.MANUAL_RESOLUTION.value if target and target.is_production else rule.conflict_strategy


def _fields(project: Project, wish: Mapping[str, Any]) -> dict[str, Any]:
    if wish.get("project_id") not in (None, project.id):
        raise ValidationFailed("project_id: is another project than the one in the path")
    integration = kept(Integration.objects.filter(project=project, deleted_at=None), wish["integration_id"])
    if integration is None:
        raise ValidationFailed("integration_id: the project has no integration with this id")
    _refuse_wrong_template(wish.get("key_transform_template", ""), integration)
    given = {name: wish[name] for name in WHEN_ABSENT if wish.get(name)}
    _refuse_foreign_target(project, integration, given.get("target_environment", ""))
    return {**WHEN_ABSENT, **given, "name": wish["name"], "integration": integration}


def _refuse_wrong_template(template: str, integration: Integration) -> None:
    try:
        if set(pieces_of(template)[1::2]) - PLACEHOLDERS:
            raise ValidationFailed("key_transform_template: the only placeholders are {{key}} and {{environment}}")
        if integration.provider == AZURE_KEY_VAULT:
            parse_transform(template, ANY_ENVIRONMENT)
    except TransformInvalid as invalid:
        raise ValidationFailed(str(invalid)) from None


def _refuse_foreign_target(project: Project, integration: Integration, target: str) -> None:
    """A vault of one gateway environment gets no secrets of another (I13)."""
    found = environment_named(project.organization_id, target) if target else None
    if integration.provider != AZURE_KEY_VAULT or integration.environment is None:
        return
    if target and found is None:
        raise ValidationFailed("target_environment: the organization has no environment of this name or slug")
    own = integration.environment.gateway_environment
    if found is not None and found.gateway_environment != own:
        raise Conflict(
            f"target_environment: {found.slug} belongs to {found.gateway_environment}, the integration's vault to {own}",
            code="VAULT_OF_OTHER_ENVIRONMENT",
        )


def _end(rule: SyncRule, by: By, now: datetime) -> None:
    SyncRule.objects.filter(id=rule.id).update(deleted_at=now)
    _record(by, "sync_rule.deleted", rule)


def _locked(identifier: uuid.UUID, by: By) -> SyncRule:
    rows = SyncRule.objects.filter(deleted_at=None, project__in=visible_projects(by.principal))
    found = locked(rows.select_related("project", "integration"), identifier)
    if found is None:
        raise absent("sync rule")
    require(by.principal, PROJECTS_WRITE, place_of(found.project), readable=PROJECTS_READ, what="sync rule")
    return found


def _record(by: By, action: str, rule: SyncRule) -> None:
    details = {"name": rule.name, "integration_id": rule.integration_id, "project_id": rule.project_id}
    changes.record(by, action, "sync_rule", rule.id, details)
