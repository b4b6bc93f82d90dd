"""Reading secrets: what a caller may see, found by id or by project, key and environment. No values here."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NoReturn

from django.db.models import QuerySet

from accounts.access import Principal
from accounts.models import Environment, Project, Storage
from accounts.roles import SECRETS_READ
from common.api import rfc3339
from common.errors import Conflict, NotFound, ValidationFailed
from protocol.spelling import normal
from vault import generating, rules, schedules
from vault.found import Found
from vault.models import Secret, SecretStatus, SecretVersion
from vault.ports import Freshness, PendingCreation

SHOWN = (SecretStatus.ACTIVE, SecretStatus.ARCHIVED)
"""What a read by id finds; a tombstone is not there."""
LISTED = {
    "active": (SecretStatus.ACTIVE,),
    "archived": (SecretStatus.ARCHIVED,),
    "deleted": (SecretStatus.DELETED,),
    "all": (SecretStatus.ACTIVE, SecretStatus.ARCHIVED, SecretStatus.DELETED),
}
"""What a list may be asked for; `active` when it is not."""


def secret_for(caller: Principal, identifier: str, needed: str = SECRETS_READ, statuses: Iterable[str] = SHOWN) -> Secret:
    """The secret with this id, if the caller may read it or has the permission needed there.

    `NotFound` with one sentence: unknown, foreign, deleted, or no id at all.
    """
    wanted = as_uuid(identifier)
    found = _rows().filter(id=wanted, status__in=statuses).first() if wanted else None
    if found is None or not _may(caller, (SECRETS_READ, needed), found.project, found.environment):
        raise NotFound(rules.ABSENT)
    return found


def refuse_promised(caller: Principal, creation: PendingCreation) -> NoReturn:
    """Say that a secret is promised and cannot be read yet, to who may read it there. Else `NotFound` like for any other."""
    if not _may_read(caller, creation.secret):
        raise NotFound(rules.ABSENT)
    raise NotFound(
        f"this secret is created by write {creation.write}, which waits to be applied; see /api/v1/writes/{creation.write}",
        extra={"pending_write": str(creation.write)},
    )


def promised_secret(caller: Principal, creation: PendingCreation, needed: str) -> Secret:
    """The secret a waiting write creates, to make a change of it; the same permissions, the same `NotFound` as `secret_for`."""
    secret = creation.secret
    if not _may(caller, (SECRETS_READ, needed), secret.project, secret.environment):
        raise NotFound(rules.ABSENT)
    return secret


def secret_of_key(caller: Principal, project: Project, key: str, environment: str) -> Secret:
    """The active secret with this key: in the environment, else the only one, else the default environment's.

    Raises `NotFound`, or `Conflict` with code ENVIRONMENT_NEEDED whose sentence names the choices.
    """
    rows = _rows().filter(project=project, status=SecretStatus.ACTIVE)
    exact = rows.filter(key=key)
    rows = (
        exact if key == normal(key) or exact.exists() else rows.filter(key=normal(key))
    )  # keys of older releases are as they came
    if environment:
        rows = rows.filter(environment=environment_of(project, environment))
    found = [row for row in rows.order_by("environment__slug") if _may_read(caller, row)]
    if not found:
        raise NotFound(rules.ABSENT)
    if len(found) == 1:
        return found[0]
    default = project.default_environment.lower()
    chosen = [row for row in found if default in (row.environment.slug.lower(), row.environment.name.lower())]
    if chosen:
        return chosen[0]
    choices = ", ".join(row.environment.slug for row in found)
    raise Conflict(f"environment: the key is in several environments; name one of {choices}", code="ENVIRONMENT_NEEDED")


def secrets_of(caller: Principal, project: Project, environment: str, status: str) -> list[Secret]:
    """What the caller may see of a project, by key and environment."""
    if status not in LISTED:
        raise ValidationFailed(f"status: must be one of {', '.join(LISTED)}")
    rows = _rows().filter(project=project, status__in=LISTED[status])
    if environment:
        rows = rows.filter(environment=environment_of(project, environment))
    return [row for row in rows.order_by("key", "environment__slug", "created_at", "id") if _may_read(caller, row)]


def project_for(caller: Principal, identifier: str, needed: str = SECRETS_READ) -> Project:
    """The living project with this id, if the caller may do something in any environment of it. Else `NotFound`, one sentence."""
    wanted = as_uuid(identifier)
    if wanted is None:
        raise ValidationFailed("project_id: must be the id of a project")
    project = Project.objects.filter(id=wanted, deleted_at=None, organization__deleted_at=None).first()
    wished = (SECRETS_READ, needed)
    if project is None or not any(_may(caller, wished, project, one) for one in _environments(project)):
        raise NotFound(rules.PROJECT_ABSENT, code="PROJECT_NOT_FOUND")
    return project


def environment_of(project: Project, text: str) -> Environment:
    """The project environment with this name or slug, in any case of letters; an empty text is the project's default one."""
    wanted = (text or project.default_environment).strip().lower()
    choices = _environments(project)
    by_slug = [one for one in choices if one.slug.lower() == wanted]
    found = by_slug or [one for one in choices if one.name.lower() == wanted]
    if found:
        return found[0]
    known = ", ".join(one.slug for one in choices) or "none here"
    raise ValidationFailed(f"environment: there is no environment {wanted!r}; there are: {known}")


def versions_of(secret: Secret) -> QuerySet[SecretVersion]:
    """All versions, newest first, without their values."""
    return secret.versions.defer("sealed_value").order_by("-version")


def version_row(row: SecretVersion, current: int) -> dict[str, Any]:
    return {
        "version": row.version,
        "current": row.version == current,
        "operation": row.operation,
        "created_by": row.author,
        "origin": row.origin,
        "change_reason": row.reason,
        "created_at": rfc3339(row.created_at),
        "retired_at": rfc3339(row.retired_at),
    }


def secret_row(
    secret: Secret | Found, fresh: Freshness | None, pending: uuid.UUID | None, value: str | None = None
) -> dict[str, Any]:
    """One secret as the API shows it. `as_of` and `stale` say how old a copy is; the source has no `as_of`."""
    expires = secret.updated_at + timedelta(hours=secret.ttl_hours) if secret.ttl_hours else None
    row: dict[str, Any] = {
        "id": str(secret.id),
        "project_id": str(secret.project_id),
        "organization_id": str(secret.project.organization_id),
        "environment": secret.environment.slug,
        "key": secret.key,
        "type": secret.type,
        "description": secret.description,
        "tags": secret.tags,
        "ttl_hours": secret.ttl_hours,
        "metadata": secret.metadata,
        "rotation": schedules.shown(secret.rotation),
        "rotation_not_in_force": not_in_force(secret),
        "storage": secret.project.storage,
        "version": secret.version,
        "status": secret.status,
        "created_by": secret.created_by,
        "created_at": rfc3339(secret.created_at),
        "updated_at": rfc3339(secret.updated_at),
        "expires_at": rfc3339(expires),
        "as_of": rfc3339(fresh.as_of if fresh else None),
        "stale": fresh.stale if fresh else False,
        "pending_write": str(pending) if pending else None,
    }
    return row if value is None else {**row, "value": value}


def not_in_force(secret: Secret | Found) -> list[str]:
    """What of its rotation's settings has no effect, and why."""
    made_up, rests_here = secret.type in generating.GENERATED, secret.project.storage == Storage.MAZEVAULT
    return schedules.not_in_force(secret.rotation, secret.type, made_up=made_up, rests_here=rests_here)


def rotation_row(secret: Secret, value_set: datetime | None) -> dict[str, Any]:
    """The settings of a rotation with what is in force of them; `value_set` is when the present value was set."""
    rotation, idle = secret.rotation or {}, not_in_force(secret)
    due = schedules.next_due(rotation, value_set, secret.updated_at)
    in_force = due is not None and not any(one.startswith("enabled: ") for one in idle)
    return {
        "secret_id": str(secret.id),
        "enabled": bool(rotation.get("enabled")),
        "schedule": rotation.get("schedule") or "",
        "rotation_interval_days": rotation.get("rotation_interval_days") or 0,
        "notification_emails": rotation.get("notification_emails"),
        "in_force": in_force,
        "not_in_force": idle,
        "next_due_at": rfc3339(due) if in_force else None,
    }


def as_uuid(text: str) -> uuid.UUID | None:
    """The id in its plain form, or None for any other text."""
    try:
        found = uuid.UUID(text)
    except ValueError:
        return None
    return found if str(found) == text.lower() else None


def _rows() -> Any:
    return Secret.objects.select_related("project", "environment").filter(project__deleted_at=None, environment__deleted_at=None)


def _may_read(caller: Principal, secret: Secret) -> bool:
    return _may(caller, (SECRETS_READ,), secret.project, secret.environment)


def _may(caller: Principal, any_of: Iterable[str], project: Project, environment: Environment) -> bool:
    return bool(caller.permissions_in(rules.place_of(project, environment)).intersection(any_of))


def _environments(project: Project) -> list[Environment]:
    return list(Environment.objects.filter(organization_id=project.organization_id, deleted_at=None).order_by("slug"))
