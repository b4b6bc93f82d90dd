"""The steps of a sync run in the vault: each announced before, looked at right before it is done, reported after."""

from __future__ import annotations

from gateway_runtime.sync_vault import Final, Run
from integrations.azure.errors import (
    AccessDenied,
    AzureTrouble,
    NameTaken,
    ObjectDisabled,
    ObjectMissing,
    OutcomeUnknown,
    TokenTrouble,
)
from integrations.azure.keyvault import KEY, Entry, Marks
from integrations.sync.plan import Action
from integrations.sync.told import action_of
from integrations.sync.words import WRITES_HERE, ActionKind
from protocol.sync import (
    BegunStep,
    OpenStep,
    StepEnd,
    StepReport,
)


def announced(run: Run, operation: str, action: Action) -> BegunStep | None:
    """The announcement of a step; a step of the project takes the vault's value along. None when the vault has moved."""
    if action.kind not in WRITES_HERE:
        return BegunStep(operation, action.fingerprint)
    held = run.look(action.name) if action.their_version is not None else None
    seen = (None, False) if action.their_version is None else ("", True) if held is None else (held.entry.version, False)
    if seen != (action.their_version, action.their_deleted) or (held is not None and _is_others(run, held.entry)):
        return None
    takes = action.kind in (ActionKind.CREATE_HERE, ActionKind.UPDATE_HERE, ActionKind.RESTORE_HERE)
    return BegunStep(operation, action.fingerprint, held.value if held is not None and takes else None)


def reported(run: Run, action: Action, operation: str, value: str, ended: list[StepReport]) -> StepReport:
    """Do a step in the vault and say how it ended. What stops the whole run is raised after the steps before it were told of."""
    try:
        return _do(run, action, operation, value)
    except NameTaken:
        return StepReport(operation, StepEnd.OUTDATED)
    except (AccessDenied, TokenTrouble) as denied:
        if isinstance(denied, ObjectDisabled):
            return _failed(operation, denied)
        run.talk.progress([*ended, _failed(operation, denied)], [])
        raise Final(denied) from denied
    except OutcomeUnknown:
        run.talk.progress(ended, [])  # this one stays announced: the next task looks what became of it
        raise
    except AzureTrouble as trouble:
        if trouble.retrying_helps:
            run.talk.progress([*ended, StepReport(operation, StepEnd.OUTDATED, code=trouble.code)], [])
            raise
        return _failed(operation, trouble)


def _do(run: Run, action: Action, operation: str, value: str) -> StepReport:
    """One step in the vault, if it is still as it was planned for."""
    kind, name, marks = action.kind, action.name, run.marks(operation)
    if kind is ActionKind.RECOVER_THERE:
        return _recover(run, action, operation, value)
    held = run.look(name)
    if kind is ActionKind.CREATE_THERE:
        if held is not None:
            return StepReport(operation, StepEnd.OUTDATED)
        made = run.write(lambda: run.vault.set(name, value, marks, tags={KEY: action.key}))
        return _done(action, operation, made.version)
    if held is None or held.entry.version != action.their_version or _is_others(run, held.entry):
        return StepReport(operation, StepEnd.OUTDATED)
    entry = held.entry
    if kind is ActionKind.UPDATE_THERE:
        return _done(action, operation, _set_anew(run, entry, value, action, marks).version)
    if kind is ActionKind.ROLLBACK_THERE:
        former = run.call(lambda: run.vault.get(name, action.to_version))
        return _done(action, operation, _set_anew(run, entry, former.value, action, marks).version)
    if kind is ActionKind.DELETE_THERE:
        run.write(lambda: run.vault.delete(name))
        return _done(action, operation, "")
    tags = _foreign_tags(entry)
    if kind is ActionKind.CLAIM_THERE:
        tags |= {**marks.tags(), KEY: action.key}
    run.write(lambda: run.vault.retag(entry, tags))
    return _done(action, operation, entry.version)


def _recover(run: Run, action: Action, operation: str, value: str) -> StepReport:
    try:
        run.write(lambda: run.vault.recover(action.name))
    except ObjectMissing:
        return StepReport(operation, StepEnd.OUTDATED)
    held = run.look(action.name)
    if held is None:
        raise OutcomeUnknown("a recovery was accepted and is not to be seen yet", "wait; the run looks again")
    if not action.digest:
        return _done(action, operation, held.entry.version)
    entry, marks = held.entry, run.marks(operation)
    if run.digest(held.value) == action.digest or not value:
        tags = {**_foreign_tags(entry), **marks.tags(), KEY: action.key}
        return _done(action, operation, run.write(lambda: run.vault.retag(entry, tags)).version)
    return _done(action, operation, _set_anew(run, entry, value, action, marks).version)


def _set_anew(run: Run, entry: Entry, value: str, action: Action, marks: Marks) -> Entry:
    """A new version that keeps the tags and the type people gave the one before."""
    tags = {**_foreign_tags(entry), KEY: action.key}
    return run.write(lambda: run.vault.set(action.name, value, marks, tags=tags, content_type=entry.content_type))


def resolved(run: Run, step: OpenStep) -> StepReport:
    action, kind = action_of(step.action), ActionKind(step.action.kind)
    try:
        held = run.look(action.name)
    except ObjectDisabled:
        return StepReport(step.operation, StepEnd.OUTDATED)
    marks = held.entry.marks if held else None
    if kind is ActionKind.DELETE_THERE:
        done = held is None
    elif kind is ActionKind.RELEASE_THERE:
        done = held is not None and marks is None
    elif kind is ActionKind.RECOVER_THERE and not action.digest:
        done = held is not None
    else:
        done = marks is not None and marks.operation == step.operation
    run.numbers["resolved"] += 1
    return (
        _done(action, step.operation, held.entry.version if held else "")
        if done
        else StepReport(step.operation, StepEnd.OUTDATED)
    )


def _failed(operation: str, trouble: AzureTrouble) -> StepReport:
    return StepReport(operation, StepEnd.FAILED, code=trouble.code, detail=f"{trouble.cause}. Fix: {trouble.fix}"[:1000])


def _done(action: Action, operation: str, version: str) -> StepReport:
    return StepReport(operation, StepEnd.DONE, action.our_version, version)


def _is_others(run: Run, entry: Entry) -> bool:
    return entry.marks is not None and entry.marks.owner != run.order.rule


def _foreign_tags(entry: Entry) -> dict[str, str]:
    """The tags that are not ours."""
    ours = {*Marks(0, "x", "x").tags(), KEY}
    return {name: text for name, text in entry.tags.items() if name not in ours}
