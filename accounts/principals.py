"""Rows turned into principals: who a person or a service identity is and all they may do. Reads only."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime

from django.db.models import Q, QuerySet

from accounts.access import EVERYWHERE, Grant, Principal, PrincipalKind, Scope
from accounts.entra_bounds import may_work
from accounts.models import RoleGrant, ServiceIdentity, User
from accounts.roles import permissions_of_account

_Identity = tuple[PrincipalKind, uuid.UUID]


def principal_of_user(user: User, now: datetime, given_until: datetime | None = None) -> Principal:
    """The person with the role of their account, and their further grants where those say, or of these those that were given
    until a moment."""
    return _principal(user, _grants(RoleGrant.objects.filter(user=user), given_until), now)


def grants_of_account(role: str, sso_provider: str) -> tuple[Grant, ...]:
    """What the role of an account gives, everywhere. That of an account of Entra is shown only: its rights are its grants."""
    return () if sso_provider else (Grant(permissions_of_account(role), EVERYWHERE),)


def principal_of_service(service: ServiceIdentity, now: datetime, given_until: datetime | None = None) -> Principal:
    """The service identity with its grants; it has no role of its own."""
    return _principal(service, _grants(RoleGrant.objects.filter(service=service), given_until), now)


def grant_of(row: RoleGrant) -> Grant:
    """What a row gives where. Its role and project should be loaded with it."""
    place = Scope(_organization_of(row), str(row.project_id or ""), row.environment.lower())
    return Grant(frozenset(row.role.permissions), place, row.expires_at, row.created_at)


def _grants(rows: QuerySet[RoleGrant], given_until: datetime | None) -> tuple[Grant, ...]:
    rows = rows if given_until is None else rows.filter(created_at__lte=given_until)
    return tuple(grant_of(row) for row in rows.select_related("role", "project"))


def principal_named(actor: str, now: datetime) -> Principal | None:
    """The living person or service identity the audit names so (`Principal.actor`), with all they may do now; None for others,
    and for people Entra has not let in for so long that nothing goes on in their name."""
    return principals_named([actor], now)[actor]


def principals_named(actors: Iterable[str], now: datetime) -> dict[str, Principal | None]:
    """`principal_named` of each of them, in as many statements for many as for one."""
    named = {actor: _identity(actor) for actor in actors}
    users, services = _ids(named, PrincipalKind.USER), _ids(named, PrincipalKind.SERVICE)
    found: dict[_Identity, User | ServiceIdentity] = {}
    if users:
        rows = User.objects.filter(id__in=users, is_active=True, deleted_at=None)
        found |= {(PrincipalKind.USER, one.id): one for one in rows if may_work(one, now)}
    if services:
        those = ServiceIdentity.objects.filter(id__in=services, status="active", deleted_at=None)
        found |= {(PrincipalKind.SERVICE, one.id): one for one in those}
    grants = _grants_by_holder(users, services) if found else {}
    return {actor: _principal(found[who], grants[who], now) if who in found else None for actor, who in named.items()}


def _principal(holder: User | ServiceIdentity, grants: tuple[Grant, ...], now: datetime) -> Principal:
    if isinstance(holder, User):
        own = grants_of_account(holder.role, holder.sso_provider)
        return Principal(PrincipalKind.USER, str(holder.id), holder.email, (*own, *grants), now)
    return Principal(PrincipalKind.SERVICE, str(holder.id), holder.display_name, grants, now)


def _grants_by_holder(users: list[uuid.UUID], services: list[uuid.UUID]) -> Mapping[_Identity, tuple[Grant, ...]]:
    found: defaultdict[_Identity, tuple[Grant, ...]] = defaultdict(tuple)
    rows = RoleGrant.objects.filter(Q(user__in=users) | Q(service__in=services))
    for row in rows.select_related("role", "project"):
        if row.user_id:
            found[PrincipalKind.USER, row.user_id] += (grant_of(row),)
        elif row.service_id:
            found[PrincipalKind.SERVICE, row.service_id] += (grant_of(row),)
    return found


def _identity(actor: str) -> _Identity | None:
    """In the one form in which the audit names somebody: with another spelling of the id nobody is meant."""
    kind, _, text = actor.partition(":")
    try:
        found = PrincipalKind(kind), uuid.UUID(text)
    except ValueError:
        return None
    return found if str(found[1]) == text else None


def _ids(named: Mapping[str, _Identity | None], kind: PrincipalKind) -> list[uuid.UUID]:
    return [who[1] for who in named.values() if who and who[0] is kind]


def _organization_of(row: RoleGrant) -> str:
    """A grant in a project is one in its organization, whatever the row says."""
    return str((row.project.organization_id if row.project else row.organization_id) or "")
