"""Celery functions of the accounts app."""

from __future__ import annotations

from celery import shared_task

from accounts import lockout, rates
from common.clock import now


@shared_task
def forget_old_failures() -> int:
    """Failed sign-ins that no longer count hold an address each; they and the counts of past minutes go."""
    moment = now()
    return lockout.prune(moment) + rates.prune(moment)
