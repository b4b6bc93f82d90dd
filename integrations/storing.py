"""Which vault holds the values of a project in an environment, and what follows from that."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from django.db.models import OuterRef, QuerySet, Subquery

from accounts.models import Environment, Project
from common.errors import Conflict
from integrations.models import Integration, RunState
from integrations.providers import AZURE_KEY_VAULT
from vault import rules, values
from vault.models import Secret, SecretStatus, SecretVersion


def storage_integrations(projects: Iterable[Project]) -> QuerySet[Integration]:
    """The vaults of projects: of each environment's integrations the oldest, so that a later one never moves the values."""
    vaults = Integration.objects.filter(project__in=list(projects), provider=AZURE_KEY_VAULT, deleted_at=None)
    of_places = vaults.filter(environment__isnull=False).select_related("environment", "project")
    return of_places.order_by("project", "environment", "created_at", "id").distinct("project", "environment")


def storage_of(project: Project, environment: Environment) -> Integration:
    """Where the values of a project rest in an environment. Raises `Conflict` (VAULT_MISSING)."""
    found = next((row for row in storage_integrations([project]) if row.environment_id == environment.id), None)
    if found is None:
        raise Conflict(
            f"storage: the values of this project rest in a vault, and it has none for {environment.slug}; add an integration "
            f"of the provider {AZURE_KEY_VAULT} for this environment",
            code="VAULT_MISSING",
        )
    return found


@contextmanager
def values_stay_findable(project: Project) -> Iterator[None]:
    """Around a change of a project's integrations: what holds its values before is found under the same way afterwards.

    Raises `Conflict`: VAULT_HOLDS_VALUES when it is not, STORAGE_MOVING when values are on their way meanwhile.
    """
    Project.objects.select_for_update(of=("self",), no_key=True).get(id=project.id)  # a move begins under the same lock
    before = {row.environment_id: row for row in storage_integrations([project])}
    yield
    after = {row.environment_id: _way(row) for row in storage_integrations([project])}
    changed = [row for place, row in before.items() if after.get(place) != _way(row)]
    if not changed:
        return
    if project.storage_moves.filter(state=RunState.RUNNING).exists():
        raise Conflict("storage: the project is being moved; wait until that is over", code="STORAGE_MOVING")
    holding = [row.name for row in changed if holds_values(project, row.environment_id)]
    if holding:
        raise Conflict(
            f"values of this project rest in the vault of {holding[0]!r}; move the project's storage first",
            code="VAULT_HOLDS_VALUES",
        )


def _way(integration: Integration) -> tuple[object, ...]:
    """Which vault, and whom it sees: what must not change under values."""
    config = integration.config
    return integration.id, *(config.get(name) for name in ("vault_url", "auth_method", "client_id"))


def holds_values(project: Project, environment: uuid.UUID | None) -> bool:
    """Whether some secret has its value there now. Older versions that stayed there, when the others moved, hold nobody."""
    secrets = Secret.objects.filter(project=project, environment=environment).exclude(status=SecretStatus.PURGED)
    newest = values.valued(SecretVersion.objects.filter(secret=OuterRef("id"))).order_by("-version")
    there = secrets.annotate(rests_in=Subquery(newest.values("external_version")[:1])).exclude(rests_in__isnull=True)
    found = list(there.exclude(rests_in=""))
    living = {rules.folded_vault_name(one.key) for one in secrets if one.deleted_at is None}
    return any(one.deleted_at is None or rules.folded_vault_name(one.key) not in living for one in found)
