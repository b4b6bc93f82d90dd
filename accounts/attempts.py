"""Sign-ins under way: begun here, continued at Entra, finished once, in the same browser, within ten minutes."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction

from accounts import resting
from accounts.models import EntraSession, SignInAttempt
from accounts.sessions import hash_token
from common.addresses import network_of
from common.errors import AuthenticationInvalid, TooManyRequests

LIFE = timedelta(minutes=10)
SPENT_LIFE = timedelta(hours=25)
"""An id_token lives for an hour, and for a day at most where an administrator made it so."""
REPLAYED = "SSO_REPLAYED"
MOST_OF_A_BROWSER = 5
"""Begun and not come back. Beyond it the oldest of the same browser goes: tabs that were left open."""
MOST_OF_A_NETWORK = 1000
"""Beyond it nobody begins there until some are over, so that a script that fills the table ends nobody's sign-in under way."""


@dataclass(frozen=True)
class Attempt:
    """A sign-in that came back to the browser it was begun in."""

    flow: str = field(repr=False)


def begin(state: str, flow: str, browser: str, *, address: str, now: datetime) -> None:
    """Keep the secret half of a sign-in, sealed. `browser` is the value of the cookie it is bound to.

    Raises `TooManyRequests`.
    """
    network = network_of(address)
    _refuse_too_many(network, now)
    attempt = SignInAttempt(
        state_hash=hash_token(state), browser_hash=hash_token(browser), address=network, created_at=now, expires_at=now + LIFE
    )
    with transaction.atomic():
        attempt.sealed_flow = resting.sealed(resting.attempt(attempt), flow)
        attempt.save(force_insert=True)
        _drop_oldest(attempt)


def finish(state: str, browser: str, now: datetime) -> Attempt:
    """Take a sign-in out for its one use. Raises `AuthenticationInvalid` with the reason; a replay finds nothing to take."""
    found = SignInAttempt.objects.filter(state_hash=hash_token(state)).first() if state else None
    if found is None:
        raise _refused("this sign-in is not known here", "SSO_STATE_UNKNOWN")
    if not browser or not hmac.compare_digest(found.browser_hash, hash_token(browser)):
        raise _refused("this sign-in was begun in another browser", "SSO_OTHER_BROWSER")
    if found.expires_at <= now:
        raise _refused("this sign-in took too long", "SSO_EXPIRED")
    if not SignInAttempt.objects.filter(pk=found.pk, used_at__isnull=True).update(used_at=now):
        raise _refused("this sign-in was finished already", REPLAYED)
    flow = resting.opened_or_none(resting.attempt(found), found.sealed_flow)
    if flow is None:
        raise _refused("this sign-in is not known here", "SSO_STATE_UNKNOWN")
    return Attempt(flow)


def spend(nonce: str, now: datetime) -> None:
    """Take the proof of a sign-in that a gateway carried out, once. Raises `AuthenticationInvalid` for the second time.

    Remembered for longer than Entra's tokens live, so a gateway cannot make many sessions of one sign-in.
    """
    spent = SignInAttempt(
        state_hash=hash_token(f"gateway|{nonce}"), browser_hash="", address="", created_at=now, used_at=now,
        expires_at=now + SPENT_LIFE,
    )  # fmt: skip
    try:
        with transaction.atomic():
            spent.sealed_flow = resting.sealed(resting.attempt(spent), "")
            spent.save(force_insert=True)
    except IntegrityError as error:
        raise _refused("this sign-in was finished already", REPLAYED) from error


def prune(now: datetime) -> int:
    """Drop attempts that are over, and the Azure tokens of sessions that are."""
    attempts, _ = SignInAttempt.objects.filter(expires_at__lte=now).delete()
    ended = EntraSession.objects.filter(session__revoked_at__isnull=False) | EntraSession.objects.filter(expires_at__lte=now)
    dropped, _ = ended.delete()
    return attempts + dropped


def _refuse_too_many(network: str, now: datetime) -> None:
    waiting = SignInAttempt.objects.filter(address=network, used_at__isnull=True, expires_at__gt=now)
    if waiting[:MOST_OF_A_NETWORK].count() >= MOST_OF_A_NETWORK:
        raise TooManyRequests("too many sign-ins were begun from here and not finished; wait a moment", retry_after=60)


def _drop_oldest(attempt: SignInAttempt) -> None:
    mine = SignInAttempt.objects.filter(address=attempt.address, browser_hash=attempt.browser_hash, used_at__isnull=True)
    beyond = list(mine.order_by("-created_at", "id").values_list("pk", flat=True)[MOST_OF_A_BROWSER : 2 * MOST_OF_A_BROWSER])
    if beyond:
        SignInAttempt.objects.filter(pk__in=beyond).delete()


def _refused(sentence: str, code: str) -> AuthenticationInvalid:
    return AuthenticationInvalid(f"{sentence}; begin the sign-in again", code=code)
