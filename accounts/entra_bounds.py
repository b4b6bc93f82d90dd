"""How long a credential of an account of Entra counts without Entra's word: only Entra knows who left and who lost a group."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.conf import settings

from accounts.models import ApiToken, Session, User


def end_of(
    model: type[Session] | type[ApiToken], sso_provider: str, confirmed_at: datetime | None, expires_at: datetime
) -> datetime:
    """When a session or token ends: at its own end, or earlier when Entra has not said for long that its holder may come in.

    An account of Entra that never came in has no living credential.
    """
    if not sso_provider:
        return expires_at
    if confirmed_at is None:
        return datetime.min.replace(tzinfo=UTC)
    return min(expires_at, confirmed_at + longest(model))


def may_work(user: User, now: datetime) -> bool:
    """Whether work may go on in somebody's name who does not call: not for ever after Entra last let them in."""
    if not user.sso_provider:
        return True
    span = timedelta(seconds=settings.MAZEVAULT.entra.work_max_age)
    return user.entra_confirmed_at is not None and now < user.entra_confirmed_at + span


def longest(model: type[Session] | type[ApiToken]) -> timedelta:
    """How long a session or token counts after Entra's last word."""
    own = settings.MAZEVAULT.entra
    return timedelta(seconds=own.session_max_age if model is Session else own.token_max_age)
