"""Pages of what changed in a gateway's environment, for the copy it holds (DESIGN §9, I13, I17).

A page holds things as they are now, after everything they refer to, so that it can be stored as it comes. What leaves with a
value is in the audit before it leaves.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction

from common import audit, feed
from common.errors import PermissionRefused
from common.models import Change
from common.snapshot import snapshot
from gateways import marks, replicas
from gateways.models import Gateway, GatewayStatus, PrimaryNode, ToldPrincipal
from gateways.replica_records import Record, Records, Thing, load
from protocol.messages import encode
from protocol.replica import (
    AskChanges,
    Changes,
    ReplicaEnvironment,
    ReplicaKind,
    ReplicaOrganization,
    ReplicaPrincipal,
    ReplicaProject,
    ReplicaSecret,
)

PAGE_BYTES = 1024 * 1024
"""About the size of a page. A single thing that is larger goes alone."""
MOST_NAMED = 90
"""Secrets named in one audit entry; a longer list would be cut, and then nobody could say whose value left."""
CHUNK = 100
"""Entries that are loaded at a time, so that a page of large values does not load five hundred of them."""


@dataclass
class _Page:
    records: dict[Thing, Record] = field(default_factory=dict)
    size: int = 0

    def add(self, found: list[tuple[Thing, Record]]) -> bool:
        """Take these records unless the page is full."""
        fresh = [(thing, record) for thing, record in found if thing not in self.records]
        size = sum(len(encode(record)) for _, record in fresh)
        if self.records and self.size + size > PAGE_BYTES:
            return False
        self.records.update(fresh)
        self.size += size
        return True

    def of(self, kind: type[Record]) -> list:
        return [record for record in self.records.values() if isinstance(record, kind)]


def take_changes(gateway: Gateway, ask: AskChanges, now: datetime) -> Changes:
    """The next page after the gateway's cursor. `more` says that there is another one already."""
    feed.place_pending()
    generation = str(PrimaryNode.objects.get(id=1).generation)
    if gateway.held_at:
        return _rights_only(gateway, ask, generation, now)
    replicas.note_reading(gateway, ask, generation, now)
    with snapshot():  # a secret, its history and its value belong together, however fast they are changed
        page, position = _fill(gateway.environment_id, ask, now)
    _answer_for(gateway, page, ask.after, position)
    head = max(feed.head(gateway.environment_id), position if page.records else 0)
    return Changes(
        generation=generation, position=position, head=head, more=position < head, organizations=page.of(ReplicaOrganization),
        environments=page.of(ReplicaEnvironment), projects=page.of(ReplicaProject), secrets=page.of(ReplicaSecret),
        principals=page.of(ReplicaPrincipal), mark=marks.mark_at(gateway.environment_id, position) if page.records else None,
    )  # fmt: skip


def _rights_only(gateway: Gateway, ask: AskChanges, generation: str, now: datetime) -> Changes:
    """For a quarantined gateway, which may be in the wrong hands: no value, no vault, nobody it does not know yet, no grant and
    no credential that was given since. What somebody lost since its copy stands still must count there too. Its cursor stays
    where it is; how far it has heard of rights is a cursor of its own. Raises `PermissionRefused` (GATEWAY_HELD)."""
    code, former = gateway.environment_id, ask.rights_after is None
    head = max(feed.head(code), ask.after)
    page, position = _fill_with_losses(gateway, max(ask.after, ask.rights_after or 0), head, ask.limit, now)
    if former and (position < head or not _copy_rests(gateway)):
        raise PermissionRefused("this gateway is held until an operator releases it; upgrade it to hear who lost their rights "
                                "meanwhile", code="GATEWAY_HELD")  # fmt: skip
    return Changes(
        generation=generation, position=ask.after, head=head, more=not former and position < head,
        principals=page.of(ReplicaPrincipal), rights_only=not former, rights_position=0 if former else position,
    )  # fmt: skip


def _copy_rests(gateway: Gateway) -> bool:
    """Whether a gateway of the former version may take such a page for an ordinary one: it would end a reading of everything,
    and drop what that has not seen. Told by the digest of its last heartbeat, which is left out while it reads."""
    status = GatewayStatus.objects.filter(gateway=gateway, resync_ordered_at=None).first()
    return status is not None and bool(status.report.get("replica_digest"))


def _fill_with_losses(gateway: Gateway, after: int, head: int, limit: int, now: datetime) -> tuple[_Page, int]:
    """What is left of the rights of those who are known there, and how far that tells of all changes."""
    code, page, position, taken = gateway.environment_id, _Page(), after, 0
    people = Change.objects.filter(scope=code, kind=ReplicaKind.PRINCIPAL.value, position__lte=head)
    while taken < limit:
        entries = list(people.filter(position__gt=position).order_by("position")[: min(CHUNK, limit - taken)])
        if not entries:
            return page, max(position, head)
        told = ToldPrincipal.objects.filter(environment_id=code, principal__in=[entry.entity_id for entry in entries])
        known = set(told.values_list("principal", flat=True))
        named = [entry for entry in entries if entry.entity_id in known]
        records = load(code, map(_thing, named), now, given_until=gateway.held_at)
        _remember_forgotten(code, records, named)
        for entry in entries:
            if not page.add(records.with_needs(_thing(entry))):
                return page, position
            position, taken = entry.position or position, taken + 1
    return page, position


def _fill(code: str, ask: AskChanges, now: datetime) -> tuple[_Page, int]:
    page, position, taken = _Page(), ask.after, 0
    while taken < ask.limit:
        entries = feed.changes_after(code, position, min(CHUNK, ask.limit - taken))
        if not entries:
            break
        records = load(code, map(_thing, entries), now)
        _remember_forgotten(code, records, entries)
        for entry in entries:
            if not page.add(records.with_needs(_thing(entry))):
                return page, position
            position, taken = entry.position or position, taken + 1
    return page, position


def _thing(entry: Change) -> Thing:
    return ReplicaKind(entry.kind), entry.entity_id


def _remember_forgotten(code: str, records: Records, entries: Iterable[Change]) -> None:
    """A principal that was named to this environment and has nothing here any more is to be forgotten there."""
    gone = {
        entry.entity_id for entry in entries
        if entry.kind == ReplicaKind.PRINCIPAL and (ReplicaKind.PRINCIPAL, entry.entity_id) not in records.by_thing
    }  # fmt: skip
    if not gone:
        return
    told = ToldPrincipal.objects.filter(environment_id=code, principal__in=gone).values_list("principal", flat=True)
    for identifier in told:
        empty = ReplicaPrincipal(id=str(identifier), kind="user", name="", grants=[], tokens=[])
        records.by_thing[ReplicaKind.PRINCIPAL, identifier] = empty


def _answer_for(gateway: Gateway, page: _Page, after: int, position: int) -> None:
    """Commit what must be known of this page before it leaves: whose values, and whose credentials."""
    valued = [record.id for record in page.of(ReplicaSecret) if record.value is not None]
    named = [uuid.UUID(record.id) for record in page.of(ReplicaPrincipal) if record.tokens]
    if not valued and not named:
        return
    with transaction.atomic():
        ToldPrincipal.objects.bulk_create(
            [ToldPrincipal(environment_id=gateway.environment_id, principal=one) for one in named], ignore_conflicts=True
        )
        for first in range(0, max(len(valued), 1), MOST_NAMED):
            audit.record(
                actor=f"gateway:{gateway.id}", action="gateway.replica.sent", entity="gateway", entity_id=str(gateway.id),
                environment=gateway.environment_id,
                details={
                    "secrets": valued[first : first + MOST_NAMED], "principals": len(named) if first == 0 else 0,
                    "after": after, "position": position,
                },
            )  # fmt: skip
