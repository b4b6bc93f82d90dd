"""Everything that was done with one secret, at the Primary and at gateways, and what may be missing of it (N4).

Gateways keep chains of their own and bring them here within seconds. A heartbeat says how long its chain is, so the Primary knows
whether it holds all of it, and up to when.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Any

import msgspec
from django.conf import settings
from django.db.models import Q

from accounts.names import names_of
from common.api import rfc3339
from common.clock import moment_of
from common.models import AuditEntry
from gateways import audit_forks, sightings
from gateways.models import ABOUT_SECRET, GatewayAuditChain, GatewayAuditRecord
from gateways.sightings import Sighting
from protocol.audit import fork_number, life_of

PRIMARY = "primary"
ENTITY = "secret"
FURTHEST = 10_000
"""Entries of two places are put in order by reading up to here."""
KEPT = ("actor", "action", "severity", "environment", "address")
UNREADABLE = "audit.entry.unreadable"
"""Stands for an entry of a gateway that is none; it is shown when it came."""


@dataclass(frozen=True)
class NodeFacts:
    """What is known of the chain of a gateway. `told`: how long it was at the heartbeat; `held`: how much of it is here."""

    name: str
    heard_at: datetime | None
    silent: bool
    stopped: bool
    told: int
    held: int
    held_until: datetime | None
    """When the last entry that is here was made."""


def missing_of(facts: NodeFacts) -> tuple[datetime | None, str]:
    """From when on entries of this node may be missing here, and why; nothing when all it ever spoke of is here."""
    if facts.heard_at is None:
        return None, "it was never heard of"
    if facts.held < facts.told:
        lacking = facts.told - facts.held
        return facts.held_until or facts.heard_at, f"{lacking} entries that it has spoken of have not arrived yet"
    if facts.silent and not facts.stopped:
        return facts.heard_at, "nothing was heard of it since; what it did meanwhile comes with its return"
    return None, ""


def trail(secret: uuid.UUID, environment: str, limit: int, offset: int) -> dict[str, Any]:
    """The newest entries about a secret of all nodes, with the nodes that may have more."""
    here = _of_primary(secret, limit + offset)
    there = _of_gateways(secret, limit + offset)
    rows = list(islice(merge(here, there, key=lambda row: row["at"], reverse=True), offset, offset + limit))
    names = names_of(row["actor"] for row in rows)
    entries = [{**row, "at": rfc3339(row["at"]), "name": names.get(row["actor"])} for row in rows]
    nodes = [_node_row(facts) for facts in _nodes(environment)]
    return {"secret_id": str(secret), "complete": not any(node["missing_since"] for node in nodes), "nodes": nodes,
            "entries": entries}  # fmt: skip


def _of_primary(secret: uuid.UUID, count: int) -> list[dict[str, Any]]:
    found = AuditEntry.objects.filter(entity=ENTITY, entity_id=str(secret)).order_by("-at", "-id")[:count]
    return [_row(PRIMARY, one.at, vars(one), one.details) for one in found]


def _of_gateways(secret: uuid.UUID, count: int) -> list[dict[str, Any]]:
    """Of chains of all lives, from the texts that their hashes cover. What a fork holds again is one entry."""
    found = GatewayAuditRecord.objects.annotate(about=ABOUT_SECRET).filter(about=str(secret)).order_by("-id")[:count]
    told = {(life_of(chain), text): (chain, text, at) for chain, text, at in found.values_list("chain", "text", "received_at")}
    rows = list(told.values())
    names = dict(
        GatewayAuditChain.objects.filter(chain__in={chain for chain, _, _ in rows}).values_list("chain", "gateway__name")
    )
    made = [_row_of_gateway(names.get(chain, chain), text, at) for chain, text, at in rows]
    return sorted(made, key=lambda row: row["at"], reverse=True)


def _row_of_gateway(node: str, text: str, received: datetime) -> dict[str, Any]:
    """What a gateway wrote. Of a text that has not the form of an entry only that it came: its word ends no reading."""
    try:
        told = msgspec.json.decode(text)
        at, details = moment_of(told["at"]), msgspec.json.decode(told["details"])
        if at and all(isinstance(told[name], str) for name in KEPT):
            return _row(node, at, told, details)
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    return _row(node, received, {**dict.fromkeys(KEPT, ""), "action": UNREADABLE, "severity": "critical"}, {})


def _row(node: str, at: datetime, told: Mapping[str, Any], details: Any) -> dict[str, Any]:
    return {"at": at, "node": node, **{name: told[name] for name in KEPT}, "details": details}


def _node_row(facts: NodeFacts) -> dict[str, Any]:
    since, because = missing_of(facts)
    return {
        "node": facts.name, "heard_at": rfc3339(facts.heard_at), "missing_since": rfc3339(since), "because": because or None,
    }  # fmt: skip


def _nodes(environment: str) -> Iterable[NodeFacts]:
    """The gateways that serve the environment now; a decommissioned one says nothing more, and its chains are here."""
    living = [one for one in sightings.of_all() if one.environment_id == environment]
    chains = _newest_chains(living)
    for one in living:
        row = chains.get(str(one.generation))
        held = _held_of_its_own(row) if row else 0
        last = audit_forks.stored(row, [held]).get(held) if row else None
        yield _facts(one, held, _time_in(last[0]) if last else None)


def _time_in(text: str) -> datetime | None:
    """When an entry was made, or None where nobody can say."""
    try:
        return moment_of(msgspec.json.decode(text)["at"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _newest_chains(living: Iterable[Sighting]) -> dict[str, GatewayAuditChain]:
    """The chain in which each life is told now: its first one, or its newest fork."""
    ours = {str(one.generation): one.id for one in living}
    found = GatewayAuditChain.objects.filter(Q(chain__in=ours) | Q(gateway__in=ours.values()) & ~Q(follows=""))
    by_age = sorted(found, key=lambda row: fork_number(row.chain))
    return {life_of(row.chain): row for row in by_age}


def _held_of_its_own(row: GatewayAuditChain) -> int:
    """Up to which position a chain is this gateway's own way: a copy may have gone on with it."""
    return row.position if row.contradicted_position is None else min(row.position, row.contradicted_position - 1)


def _facts(one: Sighting, held: int, until: datetime | None) -> NodeFacts:
    silent = one.age_seconds is None or one.age_seconds > settings.MAZEVAULT.timing.heartbeat_full_age
    return NodeFacts(one.name, one.heartbeat_at, silent, one.stopped, one.report.get("audit_position", 0), held, until)
