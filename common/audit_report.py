"""What any node's database shows about its own audit chains, in the form `protocol.audit_evidence` checks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from django.db import connection, transaction
from django.db.models import Exists, OuterRef

from common import audit
from common.clock import now
from common.models import AuditCheckpoint, AuditEntry, AuditLink, AuditPending
from protocol.audit import Signed
from protocol.audit_evidence import Links


@contextmanager
def snapshot() -> Iterator[str]:
    """See the whole database as of one moment (RFC 3339, given to the caller), however long the reading takes."""
    moment = now().isoformat()
    if connection.in_atomic_block:
        yield moment
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield moment


def own_chains() -> dict[str, Links]:
    """Each chain this database keeps, by its name."""
    names = AuditLink.objects.order_by("chain").values_list("chain", flat=True).distinct()
    return {name: partial(audit.links, name) for name in names}


def statements() -> tuple[Signed, ...]:
    """Checkpoints and cuts: made here at the Primary, countersigned and remembered at a gateway."""
    rows = AuditCheckpoint.objects.order_by("id").values_list("text", "signature", "key")
    return tuple(Signed(*row) for row in rows)


def hidden_entries() -> int:
    """Entries without a place in a chain that do not wait for one either: somebody took them off the waiting list."""
    waits = AuditPending.objects.filter(pk=OuterRef("pk"))
    return AuditEntry.objects.filter(~Exists(waits), link__isnull=True).count()
