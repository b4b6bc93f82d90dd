"""Who may do what where: grants, scopes and one question. Pure: no Django here (client-api G).

A grant gives permissions everywhere, or in one organization, one project, one project environment (by slug), or any
combination; all that is named must fit. Several grants give the union. An expired grant gives nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class PrincipalKind(StrEnum):
    USER = "user"
    SERVICE = "service"


@dataclass(frozen=True)
class Scope:
    """Where something is done. Ids are texts; `environment` is a slug. An empty part is not known or does not apply."""

    organization: str = ""
    project: str = ""
    environment: str = ""


EVERYWHERE = Scope()


@dataclass(frozen=True)
class Grant:
    """Permissions in one scope; an empty part of the scope stands for all."""

    permissions: frozenset[str]
    scope: Scope = EVERYWHERE
    expires_at: datetime | None = None
    since: datetime | None = field(default=None, compare=False)
    """When it was given, where that is known and asked."""

    def lives(self, now: datetime) -> bool:
        return self.expires_at is None or now < self.expires_at

    def covers(self, place: Scope) -> bool:
        """Whether this grant counts in a place. A place that does not say where it is, is covered by global grants only."""
        named = (
            (self.scope.organization, place.organization),
            (self.scope.project, place.project),
            (self.scope.environment, place.environment),
        )
        return all(not mine or mine == theirs for mine, theirs in named)

    def touches(self, place: Scope) -> bool:
        """Whether this grant counts in the place or in some part of it: one for a project environment touches the project."""
        named = (
            (self.scope.organization, place.organization),
            (self.scope.project, place.project),
            (self.scope.environment, place.environment),
        )
        return all(not mine or not theirs or mine == theirs for mine, theirs in named)


@dataclass(frozen=True)
class Principal:
    """Somebody who proved who they are: a person or a service identity, with all their grants."""

    kind: PrincipalKind
    id: str
    name: str
    grants: tuple[Grant, ...]
    moment: datetime
    """When the credentials were checked; grants are judged at this moment."""

    @property
    def actor(self) -> str:
        """How the audit names them."""
        return f"{self.kind.value}:{self.id}"

    @property
    def permissions(self) -> frozenset[str]:
        """What they may do everywhere."""
        return _union(grant for grant in self.living() if grant.scope == EVERYWHERE)

    @property
    def permissions_anywhere(self) -> frozenset[str]:
        """What they may do in at least one place; the place itself is asked with `may`."""
        return _union(self.living())

    def may(self, permission: str, place: Scope) -> bool:
        return any(permission in grant.permissions and grant.covers(place) for grant in self.living())

    def could(self, permission: str, place: Scope, moment: datetime) -> bool:
        """Whether they may now and held that already at a moment: what was given later does not excuse what was done before. The
        role of an account has no beginning that is known."""
        given = (grant for grant in self.living() if grant.since is None or grant.since <= moment)
        return any(permission in grant.permissions and grant.covers(place) for grant in given)

    def may_within(self, permission: str, place: Scope) -> bool:
        """Whether they hold the permission in the place or in some part of it; enough to know that the place exists."""
        return any(permission in grant.permissions and grant.touches(place) for grant in self.living())

    def permissions_in(self, place: Scope) -> frozenset[str]:
        return _union(grant for grant in self.living() if grant.covers(place))

    def scopes_of(self, permission: str) -> tuple[Scope, ...]:
        """All the scopes in which they hold a permission."""
        return tuple(grant.scope for grant in self.living() if permission in grant.permissions)

    def living(self) -> Iterable[Grant]:
        """The grants that have not expired."""
        return (grant for grant in self.grants if grant.lives(self.moment))


def actors_of(identifier: str) -> list[str]:
    """How the audit may name whoever has this id."""
    return [f"{kind.value}:{identifier}" for kind in PrincipalKind]


def limited(grants: Iterable[Grant], scopes: Iterable[str] | None) -> tuple[Grant, ...]:
    """The same grants with no more than these permissions: what a token of limited scopes carries. None limits nothing."""
    if scopes is None:
        return tuple(grants)
    allowed = frozenset(scopes)
    return tuple(Grant(grant.permissions & allowed, grant.scope, grant.expires_at) for grant in grants)


def _union(grants: Iterable[Grant]) -> frozenset[str]:
    return frozenset[str]().union(*(grant.permissions for grant in grants))
