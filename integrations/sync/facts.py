"""What a plan is made from: the rule, what it remembers, the project's secrets, the vault's secrets. Never a value.

"Here" is the project in MazeVault, "there" is the outside vault. A value is known by its keyed digest only: the digests of both
sides are made with the same key by whoever gathers the facts, so equal values have equal digests and nothing can be guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cached_property


class Direction(StrEnum):
    PULL = "pull"
    PUSH = "push"
    BIDIRECTIONAL = "bidirectional"


class Mode(StrEnum):
    """Incremental carries changes; a full sync also repairs what was changed or lost on the side that follows."""

    INCREMENTAL = "incremental"
    FULL_SYNC = "full_sync"


class Strategy(StrEnum):
    """Who wins when both sides changed. In the words of the existing clients."""

    MANUAL = "manual_resolution"
    MAZEVAULT_WINS = "mazevault_wins"
    EXTERNAL_WINS = "external_wins"
    MOST_RECENT_WINS = "most_recent_wins"


@dataclass(frozen=True)
class DeletionBudget:
    """How many deletions one run may do: at most `count`, and at most `percent` of what the rule knows, but one is always within
    the percentage. More than that stops the run before anything is done."""

    count: int = 10
    percent: int = 10

    def allows(self, deletions: int, known: int) -> bool:
        return deletions <= min(self.count, max(1, known * self.percent // 100))


@dataclass(frozen=True)
class Rule:
    """`target` names the vault. `adopted` are names there that a person put under this rule although it did not make them."""

    id: str
    target: str
    direction: Direction = Direction.PULL
    mode: Mode = Mode.INCREMENTAL
    strategy: Strategy = Strategy.MANUAL
    transform: str = ""
    environment: str = ""
    budget: DeletionBudget = field(default_factory=DeletionBudget)
    adopted: frozenset[str] = frozenset()
    paused: bool = False

    @property
    def writes_there(self) -> bool:
        return self.direction is not Direction.PULL

    @property
    def writes_here(self) -> bool:
        return self.direction is not Direction.PUSH

    def has_adopted(self, name: str) -> bool:
        return name.lower() in self._adopted_folded

    @cached_property
    def _adopted_folded(self) -> frozenset[str]:
        return frozenset(name.lower() for name in self.adopted)

    def owned_by_other(self, owner: str | None) -> bool:
        return owner not in (None, self.id)


@dataclass(frozen=True)
class Remembered:
    """A secret that both sides had with the same value when the rule last looked, and under which versions.

    `stamp` is when the vault's secret was last changed, if that was long enough before the look: while a listing shows the same,
    nothing changed there and the value needs not be read. Empty when it was too fresh to tell.
    """

    key: str
    name: str
    digest: str
    our_version: int
    their_version: str
    stamp: str = ""


@dataclass(frozen=True)
class Base:
    """What a rule remembers. `settled` once its confirmed first run is over; another target, naming or direction starts anew."""

    target: str
    transform: str = ""
    environment: str = ""
    direction: Direction = Direction.PULL
    items: tuple[Remembered, ...] = ()
    settled: bool = False

    @staticmethod
    def empty(rule: Rule) -> Base:
        return Base(rule.target, rule.transform, rule.environment, rule.direction)

    def speaks_of(self, rule: Rule) -> bool:
        """False when it remembers another vault or other names: then it says nothing about what is there now."""
        return (self.target, self.transform, self.environment) == (rule.target, rule.transform, rule.environment)

    def with_item(self, name: str, item: Remembered | None) -> Base:
        kept = tuple(other for other in self.items if other.name.lower() != name.lower())
        return replace(self, items=kept if item is None else (*kept, item))


@dataclass(frozen=True)
class Ours:
    """A secret of the project. `deleted` is a tombstone. `owner` is the rule that last wrote it here, None after a person did.
    `active` is False for archived ones."""

    key: str
    version: int
    digest: str
    changed_at: datetime | None = None
    deleted: bool = False
    active: bool = True
    owner: str | None = None


@dataclass(frozen=True)
class Theirs:
    """A secret of the vault. `deleted` when it stands in the list of soft-deleted ones.

    `version` is empty then, and while nobody has read it. `digest` is None while nobody has read the value. `owner` and `key`
    come from the tags of the current version, which vanish when a person sets a new one. `certificate` when the vault made it
    for a certificate object. `unseen` when its newest version is a write of this very rule that was never seen to be done, or
    what the rule recovered and did not get to set. `buried_version` is the last version of a soft-deleted one, where somebody
    asked for it.
    """

    name: str
    version: str
    digest: str | None = None
    changed_at: datetime | None = None
    owner: str | None = None
    key: str | None = None
    deleted: bool = False
    enabled: bool = True
    expired: bool = False
    certificate: bool = False
    stamp: str = ""
    buried_version: str = ""
    unseen: bool = False


@dataclass(frozen=True)
class Confirmation:
    """What a person agreed to: steps by their fingerprints, of a rule that was set so (`Plan.setting`)."""

    setting: str
    steps: frozenset[str]


@dataclass(frozen=True)
class World:
    """Everything a plan is made from. `listed_all` is False when a listing broke off."""

    rule: Rule
    ours: tuple[Ours, ...] = ()
    theirs: tuple[Theirs, ...] = ()
    base: Base | None = None
    listed_all: bool = True
    confirmed: Confirmation | None = None
