"""A Primary in memory, as a gateway sees it through its channel, and a channel to the real one without a socket.

`FakePrimary` keeps to the protocol: signatures are checked, writes are settled in the order of their secret, answers can be lost.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from common import outside
from gateway_runtime.client import PrimaryRefused, PrimaryUnreachable
from protocol import paths
from protocol.messages import Acknowledged, Message, decode, encode
from protocol.replica import AskChanges, Changes, ReplicaSecret, ReplicaVersion
from protocol.vocabulary import WriteOutcome
from protocol.writes import QueuedWrite, WriteBatch, WriteHead, WriteReceipt, WriteReceipts, check
from tests.fakes.gateway import FakeGateway


@dataclass
class FakePrimary:
    """Stands where `gateway_runtime.client.Channel` stands."""

    key: Ed25519PublicKey
    generation: str = field(default_factory=lambda: str(uuid.uuid4()))
    versions: dict[str, int] = field(default_factory=lambda: defaultdict(lambda: 1))
    """Version of each secret; a gateway's copy begins with 1."""
    records: list[tuple[int, Message]] = field(default_factory=list)
    """What the change feed holds: position and record."""
    applied: list[tuple[str, str, str | None]] = field(default_factory=list)
    """(secret, write, value) in the order of application."""
    received: dict[str, tuple[QueuedWrite, WriteHead, WriteReceipt]] = field(default_factory=dict)
    batches: list[WriteBatch] = field(default_factory=list)
    down: bool = False
    lose_answers: int = 0
    hold: bool = False
    """Take writes and leave them unsettled."""
    refuse: tuple[str, str] | None = None
    """Code and sentence for callers who wait."""
    refuse_message: tuple[int, str] | None = None
    """Status and code for every message."""
    poison: str = ""
    """A secret whose writes make a whole message malformed."""
    silent: str = ""
    """A secret whose writes get no receipt."""
    no_changes: bool = False
    """The change feed does not answer, so that the copy lags."""
    head: int | None = None
    """Claim that the feed ends here."""
    epoch: int = 0
    tells: bool = False
    """Every applied update is in the change feed at once, as it is at the real one."""
    told: int = 0
    """The last position of the feed."""

    def call(self, path: str, message: Message, kind: type[Message], *, timeout: float) -> Any:
        outside.begins("the Primary")
        if self.down:
            raise PrimaryUnreachable("no answer")
        if self.no_changes and path == paths.CHANGES:
            raise PrimaryUnreachable("no answer")
        if self.refuse_message:
            raise PrimaryRefused(*self.refuse_message, "refused for the test")
        answer = self._answer(path, decode(encode(message), type(message)))
        if self.lose_answers:
            self.lose_answers -= 1
            raise PrimaryUnreachable("the answer was lost")
        return decode(encode(answer), kind)

    def _answer(self, path: str, message: Any) -> Message:
        if path == paths.WRITES:
            return self._take(message)
        if path == paths.CHANGES:
            return self._give(message)
        return Acknowledged()

    def settle_held(self) -> None:
        """Everything that can be settled is."""
        for write, head, receipt in sorted(self.received.values(), key=lambda one: one[1].sequence):
            if receipt.outcome is WriteOutcome.RECEIVED:
                self._settle(write, head, waits=False)

    def outcome(self, write: object) -> WriteOutcome:
        return self.received[str(write)][2].outcome

    def _take(self, batch: WriteBatch) -> WriteReceipts:
        self.batches.append(batch)
        checked = [(write, *check(write, self.key)) for write in batch.writes]
        if any(head.secret == self.poison for _, head, _ in checked):
            raise PrimaryRefused(400, "INVALID_FORMAT", "the sealed body does not fit")
        for write, head, _ in checked:
            if head.secret == self.silent:
                self._store(write, head, WriteOutcome.RECEIVED)
                continue
            self._take_one(write, head, batch.apply_now and not write.promised)
        asked = [self.received[one][2] if one in self.received else WriteReceipt(one, WriteOutcome.QUEUED) for one in batch.ask]
        receipts = [*(self.received[head.id][2] for _, head, _ in checked), *asked]
        return WriteReceipts([one for one in receipts if one.id not in self._unanswered()])

    def _unanswered(self) -> set[str]:
        return {head.id for _, head, _ in self.received.values() if head.secret == self.silent}

    def _take_one(self, write: QueuedWrite, head: WriteHead, waits: bool) -> None:
        known = self.received.get(head.id)
        if known and known[2].outcome is not WriteOutcome.REFUSED:
            assert known[0].head == write.head, "an id came with another head"
            return
        if known and not write.promised:
            return
        assert not any(
            (other.generation, other.sequence) == (head.generation, head.sequence) and other.id != head.id
            for _, other, _ in self.received.values()
        ), "a sequence number came twice"
        self._store(write, head, WriteOutcome.RECEIVED)
        if not self.hold:
            self._settle(write, head, waits)

    def _settle(self, write: QueuedWrite, head: WriteHead, waits: bool) -> None:
        previous = self.received.get(head.previous)
        if head.previous and (previous is None or not previous[2].outcome.terminal):
            return
        if self.refuse and waits:
            self._store(write, head, WriteOutcome.REFUSED, code=self.refuse[0], detail=self.refuse[1])
            return
        current = self.versions[head.secret] if head.operation != "create" else 0
        base = previous[2].version if previous else head.base_version
        if base is not None and base != current:
            outcome = WriteOutcome.REFUSED if waits else WriteOutcome.CONFLICT
            self._store(write, head, outcome, code="VERSION_CONFLICT", detail=f"base_version: the secret is in version {current}")
            return
        self.versions[head.secret] = current + 1
        value = check(write, self.key)[1].value
        self.applied.append((head.secret, head.id, value))
        self._store(write, head, WriteOutcome.APPLIED, version=current + 1)
        if self.tells:
            self._tell(_copy_of(head, value, current + 1))

    def _tell(self, record: ReplicaSecret) -> None:
        """A feed holds the newest state of a thing, at its newest position."""
        self.records = [one for one in self.records if getattr(one[1], "id", "") != record.id]
        self.told += 1
        self.records.append((self.told, record))

    def _store(self, write: QueuedWrite, head: WriteHead, outcome: WriteOutcome, **more: Any) -> None:
        self.received[head.id] = (write, head, WriteReceipt(head.id, outcome, **more))

    def _give(self, ask: AskChanges) -> Changes:
        """One record a page, so that every page but the last says that there is more."""
        newest = self.records[-1][0] if self.records else 0
        head = newest if self.head is None else self.head
        following = [one for one in self.records if one[0] > ask.after][:1]
        position = following[0][0] if following else ask.after
        found: dict[str, list[Any]] = defaultdict(list)
        for _, record in following:
            found[type(record).__name__.removeprefix("Replica").lower() + "s"].append(record)
        return Changes(generation=self.generation, position=position, head=head, more=position < head, **found)


def _copy_of(head: WriteHead, value: str | None, version: int) -> ReplicaSecret:
    """The record of a secret after this update of its value."""
    made = [ReplicaVersion(number, "update", head.actor, "queue", "", head.accepted_at) for number in range(version, 0, -1)]
    return ReplicaSecret(
        id=head.secret, project=head.project, environment=head.project_environment, key=head.key, type="general", description="",
        tags=[], metadata={}, ttl_hours=0, rotation=None, status="active", version=version, value=value, created_by=head.actor,
        created_at=head.accepted_at, updated_at=head.accepted_at, archived_at=None, deleted_at=None, versions=made,
    )  # fmt: skip


@dataclass
class RealPrimary:
    """The real views, spoken to by a gateway that is enrolled there."""

    gateway: FakeGateway
    down: bool = False
    epoch: int = 0

    def call(self, path: str, message: Message, kind: type[Message], *, timeout: float) -> Any:
        if self.down:
            raise PrimaryUnreachable("no answer")
        answer = self.gateway.call(path, message, kind)
        if isinstance(answer, Message):
            return answer
        body = json.loads(answer.content)
        raise PrimaryRefused(answer.status_code, body["code"], body["error"], body.get("details", ""))
