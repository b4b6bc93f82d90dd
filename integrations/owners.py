"""Ownership tags in a vault that are nobody's any more. Reads only.

Only what this project itself put there can be given up: tags of other projects, and those nobody knows, stay somebody else's.
"""

from __future__ import annotations

from accounts.models import Environment, Project, Storage
from integrations.keeping import owner_of
from integrations.models import RunState, StorageMove, SyncRule
from vault.models import SecretVersion


def ended(project: Project, environment: Environment) -> list[str]:
    """In order: the deleted rules of the project, and the project itself where its values no longer rest in a vault."""
    rules = SyncRule.objects.filter(project=project, deleted_at__isnull=False).exclude(runs__state=RunState.RUNNING)
    found = [str(identifier) for identifier in rules.values_list("id", flat=True)]
    if not _rests_there(project, environment):
        found.append(owner_of(project.id, environment.id))
    return sorted(found)


def _rests_there(project: Project, environment: Environment) -> bool:
    moving = StorageMove.objects.filter(project=project, state=RunState.RUNNING).exists()
    resting = SecretVersion.objects.filter(secret__project=project, secret__environment=environment).exclude(external_version="")
    return project.storage != Storage.MAZEVAULT or moving or resting.exists()
