"""A PostgreSQL connection of one's own, outside Django's pool, for LISTEN and for locks that live as long as a session.

And giving the pool's one back while something else is waited for.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from django.db import connection


def open_connection() -> psycopg.Connection:
    """A new autocommit connection to the node's database, with the limits of every session (`common.sessions`).

    The caller closes it. Raises `psycopg.Error`.
    """
    return psycopg.connect(**connection_parameters(), autocommit=True)


def connection_parameters() -> dict[str, Any]:
    """What libpq is told of the node's database."""
    settings = connection.settings_dict
    options = {key: value for key, value in settings["OPTIONS"].items() if key != "pool"}
    named = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    values = {libpq: settings[django] for libpq, django in named.items() if settings.get(django)}
    return {**options, **values}


@contextmanager
def answering_within(asked: psycopg.Connection, seconds: float) -> Iterator[None]:
    """Cut the connection when the block takes longer; what waits in it then raises `psycopg.OperationalError`."""
    timer = threading.Timer(seconds, _cut, [asked])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut(asked: psycopg.Connection) -> None:
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(asked.fileno())) as same:
        same.shutdown(socket.SHUT_RDWR)


def give_connection_back() -> None:
    """Who waits for somebody else holds no database connection: a slow other side would take them all from the other threads."""
    if not connection.in_atomic_block:
        connection.close()
