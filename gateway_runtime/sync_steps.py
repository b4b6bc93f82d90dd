"""The steps of a sync run in the vault: each announced before, looked at right before it is done, reported after."""

from __future__ import annotations

from collections.abc import Callable

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
from integrations.azure.keyvault import KEY, Entry, Held, Marks
from integrations.sync.plan import Action
from integrations.sync.told import action_of
from integrations.sync.words import WRITES_HERE, ActionKind
from protocol.sync import (
    BegunStep,
    OpenStep,
    RunPhase,
    StepEnd,
    StepReport,
)

TAKES_THEIR_VALUE = frozenset({ActionKind.CREATE_HERE, ActionKind.UPDATE_HERE, ActionKind.RESTORE_HERE})


def announced(run: Run, operation: str, action: Action, ended: list[StepReport]) -> BegunStep | None:
    """The announcement of a step; a step of the project takes the vault's value along. None when the vault has moved.

    What stops the whole run is raised after the steps before it were told of.
    """
    try:
        if action.kind is ActionKind.RECOVER_THERE:
            return _recovery(run, operation, action)
        return _announced(run, operation, action)
    except (AccessDenied, TokenTrouble) as denied:
        if not isinstance(denied, ObjectDisabled):
            run.talk.progress(ended, [])
            raise Final(denied) from denied
        trouble: AzureTrouble = denied
    except AzureTrouble as other:
        if other.retrying_helps:
            run.talk.progress(ended, [])
            raise
        trouble = other
    return BegunStep(operation, action.fingerprint, code=trouble.code, detail=_said(trouble))


def _announced(run: Run, operation: str, action: Action) -> BegunStep | None:
    takes = action.kind in TAKES_THEIR_VALUE
    if action.kind not in WRITES_HERE or (run.order.phase is RunPhase.UNDO and not takes):
        return BegunStep(operation, action.fingerprint)
    held = run.look(action.name) if action.their_version is not None else None
    seen = (None, False) if action.their_version is None else ("", True) if held is None else (held.entry.version, False)
    if seen != (action.their_version, action.their_deleted) or (held is not None and run.is_others(held.entry)):
        return None
    return BegunStep(operation, action.fingerprint, held.value if held is not None and takes else None)


def _recovery(run: Run, operation: str, action: Action) -> BegunStep | None:
    """The version that is to come back is announced, so that after a crash ours is told from one that a person set."""
    gone = run.call(lambda: run.vault.deleted_one(action.name))
    if gone is None or run.is_others(gone.entry):
        return None
    version = gone.entry.version
    if version and action.to_version not in ("", version):
        return None
    return BegunStep(operation, action.fingerprint, their_version=version)


def reported(run: Run, action: Action, operation: str, value: str, ended: list[StepReport]) -> StepReport:
    """Do a step in the vault and say how it ended. What stops the whole run is raised after the steps before it were told of."""
    return _ended(run, operation, ended, lambda: _do(run, action, operation, value))


def completed(run: Run, step: OpenStep, value: str, ended: list[StepReport]) -> StepReport:
    """Set the value of a name that was recovered before a crash, unless somebody else did meanwhile. Raises as `reported`."""
    action = action_of(step.action)

    def complete() -> StepReport:
        held = run.look(action.name)
        if held is None or held.entry.version != step.their_version or run.is_others(held.entry):
            return StepReport(step.operation, StepEnd.OUTDATED)
        return _valued(run, action, step.operation, value, held)

    return _ended(run, step.operation, ended, complete)


def _ended(run: Run, operation: str, ended: list[StepReport], do: Callable[[], StepReport]) -> StepReport:
    try:
        return do()
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
        made = run.write(lambda: run.vault.put(name, value, marks, key=action.key))
        return _done(action, operation, made.version)
    if held is None or held.entry.version != action.their_version or run.is_others(held.entry):
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
    return _valued(run, action, operation, value, held) if action.digest else _done(action, operation, held.entry.version)


def _valued(run: Run, action: Action, operation: str, value: str, held: Held) -> StepReport:
    """What lives again gets the value it is to have, and the tags."""
    entry, marks = held.entry, run.marks(operation)
    if run.digest(held.value) == action.digest or not value:
        tags = {**_foreign_tags(entry), **marks.tags(), KEY: action.key}
        return _done(action, operation, run.write(lambda: run.vault.retag(entry, tags)).version)
    return _done(action, operation, _set_anew(run, entry, value, action, marks).version)


def _set_anew(run: Run, entry: Entry, value: str, action: Action, marks: Marks) -> Entry:
    """A new version that keeps what people gave the one before (`integrations.azure.keyvault.attributes_after`)."""
    return run.write(lambda: run.vault.put(action.name, value, marks, key=action.key, before=entry))


def resolved(run: Run, step: OpenStep) -> StepReport | None:
    """How an announced step ended, as the vault shows it; None for a recovery of this run whose value is still to be set.

    Raises `Final` when the vault does not let us look.
    """
    action = action_of(step.action)
    try:
        held = run.look(action.name)
    except ObjectDisabled:
        return StepReport(step.operation, StepEnd.OUTDATED)
    except (AccessDenied, TokenTrouble) as denied:
        raise Final(denied) from denied
    if held is not None and not _shows(run, step, held) and step.of_this_run and _is_half_recovered(step, held):
        return None
    run.numbers["resolved"] += 1
    if _shows(run, step, held):
        return _done(action, step.operation, held.entry.version if held else "")
    return StepReport(step.operation, StepEnd.OUTDATED)


def _shows(run: Run, step: OpenStep, held: Held | None) -> bool:
    """Whether the vault is as the step leaves it. A copy of our tags with another value is a person's."""
    kind, digest = ActionKind(step.action.kind), step.action.digest
    if kind is ActionKind.DELETE_THERE or held is None:
        return kind is ActionKind.DELETE_THERE and held is None
    marks = held.entry.marks
    if kind is ActionKind.RELEASE_THERE:
        return marks is None
    if kind is ActionKind.RECOVER_THERE and not digest:
        return step.their_version in (None, held.entry.version)
    return marks is not None and marks.operation == step.operation and digest in ("", run.digest(held.value))


def _is_half_recovered(step: OpenStep, held: Held) -> bool:
    return step.action.kind == ActionKind.RECOVER_THERE and held.entry.version == step.their_version


def _failed(operation: str, trouble: AzureTrouble) -> StepReport:
    return StepReport(operation, StepEnd.FAILED, code=trouble.code, detail=_said(trouble))


def _said(trouble: AzureTrouble) -> str:
    return f"{trouble.cause}. Fix: {trouble.fix}"[:1000]


def _done(action: Action, operation: str, version: str) -> StepReport:
    return StepReport(operation, StepEnd.DONE, action.our_version, version)


def _foreign_tags(entry: Entry) -> dict[str, str]:
    """The tags that are not ours."""
    ours = {*Marks(0, "x", "x").tags(), KEY}
    return {name: text for name, text in entry.tags.items() if name not in ours}
