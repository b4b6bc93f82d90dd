"""A small model of one environment, explored completely: who may act while the route moves (DESIGN §7, §8; reliability §4).

Two gateways, one control plane whose rows are durable, a network that loses, delays and repeats, and time in ticks. The model
follows the path of the code: `gateways.routes` (rows), `failover.machine` (moves), `gateway_runtime.node` and `.lease` (what a
gateway may do), `gateway_runtime.supervisor` (who says what when). Each rule the safety argument rests on is a switch in `Rules`;
a mutant turns one off and must be caught.

Decisions of the model, all on the hostile side:
- Nothing holds absolute time, only ticks left, so there is no horizon: whatever can happen at any time is explored.
- Every clock is as wrong as allowed: a granted lease lives `lease + drift` ticks from its send time at the gateway. A gateway
  that makes less of it does a part of what is explored here.
- A message that is never delivered is lost; an acknowledgement stays on the wire and may come again. Renewals and releases come
  at most once (receipts, DESIGN §6), and a request that is older than a whole lease is not delivered any more.
- An answer outlives the crash of the process that asked, though in the code it is bound to that process's request. So the fence
  must be durable by itself. A clean stop loses answers on the way: giving a lease back rests on that binding.
- A fenced gateway acknowledges without hearing the order again; a refused renewal is not heard of. Requests of an epoch that is
  over are refused in any order, so they are left out.
- A call lands at any moment up to its hard deadline, whether or not its process lives. One call of a gateway at a time.
- A copy of the first gateway's machine knows what was stored when it was taken and is started at any later time. The control
  plane tells processes apart, and they share nothing. Who is heard first when nobody counts is the one that counts.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

Move = tuple[str, tuple[str, ...]]

MOVES: Mapping[tuple[str, str], Move] = {
    ("PRIMARY_ACTIVE", "activate_dr"): ("FO_PREFLIGHT", ()),
    ("FO_PREFLIGHT", "checks_passed"): ("FO_DRAINING", ("order_drain",)),
    ("FO_DRAINING", "drained"): ("FENCING", ("stop_lease",)),
    ("FENCING", "fence_acknowledged"): ("PROMOTING", ()),
    ("FENCING", "lease_ran_out"): ("PROMOTING", ()),
    ("FENCING", "force"): ("PROMOTING", ("record_risk",)),
    ("FENCING", "cancel"): ("PRIMARY_ACTIVE", ("allow_lease", "undo_drain", "close_cancelled")),
    ("FENCING", "target_silent"): ("PRIMARY_ACTIVE", ("allow_lease", "undo_drain", "close_aborted")),
    ("PROMOTING", "promoted"): ("DR_ACTIVE", ("promote_dr", "close_completed")),
    ("DR_ACTIVE", "failback"): ("FB_PREFLIGHT", ()),
    ("FB_PREFLIGHT", "checks_passed"): ("DRAINING", ("order_drain",)),
    ("DRAINING", "drained"): ("FENCING_DR", ("stop_lease",)),
    ("FENCING_DR", "fence_acknowledged"): ("PROMOTING_PRIMARY", ()),
    ("FENCING_DR", "lease_ran_out"): ("PROMOTING_PRIMARY", ()),
    ("FENCING_DR", "force"): ("PROMOTING_PRIMARY", ("record_risk",)),
    ("FENCING_DR", "target_silent"): ("DR_ACTIVE", ("allow_lease", "undo_drain", "close_aborted")),
    ("FENCING_DR", "cancel"): ("DR_ACTIVE", ("allow_lease", "undo_drain", "close_cancelled")),
    ("PROMOTING_PRIMARY", "promoted"): ("PRIMARY_ACTIVE", ("promote_primary", "close_completed")),
    **{
        (state, "danger"): ("HOLD", ("close_aborted",))
        for state in ("PRIMARY_ACTIVE", "FENCING", "PROMOTING", "DR_ACTIVE", "FENCING_DR", "PROMOTING_PRIMARY")
    },
    ("HOLD", "resume_on_primary"): ("PRIMARY_ACTIVE", ("lift_hold", "promote_primary")),
    ("HOLD", "resume_on_dr"): ("DR_ACTIVE", ("lift_hold", "promote_dr")),
}
"""The rows of `failover.machine.TABLE` that the model takes, by name: (state, event) to (next state, actions)."""

OUTSIDE: Mapping[tuple[str, str], str] = {
    ("UNASSIGNED", "primary_ready"): "the model begins with an active primary gateway",
    ("UNASSIGNED", "danger"): "nobody holds a lease yet",
    ("FO_PREFLIGHT", "checks_failed"): "no row that the model knows is changed before fencing",
    ("FO_PREFLIGHT", "cancel"): "no row that the model knows is changed before fencing",
    ("FO_PREFLIGHT", "target_silent"): "no row that the model knows is changed before fencing",
    ("FO_PREFLIGHT", "source_silent"): "the same as drained: the fence that follows waits all the same",
    ("FO_PREFLIGHT", "drain_waived"): "the same as drained: the fence that follows waits all the same",
    ("FO_DRAINING", "source_silent"): "the same as drained: the fence that follows waits all the same",
    ("FO_DRAINING", "drain_passed_over"): "the same as drained: the fence that follows waits all the same",
    ("FO_DRAINING", "force"): "the same as drained: the fence that follows waits all the same",
    ("FO_DRAINING", "drain_timed_out"): "a draining gateway keeps its lease; undoing the drain changes nothing here",
    ("FO_DRAINING", "target_silent"): "a draining gateway keeps its lease; undoing the drain changes nothing here",
    ("FO_DRAINING", "cancel"): "a draining gateway keeps its lease; undoing the drain changes nothing here",
    ("FO_DRAINING", "danger"): "as from PRIMARY_ACTIVE: the lease is open in both",
    ("FO_PREFLIGHT", "danger"): "as from PRIMARY_ACTIVE: the lease is open in both",
    ("FB_PREFLIGHT", "checks_failed"): "no row that the model knows is changed before fencing",
    ("FB_PREFLIGHT", "target_silent"): "no row that the model knows is changed before fencing",
    ("FB_PREFLIGHT", "source_silent"): "the same as drained: the fence that follows waits all the same",
    ("FB_PREFLIGHT", "drain_waived"): "the same as drained: the fence that follows waits all the same",
    ("FB_PREFLIGHT", "cancel"): "no row that the model knows is changed before fencing",
    ("FB_PREFLIGHT", "danger"): "as from DR_ACTIVE: the lease is open in both",
    ("DRAINING", "drain_timed_out"): "a draining gateway keeps its lease; undoing the drain changes nothing here",
    ("DRAINING", "target_silent"): "a draining gateway keeps its lease; undoing the drain changes nothing here",
    ("DRAINING", "source_silent"): "the same as drained: the fence that follows waits all the same",
    ("DRAINING", "cancel"): "a draining gateway keeps its lease; undoing the drain changes nothing here",
    ("DRAINING", "force"): "the same as drained: the fence that follows waits all the same",
    ("DRAINING", "danger"): "as from DR_ACTIVE: the lease is open in both",
}
"""Rows of the table that the model leaves out, each with its reason."""

WISHES = {"PRIMARY_ACTIVE": ("activate_dr", "checks_passed", "drained"), "DR_ACTIVE": ("failback", "checks_passed", "drained")}
"""From a restful state to fencing in one step of the model: on the way no row that the model knows is changed."""
ACTIVE = frozenset(WISHES)
FENCING = frozenset({"FENCING", "FENCING_DR"})
PROMOTION = frozenset({"PROMOTING", "PROMOTING_PRIMARY"})


@dataclass(frozen=True)
class Rules:
    """What the safety argument rests on. All true: the design."""

    ack_waits_for_effects: bool = True
    """An acknowledgement is sent when no call of this process runs any more."""
    ack_waits_for_unseen_ends: bool = True
    """... and none whose end nobody saw, because the process that began it is gone."""
    release_waits_for_unseen_ends: bool = True
    """Giving the lease back waits for those likewise."""
    fence_is_durable: bool = True
    fenced_discards_grants: bool = True
    ack_is_final: bool = True
    """No cancel once an acknowledgement is stored."""
    ack_names_operation: bool = True
    cancel_names_operation: bool = True
    """A cancel lifts no fence of a later operation."""
    cancel_covers_older_orders: bool = True
    """A cancel lifts fences of earlier operations of the epoch too; all of those were cancelled before."""
    lease_counts_from_send: bool = True
    restart_drops_lease: bool = True
    effect_needs_room: bool = True
    """An effect starts only when the lease outlives its hard deadline."""
    fencing_stops_renewal: bool = True
    wait_covers_drift: bool = True
    wait_is_strict: bool = True
    wait_covers_block: bool = True
    """While leases are blocked because an unknown one may live, nobody is promoted by time, and promotion keeps the block."""
    release_checks_sequence: bool = True
    renewal_keeps_highest_sequence: bool = True
    """A late renewal never lowers the stored sequence."""
    promotion_raises_epoch: bool = True
    renewal_names_instance: bool = True
    """A lease is granted only to the process of a gateway that counts."""
    ack_names_instance: bool = True
    release_names_instance: bool = True
    takeover_waits: bool = True
    """Another process of the gateway counts only when no lease of the former one can live, or after its goodbye."""
    takeover_covers_drift: bool = True
    force_records_risk: bool = True
    fence_needs_sign: bool = True
    """Nobody is fenced for a target that has given no sign of life of now."""
    promotion_needs_sign: bool = True
    """Nobody is promoted by time who has given none; once the old gateway has confirmed, the move can only go on."""


@dataclass(frozen=True)
class Bounds:
    """How much of the world is explored. Lengths are ticks, the rest are numbers of things."""

    lease: int = 2
    drift: int = 1
    call: int = 2
    """Hard deadline of a call outside."""
    calls: bool = True
    """Without calls it only counts who may begin one."""
    epochs: int = 2
    operations: int = 1
    crashes: int = 0
    stops: int = 0
    mishaps: int = 0
    """Times that two truths are seen (HOLD) or that the rows are restored from a backup without the latest leases."""
    force: bool = False
    naps: int = 0
    """Times that a gateway stands still for a while. Without them everybody gives his sign of life whenever it is asked for."""
    sign: int = 1
    """Ticks for which a sign of life is one of now."""
    clones: int = 0
    """Copies of the first gateway's machine: none or one."""
    copied_early: bool = False
    """The copy was taken before anything happened, and not at any moment."""
    requests: int = 1
    """Renewals of one gateway on the wire at a time."""
    directives: int = 0
    """Delayed directives to one gateway at a time (the code has two loops that hear them); a fresh one can be heard always."""

    @property
    def over(self) -> int:
        """Ticks left of a stored lease that nobody can hold any more: strictly longer ago than the drift."""
        return -self.drift - 1


class Fence(NamedTuple):
    """A promise of a gateway not to act in `epoch` or below."""

    operation: int
    epoch: int


class Lease(NamedTuple):
    """At the gateway: the right to act in `epoch` for `left` ticks. On the wire: the answer that grants it."""

    epoch: int
    left: int


class Renewal(NamedTuple):
    """A request; `left` is what a grant would be worth now, counted from its send time."""

    sequence: int
    epoch: int
    left: int
    awaited: bool = True
    """False when the process that asked has stopped: the answer reaches nobody."""


class Release(NamedTuple):
    sequence: int
    epoch: int
    counted: bool = True
    """Whether the process that said it was the one that counts when it ended."""


class Directive(NamedTuple):
    """What the control plane wanted of one gateway when this was sent."""

    epoch: int
    active: bool
    operation: int
    cancelled: bool


class Call(NamedTuple):
    """An effect on its way outside. `seen` is false when the process that began it is gone."""

    epoch: int
    left: int
    seen: bool


class Control(NamedTuple):
    """The durable rows of the control plane."""

    stage: str
    epoch: int
    active: int
    lease_open: bool
    lease_left: int
    """Ticks until the stored end of the lease; below zero it ended so long ago."""
    sequence: int
    operation: int
    """Number of the operation whose fence order stands in the route, 0 for none."""
    cancelled: bool
    acknowledged: bool
    risk_left: int
    """Ticks until the recorded end of the risk of a forced move, -1 when it is over."""
    blocked_left: int
    """Ticks until leases are granted again, -1 when they are."""
    sign_left: int
    """Ticks for which the last sign of life of the target counts, -1 when none does."""
    sworn: tuple[int, int]
    """For each gateway the highest epoch of a stored acknowledgement. Not a row; what the property refers to."""
    counts: int = 0
    """The place of the process of the first gateway that counts, or `GONE` when that one is not there any more."""
    held_left: int = -1
    """Ticks until another process of the first gateway may count, -1 when it may."""


class Side(NamedTuple):
    """One gateway, its call outside, and what is on the wire from and to it."""

    up: bool = True
    asleep: int = 0
    """0 when awake, else one more than the ticks it has stood still; not counted beyond what matters."""
    epoch: int = 1
    """The highest seen; durable."""
    told_active: bool = False
    """The last directive made it the active one."""
    fence: Fence | None = None
    lease: Lease | None = None
    call: Call | None = None
    renewals: tuple[Renewal, ...] = ()
    grant: Lease | None = None
    release: Release | None = None
    ack: Fence | None = None
    directives: tuple[Directive, ...] = ()


class World(NamedTuple):
    control: Control
    sides: tuple[Side, ...]
    """Both gateways, and the copy of the first one once it was taken."""
    landed: int
    """Highest epoch of a landed effect."""
    operations: int
    crashes: int
    stops: int
    mishaps: int
    naps: int
    """How many of each were used up."""
    fault: str = ""
    """What a step did that must never be done."""


Step = tuple[str, World]
NAMES = ("gateway A", "gateway B", "the copy of A")
COPY, GONE = 2, -1


def gateway_of(index: int) -> int:
    """The gateway whose identity a process has."""
    return 0 if index == COPY else index


class Model:
    """The steps that are possible in a world, and what must not be true of one."""

    def __init__(self, rules: Rules, bounds: Bounds) -> None:
        self.rules, self.bounds = rules, bounds
        self.taken: set[tuple[str, str]] = set()
        """Rows of the table that were taken so far."""

    def beginning(self) -> World:
        """A is active in epoch 1 and knows it; nobody holds a lease; B stands by."""
        control = Control(
            stage="PRIMARY_ACTIVE", epoch=1, active=0, lease_open=True, lease_left=self.bounds.over, sequence=0, operation=0,
            cancelled=False, acknowledged=False, risk_left=-1, blocked_left=-1, sign_left=-1,
            sworn=(0, 0),
        )  # fmt: skip
        sides = (Side(told_active=True), Side(), *((Side(up=False),) if self.bounds.copied_early else ()))
        return World(control, sides, landed=0, operations=0, crashes=0, stops=0, mishaps=0, naps=0)

    def steps(self, world: World) -> Iterator[Step]:
        """Everything that can happen next, each with a sentence."""
        yield from self._time(world)
        yield from self._people(world)
        yield from self._driver(world)
        if len(world.sides) < 2 + self.bounds.clones:
            copy = Side(up=False, epoch=world.sides[0].epoch, fence=world.sides[0].fence)
            yield "the machine of gateway A is copied", world._replace(sides=(*world.sides, copy))
        for index in range(len(world.sides)):
            yield from self._gateway(world, index)
            yield from self._arrivals_at_control(world, index)
            yield from self._arrivals_at_gateway(world, index)

    def violation(self, world: World) -> str:
        """The property that is broken here, or an empty text."""
        if world.fault:
            return world.fault
        control, sides = world.control, world.sides
        if control.risk_left < 0 and sum(map(self._acts, sides)) > 1:
            return "two act at the same instant and no risk is recorded"
        for index, side in enumerate(sides):
            name, sworn = NAMES[index], control.sworn[gateway_of(index)]
            if sworn and self._acts_in(side) <= sworn and self._acts(side):
                return f"{name} acts in an epoch for which its acknowledgement is stored"
        return "the active gateway is fenced for good" if self._is_stuck(world) else ""

    # What is true of a gateway

    def _may_start(self, side: Side) -> bool:
        lease = side.lease
        if not side.up or lease is None:
            return False
        if side.fence and lease.epoch <= side.fence.epoch and self.rules.fenced_discards_grants:
            return False
        return lease.left >= (self.bounds.call if self.rules.effect_needs_room else 1)

    def _acts(self, side: Side) -> bool:
        return side.call is not None or self._may_start(side)

    def _acts_in(self, side: Side) -> int:
        """The lowest epoch this gateway acts in."""
        call, lease = side.call, side.lease
        if call is None:
            return lease.epoch if lease else 0
        return min(call.epoch, lease.epoch) if lease and self._may_start(side) else call.epoch

    def _may_acknowledge(self, side: Side) -> bool:
        """Nothing that the gateway began can still have an effect."""
        call, rules = side.call, self.rules
        return call is None or not (rules.ack_waits_for_effects if call.seen else rules.ack_waits_for_unseen_ends)

    def _may_release(self, side: Side) -> bool:
        return side.call is None or not (side.call.seen or self.rules.release_waits_for_unseen_ends)

    def _lifts(self, directive: Directive, fence: Fence) -> bool:
        if not directive.cancelled or not directive.operation:
            return False
        if not self.rules.cancel_names_operation:
            return True
        if self.rules.cancel_covers_older_orders:
            return fence.epoch == directive.epoch and fence.operation <= directive.operation
        return fence.operation == directive.operation

    def _is_stuck(self, world: World) -> bool:
        control = world.control
        side = world.sides[control.active]
        if self.bounds.clones and control.active == 0 and control.counts != 0:
            return False  # what another process of it promised binds that one
        if control.stage not in ACTIVE or side.fence is None or side.fence.epoch < control.epoch:
            return False
        on_the_way = (self._directive(control, control.active), *side.directives)
        return not any(self._lifts(directive, side.fence) for directive in on_the_way)

    # Time

    def _time(self, world: World) -> Iterator[Step]:
        if any(side.call and side.call.left == 0 for side in world.sides):
            return  # the hard deadline: the call ends before time goes on
        control = world.control
        later = control._replace(
            held_left=max(control.held_left - 1, -1),
            lease_left=max(control.lease_left - 1, self.bounds.over),
            risk_left=max(control.risk_left - 1, -1),
            blocked_left=max(control.blocked_left - 1, -1),
            sign_left=max(control.sign_left - 1, -1),
        )
        sides = tuple(self._sleeps_on(_older(side)) for side in world.sides)
        yield "a tick passes", world._replace(control=later, sides=sides)

    def _sleeps_on(self, side: Side) -> Side:
        return side._replace(asleep=min(side.asleep + 1, self.bounds.sign + 2)) if side.asleep else side

    def _sign_counts(self, world: World) -> bool:
        return not self.bounds.naps or world.control.sign_left >= 0

    def _to_somebody(self, world: World, what: str) -> str:
        """What is wrong with doing this for the target as it is."""
        target = world.sides[1 - world.control.active]
        return f"{what} a gateway that has stood still for long" if target.asleep - 1 > self.bounds.sign else ""

    # The control plane: each step is one transaction under the route's lock

    def _people(self, world: World) -> Iterator[Step]:
        control, bounds = world.control, self.bounds
        room = control.epoch < bounds.epochs
        if control.stage in WISHES and room and world.operations < bounds.operations:
            yield from self._asked_for(world, WISHES[control.stage])
        if control.stage in FENCING:
            if not control.acknowledged or not self.rules.ack_is_final:
                yield "cancel", self._moved(world, "cancel")
            if bounds.force:
                yield "force", self._moved(world, "force")
        if control.stage == "HOLD":
            for event in ("resume_on_primary", "resume_on_dr"):
                yield event, self._resumed(world, event)
        elif room and world.mishaps < bounds.mishaps:
            spent = world._replace(mishaps=world.mishaps + 1, control=control._replace(lease_open=False))
            yield "danger is seen", self._moved(spent, "danger")
            if control.stage in ACTIVE:
                yield "the rows are restored from a backup", self._restored(world)

    def _asked_for(self, world: World, wish: tuple[str, ...]) -> Iterator[Step]:
        """Checks, sign of life, drain and fence in one: before the fence no row is changed that the model knows."""
        number = world.operations + 1
        if self._sign_counts(world) or not self.rules.fence_needs_sign:
            begun = world._replace(operations=number, fault=self._to_somebody(world, "the active gateway is fenced for"))
            yield f"operation {number}: {wish[0]}", self._moved(begun, *wish)

    def _driver(self, world: World) -> Iterator[Step]:
        stage, control = world.control.stage, world.control
        if stage in PROMOTION:
            yield "promoted", self._moved(world, "promoted")
        elif stage in FENCING:
            if control.acknowledged:
                yield "the acknowledgement counts", self._moved(world, "fence_acknowledged")
            elif self._lease_ran_out(control) and (self._sign_counts(world) or not self.rules.promotion_needs_sign):
                late = world._replace(fault=self._to_somebody(world, "time promotes"))
                yield "the lease ran out", self._moved(late, "lease_ran_out")
            if not self._sign_counts(world) and not control.acknowledged:
                yield "the target is silent", self._moved(world, "target_silent")

    def _lease_ran_out(self, control: Control) -> bool:
        if self.rules.wait_covers_block and control.blocked_left >= 0:
            return False
        allowance = self.bounds.drift if self.rules.wait_covers_drift else 0
        return control.lease_left < -allowance or (not self.rules.wait_is_strict and control.lease_left == -allowance)

    def _moved(self, world: World, *events: str) -> World:
        """The rows of the table for these events, one after the other, with all their actions."""
        for event in events:
            row = (world.control.stage, event)
            self.taken.add(row)
            to, actions = MOVES[row]
            for action in actions:
                carry_out = _ACTIONS.get(action)
                if carry_out:
                    world = carry_out(self, world)
            world = world._replace(control=world.control._replace(stage=to))
        return world

    def _resumed(self, world: World, event: str) -> World:
        longest = max(world.control.lease_left, self.bounds.lease) + self.bounds.drift
        resumed = self._moved(world, event)
        return resumed._replace(control=resumed.control._replace(blocked_left=longest))

    def _restored(self, world: World) -> World:
        """The backup is from this epoch but knows none of its leases; the new database is noticed and leases are blocked."""
        bounds = self.bounds
        restored = world.control._replace(lease_left=bounds.over, sequence=0, blocked_left=bounds.lease + bounds.drift)
        return world._replace(control=restored, mishaps=world.mishaps + 1)

    def _stop_lease(self, world: World) -> World:
        ordered = world.control._replace(
            lease_open=False, operation=world.operations, cancelled=False, acknowledged=False
        )  # fmt: skip
        return world._replace(control=ordered)

    def _allow_lease(self, world: World) -> World:
        return world._replace(control=world.control._replace(lease_open=True, cancelled=True))

    def _record_risk(self, world: World) -> World:
        control = world.control
        risk = control.lease_left + self.bounds.drift
        if control.blocked_left >= 0 and self.rules.wait_covers_block:
            risk = max(risk, control.blocked_left)
        if not self.rules.force_records_risk:
            return world
        return world._replace(control=control._replace(risk_left=max(control.risk_left, risk, -1)))

    def _promote(self, world: World, gateway: int) -> World:
        control = world.control
        epoch = control.epoch + 1 if self.rules.promotion_raises_epoch else control.epoch
        promoted = control._replace(
            epoch=epoch, active=gateway, lease_open=True, lease_left=self.bounds.over, sequence=0, operation=0, cancelled=False,
            acknowledged=False, blocked_left=control.blocked_left if self.rules.wait_covers_block else -1, sign_left=-1,
        )  # fmt: skip
        fault = "" if epoch > control.epoch else f"epoch {epoch} is given to a second gateway"
        # What was sent to the control plane in an epoch that is over is refused whenever it arrives; so it may be lost now.
        sides = tuple(side._replace(renewals=(), release=None, ack=None) for side in world.sides)
        return world._replace(control=promoted, sides=sides, fault=fault)

    def _heard(self, world: World, index: int, *, gone: bool = False) -> tuple[World, bool]:
        """A process speaks: whether it counts. It does from here on when the one before it can have nothing any more."""
        control = world.control
        if not self.bounds.clones or index == 1 or control.counts == (GONE if gone else index):
            return world, True
        if gone or (control.held_left >= 0 and self.rules.takeover_waits):
            return world, False
        return world._replace(control=control._replace(counts=index, sequence=0, held_left=-1)), True

    def _directive(self, control: Control, index: int) -> Directive:
        if control.active != gateway_of(index):
            return Directive(control.epoch, active=False, operation=0, cancelled=False)
        return Directive(control.epoch, control.lease_open, control.operation, control.cancelled)

    # A gateway of its own accord

    def _gateway(self, world: World, index: int) -> Iterator[Step]:
        side, name = world.sides[index], NAMES[index]
        if side.call:
            yield f"the call of {name} lands (epoch {side.call.epoch})", self._landed(world, index, side.call)
        if side.asleep:
            yield f"{name} goes on where it stood still", _with(world, index, side._replace(asleep=0))
            return
        if world.naps < self.bounds.naps:
            yield f"{name} stands still", _with(world, index, side._replace(asleep=1))._replace(naps=world.naps + 1)
        if not side.up:
            yield f"{name} starts again", _with(world, index, side._replace(up=True))
            return
        if self._is_asked(world, index):
            given = world._replace(control=world.control._replace(sign_left=self.bounds.sign))
            yield f"{name} gives a sign of life", given
        if self.bounds.calls and side.call is None and self._may_start(side):
            call = Call(side.lease.epoch, self.bounds.call, seen=True)
            yield f"{name} begins a call (epoch {call.epoch})", _with(world, index, side._replace(call=call))
        if side.told_active and not (side.fence and side.fence.epoch >= side.epoch):
            yield from self._sends_renewal(world, index)
        if side.fence and side.ack != side.fence and side.fence.epoch == world.control.epoch and self._may_acknowledge(side):
            yield f"{name} sends its acknowledgement", _with(world, index, side._replace(ack=side.fence))
        if world.crashes < self.bounds.crashes:
            yield f"{name} crashes", _gone(_with(world, index, self._crashed(side)), index)._replace(crashes=world.crashes + 1)
        if world.stops < self.bounds.stops and (side.lease or self.bounds.clones) and self._may_release(side):
            epoch = side.lease.epoch if side.lease else side.epoch
            yield f"{name} stops and gives back what it has", self._stopped(world, index, epoch)

    def _is_asked(self, world: World, index: int) -> bool:
        control = world.control
        wanted = control.stage in FENCING or control.stage in ACTIVE
        return bool(self.bounds.naps) and wanted and control.active != index and control.sign_left < self.bounds.sign

    def _sends_renewal(self, world: World, index: int) -> Iterator[Step]:
        side = world.sides[index]
        if side.epoch != world.control.epoch:
            return  # it would be refused
        renewal = Renewal(_next_sequence(world, index), side.epoch, self.bounds.lease + self.bounds.drift)
        if any(old[1:] == renewal[1:] for old in side.renewals[-1:]):
            return  # the same request of the same tick is on its way
        waiting = side.renewals[-self.bounds.requests + 1 :] if self.bounds.requests > 1 else ()
        sent = _with(world, index, side._replace(renewals=(*waiting, renewal)))
        yield f"{NAMES[index]} asks for a lease", _renumbered(sent, index)

    def _crashed(self, side: Side) -> Side:
        return side._replace(
            up=False,
            told_active=False,
            lease=None if self.rules.restart_drops_lease else side.lease,
            fence=side.fence if self.rules.fence_is_durable else None,
            call=side.call._replace(seen=False) if side.call else None,
            directives=(),
        )

    def _stopped(self, world: World, index: int, epoch: int) -> World:
        side = world.sides[index]
        release = Release(_next_sequence(world, index), epoch, counted=world.control.counts == index)
        renewals = tuple(renewal._replace(awaited=False) for renewal in side.renewals)
        stopped = self._crashed(side)._replace(release=release, renewals=renewals, grant=None)
        return _renumbered(_gone(_with(world, index, stopped), index)._replace(stops=world.stops + 1), index)

    def _landed(self, world: World, index: int, call: Call) -> World:
        after = _with(world, index, world.sides[index]._replace(call=None))
        if call.epoch < world.landed and world.control.risk_left < 0:
            return after._replace(fault=f"an effect of epoch {call.epoch} lands after one of epoch {world.landed}")
        return after._replace(landed=max(call.epoch, world.landed))

    # Messages to the control plane

    def _arrivals_at_control(self, world: World, index: int) -> Iterator[Step]:
        side, name = world.sides[index], NAMES[index]
        for place, renewal in enumerate(side.renewals):
            rest = side._replace(renewals=side.renewals[:place] + side.renewals[place + 1 :])
            late = "" if renewal.awaited else ", whose process has stopped,"
            yield f"the renewal of {name}{late} arrives", self._renewed(_with(world, index, rest), index, renewal)
        if side.release:
            arrived = self._released(_with(world, index, side._replace(release=None)), index, side.release)
            yield f"the release of {name} arrives", arrived
        if side.ack:
            stored = self._acknowledged(world, index, side.ack)
            if stored is not world:
                yield f"the acknowledgement of {name} for operation {side.ack.operation} is stored", stored

    def _renewed(self, world: World, index: int, renewal: Renewal) -> World:
        world, counts = self._heard(world, index, gone=not renewal.awaited)
        control, side = world.control, world.sides[index]
        open_now = control.lease_open or not self.rules.fencing_stops_renewal
        if not counts and self.rules.renewal_names_instance:
            return _renumbered(world, index)
        if control.active != gateway_of(index) or control.epoch != renewal.epoch or not open_now or control.blocked_left >= 0:
            return _renumbered(world, index)
        keeps = self.rules.renewal_keeps_highest_sequence
        sequence = max(control.sequence, renewal.sequence) if keeps else renewal.sequence
        grant = Lease(renewal.epoch, renewal.left) if renewal.awaited else side.grant
        held = self.bounds.lease + (self.bounds.drift if self.rules.takeover_covers_drift else 0)
        stored = control._replace(lease_left=self.bounds.lease, sequence=sequence, held_left=held if self.bounds.clones else -1)
        return _renumbered(_with(world._replace(control=stored), index, side._replace(grant=grant)), index)

    def _released(self, world: World, index: int, release: Release) -> World:
        control = world.control
        its_own = not self.bounds.clones or index == 1 or (release.counted and control.counts == GONE)
        newer = control.sequence < release.sequence or not self.rules.release_checks_sequence or not its_own
        if not its_own and self.rules.release_names_instance:
            return _renumbered(world, index)
        if self.bounds.clones and its_own and newer:
            control = control._replace(held_left=-1)
            world = world._replace(control=control)
        if control.active == gateway_of(index) and control.epoch == release.epoch and control.lease_left > 0 and newer:
            world = world._replace(control=control._replace(lease_left=0))
        return _renumbered(world, index)

    def _acknowledged(self, world: World, index: int, ack: Fence) -> World:
        control = world.control
        meant = control.operation == ack.operation or (control.operation and not self.rules.ack_names_operation)
        if self.bounds.clones and index != 1 and control.counts != index and self.rules.ack_names_instance:
            return world
        if (
            control.active != gateway_of(index)
            or control.epoch != ack.epoch
            or not meant
            or control.cancelled
            or control.lease_open
        ):
            return world
        if control.acknowledged:
            return world
        sworn = (control.sworn[0], ack.epoch) if index == 1 else (ack.epoch, control.sworn[1])
        return world._replace(control=control._replace(acknowledged=True, sworn=sworn))

    # Messages to a gateway

    def _arrivals_at_gateway(self, world: World, index: int) -> Iterator[Step]:
        side, name = world.sides[index], NAMES[index]
        if not side.up or side.asleep:
            return
        world, counts = self._heard(world, index)
        fresh = self._directive(world.control, index)
        if not counts:
            fresh = Directive(fresh.epoch, active=False, operation=0, cancelled=False)
        heard = self._obeyed(side, fresh)
        if heard is not side and heard != side:
            yield self._what_is_heard(name, fresh), _with(world, index, heard)
            if self.bounds.directives:
                kept = side.directives[-self.bounds.directives + 1 :] if self.bounds.directives > 1 else ()
                yield f"a directive for {name} is delayed", _with(world, index, side._replace(directives=(*kept, fresh)))
        for place, directive in enumerate(side.directives):
            rest = side._replace(directives=side.directives[:place] + side.directives[place + 1 :])
            yield f"late: {self._what_is_heard(name, directive)}", _with(world, index, self._obeyed(rest, directive))
        if side.grant:
            taken = _with(world, index, self._lease_taken(side._replace(grant=None), side.grant))
            yield f"the grant for {name} arrives (epoch {side.grant.epoch})", taken

    @staticmethod
    def _what_is_heard(name: str, directive: Directive) -> str:
        order = f", operation {directive.operation}" if directive.operation else ""
        meaning = "cancelled" if directive.cancelled else "fence" if directive.operation else ""
        return f"{name} hears a directive (epoch {directive.epoch}{order} {meaning})"

    def _obeyed(self, side: Side, directive: Directive) -> Side:
        if directive.epoch < side.epoch:
            return side  # the Primary's database is older than what this gateway has seen (I4)
        if directive.epoch > side.epoch:
            fence = side.fence if side.fence and side.fence.epoch >= directive.epoch else None
            side = side._replace(epoch=directive.epoch, lease=None, fence=fence)
        side = side._replace(told_active=directive.active, lease=side.lease if directive.active else None)
        if not directive.operation:
            return side
        if directive.cancelled:
            lifted = side.fence is not None and self._lifts(directive, side.fence)
            return side._replace(fence=None) if lifted else side
        return side._replace(lease=None, fence=self._fence_after(side.fence, directive))

    def _fence_after(self, old: Fence | None, directive: Directive) -> Fence:
        ordered = Fence(directive.operation, directive.epoch)
        late = old is not None and old.epoch == ordered.epoch and old.operation > ordered.operation
        return old if late and old and self.rules.cancel_covers_older_orders else ordered

    def _lease_taken(self, side: Side, grant: Lease) -> Side:
        if grant.epoch < side.epoch:
            return side
        if side.fence and grant.epoch <= side.fence.epoch and self.rules.fenced_discards_grants:
            return side
        left = grant.left if self.rules.lease_counts_from_send else self.bounds.lease + self.bounds.drift
        if side.lease and side.lease.left > left:
            return side  # an answer that was overtaken
        return side._replace(lease=Lease(grant.epoch, left))


_ACTIONS: Mapping[str, Callable[[Model, World], World]] = {
    "stop_lease": Model._stop_lease,
    "allow_lease": Model._allow_lease,
    "record_risk": Model._record_risk,
    "promote_primary": lambda model, world: model._promote(world, 0),
    "promote_dr": lambda model, world: model._promote(world, 1),
}
"""Actions that change something the model knows. Draining, closing an operation and lifting HOLD change nothing here."""


def _with(world: World, index: int, side: Side) -> World:
    return world._replace(sides=(*world.sides[:index], side, *world.sides[index + 1 :]))


def _gone(world: World, index: int) -> World:
    """A process ended; the next one on the same machine is another."""
    return world._replace(control=world.control._replace(counts=GONE)) if world.control.counts == index else world


def _older(side: Side) -> Side:
    """The same gateway a tick later. A lease, a grant or a request that is worth nothing any more is gone."""
    lease, call, grant = side.lease, side.call, side.grant
    if lease is None and call is None and grant is None and not side.renewals:
        return side
    return side._replace(
        lease=_less(lease),
        grant=_less(grant),
        call=call._replace(left=call.left - 1) if call else None,
        renewals=tuple(item._replace(left=item.left - 1) for item in side.renewals if item.left > 1),
    )


def _less(lease: Lease | None) -> Lease | None:
    return Lease(lease.epoch, lease.left - 1) if lease and lease.left > 1 else None


def _sequences(world: World, index: int) -> set[int]:
    """The sequence numbers of a gateway that anything can still be compared with; 0 is the row's own beginning."""
    side, control = world.sides[index], world.control
    known = {0, *(renewal.sequence for renewal in side.renewals)}
    if side.release:
        known.add(side.release.sequence)
    if _is_compared(control, index):
        known.add(control.sequence)
    return known


def _is_compared(control: Control, index: int) -> bool:
    """Whether the row's sequence number is of this process."""
    return control.active == gateway_of(index) and (index == 1 or control.counts in (index, GONE))


def _next_sequence(world: World, index: int) -> int:
    return max(_sequences(world, index)) + 1


def _renumbered(world: World, index: int) -> World:
    """The same order of sequence numbers with the smallest numbers: only their order means anything."""
    known = sorted(_sequences(world, index))
    if known[-1] == len(known) - 1:
        return world
    rank = {number: place for place, number in enumerate(known)}
    side, control = world.sides[index], world.control
    release = side.release._replace(sequence=rank[side.release.sequence]) if side.release else None
    renewals = tuple(item._replace(sequence=rank[item.sequence]) for item in side.renewals)
    if _is_compared(control, index):
        world = world._replace(control=control._replace(sequence=rank[control.sequence]))
    return _with(world, index, side._replace(renewals=renewals, release=release))


Goal = Callable[[World, World], bool]


@dataclass
class Outcome:
    """What an exploration found."""

    states: int
    seconds: float
    complete: bool
    violation: str = ""
    trace: tuple[str, ...] = ()
    reached: dict[str, World] | None = None

    def story(self) -> str:
        """The counterexample, one step a line."""
        lines = [f"{number:3d}. {sentence}" for number, sentence in enumerate(self.trace, 1)]
        return "\n".join([f"after {self.states} states: {self.violation or 'nothing was violated'}", *lines])


def explore(
    model: Model, *, start: World | None = None, goals: Mapping[str, Goal] | None = None, until_reached: bool = False
) -> Outcome:
    """Breadth first over every reachable world, until the first violation. `goals` are noted with the world that reached them."""
    began, wanted, reached = time.perf_counter(), dict(goals or {}), {}
    first = start or model.beginning()
    came_from: dict[World, tuple[World, str] | None] = {first: None}
    waiting = deque([first])
    steps, violation = model.steps, model.violation
    while waiting:
        world = waiting.popleft()
        for sentence, following in steps(world):
            if following in came_from:
                continue
            came_from[following] = (world, sentence)
            for name in [name for name, goal in wanted.items() if goal(world, following)]:
                reached[name] = following
                del wanted[name]
            broken = violation(following)
            if broken or (until_reached and not wanted):
                seconds = time.perf_counter() - began
                return Outcome(len(came_from), seconds, False, broken, _trace(came_from, following), reached)
            waiting.append(following)
    return Outcome(len(came_from), time.perf_counter() - began, True, reached=reached)


def _trace(came_from: Mapping[World, tuple[World, str] | None], world: World) -> tuple[str, ...]:
    sentences = []
    while (step := came_from[world]) is not None:
        world, sentence = step
        sentences.append(sentence)
    return tuple(reversed(sentences))


def without(*rules: str) -> Rules:
    """The design with these rules broken."""
    return replace(Rules(), **dict.fromkeys(rules, False))
