"""Opaque session tokens: given once, stored as a hash, expiring, revocable at once (DESIGN §5)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.contrib.auth.hashers import check_password, make_password
from django.db import transaction
from django.db.models import Q, QuerySet

from accounts import audiences, changes, lockout, passwords, rates, refusals, typed
from accounts.access import PrincipalKind
from accounts.addresses import folded
from accounts.entra_bounds import longest
from accounts.models import ApiToken, EntraSession, ServiceIdentity, Session, User
from common import audit
from common.errors import AuthenticationExpired, AuthenticationInvalid, NotFound, PermissionRefused, ValidationFailed

PREFIX = "mzv_"
LIFE = timedelta(hours=24)
KEPT = timedelta(days=30)
"""How long an ended session or token stays, for those who ask where somebody was signed in."""
MOST_OF_A_SERVICE = 200
"""Living sessions of one service identity; software that asks for a new token at each call ends its oldest ones."""
PRUNED_AT_ONCE = 5000
_WRONG = "the email address or the password is wrong"
_WRONG_SECRET = "client_id or client_secret is wrong"  # noqa: S105  a sentence
_DECOY: list[str] = []


@dataclass(frozen=True)
class SignedIn:
    user: User
    session: Session
    token: str

    def seconds_left(self, now: datetime) -> int:
        """How long the session lives from now, in whole seconds."""
        return max(0, round((self.session.expires_at - now).total_seconds()))


def sign_in(
    email: str, password: str, *, address: str, now: datetime, audience: Sequence[str] | None = None
) -> SignedIn:  # fmt: skip
    """Check a password and open a session. One sentence for every failure, and about the same time."""
    meant = audiences.read(audience)
    account = folded(email)
    with refusals.noting_limits(rates.ANONYMOUS, address=address, now=now):
        rates.count_sign_in(account, address, now)
        user = User.objects.by_email(account)
        lockout.refuse_when_locked(user, account, address, now)
    if not _password_fits(user, password) or user is None or not _may_sign_in(user):
        _note_failure(user, account, address, now)
        raise AuthenticationInvalid(_WRONG)
    lockout.forget(lockout.key_of(user, account), address)
    with transaction.atomic():
        _refuse_changed(user)
        opened = _open(user, address, now, audience=meant)
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


def sign_in_service(
    client_id: str, client_secret: str, *, address: str, now: datetime, audience: Sequence[str] | None = None
) -> tuple[Session, str]:
    """A session of a service identity and its token (`client_credentials`). One sentence for every failure."""
    meant = audiences.read(audience)
    with refusals.noting_limits(rates.ANONYMOUS, address=address, now=now):
        rates.count_service_sign_in(client_id, address, now)
    service = ServiceIdentity.objects.filter(client_id=client_id, deleted_at=None).first()
    given = hash_token(client_secret)
    if service is None or not _secret_fits(service, given):
        _note_refusal(client_id, "service", address)
        raise AuthenticationInvalid(_WRONG_SECRET)
    token = PREFIX + secrets.token_urlsafe(32)
    with transaction.atomic():
        fresh = ServiceIdentity.objects.select_for_update(no_key=True).filter(pk=service.pk, deleted_at=None).first()
        if fresh is None or not _secret_fits(fresh, given):
            raise AuthenticationInvalid(_WRONG_SECRET)
        _end_oldest(service, now)
        session = Session.objects.create(
            service=service, token_hash=hash_token(token), address=address, audience=meant, expires_at=now + LIFE
        )
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


def refresh(session: Session, *, address: str, now: datetime) -> SignedIn:
    """A new token for the old one, which ends. A service identity asks for a new one instead, and who came from Entra signs in
    there again: only Entra can say whether they still may."""
    if session.user is None:
        raise ValidationFailed("only the session of a person can be refreshed; ask auth/token for a new token")
    if session.user.sso_provider or EntraSession.objects.filter(session=session).exists():
        raise PermissionRefused("this session began at Entra; sign in at Entra again", code="SSO_SIGN_IN_NEEDED")
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=session.user.pk)  # a reset ends the old session first, or the new one
        _revoke(session, now)
        opened = _open(session.user, address, now, audience=session.audience)
        _audit("auth.token.refreshed", session.user, address)
    return opened


def sign_out(session: Session, *, address: str, now: datetime) -> None:
    with transaction.atomic():
        _revoke(session, now)
        _audit("auth.logout", session.user or session.service, address)


def session_anywhere(token: str, now: datetime) -> Session:
    """The living session behind a token, also one that was opened at a gateway. Raises `AuthenticationInvalid` or
    `AuthenticationExpired`."""
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


def prune(now: datetime) -> int:
    """Drop sessions and API tokens that ended long ago, a limited number at once."""
    ended = Q(revoked_at__lt=now - KEPT) | Q(expires_at__lt=now - KEPT)
    dropped = 0
    for rows in (Session.objects.filter(ended), ApiToken.objects.filter(ended)):
        old = list(rows.values_list("pk", flat=True)[:PRUNED_AT_ONCE])
        dropped += len(old)
        rows.model._default_manager.filter(pk__in=old).delete()
    return dropped


def hash_token(token: str) -> str:
    """SHA-256 in hex; a token has 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _open(
    user: User, address: str, now: datetime, gateway_environment: str = "", audience: Sequence[str] | None = None
) -> SignedIn:  # fmt: skip
    token = PREFIX + secrets.token_urlsafe(32)
    life = min(LIFE, longest(Session)) if user.sso_provider else LIFE
    session = Session.objects.create(
        user=user, token_hash=hash_token(token), address=address, gateway_environment=gateway_environment, audience=audience,
        expires_at=now + life,
    )  # fmt: skip
    changes.credential_changed(session)
    return SignedIn(user, session, token)


def _end_oldest(service: ServiceIdentity, now: datetime) -> None:
    """Make room for one more session of a service identity. The caller holds its row."""
    living = Session.objects.filter(service=service, revoked_at=None, expires_at__gt=now).order_by("-created_at", "id")
    beyond = list(living.values_list("pk", flat=True)[MOST_OF_A_SERVICE - 1 :])
    if beyond:
        Session.objects.filter(pk__in=beyond).update(revoked_at=now)


def _revoke(session: Session, now: datetime) -> None:
    if not Session.objects.filter(pk=session.pk, revoked_at__isnull=True).update(revoked_at=now):
        raise AuthenticationInvalid("this token is not valid; sign in again")
    EntraSession.objects.filter(session=session).delete()
    changes.credential_changed(session)


def _may_sign_in(user: User) -> bool:
    """Whether a password may open a session; an account that was given to Entra is Entra's to let in."""
    return user.is_active and user.deleted_at is None and not user.sso_provider


def _secret_fits(service: ServiceIdentity, given: str) -> bool:
    return hmac.compare_digest(given, service.secret_hash) and service.status == "active"


def _password_fits(user: User | None, password: str) -> bool:
    if user is None:
        if not _DECOY:
            _DECOY.append(make_password(secrets.token_urlsafe(16)))
        check_password(password, _DECOY[0])
        return False
    return user.check_password(passwords.normalized(password))


def _refuse_changed(user: User) -> None:
    """Lock the account and look again: a reset or an end that came while the password was checked counts."""
    fresh = User.objects.select_for_update(no_key=True).filter(pk=user.pk).first()
    if fresh is None or fresh.password != user.password or not _may_sign_in(fresh):
        raise AuthenticationInvalid(_WRONG)


def _note_failure(user: User | None, account: str, address: str, now: datetime) -> None:
    with transaction.atomic():
        lockout.note_failure(lockout.key_of(user, account), address, now)
        _note_refusal(account, "account", address)


def _note_refusal(name: str, entity: str, address: str) -> None:
    """The name is a keyed hash: people type passwords into the wrong field."""
    with transaction.atomic():
        audit.record(
            actor="anonymous",
            action="auth.login.failure",
            entity=entity,
            entity_id=typed.kept(name),
            severity=audit.Severity.WARNING,
            address=address,
        )


def _audit(action: str, holder: User | ServiceIdentity | None, address: str) -> None:
    if holder is None:
        raise ValueError("a session has a holder")
    kind = PrincipalKind.USER if isinstance(holder, User) else PrincipalKind.SERVICE
    audit.record(actor=f"{kind.value}:{holder.id}", action=action, entity=kind.value, entity_id=str(holder.id), address=address)
