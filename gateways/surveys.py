"""After a promotion: did anything of an earlier epoch reach a vault late? (DESIGN §7, §8; reliability §0.2)

A vault checks no epoch, so a process that froze between its last look at the lease and its call may send that call late. Each of
our writes carries its epoch: the new gateway looks once every call of before must have ended, and what it finds is told.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction

from accounts.changes import SYSTEM, By
from accounts.principals import principal_named
from common import audit
from common.errors import MazeVaultError
from gateways import dispatch, doubts, sync_runs
from gateways.beliefs import Doubt
from gateways.kinds import KINDS
from gateways.models import Route, Task
from integrations.models import Integration, SyncRule, Vault
from integrations.providers import AZURE_KEY_VAULT
from integrations.vaults import origin_of
from protocol.decoding import convert
from protocol.plain import plain, plain_message
from protocol.surveys import LateWrite, Survey
from protocol.sync import RunPhase
from protocol.vocabulary import TaskState

log = logging.getLogger("mazevault.gateways.surveys")

KIND = "vault.survey"
CLOCKS_APART = timedelta(seconds=5)
"""A vault's clock may differ from ours by so much; what is nearer to the promotion was sent before it."""

AT_ONCE = 100
"""Surveys read in one pass."""
SHOWN = 50
"""Late writes named in the audit; all of them are in the task."""


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
    waiting = Task.objects.filter(kind=KIND, state=TaskState.SUCCEEDED, detail="").values_list("id", flat=True)[:AT_ONCE]
    return sum(_alone(identifier, now) for identifier in list(waiting))


def _alone(identifier: Any, now: datetime) -> bool:
    """One that fails in a way nobody foresaw stops no other; it is read again, and the traceback is kept."""
    try:
        return _read(identifier, now)
    except (OperationalError, InterfaceError):  # the database is away, or gave up: told by who called, once for all items
        raise
    except Exception:
        log.exception("survey %s could not be read", identifier)
        return False


def _read(identifier: Any, now: datetime) -> bool:
    task = Task.objects.select_related("gateway").filter(id=identifier, detail="").first()
    found = _found(task) if task else None
    if task is None or found is None:
        return False
    if isinstance(found, Doubt) and task.gateway is not None:
        doubts.set_aside(task.gateway, found)  # first, so that no crash leaves it out
    with transaction.atomic():
        unread = Task.objects.select_for_update(skip_locked=True).filter(id=identifier, detail="").first()
        if unread is None:
            return False
        if isinstance(found, Doubt):
            _set_aside(unread, found)
            return True
        _keep(unread, found.late)
    _repair(task, {one.owner for one in found.late}, now)
    return True


def _found(task: Task) -> Survey | Doubt:
    """A gateway's word, taken only as a whole and in the form it was asked for."""
    try:
        return plain_message(convert(task.result, Survey))
    except msgspec.ValidationError as refused:
        return Doubt("result", f"that of {KIND}", plain(str(refused))[:200])


def _keep(task: Task, late: list[LateWrite]) -> None:
    task.detail = f"{len(late)} writes of an earlier epoch came late" if late else "no write of an earlier epoch came late"
    task.save(update_fields=["detail"])
    if not late:
        return
    shown = [msgspec.to_builtins(one) for one in late[:SHOWN]]
    _tell(task, "vault.late_writes", {"epoch": task.payload["epoch"], "late": shown, "count": len(late)})
    log.error("%s: %s; their names are in the audit and in task %s", task.environment_id, task.detail, task.id)


def _set_aside(task: Task, doubt: Doubt) -> None:
    """Whether anything came late is not known then, so the vault is looked at again, by whoever may act next."""
    task.state, task.detail = TaskState.NEEDS_REVIEW.value, f"{doubt}; the vault is looked at again"
    task.save(update_fields=["state", "detail"])
    _tell(task, "vault.survey_not_believed", {"gateway": str(task.gateway_id), "why": doubt.why})
    dispatch.offer(task.environment_id, KINDS[KIND], task.payload, actor=SYSTEM, address="")


def _tell(task: Task, action: str, details: dict[str, Any]) -> None:
    audit.record(
        actor=SYSTEM, action=action, entity="task", entity_id=str(task.id), severity=audit.Severity.CRITICAL,
        environment=task.environment_id, details={"integration": task.payload["integration"], **details},
    )  # fmt: skip


def _repair(task: Task, owners: Iterable[str], now: datetime) -> None:
    """A rule that wrote late plans again: it sees a version it does not remember, and decides as for any other change there.

    Whose a write was is a tag that anybody may set who writes to the vault, so only rules of that very vault are run. A late
    value of a project is shown as `changed_in_vault`; which one counts is for a person to say.
    """
    vault = _origin(Integration.objects.filter(id=task.payload["integration"]).first())
    named = list(filter(None, map(_rule_id, owners)))
    rules = SyncRule.objects.filter(
        id__in=named, deleted_at=None, integration__environment__gateway_environment=task.environment_id
    )
    for rule in rules.select_related("integration").order_by("id"):
        if vault and _origin(rule.integration) == vault:
            _run(rule, now)


def _rule_id(owner: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(owner)
    except ValueError:
        return None


def _run(rule: SyncRule, now: datetime) -> None:
    caller = principal_named(rule.scheduled_by, now)
    if caller is None:
        return
    try:
        sync_runs.start(rule.id, sync_runs.RunWish(RunPhase.APPLY), By(caller))
    except MazeVaultError as refused:
        log.warning("rule %s was not run after a late write: %s", rule.id, refused.sentence)
    except (OperationalError, InterfaceError):  # the database is away, or gave up: told by who called, once for all items
        raise
    except Exception:  # the others are run all the same
        log.exception("rule %s was not run after a late write", rule.id)


def _origin(integration: Integration | None) -> str:
    """The one way to write where an integration leads; empty when it leads nowhere."""
    try:
        return origin_of(str(integration.config["vault_url"])) if integration else ""
    except MazeVaultError as refused:
        log.warning("the vault of integration %s is not looked at: %s", integration and integration.id, refused.sentence)
        return ""


def _one_for_each_vault(code: str) -> list[Integration]:
    """Any integration that leads to the vault will do: the gateway looks with its own identity."""
    bound = set(Vault.objects.filter(gateway_environment=code).values_list("origin", flat=True))
    found: dict[str, Integration] = {}
    rows = Integration.objects.filter(provider=AZURE_KEY_VAULT, deleted_at=None, environment__gateway_environment=code)
    for integration in rows.order_by("created_at"):
        origin = _origin(integration)  # empty when it is broken: no promotion fails for the sake of a look afterwards
        if origin in bound:
            found.setdefault(origin, integration)
    return list(found.values())
