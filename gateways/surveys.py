"""After a promotion: did anything of an earlier epoch reach a vault late? (DESIGN §7, §8; reliability §0.2)

A vault checks no epoch, so a process that froze between its last look at the lease and its call may send that call late. Each of
our writes carries its epoch: the new gateway looks once every call of before must have ended, and what it finds is told.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction

from accounts.changes import SYSTEM, By
from accounts.principals import principal_named
from common import audit
from common.errors import MazeVaultError
from gateways import dispatch, sync_runs
from gateways.kinds import KINDS
from gateways.models import Route, Task
from integrations.models import Integration, SyncRule, Vault
from integrations.providers import AZURE_KEY_VAULT
from integrations.vaults import origin_of
from protocol.sync import RunPhase
from protocol.vocabulary import TaskState

log = logging.getLogger("mazevault.gateways.surveys")

KIND = "vault.survey"
CLOCKS_APART = timedelta(seconds=5)
"""A vault's clock may differ from ours by so much; what is nearer to the promotion was sent before it."""


def offer(route: Route, moment: datetime, *, forced: bool = False) -> int:
    """Part of the promoting transaction: a look at each vault of the environment, once every call of before must have ended.

    After a forced move the old gateway may have gone on for a while, so nothing is excused by a clock that differs.
    """
    timing, since = settings.MAZEVAULT.timing, moment if forced else moment + CLOCKS_APART
    pause = timedelta(seconds=timing.lease_ttl + timing.effect_deadline)
    chosen = _one_for_each_vault(route.environment_id)
    for integration in chosen:
        wish = {"integration": str(integration.id), "epoch": route.epoch, "since": since.isoformat()}
        dispatch.offer(route.environment_id, KINDS[KIND], wish, actor=SYSTEM, address="", pause=pause)
    return len(chosen)


def judge(now: datetime) -> int:
    """Tell what surveys have found and not been read yet. Returns how many were read."""
    waiting = Task.objects.filter(kind=KIND, state=TaskState.SUCCEEDED, detail="").values_list("id", flat=True)[:100]
    return sum(_read(identifier, now) for identifier in list(waiting))


def _read(identifier: Any, now: datetime) -> bool:
    with transaction.atomic():
        task = Task.objects.select_for_update(skip_locked=True).filter(id=identifier, detail="").first()
        if task is None:
            return False
        late = list(task.result.get("late", []))
        task.detail = f"{len(late)} writes of an earlier epoch came late" if late else "no write of an earlier epoch came late"
        task.save(update_fields=["detail"])
        if late:
            _tell(task, late)
    for owner in sorted({str(one["owner"]) for one in late}):
        _repair(owner, now)
    return True


def _tell(task: Task, late: list[dict[str, Any]]) -> None:
    details = {"integration": task.payload["integration"], "epoch": task.payload["epoch"], "late": late[:50], "count": len(late)}
    audit.record(
        actor=SYSTEM, action="vault.late_writes", entity="task", entity_id=str(task.id), severity=audit.Severity.CRITICAL,
        environment=task.environment_id, details=details,
    )  # fmt: skip
    log.error("%s: %s; their names are in the audit and in task %s", task.environment_id, task.detail, task.id)


def _repair(owner: str, now: datetime) -> None:
    """A rule that wrote late plans again: it sees a version it does not remember, and decides as for any other change there.

    A late value of a project is shown as `changed_in_vault`; which one counts is for a person to say.
    """
    rule = SyncRule.objects.filter(id=owner, deleted_at=None).first() if not owner.startswith("project:") else None
    caller = principal_named(rule.scheduled_by, now) if rule else None
    if rule is None or caller is None:
        return
    try:
        sync_runs.start(rule.id, sync_runs.RunWish(RunPhase.APPLY), By(caller))
    except MazeVaultError as refused:
        log.warning("rule %s was not run after a late write: %s", rule.id, refused.sentence)


def _one_for_each_vault(code: str) -> list[Integration]:
    """Any integration that leads to the vault will do: the gateway looks with its own identity."""
    bound = set(Vault.objects.filter(gateway_environment=code).values_list("origin", flat=True))
    found: dict[str, Integration] = {}
    rows = Integration.objects.filter(provider=AZURE_KEY_VAULT, deleted_at=None, environment__gateway_environment=code)
    for integration in rows.order_by("created_at"):
        try:
            origin = origin_of(str(integration.config["vault_url"]))
        except MazeVaultError as refused:  # no promotion fails for the sake of a look afterwards
            log.warning("the vault of integration %s is not looked at: %s", integration.id, refused.sentence)
            continue
        if origin in bound:
            found.setdefault(origin, integration)
    return list(found.values())
