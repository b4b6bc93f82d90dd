"""What every session on the node's database keeps to, so that nobody waits or is waited for without end (docs/adr/0033).

Pure: settings are built from it before Django is there. What DATABASE_URL says goes before these limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LIMITS: Mapping[str, int] = {
    "connect_timeout": 5, "keepalives": 1, "keepalives_idle": 5, "keepalives_interval": 1, "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}  # fmt: skip
"""In libpq's words, in seconds and the last one in milliseconds: that a host is gone is noticed, also by who only waits."""

LOCK_SECONDS = 10
"""Longest wait for a row or an advisory lock. Every orderly transaction is shorter, and who waits answers 503 before its own
caller gives up (15 s and more)."""
STATEMENT_SECONDS = 120
"""Longest statement. Pages and batches take milliseconds; the longest orderly one removes an hour of old rows."""
IDLE_SECONDS = 30
"""Longest pause inside a transaction, after which the server ends the session and its rows are free: its thread stands still, or
its process was frozen. Longer than the slowest orderly pause: a page that is sealed, or an answer that a slow reader takes."""

MIGRATION_LOCK_SECONDS = 3
"""Longest wait of a migration for a table. Everybody else queues behind a migration that waits, so it waits briefly and often."""


def with_limits(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a connection with these limits; what is there already stays, and comes last so that it counts."""
    limits = {
        "lock_timeout": LOCK_SECONDS, "statement_timeout": STATEMENT_SECONDS, "idle_in_transaction_session_timeout": IDLE_SECONDS,
    }  # fmt: skip
    told = " ".join(f"-c {name}={seconds}s" for name, seconds in limits.items())
    return {**LIMITS, **options, "options": f"{told} {options.get('options', '')}".strip()}
