"""Reading the database as of one moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction

from common.clock import now


@contextmanager
def snapshot() -> Iterator[str]:
    """See the whole database as of one moment (RFC 3339, given to the caller), however long the reading takes."""
    moment = now().isoformat()
    if connection.in_atomic_block:
        yield moment
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield moment
