"""How fast a gateway copies its environment, and that neither side grows with it: pages from one database into another.

The Primary's half runs in this process, the gateway's in one of its own with its own database; pages go through a pipe as they go
over the wire, without its seal. What is measured are building, encoding, decoding and storing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks.reconcile import cast, on_a_database

COPIED = int(os.environ.get("BENCH_COPIED", "10000"))
GOAL = 100_000
"""Secrets; what the seconds are given for."""


def copy() -> dict[str, object]:
    """Seconds for a copy, memory of both processes at the beginning and at the end."""
    return on_a_database(_measure)


def _measure() -> dict[str, object]:
    from django.db import connection

    made = cast()
    _fill(made, COPIED)
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE bench_gateway")
    url = os.environ["DATABASE_URL"].rsplit("/", 1)
    query = f"?{url[1].split('?', 1)[1]}" if "?" in url[1] else ""
    own = {**os.environ, "DATABASE_URL": f"{url[0]}/bench_gateway{query}", "DJANGO_SETTINGS_MODULE": "orchestrator.settings.test"}
    gateway = subprocess.Popen([sys.executable, "-m", "benchmarks.copy"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=own)
    try:
        return _copied(made, gateway)
    finally:
        gateway.stdin.close()  # type: ignore[union-attr]  # it was made with pipes
        gateway.wait(30)


def _fill(made: dict[str, Any], count: int) -> None:
    """So many secrets at the Primary, each with a value of its own."""
    from django.db import transaction

    from accounts.models import Environment
    from common import audit, feed
    from common.clock import database_now
    from protocol.vocabulary import WriteOperation
    from protocol.writes import WriteBody
    from vault.ports import Origin, SecretChange
    from vault.recording import Recorder
    from vault.secrets import apply_change

    project = made["project"]
    dev = Environment.objects.get(organization_id=project.organization_id, slug="dev")
    for first in range(0, count, 1000):
        with transaction.atomic():
            book = Recorder()
            for number in range(first, min(first + 1000, count)):
                change = SecretChange(
                    WriteOperation.CREATE,
                    uuid.uuid4(),
                    project.id,
                    dev.id,
                    f"copy/{number}",
                    None,
                    WriteBody(value=f"{number:x>64}"),
                )
                apply_change(change, Origin("user:bench"), None, database_now(), place=(project, dev), into=book)
            book.store()
    audit.chain_all_pending()
    feed.place_pending()


def _copied(made: dict[str, Any], gateway: subprocess.Popen[bytes]) -> dict[str, object]:
    from common.clock import database_now
    from gateways import changes
    from protocol.messages import encode
    from protocol.replica import AskChanges

    row, at, pages, told = made["gateway"].row, 0, 0, []
    _line(gateway)
    sent, began, here = 0, time.perf_counter(), time.process_time()
    while True:
        page = changes.take_changes(row, AskChanges(after=at, limit=PAGE), database_now())
        at, sent, pages = page.position, sent + len(page.secrets), pages + 1
        body = encode(page)
        gateway.stdin.write(len(body).to_bytes(8, "big") + body)  # type: ignore[union-attr]
        gateway.stdin.flush()  # type: ignore[union-attr]
        told.append((_resident(), *_line(gateway)))
        if not page.more:
            break
    wall, own = time.perf_counter() - began, time.process_time() - here
    quarter = len(told) // 4
    return {
        "secrets": sent, "pages": pages, "seconds": round(wall, 1), "seconds_for_100000": round(wall * GOAL / sent, 1),
        "core_us_each_primary": round(own / sent * 1e6), "core_us_each_gateway": round(told[-1][2] / sent * 1e6),
        "resident_mib_primary": {"after_a_quarter": told[quarter][0], "at_the_end": told[-1][0]},
        "resident_mib_gateway": {"after_a_quarter": told[quarter][1], "at_the_end": told[-1][1]},
        "method": f"{sent} secrets of 64 bytes in pages of {PAGE}, two processes and two databases, "
        "one page after the other",
    }  # fmt: skip


PAGE = 500


def _line(gateway: subprocess.Popen[bytes]) -> tuple[float, float]:
    """What the gateway's process says when it is ready for another page: memory in MiB, seconds of a core."""
    memory, core = json.loads(gateway.stdout.readline())  # type: ignore[union-attr]
    return memory, core


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def _store_pages() -> None:
    """The gateway's process: store each page that comes and say so."""
    import django

    django.setup()
    from django.core.management import call_command

    from common.clock import now
    from gateway_runtime import replica, state
    from protocol.messages import decode
    from protocol.replica import Changes

    call_command("migrate", verbosity=0)
    began = time.process_time()
    print(json.dumps([_resident(), 0.0]), flush=True)
    while head := sys.stdin.buffer.read(8):
        page = decode(sys.stdin.buffer.read(int.from_bytes(head, "big")), Changes)
        replica.apply_page(page, state.this_life(), "NPR", now())
        print(json.dumps([_resident(), time.process_time() - began]), flush=True)


if __name__ == "__main__":
    _store_pages()
