"""Opaque session tokens: given once, stored as a hash, expiring, revocable at once (DESIGN §5)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.contrib.auth.hashers import check_password, make_password
from django.db import transaction
from django.db.models import QuerySet

from accounts import changes, lockout, passwords, rates
from accounts.access import PrincipalKind
from accounts.models import ApiToken, EntraSession, ServiceIdentity, Session, User
from common import audit
from common.errors import AuthenticationExpired, AuthenticationInvalid, NotFound, ValidationFailed

PREFIX = "mzv_"
SEEN_EVERY = timedelta(minutes=5)
"""How exact `last_used_at` is; a write for each call would cost more than the call."""
LIFE = timedelta(hours=24)
_WRONG = "the email address or the password is wrong"
_DECOY: list[str] = []


@dataclass(frozen=True)
class SignedIn:
    user: User
    session: Session
    token: str


def sign_in(email: str, password: str, *, address: str, now: datetime) -> SignedIn:
    """Check a password and open a session. One sentence for every failure, and about the same time."""
    account = email.strip().lower()
    rates.count_sign_in(account, address, now)
    lockout.refuse_when_locked(account, address, now)
    user = User.objects.by_email(account)
    if not _password_fits(user, password) or user is None or not user.is_active:
        _note_failure(account, address, now)
        raise AuthenticationInvalid(_WRONG)
    lockout.forget(account, address)
    with transaction.atomic():
        opened = _open(user, address, now)
        _audit("auth.login.success", user, address)
        User.objects.filter(pk=user.pk).update(last_login=now)
    return opened


def open_session(
    user: User, *, address: str, now: datetime, action: str = "auth.login.success", gateway_environment: str = ""
) -> SignedIn:
    """A new session of somebody who has proved who they are, by password or elsewhere."""
    with transaction.atomic():
        opened = _open(user, address, now, gateway_environment)
        _audit(action, user, address)
        User.objects.filter(pk=user.pk).update(last_login=now)
    return opened


def end_all(holder: User | ServiceIdentity, now: datetime, *, but: Session | None = None, tokens: bool = True) -> None:
    """End the sessions of a person or service identity, but for one, and their API tokens. Part of the caller's change."""
    mine = {"user": holder} if isinstance(holder, User) else {"service": holder}
    living = Session.objects.filter(**mine, revoked_at=None)
    ended = living.exclude(pk=but.pk) if but else living
    EntraSession.objects.filter(session__in=ended).delete()
    ended.update(revoked_at=now)
    if tokens:
        ApiToken.objects.filter(**mine, revoked_at=None).update(revoked_at=now)


def sign_in_service(client_id: str, client_secret: str, *, address: str, now: datetime) -> tuple[Session, str]:
    """A session of a service identity and its token (`client_credentials`). One sentence for every failure."""
    rates.count_call(f"client|{client_id}|{address}", now)
    service = ServiceIdentity.objects.filter(client_id=client_id, deleted_at=None).first()
    given = hash_token(client_secret)
    if service is None or not hmac.compare_digest(given, service.secret_hash) or service.status != "active":
        _note_refusal(client_id, "service", address)
        raise AuthenticationInvalid("client_id or client_secret is wrong")
    token = PREFIX + secrets.token_urlsafe(32)
    with transaction.atomic():
        session = Session.objects.create(service=service, token_hash=hash_token(token), address=address, expires_at=now + LIFE)
        _audit("auth.login.success", service, address)
        changes.credential_changed(session)
    return session, token


def sessions_of(session: Session, now: datetime) -> QuerySet[Session]:
    """The living sessions of the same person or service identity."""
    mine = Session.objects.filter(user=session.user, service=session.service, revoked_at=None, expires_at__gt=now)
    return mine.order_by("-created_at", "id")


def revoke_one(session: Session, identifier: uuid.UUID, *, address: str, now: datetime) -> None:
    """End one of one's own sessions at once. Somebody else's is not there."""
    with transaction.atomic():
        found = sessions_of(session, now).filter(id=identifier).first()
        if found is None:
            raise NotFound("there is no session with this id")
        _revoke(found, now)
        _audit("auth.session.revoked", session.user or session.service, address)


def note_use(credential: Session | ApiToken, now: datetime) -> None:
    """Remember when it was last used, exact to a few minutes."""
    if credential.last_used_at is None or credential.last_used_at < now - SEEN_EVERY:
        type(credential).objects.filter(pk=credential.pk).update(last_used_at=now)


def refresh(session: Session, *, address: str, now: datetime) -> SignedIn:
    """A new token for the old one, which ends. A service identity asks for a new one instead."""
    if session.user is None:
        raise ValidationFailed("only the session of a person can be refreshed; ask auth/token for a new token")
    with transaction.atomic():
        _revoke(session, now)
        opened = _open(session.user, address, now)
        _audit("auth.token.refreshed", session.user, address)
    return opened


def sign_out(session: Session, *, address: str, now: datetime) -> None:
    with transaction.atomic():
        _revoke(session, now)
        _audit("auth.logout", session.user or session.service, address)


def session_of(token: str, now: datetime) -> Session:
    """The living session behind a token, for the Primary's own API. Raises `AuthenticationInvalid` or `AuthenticationExpired`."""
    found = session_anywhere(token, now)
    if found.gateway_environment:
        raise AuthenticationInvalid("this session was opened at a gateway and counts there only; sign in here")
    return found


def session_anywhere(token: str, now: datetime) -> Session:
    """The same, also for a session that was opened at a gateway."""
    found = Session.objects.select_related("user", "service").filter(token_hash=hash_token(token)).first()
    if found is None or found.revoked_at or not holder_lives(found):
        raise AuthenticationInvalid("this token is not valid; sign in again")
    if found.expires_at <= now:
        raise AuthenticationExpired("this token has expired; sign in again")
    return found


def holder_lives(credential: Session | ApiToken) -> bool:
    """Whether the person or service identity behind a session or token may still sign in."""
    if credential.user:
        return credential.user.is_active and credential.user.deleted_at is None
    return credential.service is not None and credential.service.status == "active" and credential.service.deleted_at is None


def hash_token(token: str) -> str:
    """SHA-256 in hex; a token has 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _open(user: User, address: str, now: datetime, gateway_environment: str = "") -> SignedIn:
    token = PREFIX + secrets.token_urlsafe(32)
    session = Session.objects.create(
        user=user, token_hash=hash_token(token), address=address, gateway_environment=gateway_environment, expires_at=now + LIFE
    )
    changes.credential_changed(session)
    return SignedIn(user, session, token)


def _revoke(session: Session, now: datetime) -> None:
    if not Session.objects.filter(pk=session.pk, revoked_at__isnull=True).update(revoked_at=now):
        raise AuthenticationInvalid("this token is not valid; sign in again")
    EntraSession.objects.filter(session=session).delete()
    changes.credential_changed(session)


def _password_fits(user: User | None, password: str) -> bool:
    if user is None:
        if not _DECOY:
            _DECOY.append(make_password(secrets.token_urlsafe(16)))
        check_password(password, _DECOY[0])
        return False
    return user.check_password(passwords.normalized(password))


def _note_failure(account: str, address: str, now: datetime) -> None:
    with transaction.atomic():
        lockout.note_failure(account[:254], address, now)
        _note_refusal(account, "account", address)


def _note_refusal(name: str, entity: str, address: str) -> None:
    """The name is a hash: people type passwords into the wrong field."""
    with transaction.atomic():
        audit.record(
            actor="anonymous",
            action="auth.login.failure",
            entity=entity,
            entity_id=hashlib.sha256(name.encode()).hexdigest(),
            severity=audit.Severity.WARNING,
            address=address,
        )


def _audit(action: str, holder: User | ServiceIdentity | None, address: str) -> None:
    if holder is None:
        raise ValueError("a session has a holder")
    kind = PrincipalKind.USER if isinstance(holder, User) else PrincipalKind.SERVICE
    audit.record(actor=f"{kind.value}:{holder.id}", action=action, entity=kind.value, entity_id=str(holder.id), address=address)
