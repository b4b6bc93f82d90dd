"""Rows that tests need around the thing they test."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from accounts.access import EVERYWHERE, Grant, Principal, PrincipalKind, Scope
from accounts.models import Environment, Organization, Project, Role, RoleGrant, ServiceIdentity, Session, User
from accounts.roles import permissions_of
from accounts.sessions import PREFIX, hash_token
from common.clock import now
from gateways.models import ToldPrincipal
from tests.conftest import Person

STANDARD = (("Development", "dev", "NPR"), ("Staging", "staging", "NPR"), ("QA", "qa", "NPR"), ("Production", "prod", "PRO"))


def organization(name: str = "Bank") -> Organization:
    """An organization with the four standard environments."""
    made = Organization.objects.create(name=name)
    for title, slug, code in STANDARD:
        environment(made, title, slug, code)
    return made


def environment(owner: Organization, name: str, slug: str, code: str = "NPR") -> Environment:
    return Environment.objects.create(
        organization=owner, name=name, slug=slug, gateway_environment=code, is_production=code == "PRO"
    )


def project(owner: Organization | None = None, name: str = "payments", **more: Any) -> Project:
    return Project.objects.create(organization=owner or organization(), name=name, **more)


def environment_of(owner: Project, slug: str = "dev") -> Environment:
    return Environment.objects.get(organization=owner.organization, slug=slug)


def principal(role: str = "admin", scope: Scope = EVERYWHERE, name: str = "ann") -> Principal:
    """Somebody with a role in one scope, without an account."""
    return Principal(PrincipalKind.USER, f"{name}-id", name, (Grant(permissions_of([role]), scope),), now())


def member(role: str, *, name: str = "", **scope: Any) -> Person:
    """Somebody signed in who holds a role in one place only (see `grant`); elsewhere they are a viewer."""
    called = name or f"{role}-{User.objects.count()}"
    user = User.objects.create(email=f"{called}@example.com", full_name=called, role="viewer", password="!")
    token = f"{PREFIX}{called}-token"
    Session.objects.create(user=user, token_hash=hash_token(token), expires_at=now() + timedelta(hours=1), address="127.0.0.1")
    person = Person(token)
    grant(person, role, **scope)
    return person


def grant(person: Person, role: str, *, organization: Organization | None = None, project: Project | None = None,
          environment: str = "") -> RoleGrant:  # fmt: skip
    """One more role, held where the scope says. Needs the system roles."""
    user = Session.objects.get(token_hash=hash_token(person.token)).user
    return RoleGrant.objects.create(
        user=user, role=Role.objects.get(name=role), organization=organization, project=project, environment=environment
    )


def signed_in_at(code: str, holder: User | ServiceIdentity, lives: timedelta = timedelta(days=1), **more: Any) -> str:
    """Somebody with a session that counts at gateways of an environment, which were told of them; how the audit names them."""
    kind = "user" if isinstance(holder, User) else "service"
    since = {"created_at": now() - timedelta(days=3), "expires_at": now() + lives}
    Session.objects.create(**{kind: holder}, token_hash=uuid.uuid4().hex, **since, **more)
    ToldPrincipal.objects.get_or_create(environment_id=code, principal=holder.id)
    return f"{kind}:{holder.id}"
