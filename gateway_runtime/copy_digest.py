"""The digest of the copy, moved with every page that is stored, so that a heartbeat only reads it (anti-entropy).

Each change of it runs under the lock of its own row, in the transaction that changes the copy.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Mapping

from django.db import transaction
from django.db.models import Q

from common.rows import ensure
from gateway_runtime.models import CopySum, ReplicaRow
from protocol.replica import EMPTY_DIGEST, ReplicaKind, moved

log = logging.getLogger("mazevault.gateway.copy_digest")

CHECKED_AT_ONCE = 2000
"""Fingerprints summed up in one step of looking again."""

Thing = tuple[ReplicaKind, uuid.UUID]


def at(round_number: int, position: int) -> str:
    """The digest of the copy as it was stored there; empty when it was moved since, or is not known."""
    found = CopySum.objects.filter(id=1, round=round_number, position=position).values_list("digest", flat=True)
    return found.first() or ""


def remember(came: Mapping[Thing, str], round_number: int, position: int) -> None:
    """Note what a page brought up to this position, and bring the digest up to date."""
    row = _locked()
    before = {(ReplicaKind(one.kind), one.entity_id): one for one in _rows_of(came)}
    _move(row, [*came.values()], before.values())
    again = [came[thing] for thing, one in before.items() if one.id <= row.checked_upto]
    row.checked_sum = moved(row.checked_sum, came=again)
    row.round, row.position = round_number, position
    row.save()
    rows = [
        ReplicaRow(kind=kind.value, entity_id=identifier, fingerprint=found, round=round_number)
        for (kind, identifier), found in came.items()
    ]
    ReplicaRow.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["kind", "entity_id"], update_fields=["fingerprint", "round"]
    )


def forget(gone: Iterable[ReplicaRow]) -> None:
    """Drop the notes of things that are dropped."""
    gone, row = list(gone), _locked()
    _move(row, [], gone)
    row.save()
    ReplicaRow.objects.filter(id__in=[one.id for one in gone]).delete()


def check() -> bool:
    """Sum up the next fingerprints; at the end of a round the digest must be that sum. False when a round has ended.

    A copy of an earlier version has no digest yet, and gets it at the end of its first round.
    """
    with transaction.atomic():
        row = _locked()
        held = list(ReplicaRow.objects.filter(id__gt=row.checked_upto).order_by("id")[:CHECKED_AT_ONCE])
        if held:
            row.checked_upto = held[-1].id
            row.checked_sum = moved(row.checked_sum, came=[one.fingerprint for one in held])
        else:
            _end_round(row)
        row.save()
    return bool(held)


def _locked() -> CopySum:
    rows = CopySum.objects.select_for_update().filter(id=1)
    found = rows.first()
    if found is None:
        ensure(CopySum, id=1)
        found = rows.get()
    return found


def _end_round(row: CopySum) -> None:
    if row.digest and row.digest != row.checked_sum:
        log.error("the digest of the copy was %s and is put right: %s", row.digest, row.checked_sum)
    row.digest, row.checked_upto, row.checked_sum = row.checked_sum, 0, EMPTY_DIGEST


def _move(row: CopySum, came: list[str], went: Iterable[ReplicaRow]) -> None:
    """Take what went out of both sums; what came goes into the digest, unless that is not known yet."""
    went = list(went)
    looked_at = [one.fingerprint for one in went if one.id <= row.checked_upto]
    row.checked_sum = moved(row.checked_sum, went=looked_at)
    if row.digest:
        row.digest = moved(row.digest, came=came, went=[one.fingerprint for one in went])


def _rows_of(things: Iterable[Thing]) -> list[ReplicaRow]:
    by_kind: dict[ReplicaKind, set[uuid.UUID]] = {}
    for kind, identifier in things:
        by_kind.setdefault(kind, set()).add(identifier)
    wanted = Q()
    for kind, identifiers in by_kind.items():
        wanted |= Q(kind=kind.value, entity_id__in=identifiers)
    return list(ReplicaRow.objects.filter(wanted)) if by_kind else []
