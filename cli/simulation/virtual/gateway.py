"""A gateway in virtual time: the loops of the shipped one, deciding by its pure modules (lease, breaker, pacing)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli.simulation.virtual.wire import REFUSED, Answer
from cli.simulation.virtual.writes import Queue
from gateway_runtime import lease as leases
from gateway_runtime import pacing
from gateway_runtime.breaker import PAUSE_CAP, Breaker
from gateway_runtime.lease import Fenced, Lease
from gateway_runtime.pacing import MissedBeats
from protocol.messages import Directive, FenceOrder
from protocol.vocabulary import Assignment, BreakerState

if TYPE_CHECKING:
    from cli.simulation.virtual.world import World

RETRY_BASE, RETRY_CAP = 1.0, 15.0
"""As in the shipped gateway: first and longest pause in seconds after a failed call."""
RUNNING_SHARE = 0.3
"""Share of lost rights at whose moment an outside call is under way."""
ACTING = (Assignment.ACTIVE, Assignment.DRAINING)
QUIET_WALL = 1_700_000_000.0
"""What the wall clock shows at the begin, unix seconds."""


@dataclass
class Loop:
    """One loop: `turn` grows with each step that is planned, so that one planned before is not made as well."""

    step: Callable[[], None]
    turn: int = 0
    attempt: int = 0
    busy: bool = False
    paused: bool = False
    """Only the breaker keeps its step from being made."""


class VirtualGateway:
    """One gateway. Its boot clock runs at its own rate; its wall clock is off by `skew` seconds."""

    def __init__(self, world: World, index: int, name: str, environment: str, rate: float, start: float) -> None:
        self.world, self.index, self.name, self.environment = world, index, name, environment
        self.rate, self._boot_begin, self.skew = rate, world.random.uniform(100.0, 1e6), world.random.uniform(-0.5, 0.5)
        self.number = 0
        self.epoch = 0
        """The highest epoch seen, as it is committed."""
        self.lease: Lease | None = None
        self.fenced: Fenced | None = None
        self.directive: Directive | None = None
        self._acknowledged = ""
        self._effects_until = 0.0
        self.queue = Queue(self)
        self.breaker = Breaker(random.Random(world.random.random()), longest_pause=min(PAUSE_CAP, world.timing.lease_renew))  # noqa: S311
        self.beats = MissedBeats(world.timing.heartbeat_interval, start)
        self.loops = {"heartbeat": Loop(self._heartbeat), "lease": Loop(self._renew), "directive": Loop(self._ask)}
        self.is_waiting = False
        """Its directive call waits at the Primary."""
        self._plan("heartbeat", start)
        self._plan("directive", start + world.random.uniform(0, 0.5))

    # Clocks: what this gateway reads, and what only the judge knows.

    def boot(self) -> float:
        return self._boot_begin + self.world.events.now * self.rate

    def wall(self) -> float:
        return QUIET_WALL + self.world.events.now + self.skew

    def stall(self, seconds: float) -> None:
        """Both clocks of this machine lose so much, as after a pause that nobody told it about."""
        self._boot_begin -= seconds * self.rate
        self.skew -= seconds

    def true_time_of(self, boot: float) -> float:
        return (boot - self._boot_begin) / self.rate

    def acts_until(self) -> float:
        """When the last thing this gateway may do has ended, in true time."""
        return max(self._effects_until, self.true_time_of(self.lease.until_boot) if self.lease else 0.0)

    def may_act(self) -> bool:
        if self.lease is None:
            return False
        deadline = self.world.timing.effect_deadline
        return leases.may_start_effect(self.lease, self.boot(), self.wall(), deadline, self.fenced).allowed

    # The loops.

    def _heartbeat(self) -> None:
        now = self.world.events.now
        if not self._may_call("heartbeat"):
            self.beats.held_back(now)
            return
        held = leases.seconds_left(self.lease, self.boot(), self.wall()) if self.lease else 0.0
        report = (self.wall(), self.epoch, self._role(held), self.queue.depth(), self.breaker.state, self.beats.count)
        self._call("heartbeat", self.world.primary.heartbeat, report, self._heard)

    def _heard(self, directive: Directive) -> float:
        self.beats.arrived(self.world.events.now)
        self.obey(directive)
        self.queue.upload()
        return pacing.jittered(directive.next_heartbeat_seconds, 0.05, self.world.random)

    def _renew(self) -> None:
        if not self._wants_lease() or not self._may_call("lease"):
            return
        sent = (self.boot(), self.wall())
        self._call("lease", self.world.primary.renew, (self.epoch, self.wall()), lambda answer: self._granted(answer, *sent))

    def _granted(self, answer: tuple[bool, int, float, float], sent_boot: float, sent_wall: float) -> float:
        """Take what an answer to a renewal is worth, or let go of what is held."""
        granted, epoch, ttl, stored_until = answer
        if not granted:
            self._learn(epoch)
            self.drop_lease("the Primary refused to renew it")
        else:
            found = leases.grant(
                sent_boot=sent_boot, sent_wall=sent_wall, ttl=min(ttl, self.world.timing.lease_ttl), epoch=epoch,
                highest_epoch_seen=self.epoch, fenced=self.fenced,
            )  # fmt: skip
            if isinstance(found, Lease):
                self._take(found, stored_until)
        return pacing.jittered(self.world.timing.lease_renew, 0.1, self.world.random)

    def _take(self, found: Lease, stored_until: float) -> None:
        if self.lease is None:
            self.world.log.say(self.name, f"holds the lease of epoch {found.epoch}")
        self.lease = found
        self.world.judge.lease_taken(self, found, stored_until, self.world.peers_of(self), self.world.events.now)

    def _ask(self) -> None:
        """Begin to wait for directives; the answer comes when there is one, and the next call waits again."""
        if self._may_call("directive"):
            self._call("directive", self.world.primary.ask, (), self._told)

    def _told(self, directive: Directive) -> float:
        self.obey(directive)
        self.is_waiting = True
        return -1.0

    def _may_call(self, name: str) -> bool:
        """Whether the breaker lets this call through; if not, the step comes again when it may."""
        now = self.world.events.now
        if self.breaker.allows(now):
            return True
        self._plan(name, now + self.breaker.pause(now, at_most=PAUSE_CAP))
        self.loops[name].paused = True
        return False

    def _call(self, name: str, handle: Callable[..., Any], body: tuple[Any, ...], took: Callable[[Any], float]) -> None:
        self.loops[name].busy = True
        self.world.wire.call(self, handle, body, lambda answer: self._answered(name, answer, took))

    def _answered(self, name: str, answer: Answer, took: Callable[[Any], float]) -> None:
        loop, now = self.loops[name], self.world.events.now
        loop.busy = False
        self.note(answer)
        if answer is None and name == "heartbeat":
            self.beats.failed(now)
        if answer is None or answer is REFUSED:
            pause = pacing.backoff(loop.attempt, RETRY_BASE, min(RETRY_CAP, self.world.timing.lease_renew), self.world.random)
            loop.attempt += 1
        else:
            loop.attempt, pause = 0, took(answer)
        if pause >= 0:
            self._plan(name, now + pause)

    def note(self, answer: Answer) -> None:
        """Any answer proves that the Primary is there; the loops that waited for that go on."""
        before = self.breaker.state
        if answer is None:
            self.breaker.failed(self.world.events.now)
        else:
            self.breaker.succeeded(self.world.events.now)
        if self.breaker.state is before:
            return
        self.world.log.say(self.name, f"breaker {self.breaker.state.value}, {self.beats.count} beats missed")
        if self.breaker.state is BreakerState.CLOSED:
            for name, loop in self.loops.items():
                if loop.paused:
                    self._plan(name, self.world.events.now + self.world.random.uniform(0, 1.0))

    def _plan(self, name: str, moment: float) -> None:
        loop = self.loops[name]
        loop.turn += 1
        loop.paused = False
        self.world.events.at(moment, self._turn, loop, loop.turn)

    def _turn(self, loop: Loop, turn: int) -> None:
        if turn == loop.turn and not loop.busy:
            loop.step()

    # Directives.

    def heard_by_waiting(self, directive: Directive) -> None:
        """The waiting call was answered; the next one goes out at once."""
        self.is_waiting = False
        self.note(directive)
        self.obey(directive)
        if not self.loops["directive"].busy:
            self._plan("directive", self.world.events.now)

    def lost_its_call(self) -> None:
        """The waiting call ended without an answer; the loop asks again as after any failure."""
        self.is_waiting = False
        self.note(None)
        loop = self.loops["directive"]
        if not loop.busy:
            longest = min(RETRY_CAP, self.world.timing.lease_renew)
            self._plan("directive", self.world.events.now + pacing.backoff(loop.attempt, RETRY_BASE, longest, self.world.random))

    def obey(self, directive: Directive) -> None:
        """Take over a directive, unless it was overtaken or is of an older epoch than one seen (I4)."""
        known = self.directive
        if known is not None and known.epoch == directive.epoch and directive.number < known.number:
            return
        if not self._learn(directive.epoch):
            return
        if directive.assigned_role not in ACTING:
            self.drop_lease(f"the Primary assigns {directive.assigned_role.value}")
        self.directive = directive
        if directive.fence is not None:
            self._follow_fence(directive)
        if directive.drain is not None:
            self.queue.report_drain(directive)
        if directive.sign:
            self.world.wire.call(self, self.world.primary.sign, (directive.sign,), self.note)
        lease = self.loops["lease"]
        if self._wants_lease() and self.lease is None and not lease.busy:
            self._plan("lease", self.world.events.now)

    def _learn(self, epoch: int) -> bool:
        if epoch < self.epoch:
            return False
        self.world.judge.learned(self.name, self.epoch, epoch)
        if epoch > self.epoch:
            self.epoch = epoch
            if self.fenced and self.fenced.epoch < epoch:
                self.fenced = None
            if self.lease and self.lease.epoch < epoch:
                self.drop_lease(f"epoch {epoch} has begun")
        return True

    def _follow_fence(self, directive: Directive) -> None:
        order = directive.fence
        assert order is not None  # noqa: S101  the caller looked
        if order.cancelled:
            if self.fenced and self.fenced.epoch == order.epoch and self.fenced.number <= order.number:
                self.fenced = None
            return
        if self._acknowledged == order.operation or self._is_outdated(order):
            return
        self.fenced = Fenced(order.operation, order.epoch, order.number)
        self.drop_lease(f"fenced by operation {order.operation}")
        self._acknowledge(order.operation, order.epoch)

    def _is_outdated(self, order: FenceOrder) -> bool:
        return self.fenced is not None and (self.fenced.epoch, self.fenced.number) > (order.epoch, order.number)

    def _acknowledge(self, operation: str, epoch: int) -> None:
        """Once nothing runs any more, and as long as the fence holds."""
        now = self.world.events.now
        if self.fenced is None or self.fenced.operation != operation or self._acknowledged == operation:
            return
        if now < self._effects_until:
            self.world.events.at(self._effects_until, self._acknowledge, operation, epoch)
            return

        def told(answer: Answer) -> None:
            self.note(answer)
            if answer is None or answer is REFUSED:
                self.world.events.after(1.0, self._acknowledge, operation, epoch)
            else:
                self._acknowledged = operation

        self.world.wire.call(self, self.world.primary.fenced, (operation, epoch), told)

    def drop_lease(self, why: str) -> None:
        """No new effect from here on. What is under way runs on until its deadline at the latest, which the lease outlives."""
        if self.lease is None:
            return
        left = min(self.world.timing.effect_deadline, leases.seconds_left(self.lease, self.boot(), self.wall()))
        if left > 0 and self.world.random.random() < RUNNING_SHARE:
            self._effects_until = self.world.events.now + self.world.random.uniform(0, left / self.rate)
        self.lease = None
        self.world.log.say(self.name, f"holds no lease any more: {why}")

    def _wants_lease(self) -> bool:
        directive = self.directive
        if directive is None or directive.assigned_role not in ACTING:
            return False
        return self.fenced is None or self.fenced.epoch < directive.epoch

    def _role(self, held: float) -> Assignment:
        if self.fenced and self.fenced.epoch >= self.epoch:
            return Assignment.FENCED
        assigned = self.directive.assigned_role if self.directive else Assignment.STANDBY
        return Assignment.STANDBY if assigned in ACTING and held <= 0 else assigned
