"""Audit or refuse: an entry commits with the change it tells of, or neither does (I17). One sequencer chains them (I18)."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from enum import StrEnum
from typing import Any

from django.db import DatabaseError, connection, transaction
from django.db.models import QuerySet, TextField
from django.db.models.functions import Cast

from common.audit_commits import commits
from common.clock import now
from common.errors import Unavailable
from common.locks import try_transaction_lock
from common.models import AuditCheckpoint, AuditEntry, AuditLink, AuditPending
from protocol.audit import GENESIS as GENESIS
from protocol.audit import PRIMARY, Link, entry_text, link_hash, statement_of, walk

log = logging.getLogger("mazevault.audit")

LARGEST_DETAILS = 4000
"""Longest details of an entry in characters; of longer ones the beginning and a digest are kept."""


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class ChainReport:
    """`broken_at` is the first position whose hash does not fit, or None; `unchained` entries wait for the sequencer."""

    length: int
    head: str
    broken_at: int | None
    unchained: int


def record(
    *,
    actor: str,
    action: str,
    entity: str,
    entity_id: str,
    severity: Severity = Severity.INFO,
    details: Mapping[str, Any] | None = None,
    environment: str = "",
    address: str = "",
    organization: uuid.UUID | None = None,
    project: uuid.UUID | None = None,
) -> AuditEntry:
    """Write one entry in the caller's transaction. Raises `RuntimeError` outside of one: then it could outlive its change.

    Raises `Unavailable` when it cannot be written: the transaction is lost then, and the request is refused with 503 (I17).
    """
    if not connection.in_atomic_block:
        raise RuntimeError("an audit entry is written in the transaction of the change it tells of")
    entry = AuditEntry(
        at=now(),
        actor=actor[:64],
        action=action,
        entity=entity,
        entity_id=entity_id[:64],
        severity=severity.value,
        environment=environment,
        address=address[:64],
        organization=organization,
        project=project,
        details=_fitting(dict(details or {})),
    )
    with _refused_without_a_trail(entry):
        entry.save(force_insert=True)
    return entry


def commit(*, actor: str, action: str, entity: str, entity_id: str, details: Mapping[str, Any], environment: str = "",
           address: str = "", organization: uuid.UUID | None = None, project: uuid.UUID | None = None) -> None:  # fmt: skip
    """Commit one entry of something that changes nothing, for example of a read, and return when that is done (I17).

    Entries of requests at the same time share a commit. In a caller's transaction the entry is a part of that, as with `record`.
    Raises `Unavailable` when it is not committed, or nobody can say.
    """
    told: dict[str, Any] = {
        "actor": actor, "action": action, "entity": entity, "entity_id": entity_id, "environment": environment,
        "address": address, "organization": organization, "project": project,
    }  # fmt: skip
    if connection.in_atomic_block:
        record(**told, details=details)
        return
    told |= {"actor": actor[:64], "entity_id": entity_id[:64], "address": address[:64]}
    entry = AuditEntry(at=now(), severity=Severity.INFO.value, details=_fitting(dict(details)), **told)
    with _refused_without_a_trail(entry):
        commits.commit(entry)


@contextmanager
def _refused_without_a_trail(entry: AuditEntry) -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        log.error("the audit trail cannot be written (%s); %s by %s is refused", type(error).__name__, entry.action, entry.actor)
        raise Unavailable("the audit trail cannot be written right now, so nothing was done; try again",
                          code="AUDIT_UNAVAILABLE", retry_after=2) from error  # fmt: skip


def chain_pending(batch: int = 500, chain: str = PRIMARY) -> int:
    """Give the next committed entries their place in the chain. One process at a time; returns how many were chained."""
    if not AuditPending.objects.exists():
        return 0
    with transaction.atomic():
        if not try_transaction_lock("audit-chain"):
            return 0
        waiting = list(AuditPending.objects.order_by("entry_id").values_list("entry_id", flat=True)[:batch])
        position, previous = head(chain)
        links = []
        for entry in with_details_text(AuditEntry.objects.filter(pk__in=waiting).order_by("id")):
            position, previous = position + 1, link_hash(chain, position + 1, previous, text_of(entry))
            links.append(AuditLink(chain=chain, position=position, entry=entry, hash=previous))
        AuditLink.objects.bulk_create(links)
        AuditPending.objects.filter(pk__in=waiting).delete()
    return len(links)


def chain_all_pending(chain: str = PRIMARY) -> int:
    """The same until nothing waits, so that a burst is chained within the second."""
    total = 0
    while done := chain_pending(chain=chain):
        total += done
    return total


def head(chain: str = PRIMARY) -> tuple[int, str]:
    """Position and hash of the newest link; where the chain was cut when nothing is left; (0, GENESIS) when it is new."""
    last = AuditLink.objects.filter(chain=chain).order_by("-position").values_list("position", "hash").first()
    return last or start_of(chain)


def start_of(chain: str = PRIMARY) -> tuple[int, str]:
    """Behind which position and hash the chain begins: what retention has removed, as the newest cut says."""
    cut = AuditCheckpoint.objects.filter(chain=chain, is_cut=True).order_by("-position").first()
    return (cut.position, statement_of(cut.text).hash) if cut else (0, GENESIS)


def links(chain: str = PRIMARY, after: int = 0, upto: int | None = None) -> Iterator[Link]:
    """The links of a chain in order with the texts derived from the entries as they are now."""
    found = AuditLink.objects.filter(chain=chain, position__gt=after).select_related("entry").order_by("position")
    if upto is not None:
        found = found.filter(position__lte=upto)
    found = found.annotate(details_text=Cast("entry__details", TextField()))
    for link in found.iterator(chunk_size=1000):
        link.entry.details_text = link.details_text  # type: ignore[attr-defined]  # carried over for text_of
        yield Link(link.position, text_of(link.entry), link.hash)


def remove_upto(chain: str, position: int) -> int:
    """Remove the entries of a chain up to a cut that is stored already, in the caller's transaction; the tables refuse others.

    Older cuts of the chain go as well. Returns how many entries went.
    """
    links = AuditLink.objects.filter(chain=chain, position__lte=position)
    entries = AuditEntry.objects.filter(pk__in=list(links.values_list("entry_id", flat=True)))
    open_door()
    links._raw_delete(links.db)  # one DELETE: the collector would load every row first
    removed = entries._raw_delete(entries.db)
    close_door()
    AuditCheckpoint.objects.filter(chain=chain, is_cut=True, position__lt=position).delete()
    return removed


def open_door() -> None:
    """Until `close_door` or the end of the transaction the tables let go what a cut covers (migration common 0004)."""
    _door("open")


def close_door() -> None:
    _door("closed")


def _door(state: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('mazevault.audit_cut', %s, true)", [state])


def verify_chain(chain: str = PRIMARY) -> ChainReport:
    """Walk the whole chain and recompute every hash. `common.audit_report` holds it against checkpoints as well."""
    walked = walk(chain, links(chain), start=start_of(chain))
    broken = walked.findings[0].position if walked.findings else None
    return ChainReport(walked.length, walked.head, broken, AuditEntry.objects.filter(link__isnull=True).count())


def with_details_text(entries: QuerySet[AuditEntry]) -> QuerySet[AuditEntry]:
    """Entries that also carry their details in the database's own exact form, which no float rounds."""
    return entries.annotate(details_text=Cast("details", TextField()))


def text_of(entry: AuditEntry) -> str:
    """The canonical text of an entry that came from `with_details_text`."""
    return entry_text({
        "id": entry.id,
        "at": entry.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "actor": entry.actor,
        "action": entry.action,
        "entity": entry.entity,
        "entity_id": entry.entity_id,
        "severity": entry.severity,
        "environment": entry.environment,
        "address": entry.address,
        "organization": str(entry.organization) if entry.organization else None,
        "project": str(entry.project) if entry.project else None,
        "details": entry.details_text,  # type: ignore[attr-defined]  # the annotation
    })  # fmt: skip


def _fitting(details: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(details, ensure_ascii=False, default=str)
    if len(text) <= LARGEST_DETAILS:
        return details
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()
    return {"shortened": text[: LARGEST_DETAILS // 2], "characters": len(text), "sha256": digest}
