"""`manage.py serve`: run this node, Primary or gateway, until TERM or INT."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import psycopg
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from common.direct import open_connection
from common.locks import lock_number
from orchestrator.environment import Settings

log = logging.getLogger("mazevault.server")

DURABLE = ("fsync", "synchronous_commit")
"""Settings of PostgreSQL without which a confirmed change may be lost."""

DATABASE_SECONDS = 60.0


class Command(BaseCommand):
    help = "Run this node until TERM or INT."

    def handle(self, *args: Any, **options: Any) -> None:
        node: Settings = settings.MAZEVAULT
        if node.production and node.failpoint:
            raise CommandError("MAZEVAULT_FAILPOINT is for tests; unset it where MAZEVAULT_ENV is production")
        wait_for_the_database()
        require_durability(node)
        if node.run_migrations:
            prepare(node)
        if node.gateway is not None:
            serve_gateway(node)
        else:
            serve_primary(node)


def wait_for_the_database() -> None:
    """Node and database start together after a power cut; whichever is first waits. Raises `CommandError` after a minute."""
    deadline, told = time.monotonic() + DATABASE_SECONDS, False
    while True:
        try:
            open_connection().close()
            return
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise CommandError(f"the database does not answer; look at DATABASE_URL: {str(error).strip()}") from None
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
            raise CommandError(sentence)
        log.warning("%s", sentence)


def prepare(node: Settings) -> None:
    """Bring the tables up to date, and on a Primary everything `setup` makes. One process at a time does it."""
    with open_connection() as guard:
        guard.execute("SELECT pg_advisory_lock(%s)", [lock_number("migrations")])
        call_command("migrate", verbosity=0, interactive=False)
        if node.gateway is None:
            call_command("setup")


def serve_primary(node: Settings) -> None:
    """The control plane: API, machine channel, and the light loops."""
    from gateways import generation
    from gateways.directives import room
    from orchestrator import loops
    from orchestrator.listener import primary_context
    from orchestrator.server import FreshContext, NodeServer
    from orchestrator.wsgi import application

    generation.look()
    stop = threading.Event()
    context = FreshContext(node.tls_directory / "server.crt", primary_context()) if node.tls_enabled else None
    server = NodeServer(application, host=node.listen_host, port=node.listen_port, threads=node.threads, context=context)

    def listening() -> None:
        loops.start(stop)
        log.info("MazeVault %s in primary mode listens on %s:%s", node.version, node.listen_host, node.listen_port)

    def stopping() -> None:
        stop.set()
        room.close()

    server.run_here(on_listening=listening, on_stop=stopping)


def serve_gateway(node: Settings) -> None:
    """A gateway: enrol, then serve and keep the loops running."""
    import signal

    from gateway_runtime import current
    from gateway_runtime.enroll import EnrolmentImpossible
    from gateway_runtime.identity import StateFileBroken, key_password, tls_files
    from gateway_runtime.supervisor import Supervisor
    from orchestrator.server import FreshContext, NodeServer, server_context
    from orchestrator.wsgi import application

    assert node.gateway is not None  # noqa: S101  the caller looked
    supervisor = Supervisor()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop.set())
    try:
        identity = supervisor.enrol()
    except (EnrolmentImpossible, StateFileBroken) as error:
        raise CommandError(str(error)) from error
    current.supervisor = supervisor
    _, certificate = tls_files(node.gateway.state_file, identity, node.master_key)
    root, password = identity.root, key_password(node.master_key)
    context = FreshContext(certificate, lambda: server_context(str(certificate), None, root, password))
    server = NodeServer(application, host=node.listen_host, port=node.listen_port, threads=node.threads,
                        context=context if node.tls_enabled else None)  # fmt: skip
    server.run_here(on_listening=supervisor.start, on_stop=supervisor.shut_down)
