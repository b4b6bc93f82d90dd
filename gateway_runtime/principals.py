"""Who calls a gateway: hashes of credentials and grants that came with the copy, believed for a limited time (DESIGN §9).

There are no accounts here. Whatever is wrong with a credential, the answer is the same 401.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts import browser
from accounts.access import Grant, Principal, PrincipalKind, Scope, limited
from accounts.authentication import bearer_text
from accounts.sessions import hash_token
from common.clock import now as clock_now
from common.errors import AuthenticationInvalid, Unavailable
from gateway_runtime import state
from gateway_runtime.models import ReplicaPrincipal, ReplicaToken

_INVALID = "this token is not valid at this gateway; sign in at the Primary"


def principal_of_token(token: str, now: datetime) -> Principal:
    """Who holds a token, as far as the copy knows.

    Raises `AuthenticationInvalid`, with code AUTH_OFFLINE_TOO_LONG for everybody once the Primary has been away too long, and
    `Unavailable` before the first complete copy.
    """
    _refuse_old_copy(now)
    found = ReplicaToken.objects.select_related("principal").filter(hash=hash_token(token), expires_at__gt=now).first()
    if found is None:
        raise AuthenticationInvalid(_INVALID)
    holder = found.principal
    return Principal(PrincipalKind(holder.kind), str(holder.id), holder.name, limited(_grants(holder), found.scopes), now)


def principal_named(actor: str, now: datetime) -> Principal | None:
    """The principal the audit names like this, with all that they may do; None when the copy does not know them."""
    kind, _, identifier = actor.partition(":")
    holder = ReplicaPrincipal.objects.filter(id=identifier, kind=kind).first()
    return Principal(PrincipalKind(kind), identifier, holder.name, _grants(holder), now) if holder else None


class GatewayAuthentication(BaseAuthentication):
    """Django REST framework's hook on a gateway: the header, else the browser's cookie. `request.auth` is the token."""

    def authenticate(self, request: Request) -> tuple[Principal, str] | None:
        presented = bearer_text(request)
        token = presented or browser.token_in(request)
        if not token:
            return None
        principal = principal_of_token(token, clock_now())
        if not presented:
            browser.refuse_without_proof(request, token)
        return principal, token

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def _refuse_old_copy(now: datetime) -> None:
    """Nobody can tell whether a credential was revoked while the Primary is away, so it counts for a limited time only."""
    age = state.age_of_copy(state.this_life(), now)
    if age is None:
        raise Unavailable("this gateway has not read its environment yet; try again", code="REPLICA_INCOMPLETE", retry_after=2)
    if age >= settings.MAZEVAULT.own_gateway.offline_auth_max:
        raise AuthenticationInvalid(
            "this gateway has been without the Primary for too long to trust any credential", code="AUTH_OFFLINE_TOO_LONG"
        )


def _grants(holder: ReplicaPrincipal) -> tuple[Grant, ...]:
    return tuple(_grant(row) for row in holder.grants)


def _grant(row: dict[str, Any]) -> Grant:
    return Grant(
        frozenset(row["permissions"]),
        Scope(row["organization"], row["project"], row["environment"].lower()),
        datetime.fromisoformat(row["expires_at"]) if row["expires_at"] else None,
    )
