"""When an authority's next generation is made, takes over, and is trusted no more. Pure: facts in, one change out (DESIGN §6).

A generation is announced (`next`: trusted, signs nothing), then signs (`current`), then is trusted only for what it has signed
(`retired`), then is nothing but history (`ended`). Which one signs is said by its standing and never by comparing ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from vault.profiles import ENVIRONMENT_PROFILES, GATEWAY_CLIENT, PLATFORM_PROFILES, SignerProfile

ROOT, PLATFORM, CHANNEL = "root", "platform", "channel"
"""The authorities beside one for each gateway environment. `channel` is the key that signs what the Primary says to gateways."""

HANDOVER_MARGIN = timedelta(days=30)
"""The next generation signs so long before the present one could no longer give a whole life: time for a repair by hand."""
ANNOUNCEMENT = timedelta(days=7)
"""A generation is trusted so long before it signs. Gateways look at the trust document every 48 h at the latest."""
ROOT_ANNOUNCEMENT = GATEWAY_CLIENT.life + HANDOVER_MARGIN
"""A new root is shown for longer than a gateway's certificate lives: who slept through all of it has to enrol anew anyhow."""
ROOT_LIFE, INTERMEDIATE_LIFE = timedelta(days=3650), timedelta(days=1825)
CHANNEL_LIFE = timedelta(days=365)
CHANNEL_RESERVE = timedelta(days=120)
"""What a signing key signs counts at once, so it could sign to its end; this is the time a repair may take."""
WARN_SHARE, WARN_DAYS = 3, timedelta(days=180)
"""The generation that signs is too old when less than a third of its life or 180 days are left: the smaller counts."""


class Standing(StrEnum):
    NEXT = "next"
    CURRENT = "current"
    RETIRED = "retired"
    ENDED = "ended"


LIVING = (Standing.NEXT, Standing.CURRENT, Standing.RETIRED)
"""What is trusted."""


class Move(StrEnum):
    ANNOUNCE = "announce"
    """Make the next generation."""
    PROMOTE = "promote"
    """The next generation signs from now on, the present one is retired."""
    END = "end"
    """A retired generation is trusted no more."""


@dataclass(frozen=True)
class Rules:
    """How long a generation lives, how much of that must be left while it signs, and how long it is shown before it signs."""

    life: timedelta
    needs: timedelta
    announcement: timedelta

    @property
    def handover(self) -> timedelta:
        """The rest of life at which the next generation takes over."""
        return self.needs + HANDOVER_MARGIN

    @property
    def reserve(self) -> timedelta:
        """The rest of life at which the next generation is announced."""
        return self.handover + self.announcement


@dataclass(frozen=True)
class Generation:
    """What the decision needs to know. `trusted_until` is set when a generation is retired."""

    number: int
    standing: Standing
    announced_at: datetime
    not_after: datetime
    trusted_until: datetime | None = None


@dataclass(frozen=True)
class Change:
    """`number` is the generation it is about; of an announcement, the number it will get."""

    move: Move
    number: int


def rules_of(authority: str) -> Rules:
    """The rules of the root, the platform, the channel, or else of an environment."""
    if authority == ROOT:
        return Rules(ROOT_LIFE, INTERMEDIATE_LIFE, ROOT_ANNOUNCEMENT)
    if authority == CHANNEL:
        return Rules(CHANNEL_LIFE, CHANNEL_RESERVE, HANDOVER_MARGIN)
    profiles = PLATFORM_PROFILES if authority == PLATFORM else ENVIRONMENT_PROFILES
    return Rules(INTERMEDIATE_LIFE, longest_life(profiles), ANNOUNCEMENT)


def longest_life(profiles: Sequence[SignerProfile]) -> timedelta:
    return max(profile.life for profile in profiles)


def next_change(rules: Rules, found: Sequence[Generation], now: datetime, possible_end: datetime) -> Change | None:
    """The one thing to do now, or None. `possible_end` is when a generation made now would end."""
    by = {one.standing: one for one in found}
    current, following = by.get(Standing.CURRENT), by.get(Standing.NEXT)
    if following is not None and _may_take_over(rules, current, following, now):
        return Change(Move.PROMOTE, following.number)
    if is_due(rules, found, now) and _is_worth_it(current, now, possible_end):
        return Change(Move.ANNOUNCE, 1 + max((one.number for one in found), default=0))
    for one in found:
        if one.standing is Standing.RETIRED and now >= min(one.not_after, one.trusted_until or one.not_after):
            return Change(Move.END, one.number)
    return None


def is_due(rules: Rules, found: Sequence[Generation], now: datetime) -> bool:
    """Whether a next generation should be there by now."""
    by = {one.standing: one for one in found}
    if Standing.NEXT in by:
        return False
    return Standing.CURRENT not in by or by[Standing.CURRENT].not_after - now <= rules.reserve


def trusted_until(rules: Rules, retired: Generation, now: datetime) -> datetime:
    """Until when something that a generation signed can live, once it signs no more."""
    return min(retired.not_after, now + rules.needs)


def warn_below(life: timedelta) -> timedelta:
    """The rest of life of the signing generation at which people are told."""
    return min(life / WARN_SHARE, WARN_DAYS)


def revision(numbers: Sequence[tuple[int, Standing]]) -> int:
    """A number that grows with each change of these generations; the statement with the higher one is the newer one.

    Generations are numbered from 1 without gaps; those that are not named are taken as ended.
    """
    steps = {standing: step for step, standing in enumerate(Standing, start=1)}
    highest = max((number for number, _ in numbers), default=0)
    return steps[Standing.ENDED] * (highest - len(numbers)) + sum(steps[standing] for _, standing in numbers)


def _is_worth_it(current: Generation | None, now: datetime, possible_end: datetime) -> bool:
    """Whether a new generation would outlive the present one by enough: at the end of its issuer's life nothing piles up."""
    if current is None or current.not_after <= now:
        return possible_end > now
    return possible_end - current.not_after > HANDOVER_MARGIN


def _may_take_over(rules: Rules, current: Generation | None, following: Generation, now: datetime) -> bool:
    """After its announcement; at once where the present one gives no whole lives any more."""
    if current is None or current.not_after - now < rules.needs:
        return True
    return now >= following.announced_at + rules.announcement
