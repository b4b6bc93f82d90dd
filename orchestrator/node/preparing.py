"""What must hold before a node serves: the database is there, keeps what it confirms, and has its tables."""

from __future__ import annotations

import logging
import time

import psycopg
from django.core.management import call_command

from common.direct import open_connection
from common.locks import lock_number
from orchestrator.environment import Settings

log = logging.getLogger("mazevault.server")

DURABLE = ("fsync", "synchronous_commit")
"""Settings of PostgreSQL without which a confirmed change may be lost."""
DATABASE_SECONDS = 60.0


class CannotServe(Exception):
    """This node cannot start; the sentence says why and what to do."""


def prepare(node: Settings) -> None:
    """Wait for the database and bring it to where this version needs it. Raises `CannotServe`."""
    if node.production and node.failpoint:
        raise CannotServe("MAZEVAULT_FAILPOINT is for tests; unset it where MAZEVAULT_ENV is production")
    wait_for_the_database()
    require_durability(node)
    if node.run_migrations:
        bring_up_to_date(node)
    if node.gateway is None:
        from gateways import generation

        generation.look()


def wait_for_the_database() -> None:
    """Node and database start together after a power cut; whichever is first waits. Raises `CannotServe` after a minute."""
    deadline, told = time.monotonic() + DATABASE_SECONDS, False
    while True:
        try:
            open_connection().close()
            return
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise CannotServe(f"the database does not answer; look at DATABASE_URL: {str(error).strip()}") from None
            if not told:
                log.warning("the database does not answer yet: %s", type(error).__name__)
            told = True
            time.sleep(0.5)


def require_durability(node: Settings) -> None:
    """What is answered as done must survive a crash of the database (I7). Production refuses to start without that."""
    with open_connection() as looking:
        rows = looking.execute(
            "SELECT name FROM pg_settings WHERE name = ANY(%s) AND setting = 'off'", [list(DURABLE)]
        ).fetchall()
    for (name,) in rows:
        sentence = f"the database runs with {name}=off and loses accepted work when it crashes; set {name} to on"
        if node.production:
            raise CannotServe(sentence)
        log.warning("%s", sentence)


def bring_up_to_date(node: Settings) -> None:
    """Bring the tables up to date, and on a Primary everything `setup` makes. One process at a time does it."""
    with open_connection() as guard:
        guard.execute("SET lock_timeout = 0")  # another process may migrate for long
        guard.execute("SET statement_timeout = 0")
        guard.execute("SELECT pg_advisory_lock(%s)", [lock_number("migrations")])
        call_command("migrate", verbosity=0, interactive=False)
        if node.gateway is None:
            call_command("setup")
