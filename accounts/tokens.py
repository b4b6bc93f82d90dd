"""API tokens: made by their holder, limited to scopes, expiring, revocable at once. Only the hash is kept."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import QuerySet

from accounts import audiences, changes
from accounts.changes import By
from accounts.durations import go_duration
from accounts.models import ApiToken, Session
from accounts.roles import KNOWN_PERMISSIONS
from accounts.scoping import absent
from accounts.sessions import hash_token
from common.errors import AuthenticationInvalid, Conflict, PermissionRefused, ValidationFailed

PREFIX = "mzvt_"
LONGEST_LIFE = timedelta(days=366)
MOST_TOKENS = 200
"""Living ones of one holder: what gateways are told of a holder must fit one message, or they hear of nothing behind it."""


def create(
    credential: Session | ApiToken, name: str, scopes: Sequence[str] | None, duration: str, by: By, now: datetime,
    audience: Sequence[str] | None = None,
) -> tuple[ApiToken, str]:  # fmt: skip
    """A new token of the caller and its text, which is shown once. It can do no more than its scopes and its holder, counts where
    its audience says, nowhere but where the credential it is made with counts, and made with a token it ends no later."""
    _refuse_wide_scopes(credential, scopes, by)
    meant = audiences.read(audience, credential.audience)
    expires_at = now + _life(duration)
    text = PREFIX + secrets.token_urlsafe(32)
    with transaction.atomic():
        parent = _living_parent(credential, now)
        _refuse_too_many(credential, now)
        row = ApiToken.objects.create(
            parent=parent,
            user=credential.user,
            service=credential.service,
            name=name,
            token_hash=hash_token(text),
            scopes=None if scopes is None else list(dict.fromkeys(scopes)),
            audience=meant,
            expires_at=min(expires_at, parent.expires_at) if parent else expires_at,
        )
        changes.record(by, "auth.token.created", "token", row.id, {"name": name, "scopes": row.scopes, "audience": meant})
        changes.credential_changed(row)
    row.refresh_from_db()
    return row, text


def _refuse_too_many(credential: Session | ApiToken, now: datetime) -> None:
    """The holder is locked, so that two at once are counted one after the other."""
    if tokens_of(credential).filter(expires_at__gt=now)[:MOST_TOKENS].count() >= MOST_TOKENS:
        raise Conflict(f"you have {MOST_TOKENS} living tokens, which is the most; revoke some first", code="TOO_MANY_TOKENS")


def tokens_of(credential: Session | ApiToken) -> QuerySet[ApiToken]:
    """The living tokens of the caller."""
    mine = ApiToken.objects.filter(user=credential.user, service=credential.service, revoked_at=None)
    return mine.order_by("created_at", "id")


def revoke(credential: Session | ApiToken, identifier: uuid.UUID, by: By, now: datetime) -> None:
    """End one of the caller's tokens at once, and those made with it. Somebody else's is not there."""
    if isinstance(credential, ApiToken) and credential.scopes is not None and identifier != credential.id:
        raise PermissionRefused("a token that is limited to scopes may end itself only")
    with transaction.atomic():
        row = tokens_of(credential).select_for_update().filter(id=identifier).first()
        if row is None:
            raise absent("token")
        ApiToken.objects.filter(id__in=_family(row.id), revoked_at=None).update(revoked_at=now)
        changes.record(by, "auth.token.revoked", "token", row.id, {"name": row.name})
        changes.credential_changed(row)


def _living_parent(credential: Session | ApiToken, now: datetime) -> ApiToken | None:
    """The token the caller used; None for a session. Holder and credential are locked: what ends them ends the new one too."""
    holder = credential.user or credential.service
    if holder is not None:
        type(holder)._default_manager.select_for_update(no_key=True).get(pk=holder.pk)
    living = type(credential)._default_manager.select_for_update().filter(revoked_at=None, expires_at__gt=now)
    found = living.filter(pk=credential.pk).first()
    if found is None:
        raise AuthenticationInvalid("this token is not valid; ask its holder for a new one")
    return found if isinstance(found, ApiToken) else None


def _family(identifier: uuid.UUID) -> list[uuid.UUID]:
    """A token and all that were made with it, directly or not. A child waits for its parent's lock, so none is missed."""
    found, newest = [identifier], [identifier]
    while newest:
        children = ApiToken.objects.select_for_update().filter(parent_id__in=newest, revoked_at=None)
        newest = list(children.values_list("id", flat=True))
        found += newest
    return found


def _refuse_wide_scopes(credential: Session | ApiToken, scopes: Sequence[str] | None, by: By) -> None:
    if scopes is None:
        if isinstance(credential, ApiToken) and credential.scopes is not None:
            raise ValidationFailed("scopes: name them; the token you use is limited, so it makes limited tokens only")
        return
    unknown = sorted(set(scopes) - KNOWN_PERMISSIONS)
    if unknown:
        raise ValidationFailed(f"scopes: there is no permission {unknown[0]}")
    missing = sorted(set(scopes) - by.principal.permissions_anywhere)
    if missing:
        raise ValidationFailed(f"scopes: you do not hold {missing[0]} anywhere, so a token of yours cannot either")


def _life(duration: str) -> timedelta:
    try:
        life = go_duration(duration)
    except ValueError:
        raise ValidationFailed("duration: must be a positive duration such as 24h, 720h or 1h30m") from None
    if life > LONGEST_LIFE:
        raise ValidationFailed(f"duration: must be at most {LONGEST_LIFE.days * 24}h")
    return life
