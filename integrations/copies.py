"""Vaults of the DR region that rules keep current, and how far behind each may be. Reads only.

The platform copies no vault to another region, so a push rule does (`SyncRule.dr_copy`). It lags from the first change of the
project's secrets that its last complete run had not seen.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from integrations import rules
from integrations.models import RunState, SyncRule, SyncRun
from integrations.sync.copy_state import CopyState
from protocol.sync import RunPhase
from vault.models import Secret, SecretVersion

ALLOWED_WITHOUT_SCHEDULE = timedelta(minutes=30)
"""How long a copy may lag whose rule runs only when somebody asks."""


def copies_of(gateway_environment: str, now: datetime) -> tuple[CopyState, ...]:
    """The copies of a gateway environment."""
    found = SyncRule.objects.filter(dr_copy=True, deleted_at=None, project__deleted_at=None)
    return tuple(
        _state(rule, now)
        for rule in found.select_related("project", "integration__environment").order_by("created_at")
        if (environment := rules.environment_of(rule)) and environment.gateway_environment == gateway_environment
    )


def _state(rule: SyncRule, now: datetime) -> CopyState:
    last = rule.runs.filter(phase=RunPhase.APPLY, state=RunState.SUCCEEDED).order_by("-created_at").first()
    allowed = timedelta(minutes=2 * rule.interval_minutes) or ALLOWED_WITHOUT_SCHEDULE
    target = last.target if last else str(rule.integration.config.get("vault_url", ""))
    lag = _lag(rule, last.created_at, now) if last else None
    return CopyState(rule.name, target, lag, allowed.total_seconds(), rule.paused, _left_out(rule, last) if last else 0)


def _left_out(rule: SyncRule, last: SyncRun) -> int:
    """Secrets of the project that the last complete run left alone: the copy does not have them as they are."""
    here = Secret.objects.filter(project=rule.project, environment=rules.environment_of(rule), deleted_at=None)
    return last.notes.filter(key__in=here.values("key")).values("key").distinct().count()


def _lag(rule: SyncRule, seen_until: datetime, now: datetime) -> float:
    environment = rules.environment_of(rule)
    changes = SecretVersion.objects.filter(secret__project=rule.project, secret__environment=environment)
    first = changes.filter(created_at__gt=seen_until).order_by("created_at").values_list("created_at", flat=True).first()
    return max(0.0, (now - first).total_seconds()) if first else 0.0
