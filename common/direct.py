"""A PostgreSQL connection of one's own, outside Django's pool, for LISTEN and for locks that live as long as a session.

And giving the pool's one back while something else is waited for.
"""

from __future__ import annotations

import psycopg
from django.db import connection


def open_connection() -> psycopg.Connection:
    """A new autocommit connection to the node's database. The caller closes it. Raises `psycopg.Error`."""
    settings = connection.settings_dict
    options = {key: value for key, value in settings["OPTIONS"].items() if key != "pool"}
    named = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    values = {libpq: settings[django] for libpq, django in named.items() if settings.get(django)}
    return psycopg.connect(**{**options, **values}, autocommit=True)


def give_connection_back() -> None:
    """Who waits for somebody else holds no database connection: a slow other side would take them all from the other threads."""
    if not connection.in_atomic_block:
        connection.close()
