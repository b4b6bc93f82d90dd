"""Slowing down password guessing: by account and network, and by account alone (DESIGN: kept in PostgreSQL, I19).

Every spelling of an address that finds the same account counts as that account. A failure counts once it is known, after the slow
hash: tries that run beside each other are all checked, which `rates.count_sign_in` bounds before it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from accounts import typed
from accounts.models import FailedSignIn, Session, User
from common.addresses import network_of
from common.errors import TooManyRequests

WINDOW = timedelta(minutes=15)
FAILURES_PER_ADDRESS = 5
"""After so many failures one address waits; a colleague at another address does not."""
FAILURES_PER_ACCOUNT = 50
"""After so many failures from anywhere the account waits, against guessing spread over many addresses."""
KNOWN = timedelta(days=14)
"""Where the owner signed in so lately, strangers elsewhere do not keep them out."""


def key_of(user: User | None, given: str) -> str:
    """What failures of an account are counted under: its id, or a keyed hash of what was typed when there is no such account."""
    return str(user.id) if user else typed.kept(given)


def refuse_when_locked(user: User | None, given: str, address: str, now: datetime) -> None:
    """Raise `TooManyRequests` with the time to wait when there were too many failures lately."""
    recent = FailedSignIn.objects.filter(account=key_of(user, given), at__gt=now - WINDOW).order_by("-at")
    here = recent.filter(address=network_of(address))
    for failures, limit in ((here, FAILURES_PER_ADDRESS), (recent, FAILURES_PER_ACCOUNT)):
        counted = list(failures.values_list("at", flat=True)[:limit])
        if len(counted) == limit and (failures is here or not _is_known(user, address, now)):
            wait = (counted[-1] + WINDOW - now).total_seconds()
            raise TooManyRequests(
                "too many failed sign-ins for this account from here; wait and try again", retry_after=wait, code="ACCOUNT_LOCKED"
            )


def note_failure(account: str, address: str, now: datetime) -> None:
    FailedSignIn.objects.create(account=account, address=network_of(address), at=now)


def forget(account: str, address: str) -> None:
    """A right password ends the count of this address."""
    FailedSignIn.objects.filter(account=account, address=network_of(address)).delete()


def prune(now: datetime) -> int:
    """Drop failures that no longer count."""
    dropped, _ = FailedSignIn.objects.filter(at__lt=now - WINDOW).delete()
    return dropped


def _is_known(user: User | None, address: str, now: datetime) -> bool:
    """Whether the owner of the account signed in from this network lately."""
    if user is None:
        return False
    places = Session.objects.filter(user=user, created_at__gt=now - KNOWN).values_list("address", flat=True).distinct()
    return network_of(address) in {network_of(place) for place in places}
