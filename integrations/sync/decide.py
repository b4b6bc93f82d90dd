"""What becomes of one pair: the three-way decision. Pure.

Base is what both sides had when the rule last looked. A side that moved since is carried to the other if the rule's direction
allows it; if both moved, the strategy decides; nothing is deleted or overwritten that the rule does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from integrations.sync.facts import Mode, Remembered, Rule, Strategy
from integrations.sync.pairs import Change, Pair, held_off
from integrations.sync.words import DELETES, OVERWRITES, WRITES_HERE, ActionKind, Reason


class Side(StrEnum):
    """The side whose state is carried to the other."""

    OURS = "ours"
    THEIRS = "theirs"


@dataclass(frozen=True)
class Outcome:
    """`steps` to take, or `left` alone for a reason; `learn` and `forget` change only what the rule remembers."""

    steps: tuple[tuple[ActionKind, Reason], ...] = ()
    left: Reason | None = None
    learn: Remembered | None = None
    forget: bool = False


NOTHING = Outcome()
MOVED = frozenset({Change.CHANGED, Change.DELETED})
LOST = frozenset({Change.DELETED, Change.ABSENT})
MOVED_REASON = {
    (Side.OURS, Change.CHANGED): Reason.CHANGED_HERE,
    (Side.OURS, Change.DELETED): Reason.DELETED_HERE,
    (Side.THEIRS, Change.CHANGED): Reason.CHANGED_THERE,
    (Side.THEIRS, Change.DELETED): Reason.DELETED_THERE,
}
Led = tuple[Side | None, Reason]


def decide(pair: Pair, rule: Rule) -> Outcome:
    """The outcome for one pair; always the same for the same facts."""
    if pair.change_here in LOST and pair.change_there in LOST:
        return Outcome(forget=True) if pair.base else NOTHING
    if pair.base is None and not _concerns(pair, rule):
        return NOTHING
    if (reason := held_off(pair, rule)) is not None:
        return Outcome(left=reason)
    if pair.equal:
        return Outcome(steps=_claim(pair, rule), learn=_news(pair))
    side, reason = _leader(pair, rule)
    return Outcome(left=reason) if side is None else _carried(side, reason, pair, rule)


def _concerns(pair: Pair, rule: Rule) -> bool:
    """What only the following side has is none of a one-way rule's business."""
    if pair.lives_here and pair.lives_there:
        return True
    return rule.writes_there if pair.lives_here else rule.writes_here


def _news(pair: Pair) -> Remembered | None:
    """What to remember of a pair with equal values, None when it is remembered already."""
    if pair.ours is None or pair.theirs is None:
        return None
    found = Remembered(pair.key, pair.theirs.name, pair.ours.digest, pair.ours.version, pair.theirs.version, pair.theirs.stamp)
    return None if found == pair.base else found


def _leader(pair: Pair, rule: Rule) -> Led:
    if (led := _after_our_own(pair, rule)) is not None:
        return led
    if pair.base is None:
        return _first_contact(pair, rule)
    here, there = pair.change_here, pair.change_there
    if here in MOVED and there in MOVED:
        return _contested(pair, rule)
    if here in MOVED:
        return _followed(Side.OURS, MOVED_REASON[Side.OURS, here], pair, rule)
    if there in MOVED:
        return _followed(Side.THEIRS, MOVED_REASON[Side.THEIRS, there], pair, rule)
    return _missing(pair, rule)


def _after_our_own(pair: Pair, rule: Rule) -> Led | None:
    """What is there is the rule's own unseen doing and nobody's change, so only our side can have moved. None when it is not."""
    if pair.theirs is None or not pair.theirs.unseen or not pair.lives_there or not _may_lead(Side.OURS, rule):
        return None
    if pair.change_here is not Change.ABSENT:
        return Side.OURS, MOVED_REASON.get((Side.OURS, pair.change_here), Reason.OVERTAKEN)
    return _missing(pair, rule) if pair.base is not None else None


def _first_contact(pair: Pair, rule: Rule) -> Led:
    """The rule never saw this name: it may add where there is nothing; what is there already is contested.

    Unless one side still has what the rule itself wrote there, when its memory of it was lost: then only the other side moved.
    """
    if pair.lives_here and not pair.lives_there:
        return Side.OURS, Reason.NEW_HERE
    if pair.ours is None:
        return Side.THEIRS, Reason.NEW_THERE
    side = _untouched(pair, rule)
    return (side, MOVED_REASON[side, Change.CHANGED]) if side and _may_lead(side, rule) else _contested(pair, rule)


def _untouched(pair: Pair, rule: Rule) -> Side | None:
    """The side that moved, when the other one is exactly as this rule made it."""
    if pair.ours is None or pair.theirs is None or not (pair.lives_here and pair.lives_there):
        return None
    made_here, made_there = pair.ours.owner == rule.id, pair.theirs.owner == rule.id
    if made_here == made_there:
        return None
    return Side.OURS if made_there else Side.THEIRS


def _followed(side: Side, reason: Reason, pair: Pair, rule: Rule) -> Led:
    """One side moved. Carried if the direction allows it; otherwise it is drift, which only a full sync repairs."""
    if _may_lead(side, rule):
        return side, reason
    if rule.mode is Mode.FULL_SYNC:
        return _contested(pair, rule)
    return None, Reason.DRIFTED_HERE if side is Side.OURS else Reason.DRIFTED_THERE


def _missing(pair: Pair, rule: Rule) -> Led:
    """Nothing moved, but one side has no trace of it."""
    lost_here = pair.change_here is Change.ABSENT
    side = Side.THEIRS if lost_here else Side.OURS
    if rule.mode is Mode.FULL_SYNC and _may_lead(side, rule):
        return side, Reason.MISSING_HERE if lost_here else Reason.MISSING_THERE
    return None, Reason.ABSENT_HERE if lost_here else Reason.ABSENT_THERE


def _contested(pair: Pair, rule: Rule) -> Led:
    if pair.change_here is Change.ABSENT:
        return None, Reason.ABSENT_HERE
    if pair.change_there is Change.ABSENT:
        return None, Reason.ABSENT_THERE
    side, reason = _by_strategy(pair, rule)
    if side is not None and not _may_lead(side, rule):
        return None, Reason.KEPT_HERE if side is Side.OURS else Reason.KEPT_THERE
    return side, reason


def _by_strategy(pair: Pair, rule: Rule) -> Led:
    ours, theirs = (Side.OURS, Reason.OURS_WON), (Side.THEIRS, Reason.THEIRS_WON)
    if rule.strategy is Strategy.MAZEVAULT_WINS:
        return ours
    if rule.strategy is Strategy.EXTERNAL_WINS:
        return theirs
    if rule.strategy is Strategy.MANUAL:
        return None, Reason.CONFLICT
    here = pair.ours.changed_at if pair.ours else None
    there = pair.theirs.changed_at if pair.theirs else None
    if here is None or there is None or here == there:
        return None, Reason.SAME_MOMENT
    return ours if here > there else theirs


def _may_lead(side: Side, rule: Rule) -> bool:
    return rule.writes_there if side is Side.OURS else rule.writes_here


def _carried(side: Side, reason: Reason, pair: Pair, rule: Rule) -> Outcome:
    kind = _kind_there(pair) if side is Side.OURS else _kind_here(pair)
    blocked = _blocked(kind, pair, rule)
    return Outcome(left=blocked) if blocked else Outcome(steps=((kind, reason),))


def _kind_there(pair: Pair) -> ActionKind:
    if not pair.lives_here:
        return ActionKind.DELETE_THERE
    if pair.theirs is None:
        return ActionKind.CREATE_THERE
    return ActionKind.RECOVER_THERE if pair.theirs.deleted else ActionKind.UPDATE_THERE


def _kind_here(pair: Pair) -> ActionKind:
    if not pair.lives_there:
        return ActionKind.DELETE_HERE
    if pair.ours is None:
        return ActionKind.CREATE_HERE
    return ActionKind.RESTORE_HERE if pair.ours.deleted else ActionKind.UPDATE_HERE


def _blocked(kind: ActionKind, pair: Pair, rule: Rule) -> Reason | None:
    """What forbids a step although the decision fell for it."""
    made_by_rule = pair.theirs is not None and pair.theirs.owner == rule.id
    if kind in DELETES and pair.base is None:
        return Reason.NOT_KNOWN
    if kind is ActionKind.DELETE_THERE and not made_by_rule and not rule.has_adopted(pair.name):
        return Reason.NOT_OWNED
    if kind in WRITES_HERE:
        if pair.ours is not None and rule.owned_by_other(pair.ours.owner):
            return Reason.KEY_OWNED_BY_OTHER
        made_by_rule = pair.ours is not None and pair.ours.owner == rule.id
    if kind in OVERWRITES and pair.base is None and not made_by_rule and not rule.has_adopted(pair.name):
        return Reason.NOT_ADOPTED
    return None


def _claim(pair: Pair, rule: Rule) -> tuple[tuple[ActionKind, Reason], ...]:
    """An adopted name gets the rule's tag once both sides agree; a write there sets the tag anyway.

    Never while the sides are apart: the tag says that what is there is the rule's, so that only the other side can have moved.
    """
    untagged = pair.lives_there and pair.theirs is not None and pair.theirs.owner is None
    wanted = untagged and rule.writes_there and rule.has_adopted(pair.name)
    return ((ActionKind.CLAIM_THERE, Reason.ADOPTED),) if wanted else ()
