"""Vaults of the DR region that rules keep current, and how far behind each may be. Reads only.

The platform copies no vault to another region, so a push rule does (`SyncRule.dr_copy`). It lags from the first change of the
project's secrets that its last complete run had not seen. A run counts for the vault, the names and the direction it was planned
with: what another vault got says nothing about this one.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from accounts.models import Environment
from common.errors import MazeVaultError
from integrations import rules, vaults
from integrations.models import RunState, SyncDirection, SyncRule, SyncRun
from integrations.providers import AZURE_KEY_VAULT
from integrations.sync.copy_state import CopyState
from integrations.sync.facts import Direction, Rule
from integrations.sync.plan import setting_of
from protocol.sync import RunPhase
from vault.models import Secret, SecretVersion

ALLOWED_WITHOUT_SCHEDULE = timedelta(minutes=30)
"""How long a copy may lag whose rule runs only when somebody asks."""


def copies_of(gateway_environment: str, now: datetime) -> tuple[CopyState, ...]:
    """The copies of a gateway environment."""
    found = SyncRule.objects.filter(dr_copy=True, deleted_at=None, project__deleted_at=None)
    return tuple(
        _state(rule, environment, now)
        for rule in found.select_related("project", "integration__environment").order_by("created_at")
        if (environment := rules.environment_of(rule)) and environment.gateway_environment == gateway_environment
    )


def _state(rule: SyncRule, environment: Environment, now: datetime) -> CopyState:
    target = _target(rule)
    last = _last_complete(rule, target, environment)
    return CopyState(
        rule=rule.name,
        target=target or str(rule.integration.config.get("vault_url", "")),
        lag=_lag(rule, environment, last.created_at, now) if last else None,
        allowed=(timedelta(minutes=2 * rule.interval_minutes) or ALLOWED_WITHOUT_SCHEDULE).total_seconds(),
        paused=rule.paused,
        left_out=_left_out(rule, environment, last) if last else 0,
        pushes=rule.sync_direction == SyncDirection.PUSH,
    )


def _target(rule: SyncRule) -> str:
    """The vault the rule leads to; empty where it leads to none that could be reached, which must not end a preflight."""
    if rule.integration.provider != AZURE_KEY_VAULT:
        return ""
    try:
        return vaults.origin_of(rule.integration.config.get("vault_url", ""))
    except MazeVaultError:
        return ""


def _last_complete(rule: SyncRule, target: str, environment: Environment) -> SyncRun | None:
    """The last run that was done to its end as the rule would be planned now."""
    present = Rule(str(rule.id), target, Direction.PUSH, transform=rule.key_transform_template, environment=environment.slug)
    done = rule.runs.filter(phase=RunPhase.APPLY, state=RunState.SUCCEEDED, setting=setting_of(present))
    return done.order_by("-created_at").first()


def _left_out(rule: SyncRule, environment: Environment, last: SyncRun) -> int:
    """Secrets of the project that the last complete run left alone: the copy does not have them as they are."""
    here = Secret.objects.filter(project=rule.project, environment=environment, deleted_at=None)
    return last.notes.filter(key__in=here.values("key")).values("key").distinct().count()


def _lag(rule: SyncRule, environment: Environment, seen_until: datetime, now: datetime) -> float:
    changes = SecretVersion.objects.filter(secret__project=rule.project, secret__environment=environment)
    first = changes.filter(created_at__gt=seen_until).order_by("created_at").values_list("created_at", flat=True).first()
    return max(0.0, (now - first).total_seconds()) if first else 0.0
