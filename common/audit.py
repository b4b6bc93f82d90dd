"""Audit or refuse: an entry commits with the change it tells of, or neither does (I17). One sequencer chains them (I18)."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from enum import StrEnum
from typing import Any, LiteralString, Required, TypedDict, Unpack

import msgspec
from django.db import DatabaseError, connection, transaction
from django.db.models import QuerySet, TextField
from django.db.models.functions import Cast

from common.audit_commits import commits
from common.clock import now
from common.errors import Unavailable
from common.locks import try_transaction_lock
from common.models import AuditCheckpoint, AuditEntry, AuditLink
from common.rowsets import Row, Rowset
from common.statements import fetch, run
from protocol.audit import GENESIS as GENESIS
from protocol.audit import PRIMARY, Link, entry_text, link_hash, statement_of, walk

log = logging.getLogger("mazevault.audit")

LARGEST_DETAILS = 4000
"""Longest details of an entry in characters; of longer ones the beginning and a digest are kept."""
_ENTRIES = Rowset("common_auditentry", {
    "at": "timestamptz", "actor": "text", "action": "text", "entity": "text", "entity_id": "text", "severity": "text",
    "environment": "text", "address": "text", "organization": "uuid", "project": "uuid", "details": "jsonb",
})  # fmt: skip
_LINKS = Rowset("common_auditlink", {"chain": "text", "position": "bigint", "entry_id": "bigint", "hash": "text"})
_TOLD = ("id", "at", "actor", "action", "entity", "entity_id", "severity", "environment", "address", "organization", "project",
         "details_text")  # fmt: skip
"""What the hash of an entry covers."""
_NEXT: LiteralString = """
SELECT e.id, e.at, e.actor, e.action, e.entity, e.entity_id, e.severity, e.environment, e.address, e.organization, e.project,
       e.details::text
  FROM common_auditentry e JOIN common_auditpending p ON p.entry_id = e.id ORDER BY p.entry_id LIMIT %(most)s::int
"""
"""`_TOLD` of those that wait, the oldest first."""
_CHAINED: LiteralString = "DELETE FROM common_auditpending WHERE entry_id = ANY(%(entries)s::bigint[])"


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


class Said(TypedDict, total=False):
    """What an entry says of what happened."""

    actor: Required[str]
    action: Required[str]
    entity: Required[str]
    entity_id: Required[str]
    severity: Severity
    details: Mapping[str, Any]
    environment: str
    address: str
    organization: uuid.UUID | None
    project: uuid.UUID | None


def record(**said: Unpack[Said]) -> AuditEntry:
    """Write one entry in the caller's transaction. Raises `RuntimeError` outside of one: then it could outlive its change.

    Raises `Unavailable` when it cannot be written: the transaction is lost then, and the request is refused with 503 (I17).
    """
    if not connection.in_atomic_block:
        raise RuntimeError("an audit entry is written in the transaction of the change it tells of")
    entry = _unsaved(entry_of(**said))
    with _written_or_refused(f"{entry.action} by {entry.actor}"):
        entry.save(force_insert=True)
    return entry


def commit(**said: Unpack[Said]) -> None:
    """Commit one entry of something that changes nothing, for example of a read, and return when that is done (I17).

    Entries of requests at the same time share a commit. In a caller's transaction the entry is a part of that, as with `record`.
    Raises `Unavailable` when it is not committed, or nobody can say.
    """
    if connection.in_atomic_block:
        record(**said)
        return
    entry = _unsaved(entry_of(**said))
    with _written_or_refused(f"{entry.action} by {entry.actor}"):
        commits.commit(entry)


def entry_of(**said: Unpack[Said]) -> Row:
    """What `record` would write at this instant, to be written together with others by `record_all`."""
    return {
        "at": now(), "actor": said["actor"][:64], "action": said["action"], "entity": said["entity"],
        "entity_id": said["entity_id"][:64], "severity": said.get("severity", Severity.INFO).value,
        "environment": said.get("environment", ""), "address": said.get("address", "")[:64],
        "organization": said.get("organization"), "project": said.get("project"),
        "details": msgspec.Raw(_fitting(dict(said.get("details", {}))).encode(errors="replace")),
    }  # fmt: skip


def record_all(entries: Sequence[Row]) -> None:
    """Write many entries in their order with one statement; else as `record`."""
    if not entries:
        return
    if not connection.in_atomic_block:
        raise RuntimeError("audit entries are written in the transaction of the changes they tell of")
    with _written_or_refused(f"{len(entries)} entries, the first of them {entries[0]['action']} by {entries[0]['actor']}"):
        _ENTRIES.insert(entries)


def _unsaved(row: Row) -> AuditEntry:
    return AuditEntry(**{**row, "details": json.loads(bytes(row["details"]))})


@contextmanager
def _written_or_refused(what: str) -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        log.error("the audit trail cannot be written (%s); %s is refused", type(error).__name__, what)
        raise Unavailable("the audit trail cannot be written right now, so nothing was done; try again",
                          code="AUDIT_UNAVAILABLE", retry_after=2) from error  # fmt: skip


def chain_pending(batch: int = 500, chain: str = PRIMARY) -> int:
    """Give the next committed entries their place in the chain. One process at a time; returns how many were chained."""
    if not fetch("SELECT 1 FROM common_auditpending LIMIT 1", {}):
        return 0
    with transaction.atomic():
        if not try_transaction_lock("audit-chain"):
            return 0
        position, previous = head(chain)
        links = []
        for row in fetch(_NEXT, {"most": batch}):
            told = dict(zip(_TOLD, row, strict=True))
            position, previous = position + 1, link_hash(chain, position + 1, previous, _text(told))
            links.append({"chain": chain, "position": position, "entry_id": told["id"], "hash": previous})
        _LINKS.insert(links)
        run(_CHAINED, {"entries": [link["entry_id"] for link in links]})
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
    return _text({name: getattr(entry, name) for name in _TOLD})


def _text(told: dict[str, Any]) -> str:
    """The canonical text of the columns `_TOLD` of an entry."""
    at, details = told["at"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), told.pop("details_text")
    places = {name: str(told[name]) if told[name] else None for name in ("organization", "project")}
    return entry_text({**told, **places, "at": at, "details": details})


def _fitting(details: dict[str, Any]) -> str:
    text = _as_text(details)
    if len(text) <= LARGEST_DETAILS:
        return text
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()
    return _as_text({"shortened": text[: LARGEST_DETAILS // 2], "characters": len(text), "sha256": digest})


def _as_text(details: dict[str, Any]) -> str:
    try:
        return msgspec.json.encode(details, enc_hook=str).decode()
    except UnicodeEncodeError:  # half of a character, which only the other one writes
        return json.dumps(details, ensure_ascii=False, default=str)
