"""Celery functions of the fleet: each calls one use case; the rows say what is to be done."""

from __future__ import annotations

from datetime import timedelta

from celery import shared_task

from common import audit, retention
from common.clock import now as clock_now
from common.retained import PRIMARY
from gateways import (
    authority_changes,
    dispatch,
    heartbeats,
    inbox,
    instances,
    rotations,
    storage_kept,
    storage_moves,
    surveys,
    sync_runs,
    write_retention,
)
from integrations import plain_configurations

SEALED_AGAIN = timedelta(hours=2)
"""How far back changed configurations are looked at; the look comes every hour."""


@shared_task
def seal_plain_configurations() -> int:
    return plain_configurations.seal(clock_now() - SEALED_AGAIN)


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
def look_for_kept_values() -> int:
    return storage_kept.keep_up(clock_now())


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
def keep_up_authorities() -> int:
    """Announce, promote and end generations of authorities and channel keys; the same in every Primary process."""
    return authority_changes.keep_up(clock_now())


@shared_task
def apply_retention() -> int:
    """Remove what was kept long enough, some thousand rows at a time; the same runs in every Primary process."""
    return retention.apply(PRIMARY) + write_retention.apply() + instances.drop_receipts()


@shared_task
def chain_audit() -> int:
    return audit.chain_pending()
