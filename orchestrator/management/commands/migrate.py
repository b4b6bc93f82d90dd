"""`manage.py migrate`: Django's own, which waits for no table longer than everybody else can wait behind it, and tries again."""

from __future__ import annotations

import logging
import random
import time
from typing import Any

from django.core.management.commands import migrate
from django.db import OperationalError, connections

from common.sessions import MIGRATION_LOCK_SECONDS

log = logging.getLogger("mazevault.migrations")

TRIES = 40
PAUSE_SECONDS = 3.0
"""Between two tries; together they are patient for about four minutes."""
LIMITS = {"lock_timeout": MIGRATION_LOCK_SECONDS, "statement_timeout": 0, "idle_in_transaction_session_timeout": 0}
"""A migration may take long once it has its table. In seconds, 0 is none."""
PASSING = {"55P03": "a table is in use", "40P01": "the migration and others waited for each other"}
"""SQLSTATEs of what passes by itself, in words."""


class Command(migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        session = connections[options["database"]]
        try:
            for tries_left in reversed(range(TRIES)):
                _limit(session)
                try:
                    super().handle(*args, **options)
                    return
                except OperationalError as error:
                    state = getattr(error.__cause__, "sqlstate", "")
                    if state not in PASSING or not tries_left:
                        raise
                log.warning("%s, so the migration waits and tries again", PASSING[state])
                time.sleep(PAUSE_SECONDS * random.uniform(0.7, 1.3))  # noqa: S311  jitter
        finally:
            with session.cursor() as cursor:
                for name in LIMITS:
                    cursor.execute(f"RESET {name}")


def _limit(session: Any) -> None:
    with session.cursor() as cursor:
        for name, seconds in LIMITS.items():
            cursor.execute(f"SET {name} = '{seconds}s'")
