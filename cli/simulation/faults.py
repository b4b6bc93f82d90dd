"""Which faults come when: drawn from a seed before the run begins, so that a run can be told again. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

NONE = "none"
SPELL_EVERY = 600.0
"""Seconds of the run for each spell of a fault; a shorter run has one of each."""
QUIET_BEGIN = 0.15
"""Share of the run before the first fault: a fleet that has not settled shows nothing."""


class Fault(StrEnum):
    """What goes wrong. The values are what `--faults` takes."""

    RESTART = "restart"
    """The Primary is killed and started again."""
    PARTITION = "partition"
    """Some gateways and the Primary hear nothing of each other."""
    ONE_WAY = "one-way"
    """Some gateways are heard and hear nothing, or the other way round."""
    SKEW = "skew"
    """The wall clocks of some gateways jump."""
    SLOW_DISK = "slow-disk"
    """Every commit of the Primary takes long."""
    DUPLICATES = "duplicates"
    """Some messages arrive twice."""


class Loss(StrEnum):
    """What a spell of `PARTITION` or `ONE_WAY` takes away."""

    BOTH = "both"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True)
class Spell:
    """One fault from its begin to its end, in seconds of the run. `share` of the gateways (or messages, for duplicates) have it.

    `strength` is the jump of a clock or the longest delay of a commit, in seconds; 0 for the other faults.
    """

    fault: Fault
    begins: float
    ends: float
    share: float = 1.0
    strength: float = 0.0
    loss: Loss = Loss.BOTH


class FaultsInvalid(ValueError):
    """`--faults` says something else than a list of faults; the sentence names what is known."""


def parse_faults(text: str) -> tuple[Fault, ...]:
    """`restart,skew` as faults in the order of the enum, each once; `none` is none. Raises `FaultsInvalid`."""
    words = [word.strip() for word in text.split(",")]
    if words == [NONE]:
        return ()
    known = [fault.value for fault in Fault]
    for word in words:
        if word not in known:
            why = f"{NONE} stands alone" if word == NONE else f"{word!r} is not known" if word else "a name is missing"
            raise FaultsInvalid(f"--faults: {why}; give some of {', '.join(known)} with commas between them, or {NONE}")
    return tuple(fault for fault in Fault if fault.value in words)


def schedule(faults: Sequence[Fault], seconds: float, randomness: random.Random) -> tuple[Spell, ...]:
    """The spells of a run of so many seconds, by their begin. Every fault of the list comes at least once."""
    spells = [spell for fault in faults for spell in _spells_of(fault, seconds, randomness)]
    return tuple(sorted(spells, key=lambda spell: (spell.begins, spell.fault)))


def _spells_of(fault: Fault, seconds: float, randomness: random.Random) -> Iterator[Spell]:
    """One in each slot of the run, with its end well before the next one begins and before the run ends."""
    count = max(1, int(seconds // SPELL_EVERY))
    slot = seconds * (1 - QUIET_BEGIN) / count
    for number in range(count):
        first = seconds * QUIET_BEGIN + number * slot
        begins = first + randomness.uniform(0, slot * 0.4)
        shortest, longest = _LENGTHS[fault]
        length = min(randomness.uniform(shortest, longest), slot * 0.3)
        yield _spell(fault, begins, begins + length, randomness)


_LENGTHS = {
    Fault.RESTART: (3.0, 20.0), Fault.PARTITION: (30.0, 240.0), Fault.ONE_WAY: (30.0, 240.0), Fault.SKEW: (60.0, 240.0),
    Fault.SLOW_DISK: (20.0, 90.0), Fault.DUPLICATES: (60.0, 240.0),
}  # fmt: skip
"""Shortest and longest spell in seconds: from what nobody notices to well beyond a lease and the age at which a gateway counts as
silent."""


def _spell(fault: Fault, begins: float, ends: float, randomness: random.Random) -> Spell:
    if fault is Fault.PARTITION:
        return Spell(fault, begins, ends, share=randomness.uniform(0.02, 0.25))
    if fault is Fault.ONE_WAY:
        return Spell(fault, begins, ends, share=randomness.uniform(0.02, 0.25), loss=randomness.choice((Loss.UP, Loss.DOWN)))
    if fault is Fault.SKEW:
        jump = randomness.choice((-1, 1)) * randomness.uniform(2.0, 600.0)
        return Spell(fault, begins, ends, share=randomness.uniform(0.02, 0.25), strength=jump)
    if fault is Fault.SLOW_DISK:
        return Spell(fault, begins, ends, strength=randomness.uniform(0.5, 3.0))
    if fault is Fault.DUPLICATES:
        return Spell(fault, begins, ends, share=randomness.uniform(0.05, 0.3))
    return Spell(fault, begins, ends)
