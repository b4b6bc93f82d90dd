"""Which vault holds the values of a project in an environment, and what follows from that."""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import QuerySet

from accounts.models import Environment, Project
from common.errors import Conflict
from integrations.models import Integration
from integrations.providers import AZURE_KEY_VAULT
from vault.models import SecretVersion


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


def refuse_while_it_holds_values(integration: Integration) -> None:
    """Raises `Conflict` (VAULT_HOLDS_VALUES): without this integration nobody would find them again."""
    environment = integration.environment
    if environment is None:
        return
    mine = next((row for row in storage_integrations([integration.project]) if row.environment_id == environment.id), None)
    held = SecretVersion.objects.filter(secret__project=integration.project, secret__environment=environment)
    if mine is not None and mine.id == integration.id and held.exclude(external_version="").exists():
        raise Conflict(
            f"values of this project rest in the vault of {integration.name!r}; move the project's storage first",
            code="VAULT_HOLDS_VALUES",
        )
