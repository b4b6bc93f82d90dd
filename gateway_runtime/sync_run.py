"""`sync.run`: gather the facts of both sides, plan, and do the steps that may be done (DESIGN §7, docs/operations/sync.md).

Every step is announced to the Primary before it is done and reported after it; the Primary does those that write to the project.
Each write in the vault asks for its own right to act, carries epoch, operation and rule as tags, and is made only if the vault
still is as it was planned for. What was announced before a crash is resolved by looking.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from gateway_runtime import vaults
from gateway_runtime.frames import TaskFrame
from gateway_runtime.sync_talk import Talk
from integrations.azure.connection_test import PROBE_OWNER
from integrations.azure.egress import CALL_SECONDS
from integrations.azure.errors import (
    AccessDenied,
    AzureTrouble,
    NameTaken,
    ObjectDisabled,
    ObjectMissing,
    OutcomeUnknown,
    TokenTrouble,
)
from integrations.azure.keyvault import KEY, Entry, Held, KeyVault, Marks, SecretStore
from integrations.sync.drift import drift
from integrations.sync.facts import (
    Base,
    Confirmation,
    DeletionBudget,
    Direction,
    Mode,
    Ours,
    Remembered,
    Rule,
    Strategy,
    Theirs,
    World,
)
from integrations.sync.plan import Action, Note, Plan, names_to_read, plan
from integrations.sync.told import action_of, remembered_of, told_action, told_item
from integrations.sync.transform import TransformInvalid
from integrations.sync.undo import Applied, undo
from integrations.sync.words import WRITES_HERE, ActionKind, Verdict
from protocol.sync import (
    BATCH,
    PAGE,
    BegunStep,
    HistoryStep,
    Listing,
    OpenStep,
    OurSecret,
    ProgressAnswer,
    RunAnswer,
    RunEnd,
    RunOrder,
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
TRIES, FIRST_PAUSE, LONGEST_PAUSE = 4, 1.0, 20.0
"""Attempts of a call that trying again may help, and the pause between them in seconds."""
CALLS_PER_SECOND, BURST = 100.0, 100.0
"""What a run takes of a vault's budget: a quarter of the 4,000 transactions in 10 seconds that Azure allows."""

SETTLED = timedelta(minutes=1)
"""A vault tells its times in whole seconds, by its own clock: what changed a shorter time ago may change again unseen."""

Found = TypeVar("Found")


@dataclass
class Pace:
    """A bucket of tokens: at most `rate` calls a second on average, `burst` at once."""

    rate: float = CALLS_PER_SECOND
    burst: float = BURST
    tokens: float = BURST
    at: float = field(default_factory=time.monotonic)

    def take(self) -> None:
        """Wait for the next call's turn."""
        now = time.monotonic()
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        self.tokens -= 1
        if self.tokens < 0:
            time.sleep(-self.tokens / self.rate)


@dataclass
class Run:
    """One task's work on a run."""

    frame: TaskFrame
    talk: Talk
    order: RunOrder
    vault: SecretStore
    pace: Pace = field(default_factory=Pace)
    numbers: Counter[str] = field(default_factory=Counter)

    @property
    def rule(self) -> Rule:
        order = self.order
        return Rule(
            id=order.rule, target=order.target, direction=Direction(order.direction), mode=Mode(order.mode),
            strategy=Strategy(order.strategy), transform=order.transform, environment=order.environment,
            budget=DeletionBudget(order.deletion_count, order.deletion_percent), paused=order.paused,
        )  # fmt: skip

    def digest(self, value: str) -> str:
        return hmac.new(bytes.fromhex(self.order.digest_key), value.encode(), hashlib.sha256).hexdigest()

    def call(self, what: Callable[[], Found]) -> Found:
        """A call of the vault at its pace, tried again where that helps. Raises `AzureTrouble`."""
        for attempt in range(1, TRIES + 1):
            self.pace.take()
            self.numbers["vault_calls"] += 1
            try:
                return what()
            except AzureTrouble as trouble:
                if not trouble.retrying_helps or attempt == TRIES:
                    raise
                self.numbers["vault_retries"] += 1
                time.sleep(min(trouble.retry_after or FIRST_PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE))
        raise AssertionError("the last attempt returns or raises")

    def write(self, what: Callable[[], Found]) -> Found:
        """A call that changes the vault: each attempt under a right to act of its own. Raises `MayNotAct` or `AzureTrouble`."""

        def act() -> Found:
            with self.frame.effect():
                return what()

        return self.call(act)

    def look(self, name: str) -> Held | None:
        """What the vault has under a name now; None when nothing living."""
        try:
            return self.call(lambda: self.vault.get(name))
        except ObjectMissing:
            return None

    def marks(self, operation: str) -> Marks:
        return Marks(self.frame.epoch, operation, self.order.rule)


class Stopped(Exception):
    """The Primary does not let the run go on; the sentence is its own."""


class Final(Exception):
    """The vault denies access, or Entra does: nothing else is tried, and nobody else's identity."""

    def __init__(self, trouble: AzureTrouble) -> None:
        super().__init__(trouble.cause)
        self.trouble = trouble


def work_on(frame: TaskFrame, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Work on a run until it ends, or for as long as one task may."""
    talk = Talk(frame, str(payload["run"]))
    order = talk.order()
    connection = vaults.connection_of(order.access)
    credential, seconds = vaults.credential_of(connection), min(frame.deadline, CALL_SECONDS)
    began = time.monotonic()
    with KeyVault(connection, credential, vaults.guard(), seconds=seconds) as vault:
        run = Run(frame, talk, order, vault)
        try:
            end = _work(run)
            code, detail = "", ""
        except Stopped as stopped:
            end, code, detail = RunEnd.STOPPED, "", str(stopped)
        except Final as final:
            end, code, detail = RunEnd.FAILED, final.trouble.code, f"{final.trouble.cause}. Fix: {final.trouble.fix}"
        run.numbers["milliseconds"] = round((time.monotonic() - began) * 1000)
        talk.end(end, run.numbers, code, detail)
    return {"run": str(payload["run"]), "end": end.value, **run.numbers}


def _work(run: Run) -> RunEnd:
    if run.order.phase is RunPhase.DRIFT:
        report = [SyncNote(row.key, row.name, row.standing.value, row.held_off.value if row.held_off else "")
                  for row in drift(_world(run))]  # fmt: skip
        run.talk.report(report)
        return RunEnd.PLANNED
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
    return RunEnd.DONE


def _plan(run: Run) -> Plan:
    if run.order.phase is not RunPhase.UNDO:
        return plan(_world(run))
    history = [_applied(step) for step in run.talk.rows(Listing.HISTORY)]
    world = _listed(run)
    wanted = {step.action.name.lower() for step in history}
    theirs = _read(run, world.theirs, [each.name for each in world.theirs if each.name.lower() in wanted and not each.deleted])
    return undo(run.rule, history, world.ours, theirs, world.confirmed)


def _world(run: Run) -> World:
    listed = _listed(run)
    try:
        names = names_to_read(listed)
    except TransformInvalid:  # the plan says so
        return listed
    return replace(listed, theirs=_read(run, listed.theirs, names))


def _listed(run: Run) -> World:
    """Both sides as far as lists tell of them."""
    order, talk = run.order, run.talk
    ours = tuple(_ours(row) for row in talk.rows(Listing.OURS))
    base = None
    if order.remembers:
        items = tuple(remembered_of(item) for item in talk.rows(Listing.MEMORY))
        base = Base(order.memory_target, order.memory_transform, order.memory_environment, Direction(order.memory_direction),
                    items, order.settled)  # fmt: skip
    confirmed = Confirmation(order.confirmed, frozenset(talk.rows(Listing.AGREED))) if order.confirmed else None
    rule = replace(run.rule, adopted=frozenset(talk.rows(Listing.ADOPTED)))
    theirs, whole = _their_list(run)
    theirs = _unchanged_known(theirs, base.items if base else ())
    run.numbers.update({"listed_here": len(ours), "listed_there": len(theirs)})
    return World(rule, ours, theirs, base, whole, confirmed)


def _unchanged_known(theirs: Iterable[Theirs], remembered: Iterable[Remembered]) -> tuple[Theirs, ...]:
    """What the list shows to be as it was when the rule last looked is in the version it was in then; nobody reads it again."""
    known = {item.name.lower(): item for item in remembered if item.stamp}
    found = []
    for each in theirs:
        item = known.get(each.name.lower())
        same = item is not None and not each.deleted and item.stamp == each.stamp
        found.append(replace(each, version=item.their_version) if item is not None and same else each)
    return tuple(found)


def _their_list(run: Run) -> tuple[tuple[Theirs, ...], bool]:
    """The vault's secrets, and whether the list came to its end. Raises `Final` when the vault does not let us list."""
    now = datetime.now(UTC)
    try:
        living = run.call(lambda: list(run.vault.entries()))
        deleted = run.call(lambda: list(run.vault.deleted()))
    except (AccessDenied, TokenTrouble) as denied:
        raise Final(denied) from denied
    except AzureTrouble as trouble:
        log.warning("the list of the vault broke off: %s", trouble.cause)
        return (), False
    found = {gone.entry.name.lower(): _theirs(gone.entry, now, deleted=True) for gone in deleted}
    found |= {entry.name.lower(): _theirs(entry, now) for entry in living}
    return tuple(each for each in found.values() if each.owner != PROBE_OWNER), True


def _read(run: Run, theirs: Sequence[Theirs], names: Iterable[str]) -> tuple[Theirs, ...]:
    """The same secrets, with version and digest of those that are named. One that cannot be read stays without."""
    found = {each.name.lower(): each for each in theirs}
    for name in names:
        try:
            held = run.look(name)
        except ObjectDisabled:
            continue
        except (AccessDenied, TokenTrouble) as denied:
            log.warning("no value of the vault can be read: %s", denied.cause)
            break
        if held is not None:
            now = datetime.now(UTC)
            found[name.lower()] = replace(
                _theirs(held.entry, now), version=held.entry.version, digest=run.digest(held.value), name=found[name.lower()].name
            )
            run.numbers["read"] += 1
    return tuple(found.values())


def _tell(run: Run, made: Plan) -> None:
    """Tell the plan in parts. Raises `Stopped` when the Primary does not let it be done."""
    parts: list[dict[str, Any]] = [{"refusals": [[refused.code.value, refused.text[:1000]] for refused in made.refusals]}]
    parts += [{"actions": page} for page in _pages([told_action(action) for action in made.proposed])]
    parts += [{"notes": page} for page in _pages([_note(note) for note in made.notes])]
    parts += [{"learn": page} for page in _pages([told_item(item) for item in made.learn])]
    parts += [{"forget": page} for page in _pages(list(made.forget))]
    named: dict[str, Any] = {"verdict": made.verdict.value, "digest": made.digest, "setting": made.setting}
    for number, part in enumerate(parts):
        _go_on(run.talk.plan(first=not number, first_run=made.first_run, **named, **part))


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
            begun = _announced(run, operation, action)
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
                report = _reported(run, action, operation, answer.values.get(operation, ""), ended)
                ended.append(report)
                moved = moved or report.end is StepEnd.OUTDATED
    run.talk.progress(ended, [])
    return None if moved else RunEnd.DONE


def _reported(run: Run, action: Action, operation: str, value: str, ended: list[StepReport]) -> StepReport:
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


def _failed(operation: str, trouble: AzureTrouble) -> StepReport:
    return StepReport(operation, StepEnd.FAILED, code=trouble.code, detail=f"{trouble.cause}. Fix: {trouble.fix}"[:1000])


def _announced(run: Run, operation: str, action: Action) -> BegunStep | None:
    """The announcement of a step; a step of the project takes the vault's value along. None when the vault has moved."""
    if action.kind not in WRITES_HERE:
        return BegunStep(operation, action.fingerprint)
    held = run.look(action.name) if action.their_version is not None else None
    seen = (None, False) if action.their_version is None else ("", True) if held is None else (held.entry.version, False)
    if seen != (action.their_version, action.their_deleted) or (held is not None and _is_others(run, held.entry)):
        return None
    takes = action.kind in (ActionKind.CREATE_HERE, ActionKind.UPDATE_HERE, ActionKind.RESTORE_HERE)
    return BegunStep(operation, action.fingerprint, held.value if held is not None and takes else None)


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
    if run.digest(held.value) == action.digest:
        tags = {**_foreign_tags(entry), **marks.tags(), KEY: action.key}
        return _done(action, operation, run.write(lambda: run.vault.retag(entry, tags)).version)
    return _done(action, operation, _set_anew(run, entry, value, action, marks).version)


def _set_anew(run: Run, entry: Entry, value: str, action: Action, marks: Marks) -> Entry:
    """A new version that keeps the tags and the type people gave the one before."""
    tags = {**_foreign_tags(entry), KEY: action.key}
    return run.write(lambda: run.vault.set(action.name, value, marks, tags=tags, content_type=entry.content_type))


def _resolve_open(run: Run) -> None:
    """What was announced and not reported, before a crash for example: done if the vault shows it, else to be planned again."""
    reports = [_resolved(run, step) for step in run.talk.rows(Listing.OPEN)]
    for page in _pages(reports):
        run.talk.progress(page, [])


def _resolved(run: Run, step: OpenStep) -> StepReport:
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


def _done(action: Action, operation: str, version: str) -> StepReport:
    return StepReport(operation, StepEnd.DONE, action.our_version, version)


def _is_others(run: Run, entry: Entry) -> bool:
    return entry.marks is not None and entry.marks.owner != run.order.rule


def _foreign_tags(entry: Entry) -> dict[str, str]:
    """The tags that are not ours."""
    ours = {*Marks(0, "x", "x").tags(), KEY}
    return {name: text for name, text in entry.tags.items() if name not in ours}


def _theirs(entry: Entry, now: datetime, *, deleted: bool = False) -> Theirs:
    marks = entry.marks
    return Theirs(
        name=entry.name,
        version="",
        changed_at=entry.updated_at,
        owner=marks.owner if marks else None,
        key=entry.tags.get(KEY),
        deleted=deleted,
        enabled=entry.enabled,
        expired=entry.expires_at is not None and entry.expires_at <= now,
        certificate=entry.of_certificate,
        stamp=entry.updated_at.isoformat() if now - entry.updated_at > SETTLED else "",
    )


def _ours(row: OurSecret) -> Ours:
    return Ours(row.key, row.version, row.digest, datetime.fromisoformat(row.changed_at), row.deleted, row.active, row.owner)


def _note(note: Note) -> SyncNote:
    return SyncNote(note.key, note.name, note.reason.value)


def _applied(step: HistoryStep) -> Applied:
    remembered = remembered_of(step.remembered) if step.remembered else None
    return Applied(action_of(step.action), step.our_version, step.their_version, remembered)
