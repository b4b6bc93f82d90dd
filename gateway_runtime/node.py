"""What this gateway may do right now: lease, epoch, fence, running effects, in one place.

Every effect asks `effect` immediately before it acts; nobody else decides. Facts that must survive a crash are committed by
`gateway_runtime.state` before they count here; what takes a right away counts at once as well.

Two locks (docs/adr/0033). `_facts` is held by whoever changes a committed fact, also while that is committed. `_lock` guards the
picture in memory and is held for moments: who asks for the right to act never waits for the database.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from common import outside
from common.clock import boottime, process_clock
from common.process_locks import Condition, ProcessLock, Rank
from gateway_runtime import lease as leases
from gateway_runtime import state
from gateway_runtime.breaker import PAUSE_CAP, Breaker
from gateway_runtime.lease import Fenced, Lease
from gateway_runtime.pacing import MissedBeats
from protocol.messages import Directive, FenceOrder
from protocol.timing import TimeProfile
from protocol.vocabulary import Assignment

log = logging.getLogger("mazevault.gateway.node")


IDLE_CHECK = 0.1
"""Seconds after which a waiting fence looks again whether the last unseen call has passed its deadline."""


ACTING = (Assignment.ACTIVE, Assignment.DRAINING)
"""Roles that may hold a lease."""


class MayNotAct(Exception):
    """The gateway has no right to cause an effect now; the sentence names the reason."""


@dataclass(frozen=True)
class Standing:
    """A consistent look at the node for heartbeats, health and logs. Times are seconds."""

    role: Assignment
    epoch: int
    lease_seconds_left: float
    fenced: Fenced | None
    running_effects: int
    serving: bool
    """Whether it holds the lease."""
    assigned: Assignment = Assignment.STANDBY
    """What it is for callers, whether it is cut off or not: what `state.standing_of` says of the committed facts."""
    stopping: bool = False


class Node:
    """Thread-safe. Built from the committed state by whoever holds the lock of the one process; never inherits a lease."""

    def __init__(self, timing: TimeProfile) -> None:
        self.timing = timing
        self._process = uuid.uuid4()
        self.breaker = Breaker(longest_pause=min(PAUSE_CAP, timing.lease_renew))
        self._facts = ProcessLock("facts of the node", Rank.FACTS)
        self._lock = Condition("node")
        self._lease: Lease | None = None
        self._directive: Directive | None = None
        self._running = 0
        self._unseen_until = 0.0
        self._highest_epoch = 0
        self._fenced: Fenced | None = None
        self._committed_assignment: tuple[str, int] | None = None
        self._life: uuid.UUID | None = None
        self._went_back = False
        self._stopping = False
        self.heartbeats = MissedBeats(timing.heartbeat_interval, time.monotonic())
        self.tasks_succeeded = 0
        self.tasks_failed = 0
        self.take_over()

    def take_over(self) -> None:
        """Act from here on by what is committed. For whoever has just taken the lock of the one process, also again.

        A process before us that did not end in order may live on without its lock, or calls of it may still be under way. Both
        end with its lease at the latest, so until then something counts as running (I2). Where the database was put back under
        us, what was seen and promised here is committed anew, and nothing is accepted before the next directive (I4).
        """
        with self._facts:
            ended_in_order = state.begin_process(self._process)
            row, known = state.this_life(), leases.Promises(self._highest_epoch, self._fenced)
            found = leases.Promises(row.highest_epoch, state.fence_of(row))
            kept = leases.stricter(known, found)
            went_back = self._life is not None and (kept.epoch, kept.fenced or found.fenced) != (found.epoch, found.fenced)
            if went_back and self._life == row.generation:
                log.error("this gateway's database was put back to an earlier state; what it forgot is committed again")
                state.commit_promises(kept.epoch, kept.fenced)
                state.commit_assignment(Assignment.STANDBY, kept.epoch)
                row = state.this_life()
            self._committed_assignment, self._life = (row.assigned_role, row.assigned_epoch), row.generation
            with self._lock:
                self._highest_epoch, self._fenced = kept.epoch, kept.fenced
                self._went_back = self._went_back or went_back
                if not ended_in_order:
                    self._unseen_until = max(self._unseen_until, boottime() + self.timing.lease_ttl + self.timing.drift)

    @property
    def directive(self) -> Directive | None:
        return self._directive

    @property
    def highest_epoch(self) -> int:
        return self._highest_epoch

    def obey(self, directive: Directive) -> bool:
        """Take over a directive. An epoch below one already seen is refused (I4): the Primary's database is older than us.

        One that was overtaken by a later one of its epoch is left alone: it would open again what was closed.
        """
        with self._facts:
            if self._is_overtaken(directive):
                log.info("a directive that came late is left alone: number %s of epoch %s", directive.number, directive.epoch)
                return False
            if not self._learn_epoch(directive.epoch):
                log.error("directive of epoch %s refused: epoch %s was seen already", directive.epoch, self._highest_epoch)
                return False
            why = directive.waits if directive.assigned_role in ACTING else f"the Primary assigns {directive.assigned_role.value}"
            if why:
                self.drop_lease(why)
            self._commit_assignment(directive.assigned_role, directive.epoch)
            with self._lock:
                self._directive, self._went_back = directive, False
                if why:  # a grant may have come meanwhile
                    self._drop_lease(why)
        return True

    def learn_epoch(self, epoch: int) -> bool:
        """Commit a higher epoch before it is used; a lease of a lower one ends. False for an epoch below the highest seen."""
        with self._facts:
            return self._learn_epoch(epoch)

    def wants_lease(self) -> bool:
        """Whether the last directive makes this gateway the active one of an epoch it is not fenced for."""
        with self._lock:
            directive = self._directive
            if directive is None or self._stopping or self._went_back:
                return False
            fenced = self._fenced is not None and self._fenced.epoch >= directive.epoch
            return directive.assigned_role in ACTING and not directive.waits and not fenced

    def take_lease(self, *, epoch: int, ttl: float, sent_boot: float, sent_wall: float) -> bool:
        """Accept a grant, counted from the moment its request was sent. Grants of a fenced or outdated epoch are discarded."""
        with self._lock:
            if self._stopping:
                return False
            granted = leases.grant(
                sent_boot=sent_boot,
                sent_wall=sent_wall,
                ttl=ttl,
                epoch=epoch,
                highest_epoch_seen=self._highest_epoch,
                fenced=self._fenced,
            )
            if not isinstance(granted, Lease):
                log.warning("lease of epoch %s discarded: %s", epoch, granted)
                return False
            if self._lease is None:
                log.info("lease held for epoch %s", epoch)
            self._lease = granted
            return True

    def expel(self, why: str) -> None:
        """The Primary does not know this gateway any more: no lease, no orders, and no word to callers until a new directive."""
        with self._facts:
            with self._lock:
                self._drop_lease(why)
                self._directive = None
            if self._commit_assignment(Assignment.FENCED, self._highest_epoch):
                log.error("this gateway serves nothing any more: %s", why)

    def drop_lease(self, why: str) -> None:
        with self._lock:
            self._drop_lease(why)

    def lease_seconds_left(self) -> float:
        with self._lock:
            return self._seconds_left()

    @contextmanager
    def effect(self) -> Iterator[int]:
        """The only gate to the outside: yields the epoch to act under, or raises `MayNotAct`.

        The lease must outlive the hard deadline of the call that follows (DESIGN §7), and nothing leaves after that deadline,
        however long this process stood still in between.
        """
        boot, wall = boottime(), process_clock()
        with self._lock:
            epoch = self._permit()
            self._running += 1
        try:
            with outside.acting_for(self.timing.effect_deadline, since_boot=boot, since_wall=wall):
                yield epoch
        finally:
            with self._lock:
                self._running -= 1
                self._lock.notify_all()

    def fence(self, order: FenceOrder, deadline_seconds: float) -> bool:
        """Commit the fence, then wait until running effects have ended. True when nothing runs any more (DESIGN §8).

        Effects that began before may run on until their own deadline; until then no acknowledgement may be sent.
        """
        why, fenced = f"fenced by operation {order.operation}", Fenced(order.operation, order.epoch, order.number)
        with self._facts:
            self.drop_lease(why)
            if fenced != self._fenced:
                state.commit_fence(fenced)
            with self._lock:
                self._fenced = fenced
                self._drop_lease(why)  # a grant may have come before the fence counted
        with self._lock:
            return self._wait_until_idle(deadline_seconds)

    def is_outdated(self, order: FenceOrder) -> bool:
        """Whether a later order of the epoch was followed already: answers may overtake each other."""
        with self._lock:
            return self._fenced is not None and (self._fenced.epoch, self._fenced.number) > (order.epoch, order.number)

    def lift_fence(self, order: FenceOrder) -> None:
        """The order was cancelled: act again in the same epoch, with a new lease. Earlier orders were cancelled before it."""
        with self._facts:
            lifted = self._fenced
            if lifted and lifted.epoch == order.epoch and lifted.number <= order.number:
                state.lift_fence()
                with self._lock:
                    self._fenced = None
                log.info("fence of operation %s lifted: it was cancelled", lifted.operation)

    def mind_unseen_end(self, started_boot: float) -> None:
        """A call failed without a clear answer: it may still land until its deadline, and counts as running until then."""
        with self._lock:
            self._unseen_until = max(self._unseen_until, started_boot + self.timing.effect_deadline)

    def stop_acting(self, deadline_seconds: float) -> tuple[int, bool]:
        """No new effects from here on. Returns the epoch of the lease given up (0 for none) and whether all effects ended."""
        with self._lock:
            self._stopping = True
            epoch = self._lease.epoch if self._lease and self._seconds_left() > 0 else 0
            self._drop_lease("the gateway is stopping")
            return epoch, self._wait_until_idle(deadline_seconds)

    def end(self) -> None:
        """Commit that all this process began has ended; for one that stopped acting and waited for it."""
        state.end_process(self._process)

    def running_effects(self) -> int:
        """Effects under way, one more while the end of an earlier one is not known."""
        with self._lock:
            return self._count_running()

    def standing(self) -> Standing:
        with self._lock:
            left = self._seconds_left()
            return Standing(
                role=self._role(left),
                epoch=self._highest_epoch,
                lease_seconds_left=left,
                fenced=self._fenced,
                running_effects=self._count_running(),
                serving=left > 0,
                assigned=self._assigned(),
                stopping=self._stopping,
            )

    def _assigned(self) -> Assignment:
        role, epoch = self._committed_assignment or ("", 0)
        if self._fenced is not None and self._fenced.epoch >= epoch:
            return Assignment.FENCED
        return Assignment(role) if role and epoch >= self._highest_epoch else Assignment.STANDBY

    def _learn_epoch(self, epoch: int) -> bool:
        if epoch > self._highest_epoch:
            state.raise_epoch(epoch)
            with self._lock:
                self._highest_epoch = epoch
                if self._fenced and self._fenced.epoch < epoch:
                    self._fenced = None
                if self._lease and self._lease.epoch < epoch:
                    self._drop_lease(f"epoch {epoch} has begun")
        return epoch >= self._highest_epoch

    def _is_overtaken(self, late: Directive) -> bool:
        """The numbers count in one epoch of one life of the Primary's database."""
        known = self._directive
        same = known is not None and (known.epoch, known.primary_generation) == (late.epoch, late.primary_generation)
        return same and known is not None and 0 < late.number < known.number

    def _commit_assignment(self, role: Assignment, epoch: int) -> bool:
        """False when it is what was committed last."""
        assignment = (role.value, epoch)
        if assignment == self._committed_assignment:
            return False
        state.commit_assignment(role, epoch)
        self._committed_assignment = assignment
        return True

    def _count_running(self) -> int:
        return self._running + (boottime() < self._unseen_until)

    def _wait_until_idle(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._count_running():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._lock.wait(min(left, IDLE_CHECK))
        return True

    def _role(self, left: float) -> Assignment:
        if self._fenced and self._fenced.epoch >= self._highest_epoch:
            return Assignment.FENCED
        assigned = self._directive.assigned_role if self._directive else Assignment.STANDBY
        if assigned in ACTING and left <= 0:
            return Assignment.STANDBY
        return assigned

    def _permit(self) -> int:
        if self._stopping:
            raise MayNotAct("the gateway is stopping")
        if self._lease is None:
            raise MayNotAct("the gateway holds no lease")
        permission = leases.may_start_effect(self._lease, boottime(), process_clock(), self.timing.effect_deadline, self._fenced)
        if not permission.allowed:
            raise MayNotAct(permission.reason)
        return self._lease.epoch

    def _seconds_left(self) -> float:
        return leases.seconds_left(self._lease, boottime(), process_clock()) if self._lease else 0.0

    def _drop_lease(self, why: str) -> None:
        if self._lease is not None:
            log.info("lease of epoch %s dropped: %s", self._lease.epoch, why)
        self._lease = None
