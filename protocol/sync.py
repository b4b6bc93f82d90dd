"""A sync run between Primary and gateway: the order, the facts it is planned from, the plan, each step before and after it.

The gateway plans and acts, since it has the identity that reaches the vault. The Primary keeps the project, the rule's memory and
the history; it is asked before every batch of steps, and does those that write to the project itself. Values travel only with
the step that writes them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from msgspec import Meta

from protocol.messages import NO_NUL, Count, Identifier, Message
from protocol.vault_access import VaultAccess

PAGE = 200
"""Rows of one message."""
BATCH = 10
"""Steps that are announced at once: with the largest values of a vault they still fit into one message."""
LARGEST_VALUE_THERE = 25 * 1024
"""Bytes of a value in Key Vault."""
LONGEST_PAUSE = 7 * 86400
"""Seconds that a run may be put off at most, whatever a vault asks for."""
Name = Annotated[str, Meta(max_length=127, pattern=NO_NUL)]
Key = Annotated[str, Meta(max_length=255, pattern=NO_NUL)]
Word = Annotated[str, Meta(max_length=64, pattern=NO_NUL)]
Mark = Annotated[str, Meta(max_length=256, pattern=NO_NUL)]
Stamp = Annotated[str, Meta(max_length=40, pattern=NO_NUL)]
VaultVersion = Annotated[str, Meta(max_length=200, pattern=NO_NUL)]
Sentence = Annotated[str, Meta(max_length=1000, pattern=NO_NUL)]


class RunPhase(StrEnum):
    """What a run is for."""

    PREVIEW = "preview"
    APPLY = "apply"
    UNDO = "undo"
    DRIFT = "drift"


class RunEnd(StrEnum):
    """How the work on a run ended at the gateway."""

    PLANNED = "planned"
    """A preview, a drift report, or a plan that may not be done as it is; its verdict says why."""
    DONE = "done"
    PAUSED = "paused"
    """The work goes on in another task."""
    STOPPED = "stopped"
    """The Primary answered that it shall not go on; `detail` says why."""
    FAILED = "failed"


class StepEnd(StrEnum):
    DONE = "done"
    FAILED = "failed"
    OUTDATED = "outdated"
    """The world had moved, or it was announced and never done: the run plans again."""


class Listing(StrEnum):
    """The long lists of a run, told page by page."""

    OURS = "ours"
    MEMORY = "memory"
    ADOPTED = "adopted"
    AGREED = "agreed"
    OPEN = "open"
    """Announced steps of which nothing was heard since, of this run and of earlier ones in the same vault and environment."""
    UNSEEN = "unseen"
    """Announced steps that were never seen to be done: their write may still turn up in the vault."""
    ENDED_OWNERS = "ended_owners"
    """Ownership tags of this project that are nobody's any more."""
    HISTORY = "history"


class OpenRun(Message, frozen=True):
    """The gateway has claimed the task of a run and wants its order."""

    run: Identifier
    claim: Identifier
    epoch: Count


class RunOrder(Message, frozen=True):
    """Everything about a run but its lists. `target`, `environment` and what follows them are `integrations.sync.facts.Rule`.

    `remembers` is False when the rule never ran. `confirmed` names the rule as it was set when a person agreed to the steps of
    the list `agreed`; it is empty when nobody did.
    """

    hidden: ClassVar[frozenset[str]] = frozenset({"digest_key"})

    rule: Identifier
    phase: RunPhase
    access: VaultAccess
    target: Annotated[str, Meta(max_length=300)]
    environment: Key
    direction: Word
    mode: Word
    strategy: Word
    transform: Annotated[str, Meta(max_length=500)]
    deletion_count: Count
    deletion_percent: Count
    paused: bool
    remembers: bool
    memory_target: Annotated[str, Meta(max_length=300)]
    memory_environment: Key
    memory_transform: Annotated[str, Meta(max_length=500)]
    memory_direction: Word
    settled: bool
    confirmed: Word
    digest_key: Annotated[str, Meta(min_length=64, max_length=64)]


class AskRows(Message, frozen=True):
    """A page of one list, after the row that `after` names; the empty text asks for the first."""

    run: Identifier
    claim: Identifier
    epoch: Count
    listing: Listing
    after: Annotated[str, Meta(max_length=300, pattern=NO_NUL)] = ""


class OurSecret(Message, frozen=True):
    """`integrations.sync.facts.Ours`."""

    key: Key
    version: Count
    digest: Word
    changed_at: Annotated[str, Meta(max_length=40)]
    deleted: bool
    active: bool
    owner: Annotated[str, Meta(max_length=64)] | None


class SyncItem(Message, frozen=True):
    """`integrations.sync.facts.Remembered`."""

    key: Key
    name: Name
    digest: Word
    our_version: Count
    their_version: VaultVersion
    stamp: Annotated[str, Meta(max_length=40)] = ""


class SyncAction(Message, frozen=True):
    """`integrations.sync.plan.Action`."""

    kind: Word
    reason: Word
    key: Key
    name: Name
    digest: Word = ""
    our_version: Count | None = None
    their_version: VaultVersion | None = None
    our_deleted: bool = False
    their_deleted: bool = False
    to_version: VaultVersion = ""


class OpenStep(Message, frozen=True):
    """A step that was announced. `their_version` is what it was to recover; `of_this_run` is False for one of an earlier run."""

    operation: Identifier
    action: SyncAction
    their_version: VaultVersion | None = None
    of_this_run: bool = True


class HistoryStep(Message, frozen=True):
    """`integrations.sync.undo.Applied`."""

    action: SyncAction
    our_version: Count | None
    their_version: VaultVersion | None
    remembered: SyncItem | None


class Rows(Message, frozen=True):
    """A page of a list; only the field of that list is filled. `next` is empty at the end."""

    next: Annotated[str, Meta(max_length=300)] = ""
    ours: list[OurSecret] = []
    memory: list[SyncItem] = []
    words: list[Key] = []
    open: list[OpenStep] = []
    history: list[HistoryStep] = []


class SyncNote(Message, frozen=True):
    """A secret that is left alone, and why. In a drift report `reason` is how both sides stand, `held_off` the reason."""

    key: Key
    name: Name
    reason: Word
    held_off: Word = ""


class PlanPart(Message, frozen=True):
    """A part of a plan. The first one replaces what was told of this run's steps that have not begun."""

    run: Identifier
    claim: Identifier
    epoch: Count
    first: bool
    verdict: Word
    digest: Word
    setting: Word
    first_run: bool
    actions: list[SyncAction] = []
    notes: list[SyncNote] = []
    refusals: list[Annotated[list[Sentence], Meta(min_length=2, max_length=2)]] = []
    """Pairs of code and sentence."""
    learn: list[SyncItem] = []
    forget: list[Name] = []


class RunAnswer(Message, frozen=True):
    """Whether to go on."""

    go_on: bool
    why: Sentence = ""


class BegunStep(Message, frozen=True):
    """A step that is about to be done under this operation id.

    `value` only where the project is written to: the Primary does those itself, in the transaction that takes the message.
    `their_version` is the version that a recovery is to bring back. With a `code` the step cannot be done and fails, alone.
    Announcing a step again that is to be completed gives its value again.
    """

    hidden: ClassVar[frozenset[str]] = frozenset({"value"})

    operation: Identifier
    fingerprint: Word
    value: str | None = None
    their_version: VaultVersion | None = None
    code: Word = ""
    detail: Sentence = ""


class StepReport(Message, frozen=True):
    """How a step ended. The versions are those both sides have now; `code` and `detail` say why it failed."""

    operation: Identifier
    end: StepEnd
    our_version: Count | None = None
    their_version: VaultVersion | None = None
    code: Word = ""
    detail: Sentence = ""


class Progress(Message, frozen=True):
    """How the steps before ended, and which come next. Without either it says that the work goes on. Saying it again changes
    nothing."""

    run: Identifier
    claim: Identifier
    epoch: Count
    ended: list[StepReport] = []
    begin: list[BegunStep] = []


class ProgressAnswer(Message, frozen=True):
    """Whether to go on. `taken` are ends of announced steps that the Primary decided itself; `values` go to the vault."""

    hidden: ClassVar[frozenset[str]] = frozenset({"values"})

    go_on: bool
    why: Sentence = ""
    taken: list[StepReport] = []
    values: dict[Identifier, str] = {}


class EndRun(Message, frozen=True):
    """The task is over. `retry_after` in seconds is when work that goes on may be offered again."""

    run: Identifier
    claim: Identifier
    epoch: Count
    end: RunEnd
    code: Word = ""
    detail: Sentence = ""
    retry_after: Annotated[int, Meta(ge=0, le=LONGEST_PAUSE)] = 0
    numbers: Annotated[dict[Word, Count], Meta(max_length=50)] = {}
