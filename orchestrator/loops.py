"""The light loops of a Primary, in a process of their own: what Celery does too, so that a dead worker or broker stops nothing
(DESIGN §8).

Each loop calls a use case that is safe to run many times and side by side, waits, and goes on whatever happened.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection

from accounts import secret_watch
from accounts.jobs import forget_old_failures
from common import audit, feed, lanes, outages, progress
from common.clock import now
from common.lanes import Lane
from common.outages import is_outage
from failover import driver
from gateways import (
    audit_chains,
    audit_retention,
    authority_changes,
    copy_digests,
    dispatch,
    generation,
    heartbeats,
    heartbeats_told,
    inbox,
    lease_blocks,
    rotations,
    storage_kept,
    storage_moves,
    storage_own,
    surveys,
    sync_runs,
)
from gateways.jobs import apply_retention
from orchestrator.listener import ensure_server_certificate

log = logging.getLogger("mazevault.loops")

LOOPS: tuple[tuple[str, Callable[[], object], float], ...] = (
    ("failover", driver.drive_all, 0.25),
    ("audit-chain", audit.chain_all_pending, 0.5),
    ("audit-proofs", lambda: audit_chains.prove(now()), 5.0),
    ("audit-retention", lambda: audit_retention.apply(now()), 600.0),
    ("reconcile-writes", inbox.apply_pending, 0.5),
    ("change-feed", feed.place_pending, 5.0),
    ("copy-digests", copy_digests.advance_all, 5.0),
    ("copy-digests-again", copy_digests.check_all, 10.0),
    ("judge", heartbeats.count_missed, 5.0),
    ("heartbeats-told", heartbeats_told.tell, heartbeats_told.SECONDS),
    ("sweep", lambda: dispatch.sweep(now()), 5.0),
    ("sync-runs", lambda: sync_runs.keep_up(now()), 5.0),
    ("vault-claims", lambda: storage_own.sweep_claims(now()), 5.0),
    ("storage-moves", lambda: storage_moves.sweep(now()), 5.0),
    ("kept-values", lambda: storage_kept.keep_up(now()), 10.0),
    ("vault-surveys", lambda: surveys.judge(now()), 10.0),
    ("rotations", lambda: rotations.keep_up(now()), 15.0),
    ("generation", generation.keep_watch, 5.0),
    ("lease-blocks", lease_blocks.end_overdue, 5.0),
    ("client-secret", lambda: secret_watch.look(now()), 600.0),
    ("old-sign-ins", forget_old_failures, 300.0),
    ("authorities", lambda: authority_changes.keep_up(now()), 60.0),
    ("retention", apply_retention, 60.0),
    ("server-certificate", lambda: ensure_server_certificate(settings.MAZEVAULT.tls_directory), 60.0),
)
"""Name, use case, pause in seconds."""
LONGEST_TURN = 600.0
LONGEST_TURNS: Mapping[str, float] = {"failover": 120.0, "judge": 120.0}
"""Seconds after which a turn of a loop stands still: statements and calls have limits of their own, of some seconds each."""


def start(stop: threading.Event) -> list[threading.Thread]:
    """Start all loops as daemon threads; they end soon after `stop` is set."""
    threads = [threading.Thread(target=_run, args=(*loop, stop), name=loop[0], daemon=True) for loop in LOOPS]
    for thread in threads:
        thread.start()
    return threads


def _waits(name: str, pause: float, stop: threading.Event) -> bool:
    """Wait for the next turn; True when there is none."""
    progress.loops.moved(name, pause + LONGEST_TURNS.get(name, LONGEST_TURN))
    ended = stop.wait(pause * random.uniform(0.8, 1.0))  # noqa: S311  jitter
    if ended:
        progress.loops.ended(name)
    return ended


CORE = frozenset({"failover", "judge"})
"""Loops that keep environments served; nothing else uses up their connections."""


def _run(name: str, use_case: Callable[[], object], pause: float, stop: threading.Event) -> None:
    lanes.enter(Lane.CORE if name in CORE else Lane.LOOPS)
    while not _waits(name, pause, stop):
        try:
            use_case()
        except DatabaseError as error:
            if not is_outage(error):
                log.warning("%s: the database gave up: %s", name, outages.cause_of(error))
            stop.wait(1)
        except Exception:  # a loop must outlive any one failure; the traceback is kept
            log.exception("%s: unexpected failure", name)
        finally:
            connection.close()
