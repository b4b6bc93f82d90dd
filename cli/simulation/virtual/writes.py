"""Writes that gateways accept and the Primary settles, by the product's own `gateways.reconciliation`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from gateways import reconciliation
from gateways.reconciliation import Facts, PreviousFacts, RouteFacts, SecretFacts, Verdict, WriteFacts
from protocol.messages import Directive
from protocol.vocabulary import Assignment, BreakerState, WriteOperation, WriteOutcome

if TYPE_CHECKING:
    from cli.simulation.virtual.gateway import VirtualGateway
    from cli.simulation.virtual.world import World

BATCH = 100
"""Writes of one upload, as in the product."""
AGAIN_SECONDS = 2.0
"""Pause before a queue that did not arrive is brought again, and between two reports of a drain."""
SECRETS = 3
"""Secrets of one environment."""
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
"""What the clock of the Primary's database shows at the begin."""
_OUTCOMES = {
    Verdict.APPLY: WriteOutcome.APPLIED, Verdict.SUPERSEDE: WriteOutcome.SUPERSEDED, Verdict.CONFLICT: WriteOutcome.CONFLICT,
    Verdict.QUARANTINE: WriteOutcome.QUARANTINED, Verdict.DEAD_LETTER: WriteOutcome.DEAD_LETTER,
}  # fmt: skip


@dataclass(frozen=True)
class Write:
    """One promised write. `base` None: it was made on the write `previous` of the same queue."""

    id: str
    secret: int
    sequence: int
    epoch: int
    base: int | None
    previous: str
    accepted: float


class Queue:
    """The queue of one gateway: what it promised and the Primary has not settled yet."""

    def __init__(self, gateway: VirtualGateway) -> None:
        self._gateway = gateway
        self._waiting: list[Write] = []
        self._sequence = 0
        self._busy = self._is_planned = False
        self.copy = [1] * SECRETS
        """The versions of the environment's secrets as this gateway's copy has them."""

    def depth(self) -> int:
        return len(self._waiting)

    def ids(self) -> set[str]:
        return {write.id for write in self._waiting}

    def accept(self, secret: int) -> Write | None:
        """Promise a write, also while the Primary is away; None where this gateway is not the one that takes writes."""
        gateway = self._gateway
        directive = gateway.directive
        active = directive is not None and directive.assigned_role is Assignment.ACTIVE and directive.epoch == gateway.epoch
        if not active or gateway.fenced is not None:
            return None
        self._sequence += 1
        earlier = next((one for one in reversed(self._waiting) if one.secret == secret), None)
        base, previous = (None, earlier.id) if earlier else (self.copy[secret], "")
        name = f"{gateway.name}/{self._sequence}"
        self._waiting.append(Write(name, secret, self._sequence, gateway.epoch, base, previous, gateway.world.events.now))
        self.upload()
        return self._waiting[-1]

    def upload(self) -> None:
        """Bring what waits, oldest first. One upload at a time, and none while the breaker keeps calls back."""
        gateway = self._gateway
        if not self._waiting or self._busy:
            return
        if gateway.breaker.state is not BreakerState.CLOSED:
            self._come_again()
            return
        self._busy = True
        gateway.world.wire.call(gateway, gateway.world.primary.take_writes, (tuple(self._waiting[:BATCH]),), self._taken)

    def _come_again(self) -> None:
        if not self._is_planned:
            self._is_planned = True
            self._gateway.world.events.after(AGAIN_SECONDS * self._gateway.world.random.uniform(0.5, 1.0), self._again)

    def _again(self) -> None:
        self._is_planned = False
        self.upload()

    def report_drain(self, directive: Directive) -> None:
        """Tell how much is left until nothing is; the order goes on until another directive comes."""
        gateway, order = self._gateway, directive.drain
        if order is None or gateway.directive is not directive:
            return
        left = len(self._waiting)
        gateway.world.wire.call(gateway, gateway.world.primary.drained, (order.operation, order.epoch, left), gateway.note)
        self.upload()
        gateway.world.events.after(AGAIN_SECONDS, self.report_drain, directive)

    def _taken(self, answer: object) -> None:
        self._busy = False
        self._gateway.note(answer)
        if not isinstance(answer, Settled):
            self._come_again()
            return
        self._waiting = [one for one in self._waiting if one.id not in answer.outcomes]
        self.copy = list(answer.versions)
        if self._waiting:
            self._come_again()


@dataclass(frozen=True)
class Settled:
    """The answer to an upload: terminal outcomes by write, and the versions of the environment's secrets now."""

    outcomes: dict[str, WriteOutcome]
    versions: tuple[int, ...]


@dataclass
class Kept:
    """What the Primary keeps of one environment's secrets and writes."""

    versions: list[int] = field(default_factory=lambda: [1] * SECRETS)
    changed: list[float] = field(default_factory=lambda: [0.0] * SECRETS)
    settled: dict[str, tuple[WriteOutcome, PreviousFacts]] = field(default_factory=dict)
    applied: dict[tuple[str, int], int] = field(default_factory=dict)
    """The highest sequence that was applied of each gateway and secret."""


def settle(world: World, kept: Kept, route: RouteFacts, gateway: VirtualGateway, batch: Sequence[Write]) -> Settled:
    """Decide about each write in the order of its stream; one that was settled before keeps its outcome."""
    outcomes: dict[str, WriteOutcome] = {}
    waits: set[int] = set()
    for write in batch:
        known = kept.settled.get(write.id)
        if known is None:
            decision = reconciliation.decide(_facts(world, kept, route, gateway, write, earlier_waits=write.secret in waits))
            if decision.verdict not in _OUTCOMES:
                waits.add(write.secret)
                continue
            known = _carried_out(world, kept, route, gateway, write, decision)
        outcomes[write.id] = known[0]
    return Settled(outcomes, tuple(kept.versions))


def _facts(world: World, kept: Kept, route: RouteFacts, gateway: VirtualGateway, write: Write, *, earlier_waits: bool) -> Facts:
    previous = kept.settled.get(write.previous) if write.previous else None
    accepted = BEGIN + timedelta(seconds=write.accepted)
    return Facts(
        write=WriteFacts(
            WriteOperation.UPDATE, gateway.name, "1", write.epoch, write.base, accepted,
            waiting_seconds=world.events.now - write.accepted, names_previous=bool(write.previous),
        ),
        route=route,
        secret=SecretFacts(kept.versions[write.secret], BEGIN + timedelta(seconds=kept.changed[write.secret])),
        previous=previous[1] if previous else None,
        earlier_waits=earlier_waits,
        later_applied=kept.applied.get((gateway.name, write.secret), 0) > write.sequence,
    )  # fmt: skip


def _carried_out(
    world: World, kept: Kept, route: RouteFacts, gateway: VirtualGateway, write: Write, decision: reconciliation.Decision
) -> tuple[WriteOutcome, PreviousFacts]:
    outcome = _OUTCOMES[decision.verdict]
    fact = PreviousFacts(outcome, base=write.base)
    if outcome is WriteOutcome.APPLIED:
        world.judge.applied(
            write.id, (gateway.name, str(write.secret)), write.sequence, write.epoch, route.epoch, as_new=decision.as_new
        )
        kept.versions[write.secret] += 1
        kept.changed[write.secret] = world.events.now
        kept.applied[gateway.name, write.secret] = write.sequence
        fact = replace(fact, version=kept.versions[write.secret])
    else:
        world.log.say(gateway.name, f"write {write.sequence} of epoch {write.epoch} ends as {outcome.value}: {decision.code}")
    world.outcomes[outcome.value] += 1
    kept.settled[write.id] = (outcome, fact)
    return kept.settled[write.id]
