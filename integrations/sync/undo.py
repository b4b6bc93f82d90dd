"""Taking back what a run did, as a plan of its own: confirmed like a first run, and only where nothing changed since. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from integrations.sync.facts import Confirmation, Ours, Remembered, Rule, Theirs
from integrations.sync.plan import (
    BROKEN_OFF,
    Action,
    Note,
    Plan,
    action_on,
    confirmed_verdict,
    plan_digest,
    setting_of,
)
from integrations.sync.words import ActionKind, Reason, Verdict

A = ActionKind


@dataclass(frozen=True)
class Applied:
    """One step of a run's history: what it was, the versions it left behind, and what the rule remembered before it."""

    action: Action
    our_version: int | None
    their_version: str | None
    remembered: Remembered | None = None


REVERSED: Mapping[ActionKind, ActionKind] = {
    A.CLAIM_THERE: A.RELEASE_THERE,
    A.CREATE_THERE: A.DELETE_THERE,
    A.RECOVER_THERE: A.DELETE_THERE,
    A.UPDATE_THERE: A.ROLLBACK_THERE,
    A.DELETE_THERE: A.RECOVER_THERE,
    A.CREATE_HERE: A.DELETE_HERE,
    A.RESTORE_HERE: A.DELETE_HERE,
    A.UPDATE_HERE: A.ROLLBACK_HERE,
    A.DELETE_HERE: A.ROLLBACK_HERE,
}


def undo(
    rule: Rule, history: Iterable[Applied], ours: Iterable[Ours], theirs: Iterable[Theirs], confirmed: Confirmation | None = None,
    *, listed_all: bool = True,
) -> Plan:  # fmt: skip
    """The plan that takes a run back, newest step first. The rule must be paused before, or its next run does it all again.

    What is taken back already is no longer as that run left it, so it is among the notes and not done twice. A list that broke
    off says nothing about what is still there, so nothing is planned from it.
    """
    setting = f"undo {setting_of(rule)}"
    if not listed_all:
        return Plan(Verdict.REFUSED, (), (), plan_digest(setting, ()), setting, (BROKEN_OFF,))
    here = {secret.key: secret for secret in ours}
    there = {secret.name.lower(): secret for secret in theirs}
    actions, notes = list[Action](), list[Note]()
    for step in reversed(list(history)):
        found = _reversed(step, here.get(step.action.key), there.get(step.action.name.lower()), rule)
        if isinstance(found, Action):
            actions.append(found)
        else:
            notes.append(Note(step.action.key, step.action.name, found))
    actions.sort(key=lambda action: action.kind is not A.RELEASE_THERE)  # a tag comes off before a later step makes a new version
    digest = plan_digest(setting, actions)
    return Plan(confirmed_verdict(confirmed, setting, actions), tuple(actions), tuple(notes), digest, setting)


def _reversed(step: Applied, ours: Ours | None, theirs: Theirs | None, rule: Rule) -> Action | Reason:
    kind = REVERSED[step.action.kind]
    refused = _refused_here(step, ours, rule) if kind in (A.DELETE_HERE, A.ROLLBACK_HERE) else _refused_there(step, theirs, rule)
    if refused is not None:
        return refused
    key, name, digest = step.action.key, step.action.name, _digest_after(kind, step)
    return action_on(kind, Reason.UNDONE, key, name, digest, ours, theirs, _to_version(kind, step))


def _refused_here(step: Applied, ours: Ours | None, rule: Rule) -> Reason | None:
    """Versions here are small numbers, which another secret of the same key has too: what the run wrote is the rule's, with the
    value it wrote."""
    deleted = step.action.kind is A.DELETE_HERE
    if ours is None or ours.version != step.our_version or ours.deleted is not deleted:
        return Reason.CHANGED_SINCE
    if rule.owned_by_other(ours.owner):
        return Reason.KEY_OWNED_BY_OTHER
    written = (ours.owner, ours.digest) == (rule.id, step.action.digest)
    return None if deleted or written else Reason.CHANGED_SINCE


def _refused_there(step: Applied, theirs: Theirs | None, rule: Rule) -> Reason | None:
    if theirs is None:
        return Reason.GONE_FOR_GOOD
    if rule.owned_by_other(theirs.owner):
        return Reason.OWNED_BY_OTHER
    if step.action.kind is A.DELETE_THERE:
        same = theirs.deleted and theirs.buried_version in ("", step.action.their_version)
    elif not theirs.deleted and not theirs.version:
        return Reason.NOT_READ if theirs.enabled else Reason.DISABLED_THERE
    else:
        same = not theirs.deleted and theirs.version == step.their_version
    return None if same else Reason.CHANGED_SINCE


def _digest_after(kind: ActionKind, step: Applied) -> str:
    """After a recovery the value is the one the rule remembered, so it needs not be set again."""
    return step.remembered.digest if kind is A.RECOVER_THERE and step.remembered else ""


def _to_version(kind: ActionKind, step: Applied) -> str:
    if kind in (A.ROLLBACK_THERE, A.RECOVER_THERE):
        return step.action.their_version or ""
    return str(step.action.our_version) if kind is A.ROLLBACK_HERE else ""
