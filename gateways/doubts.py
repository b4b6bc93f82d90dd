"""What follows from what a gateway says: its environment is frozen on proof, or the gateway set aside (`gateways.beliefs`)."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

from django.db import connection, transaction
from django.db.models.functions import Greatest

from common import audit
from common.clock import database_now
from common.errors import ValidationFailed
from gateways import beliefs, fleet, marks, routes
from gateways.beliefs import Doubt, Known
from gateways.models import EpochGrant, Gateway, GatewayStatus
from gateways.sightings import Sighting
from protocol.marks import Mark
from protocol.messages import Heartbeat, Message, SignedMark, TaskResult

log = logging.getLogger("mazevault.gateways.doubts")

COLUMNS = """
    coalesce((SELECT highest FROM gateways_writestream
               WHERE gateway_id = g.id AND generation = g.generation), 0) AS taken_sequence
"""
"""Beside `sightings.SOURCES`."""
_KNOWN = """
SELECT route.epoch, route.danger <> '', coalesce((SELECT max(position) FROM common_change WHERE scope = %(environment)s), 0),
       coalesce((SELECT highest FROM gateways_writestream WHERE gateway_id = %(gateway)s AND generation = %(generation)s), 0),
       EXISTS (SELECT 1 FROM gateways_gatewaystatus WHERE gateway_id = %(gateway)s AND resync_ordered_at IS NOT NULL)
  FROM gateways_route AS route WHERE route.environment_id = %(environment)s
"""
"""All of it at once, each by an index: what this costs does not grow with what is stored."""


def known_of(gateway: Gateway) -> Known:
    """What the Primary knows of a gateway in its present life."""
    return known_of_life(gateway, gateway.id, gateway.generation)


def known_of_life(speaker: Gateway, writer: uuid.UUID, generation: uuid.UUID) -> Known:
    """The same of any life in the speaker's environment: old writes are signed by lives that ended."""
    values: dict[str, Any] = {"environment": speaker.environment_id, "gateway": writer, "generation": generation}
    with connection.cursor() as cursor:
        cursor.execute(_KNOWN, values)
        epoch, frozen, position, sequence, reading = cursor.fetchone() or (0, False, 0, 0, False)
    return Known(epoch, position, sequence, frozen, reading)


def holder_of(code: str, epoch: int) -> str | None:
    """Who was active in an epoch; None when this database does not know."""
    found = EpochGrant.objects.filter(environment_id=code, epoch=epoch).values_list("gateway_id", flat=True).first()
    return str(found) if found else None


def known_in(seen: Sighting, row: Mapping[str, Any]) -> Known:
    """The same out of what was read for a heartbeat, with `COLUMNS`."""
    route = seen.route
    return Known(
        epoch=route.epoch if route else 0, position=row["feed_head"], sequence=row["taken_sequence"],
        frozen=bool(route and route.danger), reading_anew=seen.resync_ordered_at is not None,
    )  # fmt: skip


def is_remarkable(gateway: Gateway, beat: Heartbeat, known: Known) -> bool:
    """Whether there is anything to heed in a heartbeat. Pure; the signature of a mark is looked at only where this says so."""
    shown = marks.shown_beyond(beat.mark, gateway.environment_id, Mark(gateway.environment_id, known.epoch, known.position))
    return shown is not None or beliefs.of_heartbeat(beat, known) is not None


def heed_heartbeat(gateway: Gateway, beat: Heartbeat, known: Known) -> bool:
    """Whether the environment was frozen by what it proves. Raises `ValidationFailed` for what is not believed."""
    proof = heed_mark(gateway, beat.mark, known)
    if doubt := beliefs.of_heartbeat(beat, replace(known, frozen=True) if proof else known):
        refuse(gateway, doubt)
    return proof


def heed_mark(gateway: Gateway, shown: SignedMark | None, known: Known) -> bool:
    """Freeze the environment when a gateway shows a mark of ours that says more than this database knows (I4)."""
    proof = marks.proven(shown, gateway.environment_id, Mark(gateway.environment_id, known.epoch, known.position))
    if proof is None:
        return False
    with transaction.atomic():
        sentence = f"{gateway.name} shows a mark of this Primary of epoch {proof.epoch} and position {proof.position}, but the "
        sentence += f"database knows only epoch {known.epoch} and position {known.position}: it is older"
        seen = {"reported_epoch": proof.epoch, "known_epoch": known.epoch, "reported_position": proof.position}
        routes.freeze_because(gateway, sentence, {**seen, "known_position": known.position})
        GatewayStatus.objects.get_or_create(gateway=gateway)
        GatewayStatus.objects.filter(gateway=gateway).update(highest_epoch=Greatest("highest_epoch", proof.epoch))
    return True


def heed_report(gateway: Gateway, said: Message) -> None:
    """Raises `ValidationFailed` when a fence, a drain or a sign of life tells what is not believed of a queue."""
    if doubt := beliefs.of_report(said, known_of(gateway)):
        refuse(gateway, doubt)


def heed_results(gateway: Gateway, said: list[TaskResult]) -> None:
    if doubt := next(filter(None, map(beliefs.of_result, said)), None):
        refuse(gateway, doubt)


def epoch_floor(code: str, epoch: int) -> int:
    """What an environment is resumed above: nothing that a gateway merely said counts, but what is plausible or proven."""
    rows = GatewayStatus.objects.filter(gateway__environment_id=code).values_list("highest_epoch", "report")
    known, reported, shown = Mark(code, epoch), [], []
    for highest, report in rows:
        reported.append(highest)
        kept = report.get("mark")
        if kept and (proof := marks.proven(SignedMark(**kept), code, known)):
            shown.append(proof.epoch)
    return beliefs.epoch_floor(epoch, reported, shown)


def refuse(gateway: Gateway, doubt: Doubt) -> NoReturn:
    set_aside(gateway, doubt)
    raise ValidationFailed(f"{doubt}; this gateway is held until somebody looks at it")


def set_aside(gateway: Gateway, doubt: Doubt) -> None:
    """Hold who said it; what it says next may be as wrong, so an administrator releases it. Its environment goes on."""
    with transaction.atomic():
        itself = Gateway.objects.filter(pk=gateway.pk, decommissioned_at=None)
        if fleet.hold(gateway.environment_id, itself, f"it said {doubt}"[:200], database_now()):
            audit.record(
                actor=f"gateway:{gateway.id}", action="gateway.held", entity="gateway", entity_id=str(gateway.id),
                severity=audit.Severity.CRITICAL, environment=gateway.environment_id,
                details={"name": gateway.name, "field": doubt.field, "said": doubt.said, "why": doubt.why},
            )  # fmt: skip
    log.error("gateway %s is held: it said %s", gateway.name, doubt)
