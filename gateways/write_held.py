"""A received write while it is settled: the columns that matter, without what an object of the database brings along."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime

from django.db.models import BinaryField, F, QuerySet, Value

from gateways.models import ReceivedWrite


@dataclass(slots=True)
class HeldWrite:
    """Named as the columns of `ReceivedWrite`, so that one takes the place of the other."""

    id: uuid.UUID
    gateway_id: uuid.UUID
    environment_id: str
    generation: uuid.UUID
    epoch: int
    sequence: int
    in_stream: bool
    previous: uuid.UUID | None
    operation: str
    secret: uuid.UUID | None
    project: uuid.UUID | None
    project_environment: uuid.UUID | None
    key: str
    base_version: int | None
    actor: str
    idempotency_key: str
    accepted_at: str
    promised: bool
    outcome: str
    version: int
    code: str
    detail: str
    attempts: int
    not_before: datetime
    received_at: datetime
    settled_at: datetime | None
    settled_by: str
    resolution: str
    sealed_body: bytes | None


AnyWrite = ReceivedWrite | HeldWrite
_COLUMNS = tuple(one.name for one in fields(HeldWrite) if one.name != "sealed_body")


def read(rows: QuerySet[ReceivedWrite], *, with_body: bool = True) -> list[HeldWrite]:
    """These rows. `sealed_body` is None for all of them unless it is asked for."""
    body = F("sealed_body") if with_body else Value(None, output_field=BinaryField())
    return [HeldWrite(*row) for row in rows.values_list(*_COLUMNS, body)]


def read_again(held: Iterable[HeldWrite]) -> list[HeldWrite]:
    """The same writes in the same order as they are stored."""
    wanted = [one.id for one in held]
    found = {one.id: one for one in read(ReceivedWrite.objects.filter(id__in=wanted))}
    return [found[identifier] for identifier in wanted]
