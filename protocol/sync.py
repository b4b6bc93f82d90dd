"""A sync run between Primary and gateway: the order, what the rule remembers, the plan, each step before and after it is done.

The gateway plans and acts, since it has the identity that reaches the vault. The Primary keeps the rule, its memory and the
history, and is asked before every batch of steps. Values travel only in steps that write to the project.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from protocol.messages import Count, Identifier, Message

PAGE = 200
"""Items, lines or history steps of one message."""
BATCH = 20
"""Steps that are announced at once."""
Name = Annotated[str, Meta(max_length=255)]
Digest = Annotated[str, Meta(max_length=64)]
VaultVersion = Annotated[str, Meta(max_length=200)]
Sentence = Annotated[str, Meta(max_length=1000)]


class RunPhase(StrEnum):
    """What is asked of the gateway."""

    PREVIEW = "preview"
    APPLY = "apply"
    UNDO = "undo"
    DRIFT = "drift"


class RunEnd(StrEnum):
    """How a run ended at the gateway."""

    PLANNED = "planned"
    """A preview, a drift report, or a plan that may not be done as it is; its verdict says why."""
    DONE = "done"
    PAUSED = "paused"
    """The work goes on in the next task: there is more to do than one task may last."""
    STOPPED = "stopped"
    """The Primary answered that the run shall not go on."""
    FAILED = "failed"


class StepState(StrEnum):
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """It was sent and not answered; the next task finds out by its operation tag."""
    OUTDATED = "outdated"
    """The world had moved: nothing was done and the run plans again."""


class VaultAccess(Message, frozen=True):
    """How a gateway reaches one vault of its environment. `auth_method` is one of `integrations.azure.cloud.AuthMethod`."""

    hidden: ClassVar[frozenset[str]] = frozenset({"client_secret"})

    integration: Identifier
    vault_url: Annotated[str, Meta(max_length=300)]
    auth_method: Annotated[str, Meta(max_length=32)]
    tenant_id: Annotated[str, Meta(max_length=64)] = ""
    client_id: Annotated[str, Meta(max_length=64)] = ""
    client_secret: Annotated[str, Meta(max_length=4096)] = ""
    vault_id: Annotated[str, Meta(max_length=400)] = ""


class AskAccess(Message, frozen=True):
    """Ask for the way to the vault of an integration; refused for one of another gateway environment (I13)."""

    integration: Identifier
    epoch: Count


class OpenRun(Message, frozen=True):
    """The gateway has claimed the task of a run and wants its order."""

    run: Identifier
    epoch: Count


class SyncItem(Message, frozen=True):
    """`integrations.sync.facts.Remembered`."""

    key: Name
    name: Name
    digest: Digest
    our_version: Count
    their_version: VaultVersion


class SyncAction(Message, frozen=True):
    """`integrations.sync.plan.Action`."""

    kind: Annotated[str, Meta(max_length=32)]
    reason: Annotated[str, Meta(max_length=32)]
    key: Name
    name: Name
    digest: Digest = ""
    our_version: int | None = None
    their_version: VaultVersion | None = None
    our_deleted: bool = False
    their_deleted: bool = False
    to_version: VaultVersion = ""


class BegunStep(Message, frozen=True):
    """A step that was announced; `operation` is the tag of its write in the vault. `remembered` is what the rule knew before it.

    `value` only for steps that write to the project: the Primary does those itself, in the transaction that takes the message.
    """

    hidden: ClassVar[frozenset[str]] = frozenset({"value"})

    operation: Identifier
    fingerprint: Digest
    action: SyncAction
    remembered: SyncItem | None = None
    value: str | None = None


class StepReport(Message, frozen=True):
    """How a step ended. The versions are those both sides have now; `code` and `detail` say why it failed."""

    operation: Identifier
    state: StepState
    our_version: int | None = None
    their_version: VaultVersion | None = None
    code: Annotated[str, Meta(max_length=64)] = ""
    detail: Sentence = ""


class RunOrder(Message, frozen=True):
    """Everything about a run but its long lists, which are asked for page by page.

    `target` names the vault in the rule's memory; `remembers` is False when the rule never ran. `confirmed` is empty when nobody
    confirmed. `done` are the fingerprints of steps this run has carried out, `open` the steps announced and not reported.
    `feed_head` is where the change feed stood when the order was made: the copy must have come so far before it is planned from.
    """

    hidden: ClassVar[frozenset[str]] = frozenset({"digest_key"})

    run: Identifier
    rule: Identifier
    phase: RunPhase
    access: VaultAccess
    project: Identifier
    environment: Identifier
    environment_name: Name
    target: Annotated[str, Meta(max_length=300)]
    direction: str
    mode: str
    strategy: str
    transform: Annotated[str, Meta(max_length=500)]
    budget_count: Count
    budget_percent: Count
    paused: bool
    adopted: list[Name]
    remembers: bool
    memory_target: str
    memory_transform: str
    memory_environment: str
    memory_direction: str
    settled: bool
    confirmed: Digest
    done: list[Digest]
    open: list[BegunStep]
    digest_key: Annotated[str, Meta(max_length=128)]
    feed_head: Count


class AskItems(Message, frozen=True):
    """A page of what the rule remembers, by name, after `after`."""

    run: Identifier
    after: Annotated[str, Meta(max_length=255)] = ""


class Items(Message, frozen=True):
    items: list[SyncItem]
    more: bool


class AskHistory(Message, frozen=True):
    """A page of the steps of the run that an undo takes back, in their order, after position `after`."""

    run: Identifier
    after: Count = 0


class HistoryStep(Message, frozen=True):
    """`integrations.sync.undo.Applied`."""

    position: Count
    action: SyncAction
    our_version: int | None
    their_version: VaultVersion | None
    remembered: SyncItem | None


class History(Message, frozen=True):
    steps: list[HistoryStep]
    more: bool


class SyncNote(Message, frozen=True):
    """A secret that is left alone, with the reason's word. In a drift report `reason` is the standing, `held_off` the reason."""

    key: Name
    name: Name
    reason: Annotated[str, Meta(max_length=32)]
    held_off: Annotated[str, Meta(max_length=32)] = ""


class PlanPart(Message, frozen=True):
    """A part of a plan. The first one replaces whatever was told of this run's plan before; the verdict comes with each."""

    run: Identifier
    epoch: Count
    first: bool
    verdict: Annotated[str, Meta(max_length=32)]
    digest: Digest
    first_run: bool
    actions: list[SyncAction]
    notes: list[SyncNote]
    refusals: list[Annotated[list[Sentence], Meta(min_length=2, max_length=2)]]
    """Pairs of code and sentence."""


class RunAnswer(Message, frozen=True):
    """Whether to go on. `taken` are the ends of announced steps that the Primary did itself."""

    go_on: bool
    why: Sentence = ""
    taken: list[StepReport] = []


class Progress(Message, frozen=True):
    """How the announced steps ended and which come next. Repeating a message changes nothing."""

    run: Identifier
    epoch: Count
    ended: list[StepReport]
    begin: list[BegunStep]
    learned: list[SyncItem] = []
    forgotten: list[Name] = []


class EndRun(Message, frozen=True):
    """The task is over. `settled`: a confirmed first run has come to its end, so the rule's memory counts from now on."""

    run: Identifier
    epoch: Count
    end: RunEnd
    settled: bool = False
    code: Annotated[str, Meta(max_length=64)] = ""
    detail: Sentence = ""
    facts: dict[str, Any] = {}
    """Numbers for the history: secrets on both sides, calls of the vault, seconds."""
