"""What a bearer token gives whom: credential, holder, role bindings and their permissions, read in one statement.

Remembered in the process for a second at most, and given up at once when anything a right depends on changes (docs/adr/0036):
triggers of the tables say so, whoever makes the change. What time alone ends is judged at each call.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, LiteralString

from django.db import transaction
from django.db.models import Q

from accounts.access import Grant, Principal, PrincipalKind, Scope, limited
from accounts.entra_bounds import end_of
from accounts.models import ApiToken, Session
from accounts.principals import grants_of_account
from common import remembered
from common.remembered import Remembered
from common.statements import fetch, plain

CHANNEL: LiteralString = "mazevault_rights"
"""NOTIFY channel of the triggers (migration accounts 0008)."""

_GRANTS: LiteralString = """
    SELECT jsonb_agg(jsonb_build_array(r.permissions, coalesce(p.organization_id, g.organization_id), g.project_id, g.environment,
                                       g.expires_at))
      FROM accounts_rolegrant g JOIN accounts_role r ON r.id = g.role_id LEFT JOIN accounts_project p ON p.id = g.project_id
"""
"""A grant in a project is one in its organization, whatever the row says."""
_HOLDER: LiteralString = (
    """
    c.user_id, u.email, u.role, u.sso_provider, u.entra_confirmed_at, u.must_change_password,
    u.is_active AND u.deleted_at IS NULL,
    c.service_id, i.display_name, i.status = 'active' AND i.deleted_at IS NULL,
    CASE WHEN c.user_id IS NULL THEN ("""
    + _GRANTS
    + """ WHERE g.service_id = c.service_id)
         ELSE ("""
    + _GRANTS
    + """ WHERE g.user_id = c.user_id) END
"""
)
_SESSION: LiteralString = (
    """
SELECT c.id, c.expires_at, c.revoked_at, c.last_used_at, c.gateway_environment, c.audience, NULL, """
    + _HOLDER
    + """
  FROM accounts_session c LEFT JOIN accounts_user u ON u.id = c.user_id
  LEFT JOIN accounts_serviceidentity i ON i.id = c.service_id WHERE c.token_hash = %(hash)s
"""
)
_TOKEN: LiteralString = (
    """
SELECT c.id, c.expires_at, c.revoked_at, c.last_used_at, '', c.audience, c.scopes, """
    + _HOLDER
    + """
  FROM accounts_apitoken c LEFT JOIN accounts_user u ON u.id = c.user_id
  LEFT JOIN accounts_serviceidentity i ON i.id = c.service_id WHERE c.token_hash = %(hash)s
"""
)


@dataclass(frozen=True)
class Rights:
    """A session or API token and what it gives. `grants` are as they stand in the tables: some may have ended by time."""

    model: type[Session] | type[ApiToken]
    id: uuid.UUID
    token_hash: str = field(repr=False)
    holder: PrincipalKind
    holder_id: str
    name: str
    grants: tuple[Grant, ...]
    lives: bool
    """Neither revoked, nor is its holder disabled or gone."""
    expires_at: datetime
    """Its own end, or that of Entra's last word on its holder (`accounts.entra_bounds`)."""
    unconfirmed: bool
    """It ends by the latter, and goes on when its holder signs in with Entra."""
    last_used_at: datetime | None
    gateway_environment: str
    audience: Sequence[str] | None
    must_change_password: bool

    @property
    def account(self) -> str:
        """Under which name limits of the holder are noted."""
        return f"{self.holder.value}:{self.holder_id}"

    def principal(self, moment: datetime) -> Principal:
        return Principal(self.holder, self.holder_id, self.name, self.grants, moment)


SEEN_EVERY = timedelta(minutes=5)
"""How exact `last_used_at` is; a write for each call would cost more than the call."""
_known = Remembered[Rights | None]("rights")


def of_session(token_hash: str) -> Rights | None:
    """What the session whose token has this hash gives; None when there is none."""
    return _asked(Session, _SESSION, token_hash)


def of_token(token_hash: str) -> Rights | None:
    """The same of an API token: no more than its scopes."""
    return _asked(ApiToken, _TOKEN, token_hash)


def follow(stop: threading.Event | None = None) -> threading.Thread:
    """Begin to remember in this process. For processes that answer people."""
    return remembered.follow(CHANNEL, _known, stop)


def forget_after_commit() -> None:
    """The caller's transaction ends a right: this process does not wait for the notice of it."""
    transaction.on_commit(_known.forget)


def _asked(model: type[Session] | type[ApiToken], text: LiteralString, token_hash: str) -> Rights | None:
    def ask() -> Rights | None:
        rows = fetch(text, {"hash": token_hash})
        return _rights(model, token_hash, rows[0]) if rows else None

    return _known.get((model, token_hash), ask)


def row_of(rights: Rights) -> Session | ApiToken | None:
    """The credential as it is now, with its holder; None when it ended meanwhile."""
    living = rights.model._default_manager.select_related("user", "service").filter(id=rights.id, revoked_at=None)
    found: Session | ApiToken | None = living.first()
    return found


def note_use(rights: Rights, now: datetime) -> None:
    """Remember when the credential was last used, exact to a few minutes; of calls at the same time one writes."""
    before = now - SEEN_EVERY
    if rights.last_used_at is not None and rights.last_used_at >= before:
        return
    unseen = Q(last_used_at=None) | Q(last_used_at__lt=before)
    rights.model._default_manager.filter(unseen, pk=rights.id).update(last_used_at=now)
    _known.drop((rights.model, rights.token_hash))


def _rights(model: type[Session] | type[ApiToken], token_hash: str, row: tuple[Any, ...]) -> Rights:
    identifier, expires_at, revoked_at, last_used_at, gateway_environment, audience, scopes, *who = row
    user, email, role, provider, confirmed_at, must_change, user_lives, service, called, service_lives, bindings = who
    grants, end = tuple(map(_grant, plain(bindings) or ())), end_of(model, provider or "", confirmed_at, expires_at)
    if user is not None:
        grants = (*grants_of_account(role, provider), *grants)
    return Rights(
        model=model, id=identifier, token_hash=token_hash,
        holder=PrincipalKind.USER if user is not None else PrincipalKind.SERVICE,
        holder_id=str(user or service), name=email if user is not None else called,
        grants=limited(grants, plain(scopes)),
        lives=revoked_at is None and bool(user_lives if user is not None else service_lives),
        expires_at=end, unconfirmed=end < expires_at, last_used_at=last_used_at, gateway_environment=gateway_environment,
        audience=plain(audience),
        must_change_password=bool(must_change),
    )  # fmt: skip


def _grant(binding: list[Any]) -> Grant:
    permissions, organization, project, environment, expires_at = binding
    place = Scope(organization or "", project or "", environment.lower())
    return Grant(frozenset(permissions), place, datetime.fromisoformat(expires_at) if expires_at else None)
