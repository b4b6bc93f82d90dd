"""Slowing down password guessing: by account and address, and by account alone (DESIGN: kept in PostgreSQL, I19)."""

from __future__ import annotations

from datetime import datetime, timedelta

from accounts.models import FailedSignIn
from common.errors import TooManyRequests

WINDOW = timedelta(minutes=15)
FAILURES_PER_ADDRESS = 5
"""After so many failures one address waits; a colleague at another address does not."""
FAILURES_PER_ACCOUNT = 50
"""After so many failures from anywhere the account waits, against guessing spread over many addresses."""


def refuse_when_locked(account: str, address: str, now: datetime) -> None:
    """Raise `TooManyRequests` with the time to wait when there were too many failures lately."""
    recent = FailedSignIn.objects.filter(account=account, at__gt=now - WINDOW).order_by("-at")
    for failures, limit in ((recent.filter(address=address), FAILURES_PER_ADDRESS), (recent, FAILURES_PER_ACCOUNT)):
        counted = list(failures.values_list("at", flat=True)[:limit])
        if len(counted) == limit:
            wait = (counted[-1] + WINDOW - now).total_seconds()
            raise TooManyRequests(
                "too many failed sign-ins for this account from here; wait and try again", retry_after=wait, code="ACCOUNT_LOCKED"
            )


def note_failure(account: str, address: str, now: datetime) -> None:
    FailedSignIn.objects.create(account=account, address=address, at=now)


def forget(account: str, address: str) -> None:
    """A right password ends the count of this address."""
    FailedSignIn.objects.filter(account=account, address=address).delete()


def prune(now: datetime) -> int:
    """Drop failures that no longer count."""
    dropped, _ = FailedSignIn.objects.filter(at__lt=now - WINDOW).delete()
    return dropped
