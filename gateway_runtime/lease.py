"""The lease as the gateway counts it: from the send time, on a clock that counts suspend (DESIGN §7). Pure.

`boot` is seconds of CLOCK_BOOTTIME, `wall` unix seconds. The wall clock is only used to notice a machine that was frozen in a
way its boot clock does not see (a paused virtual machine): running ahead of the boot clock ends the lease.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

LARGEST_LEAP = 1.0
"""Seconds the wall clock may run ahead of the boot clock before the lease is not trusted any more."""


class GrantRefusal(StrEnum):
    OLDER_EPOCH = "a higher epoch was seen already"
    FENCED = "this gateway is fenced for this epoch"


@dataclass(frozen=True)
class Lease:
    """The right to cause effects in `epoch` until `until_boot`."""

    epoch: int
    sent_boot: float
    sent_wall: float
    until_boot: float


@dataclass(frozen=True)
class Fenced:
    """A committed promise not to act in this epoch or a lower one, given to one operation by its numbered order."""

    operation: str
    epoch: int
    number: int


@dataclass(frozen=True)
class Promises:
    """What must never be forgotten: the highest epoch seen and the fence that was confirmed."""

    epoch: int
    fenced: Fenced | None


def stricter(one: Promises, other: Promises) -> Promises:
    """Both sets of promises kept: the higher epoch, and the later fence unless that epoch has lifted it."""
    epoch = max(one.epoch, other.epoch)
    fences = [kept for kept in (one.fenced, other.fenced) if kept is not None and kept.epoch >= epoch]
    return Promises(epoch, max(fences, key=lambda kept: (kept.epoch, kept.number), default=None))


@dataclass(frozen=True)
class Permission:
    allowed: bool
    reason: str = ""


def grant(
    *, sent_boot: float, sent_wall: float, ttl: float, epoch: int, highest_epoch_seen: int, fenced: Fenced | None
) -> Lease | GrantRefusal:
    """What an answer to a renewal is worth. Grants of an outdated or fenced epoch are discarded, however they got here."""
    if epoch < highest_epoch_seen:
        return GrantRefusal.OLDER_EPOCH
    if fenced is not None and epoch <= fenced.epoch:
        return GrantRefusal.FENCED
    return Lease(epoch=epoch, sent_boot=sent_boot, sent_wall=sent_wall, until_boot=sent_boot + ttl)


def seconds_left(lease: Lease, boot: float, wall: float) -> float:
    """Seconds this lease lives on; 0 when it has ended or when the clocks disagree."""
    if (wall - lease.sent_wall) - (boot - lease.sent_boot) > LARGEST_LEAP:
        return 0.0
    return max(0.0, lease.until_boot - boot)


def may_start_effect(lease: Lease, boot: float, wall: float, effect_deadline: float, fenced: Fenced | None) -> Permission:
    """Whether an effect may start now: only if the lease outlives the call's hard deadline."""
    if fenced is not None and lease.epoch <= fenced.epoch:
        return Permission(False, f"the gateway is fenced for epoch {fenced.epoch}")
    left = seconds_left(lease, boot, wall)
    if left < effect_deadline:
        return Permission(False, f"the lease lives {left:.1f} s more, but the effect may take {effect_deadline:g} s")
    return Permission(True)
