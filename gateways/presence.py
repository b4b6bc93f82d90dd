"""Which running instance of a gateway counts, from what was heard: pure decisions (DESIGN §6, I1, I2).

A machine, a volume or a database can be copied, and then two processes hold the same keys. Each process names itself with an
instance id that is kept nowhere, so the Primary can tell them apart. One instance is current; another one becomes current only
when the former said goodbye, or when nothing it was given can still be in use. Times are the database's.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from protocol.timing import TimeProfile


class Standing(StrEnum):
    CURRENT = "current"
    TAKES_OVER = "takes_over"
    WAITS = "waits"


@dataclass(frozen=True)
class Spans:
    """How long is long enough."""

    quiet: timedelta
    """An instance without a lease is taken for ended after so long. A living one is heard many times meanwhile."""
    lease: timedelta
    """From the grant of a lease until nobody can hold it any more, however far its clock drifts."""
    late: timedelta
    """A message is on its way no longer than this, or it proves nothing about the time of its arrival."""

    @staticmethod
    def of(timing: TimeProfile) -> Spans:
        return Spans(
            quiet=timedelta(seconds=timing.lease_renew + timing.round_trip_max),
            lease=timedelta(seconds=timing.lease_ttl + timing.drift),
            late=timedelta(seconds=timing.round_trip_max),
        )

    @property
    def longest(self) -> timedelta:
        return max(self.quiet, self.lease)


LAG_RISE = 0.05
"""Share of what a message took longer than the known shortest way by which that way grows, once in `Spans.quiet` at most."""


@dataclass(frozen=True)
class Way:
    """The shortest way of an instance's messages by both clocks, in seconds, and when it last grew (a time of the database).

    It falls at once: no message is there before it was sent. It grows slowly, because the gateway's clock may be put back or its
    path become longer, and nothing that it says would count as being of now ever again. Messages that waited somewhere and arrive
    together raise it once: what is held back for a moment proves nothing about now, as before.
    """

    seconds: float
    grown_at: datetime

    def after(self, took: float, now: datetime, spans: Spans) -> Way:
        """The same as `instances.HEAR` has it in SQL. A time of growth that is not yet reached was noted by a clock put back."""
        if took <= self.seconds:
            return Way(took, self.grown_at)
        if now - spans.quiet < self.grown_at <= now:
            return self
        return Way(self.seconds + LAG_RISE * (took - self.seconds), now)


@dataclass(frozen=True)
class Instance:
    """A process as it was heard. `heard_at` counts only messages that came without delay. `shared`: it came with message numbers
    that another instance had used. `waiting_since`: it has been told to wait from then on, without a long silence between."""

    id: uuid.UUID
    first_heard_at: datetime
    heard_at: datetime
    ended: bool = False
    shared: bool = False
    waiting_since: datetime | None = None


@dataclass(frozen=True)
class Known:
    """What is stored of a gateway's instances in this generation."""

    current: Instance | None = None
    until: datetime | None = None
    """Before this moment what the current one was given may still be in use."""
    sequence: int = 0
    """The highest message number of the generation that was taken from anybody."""
    floor: int = 0
    """Numbers up to here were taken long ago: a message that is on time never carries one."""
    evidence_from: datetime | None = None
    """When an administrator last looked; what was heard before proves nothing any more."""


@dataclass(frozen=True)
class Word:
    """One verified message. `fresh` is False when its number was taken before, with another message; `owner` is whose that was.
    `punctual` is False when it was long on its way, so that nobody knows whether its sender still lives."""

    instance: uuid.UUID
    number: int
    now: datetime
    fresh: bool = True
    punctual: bool = True
    owner: Instance | None = None


Pair = tuple[Instance, Instance]


@dataclass(frozen=True)
class Ruling:
    """`used`: the number counts as used, the message is refused and the speaker told a number beyond. `two_lives`: the instances
    that cannot be one life, the speaker first; twice the same one when its very memory was copied."""

    standing: Standing
    speaker: Instance
    until: datetime
    used: bool = False
    two_lives: Pair | None = None


def judge(known: Known, speaker: Instance | None, word: Word, spans: Spans) -> Ruling:
    """What a message says about who lives. For every message that is not plainly the next one of the current instance."""
    until = _capped(known.until, word.now, spans)
    again, used = _says_its_own_number_again(word), _uses_a_taken_number(known, speaker, word)
    is_current = known.current is not None and known.current.id == word.instance
    heard = _heard(speaker, word, shared=used and not is_current, spans=spans)
    standing = _standing(known.current, heard, until, word.now, used=used)
    since = (heard.waiting_since or word.now) if standing is Standing.WAITS else None
    heard = replace(heard, waiting_since=since)
    both = (heard, heard) if again else _two_lives(known, heard, word, standing, spans)
    return Ruling(standing, heard, until, used, both)


def _says_its_own_number_again(word: Word) -> bool:
    """One process never gives a number twice: then its memory was copied and both copies go on."""
    return not word.fresh and word.owner is not None and word.owner.id == word.instance


def _uses_a_taken_number(known: Known, speaker: Instance | None, word: Word) -> bool:
    """A new process begins beyond every number of the former one, unless its database is a copy or was put back."""
    return not word.fresh or word.number <= known.floor or (speaker is None and word.number <= known.sequence)


def _heard(speaker: Instance | None, word: Word, *, shared: bool, spans: Spans) -> Instance:
    if speaker is None:
        return Instance(word.instance, word.now, word.now, shared=shared)
    silent = word.now - speaker.heard_at > spans.longest
    return replace(
        speaker,
        heard_at=word.now if word.punctual else speaker.heard_at,
        shared=speaker.shared or shared,
        waiting_since=None if silent else speaker.waiting_since,
    )


def _standing(current: Instance | None, speaker: Instance, until: datetime, now: datetime, *, used: bool) -> Standing:
    if current is not None and current.id == speaker.id and not speaker.ended:
        return Standing.CURRENT
    free = current is None or current.ended or now > until
    return Standing.TAKES_OVER if free and not speaker.ended and not used else Standing.WAITS


def _two_lives(known: Known, speaker: Instance, word: Word, standing: Standing, spans: Spans) -> Pair | None:
    """Two instances that used the same numbers, or of which neither falls silent for the other, and that both live now."""
    if word.owner is not None and _lived_after(word.owner, speaker.first_heard_at, known, spans.late):
        return speaker, word.owner
    other = known.current
    if standing is not Standing.WAITS or other is None or other.id == speaker.id:
        return None
    if speaker.shared and _lived_after(other, speaker.first_heard_at, known, spans.late):
        return speaker, other
    if speaker.waiting_since and _lived_after(other, speaker.waiting_since, known, spans.longest):
        return speaker, other
    return None


def _lived_after(other: Instance, moment: datetime, known: Known, margin: timedelta) -> bool:
    since = max(moment, known.evidence_from) if known.evidence_from else moment
    return other.heard_at > since + margin


def _capped(until: datetime | None, now: datetime, spans: Spans) -> datetime:
    """A clock that was put back makes nobody wait for longer than a whole lease from now."""
    return min(until or now, now + spans.longest)
