"""How a project and a vault stand to each other: the facts of a plan, without anything to be done. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from integrations.sync.facts import Rule, World
from integrations.sync.pairs import Change, Pair, held_off, pair_up
from integrations.sync.plan import BROKEN_OFF, RunRefused, collisions_in
from integrations.sync.transform import TransformInvalid, parse_transform
from integrations.sync.words import Reason, Refusal


class Standing(StrEnum):
    """How the two sides of a name stand to each other."""

    IN_STEP = "in_step"
    DIFFERS = "differs"
    ONLY_HERE = "only_here"
    ONLY_THERE = "only_there"
    DELETED_HERE = "deleted_here"
    DELETED_THERE = "deleted_there"
    NOT_READ = "not_read"


@dataclass(frozen=True)
class DriftRow:
    """One line of a drift report. `held_off` says why a rule would not touch it."""

    key: str
    name: str
    standing: Standing
    held_off: Reason | None
    our_version: int | None
    their_version: str | None


@dataclass(frozen=True)
class Drift:
    """A report, and why a run of the rule would be refused. Without names or a whole list there are no rows."""

    rows: tuple[DriftRow, ...] = ()
    refusals: tuple[RunRefused, ...] = ()


def drift(world: World) -> Drift:
    """How both sides stand, from the same facts as a plan; nothing is to be done about it."""
    try:
        transform = parse_transform(world.rule.transform, world.rule.environment)
    except TransformInvalid as invalid:
        return Drift(refusals=(RunRefused(Refusal.TEMPLATE_INVALID, str(invalid)),))
    if not world.listed_all:
        return Drift(refusals=(BROKEN_OFF,))
    paired = pair_up(world, transform)
    rows = (_drift_row(pair, world.rule) for pair in paired.pairs)
    return Drift(tuple(row for row in rows if row is not None), collisions_in(paired))


def _drift_row(pair: Pair, rule: Rule) -> DriftRow | None:
    standing = _standing(pair)
    if standing is None:
        return None
    ours, theirs = pair.ours, pair.theirs
    return DriftRow(
        pair.key, pair.name, standing, held_off(pair, rule), ours.version if ours else None, theirs.version if theirs else None
    )


def _standing(pair: Pair) -> Standing | None:
    if pair.lives_here and pair.lives_there:
        if pair.their_digest is None:
            return Standing.NOT_READ
        return Standing.IN_STEP if pair.equal else Standing.DIFFERS
    if pair.lives_here:
        return Standing.DELETED_THERE if pair.change_there is Change.DELETED else Standing.ONLY_HERE
    if pair.lives_there:
        return Standing.DELETED_HERE if pair.change_here is Change.DELETED else Standing.ONLY_THERE
    return None
