"""Ends of grants that somebody asked for in another way: with the mapping that gave them, or with the place they are held in.

A name that comes back is another thing: what was held in an environment of that slug before is over. Locks are taken in the order
of a sign-in: mappings, account, grants. The number of statements does not depend on that of the holders.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable

from django.db.models import Q, QuerySet

from accounts import changes
from accounts.changes import By
from accounts.claims import shown_role
from accounts.models import Environment, GroupMapping, Organization, Project, RoleGrant, User
from accounts.roles import MEMBER
from common import audit
from common.rows import hold
from common.rowsets import Row
from common.statements import run

_WITHOUT = "UPDATE accounts_rolegrant SET given_by = given_by - %(mapping)s::text WHERE id = ANY(%(grants)s::uuid[])"


def end(rows: Iterable[RoleGrant], by: By, why: str = "") -> None:
    """End these grants; part of the caller's change. Each is in the audit, and gateways hear of their holders."""
    rows = list(rows)
    if not rows:
        return
    audit.record_all([_entry(row, by, why) for row in rows])
    RoleGrant.objects.filter(pk__in=[row.pk for row in rows]).delete()
    changes.principals_changed({changes.holder_id(row) for row in rows})
    _show({row.user_id for row in rows if row.assigned_by_sso and row.user_id})


def of_mapping(mapping: GroupMapping, by: By) -> None:
    """What people hold by this mapping and by no other one. Who came in before the mappings of a grant were kept loses it, too:
    the next sign-in says anew what they hold."""
    by_this = Q(given_by__contains=[str(mapping.id)]) | Q(given_by=[])
    given = RoleGrant.objects.filter(by_this, role=mapping.role, assigned_by_sso=True)
    hold(User, list(given.values_list("user", flat=True)), no_key=True)
    rows = list(_with_names(given.filter(pk__in=hold(RoleGrant, list(given.values_list("pk", flat=True))))))
    left = [row.pk for row in rows if set(row.given_by) - {str(mapping.id)}]
    run(_WITHOUT, {"mapping": str(mapping.id), "grants": left})
    end([row for row in rows if row.pk not in set(left)], by, "its mapping was deleted")


def of_environment(environment: Environment, by: By, why: str) -> None:
    """What is held in an environment of an organization, by its slug."""
    where = Q(organization=environment.organization_id) | Q(project__organization=environment.organization_id)
    end(_with_names(RoleGrant.objects.filter(where, environment__iexact=environment.slug)), by, why)


def of_project(project: Project, by: By) -> None:
    end(_with_names(RoleGrant.objects.filter(project=project)), by, "its project was deleted")


def of_organization(organization: Organization, by: By) -> None:
    where = Q(organization=organization) | Q(project__organization=organization)
    end(_with_names(RoleGrant.objects.filter(where)), by, "its organization was deleted")


def _with_names(rows: QuerySet[RoleGrant]) -> QuerySet[RoleGrant]:
    return rows.select_related("role").order_by("id")


def _show(users: set[uuid.UUID]) -> None:
    """The role that is shown of an account of Entra is the highest that its sign-in has left it."""
    held: dict[uuid.UUID, list[str]] = {user: [] for user in users}
    grants = RoleGrant.objects.filter(user__in=users, assigned_by_sso=True).order_by("role__name")
    for user, role in grants.values_list("user", "role__name"):
        held[user].append(role)
    shown: dict[str, list[uuid.UUID]] = defaultdict(list)
    for user, roles in held.items():
        shown[shown_role(roles, MEMBER)].append(user)
    for role, those in shown.items():
        User.objects.filter(pk__in=those).update(role=role)


def _entry(row: RoleGrant, by: By, why: str) -> Row:
    details = {
        "role": row.role.name, "assignment_id": str(row.id), "organization_id": str(row.organization_id or ""),
        "project_id": str(row.project_id or ""), "environment": row.environment,
    }  # fmt: skip
    return audit.entry_of(
        actor=by.actor, action="rbac.user.removed", entity="user" if row.user_id else "service",
        entity_id=str(changes.holder_id(row)), address=by.address, organization=row.organization_id, project=row.project_id,
        details={**details, "why": why} if why else details,
    )  # fmt: skip
