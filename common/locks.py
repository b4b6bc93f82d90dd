"""Advisory locks of PostgreSQL, named by words instead of numbers."""

from __future__ import annotations

import hashlib

from common.statements import fetch


def lock_number(name: str) -> int:
    """The 63-bit number PostgreSQL knows this lock by."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def transaction_lock(name: str) -> None:
    """Wait for the lock and hold it until the transaction ends. Must run inside `atomic`."""
    fetch("SELECT pg_advisory_xact_lock(%(number)s::bigint)", {"number": lock_number(name)})


def shared_transaction_lock(name: str) -> None:
    """Hold the lock together with others who share it, until the transaction ends; who wants it alone waits for all of them."""
    fetch("SELECT pg_advisory_xact_lock_shared(%(number)s::bigint)", {"number": lock_number(name)})


def try_transaction_lock(name: str) -> bool:
    """Take the lock until the transaction ends, or return False at once when somebody else holds it."""
    return bool(fetch("SELECT pg_try_advisory_xact_lock(%(number)s::bigint)", {"number": lock_number(name)})[0][0])
