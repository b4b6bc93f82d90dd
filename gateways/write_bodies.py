"""The content of received writes at rest: sealed under the environment's keys, for exactly one row, until it is settled (I16)."""

from __future__ import annotations

import uuid

import msgspec

from common.sealing import Place
from gateways.write_held import AnyWrite
from protocol.decoding import decode_json
from protocol.writes import WriteBody
from vault import encryption
from vault.encryption import Sealing

TABLE = "gateways_receivedwrite"


class BodyUnusable(Exception):
    """The content was wiped when the write was settled, or never had the form of one."""


def seal_body(sealing: Sealing, row: uuid.UUID, body: str, salt: str) -> bytes:
    """The exact text of a body with the key of its digest."""
    return sealing.seal(TABLE, str(row), 1, msgspec.json.encode([body, salt]))


def place(row: AnyWrite) -> Place:
    """What a content is sealed for."""
    return row.environment_id, TABLE, str(row.id), 1


def open_body(row: AnyWrite) -> WriteBody:
    """The content again. Raises `BodyUnusable`, or `encryption.SealBroken` when the row was changed in the database."""
    if row.sealed_body is None:
        raise BodyUnusable("the content of this write was wiped when it was settled")
    plain = encryption.open_sealed(*place(row), bytes(row.sealed_body))
    text, _ = decode_json(plain, tuple[str, str])
    try:
        return decode_json(text, WriteBody)
    except msgspec.DecodeError:
        raise BodyUnusable("the content of this write has not the form of one") from None
