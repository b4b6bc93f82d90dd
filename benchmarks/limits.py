"""What this machine gives at most, on one core in the same run: signatures of OpenSSL and single statements of PostgreSQL."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import psycopg
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SECONDS = 1.5
"""Of each limit."""
ROWS, BATCH = 1000, 100
SHA256 = ec.ECDSA(hashes.SHA256())


def here() -> dict[str, object]:
    """Limits on a PostgreSQL of its own, with fsync on."""
    from benchmarks.reconcile import on_a_database

    return on_a_database(lambda: limits(os.environ["DATABASE_URL"]))


def limits(url: str) -> dict[str, object]:
    """Operations a second by name. `url` is a database where a table may be made; it is dropped again."""
    return {**_signatures(), **_statements(url)}


def _signatures() -> dict[str, int]:
    key, edwards, message = ec.generate_private_key(ec.SECP256R1()), Ed25519PrivateKey.generate(), os.urandom(1024)
    ecdsa, eddsa = key.sign(message, SHA256), edwards.sign(message)
    public, edwards_public = key.public_key(), edwards.public_key()
    return {
        "p256_sign": rate(lambda: key.sign(message, SHA256)),
        "p256_verify": rate(lambda: public.verify(ecdsa, message, SHA256)),
        "ed25519_sign": rate(lambda: edwards.sign(message)),
        "ed25519_verify": rate(lambda: edwards_public.verify(eddsa, message)),
    }


def _statements(url: str) -> dict[str, int]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS bench_limits")
        connection.execute("CREATE TABLE bench_limits (id integer PRIMARY KEY, number integer NOT NULL, value bytea)")
        connection.execute("INSERT INTO bench_limits SELECT n, 0, '' FROM generate_series(1, %s) n", [ROWS])
        try:
            update = "UPDATE bench_limits SET number = number + 1 WHERE id = %s"
            select = "SELECT number FROM bench_limits WHERE id = %s"
            return {
                "indexed_update": rate(lambda: connection.execute(update, [7], prepare=True)),
                "indexed_select": rate(lambda: connection.execute(select, [7], prepare=True)),
                "raw_upsert": BATCH * rate(lambda: _upsert(connection)),
            }
        finally:
            connection.execute("DROP TABLE bench_limits")


def _upsert(connection: psycopg.Connection) -> None:
    """A batch in one transaction, row by row in one round trip."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO bench_limits VALUES (%s, %s, %s) "
            "ON CONFLICT (id) DO UPDATE SET number = excluded.number, value = excluded.value",
            [(number, number, b"x" * 100) for number in range(BATCH)],
        )


def rate(work: Callable[[], object], seconds: float = SECONDS) -> int:
    """How often a second `work` is done, one after the other."""
    until, count, began = time.perf_counter() + seconds, 0, time.perf_counter()
    while time.perf_counter() < until:
        work()
        count += 1
    return round(count / (time.perf_counter() - began))
