"""What people lost while this gateway is quarantined: its copy is narrowed by what it is told, and never widened (ADR 3).

Whoever is not known here stays unknown, a credential that is not here does not come, and of grants remains what the copy has and
the Primary still has, too.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from accounts.access import Grant, Scope
from gateway_runtime.models import ReplicaPrincipal, ReplicaToken
from gateway_runtime.principals import grants_in, stored_form
from protocol import replica as told


def narrow(records: Iterable[told.ReplicaPrincipal]) -> None:
    """Take from those who are known here what they have no more. Part of the caller's transaction."""
    named = {uuid.UUID(one.id): one for one in records}
    holders = list(ReplicaPrincipal.objects.select_for_update().filter(id__in=named).order_by("id"))
    tokens: dict[uuid.UUID, list[ReplicaToken]] = defaultdict(list)
    for token in ReplicaToken.objects.filter(principal__in=[one.id for one in holders]):
        tokens[token.principal_id].append(token)
    gone: list[uuid.UUID] = []
    ended: list[str] = []
    shorter: list[ReplicaToken] = []
    for holder in holders:
        record = named[holder.id]
        left = {one.hash: one for one in record.tokens}
        held = tokens[holder.id]
        ended += [one.hash for one in held if one.hash not in left]
        shorter += [_shortened(one, left[one.hash]) for one in held if one.hash in left]
        holder.grants = stored_form(common_part(grants_in(holder.grants), map(_grant, record.grants)))
        if not holder.grants or not any(one.hash in left for one in held):
            gone.append(holder.id)
    ReplicaToken.objects.filter(hash__in=ended).delete()
    ReplicaToken.objects.bulk_update(shorter, ["expires_at", "scopes"])
    ReplicaPrincipal.objects.bulk_update([one for one in holders if one.id not in set(gone)], ["grants"])
    ReplicaPrincipal.objects.filter(id__in=gone).delete()


def common_part(held: Iterable[Grant], still: Iterable[Grant]) -> list[Grant]:
    """What both lists of grants give, as grants; none of them inside of another one."""
    still = list(still)
    met = {part for mine in held for theirs in still if (part := _meet(mine, theirs)) is not None}
    return sorted((one for one in met if not any(other != one and _gives_all_of(other, one) for other in met)), key=_order)


def _meet(one: Grant, other: Grant) -> Grant | None:
    places = (
        (one.scope.organization, other.scope.organization),
        (one.scope.project, other.scope.project),
        (one.scope.environment, other.scope.environment),
    )
    permissions = one.permissions & other.permissions
    if not permissions or any(mine and theirs and mine != theirs for mine, theirs in places):
        return None
    ends = [end for end in (one.expires_at, other.expires_at) if end is not None]
    return Grant(permissions, Scope(*(mine or theirs for mine, theirs in places)), min(ends, default=None))


def _gives_all_of(wide: Grant, narrow: Grant) -> bool:
    lasts = wide.expires_at is None or (narrow.expires_at is not None and narrow.expires_at <= wide.expires_at)
    return lasts and narrow.permissions <= wide.permissions and wide.covers(narrow.scope)


def _order(one: Grant) -> tuple[str, str, str, str]:
    return one.scope.organization, one.scope.project, one.scope.environment, ",".join(sorted(one.permissions))


def _shortened(held: ReplicaToken, still: told.ReplicaToken) -> ReplicaToken:
    held.expires_at = min(held.expires_at, datetime.fromisoformat(still.expires_at))
    if still.scopes is not None:
        held.scopes = sorted(set(still.scopes) if held.scopes is None else set(held.scopes) & set(still.scopes))
    return held


def _grant(one: told.ReplicaGrant) -> Grant:
    until = datetime.fromisoformat(one.expires_at) if one.expires_at else None
    return Grant(frozenset(one.permissions), Scope(one.organization, one.project, one.environment.lower()), until)
