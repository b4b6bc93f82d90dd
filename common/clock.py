"""The two clocks: this process's wall clock and the database's. `now` is passed on as an argument from here."""

from __future__ import annotations

from datetime import UTC, datetime

from django.db import connection


def now() -> datetime:
    """The wall clock of this process, in UTC."""
    return datetime.now(UTC)


def database_now() -> datetime:
    """The database's clock at this instant (not at the start of the transaction), in UTC."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
    return moment.astimezone(UTC)
