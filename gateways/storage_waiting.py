"""What of a project waits to be moved between our own store and its vault: secrets, and the versions of each."""

from __future__ import annotations

import uuid

from django.db.models import QuerySet

from accounts.models import Environment, Project, Storage
from integrations.models import StorageMove
from protocol.storage import MOST_VERSIONS
from vault import rules, values
from vault.models import Secret, SecretStatus, SecretVersion

LIVING = (SecretStatus.ACTIVE, SecretStatus.ARCHIVED)
VALUED = (*LIVING, SecretStatus.DELETED)
AT_ONCE = 100
"""Secrets looked at in one query while the next one to be moved is looked for."""


def waiting(project: Project, to: str, code: str, environment: Environment | None = None) -> list[Secret]:
    """Secrets whose value is not where it shall be, by key."""
    rows = valued(project, code).select_related("project", "environment")
    if environment is not None:
        rows = rows.filter(environment=environment)
    return misplaced(list(rows.order_by("environment__slug", "key", "id")), to)


def next_one(move: StorageMove, after: uuid.UUID | None) -> Secret | None:
    """The next secret to be moved: the first one behind `after`, else the first of all, since one may have changed meanwhile."""
    rows = valued(move.project, move.gateway_environment).exclude(id__in=list(move.failed)).order_by("id")
    rows = rows.select_related("project", "environment")
    position = after or uuid.UUID(int=0)
    while chunk := list(rows.filter(id__gt=position)[:AT_ONCE]):
        if found := misplaced(chunk, move.to):
            return found[0]
        position = chunk[-1].id
    return next_one(move, None) if after else None


def valued(project: Project, code: str) -> QuerySet[Secret]:
    return Secret.objects.filter(project=project, status__in=VALUED, environment__gateway_environment=code)


def misplaced(secrets: list[Secret], to: str) -> list[Secret]:
    """Those whose newest value is not where it shall be. A deleted one whose key is used again stays where it is."""
    rows = values.valued(SecretVersion.objects.filter(secret__in=secrets)).order_by("secret", "-version").distinct("secret")
    newest = dict(rows.values_list("secret_id", "external_version"))
    found = [one for one in secrets if one.id in newest and bool(newest[one.id]) != (to == Storage.KEY_VAULT)]
    used = _names_in_use([one for one in found if one.status == SecretStatus.DELETED])
    return [
        one for one in found
        if one.status != SecretStatus.DELETED or (one.environment_id, rules.folded_vault_name(one.key)) not in used
    ]  # fmt: skip


def _names_in_use(deleted: list[Secret]) -> set[tuple[uuid.UUID, str]]:
    """What living secrets are called in a vault, in the environments of these."""
    if not deleted:
        return set()
    places = {one.environment_id for one in deleted}
    living = Secret.objects.filter(project=deleted[0].project_id, environment__in=places, status__in=LIVING)
    return {(place, rules.folded_vault_name(key)) for place, key in living.values_list("environment_id", "key")}


def handed_out(secret: Secret, to: str) -> list[SecretVersion]:
    """The versions that are moved, oldest first: none when the newest value is where it shall be, since it was told then."""
    if not misplaced([secret], to):
        return []
    return list(moving_rows([secret], to).order_by("-version")[:MOST_VERSIONS])[::-1]


def moving_rows(secrets: list[Secret], to: str) -> QuerySet[SecretVersion]:
    """The versions of many secrets that would be moved; what a rotation retired stays where it is, nobody gets it back."""
    rows = SecretVersion.objects.filter(secret__in=secrets, retired_at=None)
    return rows.filter(sealed_value__isnull=False) if to == Storage.KEY_VAULT else rows.exclude(external_version="")
