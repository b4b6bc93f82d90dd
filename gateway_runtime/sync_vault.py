"""What a sync run works with: its order, the vault at a pace, and the right to act for every change."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from django.conf import settings

from gateway_runtime.frames import TaskFrame
from gateway_runtime.sync_talk import Talk
from integrations.azure.errors import (
    AzureTrouble,
    ObjectMissing,
)
from integrations.azure.keyvault import Entry, Held, Marks, SecretStore
from integrations.sync.facts import (
    DeletionBudget,
    Direction,
    Mode,
    Rule,
    Strategy,
)
from integrations.sync.words import ActionKind
from protocol.sync import OpenStep, RunOrder

TRIES, LONGEST_PAUSE = 4, 20.0
"""Attempts of a call that trying again may help, and the longest pause between them in seconds; a longer one pauses the run."""
CALLS_PER_SECOND, BURST = 100.0, 100.0
"""What a run takes of a vault's budget: a quarter of the 4,000 transactions in 10 seconds that Azure allows."""

SIGN_OF_LIFE_SECONDS = 20.0
"""Between two words to the Primary while a vault is listed and read."""

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


@dataclass(frozen=True)
class Unseen:
    """What the rule began in the vault and never saw done: digests of values by operation, versions it recovered by name."""

    writes: Mapping[str, str] = field(default_factory=dict)
    recovered: frozenset[tuple[str, str]] = frozenset()

    @staticmethod
    def of(steps: Iterable[OpenStep]) -> Unseen:
        known = list(steps)
        recoveries = [step for step in known if step.action.kind == ActionKind.RECOVER_THERE and step.their_version]
        return Unseen(
            {step.operation: step.action.digest for step in known},
            frozenset((step.action.name.lower(), step.their_version or "") for step in recoveries),
        )

    def tells_of(self, entry: Entry, digest: str) -> bool:
        """Whether the newest version is such a write: a person who copies our tags has a value of their own."""
        if (entry.name.lower(), entry.version) in self.recovered:
            return True
        written = self.writes.get(entry.marks.operation) if entry.marks else None
        return written is not None and written in ("", digest)


@dataclass(frozen=True)
class Reading:
    """What a secret of the vault was when it was read: while a list shows the same `stamp`, it is so still. Never a value."""

    stamp: str
    version: str
    digest: str
    unseen: bool


@dataclass
class Run:
    """One task's work on a run."""

    frame: TaskFrame
    talk: Talk
    order: RunOrder
    vault: SecretStore
    pace: Pace = field(default_factory=Pace)
    numbers: Counter[str] = field(default_factory=Counter)
    trouble: AzureTrouble | None = None
    """Why the vault was not seen whole: told with the run, whatever became of it."""
    rest: int = 0
    """Seconds until another task may go on with a paused run."""
    unseen: Unseen = field(default_factory=Unseen)
    ended_owners: frozenset[str] = frozenset()
    """Ownership tags that are nobody's any more."""
    readings: dict[str, Reading] = field(default_factory=dict)
    """What was read for this run before, by name in small letters."""
    newly_kept: int = 0
    """Readings of this task that the next one has to spare."""
    heard_at: float = field(default_factory=time.monotonic)

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
        """A call of the vault at its pace, tried again where that helps. Raises `AzureTrouble`: at once where the vault wants to
        be left alone for longer than a task waits (`asks_for_rest`)."""
        for attempt in range(1, TRIES + 1):
            self.pace.take()
            self.numbers["vault_calls"] += 1
            try:
                return what()
            except AzureTrouble as trouble:
                if not trouble.retrying_helps or attempt == TRIES or asks_for_rest(trouble):
                    raise
                self.numbers["vault_retries"] += 1
                first = settings.MAZEVAULT.timing.vault_retry
                time.sleep(trouble.pause_named or min(first * 2 ** (attempt - 1), LONGEST_PAUSE))
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

    def live(self) -> None:
        """Let the Primary hear of the work now and then, so that its claim does not run out. Raises `Stopped`."""
        if time.monotonic() - self.heard_at < SIGN_OF_LIFE_SECONDS:
            return
        answer = self.talk.alive()
        self.heard_at = time.monotonic()
        if not answer.go_on:
            raise Stopped(answer.why)

    def owner_in(self, entry: Entry) -> str | None:
        """Whose a secret of the vault is; None when it is nobody's."""
        owner = entry.marks.owner if entry.marks else None
        return None if owner in self.ended_owners else owner

    def is_others(self, entry: Entry) -> bool:
        return self.owner_in(entry) not in (None, self.order.rule)

    def marks(self, operation: str) -> Marks:
        return Marks(self.frame.epoch, operation, self.order.rule)


def asks_for_rest(trouble: AzureTrouble) -> bool:
    """Whether the vault named a time that no task waits for: the run goes on after it, in another task."""
    return trouble.retrying_helps and (trouble.retry_after or 0.0) > LONGEST_PAUSE


class Paused(Exception):
    """The task has read for long enough; another one goes on with what was kept of it."""


class Stopped(Exception):
    """The Primary does not let the run go on; the sentence is its own."""


class Final(Exception):
    """The vault denies access, or Entra does: nothing else is tried, and nobody else's identity."""

    def __init__(self, trouble: AzureTrouble) -> None:
        super().__init__(trouble.cause)
        self.trouble = trouble
