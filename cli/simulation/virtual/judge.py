"""Watches the invariants while the run goes on; the first one that breaks ends it (docs/invariants.md, I1 to I10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway_runtime.lease import Lease

EXACT = 1e-6
"""Seconds that arithmetic of floats may be off."""


class InvariantBroken(Exception):
    """`name` is the invariant's number, the text is what was seen."""

    def __init__(self, name: str, sentence: str) -> None:
        super().__init__(f"{name}: {sentence}")
        self.name = name


class Actor(Protocol):
    """A gateway as the judge sees it, in true time, which no gateway knows."""

    name: str

    def acts_until(self) -> float: ...
    def true_time_of(self, boot: float) -> float: ...


class Judge:
    """Facts are told by whoever changes them. Times are true seconds of the run."""

    def __init__(self, drift: float) -> None:
        self.checked = 0
        self._drift = drift
        self._grants: dict[tuple[str, int], str] = {}
        self._epochs: dict[str, int] = {}
        self._applied: set[str] = set()
        self._sequences: dict[tuple[str, str], int] = {}

    def promoted(self, environment: str, epoch: int, gateway: str) -> None:
        """I1: an epoch has one gateway, and epochs only grow."""
        self.checked += 1
        if epoch <= self._epochs.get(environment, 0):
            raise InvariantBroken("I1", f"{environment} went from epoch {self._epochs[environment]} to {epoch}")
        self._epochs[environment] = epoch
        if self._grants.setdefault((environment, epoch), gateway) != gateway:
            raise InvariantBroken("I1", f"epoch {epoch} of {environment} has two gateways")

    def learned(self, gateway: str, before: int, after: int) -> None:
        """I4: what a gateway obeys never comes from an older epoch than one it has seen."""
        self.checked += 1
        if after < before:
            raise InvariantBroken("I4", f"{gateway} went from epoch {before} back to {after}")

    def lease_taken(self, holder: Actor, lease: Lease, stored_until: float, peers: Sequence[Actor], now: float) -> None:
        """I2: nobody else can still act. And a lease lives no longer than the Primary waits for its end."""
        self.checked += 1
        end = holder.true_time_of(lease.until_boot)
        if end > stored_until + self._drift + EXACT:
            raise InvariantBroken(
                "I2", f"{holder.name} holds its lease until {end:.3f}, but the Primary counts on {stored_until + self._drift:.3f}"
            )
        for peer in peers:
            if peer.acts_until() > now + EXACT:
                raise InvariantBroken(
                    "I2", f"{holder.name} may act in epoch {lease.epoch} while {peer.name} may act until {peer.acts_until():.3f}"
                )

    def applied(self, write: str, stream: tuple[str, str], sequence: int, epoch: int, current: int, *, as_new: bool) -> None:
        """I3, I8, I9: only writes of the present are applied, each once, in the order of their stream."""
        self.checked += 1
        if epoch != current and not as_new:
            raise InvariantBroken("I3", f"write {write} of epoch {epoch} was applied in epoch {current}")
        if write in self._applied:
            raise InvariantBroken("I8", f"write {write} was applied twice")
        self._applied.add(write)
        if sequence <= self._sequences.get(stream, 0):
            raise InvariantBroken("I9", f"write {write} of {stream[0]} was applied after a later one")
        self._sequences[stream] = sequence

    def nothing_lost(self, promised: set[str], settled: set[str], waiting: set[str]) -> None:
        """I8: every promised write has an outcome, or still waits somewhere."""
        self.checked += 1
        lost = promised - settled - waiting
        if lost:
            raise InvariantBroken("I8", f"{len(lost)} promised writes are nowhere, for example {min(lost)}")
