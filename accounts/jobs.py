"""Celery functions of the accounts app."""

from __future__ import annotations

from celery import shared_task

from accounts import attempts, lockout, rates, secret_watch, sessions
from common.clock import now


@shared_task
def forget_old_failures() -> int:
    """What no longer counts goes: failed sign-ins, which hold an address each, past minutes, sign-ins never finished, sessions
    and tokens that ended long ago."""
    moment = now()
    return lockout.prune(moment) + rates.prune(moment) + attempts.prune(moment) + sessions.prune(moment)


@shared_task
def watch_client_secret() -> int:
    return secret_watch.look(now())
