"""When a rotation is due: so many days after the value was set, at the times of a schedule, or at the earlier of both. Pure.

A schedule has the five fields of cron (minute, hour, day of month, month, day of week; as Debian's cron(8) reads them) in UTC,
or in the zone that stands before them: `CRON_TZ=Europe/Prague 30 2 * * SUN`. Where a clock is put forward over a time,
that time comes right after the gap; where it is put back, a fixed time comes once (`cronsim`, which follows Debian's cron).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

LEAST_APART = timedelta(hours=1)
"""A rotation sets off work in every vault that has the value."""
_LOOKED_AT = 60
"""Times in which two that are too close show: those of a day, of a week and of a change of clocks are among them."""
_FIELDS = 5
_ZONE = ("CRON_TZ=", "TZ=")
_EXAMPLE = "such as `0 3 * * 0` (Sundays at 3:00 UTC) or `CRON_TZ=Europe/Prague 30 2 1 * *`"


COUNTED_FROM = "counted_from"
"""Among the settings of a rotation as they rest, never shown: since when its schedule counts."""


class ScheduleInvalid(ValueError):
    """The text is no schedule, or one that never comes or comes too often; the sentence says which."""


@dataclass(frozen=True)
class Schedule:
    """The times of a rotation. Made by `read` only."""

    cron: str
    zone: tzinfo

    def after(self, moment: datetime) -> datetime | None:
        """The first time later than this one, in UTC; None when there is none within 50 years."""
        return next(self._times(moment), None)

    def _times(self, moment: datetime) -> Iterator[datetime]:
        for found in CronSim(self.cron, moment.astimezone(self.zone)):
            yield found.astimezone(UTC)


@lru_cache(maxsize=1024)
def read(text: str) -> Schedule:
    """The schedule of a text. Raises `ScheduleInvalid`."""
    zone: tzinfo = UTC
    cron = text.strip()
    for prefix in _ZONE:
        if cron.upper().startswith(prefix):
            name, _, cron = cron[len(prefix) :].partition(" ")
            zone = _zone(name)
            break
    if len(cron.split()) != _FIELDS:
        raise ScheduleInvalid(f"must have the {_FIELDS} fields of cron, {_EXAMPLE}")
    schedule = Schedule(cron, zone)
    try:
        times = list(islice(schedule._times(datetime(2026, 1, 1, tzinfo=UTC)), _LOOKED_AT))
    except (CronSimError, AssertionError, ValueError, TypeError, OverflowError) as error:
        why = str(error) if isinstance(error, CronSimError) else "it cannot be read"
        raise ScheduleInvalid(f"is no schedule of cron ({why}); write it {_EXAMPLE}") from None
    if not times:
        raise ScheduleInvalid("never comes: no year has this day")
    if any(later - earlier < LEAST_APART for earlier, later in pairwise(times)):
        raise ScheduleInvalid("may come once an hour at most")
    return schedule


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ScheduleInvalid("names a zone that is not known; take one of the IANA database, such as Europe/Prague") from None


def kept(
    rotation: Mapping[str, Any] | None, before: Mapping[str, Any] | None, changed: datetime, now: datetime
) -> dict[str, Any] | None:  # fmt: skip
    """The settings of a rotation as they rest after a change at `now`; until then they were `before`, and the last change was at
    `changed`. A schedule counts from when it was given, or switched on: no other change of its secret moves the next time."""
    said = shown(rotation)
    if not said or not said.get("schedule"):
        return said
    earlier = before or {}
    same = all(earlier.get(name) == said.get(name) for name in ("enabled", "schedule"))
    since = (earlier.get(COUNTED_FROM) or changed.isoformat()) if same else now.isoformat()
    return {**said, COUNTED_FROM: since}


def shown(rotation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The settings as somebody gave them."""
    return None if rotation is None else {name: value for name, value in rotation.items() if name != COUNTED_FROM}


def _counted_from(rotation: Mapping[str, Any], changed: datetime) -> datetime:
    """Of settings that an older release stored, and nobody changed since, only the secret's last change is known."""
    try:
        return datetime.fromisoformat(str(rotation.get(COUNTED_FROM, "")))
    except ValueError:
        return changed


def next_due(rotation: Mapping[str, Any] | None, value_set: datetime | None, changed: datetime) -> datetime | None:
    """When a value is to be replaced; in the past for one that is overdue, None for one that is never due.

    `value_set` is when the present value was set, `changed` when the secret was changed last. A schedule counts from the value,
    or from when it was given if that was later: to an old secret it comes at its own first time. An interval counts from the
    value.
    """
    if not rotation or not rotation.get("enabled") or value_set is None:
        return None
    days, text = rotation.get("rotation_interval_days") or 0, rotation.get("schedule") or ""
    found = [value_set + timedelta(days=days)] if days else []
    if text:
        try:
            at = read(text).after(max(value_set, _counted_from(rotation, changed)))
        except ScheduleInvalid:  # stored by a release that read no schedules
            at = None
        found += [at] if at else []
    return min(found, default=None)


def not_in_force(rotation: Mapping[str, Any] | None, kind: str, *, made_up: bool, rests_here: bool) -> list[str]:
    """What of a rotation's settings has no effect, each as `field: not in force: why`. `made_up`: values of this kind can be."""
    if not rotation:
        return []
    found = []
    if rotation.get("notification_emails"):
        found.append("notification_emails: not in force: this version sends no mail; watch the audit for secret.rotated")
    if not rotation.get("enabled"):
        return found
    text = rotation.get("schedule") or ""
    if text and (wrong := _fault(text)):
        found.append(f"schedule: not in force: it {wrong}")
    if not rests_here:
        found.append("enabled: not in force: values of this project rest in a vault; rotate them by POST secrets/{id}/rotate")
    elif not made_up:
        found.append(f"enabled: not in force: a secret of the type {kind} is not made up; send its successor")
    elif not text and not rotation.get("rotation_interval_days"):
        found.append("enabled: not in force: neither schedule nor rotation_interval_days says when")
    return found


def _fault(text: str) -> str:
    try:
        read(text)
    except ScheduleInvalid as wrong:
        return str(wrong)
    return ""
