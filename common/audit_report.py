"""What any node's database shows about its own audit chains, in the form `protocol.audit_evidence` checks."""

from __future__ import annotations

from functools import partial

from django.db.models import Exists, OuterRef

from common import audit
from common.models import AuditCheckpoint, AuditEntry, AuditLink, AuditPending
from protocol.audit import Signed
from protocol.audit_evidence import Links


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
