"""What must hold before a node serves: the database is there, keeps what it confirms, and has its tables."""

from __future__ import annotations

import logging
import time
from io import StringIO

import psycopg
from django.core.management import call_command
from django.db.migrations.loader import MigrationLoader

from common.direct import open_connection
from common.locks import lock_number
from orchestrator.environment import Settings

log = logging.getLogger("mazevault.server")

DURABLE = ("fsync", "synchronous_commit")
"""Settings of PostgreSQL without which a confirmed change may be lost."""
DATABASE_SECONDS = 60.0
REFUSALS = (
    "FATAL:",
    "password",
    "server does not support SSL",
    "certificate",
    "invalid port",
    "invalid connection option",
    "invalid sslmode",
    "no pg_hba.conf entry",
)
"""Words of PostgreSQL and libpq for what does not pass by waiting."""
PASSING = (
    "starting up",
    "shutting down",
    "recovery",
    "too many",
    "remaining connection slots",
    "not yet accepting",
    "terminating",
    "crash",
    "administrator command",
)
"""Words for what passes by itself, though the server says FATAL to it."""


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
    else:
        require_tables()
    if node.gateway is None:
        from gateways import generation

        generation.look()
        generation.keep_times()


def require_tables() -> None:
    """Without any tables nothing works; a few that a newer version needs are told, and readiness waits for them."""
    missing = missing_migrations()
    if any(name == "0001_initial" for _, name in missing):
        raise CannotServe(told_missing(missing))
    if missing:
        log.error("%s; until then this node is not ready", told_missing(missing))


def wait_for_the_database() -> None:
    """Node and database start together after a power cut; whichever is first waits. Raises `CannotServe` after a minute."""
    deadline, told = time.monotonic() + DATABASE_SECONDS, False
    while True:
        try:
            open_connection().close()
            return
        except psycopg.Error as error:
            if is_refusal(error):
                raise CannotServe(f"the database refuses; look at DATABASE_URL: {first_line(error)}") from None
            if time.monotonic() > deadline:
                raise CannotServe(f"the database does not answer; look at DATABASE_URL: {first_line(error)}") from None
            if not told:
                log.warning("the database does not answer yet: %s", first_line(error))
            told = True
            time.sleep(0.5)


def first_line(error: psycopg.Error) -> str:
    """PostgreSQL's or the system's own sentence: of several attempts the last one, without what libpq advises below it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith(("\t", " "))]
    return lines[-1] if lines else type(error).__name__


def is_refusal(error: psycopg.Error) -> bool:
    """Whether waiting is in vain: the server answered and said no, or what was asked of it cannot be asked."""
    text = str(error)
    passes = any(word in text for word in PASSING)
    return not isinstance(error, psycopg.OperationalError) or (not passes and any(word in text for word in REFUSALS))


def missing_migrations() -> list[tuple[str, str]]:
    """Migrations of this version that the database has not made."""
    wanted = MigrationLoader(None).disk_migrations or {}
    with open_connection() as looking:
        there = looking.execute("SELECT to_regclass('django_migrations') IS NOT NULL").fetchone()
        made = set(looking.execute("SELECT app, name FROM django_migrations").fetchall()) if there and there[0] else set()
    return sorted(set(wanted) - made)


def told_missing(missing: list[tuple[str, str]]) -> str:
    app, name = missing[0]
    return (
        f"the database lacks {len(missing)} migrations of this version, the first one is {app} {name}; "
        "run manage.py migrate, or set RUN_MIGRATIONS=true"
    )


def has_no_account(missing: list[tuple[str, str]]) -> bool:
    """Whether this would be the first start of a Primary: it makes the administrator then."""
    if ("accounts", "0001_initial") in missing:
        return True
    with open_connection() as looking:
        found = looking.execute("SELECT EXISTS (SELECT 1 FROM accounts_user)").fetchone()
    return not (found and found[0])


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
            told = StringIO()
            call_command("setup", stdout=told)
            for line in told.getvalue().splitlines():
                log.info("%s", line)
