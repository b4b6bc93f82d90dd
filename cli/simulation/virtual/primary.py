"""The Primary in virtual time: committed rows, and what the product's pure modules decide about them (health, failover)."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from cli.simulation.virtual.gateway import QUIET_WALL, VirtualGateway
from cli.simulation.virtual.writes import BEGIN, Kept, Settled, Write, settle
from failover import machine
from failover.machine import DRAINING, FENCING, PREFLIGHT, RESTFUL, Action, Event, Sign, State, StepFacts
from gateways import health
from gateways.health import HealthFacts, LabelMemory
from gateways.reconciliation import RouteFacts
from protocol.messages import Directive, DrainOrder, FenceOrder
from protocol.vocabulary import Assignment, HealthLabel

if TYPE_CHECKING:
    from cli.simulation.virtual.world import World

DRIVE_SECONDS, JUDGE_SECONDS = 0.5, 5.0
"""Pauses between two looks at an open move, and at gateways that are overdue."""
LONGEST_RUN = 8
"""Most steps of one environment in a row."""
MAXIMUM_SKEW_SECONDS = 300.0
"""A gateway whose wall clock is further off gets no lease."""
AGAIN_SHARE = 0.5
"""A question for a sign of life is put again after this share of the time a living gateway has for its answer."""
NUMBERS_KEPT = 256
"""Message numbers of a gateway below its highest one that are remembered one by one."""
CERTIFICATE_DAYS = 80.0


@dataclass
class Question:
    """Whether a gateway is alive: what was asked last and what was answered last."""

    asked: int = 0
    asked_at: float = 0.0
    answered: int = 0
    answered_at: float = -1e9


@dataclass
class Operation:
    """An open move. The questions are the first ones that were asked for it."""

    id: str
    kind: Event
    source: VirtualGateway
    target: VirtualGateway
    opened_at: float
    target_question: int
    source_question: int


@dataclass
class Environment:
    """The committed row of an environment: route, state, open move, writes."""

    code: str
    gateways: tuple[VirtualGateway, VirtualGateway]
    """The primary one, then the DR one."""
    state: State = State.UNASSIGNED
    since: float = 0.0
    epoch: int = 0
    active: VirtualGateway | None = None
    lease_until: float | None = None
    lease_open: bool = True
    fence: FenceOrder | None = None
    fence_acknowledged: bool = False
    drain: DrainOrder | None = None
    drain_left: int | None = None
    drain_reported_at: float | None = None
    orders: int = 0
    operation: Operation | None = None
    is_driven: bool = False
    kept: Kept = field(default_factory=Kept)

    def peer_of(self, gateway: VirtualGateway) -> VirtualGateway:
        return self.gateways[1] if gateway is self.gateways[0] else self.gateways[0]


@dataclass
class Heard:
    """What the Primary keeps of one gateway."""

    at: float | None = None
    memory: LabelMemory = field(default_factory=lambda: LabelMemory(HealthLabel.SILENT))
    highest: int = 0
    numbers: set[int] = field(default_factory=set)
    question: Question = field(default_factory=Question)
    directive: tuple[tuple[int, int], Directive] | None = None


class VirtualPrimary:
    """What is committed outlives a restart; waiting calls do not."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.is_up = True
        self.environments: dict[str, Environment] = {}
        self.waiting: set[int] = set()
        self.arrivals: Counter[int] = Counter()
        """Messages taken, by whole second of the run."""
        self.refused = 0
        self._heard: dict[int, Heard] = {}
        self._overdue: OrderedDict[VirtualGateway, None] = OrderedDict()
        self._operations = 0
        self._scores: dict[tuple[object, ...], health.Health] = {}

    def add(self, environment: Environment) -> None:
        self.environments[environment.code] = environment
        for gateway in environment.gateways:
            self._heard[gateway.index] = Heard()

    def start_judging(self) -> None:
        self._world.events.after(JUDGE_SECONDS, self._judge_overdue)

    def kill(self) -> None:
        self.is_up = False
        self._world.log.say("primary", "is killed")
        for gateway in self._world.gateways:
            if gateway.index in self.waiting:
                self._world.events.after(self._world.random.uniform(0.0, 0.05), gateway.lost_its_call)
        self.waiting.clear()

    def start(self) -> None:
        self.is_up = True
        self._world.log.say("primary", "is back")
        for environment in self.environments.values():
            if environment.state not in RESTFUL:
                self._begin_to_drive(environment)

    # What gateways say. Each runs in one commit.

    def takes(self, gateway: VirtualGateway, number: int) -> bool:
        """Note a message once. False for one that was taken before."""
        heard = self._heard[gateway.index]
        self.arrivals[int(self._world.events.now)] += 1
        if number in heard.numbers or number <= heard.highest - NUMBERS_KEPT:
            self.refused += 1
            self._world.log.say(gateway.name, f"message {number} came again and is refused")
            return False
        heard.numbers.add(number)
        heard.highest = max(heard.highest, number)
        if len(heard.numbers) > 2 * NUMBERS_KEPT:
            heard.numbers = {one for one in heard.numbers if one > heard.highest - NUMBERS_KEPT}
        return True

    def heartbeat(
        self, gateway: VirtualGateway, wall: float, epoch: int, role: Assignment, queued: int, breaker: str, missed: int
    ) -> Directive:
        heard, now = self._heard[gateway.index], self._world.events.now
        first, heard.at = heard.at is None, now
        self._overdue[gateway] = None
        self._overdue.move_to_end(gateway)
        environment = self.environments[gateway.environment]
        wrong = role is Assignment.ACTIVE and not (environment.active is gateway and environment.epoch == epoch)
        facts = HealthFacts(
            age_seconds=0.0, database=True, cache=True, write_queue_depth=queued,
            clock_skew_seconds=round(wall - QUIET_WALL - now),
            certificate_days_left=CERTIFICATE_DAYS, breaker=breaker, acts_on_wrong_epoch=wrong,
        )  # fmt: skip
        self._relabel(gateway, heard, facts)
        if first and environment.state is State.UNASSIGNED:
            self.drive(environment)
        return self.directive_for(gateway)

    def renew(self, gateway: VirtualGateway, epoch: int, wall: float) -> tuple[bool, int, float, float]:
        """(granted, epoch, seconds of the lease, its stored end): one conditional update."""
        environment, now = self.environments[gateway.environment], self._world.events.now
        skewed = abs(wall - QUIET_WALL - now) > MAXIMUM_SKEW_SECONDS
        if skewed or environment.active is not gateway or environment.epoch != epoch or not environment.lease_open:
            return False, environment.epoch, 0.0, 0.0
        ttl = self._world.timing.lease_ttl
        environment.lease_until = now + ttl
        return True, epoch, ttl, environment.lease_until

    def ask(self, gateway: VirtualGateway) -> Directive:
        self.waiting.add(gateway.index)
        return self.directive_for(gateway)

    def fenced(self, gateway: VirtualGateway, operation: str, epoch: int) -> bool:
        environment = self.environments[gateway.environment]
        order = environment.fence
        stored = (
            order is not None and environment.active is gateway and environment.epoch == epoch and order.operation == operation
            and not order.cancelled and not environment.lease_open
        )  # fmt: skip
        if stored:
            environment.fence_acknowledged = True
            self.drive(environment)
        return stored

    def drained(self, gateway: VirtualGateway, operation: str, epoch: int, left: int) -> bool:
        environment = self.environments[gateway.environment]
        order = environment.drain
        stored = order is not None and environment.active is gateway and (order.operation, order.epoch) == (operation, epoch)
        if stored:
            environment.drain_left, environment.drain_reported_at = left, self._world.events.now
            self.drive(environment)
        return stored

    def sign(self, gateway: VirtualGateway, number: int) -> bool:
        question = self._heard[gateway.index].question
        if number > question.answered:
            question.answered, question.answered_at = number, self._world.events.now
        self.drive(self.environments[gateway.environment])
        return True

    def take_writes(self, gateway: VirtualGateway, batch: tuple[Write, ...]) -> Settled:
        environment = self.environments[gateway.environment]
        active = environment.active.name if environment.active else ""
        return settle(self._world, environment.kept, RouteFacts(environment.epoch, active, "1"), gateway, batch)

    # What people wish.

    def activate(self, environment: Environment, kind: Event) -> bool:
        """Open a move, if the table has it and the Primary is there. False otherwise."""
        move = machine.move_for(environment.state, kind)
        if not self.is_up or move is None or environment.active is None:
            return False
        self._operations += 1
        target = environment.peer_of(environment.active)
        environment.operation = Operation(
            f"op-{self._operations}", kind, environment.active, target, self._world.events.now,
            self._put_question(target), self._put_question(environment.active),
        )  # fmt: skip
        self._carry_out(environment, move)
        self._begin_to_drive(environment)
        return True

    # The driver: facts in, one event out, one row of the table carried out.

    def drive(self, environment: Environment) -> None:
        for _ in range(LONGEST_RUN):
            event = machine.next_step(self._step_facts(environment))
            if event is None:
                return
            self._carry_out(environment, machine.require_move(environment.state, event))

    def _begin_to_drive(self, environment: Environment) -> None:
        if not environment.is_driven:
            environment.is_driven = True
            self._keep_driving(environment)

    def _keep_driving(self, environment: Environment) -> None:
        if self.is_up:
            self.drive(environment)
        environment.is_driven = self.is_up and environment.state not in RESTFUL
        if environment.is_driven:
            self._world.events.after(DRIVE_SECONDS, self._keep_driving, environment)

    def _step_facts(self, environment: Environment) -> StepFacts:
        timing, operation, state = self._world.timing, environment.operation, environment.state
        return StepFacts(
            state=state,
            now=self._moment(self._world.events.now),
            fence_wait=timedelta(seconds=timing.fence_wait),
            primary_ready=state is State.UNASSIGNED and self._heard[environment.gateways[0].index].at is not None,
            checks_passed=operation is not None and self._is_fresh(operation.target),
            lease_until=None if environment.lease_until is None else self._moment(environment.lease_until),
            fence_acknowledged=operation is not None and environment.fence_acknowledged,
            drained=environment.drain is not None and environment.drain_left == 0,
            drain_deadline=self._drain_deadline(environment),
            source_silent=operation is not None and self._source_is_silent(environment, operation),
            target_sign=self._sign_of_target(operation) if operation and state in PREFLIGHT | DRAINING | FENCING else Sign.FRESH,
        )

    def _is_fresh(self, gateway: VirtualGateway) -> bool:
        at = self._heard[gateway.index].at
        return at is not None and self._world.events.now - at < self._world.timing.standby_fresh_age

    def _drain_deadline(self, environment: Environment) -> datetime | None:
        timing = self._world.timing
        limits = {State.FO_DRAINING: timing.queue_wait, State.DRAINING: timing.drain_limit}
        limit = limits.get(environment.state)
        return None if limit is None else self._moment(environment.since + limit)

    def _source_is_silent(self, environment: Environment, operation: Operation) -> bool:
        """Nobody is there to wait for: an active gateway that lives keeps its lease, answers, and reports its drain."""
        now, bound = self._world.events.now, self._world.timing.sign_of_life
        question = self._heard[operation.source.index].question
        answered = question.answered >= operation.source_question
        lease_ended = environment.lease_until is None or environment.lease_until <= now
        if environment.state in DRAINING:
            reported = environment.drain_reported_at
            heard = max(environment.since, reported or environment.since)
            return now > heard + bound or (lease_ended and reported is None and not answered)
        if environment.state not in PREFLIGHT or answered:
            return False
        return lease_ended or now - max(question.asked_at, operation.opened_at) > bound

    def _sign_of_target(self, operation: Operation) -> Sign:
        now, bound, question = (
            self._world.events.now,
            self._world.timing.sign_of_life,
            self._heard[operation.target.index].question,
        )
        if question.answered >= question.asked and now - question.answered_at > bound * AGAIN_SHARE:
            self._put_question(operation.target)
        if question.answered >= operation.target_question and now - question.answered_at <= bound:
            return Sign.FRESH
        silent = question.asked > question.answered and now - max(question.asked_at, operation.opened_at) > bound
        return Sign.SILENT if silent else Sign.AWAITED

    def _put_question(self, gateway: VirtualGateway) -> int:
        question = self._heard[gateway.index].question
        question.asked, question.asked_at = question.asked + 1, self._world.events.now
        self._push(gateway)
        return question.asked

    def _carry_out(self, environment: Environment, move: machine.Move) -> None:
        for action in move.actions:
            _ACTIONS[action](self, environment)
        environment.state, environment.since = move.to, self._world.events.now
        self._world.log.say(
            environment.code, f"{move.state.value} -> {move.to.value} (epoch {environment.epoch}): {move.event.value}"
        )
        environment.orders += 1
        for gateway in environment.gateways:
            self._push(gateway)
        self._world.moved(environment, move)

    def promote(self, environment: Environment, gateway: VirtualGateway) -> None:
        environment.epoch += 1
        environment.active, environment.lease_until, environment.lease_open = gateway, None, True
        environment.fence, environment.fence_acknowledged = None, False
        environment.drain = environment.drain_left = environment.drain_reported_at = None
        self._world.judge.promoted(environment.code, environment.epoch, gateway.name)

    # What gateways are told.

    def directive_for(self, gateway: VirtualGateway) -> Directive:
        """The order of the moment; the same object as long as nothing it follows from has changed."""
        environment, heard = self.environments[gateway.environment], self._heard[gateway.index]
        key = (environment.orders, heard.question.asked if heard.question.asked > heard.question.answered else 0)
        if heard.directive is None or heard.directive[0] != key:
            mine = environment.active is gateway
            heard.directive = key, Directive(
                revision=f"{key[0]}.{key[1]}", assigned_role=_assignment(environment, gateway), epoch=environment.epoch,
                poll_tasks=mine, next_heartbeat_seconds=self._world.timing.heartbeat_interval,
                fence=environment.fence if mine else None, drain=environment.drain if mine else None, sign=key[1],
                number=environment.orders,
            )  # fmt: skip
        return heard.directive[1]

    def _push(self, gateway: VirtualGateway) -> None:
        """Answer the waiting call of this gateway. A lost answer is noticed by its caller when the call must have ended."""
        if gateway.index not in self.waiting:
            return
        self.waiting.discard(gateway.index)
        back, timing, events = self._world.network.down(gateway.index), self._world.timing, self._world.events
        if back is None:
            wait = self._world.random.uniform(0, timing.directive_wait)
            events.after(wait + timing.round_trip_max, gateway.lost_its_call)
        else:
            events.after(back, gateway.heard_by_waiting, self.directive_for(gateway))

    # Judging who is overdue.

    def _judge_overdue(self) -> None:
        now, full = self._world.events.now, self._world.timing.heartbeat_full_age
        if self.is_up:
            for gateway in list(self._overdue):
                heard = self._heard[gateway.index]
                age = float(round(now - (heard.at or 0.0)))
                if age <= full:
                    break
                self._relabel(gateway, heard, HealthFacts(age_seconds=age, database=True, certificate_days_left=CERTIFICATE_DAYS))
                if heard.memory.label is HealthLabel.SILENT:
                    del self._overdue[gateway]
                    self._world.fell_silent(gateway)
        self._world.events.after(JUDGE_SECONDS, self._judge_overdue)

    def _relabel(self, gateway: VirtualGateway, heard: Heard, facts: HealthFacts) -> None:
        now, timing = self._world.events.now, self._world.timing
        found = self._scored(facts)
        before = heard.memory.label
        heard.memory = health.next_label(heard.memory, found.score, facts.age_seconds, self._moment(now), timing)
        if heard.memory.label is not before:
            self._world.log.say(gateway.name, f"is {heard.memory.label.value} (was {before.value}), score {found.score:.2f}")

    def _scored(self, facts: HealthFacts) -> health.Health:
        """The product's score; most heartbeats say the same as thousands of others did."""
        key = (facts.age_seconds, facts.write_queue_depth, facts.clock_skew_seconds, facts.breaker, facts.acts_on_wrong_epoch)
        found = self._scores.get(key)
        if found is None:
            found = self._scores[key] = health.score(facts, self._world.timing)
        return found

    @staticmethod
    def _moment(seconds: float) -> datetime:
        return BEGIN + timedelta(seconds=seconds)


def _assignment(environment: Environment, gateway: VirtualGateway) -> Assignment:
    if environment.active is None:
        return Assignment.STANDBY
    if environment.active is gateway:
        if not environment.lease_open:
            return Assignment.FENCED
        return Assignment.DRAINING if environment.drain else Assignment.ACTIVE
    return Assignment.FENCED if gateway is environment.gateways[0] else Assignment.STANDBY


def _stop_lease(_primary: VirtualPrimary, environment: Environment) -> None:
    assert environment.operation is not None  # noqa: S101  the table opens one before it fences
    number = environment.fence.number + 1 if environment.fence else environment.orders + 1
    environment.lease_open, environment.fence_acknowledged = False, False
    environment.fence = FenceOrder(environment.operation.id, environment.epoch, number)


def _allow_lease(_primary: VirtualPrimary, environment: Environment) -> None:
    environment.lease_open = True
    if environment.fence is not None:
        environment.fence = FenceOrder(environment.fence.operation, environment.epoch, environment.fence.number, cancelled=True)


def _order_drain(_primary: VirtualPrimary, environment: Environment) -> None:
    assert environment.operation is not None  # noqa: S101  the table opens one before it drains
    environment.drain = DrainOrder(environment.operation.id, environment.epoch)
    environment.drain_left = environment.drain_reported_at = None


def _undo_drain(_primary: VirtualPrimary, environment: Environment) -> None:
    environment.drain = environment.drain_left = environment.drain_reported_at = None


def _close(_primary: VirtualPrimary, environment: Environment) -> None:
    environment.operation = None


def _nothing(_primary: VirtualPrimary, _environment: Environment) -> None:
    """What only people and restored databases bring about, which this world has not."""


_ACTIONS: Mapping[Action, Callable[[VirtualPrimary, Environment], Any]] = {
    Action.STOP_LEASE: _stop_lease,
    Action.ALLOW_LEASE: _allow_lease,
    Action.ORDER_DRAIN: _order_drain,
    Action.UNDO_DRAIN: _undo_drain,
    Action.RECORD_RISK: _nothing,
    Action.PROMOTE_PRIMARY: lambda primary, environment: primary.promote(environment, environment.gateways[0]),
    Action.PROMOTE_DR: lambda primary, environment: primary.promote(environment, environment.gateways[1]),
    Action.LIFT_HOLD: _nothing,
    Action.CLOSE_COMPLETED: _close,
    Action.CLOSE_CANCELLED: _close,
    Action.CLOSE_ABORTED: _close,
}
