"""The content of queued writes at rest: sealed under the gateway's own keys, for exactly one row, until the write ended."""

from __future__ import annotations

import uuid

import msgspec

from common.sealing import Place
from gateway_runtime.models import PendingWrite
from protocol.decoding import decode_json
from vault import encryption

TABLE = "gateway_runtime_pendingwrite"


def seal_body(environment: str, row: uuid.UUID, body: str, salt: str) -> bytes:
    """The exact text of a body with the key of its digest. Runs in the transaction that stores it."""
    return encryption.seal(environment, TABLE, str(row), 1, msgspec.json.encode([body, salt]))


def open_body(row: PendingWrite) -> tuple[str, str]:
    """(text of the body, salt). Raises `encryption.SealBroken` when the row was changed in the database."""
    if row.sealed_body is None:
        raise encryption.SealBroken("the content of this write was wiped when it ended")
    opened = encryption.open_sealed(*place(row), bytes(row.sealed_body))
    body, salt = decode_json(opened, tuple[str, str])
    return body, salt


def place(row: PendingWrite) -> Place:
    """What a body is sealed for."""
    return row.gateway_environment, TABLE, str(row.id), 1
