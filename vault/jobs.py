"""Celery functions of the vault."""

from __future__ import annotations

from celery import shared_task

from common.clock import now
from vault import node


@shared_task
def forget_answered_requests() -> int:
    """Requests that are too old to be repeated hold a row each; they go."""
    return node.forget_answered(now())
