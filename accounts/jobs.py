"""Celery functions of the accounts app."""

from __future__ import annotations

from celery import shared_task

from accounts import attempts, lockout
from common.clock import now


@shared_task
def forget_old_failures() -> int:
    """Failed sign-ins that no longer count hold an address each; they go, and so do sign-ins that were never finished."""
    return lockout.prune(now()) + attempts.prune(now())
