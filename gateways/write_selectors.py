"""Reads of received writes and loss manifests for people, in the shape the API answers. Never a value."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from django.db.models import BooleanField, ExpressionWrapper, Q

from common.api import rfc3339
from common.errors import NotFound, ValidationFailed
from gateways import losses, routes
from gateways.models import LossManifest, ReceivedWrite
from gateways.settlement import KEPT
from gateways.write_resolution import ABSENT
from protocol.vocabulary import WriteOutcome

FILTERS = ("outcome", "environment", "gateway", "project")
WRITES_SHOWN = 500
_WAITS: Mapping[str, str] = {
    WriteOutcome.RECEIVED: "it waits for its turn",
    WriteOutcome.CONFLICT: "the secret was changed in between; a person decides",
    WriteOutcome.QUARANTINED: "it is of an epoch or a life of its gateway that has ended; a person decides",
    WriteOutcome.DEAD_LETTER: "it cannot be applied; a person decides",
}
MANIFESTS_SHOWN = 50


def write_rows(wanted: Mapping[str, str]) -> list[dict[str, Any]]:
    """The newest writes that fit; without an outcome those that wait for a person."""
    return [write_row(row) for row in _fitting(wanted).order_by("-received_at", "-sequence")[:WRITES_SHOWN]]


def unresolved_ids(wanted: Mapping[str, str], limit: int) -> list[uuid.UUID]:
    """Writes that fit and wait for a person, oldest first."""
    waiting = _fitting(wanted).filter(outcome__in=KEPT, resolution="")
    return list(waiting.order_by("received_at", "sequence").values_list("id", flat=True)[:limit])


def write_of(identifier: uuid.UUID) -> Any:
    """The write with this id, or the evidence that came under it. Raises `NotFound`."""
    rows = _rows()
    found = rows.filter(id=identifier).first() or rows.filter(claimed_id=identifier).order_by("received_at").first()
    if found is None:
        raise NotFound(ABSENT)
    return found


def write_row(row: Any) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "environment": row.environment_id,
        "gateway": row.gateway.name,
        "gateway_id": str(row.gateway_id),
        "generation": str(row.generation),
        "epoch": row.epoch,
        "sequence": row.sequence,
        "previous": _text(row.previous),
        "claimed_id": _text(row.claimed_id),
        "operation": row.operation,
        "secret_id": _text(row.secret),
        "project_id": _text(row.project),
        "project_environment": _text(row.project_environment),
        "key": row.key,
        "base_version": row.base_version,
        "author": row.actor,
        "body_digest": row.body_digest,
        "promised": row.promised,
        "outcome": row.outcome,
        "version": row.version,
        "code": row.code,
        "detail": row.detail,
        **_why(row),
        "attempts": row.attempts,
        "resolution": row.resolution or None,
        "content_kept": row.content_kept,
        "accepted_at": row.accepted_at,
        "received_at": rfc3339(row.received_at),
        "settled_at": rfc3339(row.settled_at),
        "settled_by": row.settled_by or None,
    }


def _why(row: Any) -> dict[str, str | None]:
    """Why a write is not applied (yet), and since when; nulls for one that is, or was decided on."""
    if row.outcome == WriteOutcome.APPLIED or row.resolution:
        return {"because": None, "since": None}
    told = row.detail or _WAITS.get(row.outcome) or f"it was {row.outcome}"
    return {"because": told, "since": rfc3339(row.settled_at or row.received_at)}


def manifest_rows(environment: str) -> list[dict[str, Any]]:
    """The loss manifests of an environment, newest first."""
    rows = LossManifest.objects.filter(environment_id=environment).select_related("gateway").order_by("-opened_at")
    return [_manifest_row(row) for row in rows[:MANIFESTS_SHOWN]]


def _manifest_row(manifest: LossManifest) -> dict[str, Any]:
    account = losses.account_of(manifest)
    writes = losses.writes_of(manifest).order_by("sequence")[:WRITES_SHOWN]
    return {
        "id": str(manifest.id),
        "environment": manifest.environment_id,
        "operation": _text(manifest.operation),
        "gateway": manifest.gateway.name,
        "epoch": manifest.epoch,
        "open": manifest.closed_at is None,
        "opened_at": rfc3339(manifest.opened_at),
        "closed_at": rfc3339(manifest.closed_at),
        "closed_by": manifest.closed_by or None,
        "closed_reason": manifest.closed_reason,
        "reported_at": rfc3339(manifest.reported_at),
        "reported_depth": manifest.reported_depth,
        "last_sequence": manifest.last_sequence,
        "stopped": manifest.stopped,
        "arrived": account.arrived,
        "unresolved": account.unresolved,
        "missing": account.missing,
        "writes": [_loss_row(row) for row in writes],
    }


def _loss_row(row: ReceivedWrite) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "sequence": row.sequence,
        "secret_id": _text(row.secret),
        "key": row.key,
        "operation": row.operation,
        "base_version": row.base_version,
        "author": row.actor,
        "body_digest": row.body_digest,
        "outcome": row.outcome,
        "resolution": row.resolution or None,
        "received_at": rfc3339(row.received_at),
    }


def _rows() -> Any:
    """Writes with whether their content is still there, but without it."""
    kept = ExpressionWrapper(Q(sealed_body__isnull=False), output_field=BooleanField())
    return ReceivedWrite.objects.select_related("gateway").annotate(content_kept=kept).defer("head", "sealed_body")


def _fitting(wanted: Mapping[str, str]) -> Any:
    rows = _rows()
    outcome = wanted.get("outcome", "")
    if outcome:
        rows = rows.filter(outcome=_outcome(outcome))
    else:
        rows = rows.filter(outcome__in=KEPT, resolution="")
    if wanted.get("environment"):
        rows = rows.filter(environment=routes.environment_of(wanted["environment"]))
    if wanted.get("gateway"):
        rows = rows.filter(_gateway(wanted["gateway"]))
    if wanted.get("project"):
        rows = rows.filter(project=_id(wanted["project"], "project"))
    return rows


def _outcome(text: str) -> str:
    known = [one.value for one in WriteOutcome if one is not WriteOutcome.QUEUED]
    if text not in known:
        raise ValidationFailed(f"outcome: must be one of {', '.join(known)}")
    return text


def _gateway(text: str) -> Q:
    try:
        return Q(gateway_id=uuid.UUID(text))
    except ValueError:
        return Q(gateway__name=text.replace("\0", ""))


def _id(text: str, name: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise ValidationFailed(f"{name}: must be an id") from None


def _text(identifier: uuid.UUID | None) -> str | None:
    return str(identifier) if identifier else None
