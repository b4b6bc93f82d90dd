"""Runs of sync rules as people and the clock ask for them: begun, stopped, taken back, ended (DESIGN §2, task).

A run is a row, and a task of the gateway that is active in the environment of the rule's vault. What it does is told in
`gateways.sync_channel`; whoever asked for it must hold the rights for every step at the moment of that step.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Max, Q, QuerySet
from django.db.models.functions import Now

from accounts import changes
from accounts.access import Principal
from accounts.changes import SYSTEM, By
from accounts.models import Environment, Storage
from accounts.principals import principal_named
from accounts.roles import PROJECTS_READ, PROJECTS_WRITE, SECRETS_DELETE, SECRETS_READ, SECRETS_WRITE
from accounts.scoping import absent, place_in, place_of, require, visible_projects
from common import audit
from common.errors import Conflict, MazeVaultError, PermissionRefused, ValidationFailed
from common.rows import locked
from gateways import dispatch
from gateways.kinds import KINDS
from gateways.models import Task
from integrations import memories, rules, vaults
from integrations.access import checked_access
from integrations.models import RunState, StepState, SyncDirection, SyncRule, SyncRun
from integrations.sync.transform import LONGEST_NAME
from protocol.sync import RunPhase
from protocol.vocabulary import TaskState

log = logging.getLogger("mazevault.gateways.sync")

KIND = "sync.run"
KEPT_RUNS = 100
"""Ended runs of a rule whose history is kept."""
SHORTEST_INTERVAL, LONGEST_INTERVAL = 5, 10_080
"""Minutes between scheduled runs: five minutes to a week."""
MOST_ADOPTED = 10_000
SETTINGS = ("paused", "interval_minutes", "deletion_count", "deletion_percent", "adopted", "dr_copy")
"""What `set_up` changes."""
_WORKED_ON = (TaskState.PENDING, TaskState.CLAIMED)


@dataclass(frozen=True)
class RunWish:
    """What is asked for. `confirm` is the digest of a preview; the budgets replace those of the rule for this one run."""

    phase: RunPhase
    confirm: str = ""
    deletion_count: int | None = None
    deletion_percent: int | None = None


def start(identifier: uuid.UUID, wish: RunWish, by: By) -> SyncRun:
    """Begin a run. Raises `NotFound`, `PermissionRefused`, `ValidationFailed`, or `Conflict`: SYNC_RUNNING, PREVIEW_NOT_FOUND,
    RULE_NOT_RUNNABLE, VAULT_OF_OTHER_ENVIRONMENT, PROVIDER_WITHOUT_VAULT."""
    with transaction.atomic():
        rule = rule_for(identifier, by, PROJECTS_WRITE, lock=True)
        confirmed = _preview(rule, wish) if wish.confirm else None
        return _begin(rule, wish, by, confirmed=confirmed)


def undo(identifier: uuid.UUID, confirm: str, by: By) -> SyncRun:
    """Take a run back: first as a preview, then with its digest, and only where it was done. Raises as `start`, and `Conflict`
    (RULE_NOT_PAUSED, NOTHING_TO_UNDO, UNDO_ELSEWHERE)."""
    with transaction.atomic():
        former = run_for(identifier, by, PROJECTS_WRITE)
        rule = rule_for(former.rule_id, by, PROJECTS_WRITE, lock=True)
        if former.phase != RunPhase.APPLY or not former.steps.filter(state__in=(StepState.DONE, StepState.BEGUN)).exists():
            raise Conflict("this run changed nothing that could be taken back", code="NOTHING_TO_UNDO")
        if not rule.paused:
            raise Conflict("pause the rule first, or its next run does the same again", code="RULE_NOT_PAUSED")
        wish = RunWish(RunPhase.UNDO, confirm)
        confirmed = _preview(rule, wish, undoes=former) if confirm else None
        return _begin(rule, wish, by, confirmed=confirmed, undoes=former)


def stop(identifier: uuid.UUID, by: By, now: datetime) -> SyncRun:
    """Let a run do no further step. One that ended stays as it is."""
    with transaction.atomic():
        run = run_for(identifier, by, PROJECTS_WRITE, lock=True)
        if run.state != RunState.RUNNING:
            return run
        run.stop_asked = True
        run.save(update_fields=["stop_asked"])
        changes.record(by, "sync_run.stop_asked", "sync_run", run.id, _details(run))
        task = task_of(run)
        if task is None or task.state != TaskState.CLAIMED:
            end(run, RunState.STOPPED, now, detail="it was stopped by a person")
    return run


def set_up(identifier: uuid.UUID, wish: Mapping[str, Any], by: By) -> SyncRule:
    """Pause, schedule, budgets, adopted names, DR copy: what the wish names. Raises `ValidationFailed` by field."""
    with transaction.atomic():
        rule = rule_for(identifier, by, PROJECTS_WRITE, lock=True)
        fields = {name: wish[name] for name in SETTINGS if wish.get(name) is not None}
        _refuse_wrong(fields)
        if "adopted" in fields:
            fields["adopted"] = sorted({name.lower(): name for name in fields["adopted"]}.values())
        if fields.get("paused") is not None:
            fields["paused_why"] = f"paused by {by.principal.name}"[:300] if fields["paused"] else ""
        if fields.get("dr_copy") and rule.sync_direction != SyncDirection.PUSH:
            raise ValidationFailed("dr_copy: only a rule that pushes keeps a copy; set sync_direction to push first")
        if set(fields) - {"paused", "paused_why", "dr_copy"} or fields.get("paused") is False:
            _refuse_unless_allowed(rule, _environment(rule), by.principal, RunPhase.APPLY)
        if fields.get("interval_minutes"):
            fields["scheduled_by"] = by.actor
        if names := changes.altered(rule, fields):
            rule.updated_at = Now()
            rule.save(update_fields=[*names, "updated_at"])
            told = {name: fields[name] for name in names if name != "adopted"}
            changes.record(by, "sync_rule.set_up", "sync_rule", rule.id, {"project_id": rule.project_id, "fields": names, **told})
    rule.refresh_from_db()
    return rule


def keep_up(now: datetime) -> int:
    """What has to happen without anybody asking: due runs begin, runs nobody works on end. Returns how many it was."""
    return sweep(now) + start_due(now)


def start_due(now: datetime) -> int:
    """Begin the scheduled runs that are due; not where the project's setting `sync_enabled` is false.

    A schedule counts from the last run that was to carry something: a preview or a drift report does not put it off. A rule
    that cannot run is paused and says why. Returns how many began.
    """
    rows = SyncRule.objects.filter(interval_minutes__gt=0, paused=False, deleted_at=None, project__deleted_at=None)
    # `contains` is false where the setting was never set; a comparison of the key would be NULL there, and so would its negation.
    rows = rows.exclude(project__settings__contains={"sync_enabled": False})
    rows = rows.annotate(last=Max("runs__created_at", filter=Q(runs__phase=RunPhase.APPLY)))
    begun = 0
    for identifier, minutes, last in rows.values_list("id", "interval_minutes", "last"):
        if last is None or last + timedelta(minutes=minutes) <= now:
            with transaction.atomic():
                rule = locked(_rules().filter(paused=False), identifier, skip_locked=True)
                begun += rule is not None and _is_due(rule, now) and _begin_scheduled(rule, now)
    return begun


def sweep(now: datetime) -> int:
    """End the runs that no task works on any more, so that a rule is not blocked by them. Returns how many ended."""
    ended = 0
    for identifier in SyncRun.objects.filter(state=RunState.RUNNING).values_list("id", flat=True):
        with transaction.atomic():
            running = SyncRun.objects.filter(state=RunState.RUNNING).select_related("rule")
            run = locked(running, identifier, skip_locked=True)
            task = task_of(run) if run else None
            if run is None or (task is not None and task.state in _WORKED_ON and not (run.stop_asked and not task.claim)):
                continue
            if run.stop_asked:
                end(run, RunState.STOPPED, now, detail="it was stopped by a person")
            else:
                said = (task.detail if task else "") or "its task ended without a word"
                end(run, RunState.FAILED, now, code="TASK_ENDED", detail=f"the gateway gave it up: {said}")
            ended += 1
    return ended


def end(run: SyncRun, state: RunState, now: datetime, *, code: str = "", detail: str = "") -> None:
    """Write down how a run ended, in the caller's transaction. What was announced and not heard of stays so."""
    run.state, run.ended_at, run.code, run.detail = state.value, now, code, detail[:1000]
    run.save(update_fields=["state", "ended_at", "code", "detail"])
    steps = {name.value: run.steps.filter(state=name).count() for name in StepState}
    severity = audit.Severity.WARNING if state in (RunState.FAILED, RunState.INCOMPLETE) else audit.Severity.INFO
    details = {**_details(run), "state": state.value, "code": code, "steps": {name: n for name, n in steps.items() if n}}
    changes.record(None, "sync_run.ended", "sync_run", run.id, details, severity=severity)
    log.info("sync run %s of %s ended: %s %s %s", run.id, run.rule_id, state.value, code, details["steps"])
    _prune(run.rule)


def _prune(rule: SyncRule) -> None:
    """Keep the newest runs, and of those that carried something the newest whatever came after: schedules and copies go by it."""
    newest = rule.runs.order_by("-created_at")
    kept = [*newest.values_list("id", flat=True)[:KEPT_RUNS]]
    applied = newest.filter(phase=RunPhase.APPLY)
    kept += [
        *applied.values_list("id", flat=True)[:1],
        *applied.filter(state=RunState.SUCCEEDED).values_list("id", flat=True)[:1],
    ]
    rule.runs.exclude(state=RunState.RUNNING).exclude(id__in=kept).delete()


def offer_again(run: SyncRun, code: str, pause: timedelta) -> None:
    """Another task for a run that has more to do than one may last. What the run says of why it waits is kept with it."""
    task = dispatch.offer(code, KINDS[KIND], {"run": str(run.id)}, actor=run.asked_by, address="", pause=pause)
    run.task = task.id
    run.save(update_fields=["task", "code", "detail"])


def task_of(run: SyncRun) -> Task | None:
    """The gateway's task that works on the run now."""
    return Task.objects.filter(id=run.task).first() if run.task else None


def why_not_allowed(run: SyncRun, caller: Principal | None) -> str:
    """Why whoever asked for a run may not have its steps done now; empty when they may."""
    if caller is None:
        return "whoever asked for the run is no longer there"
    try:
        _refuse_unless_allowed(run.rule, run.environment, caller, RunPhase(run.phase))
    except MazeVaultError as refused:
        return refused.sentence
    return ""


def rule_for(identifier: uuid.UUID, by: By, permission: str, *, lock: bool = False) -> SyncRule:
    """A living rule whose project the caller has the permission for. Raises `NotFound` or `PermissionRefused`."""
    rows = _rules().filter(project__in=visible_projects(by.principal))
    found = locked(rows, identifier) if lock else rows.filter(id=identifier).first()
    if found is None:
        raise absent("sync rule")
    require(by.principal, permission, place_of(found.project), readable=PROJECTS_READ, what="sync rule")
    return found


def run_for(identifier: uuid.UUID, by: By, permission: str, *, lock: bool = False) -> SyncRun:
    """A run whose project the caller has the permission for. Raises `NotFound` or `PermissionRefused`."""
    rows = SyncRun.objects.select_related("rule__project", "environment").filter(
        rule__project__in=visible_projects(by.principal)
    )  # fmt: skip
    found = locked(rows, identifier) if lock else rows.filter(id=identifier).first()
    if found is None:
        raise absent("sync run")
    require(by.principal, permission, place_of(found.rule.project), readable=PROJECTS_READ, what="sync run")
    return found


def run_with_names(identifier: uuid.UUID, by: By) -> SyncRun:
    """A run, for who may read the secrets it names. Raises `NotFound` or `PermissionRefused`."""
    run = run_for(identifier, by, PROJECTS_READ)
    if not by.principal.may(SECRETS_READ, place_in(run.rule.project, run.environment)):
        raise PermissionRefused(f"the names of secrets need the permission {SECRETS_READ} in {run.environment.slug}")
    return run


def _rules() -> QuerySet[SyncRule]:
    return SyncRule.objects.filter(deleted_at=None).select_related("project", "integration__environment")


def _begin(
    rule: SyncRule, wish: RunWish, by: By, *, confirmed: SyncRun | None = None, undoes: SyncRun | None = None,
    scheduled: bool = False,
) -> SyncRun:  # fmt: skip
    environment = _environment(rule)
    _refuse_unless_allowed(rule, environment, by.principal, wish.phase)
    running = rule.runs.filter(state=RunState.RUNNING).first()
    if running is not None:
        raise Conflict(f"the run {running.id} of this rule is not over; wait for it or stop it", code="SYNC_RUNNING")
    target = vaults.origin_of(checked_access(rule.integration, environment.gateway_environment).vault_url)
    if undoes is not None:
        _refuse_elsewhere(undoes, environment, target)
    run = SyncRun.objects.create(
        rule=rule, phase=wish.phase.value, asked_by=by.actor, scheduled=scheduled, confirmed=confirmed, undoes=undoes,
        deletion_count=rule.deletion_count if wish.deletion_count is None else wish.deletion_count,
        deletion_percent=rule.deletion_percent if wish.deletion_percent is None else wish.deletion_percent,
        environment=environment, target=target,
    )  # fmt: skip
    changes.record(by, "sync_run.started", "sync_run", run.id, {**_details(run), "scheduled": scheduled})
    offer_again(run, environment.gateway_environment, timedelta(0))
    return run


def _refuse_elsewhere(former: SyncRun, environment: Environment, target: str) -> None:
    """What a run did in one environment and vault is not taken back in another one, whose secrets only have the same names."""
    if (former.environment_id, former.target) != (environment.id, target):
        raise Conflict(
            f"that run worked on {former.environment.slug} and {former.target}, the rule is about {environment.slug} and "
            f"{target} now; set its target_environment and its integration back, then undo",
            code="UNDO_ELSEWHERE",
        )


def _environment(rule: SyncRule) -> Environment:
    """Where the rule's secrets are. Raises `Conflict` for a rule that cannot run, with the field that stands in the way."""
    found = rules.environment_of(rule)
    if found is None:
        raise _not_runnable("target_environment: name an environment that the organization has, here or at the integration")
    if rule.source_path:
        raise _not_runnable("source_path: a vault has no paths; leave it empty and use key_transform_template")
    if rule.project.storage_moves.filter(state=RunState.RUNNING).exists():
        raise _not_runnable("storage: the project is being moved; wait until that is over")
    if rule.project.storage != Storage.MAZEVAULT:
        raise _not_runnable("storage: the values of this project rest in its vault already, so there is nothing to keep in step")
    return found


def _not_runnable(sentence: str) -> Conflict:
    return Conflict(sentence, code="RULE_NOT_RUNNABLE")


def _refuse_unless_allowed(rule: SyncRule, environment: Environment, caller: Principal, phase: RunPhase) -> None:
    """A run does what its asker could do by hand: read the project's secrets, and change them where the rule writes to it."""
    writes = phase in (RunPhase.APPLY, RunPhase.UNDO) and rule.sync_direction != SyncDirection.PUSH
    if not caller.may(PROJECTS_WRITE, place_of(rule.project)):
        raise PermissionRefused(f"a run of this rule needs the permission {PROJECTS_WRITE} in the project")
    place = place_in(rule.project, environment)
    for permission in (SECRETS_READ, *((SECRETS_WRITE, SECRETS_DELETE) if writes else ())):
        if not caller.may(permission, place):
            raise PermissionRefused(f"a run of this rule needs the permission {permission} in {environment.slug} of the project")


def _preview(rule: SyncRule, wish: RunWish, undoes: SyncRun | None = None) -> SyncRun:
    """What a person looked at, by its digest: a preview, or an earlier run that went no further than its plan."""
    phases = (RunPhase.UNDO,) if undoes else (RunPhase.PREVIEW, RunPhase.APPLY)
    looked_at = rule.runs.filter(phase__in=phases, undoes=undoes, digest=wish.confirm).exclude(state=RunState.RUNNING)
    found = looked_at.order_by("-created_at").first()
    if found is None:
        raise Conflict("confirm: no preview of this rule has this digest; make one and look at it", code="PREVIEW_NOT_FOUND")
    return found


def _is_due(rule: SyncRule, now: datetime) -> bool:
    if rule.runs.filter(state=RunState.RUNNING).exists():
        return False
    last = rule.runs.filter(phase=RunPhase.APPLY).order_by("-created_at").first()
    return last is None or last.created_at + timedelta(minutes=rule.interval_minutes) <= now


def _begin_scheduled(rule: SyncRule, now: datetime) -> bool:
    caller = principal_named(rule.scheduled_by, now)
    try:
        if caller is None:
            raise PermissionRefused("whoever scheduled it is no longer there")
        with transaction.atomic():
            _begin(rule, RunWish(RunPhase.APPLY), By(caller), scheduled=True)
        return True
    except MazeVaultError as refused:
        rule.paused, rule.paused_why = True, f"its scheduled run was refused: {refused.sentence}"[:300]
        rule.save(update_fields=["paused", "paused_why"])
        details = {"project_id": rule.project_id, "why": rule.paused_why}
        changes.record(None, "sync_rule.paused", "sync_rule", rule.id, details, severity=audit.Severity.WARNING)
        log.warning("sync rule %s is paused: %s", rule.id, rule.paused_why)
        return False


def _refuse_wrong(fields: Mapping[str, Any]) -> None:
    interval = fields.get("interval_minutes", 0)
    if interval and not SHORTEST_INTERVAL <= interval <= LONGEST_INTERVAL:
        raise ValidationFailed(f"interval_minutes: must be 0 (no schedule) or from {SHORTEST_INTERVAL} to {LONGEST_INTERVAL}")
    names = fields.get("adopted", ())
    if len(names) > MOST_ADOPTED:
        raise ValidationFailed(f"adopted: at most {MOST_ADOPTED} names")
    for name in names:
        if not 0 < len(name) <= LONGEST_NAME:
            raise ValidationFailed(f"adopted: names have 1 to {LONGEST_NAME} characters")


def _details(run: SyncRun) -> dict[str, Any]:
    return {"project_id": run.rule.project_id, "rule": str(run.rule_id), "phase": run.phase, "asked_by": run.asked_by or SYSTEM}


def known_secrets(rule: SyncRule) -> int:
    """How many secrets the rule remembers."""
    return memories.known_count(rule.id)
