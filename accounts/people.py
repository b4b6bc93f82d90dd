"""Accounts of people: made, disabled, enabled, reset and deleted; their passwords.

Every one of these takes `users:write` everywhere and may be done only to somebody who holds no more than oneself.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.db.models import Q, QuerySet

from accounts import addresses, changes, lockout, passwords, refusals, sessions
from accounts.access import EVERYWHERE, Principal, Scope
from accounts.administrators import somebody_stays
from accounts.changes import By
from accounts.granting import require_above, require_grantable
from accounts.models import RoleGrant, Session, User
from accounts.principals import principal_of_user
from accounts.roles import MEMBER, SYSTEM_ROLES, USERS_READ, USERS_WRITE, VIEWER, permissions_of_account
from accounts.scoping import absent, require
from common import audit
from common.errors import AuthenticationInvalid, Conflict, ValidationFailed


def create(wish: Mapping[str, Any], by: By) -> User:
    """A new account. Its role counts everywhere, so the maker must hold all of it everywhere."""
    require(by.principal, USERS_WRITE, EVERYWHERE, readable=USERS_READ)
    role = wish.get("role") or VIEWER
    if role not in {*SYSTEM_ROLES, MEMBER}:
        raise ValidationFailed(f"role: must be one of {', '.join(sorted({*SYSTEM_ROLES, MEMBER}))}; give own roles afterwards")
    if role not in (VIEWER, MEMBER):
        require_grantable(by.principal, role, permissions_of_account(role), EVERYWHERE)
    _refuse_no_address(wish["email"])
    passwords.refuse_weak(wish["password"], email=wish["email"], full_name=wish.get("full_name", ""))
    user = User(email=wish["email"], full_name=wish.get("full_name", ""), role=role)
    user.set_password(passwords.normalized(wish["password"]))
    with transaction.atomic():
        same = User.objects.filter(email_folded=addresses.folded(wish["email"]), deleted_at=None)
        with changes.unique("an account with this address", "email", existing=lambda: same):
            user.save()
        _record(by, "user.created", user, {"role": role})
    return user


def set_active(identifier: uuid.UUID, active: bool, by: By, now: datetime) -> User:
    """Disable an account, which ends its sessions and tokens, or enable it again. What Entra decided before counts no more:
    an account that an administrator disabled is not enabled by signing in."""
    with transaction.atomic(), somebody_stays():
        user = _managed(identifier, by, now)
        decided = user.is_active == active and not user.disabled_by_sso
        if not active:
            sessions.end_all(user, now)
        if not decided:
            user.is_active, user.disabled_by_sso = active, False
            user.save(update_fields=["is_active", "disabled_by_sso"])
            _record(by, "user.enabled" if active else "user.disabled", user)
    return user


def give_to_entra(identifier: uuid.UUID, by: By, now: datetime) -> User:
    """Let the person of this address in Entra have this account from their next sign-in; password, sessions and tokens end."""
    with transaction.atomic(), somebody_stays():
        user = _managed(identifier, by, now)
        user.sso_provider, user.sso_external_id, user.role = "entra", "", MEMBER  # shown only; the sign-in says which one
        user.entra_confirmed_at = None
        user.set_unusable_password()
        user.save(update_fields=["sso_provider", "sso_external_id", "role", "entra_confirmed_at", "password"])
        sessions.end_all(user, now)
        _record(by, "user.given_to_entra", user)
    return user


def reset_password(identifier: uuid.UUID, by: By, now: datetime) -> tuple[User, str]:
    """A new generated password, shown once; sessions and tokens end, and the owner must change it at the next sign-in."""
    password = secrets.token_urlsafe(18)
    with transaction.atomic():
        user = _managed(identifier, by, now)
        if user.sso_provider:
            raise Conflict("this account signs in at Entra and has no password here; reset it there", code="SSO_ACCOUNT")
        user.set_password(password)
        user.must_change_password = True
        user.save(update_fields=["password", "must_change_password"])
        sessions.end_all(user, now)
        _record(by, "user.password.reset", user, severity=audit.Severity.WARNING)
    return user, password


def delete(identifier: uuid.UUID, by: By, now: datetime) -> None:
    """End an account; the address becomes free."""
    with transaction.atomic(), somebody_stays():
        user = _managed(identifier, by, now)
        User.objects.filter(id=user.id).update(deleted_at=now, is_active=False)
        sessions.end_all(user, now)
        _record(by, "user.deleted", user)


def change_password(
    session: Session, current: str, new: str, *, address: str, now: datetime, keep_tokens: bool = False
) -> None:  # fmt: skip
    """Change one's own password. The other sessions of the account end, and its API tokens unless they are to be kept: somebody
    who knew the password may have made them. A wrong current one counts as a failed sign-in."""
    user = session.user
    if user is None or user.sso_provider or not user.has_usable_password():
        raise ValidationFailed("current_password: this account has no password here; it signs in elsewhere")
    actor = principal_of_user(user, now).actor
    with refusals.noting_limits(actor, address=address, now=now):
        lockout.refuse_when_locked(user, "", address, now)
    if not user.check_password(passwords.normalized(current)):
        lockout.note_failure(lockout.key_of(user, ""), address, now)
        refusals.note("user.password.refused", actor, "user", str(user.id), address=address, now=now)
        raise AuthenticationInvalid("current_password: is wrong")
    passwords.refuse_weak(new, email=user.email, full_name=user.full_name, field="new_password")
    if passwords.normalized(new) == passwords.normalized(current):
        raise ValidationFailed("new_password: is the current one; choose another")
    with transaction.atomic():
        fresh = User.objects.select_for_update(no_key=True).filter(pk=user.pk, password=user.password).first()
        if fresh is None:
            raise Conflict("the password of this account was changed in this very moment; sign in with the new one")
        user.set_password(passwords.normalized(new))
        user.must_change_password = False
        user.save(update_fields=["password", "must_change_password"])
        sessions.end_all(user, now, but=session, tokens=not keep_tokens)
        _record(By(principal_of_user(user, now), address), "user.password.changed", user, {"tokens_kept": keep_tokens})


def visible_users(principal: Principal) -> QuerySet[User]:
    """Living accounts: all for those who read users everywhere, else those with a grant where they do."""
    living = User.objects.filter(deleted_at=None).order_by("created_at", "id")
    if principal.may(USERS_READ, EVERYWHERE):
        return living
    within = Q(pk__in=[])
    for scope in principal.scopes_of(USERS_READ):
        within |= _inside(scope)
    return living.filter(id__in=RoleGrant.objects.filter(within).values("user_id"))


def user_seen(principal: Principal, identifier: uuid.UUID) -> User:
    """A living account they may know of. Raises `NotFound`."""
    found = visible_users(principal).filter(id=identifier).first()
    if found is None:
        raise absent("user")
    return found


def status_of(user: User) -> str:
    return "active" if user.is_active else "disabled"


def _inside(scope: Scope) -> Q:
    """Grants in a scope or in a part of it."""
    found = ~Q(pk__in=[])
    if scope.organization:
        found &= Q(organization_id=scope.organization) | Q(project__organization_id=scope.organization)
    if scope.project:
        found &= Q(project_id=scope.project)
    if scope.environment:
        found &= Q(environment__iexact=scope.environment)
    return found


def _managed(identifier: uuid.UUID, by: By, now: datetime) -> User:
    seen = user_seen(by.principal, identifier)
    require(by.principal, USERS_WRITE, EVERYWHERE, readable=USERS_READ)
    user = User.objects.select_for_update().filter(id=seen.id, deleted_at=None).first()
    if user is None:
        raise absent("user")
    if str(user.id) == by.principal.id:
        raise Conflict("this is your own account; ask somebody else, or change your password at auth/password")
    require_above(by.principal, principal_of_user(user, now))
    return user


def _refuse_no_address(text: str) -> None:
    if wrong := addresses.fault(text):
        raise ValidationFailed(f"email: {wrong}")
    try:
        validate_email(text)
    except ValidationError:
        raise ValidationFailed("email: must be an email address such as ada@example.com") from None


def _record(
    by: By, action: str, user: User, details: Mapping[str, Any] | None = None, severity: audit.Severity = audit.Severity.INFO
) -> None:
    changes.record(by, action, "user", user.id, details, severity=severity)
    changes.principal_changed(user)
