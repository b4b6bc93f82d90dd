"""The plan of a run: which steps, in which order, for which reasons; or why there is to be none. Pure: facts in, plan out.

Nothing is done on a first run until a person has confirmed its steps. Carrying out any of the steps and planning again gives the
others, each still the very step that was confirmed, so a run that was interrupted or that failed in part is resumed by planning.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from integrations.sync.decide import Outcome, decide
from integrations.sync.facts import Confirmation, Ours, Remembered, Rule, Theirs, World
from integrations.sync.pairs import Pair, Paired, held_off, memory, pair_up
from integrations.sync.transform import TransformInvalid, parse_transform
from integrations.sync.words import DELETES, SENTENCES, ActionKind, Reason, Refusal, Verdict

_RANK = {kind: rank for rank, kind in enumerate(ActionKind)}


@dataclass(frozen=True)
class Action:
    """One step. The versions are those seen when it was planned: None where nothing was. `digest` is the value's that is to be
    there afterwards, empty where no value is written; `to_version` names an earlier version to go back to, or the one that a
    recovery must bring back."""

    kind: ActionKind
    reason: Reason
    key: str
    name: str
    digest: str = ""
    our_version: int | None = None
    their_version: str | None = None
    our_deleted: bool = False
    their_deleted: bool = False
    to_version: str = ""

    @property
    def fingerprint(self) -> str:
        """The same step against the same world has the same fingerprint; the reason does not count."""
        what = [self.kind, self.key, self.name, self.digest, self.to_version]
        return _digest([*what, self.our_version, self.our_deleted, self.their_version, self.their_deleted])

    @property
    def order(self) -> tuple[int, str]:
        return _RANK[self.kind], self.name.lower()


@dataclass(frozen=True)
class Note:
    """A secret that is left alone, and why."""

    key: str
    name: str
    reason: Reason

    @property
    def sentence(self) -> str:
        return SENTENCES[self.reason]


@dataclass(frozen=True)
class RunRefused:
    """Why the whole run is refused, in a sentence that says the fix."""

    code: Refusal
    text: str


BROKEN_OFF = RunRefused(
    Refusal.LISTING_INCOMPLETE,
    "the vault's list broke off, so what is missing in it is not known; run again when the vault answers",
)


@dataclass(frozen=True)
class Plan:
    """`proposed` is for people to look at; `actions`, `learn` and `forget` are what may be done now, empty unless it is ready.

    `digest` names the plan; `setting` names the rule as it is set, since a confirmation does not outlive a change of that.
    """

    verdict: Verdict
    proposed: tuple[Action, ...]
    notes: tuple[Note, ...]
    digest: str
    setting: str
    refusals: tuple[RunRefused, ...] = ()
    first_run: bool = False
    learn: tuple[Remembered, ...] = ()
    forget: tuple[str, ...] = ()

    @property
    def actions(self) -> tuple[Action, ...]:
        return self.proposed if self.verdict is Verdict.READY else ()

    @property
    def deletions(self) -> int:
        return sum(action.kind in DELETES for action in self.proposed)

    def counts(self) -> dict[str, int]:
        """How many steps of each kind and how many notes of each reason, for metrics and the last line of a run."""
        kinds = Counter(action.kind.value for action in self.proposed)
        return {**kinds, **{f"left_{reason.value}": count for reason, count in Counter(n.reason for n in self.notes).items()}}

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def plan(world: World) -> Plan:
    """What a run of the rule is to do now."""
    try:
        transform = parse_transform(world.rule.transform, world.rule.environment)
    except TransformInvalid as invalid:
        return _refused(world, (RunRefused(Refusal.TEMPLATE_INVALID, str(invalid)),))
    paired = pair_up(world, transform)
    if refusals := _refusals(world, paired):
        return _refused(world, refusals)
    outcomes = [(pair, decide(pair, world.rule)) for pair in paired.pairs]
    actions = tuple(sorted(_actions(outcomes), key=lambda action: action.order))
    return _with_verdict(world, actions, _notes(paired, outcomes), outcomes)


def names_to_read(world: World) -> tuple[str, ...]:
    """The names there whose value a plan needs and the listing does not tell: those with a version the rule does not know."""
    transform = parse_transform(world.rule.transform, world.rule.environment)
    return tuple(
        pair.name
        for pair in pair_up(world, transform).pairs
        if pair.lives_there and held_off(pair, world.rule) is Reason.NOT_READ and _is_of_interest(pair, world.rule)
    )


def action_on(
    kind: ActionKind, reason: Reason, key: str, name: str, digest: str, ours: Ours | None, theirs: Theirs | None, to: str = ""
) -> Action:
    """A step against what is there now."""
    (our_version, our_deleted), (their_version, their_deleted) = seen_here(ours), seen_there(theirs)
    return Action(kind, reason, key, name, digest, our_version, their_version, our_deleted, their_deleted, to)


def still_holds(action: Action, ours: Ours | None, theirs: Theirs | None, rule: Rule) -> bool:
    """Whether the world right before a step is still the one it was planned for; if not, the run plans again."""
    if theirs is not None and rule.owned_by_other(theirs.owner):
        return False
    here, there = (action.our_version, action.our_deleted), (action.their_version, action.their_deleted)
    return (here, there) == (seen_here(ours), seen_there(theirs))


def seen_here(ours: Ours | None) -> tuple[int | None, bool]:
    return (None, False) if ours is None else (ours.version, ours.deleted)


def seen_there(theirs: Theirs | None) -> tuple[str | None, bool]:
    return (None, False) if theirs is None else (theirs.version, theirs.deleted)


def _refusals(world: World, paired: Paired) -> tuple[RunRefused, ...]:
    broken_off = () if world.listed_all else (BROKEN_OFF,)
    return (*broken_off, *collisions_in(paired))


def collisions_in(paired: Paired) -> tuple[RunRefused, ...]:
    """Keys that would get one name."""
    return tuple(
        RunRefused(
            Refusal.NAME_COLLISION,
            f"key: {' and '.join(keys)} would all get the name {name!r} in the vault; rename all but one",
        )
        for name, keys in paired.collisions
    )


def _refused(world: World, refusals: tuple[RunRefused, ...]) -> Plan:
    setting = setting_of(world.rule)
    return Plan(Verdict.REFUSED, (), (), plan_digest(setting, ()), setting, refusals, first_run=not _is_settled(world))


def _actions(outcomes: Iterable[tuple[Pair, Outcome]]) -> Iterable[Action]:
    for pair, outcome in outcomes:
        for kind, reason in outcome.steps:
            yield action_on(kind, reason, pair.key, pair.name, _digest_after(kind, pair), pair.ours, pair.theirs)


def _digest_after(kind: ActionKind, pair: Pair) -> str:
    if kind in (ActionKind.CREATE_THERE, ActionKind.UPDATE_THERE, ActionKind.RECOVER_THERE):
        return pair.ours.digest if pair.ours else ""
    if kind in (ActionKind.CREATE_HERE, ActionKind.UPDATE_HERE, ActionKind.RESTORE_HERE):
        return pair.their_digest or ""
    return ""


def _notes(paired: Paired, outcomes: Iterable[tuple[Pair, Outcome]]) -> tuple[Note, ...]:
    notes = [Note(pair.key, pair.name, outcome.left) for pair, outcome in outcomes if outcome.left]
    notes += [Note(each.key, "", Reason.NAME_INVALID) for each in paired.unnamed]
    notes += [Note(each.key or "", each.name, Reason.LEFT_BEHIND) for each in paired.left_behind]
    return tuple(sorted(notes, key=lambda note: (note.name.lower(), note.key)))


def _with_verdict(
    world: World, actions: tuple[Action, ...], notes: tuple[Note, ...], outcomes: list[tuple[Pair, Outcome]]
) -> Plan:
    setting = setting_of(world.rule)
    digest = plan_digest(setting, actions)
    refusals = _over_budget(world, actions)
    verdict = Verdict.REFUSED if refusals else _verdict(world, setting, actions)
    if verdict is not Verdict.READY:
        return Plan(verdict, actions, notes, digest, setting, refusals, not _is_settled(world))
    learn = tuple(outcome.learn for _, outcome in outcomes if outcome.learn)
    forget = tuple(pair.name for pair, outcome in outcomes if outcome.forget)
    return Plan(verdict, actions, notes, digest, setting, (), not _is_settled(world), learn, forget)


def _over_budget(world: World, actions: Iterable[Action]) -> tuple[RunRefused, ...]:
    deletions, known = sum(action.kind in DELETES for action in actions), len(memory(world).items)
    budget = world.rule.budget
    if not deletions or budget.allows(deletions, known):
        return ()
    text = (
        f"{deletions} of {known} known secrets would be deleted; the rule allows {budget.count} and {budget.percent} percent. "
        "Look at the preview; if it is right, raise the budget for one run"
    )
    return (RunRefused(Refusal.DELETION_BUDGET, text),)


def _verdict(world: World, setting: str, actions: Iterable[Action]) -> Verdict:
    if world.rule.paused:
        return Verdict.PAUSED
    return Verdict.READY if _is_settled(world) else confirmed_verdict(world.confirmed, setting, actions)


def confirmed_verdict(confirmed: Confirmation | None, setting: str, actions: Iterable[Action]) -> Verdict:
    """Whether a person agreed to every one of these steps. What else they agreed to is done, or no longer called for."""
    if confirmed is None:
        return Verdict.NEEDS_CONFIRMATION
    agreed = confirmed.setting == setting and all(action.fingerprint in confirmed.steps for action in actions)
    return Verdict.READY if agreed else Verdict.CONFIRMATION_STALE


def _is_settled(world: World) -> bool:
    base = memory(world)
    return base.settled and base.direction is world.rule.direction


def setting_of(rule: Rule) -> str:
    """Names the rule, its vault, its names and its direction: a plan made under other ones is another plan."""
    return _digest([rule.id, rule.target, rule.transform, rule.environment, rule.direction])


def plan_digest(setting: str, actions: Iterable[Action]) -> str:
    """Names a plan, so that a person can say which one they looked at."""
    return _digest([setting, *(action.fingerprint for action in actions)])


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _is_of_interest(pair: Pair, rule: Rule) -> bool:
    return rule.writes_here or pair.ours is not None or pair.base is not None
