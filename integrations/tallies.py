"""Counting what was done: sync steps by kind and result, rotations by how they ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from django.db.models import F

from common.rows import ensure
from integrations.models import OperationTally

SYNC, ROTATION = "sync", "rotation"


def count(operation: str, done: Iterable[tuple[str, str]]) -> None:
    """Add these kinds and results. Last in its transaction and in one order, since the counters are everybody's."""
    for (kind, result), number in sorted(Counter(done).items()):
        ensure(OperationTally, operation=operation, kind=kind, result=result)
        OperationTally.objects.filter(operation=operation, kind=kind, result=result).update(total=F("total") + number)
