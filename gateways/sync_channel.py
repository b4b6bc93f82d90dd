"""What a gateway asks and tells of a sync run. Each message counts only from the active gateway, for its own claim (I3).

The Primary does the steps that write to the project in the transaction that takes the message; of the steps in the vault it keeps
that they were announced, so that after a crash it is known what may have happened.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import datetime, timedelta

import msgspec
from django.db import transaction
from django.db.models import Max

from accounts.models import Storage
from accounts.principals import principal_named
from common.errors import Conflict, MazeVaultError, ValidationFailed
from common.rows import locked
from gateways import dispatch, sync_here, sync_runs
from gateways.models import Gateway
from gateways.sync_here import Hand, Outdated, ValueTooLarge
from integrations import memories, owners, rules, tallies, vaults
from integrations.access import checked_access
from integrations.models import RunState, StepState, SyncDirection, SyncMemory, SyncNote, SyncRun, SyncStep
from integrations.sync.facts import Base, DeletionBudget, Direction, Remembered
from integrations.sync.plan import Action
from integrations.sync.remembering import remembered_after
from integrations.sync.told import action_of, remembered_of
from integrations.sync.undo import REVERSED
from integrations.sync.words import DELETES, WRITES_HERE, Verdict
from protocol import sync
from protocol.decoding import convert
from protocol.sync import (
    PAGE,
    AskRows,
    BegunStep,
    EndRun,
    HistoryStep,
    Listing,
    OpenRun,
    OpenStep,
    PlanPart,
    Progress,
    ProgressAnswer,
    Rows,
    RunAnswer,
    RunEnd,
    RunOrder,
    RunPhase,
    StepEnd,
    StepReport,
    SyncAction,
    SyncItem,
)

Asked = OpenRun | AskRows | PlanPart | Progress | EndRun
ENDS = {
    StepEnd.DONE: StepState.DONE,
    StepEnd.FAILED: StepState.FAILED,
    StepEnd.OUTDATED: StepState.OUTDATED,
}


@transaction.atomic
def open_run(gateway: Gateway, body: OpenRun) -> RunOrder:
    """The order of a run. Raises `Conflict` (STALE_CLAIM, RUN_ENDED, VAULT_OF_OTHER_ENVIRONMENT) or `PermissionRefused`."""
    run = _run(gateway, body)
    rule, memory = run.rule, memories.memory_of(run.rule, gateway.environment_id)
    return RunOrder(
        rule=str(rule.id),
        phase=RunPhase(run.phase),
        access=checked_access(rule.integration, gateway.environment_id),
        target=run.target,
        environment=run.environment.slug,
        direction=rule.sync_direction,
        mode=rule.sync_mode,
        strategy=rules.strategy_that_counts(rule),
        transform=rule.key_transform_template,
        deletion_count=run.deletion_count,
        deletion_percent=run.deletion_percent,
        paused=rule.paused and run.phase != RunPhase.UNDO,
        remembers=bool(memory.target),
        memory_target=memory.target,
        memory_environment=memory.environment,
        memory_transform=memory.transform,
        memory_direction=memory.direction,
        settled=memory.settled,
        confirmed=run.confirmed.setting if run.confirmed else "",
        digest_key=memories.digest_key(memory).hex(),
    )


@transaction.atomic
def rows_of(gateway: Gateway, body: AskRows) -> Rows:
    """A page of one of the run's lists."""
    run = _run(gateway, body)
    if body.listing is Listing.OURS:
        key = memories.digest_key(memories.memory_of(run.rule, gateway.environment_id))
        ours = sync_here.facts(run, key, body.after)
        return Rows(ours=ours, next=ours[-1].key if len(ours) == PAGE else "")
    if body.listing is Listing.MEMORY:
        items = run.rule.memory.items.filter(folded_name__gt=body.after).order_by("folded_name")[:PAGE]
        memory = [SyncItem(row.key, row.name, row.digest, row.our_version, row.their_version, row.stamp) for row in items]
        return Rows(memory=memory, next=memory[-1].name.lower() if len(memory) == PAGE else "")
    if body.listing is Listing.ADOPTED:
        names = sorted(str(name) for name in run.rule.adopted if name > body.after)[:PAGE]
        return Rows(words=names, next=names[-1] if len(names) == PAGE else "")
    if body.listing is Listing.ENDED_OWNERS:
        ended = [owner for owner in owners.ended(run.rule.project, run.environment) if owner > body.after][:PAGE]
        return Rows(words=ended, next=ended[-1] if len(ended) == PAGE else "")
    if body.listing in (Listing.OPEN, Listing.UNSEEN):
        return _announced_page(run, body)
    return _steps_page(run, body)


@transaction.atomic
def take_plan(gateway: Gateway, body: PlanPart) -> RunAnswer:
    """Keep a part of the plan, once however often it comes. What it learned is remembered once the plan may be done."""
    run = _run(gateway, body)
    if body.first:
        run.steps.filter(state=StepState.PLANNED).delete()
        run.notes.all().delete()
        run.verdict, run.digest, run.setting, run.first_run = body.verdict, body.digest, body.setting, body.first_run
        run.refusals = [{"code": code, "error": text} for code, text in body.refusals]
        run.save(update_fields=["verdict", "digest", "setting", "first_run", "refusals"])
    _refuse_other_side(run, body.actions)
    _refuse_more_than_was_done(run, body.actions)
    _add_steps(run, body.actions)
    _add_notes(run, body.notes)
    if body.verdict == Verdict.READY and run.phase == RunPhase.APPLY:
        memory = memories.memory_of(run.rule, gateway.environment_id)
        if body.first:
            memories.begin_anew(memory, _base_of(run))
        memories.remember(memory, map(remembered_of, body.learn))
        memories.forget(memory, body.forget)
    return _answer(run, doing=False)


@transaction.atomic
def take_progress(gateway: Gateway, body: Progress, now: datetime) -> ProgressAnswer:
    """Keep how steps ended, then begin the next ones: those of the project are done here, those of the vault get their value."""
    run = _run(gateway, body)
    answer, settled = _progress(gateway, run, body, now)
    tallies.count(tallies.SYNC, settled)
    return answer


def _progress(
    gateway: Gateway, run: SyncRun, body: Progress, now: datetime
) -> tuple[ProgressAnswer, list[tuple[str, str]]]:  # fmt: skip
    memory, settled = memories.memory_of(run.rule, gateway.environment_id), list[tuple[str, str]]()
    for told in body.ended:
        settled += _settle(run, memory, told, now)
    if body.ended:
        dispatch.note_progress(run.task)
    caller, answer = principal_named(run.asked_by, now), _answer(run, doing=bool(body.ended or body.begin))
    if not answer.go_on or not body.begin:
        return ProgressAnswer(go_on=answer.go_on, why=answer.why), settled
    why = sync_runs.why_not_allowed(run, caller)
    if why or caller is None:
        return ProgressAnswer(go_on=False, why=why), settled
    _refuse_unagreed(run, memory, body.begin)
    hand = Hand(run, caller, f"gateway:{gateway.id}", body.epoch, now)
    taken, given = list[StepReport](), dict[str, str]()
    for begun in body.begin:
        row = _step_of(run, begun)
        if row is None:
            taken.append(StepReport(begun.operation, StepEnd.OUTDATED, code="NOT_PLANNED"))
            continue
        found = memories.known(memory, row.name)
        row.operation, row.state, row.their_version = uuid.UUID(begun.operation), StepState.BEGUN, begun.their_version
        row.remembered = asdict(found) if found else None
        row.save(update_fields=["operation", "state", "their_version", "remembered"])
        report, value = _begin(stored_action(row), begun, hand)
        if report is not None:
            settled += _settle(run, memory, report, now)
            taken.append(report)
        elif value is not None:
            given[begun.operation] = value
    return ProgressAnswer(go_on=True, taken=taken, values=given), settled


@transaction.atomic
def end_run(gateway: Gateway, body: EndRun, now: datetime) -> None:
    """End a run, or offer its work again when there is more to do than one task may last."""
    run = _run(gateway, body)
    if body.numbers:
        run.numbers = {name: max(count, run.numbers.get(name, 0)) for name, count in body.numbers.items()}
        run.save(update_fields=["numbers"])
    if run.stop_asked:
        sync_runs.end(run, RunState.STOPPED, now, detail="it was stopped by a person")
    elif body.end is RunEnd.PAUSED:
        run.code, run.detail = body.code, body.detail
        sync_runs.offer_again(run, gateway.environment_id, timedelta(seconds=body.retry_after))
    elif body.end is RunEnd.FAILED:
        sync_runs.end(run, RunState.FAILED, now, code=body.code, detail=body.detail)
    elif body.end is RunEnd.STOPPED:
        sync_runs.end(run, RunState.STOPPED, now, detail=body.detail)
    elif body.end is RunEnd.PLANNED:
        sync_runs.end(run, RunState.PLANNED, now, code=body.code, detail=body.detail)
    else:
        if run.phase == RunPhase.APPLY:
            SyncMemory.objects.filter(rule=run.rule).update(settled=True)
        _end_done(run, body, now)


def _end_done(run: SyncRun, body: EndRun, now: datetime) -> None:
    """Every step was tried. A run that found nothing in step and left everything alone did not succeed at anything."""
    left, state, code, detail = run.notes.count(), RunState.SUCCEEDED, body.code, body.detail
    if run.steps.filter(state=StepState.FAILED).exists():
        state = RunState.INCOMPLETE
    elif left and not run.steps.exists() and (run.phase == RunPhase.UNDO or not memories.known_count(run.rule_id)):
        state, code = RunState.INCOMPLETE, body.code or "ALL_LEFT_ALONE"
        nothing = f"nothing was done: {left} secrets were left alone, each for the reason in the notes"
        detail = f"{nothing}. {body.detail}" if body.detail else nothing
    elif body.code:
        state = RunState.INCOMPLETE  # it was not seen whole
    sync_runs.end(run, state, now, code=code, detail=detail)


def _step_of(run: SyncRun, begun: BegunStep) -> SyncStep | None:
    """The step of an announcement: one that was announced under this operation and is to be completed, else a planned one."""
    rows = run.steps.select_for_update().filter(fingerprint=begun.fingerprint)
    again = rows.filter(operation=begun.operation, state=StepState.BEGUN).first()
    return again or rows.filter(state=StepState.PLANNED).first()


def _readable(actions: Iterable[SyncAction]) -> list[Action]:
    """Raises `ValidationFailed` for a kind or reason that there is not."""
    try:
        return [action_of(told) for told in actions]
    except ValueError as error:
        raise ValidationFailed(f"actions: {error}") from None


def stored_action(row: SyncStep) -> Action:
    """A step as the engine knows it."""
    return action_of(convert(row.action, SyncAction))


def _run(gateway: Gateway, body: Asked) -> SyncRun:
    dispatch.refuse_unless_active(gateway, body.epoch)
    rows = SyncRun.objects.select_related("rule__project", "rule__integration__environment", "environment", "confirmed", "undoes")
    run = locked(rows, body.run)
    task = sync_runs.task_of(run) if run else None
    if run is None or task is None or not dispatch.is_claimed(task, gateway, body.claim, body.epoch):
        raise Conflict("this claim no longer counts for a sync run", code="STALE_CLAIM")
    if run.state != RunState.RUNNING:
        raise Conflict("the run has ended", code="RUN_ENDED")
    _refuse_other_world(run, gateway)
    dispatch.extend_claim(task)
    return run


def _refuse_other_world(run: SyncRun, gateway: Gateway) -> None:
    """A run belongs to the vault, the environment and the project it was begun for, as they were then (I13)."""
    rule, environment = run.rule, run.environment
    if rule.project.deleted_at is not None or environment.deleted_at is not None:
        raise Conflict("the project or the environment of the run was deleted", code="RUN_ENDED")
    if environment.gateway_environment != gateway.environment_id:
        raise Conflict("the environment of the run belongs to other gateways now", code="RUN_ENDED")
    if rule.project.storage != Storage.MAZEVAULT:
        raise Conflict("the values of the project rest in its vault now", code="RUN_ENDED")
    access = checked_access(rule.integration, gateway.environment_id)
    if vaults.origin_of(access.vault_url) != run.target:
        raise Conflict("the integration leads to another vault now", code="RUN_ENDED")
    if run.undoes and (run.undoes.environment_id, run.undoes.target) != (run.environment_id, run.target):
        raise Conflict("the run that is to be taken back worked elsewhere", code="RUN_ENDED")


def _steps_page(run: SyncRun, body: AskRows) -> Rows:
    after = int(body.after) if body.after.isdecimal() else -1
    of = run.undoes if body.listing is Listing.HISTORY else run.confirmed
    steps = SyncStep.objects.filter(run=of, position__gt=after) if of else SyncStep.objects.none()
    if body.listing is Listing.HISTORY:
        steps = steps.filter(state=StepState.DONE)
    page = list(steps.order_by("position")[:PAGE])
    onward = str(page[-1].position) if len(page) == PAGE else ""
    if body.listing is Listing.AGREED:
        return Rows(words=[row.fingerprint for row in page], next=onward)
    return Rows(history=[_history(row) for row in page], next=onward)


def _announced_page(run: SyncRun, body: AskRows) -> Rows:
    """Announced steps of the rule in the run's vault and environment, also of earlier runs that ended in between."""
    after = int(body.after) if body.after.isdecimal() else 0
    states = [StepState.BEGUN] if body.listing is Listing.OPEN else [StepState.BEGUN, StepState.FAILED, StepState.OUTDATED]
    steps = SyncStep.objects.filter(run__rule=run.rule_id, run__environment=run.environment_id, run__target=run.target)
    page = list(steps.filter(id__gt=after, operation__isnull=False, state__in=states).order_by("id")[:PAGE])
    told = [
        OpenStep(str(row.operation), convert(row.action, SyncAction), row.their_version, row.run_id == run.id) for row in page
    ]
    return Rows(open=told, next=str(page[-1].id) if len(page) == PAGE else "")


def _history(row: SyncStep) -> HistoryStep:
    remembered = convert(row.remembered, SyncItem) if row.remembered else None
    return HistoryStep(convert(row.action, SyncAction), row.our_version, row.their_version, remembered)


def _refuse_other_side(run: SyncRun, actions: Iterable[SyncAction]) -> None:
    """A rule writes to the sides its direction names and to no other, whatever a gateway plans."""
    direction = run.rule.sync_direction
    for action in _readable(actions):
        here = action.kind in WRITES_HERE
        if direction == (SyncDirection.PUSH if here else SyncDirection.PULL):
            raise Conflict(f"a rule that is set to {direction} does no {action.kind}", code="STEP_NOT_ALLOWED")


def _refuse_more_than_was_done(run: SyncRun, actions: Iterable[SyncAction]) -> None:
    """An undo needs no deletion budget, since it does nothing but the opposite of a step that was done."""
    if run.phase != RunPhase.UNDO:
        return
    wanted = _readable(actions)
    former = run.undoes.steps.filter(state=StepState.DONE) if run.undoes else SyncStep.objects.none()
    done = map(stored_action, former.filter(name__in=[action.name for action in wanted]))
    back = {(REVERSED[action.kind], action.key, action.name) for action in done}
    for action in wanted:
        if (action.kind, action.key, action.name) not in back:
            raise Conflict(f"the run that is taken back calls for no {action.kind} of {action.name!r}", code="STEP_NOT_ALLOWED")


def _refuse_unagreed(run: SyncRun, memory: SyncMemory, begin: Iterable[BegunStep]) -> None:
    """Only a ready plan is carried out, of a first run only what a person confirmed, and no more deletions than allowed."""
    if run.phase not in (RunPhase.APPLY, RunPhase.UNDO) or run.verdict != Verdict.READY:
        raise Conflict("this run is not to be carried out", code="STEP_NOT_ALLOWED")
    wanted = [step.fingerprint for step in begin]
    if run.phase == RunPhase.UNDO or not memory.settled:
        agreed = set(run.confirmed.steps.values_list("fingerprint", flat=True)) if run.confirmed else set[str]()
        if not set(wanted) <= agreed:
            raise Conflict("nobody confirmed this step", code="STEP_NOT_ALLOWED")
    if run.phase == RunPhase.UNDO:
        return
    deletes = [kind.value for kind in DELETES]
    counted = run.steps.filter(action__kind__in=deletes)
    done = counted.filter(state__in=(StepState.BEGUN, StepState.DONE)).count()
    more = counted.filter(state=StepState.PLANNED, fingerprint__in=wanted).count()
    budget = DeletionBudget(run.deletion_count, run.deletion_percent)
    if more and not budget.allows(done + more, memory.items.count() + done):
        raise Conflict("the deletion budget of the run is used up", code="STEP_NOT_ALLOWED")


def _add_steps(run: SyncRun, actions: Iterable[SyncAction]) -> None:
    """A part that comes again, because its answer was lost, adds nothing. A step that has begun does not count: where nobody saw
    its end, a later plan names it again."""
    told = {action_of(action).fingerprint: action for action in actions}
    planned = run.steps.filter(state=StepState.PLANNED, fingerprint__in=told)
    known = set(planned.values_list("fingerprint", flat=True))
    last = run.steps.aggregate(last=Max("position"))["last"]
    fresh = [(mark, action) for mark, action in told.items() if mark not in known]
    SyncStep.objects.bulk_create(
        SyncStep(run=run, position=position, fingerprint=mark, name=action.name, action=msgspec.to_builtins(action))
        for position, (mark, action) in enumerate(fresh, start=0 if last is None else last + 1)
    )


def _add_notes(run: SyncRun, notes: Iterable[sync.SyncNote]) -> None:
    """The same for what a run left alone."""
    told = {(note.key, note.name, note.reason, note.held_off): note for note in notes}
    keys = {key for key, *_ in told}
    known = set(run.notes.filter(key__in=keys).values_list("key", "name", "reason", "held_off"))
    SyncNote.objects.bulk_create(
        SyncNote(run=run, key=key, name=name, reason=reason, held_off=held_off)
        for key, name, reason, held_off in told if (key, name, reason, held_off) not in known
    )  # fmt: skip


def _begin(action: Action, begun: sync.BegunStep, hand: Hand) -> tuple[StepReport | None, str | None]:
    """How a step of the project ended, or the value a step of the vault takes along."""
    operation = begun.operation
    if begun.code:
        return StepReport(operation, StepEnd.FAILED, code=begun.code, detail=begun.detail), None
    try:
        with transaction.atomic():
            if action.kind in WRITES_HERE:
                version = sync_here.carry_out(action, begun.value, replace(hand, operation=uuid.UUID(operation)))
                return StepReport(operation, StepEnd.DONE, version, action.their_version), None
            if action.kind in sync_here.TAKES_VALUE and not action.our_deleted:
                return None, sync_here.value_for(action, hand)
            sync_here.refuse_outdated(action, hand.run)
            return None, None
    except Outdated:
        return StepReport(operation, StepEnd.OUTDATED), None
    except ValueTooLarge:
        text = f"the value has more than {sync.LARGEST_VALUE_THERE} bytes, which the vault does not hold; keep it in MazeVault"
        return StepReport(operation, StepEnd.FAILED, code="VALUE_TOO_LARGE", detail=text), None
    except MazeVaultError as error:
        return StepReport(operation, StepEnd.FAILED, code=error.code, detail=error.sentence[:1000]), None


def _settle(run: SyncRun, memory: SyncMemory, report: StepReport, now: datetime) -> list[tuple[str, str]]:
    """Keep how a step ended, of this run or of an earlier one of the rule; returns its kind and result, nothing when that was
    told before."""
    steps = SyncStep.objects.select_related("run__undoes").filter(run__rule=run.rule_id, state=StepState.BEGUN)
    begun = steps.filter(operation=report.operation).values_list("pk", flat=True).first()
    row = locked(steps, begun) if begun else None
    if row is None:
        return []
    row.state, row.ended_at, row.our_version = ENDS[report.end], now, report.our_version
    row.their_version = row.their_version if report.their_version is None else report.their_version
    row.code, row.detail = report.code, report.detail
    row.save()
    if report.end is StepEnd.DONE and (row.run_id == run.id or _speaks_of(memory, run)):
        _remember(row.run, memory, stored_action(row), report)
    return [(row.action["kind"], row.state)]


def _remember(run: SyncRun, memory: SyncMemory, action: Action, report: StepReport) -> None:
    """What the rule knows once a step is done; taking a step back brings back what was known before it."""
    if run.phase == RunPhase.UNDO:
        former = [row for row in run.undoes.steps.filter(state=StepState.DONE, name=action.name).order_by("-position")
                  if REVERSED[stored_action(row).kind] is action.kind] if run.undoes else []  # fmt: skip
        known = former[0].remembered if former else None
        items: tuple[Remembered, ...] = (Remembered(**known),) if known else ()
    elif action.kind in DELETES:
        items = ()
    else:
        items = remembered_after(action, report.our_version, report.their_version, Base("")).items
        if not items:
            return
    if items:
        memories.remember(memory, items)
    else:
        memories.forget(memory, [action.name])


def _speaks_of(memory: SyncMemory, run: SyncRun) -> bool:
    base = _base_of(run)
    return (memory.target, memory.transform, memory.environment) == (base.target, base.transform, base.environment)


def _base_of(run: SyncRun) -> Base:
    rule = run.rule
    return Base(run.target, rule.key_transform_template, run.environment.slug, Direction(rule.sync_direction))


def _answer(run: SyncRun, *, doing: bool = True) -> RunAnswer:
    """Whether to go on. The plan of a paused rule is told and not done."""
    if run.stop_asked:
        return RunAnswer(False, "the run was stopped")
    if run.rule.deleted_at is not None:
        return RunAnswer(False, "the rule was deleted")
    if doing and run.rule.paused and run.phase == RunPhase.APPLY:
        return RunAnswer(False, "the rule is paused")
    return RunAnswer(True)
