"""Changing and ending own roles. What a role gives changes for everybody who holds it at their next call."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from accounts import changes
from accounts.access import EVERYWHERE
from accounts.changes import By
from accounts.granting import require_grantable
from accounts.models import GroupMapping, Role, RoleGrant, User
from accounts.roles import KNOWN_PERMISSIONS, ROLES_READ, ROLES_WRITE
from accounts.scoping import absent, require
from common.errors import Conflict, ValidationFailed
from common.nearest import shortened
from common.rows import locked
from protocol.nearest import nearest

NAMED = 5
"""Assignments and mappings of a role in use that its refusal names."""


def role_seen(identifier: uuid.UUID) -> Role:
    """Raises `NotFound`."""
    found = Role.objects.filter(id=identifier).first()
    if found is None:
        raise absent("role")
    return found


def known_permissions(wish: Mapping[str, Any]) -> list[str]:
    """Those of a wish, in its order. Raises `ValidationFailed` for one that there is not, with the nearest."""
    permissions = list(wish.get("permissions") or [])
    for name in permissions:
        if name not in KNOWN_PERMISSIONS:
            meant = nearest(name, KNOWN_PERMISSIONS)
            guess = f", did you mean {meant}" if meant else ""
            known = f"known are {', '.join(sorted(KNOWN_PERMISSIONS))}"
            raise ValidationFailed(f"permissions: there is no permission {shortened(name)}{guess}; {known}")
    return permissions


def replace(identifier: uuid.UUID, wish: Mapping[str, Any], by: By) -> Role:
    """Make it what the wish says; what is left out is empty. It takes all that the role gave and gives, held everywhere."""
    require(by.principal, ROLES_WRITE, EVERYWHERE, readable=ROLES_READ)
    permissions = known_permissions(wish)
    with transaction.atomic():
        role = _locked(identifier, "changes with the product; make an own role")
        former, before = role.name, frozenset(role.permissions)
        require_grantable(by.principal, role.name, before | frozenset(permissions), EVERYWHERE)
        fields = {name: wish.get(name, "") for name in ("display_name", "description")}
        names = changes.altered(role, {"name": wish["name"], "permissions": permissions, **fields})
        if names:
            with changes.unique("a role of this name", existing=lambda: Role.objects.filter(name__iexact=wish["name"])):
                role.save(update_fields=names)
            if role.name != former:
                User.objects.filter(role=former).update(role=role.name)  # shown only, for accounts of Entra
            added, gone = sorted(set(permissions) - before), sorted(before - set(permissions))
            details = {"name": role.name, "before": former, "added": added, "taken": gone}
            changes.record(by, "rbac.role.modified", "role", role.id, details)
            _say_to_holders(role)
    return role


def delete(identifier: uuid.UUID, by: By, now: datetime) -> None:
    """End a role that nobody holds and no group gives. Raises `Conflict` (ROLE_IN_USE) that names by whom it is held."""
    require(by.principal, ROLES_WRITE, EVERYWHERE, readable=ROLES_READ)
    with transaction.atomic():
        role = _locked(identifier, "belongs to the product")
        require_grantable(by.principal, role.name, frozenset(role.permissions), EVERYWHERE)
        if role.name == settings.MAZEVAULT.entra.default_role:
            raise Conflict("ENTRA_DEFAULT_ROLE names this role; give people from Entra another one first", code="ROLE_IN_USE")
        _refuse_in_use(role, now)
        RoleGrant.objects.filter(role=role).delete()  # those that have expired
        changes.record(by, "rbac.role.deleted", "role", role.id, {"name": role.name, "permissions": role.permissions})
        role.delete()


def _locked(identifier: uuid.UUID, why_not: str) -> Role:
    role = locked(Role.objects.all(), identifier)
    if role is None:
        raise absent("role")
    if role.is_system_role:
        raise Conflict(f"the role {role.name} {why_not}", code="SYSTEM_ROLE")
    return role


def _refuse_in_use(role: Role, now: datetime) -> None:
    grants = RoleGrant.objects.filter(Q(expires_at=None) | Q(expires_at__gt=now), role=role)
    mappings = GroupMapping.objects.filter(role=role)
    held, mapped = grants.count(), mappings.count()
    if not held and not mapped:
        return
    told = [f"assignment {row.id} of {row.user_id or row.service_id}" for row in grants.order_by("id")[:NAMED]]
    told += [f"mapping {row.id} of {row.group_display_name}" for row in mappings.order_by("id")[:NAMED]]
    raise Conflict(
        f"the role {role.name} is in use: {held} assignments and {mapped} mappings; withdraw them first",
        code="ROLE_IN_USE", details="; ".join(told),
    )  # fmt: skip


def _say_to_holders(role: Role) -> None:
    """Gateways hear of it too. What the Primary remembers of rights is forgotten by the trigger on the table."""
    rows = RoleGrant.objects.filter(role=role).values_list("user_id", "service_id")
    for holder in sorted({user or service for user, service in rows}):
        changes.principal_changed(holder)
