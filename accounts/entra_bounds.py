"""How long a credential of an account of Entra counts without Entra's word: only Entra knows who left and who lost a group."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.conf import settings

from accounts.models import ApiToken, Session


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


def longest(model: type[Session] | type[ApiToken]) -> timedelta:
    """How long a session or token counts after Entra's last word."""
    own = settings.MAZEVAULT.entra
    return timedelta(seconds=own.session_max_age if model is Session else own.token_max_age)
