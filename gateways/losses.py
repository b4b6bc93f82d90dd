"""What a gateway that was replaced may have taken with it, until all of it is accounted for (DESIGN §8)."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import Q, QuerySet

from common import audit
from common.clock import database_now
from common.errors import Conflict, NotFound
from common.statements import plain
from gateways.models import Gateway, GatewayPresence, GatewayStatus, LossManifest, ReceivedWrite, Route, SignOfLife, WriteStream
from gateways.settlement import KEPT
from protocol.messages import Heartbeat
from protocol.vocabulary import WriteOutcome

LONGEST_QUEUE = 10_000
"""Writes a gateway keeps at most."""
log = logging.getLogger("mazevault.gateways.losses")

COLUMNS = """
    (SELECT json_agg(json_build_object(
        'generation', m.generation, 'epoch', m.epoch, 'last', m.last_sequence, 'stopped', m.stopped,
        'arrived', coalesce((SELECT arrived FROM gateways_writestream
                              WHERE gateway_id = m.gateway_id AND generation = m.generation), 0),
        'unresolved', EXISTS (SELECT 1 FROM gateways_receivedwrite w WHERE w.gateway_id = m.gateway_id
                               AND w.outcome = 'received' AND w.epoch <= m.epoch AND w.received_at >= m.opened_at)
                   OR EXISTS (SELECT 1 FROM gateways_receivedwrite w WHERE w.environment_id = m.environment_id
                               AND w.gateway_id = m.gateway_id AND w.outcome IN ('conflict', 'quarantined', 'dead_letter')
                               AND w.resolution = '' AND w.epoch <= m.epoch AND w.received_at >= m.opened_at)))
       FROM gateways_lossmanifest m WHERE m.gateway_id = g.id AND m.closed_at IS NULL) AS manifests
"""
"""The open manifests of a gateway, with what has arrived and whether something waits, beside `sightings.SOURCES`."""
TAKE_REPORT = """
UPDATE gateways_lossmanifest m SET last_sequence = held.last_sequence FROM held
 WHERE m.gateway_id = held.gateway AND m.generation = held.generation AND m.closed_at IS NULL
   AND NOT m.stopped AND m.last_sequence < held.last_sequence
"""
"""A lost gateway is heard of again in the same life: what it accepted while nobody heard it belongs to its manifest too.

Part of the statement that stores heartbeats (`held`), so that a report which a new life overwrites later was counted before.
"""


@dataclass(frozen=True)
class Account:
    """How far a manifest is accounted for. `missing` writes were accepted by the gateway and have never arrived."""

    arrived: int
    unresolved: int
    missing: int
    empty_since_return: bool

    @property
    def complete(self) -> bool:
        return self.empty_since_return and not self.unresolved and not self.missing


def open_manifest(route: Route, operation: uuid.UUID | None, moment: datetime) -> LossManifest | None:
    """The active gateway is about to be replaced: note what it last said of its queue, unless all of that is here.

    Runs in the promoting transaction, before the route changes. None when nobody was active, or when it has confirmed that it
    stopped and every write it ever spoke of has arrived.
    """
    lost = route.active_gateway
    if lost is None:
        return None
    last, stopped = last_told(lost, route), route.fence_acknowledged_at is not None
    if stopped and not missing_of(lost.id, lost.generation, last):
        return None
    return _opened(lost, route, operation, last, stopped, moment)


def open_for_ended_life(gateway: Gateway, moment: datetime) -> LossManifest | None:
    """The gateway begins a new life: what its former one had acknowledged and nobody has is noted. None when that is nothing.

    Runs in the enrolling transaction, under the route's lock, before the generation changes.
    """
    route = Route.objects.get(environment_id=gateway.environment_id)
    last = last_told(gateway, route)
    if not missing_of(gateway.id, gateway.generation, last):
        return None
    if LossManifest.objects.filter(gateway=gateway, generation=gateway.generation, closed_at=None).exists():
        return None
    return _opened(gateway, route, None, last, False, moment)


def _opened(lost: Gateway, route: Route, operation: uuid.UUID | None, last: int, stopped: bool, moment: datetime) -> LossManifest:
    status = GatewayStatus.objects.filter(gateway=lost, heartbeat_at__gte=lost.enrolled_at).first()
    report = status.report if status else {}
    manifest = LossManifest.objects.create(
        environment_id=route.environment_id, operation=operation, gateway=lost, generation=lost.generation, epoch=route.epoch,
        opened_at=moment, reported_at=status.heartbeat_at if status else None,
        reported_depth=report.get("write_queue_depth", 0), last_sequence=last, stopped=stopped,
    )  # fmt: skip
    _tell(manifest, "failover.loss_manifest.opened", "system", {"reported_depth": manifest.reported_depth})
    return manifest


def last_told(gateway: Gateway, route: Route | None = None) -> int:
    """The highest number of a write this life of the gateway has spoken of: in a heartbeat, sign of life or confirmed fence.

    All of them count, since a younger report may come from a process that knows less, or from a database that was put back.
    """
    status = GatewayStatus.objects.filter(gateway=gateway, heartbeat_at__gte=gateway.enrolled_at).first()
    sign = SignOfLife.objects.filter(gateway=gateway, answered_at__gte=gateway.enrolled_at).first()
    told = [row.report.get("write_queue_last_sequence", 0) for row in (status, sign) if row]
    told += GatewayPresence.objects.filter(gateway=gateway, generation=gateway.generation).values_list(
        "write_sequence", flat=True
    )
    fenced = route.fence_last_sequence if route and route.active_gateway_id == gateway.id else None
    return max([*told, fenced or 0])


def outstanding_of(gateway: Gateway) -> int:
    """How many writes that this life of the gateway has spoken of have not arrived."""
    last = last_told(gateway)
    return missing_of(gateway.id, gateway.generation, last) if last else 0


def missing_of(gateway: uuid.UUID, generation: uuid.UUID, last_sequence: int) -> int:
    """How many writes of one life up to this number have never arrived.

    All that arrived are counted as they come. Only what lies beyond that last one is counted here, and a queue bounds how much.
    """
    life = {"gateway_id": gateway, "generation": generation}
    stream = WriteStream.objects.filter(**life).first()
    if stream is None:
        return last_sequence
    if stream.highest <= last_sequence:
        return last_sequence - stream.arrived
    beyond = ReceivedWrite.objects.filter(**life, in_stream=True, sequence__gt=last_sequence).count()
    return last_sequence - (stream.arrived - beyond)


def first_missing_of(gateway: uuid.UUID, generation: uuid.UUID, first: int, last: int) -> int:
    """The lowest number from `first` to `last` that never arrived. A queue bounds how many are looked at."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT min(number) FROM generate_series(%s::bigint, %s::bigint) number WHERE NOT EXISTS (SELECT 1 FROM "
            "gateways_receivedwrite w WHERE w.gateway_id = %s AND w.generation = %s AND w.in_stream AND w.sequence = number)",
            [first, min(last, first + LONGEST_QUEUE), gateway, generation],
        )
        found = cursor.fetchone()[0]
    return int(found) if found is not None else first


def may_be_complete(row: Mapping[str, Any], beat: Heartbeat) -> bool:
    """Whether some open manifest of this gateway could be closed after this heartbeat; `close_finished` then looks closely."""
    back = [one for one in plain(row["manifests"]) or [] if one["generation"] == str(row["generation"])]
    return beat.write_queue_depth == 0 and any(
        one["epoch"] < beat.epoch and not one["unresolved"] and one["arrived"] >= _known_last(one, beat) for one in back
    )


def _known_last(manifest: Mapping[str, Any], beat: Heartbeat) -> int:
    """What a heartbeat says of later writes is no matter of a gateway that had confirmed its fence."""
    last: int = manifest["last"]
    return last if manifest["stopped"] else max(last, beat.write_queue_last_sequence)


def close_finished(environment: str) -> int:
    """Close the manifests of an environment that are accounted for. Returns how many; costs one query while none is open."""
    closed = 0
    for identifier in LossManifest.objects.filter(environment_id=environment, closed_at=None).values_list("id", flat=True):
        with transaction.atomic():
            manifest = LossManifest.objects.select_for_update(skip_locked=True).filter(id=identifier, closed_at=None).first()
            if manifest and account_of(manifest).complete:
                _close(manifest, "system", "all writes of the lost gateway have arrived and are settled")
                closed += 1
    return closed


def accept_loss(environment: str, identifier: uuid.UUID, *, actor: str, address: str, reason: str) -> LossManifest:
    """Close a manifest whose gateway will never come back with what is missing. A person answers for it."""
    with transaction.atomic():
        manifest = LossManifest.objects.select_for_update().filter(environment_id=environment, id=identifier).first()
        if manifest is None:
            raise NotFound("there is no such loss manifest of this environment")
        if manifest.closed_at:
            raise Conflict("this loss manifest is closed already")
        account = account_of(manifest)
        if account.unresolved:
            raise Conflict(f"{account.unresolved} writes of it wait for a decision; resolve them first", code="SYNC_CONFLICT")
        _close(manifest, actor, reason, address, severity=audit.Severity.CRITICAL)
    return manifest


def account_of(manifest: LossManifest) -> Account:
    """What has arrived of a manifest, and what has not. Reads only."""
    writes = writes_of(manifest)
    return Account(
        arrived=writes.count(),
        unresolved=unresolved(writes).count(),
        missing=missing_of(manifest.gateway_id, manifest.generation, manifest.last_sequence),
        empty_since_return=_is_back_and_empty(manifest),
    )


def writes_of(manifest: LossManifest) -> QuerySet[ReceivedWrite]:
    """The writes of the lost gateway and of its time that arrived after it was replaced."""
    return ReceivedWrite.objects.filter(
        gateway_id=manifest.gateway_id, epoch__lte=manifest.epoch, received_at__gte=manifest.opened_at
    ).exclude(operation="")


def unresolved(writes: QuerySet[ReceivedWrite]) -> QuerySet[ReceivedWrite]:
    """Those that are not settled, or wait for a person."""
    return writes.filter(Q(outcome=WriteOutcome.RECEIVED) | Q(outcome__in=KEPT, resolution=""))


def _is_back_and_empty(manifest: LossManifest) -> bool:
    """Only the life that was lost can say that nothing is left of it, and only once it knows that it was replaced.

    A new life of the gateway has an empty queue because it has another database; a report of the old epoch may have been made
    before it accepted more.
    """
    status = GatewayStatus.objects.select_related("gateway").filter(gateway_id=manifest.gateway_id).first()
    if status is None or status.heartbeat_at is None or status.heartbeat_at <= manifest.opened_at:
        return False
    if status.gateway.generation != manifest.generation or status.report.get("epoch", 0) <= manifest.epoch:
        return False
    return status.report.get("write_queue_depth", 0) == 0


def _close(
    manifest: LossManifest, by: str, reason: str, address: str = "", severity: audit.Severity = audit.Severity.WARNING
) -> None:
    manifest.closed_at, manifest.closed_by, manifest.closed_reason = database_now(), by, reason
    manifest.save()
    missing = account_of(manifest).missing
    _tell(manifest, "failover.loss_manifest.closed", by, {"reason": reason, "missing": missing}, address, severity)


def _tell(
    manifest: LossManifest, action: str, actor: str, details: dict[str, object], address: str = "",
    severity: audit.Severity = audit.Severity.WARNING,
) -> None:  # fmt: skip
    audit.record(
        actor=actor, action=action, entity="loss-manifest", entity_id=str(manifest.id), severity=severity,
        environment=manifest.environment_id, address=address,
        details={"gateway": manifest.gateway.name, "epoch": manifest.epoch, "last_sequence": manifest.last_sequence, **details},
    )  # fmt: skip
    log.warning("%s: %s (%s, epoch %s)", manifest.environment_id, action, manifest.gateway.name, manifest.epoch)
