"""Tokens for Azure in a user's own name, kept sealed for as long as the session they were made in.

Only a request of that very session gets one: there is no way in by the id of a user, so background work cannot use them.
It uses the managed identity instead (docs/adr/0021).
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from django.db import transaction

from accounts import changes, resting, sessions
from accounts.entra import Entra, EntraError, ResourceToken, Tokens
from accounts.models import EntraSession, OboToken, Session, User
from accounts.sessions import holder_lives
from common import audit
from common.errors import AuthenticationExpired, AuthenticationInvalid, PermissionRefused

SPARE = timedelta(minutes=2)
"""A token that ends sooner is not given out: the call it is for may take that long."""
GONE = frozenset({50057})
"""Entra's numbers that say: this account is no longer allowed anything."""
ENDED = frozenset({50173, 700082, 70008, 50013, 50076, 50079})
"""Entra's numbers that say: sign in again."""


def remember(session: Session, tokens: Tokens, now: datetime) -> None:
    """Keep the tokens of a sign-in with its session."""
    row = EntraSession(session=session, expires_at=session.expires_at)
    with transaction.atomic():
        row.sealed_tokens = _sealed(row, tokens, now)
        row.save(force_insert=True)


def token_for(entra: Entra, session: Session, resource: str, now: datetime) -> ResourceToken:
    """A token for an API on behalf of the user of this session; `resource` is its URI, for example https://vault.azure.net.

    Raises `EntraError` when Entra refuses (AADSTS65001 and its like), `PermissionRefused` for a session that began elsewhere.
    """
    row = _row_of(session, now)
    kept = OboToken.objects.filter(session=row, resource=resource, expires_at__gt=now + SPARE).first()
    if kept and (opened := resting.opened_or_none(resting.obo_token(kept), kept.sealed_token)) is not None:
        return ResourceToken(opened, kept.expires_at - now)
    try:
        made = entra.on_behalf_of(_assertion(entra, row, now), f"{resource}/.default")
    except EntraError as error:
        _heed(error, session, now)
        raise
    with transaction.atomic():
        sealed = resting.sealed(resting.obo_token(OboToken(session=row, resource=resource)), made.value)
        OboToken.objects.update_or_create(
            session=row, resource=resource, defaults={"sealed_token": sealed, "expires_at": now + made.lives}
        )
    return made


def assertion_for(entra: Entra, session: Session, now: datetime) -> str:
    """The user's token for this application, which an integration of the same application exchanges for one of a vault.

    Raises `EntraError`, `PermissionRefused` for a session that began elsewhere, `AuthenticationExpired` when it has ended.
    """
    row = _row_of(session, now)
    try:
        return _assertion(entra, row, now)
    except EntraError as error:
        _heed(error, session, now)
        raise


def _row_of(session: Session, now: datetime) -> EntraSession:
    fresh = Session.objects.select_related("user", "service").filter(pk=session.pk).first()
    if fresh is None or fresh.revoked_at or fresh.expires_at <= now or not holder_lives(fresh):
        raise AuthenticationInvalid("this session is over; sign in again")
    row = EntraSession.objects.filter(session=fresh).first()
    if row is None:
        raise PermissionRefused(
            "this needs a sign-in with Entra: the session began with a password or a token", code="ENTRA_SESSION_NEEDED"
        )
    return row


def usable(entra: Entra, kept: str | None, now: datetime) -> tuple[str, Tokens | None]:
    """The user's token for this application out of what is kept, and the renewed tokens to keep when it was about to end.

    Raises `EntraError`, or `AuthenticationExpired` when nothing is left to renew it with; `kept` is None where it did not open.
    """
    if kept is None:
        raise AuthenticationExpired(
            "what is kept of the session at Entra does not open; sign in again", code="ENTRA_ASSERTION_EXPIRED"
        )
    opened = json.loads(kept)
    if datetime.fromisoformat(opened["until"]) > now + SPARE:
        return str(opened["access"]), None
    if not opened["refresh"]:
        raise AuthenticationExpired("the session at Entra has ended; sign in again", code="ENTRA_ASSERTION_EXPIRED")
    tokens = entra.renewed(opened["refresh"])
    return tokens.access, tokens


def text_of(tokens: Tokens, now: datetime) -> str:
    """Tokens of a sign-in in the form that is sealed and kept."""
    return json.dumps({"access": tokens.access, "refresh": tokens.refresh, "until": (now + tokens.lives).isoformat()})


def _assertion(entra: Entra, row: EntraSession, now: datetime) -> str:
    access, renewed = usable(entra, resting.opened_or_none(resting.entra_session(row), row.sealed_tokens), now)
    if renewed is not None:
        read, row.version = row.version, row.version + 1
        with transaction.atomic():
            row.sealed_tokens = _sealed(row, renewed, now)
            EntraSession.objects.filter(pk=row.pk, version=read).update(version=row.version, sealed_tokens=row.sealed_tokens)
    return access


def _sealed(row: EntraSession, tokens: Tokens, now: datetime) -> bytes:
    return resting.sealed(resting.entra_session(row), text_of(tokens, now))


def _heed(error: EntraError, session: Session, now: datetime) -> None:
    """What Entra says of a person counts here at once: a disabled account loses its sessions, an ended one its tokens."""
    if error.number in GONE and session.user:
        disable(session.user, now, reason=f"AADSTS{error.number}")
    elif error.number in ENDED:
        EntraSession.objects.filter(session=session).delete()


def disable(user: User, now: datetime, *, reason: str) -> None:
    """Switch an account off because Entra did. The next successful sign-in with Entra switches it on again."""
    with transaction.atomic():
        if not User.objects.filter(pk=user.pk, is_active=True).update(is_active=False, disabled_by_sso=True):
            return
        sessions.end_all(user, now)
        changes.principal_changed(user)
        audit.record(
            actor="system", action="user.disabled", entity="user", entity_id=str(user.id), severity=audit.Severity.WARNING,
            details={"reason": reason},
        )  # fmt: skip
