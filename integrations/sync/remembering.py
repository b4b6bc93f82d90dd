"""How a rule's memory grows: after each step, and by looking. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from integrations.sync.facts import Base, Remembered
from integrations.sync.plan import Action, Plan
from integrations.sync.undo import Applied
from integrations.sync.words import DELETES


def remembered_after(action: Action, our_version: int | None, their_version: str | None, base: Base) -> Base:
    """What the rule remembers once a step is done; the versions are those that both sides have now."""
    if action.kind in DELETES:
        return base.with_item(action.name, None)
    if not action.digest or our_version is None or their_version is None:
        return base
    return base.with_item(action.name, Remembered(action.key, action.name, action.digest, our_version, their_version))


def learned(base: Base, ready: Plan) -> Base:
    """What the rule remembers after it has looked: secrets that have equal values on both sides, or none any more."""
    for name in ready.forget:
        base = base.with_item(name, None)
    for item in ready.learn:
        base = base.with_item(item.name, item)
    return base


def remembered_before(base: Base, history: Iterable[Applied]) -> Base:
    """What the rule remembered before the run that was taken back."""
    for step in reversed(list(history)):
        base = base.with_item(step.action.name, step.remembered)
    return base
