"""Who calls a gateway: hashes of credentials and grants that came with the copy, believed for a limited time (DESIGN §9).

There are no accounts here. Whatever is wrong with a credential, the answer is the same 401.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from django.conf import settings
from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts import browser, rights
from accounts.access import Grant, Principal, PrincipalKind, Scope, limited
from accounts.authentication import bearer_text, count
from accounts.sessions import hash_token
from common import remembered
from common.clock import now as clock_now
from common.errors import AuthenticationInvalid, Unavailable
from common.remembered import Remembered
from common.statements import fetch
from gateway_runtime import state
from gateway_runtime.models import NodeState, ReplicaPrincipal

_INVALID = (
    "this token is not valid at this gateway; sign in at the Primary, with an audience that names this gateway environment if "
    "one without any does not count here"
)
_HOLDER: LiteralString = """
SELECT p.kind, p.id, p.name, p.grants, t.scopes, t.expires_at
  FROM gateway_runtime_replicatoken t JOIN gateway_runtime_replicaprincipal p ON p.id = t.principal_id WHERE t.hash = %(hash)s
"""


@dataclass(frozen=True)
class Rights:
    """What a credential gives at this gateway, as the copy says."""

    kind: PrincipalKind
    id: uuid.UUID
    name: str
    grants: tuple[Grant, ...]
    expires_at: datetime


_known = Remembered[Rights | None]("rights at this gateway")


def follow(stop: threading.Event | None = None) -> threading.Thread:
    """Begin to remember rights in this process for up to a second (docs/adr/0036)."""
    return remembered.follow(rights.CHANNEL, _known, stop)


def principal_of_token(token: str, now: datetime) -> Principal:
    """Who holds a token, as far as the copy knows.

    Raises `AuthenticationInvalid`, with code AUTH_OFFLINE_TOO_LONG for everybody once the Primary has been away too long, and
    `Unavailable` before the first complete copy.
    """
    refuse_old_copy(state.this_life(), now)
    found = rights_of(hash_token(token), now)
    if found is None:
        raise AuthenticationInvalid(_INVALID)
    return principal_of(found, now)


def rights_of(token_hash: str, now: datetime) -> Rights | None:
    """What the living credential with this hash gives; None when the copy has none."""
    found = _known.get(token_hash, lambda: _asked(token_hash))
    return found if found is not None and found.expires_at > now else None


def principal_of(found: Rights, now: datetime) -> Principal:
    return Principal(found.kind, str(found.id), found.name, found.grants, now)


def _asked(token_hash: str) -> Rights | None:
    for kind, identifier, name, grants, scopes, expires_at in fetch(_HOLDER, {"hash": token_hash}):
        held = limited(map(_grant, _plain(grants)), _plain(scopes))
        return Rights(PrincipalKind(kind), identifier, name, held, expires_at)
    return None


def principal_named(actor: str, now: datetime) -> Principal | None:
    """The principal the audit names like this, with all that they may do; None when the copy does not know them."""
    kind, _, identifier = actor.partition(":")
    holder = ReplicaPrincipal.objects.filter(id=identifier, kind=kind).first()
    return Principal(PrincipalKind(kind), identifier, holder.name, grants_in(holder.grants), now) if holder else None


class GatewayAuthentication(BaseAuthentication):
    """Django REST framework's hook on a gateway: the header, else the browser's cookie. `request.auth` is the token."""

    def authenticate(self, request: Request) -> tuple[Principal, str] | None:
        presented = bearer_text(request)
        token = presented or browser.token_in(request)
        if not token:
            return None
        moment = clock_now()
        principal = principal_of_token(token, moment)
        count_call(token, principal, request._request, moment)
        if not presented:
            browser.refuse_without_proof(request, token)
        return principal, token

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def count_call(token: str, principal: Principal, request: HttpRequest, moment: datetime) -> None:
    """The same limit as at the Primary, of this gateway alone. Raises `TooManyRequests`."""
    count(f"gateway|{hash_token(token)}", principal.actor, request, moment)


def refuse_old_copy(row: NodeState | state.Standing, now: datetime) -> None:
    """Nobody can tell whether a credential was revoked while the Primary is away, so it counts for a limited time only."""
    age = state.age_of_copy(row, now)
    if age is None:
        raise Unavailable("this gateway has not read its environment yet; try again", code="REPLICA_INCOMPLETE", retry_after=2)
    if age >= settings.MAZEVAULT.own_gateway.offline_auth_max:
        raise AuthenticationInvalid(
            "this gateway has been without the Primary for too long to trust any credential", code="AUTH_OFFLINE_TOO_LONG"
        )


def grants_in(rows: Iterable[dict[str, Any]]) -> tuple[Grant, ...]:
    """Grants as a copied principal has them."""
    return tuple(_grant(row) for row in rows)


def stored_form(grants: Iterable[Grant]) -> list[dict[str, Any]]:
    """The way back of `grants_in`."""
    return [
        {
            "permissions": sorted(one.permissions), "organization": one.scope.organization, "project": one.scope.project,
            "environment": one.scope.environment, "expires_at": one.expires_at.isoformat() if one.expires_at else None,
        }
        for one in grants
    ]  # fmt: skip


def _grant(row: dict[str, Any]) -> Grant:
    return Grant(
        frozenset(row["permissions"]),
        Scope(row["organization"], row["project"], row["environment"].lower()),
        datetime.fromisoformat(row["expires_at"]) if row["expires_at"] else None,
    )


def _plain(value: Any) -> Any:
    """A JSON column as a plain value, however the connection hands it over."""
    return json.loads(value) if isinstance(value, str) else value
