"""The table of task kinds: what may be asked of a gateway, and how a lost answer is treated. One line a kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import ValidationFailed

PROBE_TARGETS = ("database", "cache", "primary")


@dataclass(frozen=True)
class TaskKind:
    """`idempotent`: may be done again when nobody knows whether it was done; others wait for a person."""

    name: str
    summary: str
    idempotent: bool
    claim_seconds: float
    attempts: int
    fields: Mapping[str, str]


KINDS: Mapping[str, TaskKind] = {
    kind.name: kind
    for kind in (
        TaskKind(
            name="gateway.probe",
            summary="measure from the gateway: its database, its cache and the way to the Primary",
            idempotent=True,
            claim_seconds=60,
            attempts=5,
            fields={"targets": "list of database, cache, primary; all of them when absent"},
        ),
    )
}


def kind_of(name: str) -> TaskKind:
    """The kind with this name, or `ValidationFailed` listing the known ones."""
    if name not in KINDS:
        raise ValidationFailed(f"kind must be one of {', '.join(KINDS)}")
    return KINDS[name]


def check_payload(kind: TaskKind, payload: Mapping[str, Any]) -> None:
    """Refuse unknown fields and wrong values by name."""
    unknown = sorted(set(payload) - set(kind.fields))
    if unknown:
        raise ValidationFailed(f"payload.{unknown[0]} is not known for {kind.name}; known are {', '.join(kind.fields)}")
    targets = payload.get("targets", list(PROBE_TARGETS))
    if not isinstance(targets, list) or not targets or any(target not in PROBE_TARGETS for target in targets):
        raise ValidationFailed(f"payload.targets must be a list of {', '.join(PROBE_TARGETS)}")
