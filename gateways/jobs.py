"""Celery functions of the fleet: each calls one use case; the rows say what is to be done."""

from __future__ import annotations

from datetime import timedelta

from celery import shared_task

from common import audit
from common.clock import now as clock_now
from gateways import dispatch, heartbeats, identity, inbox, rotations, storage_moves, surveys, sync_runs
from gateways.models import MessageReceipt

RECEIPT_LIFE = timedelta(minutes=15)
"""A replay older than the envelope's window (5 min each way) is refused by its time, so its receipt may go."""


@shared_task
def judge_gateways() -> int:
    return heartbeats.count_missed()


@shared_task
def sweep_tasks() -> int:
    return dispatch.sweep(clock_now())


@shared_task
def keep_up_sync_runs() -> int:
    return sync_runs.keep_up(clock_now())


@shared_task
def sweep_storage_moves() -> int:
    return storage_moves.sweep(clock_now())


@shared_task
def keep_up_rotations() -> int:
    return rotations.keep_up(clock_now())


@shared_task
def judge_vault_surveys() -> int:
    return surveys.judge(clock_now())


@shared_task
def reconcile_writes() -> int:
    """Settle received writes; the rows say which, and the same pass runs in every Primary process."""
    return inbox.apply_pending()


@shared_task
def tidy_channel() -> int:
    """Rotate recipient keys and drop receipts that no longer protect anything."""
    identity.ensure_keys()
    dropped, _ = MessageReceipt.objects.filter(received_at__lt=clock_now() - RECEIPT_LIFE).delete()
    return dropped


@shared_task
def chain_audit() -> int:
    return audit.chain_pending()
