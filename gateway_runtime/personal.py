"""Tokens of people who signed in with Entra at this gateway, for calls in their own name (DESIGN §10, ADR 21).

They rest sealed beside the hash of the session's token and are used only by a request that shows that token.
"""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from accounts import obo, resting, sso
from accounts.entra import Entra, EntraError, Tokens
from accounts.sessions import hash_token
from common.errors import PermissionRefused
from common.sealing import Place
from gateway_runtime.models import PersonalTokens


def remember(token: str, tokens: Tokens, expires_at: datetime, now: datetime) -> None:
    """Keep the tokens of a sign-in as long as its session lives; those of sessions that are over go."""
    row = PersonalTokens(hash=hash_token(token), expires_at=expires_at, version=1)
    with transaction.atomic():
        PersonalTokens.objects.filter(expires_at__lte=now).delete()
        row.sealed_tokens = resting.sealed(place(row), obo.text_of(tokens, now))
        row.save(force_insert=True)


def forget(token: str) -> None:
    PersonalTokens.objects.filter(hash=hash_token(token)).delete()


def assertion_of(token: str, now: datetime) -> str:
    """The person's token for this application, renewed when it is about to end.

    Raises `PermissionRefused` (ENTRA_SESSION_NEEDED) for who did not sign in with Entra here, else what `obo.usable` raises.
    """
    row = PersonalTokens.objects.filter(hash=hash_token(token), expires_at__gt=now).first()
    if row is None:
        raise PermissionRefused(
            "the vault of this project is reached in your own name: sign in with Entra at this node", code="ENTRA_SESSION_NEEDED"
        )
    try:
        return _assertion(sso.entra(), row, now)
    except EntraError as error:
        if error.number in obo.ENDED | obo.GONE:
            row.delete()
        raise


def place(row: PersonalTokens) -> Place:
    """The version grows with each renewal, so an older row put back does not open."""
    return resting.PLATFORM, "gateway_runtime_personaltokens", row.hash, row.version


def _assertion(entra: Entra, row: PersonalTokens, now: datetime) -> str:
    access, renewed = obo.usable(entra, resting.opened_or_none(place(row), row.sealed_tokens), now)
    if renewed is not None:
        read, row.version = row.version, row.version + 1
        with transaction.atomic():
            sealed = resting.sealed(place(row), obo.text_of(renewed, now))
            PersonalTokens.objects.filter(pk=row.pk, version=read).update(version=row.version, sealed_tokens=sealed)
    return access
