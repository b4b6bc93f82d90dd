"""How often somebody may call: counted in PostgreSQL by the minute, so that emptying Redis gives nobody more (I19).

A sign-in is counted one by one, of an account and of all from one network, before anything costly is done. Calls of a
credential are counted in this process and carried to the database in slices, so that a limit of thousands costs few writes;
with several processes a credential may exceed it by a slice for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import connection

from accounts import typed
from accounts.models import RateCount
from common.addresses import network_of
from common.errors import TooManyRequests
from common.process_locks import ProcessLock

SLICES = 60
"""A minute's limit is carried to the database in so many parts."""
ACCOUNTS_PER_NETWORK = 10
"""An office behind one address signs in with ten times the limit of one account; each try costs a slow hash."""
SERVICES_PER_NETWORK = 60
"""Software asks more often, and its secrets are checked quickly."""
GUESSES_PER_NETWORK = 30
"""Wrong secrets in a minute; nobody types so many, and none of them can be guessed anyway."""
ANONYMOUS = "anonymous"
_ADD = """
INSERT INTO accounts_ratecount (key, minute, count) VALUES (%s, %s, %s)
ON CONFLICT (key, minute) DO UPDATE SET count = accounts_ratecount.count + excluded.count RETURNING count
"""


@dataclass
class _Tally:
    everywhere: int = 0
    """What the database said last: the calls of all processes."""
    here: int = 0
    """Calls of this process that the database does not know yet."""


_tallies: dict[int, dict[str, _Tally]] = {}
"""By minute and credential. Two minutes are kept, so that a call at the turn of one is counted; older ones go as a whole."""
_lock = ProcessLock("rates")


def count_sign_in(account: str, address: str, now: datetime) -> None:
    """Count one try. Raises `TooManyRequests` when there were too many in this minute from this network, for any account or
    for this one."""
    limit, network = settings.MAZEVAULT.sign_ins_per_minute, network_of(address)
    _count_one(f"sign-ins|{network}", limit * ACCOUNTS_PER_NETWORK, "too many sign-ins from here; wait a moment", now)
    _count_one(f"sign-in|{account}|{network}", limit, "too many sign-ins for this account from here; wait a moment", now)


def count_entra_sign_in(step: str, address: str, now: datetime) -> None:
    """The same for one step of a sign-in with Entra, of which nobody knows yet whose it is: as many as of all accounts."""
    limit = settings.MAZEVAULT.sign_ins_per_minute * ACCOUNTS_PER_NETWORK
    _count_one(f"entra-{step}|{network_of(address)}", limit, "too many sign-ins from here; wait a moment", now)


def count_service_sign_in(client_id: str, address: str, now: datetime) -> None:
    """The same for a service identity that asks for a token."""
    limit, network = settings.MAZEVAULT.sign_ins_per_minute * SERVICES_PER_NETWORK, network_of(address)
    _count_one(f"clients|{network}", limit, "too many requests for tokens from here; wait a moment", now)
    count_call(f"client|{client_id}|{network}", now)


def count_guess(what: str, address: str, now: datetime) -> None:
    """Count one wrong secret of a kind from this network; raises `TooManyRequests` when there were too many in this minute."""
    _count_one(
        f"guesses|{what}|{network_of(address)}", GUESSES_PER_NETWORK, "too many wrong secrets from here; wait a moment", now
    )


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


def is_first(what: str, now: datetime) -> bool:
    """Whether this is the first of its kind in this minute, of all processes."""
    return _add(f"first|{what}", _minute(now), 1) == 1


def prune(now: datetime) -> int:
    """Drop the counts of minutes that have passed."""
    dropped, _ = RateCount.objects.filter(minute__lt=_minute(now) - 1).delete()
    return dropped


def _tally(credential: str, minute: int) -> _Tally:
    if minute not in _tallies:
        for old in [one for one in _tallies if one < minute - 1]:
            del _tallies[old]
        _tallies[minute] = {}
    return _tallies[minute].setdefault(credential, _Tally())


def _count_one(what: str, limit: int, sentence: str, now: datetime) -> None:
    if _add(what, _minute(now), 1) > limit:
        raise _too_many(sentence, limit, now)


def _add(what: str, minute: int, count: int) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_ADD, [typed.kept(what), minute, count])
        total: int = cursor.fetchone()[0]
    return total


def _minute(now: datetime) -> int:
    return int(now.timestamp() // 60)


def _too_many(sentence: str, limit: int, now: datetime) -> TooManyRequests:
    error = TooManyRequests(sentence, retry_after=60 - now.timestamp() % 60)
    error.headers["X-RateLimit-Limit"] = str(limit)
    return error
