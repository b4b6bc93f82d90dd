"""What is believed of the numbers a gateway says. Pure: facts in, the first number that is not believed out.

A gateway may be taken, broken or put back, so its word alone moves nothing but itself. Believed is what this Primary signed or
took from it, and where it counts by itself a step beyond. What is not believed sets the gateway aside that said it, never its
environment, and is stored nowhere. That this database is older than the world is believed of a mark, which it signed itself (I4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protocol.messages import Heartbeat, Message, TaskResult

SEQUENCE_STEP = 10_000_000
"""Writes a gateway may have numbered beyond those that arrived: its queue holds ten thousand, and a database that was put back
may have lost the rest."""
EPOCH_STEP = 1000
"""Epochs above the route's that a stored report may count for when an environment is resumed: no backup is so many moves old."""
LONGEST_TASK = 7 * 86400.0
"""Seconds."""
COUNTED: Mapping[str, int] = {
    "write_queue_depth": 1_000_000,
    "write_queue_bytes": 2**40,
    "running_effects": 1_000_000,
    "running_tasks": 1_000_000,
}
"""Most of what a gateway counts for others to decide by; its queue and its threads are bounded far below."""
LAST_SEQUENCE = "write_queue_last_sequence"
ITS_OWN = frozenset({"tasks_succeeded", "tasks_failed", "heartbeat_failures", "audit_position"})
"""Counters that are shown as a gateway's word about itself and that nothing is computed from."""


@dataclass(frozen=True)
class Known:
    """What this Primary knows of a gateway and its environment.

    `position` is the end of the change feed. `sequence` is the highest write taken of this life of the gateway. While the
    environment is `frozen`, epochs and positions of a lost past are no lies; positions also until a copy that the gateway was
    told to read anew (`reading_anew`) has been begun.
    """

    epoch: int
    position: int = 0
    sequence: int = 0
    frozen: bool = False
    reading_anew: bool = False


@dataclass(frozen=True)
class Doubt:
    """What is not believed: where it stands in the message, and why."""

    field: str
    said: float | str
    why: str

    def __str__(self) -> str:
        return f"{self.field}: {self.said} is not believed, {self.why}"


def of_heartbeat(beat: Heartbeat, known: Known) -> Doubt | None:
    return _of_epoch(beat.epoch, known) or _of_position(beat.replica_position, known) or of_report(beat, known)


def of_report(said: Message, known: Known) -> Doubt | None:
    """What a message tells of a gateway's queue and work, whichever it is."""
    counts = ((name, getattr(said, name)) for name in COUNTED if hasattr(said, name))
    for name, many in counts:
        if many > COUNTED[name]:
            return Doubt(name, many, f"there are at most {COUNTED[name]}")
    return of_sequence(LAST_SEQUENCE, getattr(said, LAST_SEQUENCE, 0), known)


def of_result(said: TaskResult) -> Doubt | None:
    if said.duration_seconds > LONGEST_TASK:
        return Doubt("duration_seconds", said.duration_seconds, "no task lasts that long")
    return None


def of_sequence(field: str, said: int, known: Known) -> Doubt | None:
    """How far a gateway may have numbered its writes."""
    if said <= known.sequence + SEQUENCE_STEP:
        return None
    return Doubt(field, said, f"writes of this gateway have arrived up to {known.sequence}")


def of_write(epoch: int, sequence: int, writer: str, holder: str | None, known: Known) -> Doubt | None:
    """`holder` is who was active in the epoch the write names, None when nobody knows.

    Only the active gateway accepts writes, so one that was signed for the epoch of another is no honest gateway's.
    """
    if holder is not None and holder != writer:
        return Doubt("epoch", epoch, "another gateway was active in it")
    return _of_epoch(epoch, known) or of_sequence("sequence", sequence, known)


def epoch_floor(epoch: int, reported: Iterable[int], shown: Iterable[int]) -> int:
    """The epoch that the next one must be above: the route's, those of marks, and stored reports as far as they are plausible."""
    plausible = (said for said in reported if said <= epoch + EPOCH_STEP)
    return max([epoch, *plausible, *shown])


def _of_epoch(said: int, known: Known) -> Doubt | None:
    if said <= known.epoch or known.frozen:
        return None
    return Doubt("epoch", said, f"the environment is in epoch {known.epoch} and no mark of a later one was shown")


def _of_position(said: int, known: Known) -> Doubt | None:
    if said <= known.position or known.frozen or known.reading_anew:
        return None
    return Doubt("replica_position", said, f"changes were given up to {known.position} and no mark of a later one was shown")
