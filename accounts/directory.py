"""Own roles, identity providers and the mappings from their groups to roles. All of it counts everywhere.

Who can write an identity provider or a mapping can become anybody it leads to, so they must hold what it gives.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models.functions import Now

from accounts import changes, grant_ends, own_roles, sealed_config
from accounts.access import EVERYWHERE
from accounts.administrators import somebody_stays
from accounts.changes import By
from accounts.granting import require_grantable, role_of
from accounts.models import GroupMapping, IdentityProvider, Role
from accounts.roles import ROLES_READ, ROLES_WRITE, SETTINGS_READ, SETTINGS_WRITE
from accounts.scoping import absent, require
from common.errors import PermissionRefused
from common.rows import locked

SEALED_UNDER = "platform"
"""The key scope of what belongs to no environment."""


def create_role(wish: Mapping[str, Any], by: By) -> Role:
    """An own role of known permissions that its maker holds everywhere. Raises `Conflict` when the name is taken."""
    require(by.principal, ROLES_WRITE, EVERYWHERE, readable=ROLES_READ)
    permissions = own_roles.known_permissions(wish)
    missing = sorted(set(permissions) - by.principal.permissions)
    if missing:
        raise PermissionRefused(f"nobody grants above themselves; you do not hold {missing[0]} everywhere")
    fields = {name: wish.get(name, "") for name in ("display_name", "description")}
    with transaction.atomic():
        with changes.unique("a role of this name", existing=lambda: Role.objects.filter(name__iexact=wish["name"])):
            role = Role.objects.create(name=wish["name"], permissions=permissions, **fields)
        changes.record(by, "rbac.role.created", "role", role.id, {"name": role.name, "permissions": permissions})
    return role


def create_mapping(wish: Mapping[str, Any], by: By) -> GroupMapping:
    """Whoever has this App Role or is in this group gets the role at their next sign-in."""
    name = wish["group_name"]
    with transaction.atomic():
        role = role_of(wish["role_id"], keep=True)
        require_grantable(by.principal, role.name, frozenset(role.permissions), EVERYWHERE)
        same = GroupMapping.objects.filter(group_external_id__iexact=name, role=role)
        with changes.unique("this mapping", "group_name", existing=lambda: same):
            mapping = GroupMapping.objects.create(group_external_id=name, group_display_name=name, role=role)
        changes.record(by, "rbac.mapping.created", "mapping", mapping.id, {"group": name, "role": role.name})
    return mapping


def delete_mapping(identifier: uuid.UUID, by: By) -> None:
    """End what a group gives, also to those who came in by it and are signed in. It takes the same rights as giving it."""
    require(by.principal, ROLES_WRITE, EVERYWHERE, readable=ROLES_READ)
    with transaction.atomic(), somebody_stays():
        mapping = locked(GroupMapping.objects.select_related("role"), identifier)
        if mapping is None:
            raise absent("mapping")
        require_grantable(by.principal, mapping.role.name, frozenset(mapping.role.permissions), EVERYWHERE)
        details = {"group": mapping.group_external_id, "role": mapping.role.name}
        changes.record(by, "rbac.mapping.deleted", "mapping", identifier, details)
        grant_ends.of_mapping(mapping, by)
        mapping.delete()


def create_provider(wish: Mapping[str, Any], by: By) -> IdentityProvider:
    _require_provider_rights(by)
    with transaction.atomic():
        provider = IdentityProvider(type=wish["type"], name=wish["name"], sync_schedule=wish.get("sync_schedule", ""))
        sealed_config.put(provider, SEALED_UNDER, wish.get("config") or {})
        provider.save(force_insert=True)
        _record(by, "system.identity_provider.created", provider)
    provider.refresh_from_db()
    return provider


def replace_provider(identifier: uuid.UUID, wish: Mapping[str, Any], by: By) -> IdentityProvider:
    """Make it what the wish says; a secret of the configuration that is left out is kept."""
    _require_provider_rights(by)
    with transaction.atomic():
        provider = _locked_provider(identifier)
        names = changes.altered(provider, {"sync_schedule": "", **{key: wish[key] for key in wish if key != "config"}})
        if sealed_config.put(provider, SEALED_UNDER, wish.get("config") or {}):
            names += ["config", "sealed_secrets", "secrets_version"]
        if names:
            provider.updated_at = Now()
            provider.save(update_fields=[*names, "updated_at"])
            _record(by, "system.identity_provider.changed", provider)
    provider.refresh_from_db()
    return provider


def delete_provider(identifier: uuid.UUID, by: By, now: datetime) -> None:
    _require_provider_rights(by)
    with transaction.atomic():
        provider = _locked_provider(identifier)
        IdentityProvider.objects.filter(id=identifier).update(deleted_at=now, sealed_secrets=None)
        _record(by, "system.identity_provider.deleted", provider)


def provider_seen(identifier: uuid.UUID) -> IdentityProvider:
    """A living provider. Raises `NotFound`."""
    found = IdentityProvider.objects.filter(id=identifier, deleted_at=None).first()
    if found is None:
        raise absent("identity provider")
    return found


def provider_secrets(provider: IdentityProvider) -> dict[str, Any]:
    """What a sign-in at this provider needs, for example `client_secret`."""
    return sealed_config.secrets_of(provider, SEALED_UNDER)


def _require_provider_rights(by: By) -> None:
    require(by.principal, SETTINGS_WRITE, EVERYWHERE, readable=SETTINGS_READ)
    for role in Role.objects.filter(mappings__isnull=False).distinct():
        require_grantable(by.principal, role.name, frozenset(role.permissions), EVERYWHERE)


def _locked_provider(identifier: uuid.UUID) -> IdentityProvider:
    found = IdentityProvider.objects.select_for_update().filter(id=identifier, deleted_at=None).first()
    if found is None:
        raise absent("identity provider")
    return found


def _record(by: By, action: str, provider: IdentityProvider) -> None:
    changes.record(by, action, "identity_provider", provider.id, {"name": provider.name, "type": provider.type})
