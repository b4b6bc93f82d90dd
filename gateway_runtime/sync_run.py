"""`sync.run`: gather the facts of both sides, plan, and do the steps that may be done (DESIGN §7, docs/operations/sync.md).

Every step is announced to the Primary before it is done and reported after it; the Primary does those that write to the project.
Each write in the vault asks for its own right to act, carries epoch, operation and rule as tags, and is made only if the vault
still is as it was planned for. What was announced before a crash is resolved by looking.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from gateway_runtime import sync_facts, sync_steps, vaults
from gateway_runtime.frames import TaskFrame
from gateway_runtime.sync_talk import Talk
from gateway_runtime.sync_vault import Final, Paused, Reading, Run, Stopped, asks_for_rest
from integrations.azure.egress import CALL_SECONDS
from integrations.azure.errors import AzureTrouble
from integrations.azure.keyvault import KeyVault
from integrations.sync.drift import drift
from integrations.sync.plan import Action, Note, Plan, RunRefused, plan
from integrations.sync.told import action_of, remembered_of, told_action, told_item
from integrations.sync.undo import Applied, undo
from integrations.sync.words import Verdict
from protocol.sync import (
    BATCH,
    PAGE,
    BegunStep,
    HistoryStep,
    Listing,
    OpenStep,
    ProgressAnswer,
    RunAnswer,
    RunEnd,
    RunPhase,
    StepEnd,
    StepReport,
    SyncNote,
)

log = logging.getLogger("mazevault.gateway.sync")

WORK_SECONDS = 40.0
"""Steps of one task; what is left goes on in the next one, so that other tasks get their turn."""
ROUNDS = 3
"""How often one task plans again because the world had moved."""
REST_SECONDS = 10
"""So long a run rests when the world moved each time."""


_readings: dict[tuple[str, str], dict[str, Reading]] = {}
"""By run and key of its digests: what a paused or broken-off task had read, for the one that goes on."""
Found = TypeVar("Found")


def work_on(frame: TaskFrame, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Work on a run until it ends, or for as long as one task may."""
    talk = Talk(frame, str(payload["run"]))
    order = talk.order()
    connection = vaults.connection_of(order.access)
    credential, seconds = vaults.credential_of(connection), min(frame.deadline, CALL_SECONDS)
    began = time.monotonic()
    with KeyVault(connection, credential, vaults.guard(), seconds=seconds) as vault:
        run = Run(frame, talk, order, vault)
        run.readings = _readings_of(run)
        try:
            end = _work(run)
            code, detail = _why(run.trouble)
        except Paused:
            end, code, detail = RunEnd.PAUSED, "", ""
        except AzureTrouble as trouble:
            if not asks_for_rest(trouble):
                raise
            run.rest = math.ceil(trouble.retry_after or 0)
            end, (code, detail) = RunEnd.PAUSED, _why(trouble)
        except Stopped as stopped:
            end, code, detail = RunEnd.STOPPED, "", str(stopped)
        except Final as final:
            end, (code, detail) = RunEnd.FAILED, _why(final.trouble)
        if end is not RunEnd.PAUSED:
            _readings.clear()
        run.numbers["milliseconds"] = round((time.monotonic() - began) * 1000)
        talk.end(end, run.numbers, code, detail, run.rest)
    return {"run": str(payload["run"]), "end": end.value, **run.numbers}


def _why(trouble: AzureTrouble | None) -> tuple[str, str]:
    """Code and sentence of what stood in the way; empty for nothing."""
    return (trouble.code, f"{trouble.cause}. Fix: {trouble.fix}") if trouble else ("", "")


def _readings_of(run: Run) -> dict[str, Reading]:
    """What this process has read for the run before; of other runs nothing is kept."""
    which = (run.talk.run, run.digest(""))
    if which not in _readings:
        _readings.clear()
    return _readings.setdefault(which, {})


def _work(run: Run) -> RunEnd:
    run.ended_owners = frozenset(run.talk.rows(Listing.ENDED_OWNERS))
    if run.order.phase is RunPhase.DRIFT:
        return _report(run)
    _resolve_open(run)
    until = None
    for _ in range(ROUNDS):
        ready = _plan(run)
        _tell(run, ready)
        if run.order.phase is RunPhase.PREVIEW or ready.verdict is not Verdict.READY:
            return RunEnd.PLANNED
        until = until or time.monotonic() + WORK_SECONDS
        end = _carry_out(run, ready.actions, until)
        if end is not None:
            return end
    run.rest = REST_SECONDS
    return RunEnd.PAUSED


def _report(run: Run) -> RunEnd:
    found = drift(sync_facts.world_of(run))
    notes = [SyncNote(row.key, row.name, row.standing.value, row.held_off.value if row.held_off else "") for row in found.rows]
    run.talk.report(notes, Verdict.REFUSED.value if found.refusals else "", _refusals(found.refusals))
    return RunEnd.PLANNED


def _plan(run: Run) -> Plan:
    if run.order.phase is not RunPhase.UNDO:
        return plan(sync_facts.world_of(run))
    history = [_applied(step) for step in run.talk.rows(Listing.HISTORY)]
    world = sync_facts.listed(run)
    wanted = {step.action.name.lower() for step in history}
    theirs = sync_facts.looked_at(run, world.theirs, wanted)
    return undo(run.rule, history, world.ours, theirs, world.confirmed, listed_all=world.listed_all)


def _tell(run: Run, made: Plan) -> None:
    """Tell the plan in parts. Raises `Stopped` when the Primary does not let it be done."""
    parts: list[dict[str, Any]] = [{"refusals": _refusals(made.refusals)}]
    parts += [{"actions": page} for page in _pages([told_action(action) for action in made.proposed])]
    parts += [{"notes": page} for page in _pages([_note(note) for note in made.notes])]
    parts += [{"learn": page} for page in _pages([told_item(item) for item in made.learn])]
    parts += [{"forget": page} for page in _pages(list(made.forget))]
    named: dict[str, Any] = {"verdict": made.verdict.value, "digest": made.digest, "setting": made.setting}
    for number, part in enumerate(parts):
        _go_on(run.talk.plan(first=not number, first_run=made.first_run, **named, **part))


def _refusals(refusals: Iterable[RunRefused]) -> list[list[str]]:
    return [[refused.code.value, refused.text[:1000]] for refused in refusals]


def _go_on(answer: RunAnswer | ProgressAnswer) -> None:
    if not answer.go_on:
        raise Stopped(answer.why)


def _pages(rows: list[Found]) -> list[list[Found]]:
    return [rows[start : start + PAGE] for start in range(0, len(rows), PAGE)]


def _carry_out(run: Run, actions: Sequence[Action], until: float) -> RunEnd | None:
    """Do the steps in their order. None when the world had moved for some, so that it must be planned again."""
    ended, moved = list[StepReport](), False
    for start in range(0, len(actions), BATCH):
        if start and time.monotonic() > until:  # every task gets on by one batch at least
            run.talk.progress(ended, [])
            return RunEnd.PAUSED
        batch = [(str(uuid.uuid4()), action) for action in actions[start : start + BATCH]]
        begin = []
        for operation, action in batch:
            begun = sync_steps.announced(run, operation, action, ended)
            moved = moved or begun is None
            begin += [begun] if begun else []
        answer = run.talk.progress(ended, begin)
        ended = []
        _go_on(answer)
        taken = {report.operation: report for report in answer.taken}
        moved = moved or any(report.end is StepEnd.OUTDATED for report in answer.taken)
        announced = {step.operation for step in begin}
        for operation, action in batch:
            if operation in announced and operation not in taken:
                report = sync_steps.reported(run, action, operation, answer.values.get(operation, ""), ended)
                ended.append(report)
                moved = moved or report.end is StepEnd.OUTDATED
    run.talk.progress(ended, [])
    return None if moved else RunEnd.DONE


def _resolve_open(run: Run) -> None:
    """What was announced and not reported, before a crash for example: done if the vault shows it, else to be planned again.

    A name that was recovered and has not got its value yet gets it now: until then an old, deleted value is alive.
    """
    steps = list(run.talk.rows(Listing.OPEN))
    reports = [sync_steps.resolved(run, step) for step in steps]
    for page in _pages([report for report in reports if report]):
        run.talk.progress(page, [])
    unfinished = [step for step, report in zip(steps, reports, strict=True) if report is None]
    for start in range(0, len(unfinished), BATCH):
        _complete(run, unfinished[start : start + BATCH])


def _complete(run: Run, steps: Sequence[OpenStep]) -> None:
    """Announce recoveries again, to be given their values. Raises `Stopped` when the Primary does not let them be completed."""
    again = [BegunStep(step.operation, action_of(step.action).fingerprint, their_version=step.their_version) for step in steps]
    answer, ended = run.talk.progress([], again), list[StepReport]()
    _go_on(answer)
    taken = {report.operation for report in answer.taken}
    for step in steps:
        if step.operation not in taken:
            ended.append(sync_steps.completed(run, step, answer.values.get(step.operation, ""), ended))
    run.talk.progress(ended, [])


def _note(note: Note) -> SyncNote:
    return SyncNote(note.key, note.name, note.reason.value)


def _applied(step: HistoryStep) -> Applied:
    remembered = remembered_of(step.remembered) if step.remembered else None
    return Applied(action_of(step.action), step.our_version, step.their_version, remembered)
