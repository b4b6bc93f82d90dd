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

from benchmarks.measure import Cost, spread
from cli.stack import children, databases
from cli.stack.layout import Layout

WRITES, SECRETS, BATCH, READS = 2000, 400, 100, 400
_TICK = os.sysconf("SC_CLK_TCK")


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
    writes, upsert = _reconciled(made), _upserted()
    reads, selects = _reads(made), _selects(made)
    return {
        "writes": writes,
        "raw_upserts": upsert,
        "applied_to_raw_upserts": round(writes["applied"]["per_second"] / upsert["per_second"], 3),
        "secret_read": reads,
        "raw_indexed_select": selects,
        "method": f"{WRITES} signed writes to {SECRETS} secrets in batches of {BATCH}, one process and its one session; as many "
        f"upserts in transactions of {BATCH} rows; {READS} reads through the API's views, each with its committed audit entry. "
        "per_core_second: of this process and its session's together, so that a machine with other work is measured too",
    }


def clocked(work: Callable[[], object]) -> Cost:
    """What a piece of work costs: seconds, and seconds of a core here and in the database's session."""
    from django.db import connection

    connection.ensure_connection()
    session = connection.connection.info.backend_pid
    before = time.perf_counter(), time.process_time(), _core_seconds_of(session)
    work()
    return Cost(time.perf_counter() - before[0], time.process_time() - before[1], _core_seconds_of(session) - before[2])


def _core_seconds_of(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


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
    return {
        "gateway": gateway,
        "secrets": list(Secret.objects.order_by("key")),
        "actor": factories.signed_in_at("NPR", writer),
        "project": project,
    }


def _reconciled(cast: dict[str, Any]) -> dict[str, Any]:
    """The whole way of a signed write, then the same writes once more. Each part by itself and all of them together."""
    from common import audit, feed
    from common.clock import database_now
    from gateways import inbox
    from gateways.models import ReceivedWrite
    from protocol.writes import WriteBatch
    from vault.models import SecretVersion

    row, batches = cast["gateway"].row, _batches(_signed(cast))

    def take() -> None:
        for batch in batches:
            inbox.take_batch(row, WriteBatch(writes=batch), database_now())

    def apply() -> None:
        while inbox.apply_pending():
            pass

    taken, applied = clocked(take), clocked(apply)
    chained, placed = clocked(audit.chain_all_pending), clocked(feed.place_pending)
    assert ReceivedWrite.objects.filter(outcome="applied").count() == WRITES
    made = SecretVersion.objects.filter(write__isnull=False).count()

    def again() -> None:
        take()
        apply()

    replayed = clocked(again)
    assert SecretVersion.objects.filter(write__isnull=False).count() == made == WRITES
    whole = taken + applied + chained + placed
    return {
        "taken": taken.rates(WRITES), "applied": applied.rates(WRITES), "audit_chained": chained.rates(WRITES),
        "changes_placed": placed.rates(WRITES), "all_together": whole.rates(WRITES), "replayed": replayed.rates(WRITES),
        "replay_times_as_fast": round(whole.wall / replayed.wall, 1),
    }  # fmt: skip


def _signed(cast: dict[str, Any]) -> list[Any]:
    """Successive writes of one gateway: each on the version the Primary has, or on its own write before."""
    from protocol.writes import head_of

    newest: dict[Any, str] = {}
    writes = []
    for number in range(WRITES):
        secret = cast["secrets"][number % SECRETS]
        previous = newest.get(secret.id, "")
        base = None if previous else 1
        write = cast["gateway"].write(secret, f"value {number}", actor=cast["actor"], previous=previous, base_version=base)
        newest[secret.id] = head_of(write.head).id
        writes.append(write)
    return writes


def _batches(writes: list[Any]) -> list[list[Any]]:
    return [writes[at : at + BATCH] for at in range(0, len(writes), BATCH)]


def _upserted() -> dict[str, float]:
    """The least that storing as many rows could cost here: one after the other in transactions of a batch."""
    from django.db import connection, transaction

    ids = [uuid.uuid4() for _ in range(SECRETS)]
    rows = [(ids[number % SECRETS], number, os.urandom(100)) for number in range(WRITES)]

    def upsert() -> None:
        with connection.cursor() as cursor:
            for batch in _batches(rows):
                with transaction.atomic():
                    cursor.executemany(
                        "INSERT INTO bench_upsert VALUES (%s, %s, %s) "
                        "ON CONFLICT (id) DO UPDATE SET version = excluded.version, value = excluded.value",
                        batch,
                    )

    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE bench_upsert (id uuid PRIMARY KEY, version integer, value bytea)")
    return clocked(upsert).rates(WRITES)


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
