"""What of an integration or a sync rule has no effect, each as `field: not in force: why`."""

from __future__ import annotations

from accounts.models import Storage
from integrations.models import Integration, SyncRule
from integrations.providers import AZURE_KEY_VAULT

_STORED = f"only {AZURE_KEY_VAULT} is worked with; others are kept for existing clients, and nothing is synced with them"


def of_integration(integration: Integration) -> list[str]:
    return [] if integration.provider == AZURE_KEY_VAULT else [f"provider: not in force: {_STORED}"]


def of_rule(rule: SyncRule, counts: str) -> list[str]:
    """What stands in the way of every run (RULE_NOT_RUNNABLE) comes first. `counts`: the strategy that does in the target."""
    found = []
    if rule.integration.provider != AZURE_KEY_VAULT:
        found.append(f"integration_id: not in force: {_STORED}")
    elif rule.project.storage != Storage.MAZEVAULT:
        found.append("integration_id: not in force: values of this project rest in its vault; nothing is to be synced")
    elif rule.source_path:
        found.append("source_path: not in force: a vault has no paths; leave it empty, or no run begins")
    if counts != rule.conflict_strategy:
        found.append(f"conflict_strategy: not in force: in production {counts} counts, a person decides")
    return found
