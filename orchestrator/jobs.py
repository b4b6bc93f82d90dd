"""Celery functions of no app."""

from __future__ import annotations

from celery import shared_task

from orchestrator import workers_seen


@shared_task
def say_that_a_worker_works() -> None:
    workers_seen.leave_word()
