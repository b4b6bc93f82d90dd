"""How fast queued writes are taken and applied, and how long one read of a secret takes, beside plain SQL on the same database.

Real PostgreSQL with fsync on, the product's own code in this process, no network: what is measured is the work, not a server.
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import spread
from cli.stack import children, databases
from cli.stack.layout import Layout

WRITES, SECRETS, BATCH, READS = 2000, 400, 100, 400


def reconcile() -> dict[str, object]:
    """Writes a second taken and applied, milliseconds of a read, and the same on bare tables."""
    return on_a_database(_measure)


def on_a_database(measure: Callable[[], dict[str, object]]) -> dict[str, object]:
    """Measure on a PostgreSQL of its own, with fsync on."""
    with tempfile.TemporaryDirectory(prefix="mazevault-bench-") as folder:
        own = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
        servers = databases.start(Layout(var=Path(folder)), own)
        os.environ |= {"DATABASE_URL": servers.admin_url, "REDIS_URL": servers.redis_for(0)}
        try:
            _prepare_database()
            return measure()
        finally:
            from django.db import connection

            connection.close()
            children.stop(servers.children, 5)


def _prepare_database() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "orchestrator.settings.test"
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


def _measure() -> dict[str, object]:
    made = cast()
    taken, applied = _reconciled(made)
    upsert = _upserted()
    reads, selects = _reads(made), _selects(made)
    return {
        "writes_taken_per_second": taken,
        "writes_applied_per_second": applied,
        "raw_upserts_per_second": upsert,
        "secret_read": reads,
        "raw_indexed_select": selects,
        "method": f"{WRITES} signed writes to {SECRETS} secrets in batches of {BATCH}, one process; as many upserts in "
        f"transactions of {BATCH} rows; {READS} reads through the API's views, each with its committed audit entry",
    }


def cast() -> dict[str, Any]:
    """A Primary, its active gateway, a writer, and secrets in version 1."""
    import logging

    from django.conf import settings

    from accounts.models import Organization, User
    from accounts.setup import ensure_system_roles
    from common.clock import database_now
    from failover import driver
    from failover.transitions import state_of
    from gateways import generation, identity, routes
    from protocol.vocabulary import WriteOperation
    from protocol.writes import WriteBody
    from tests import factories
    from tests.fakes.gateway import FakeGateway
    from vault import succession
    from vault.models import Secret
    from vault.ports import Origin, SecretChange
    from vault.secrets import apply_change

    logging.disable(logging.WARNING)
    codes = settings.MAZEVAULT.gateway_environments
    routes.ensure_environments(codes)
    for code in codes:
        state_of(code)
    succession.ensure_authorities(codes)
    ensure_system_roles()
    generation.look()
    identity.ensure_keys()
    gateway = FakeGateway("gw-npr-primary").enrol()
    gateway.heartbeat()
    driver.drive_all()
    gateway.take_over()
    assert Organization.objects.count() == 0
    project = factories.project()
    dev = factories.environment_of(project, "dev")
    writer = User.objects.create(email="writer@example.com", full_name="Writer", role="secret_manager", password="!")  # noqa: S106
    from django.db import transaction

    for number in range(SECRETS):
        body = WriteBody(value=f"first value of {number}")
        change = SecretChange(WriteOperation.CREATE, uuid.uuid4(), project.id, dev.id, f"key-{number}", None, body)
        with transaction.atomic():
            apply_change(change, Origin("user:bench"), None, database_now())
    return {"gateway": gateway, "secrets": list(Secret.objects.order_by("key")), "actor": f"user:{writer.id}", "project": project}


def _reconciled(cast: dict[str, Any]) -> tuple[int, int]:
    from common.clock import database_now
    from gateways import inbox
    from gateways.models import ReceivedWrite
    from protocol.writes import WriteBatch, head_of

    gateway, newest, writes = cast["gateway"], {}, []
    for number in range(WRITES):
        secret = cast["secrets"][number % SECRETS]
        previous = newest.get(secret.id, "")
        base = None if previous else 1
        write = gateway.write(secret, f"value {number}", actor=cast["actor"], previous=previous, base_version=base)
        newest[secret.id] = head_of(write.head).id
        writes.append(write)
    row = gateway.row
    began = time.perf_counter()
    for at in range(0, WRITES, BATCH):
        inbox.take_batch(row, WriteBatch(writes=writes[at : at + BATCH]), database_now())
    taken = time.perf_counter() - began
    began = time.perf_counter()
    while inbox.apply_pending():
        pass
    applied = time.perf_counter() - began
    assert ReceivedWrite.objects.filter(outcome="applied").count() == WRITES
    return round(WRITES / taken), round(WRITES / applied)


def _upserted() -> int:
    """The least that storing as many rows could cost here."""
    from django.db import connection, transaction

    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE bench_upsert (id uuid PRIMARY KEY, version integer, value bytea)")
        ids = [uuid.uuid4() for _ in range(SECRETS)]
        began = time.perf_counter()
        for at in range(0, WRITES, BATCH):
            rows = [(ids[number % SECRETS], number, os.urandom(100)) for number in range(at, at + BATCH)]
            with transaction.atomic():
                cursor.executemany(
                    "INSERT INTO bench_upsert VALUES (%s, %s, %s) "
                    "ON CONFLICT (id) DO UPDATE SET version = excluded.version, value = excluded.value",
                    rows,
                )
        return round(WRITES / (time.perf_counter() - began))


def _reads(cast: dict[str, Any]) -> dict[str, float]:
    from tests import factories

    reader = factories.member("secret_manager", project=cast["project"])

    def read(number: int) -> None:
        status, body = reader.get(f"secrets/{cast['secrets'][number % SECRETS].id}")
        assert (status, "value" in body) == (200, True), body

    return spread([_timed(read, number) for number in range(READS)])


def _selects(cast: dict[str, Any]) -> dict[str, float]:
    from django.db import connection

    def select(number: int) -> None:
        with connection.cursor() as cursor:
            identifier = cast["secrets"][number % SECRETS].id
            cursor.execute("SELECT sealed_value FROM vault_secretversion WHERE secret_id = %s AND version = 1", [identifier])
            cursor.fetchone()

    return spread([_timed(select, number) for number in range(READS)])


def _timed(work: Any, number: int) -> float:
    began = time.perf_counter()
    work(number)
    return time.perf_counter() - began
