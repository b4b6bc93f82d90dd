"""How often somebody may call: counted in PostgreSQL by the minute, so that emptying Redis gives nobody more (I19).

A sign-in is counted one by one. Calls of a credential are counted in this process and carried to the database in slices, so
that a limit of thousands costs few writes; with several processes a credential may exceed it by a slice for each.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import connection

from accounts.models import RateCount
from common.errors import TooManyRequests

SLICES = 60
"""A minute's limit is carried to the database in so many parts."""
_ADD = """
INSERT INTO accounts_ratecount (key, minute, count) VALUES (%s, %s, %s)
ON CONFLICT (key, minute) DO UPDATE SET count = accounts_ratecount.count + excluded.count RETURNING count
"""


@dataclass
class _Tally:
    minute: int
    everywhere: int = 0
    """What the database said last: the calls of all processes."""
    here: int = 0
    """Calls of this process that the database does not know yet."""


_tallies: dict[str, _Tally] = {}
_lock = threading.Lock()


def count_sign_in(account: str, address: str, now: datetime) -> None:
    """Count one try. Raises `TooManyRequests` when there were too many for this account from this address in this minute."""
    limit = settings.MAZEVAULT.sign_ins_per_minute
    if _add(f"sign-in|{account}|{address}", _minute(now), 1) > limit:
        raise _too_many("too many sign-ins for this account from here; wait a moment", limit, now)


def count_call(credential: str, now: datetime) -> int:
    """Count one call of a credential; returns the limit. Raises `TooManyRequests` beyond it, until the minute ends."""
    limit: int = settings.MAZEVAULT.calls_per_minute
    minute, slice_ = _minute(now), max(1, limit // SLICES)
    with _lock:
        tally = _tally(credential, minute)
        tally.here += 1
        carried = tally.here if tally.here >= slice_ else 0
        tally.here -= carried
        tally.everywhere += carried
        counted = tally.everywhere + tally.here
    if carried:
        total = _add(f"call|{credential}", minute, carried)
        with _lock:
            tally.everywhere = max(tally.everywhere, total)
        counted = max(counted, total)
    if counted > limit:
        raise _too_many("too many calls with this token; wait a moment", limit, now)
    return limit


def prune(now: datetime) -> int:
    """Drop the counts of minutes that have passed."""
    dropped, _ = RateCount.objects.filter(minute__lt=_minute(now) - 1).delete()
    return dropped


def _tally(credential: str, minute: int) -> _Tally:
    found = _tallies.get(credential)
    if found is None or found.minute != minute:
        for old in [name for name, tally in _tallies.items() if tally.minute < minute]:
            del _tallies[old]
        found = _tallies[credential] = _Tally(minute)
    return found


def _add(what: str, minute: int, count: int) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_ADD, [hashlib.sha256(what.encode(errors="replace")).hexdigest(), minute, count])
        total: int = cursor.fetchone()[0]
    return total


def _minute(now: datetime) -> int:
    return int(now.timestamp() // 60)


def _too_many(sentence: str, limit: int, now: datetime) -> TooManyRequests:
    error = TooManyRequests(sentence, retry_after=60 - now.timestamp() % 60)
    error.headers["X-RateLimit-Limit"] = str(limit)
    return error
