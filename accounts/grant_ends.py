"""Ends of grants that somebody asked for in another way: with the mapping that gave them, or with the place they are held in.

A name that comes back is another thing: what was held in an environment of that slug before is over. Locks are taken in the order
of a sign-in: mappings, account, grants.
"""

from __future__ import annotations

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


def end(rows: Iterable[RoleGrant], by: By, why: str = "") -> None:
    """End these grants; part of the caller's change. Each is in the audit, and gateways hear of their holders."""
    rows = list(rows)
    if not rows:
        return
    audit.record_all([_entry(row, by, why) for row in rows])
    RoleGrant.objects.filter(pk__in=[row.pk for row in rows]).delete()
    for holder in {changes.holder_id(row) for row in rows}:
        changes.principal_changed(holder)
    for user in User.objects.filter(id__in={row.user_id for row in rows if row.assigned_by_sso}):
        _show(user)


def of_mapping(mapping: GroupMapping, by: By) -> None:
    """What people hold by this mapping and by no other one. Who came in before the mappings of a grant were kept loses it, too:
    the next sign-in says anew what they hold."""
    given = RoleGrant.objects.filter(role=mapping.role, assigned_by_sso=True)
    hold(User, list(given.values_list("user", flat=True)), no_key=True)
    hold(RoleGrant, list(given.values_list("pk", flat=True)))
    lost = []
    for row in _with_names(given):
        left = [one for one in row.given_by if one != str(mapping.id)]
        if not left:
            lost.append(row)
        elif left != row.given_by:
            RoleGrant.objects.filter(pk=row.pk).update(given_by=left)
    end(lost, by, "its mapping was deleted")


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


def _show(user: User) -> None:
    """The role that is shown of an account of Entra is the highest that its sign-in has left it."""
    held = RoleGrant.objects.filter(user=user, assigned_by_sso=True).order_by("role__name").values_list("role__name", flat=True)
    User.objects.filter(pk=user.pk).update(role=shown_role(list(held), MEMBER))


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
