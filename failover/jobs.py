"""Celery functions of the failover machine."""

from __future__ import annotations

from celery import shared_task

from failover import driver


@shared_task
def drive_failovers() -> int:
    """Take every step that can be taken now, in every environment."""
    return driver.drive_all()
