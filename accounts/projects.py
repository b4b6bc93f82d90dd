"""Projects of an organization and their settings. Deleting one hides everything in it and frees its name."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from accounts import changes, grant_ends, idle, organizations, resting
from accounts.access import Principal
from accounts.changes import By
from accounts.models import Environment, Project, Storage
from accounts.roles import PROJECTS_WRITE
from accounts.scoping import environment_named, place_of, project_for, visible_projects
from common.errors import Conflict, ValidationFailed
from common.sealing import CHANGED_ROW, SealBroken, Unreadable

log = logging.getLogger("mazevault.accounts.projects")

KEPT_WHEN_ABSENT = ("storage", "conflict_strategy", "stale_epoch_policy", "max_staleness_seconds")
"""Existing clients do not know these, so their PUT must not reset them."""
WEBHOOKS = "notification_webhooks"
NO_SETTINGS: Mapping[str, Any] = {
    "retention_days": 0,
    "notification_webhooks": None,
    "slack_channel": "",
    "tags": None,
    "owner_email": "",
    "sync_enabled": None,
    "sync_interval_minutes": None,
}


def create(wish: Mapping[str, Any], by: By) -> Project:
    """A new project. Raises `Conflict` when its organization has a living one of that name."""
    fields = {"storage": Storage.KEY_VAULT if settings.MAZEVAULT.orchestrator_mode else Storage.MAZEVAULT, **wish}
    with transaction.atomic():
        found = organizations.chosen_for_projects(by.principal, fields.pop("organization_id", None))
        organization = organizations.locked(found)
        fields["default_environment"] = _default_environment(organization.id, fields.get("environment", ""))
        same = visible_projects(by.principal).filter(organization=organization, name__iexact=fields["name"])
        with changes.unique("a project of this name", existing=lambda: same):
            project = Project.objects.create(organization=organization, **fields)
        _record(by, "project.created", project)
    project.refresh_from_db()
    return project


def replace(identifier: uuid.UUID, wish: Mapping[str, Any], by: By) -> Project:
    """Make it what the wish says. An absent type or environment is an empty one; the same wish again changes nothing."""
    with transaction.atomic():
        project = _locked(by, identifier)
        if wish.get("organization_id") not in (None, project.organization_id):
            raise ValidationFailed("organization_id: a project stays in its organization; make a new project there")
        wanted = {"name": wish["name"], "type": wish.get("type", ""), "environment": wish.get("environment", "")}
        if wanted["environment"] != project.environment:
            wanted["default_environment"] = _default_environment(project.organization_id, wanted["environment"])
        if wish.get("storage", project.storage) != project.storage:
            raise Conflict(
                "storage: is changed by POST projects/{id}/storage, which moves the values there and shows what that means first",
                code="STORAGE_MOVE_NEEDED",
            )
        names = changes.altered(project, {**wanted, **{name: wish[name] for name in KEPT_WHEN_ABSENT if name in wish}})
        if names:
            same = visible_projects(by.principal).filter(organization=project.organization_id, name__iexact=wish["name"])
            with changes.unique("a project of this name", existing=lambda: same):
                _save(project, names)
            _record(by, "project.updated", project, names)
    project.refresh_from_db()
    return project


def delete(identifier: uuid.UUID, by: By, now: datetime) -> None:
    """End it, with everything in it."""
    with transaction.atomic():
        project = _locked(by, identifier)
        Project.objects.filter(id=project.id).update(deleted_at=now, updated_at=Now())
        grant_ends.of_project(project, by)
        _record(by, "project.deleted", project)


def set_settings(identifier: uuid.UUID, wish: Mapping[str, Any], by: By) -> Project:
    """Replace the settings; what the wish leaves out is unset. Webhooks rest sealed: their addresses let anybody post."""
    wanted = {**NO_SETTINGS, **wish}
    hooks = wanted.pop(WEBHOOKS)
    with transaction.atomic():
        project = _locked(by, identifier)
        names = changes.altered(project, {"settings": wanted})
        if _differ(project, hooks):
            project.webhooks_version += 1
            project.sealed_webhooks = None if hooks is None else resting.sealed(resting.webhooks(project), json.dumps(hooks))
            names += ["sealed_webhooks", "webhooks_version"]
        if names:
            project.save(update_fields=names)
            changes.record(by, "project.settings.changed", "project", project.id, {"project_id": project.id})
    return project


def settings_of(project: Project, principal: Principal) -> dict[str, Any]:
    """All settings; what was never set has its empty form. Who may not change them sees of a webhook only where it leads."""
    hooks = webhooks_of(project)
    if hooks is not None and not principal.may(PROJECTS_WRITE, place_of(project)):
        hooks = [f"https://{urlsplit(hook).hostname or ''}/…" for hook in hooks]
    shown = {**NO_SETTINGS, **project.settings, WEBHOOKS: hooks}
    return {"project_id": str(project.id), **shown, "not_in_force": idle.not_in_force(shown, idle.OF_A_PROJECT)}


def webhooks_of(project: Project) -> list[str] | None:
    """Where it posts. Raises `Unreadable` (SEAL_BROKEN) when the row was changed past us."""
    if project.sealed_webhooks is None:
        return None
    try:
        hooks: list[str] = json.loads(resting.opened(resting.webhooks(project), project.sealed_webhooks))
    except SealBroken as broken:
        log.error("the webhooks of project %s (%s) do not open: %s", project.id, project.name, broken)
        raise Unreadable(
            f"notification_webhooks of the project {project.name!r} do not open: {CHANGED_ROW}. Save its settings again with all "
            "of them (PUT projects/{id}/settings)"
        ) from None
    return hooks


def _differ(project: Project, hooks: list[str] | None) -> bool:
    """Whether these are other webhooks than it has; what does not open is replaced, which mends it."""
    try:
        return hooks != webhooks_of(project)
    except Unreadable:
        return True


def _default_environment(organization_id: uuid.UUID, text: str) -> str:
    """The slug of the environment the text names, else dev, else the first one of the organization."""
    named = environment_named(organization_id, text) or environment_named(organization_id, "dev")
    found = named or Environment.objects.filter(organization_id=organization_id, deleted_at=None).order_by("created_at").first()
    return found.slug if found else ""


def _locked(by: By, identifier: uuid.UUID) -> Project:
    seen = project_for(by.principal, identifier, PROJECTS_WRITE)
    found = Project.objects.select_for_update().filter(id=seen.id, deleted_at=None).first()
    if found is None:
        raise Conflict("the project was deleted meanwhile")
    return found


def _save(project: Project, names: list[str]) -> None:
    project.updated_at = Now()
    project.save(update_fields=[*names, "updated_at"])


def _record(by: By, action: str, project: Project, fields: Sequence[str] = ()) -> None:
    details = {
        "name": project.name,
        "project_id": project.id,
        "organization_id": project.organization_id,
        "fields": sorted(fields),
    }
    changes.record(by, action, "project", project.id, details)
    changes.project_changed(project)
