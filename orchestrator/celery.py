"""Celery: wake-up signals only. Messages carry ids, results are ignored, PostgreSQL holds every truth (I19)."""

from __future__ import annotations

import logging.config
import os
import sys
from typing import Any

from celery import Celery, Task, signals
from django.conf import settings
from django.db import Error as DatabaseError

from common.environ import EnvironmentMistake
from common.logs import JSON
from common.outages import is_outage
from orchestrator.mode import settings_module


def _settings_or_sentences() -> None:
    """Celery would tell a wrong setting in a traceback."""
    try:
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", settings_module(os.environ))
        settings.INSTALLED_APPS  # noqa: B018  reads all of them now
    except EnvironmentMistake as mistake:
        sys.exit("\n".join(["this worker cannot run:", *(f"- {sentence}" for sentence in mistake.sentences)]))


class Job(Task):
    """A function of the worker. While the database is away there is nothing to do and nothing to tell of each try: rows say what
    is to be done, and the next message comes within seconds."""

    def __call__(self, *args: Any, **more: Any) -> Any:
        try:
            return super().__call__(*args, **more)
        except DatabaseError as error:
            if not is_outage(error):
                raise
            return None


@signals.setup_logging.connect
def log_as_the_node_does(loglevel: int | str | None = None, **_: Any) -> None:
    """Celery would add lines in a form of its own. `--loglevel` counts for what is not ours, as before."""
    logging.config.dictConfig(settings.LOGGING)
    if loglevel is not None:
        logging.getLogger().setLevel(loglevel)


if not settings.configured:
    _settings_or_sentences()
    if settings.MAZEVAULT.log_format == JSON:  # also what Python and Celery warn of before the worker sets up its log
        logging.captureWarnings(True)
        log_as_the_node_does()
app = Celery("mazevault", task_cls=Job)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 300, "socket_timeout": 10, "socket_connect_timeout": 5},
    task_time_limit=240,
    beat_schedule={
        "drive-failovers": {"task": "failover.jobs.drive_failovers", "schedule": 1.0, "options": {"expires": 1}},
        "judge-gateways": {"task": "gateways.jobs.judge_gateways", "schedule": 5.0, "options": {"expires": 5}},
        "sweep-tasks": {"task": "gateways.jobs.sweep_tasks", "schedule": 5.0, "options": {"expires": 5}},
        "keep-up-sync-runs": {"task": "gateways.jobs.keep_up_sync_runs", "schedule": 5.0, "options": {"expires": 5}},
        "sweep-storage-moves": {"task": "gateways.jobs.sweep_storage_moves", "schedule": 5.0, "options": {"expires": 5}},
        "look-for-kept-values": {"task": "gateways.jobs.look_for_kept_values", "schedule": 10.0, "options": {"expires": 10}},
        "judge-vault-surveys": {"task": "gateways.jobs.judge_vault_surveys", "schedule": 10.0, "options": {"expires": 10}},
        "keep-up-rotations": {"task": "gateways.jobs.keep_up_rotations", "schedule": 15.0, "options": {"expires": 15}},
        "reconcile-writes": {"task": "gateways.jobs.reconcile_writes", "schedule": 1.0, "options": {"expires": 1}},
        "keep-up-authorities": {"task": "gateways.jobs.keep_up_authorities", "schedule": 60.0, "options": {"expires": 60}},
        "watch-client-secret": {
            "task": "accounts.jobs.watch_client_secret",
            "schedule": 600.0,
            "options": {"expires": 600},
        },
        "forget-old-failures": {
            "task": "accounts.jobs.forget_old_failures",
            "schedule": 300.0,
            "options": {"expires": 300},
        },
        "seal-plain-configurations": {
            "task": "gateways.jobs.seal_plain_configurations",
            "schedule": 3600.0,
            "options": {"expires": 3600},
        },
        "apply-retention": {"task": "gateways.jobs.apply_retention", "schedule": 60.0, "options": {"expires": 60}},
        "say-that-a-worker-works": {
            "task": "orchestrator.jobs.say_that_a_worker_works",
            "schedule": 30.0,
            "options": {"expires": 30},
        },
        "chain-audit": {"task": "gateways.jobs.chain_audit", "schedule": 1.0, "options": {"expires": 1}},
    },
)
app.autodiscover_tasks(["orchestrator", "accounts", "vault", "gateways", "failover"], related_name="jobs")
