"""Who can do what with a vault's secrets, by its role assignments; and whether a refusal is only a role on its way."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from azure.mgmt.authorization import AuthorizationManagementClient

from common.errors import ValidationFailed
from integrations.azure.credentials import Credential
from integrations.azure.egress import CALL_SECONDS, Guard
from integrations.azure.errors import AccessDenied, AzureTrouble, RoleMissing, RoleNotInEffect
from integrations.azure.guarded import GuardedClient, settings
from integrations.azure.translation import one_call

VAULT_ID = re.compile(
    r"/subscriptions/([0-9a-f-]{36})/resourceGroups/[\w().-]{1,90}/providers/Microsoft\.KeyVault/vaults/[a-z0-9-]{3,24}",
    re.IGNORECASE,
)
OBJECT_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
DATA = "Microsoft.KeyVault/vaults/"
READ, NAMES, WRITE = "secrets/getSecret/action", "secrets/readMetadata/action", "secrets/setSecret/action"


@dataclass(frozen=True)
class Grant:
    """One role assignment that bears on a vault. `inherited` ones come from its resource group, subscription or above."""

    principal_id: str
    principal_type: str
    role: str
    scope: str
    inherited: bool
    reads_values: bool
    reads_names: bool
    writes: bool


@dataclass(frozen=True)
class AccessList:
    """What Azure said at a moment. Deny assignments and just-in-time eligibility are not in it."""

    vault_id: str
    at: datetime
    grants: tuple[Grant, ...]


@dataclass(frozen=True)
class _Role:
    name: str
    allowed: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]

    def allows(self, action: str) -> bool:
        wanted = f"{DATA}{action}".lower()
        return any(_fits(wanted, data) and not _fits(wanted, without) for data, without in self.allowed)


class RoleAssignments(GuardedClient):
    """Resource Manager as one identity sees it. That identity needs Reader on the vault, nothing more."""

    def __init__(self, vault_id: str, credential: Credential, guard: Guard, *, seconds: float = CALL_SECONDS) -> None:
        found = VAULT_ID.fullmatch(vault_id)
        if not found:
            raise ValidationFailed("vault_id: must be the resource id of a vault, /subscriptions/…/vaults/<name>")
        target = guard.resource_manager()
        self._vault_id, self._seconds = vault_id, seconds
        session = guard.session(target)
        self._client = AuthorizationManagementClient(
            credential,
            found[1],
            base_url=target.origin,
            credential_scopes=[f"{guard.cloud.arm_resource}/.default"],
            **settings(session),
        )
        super().__init__(session, self._client)

    def access(self, now: datetime) -> AccessList:
        """Everybody with a role that bears on the vault's data."""
        return AccessList(self._vault_id, now, tuple(self._grants("atScope()")))

    def of_principal(self, object_id: str, now: datetime) -> AccessList:
        """One principal's grants, those by groups too."""
        if not OBJECT_ID.fullmatch(object_id):
            raise ValidationFailed("object_id: must be the object id of a user, group or application, a UUID")
        return AccessList(self._vault_id, now, tuple(self._grants(f"atScope() and assignedTo('{object_id}')")))

    def explained(self, refusal: AccessDenied, object_id: str) -> AccessDenied:
        """The same refusal, or `RoleNotInEffect` when the missing role is in fact assigned. Raises nothing."""
        if not isinstance(refusal, RoleMissing) or not refusal.action:
            return refusal
        try:
            grants = self._grants_with_roles(f"atScope() and assignedTo('{object_id}')")
        except AzureTrouble:
            return refusal
        named = next((role.name for _, role in grants if role.allows(refusal.action)), None)
        if named is None:
            return refusal
        return RoleNotInEffect(
            f'the role "{named}" is assigned and the vault does not know it yet',
            "wait up to ten minutes and try again",
            action=refusal.action,
        )

    def _grants(self, text: str) -> list[Grant]:
        rows = [self._grant(row, role) for row, role in self._grants_with_roles(text)]
        bearing = [one for one in rows if one.reads_values or one.reads_names or one.writes]
        return sorted(bearing, key=lambda one: (one.principal_type, one.principal_id, one.role))

    def _grants_with_roles(self, text: str) -> list[tuple[Any, _Role]]:
        roles = self._roles()
        with one_call(self._session, self._seconds, "the vault's role assignments"):
            rows = list(self._client.role_assignments.list_for_scope(self._vault_id, filter=text))
        return [(row, roles[key]) for row in rows if (key := _last(row.role_definition_id)) in roles]

    def _roles(self) -> dict[str, _Role]:
        """All role definitions at the vault, custom ones too, by their id."""
        with one_call(self._session, self._seconds, "the vault's role definitions"):
            return {_last(one.id): _role(one) for one in self._client.role_definitions.list(self._vault_id)}

    def _grant(self, row: Any, role: _Role) -> Grant:
        return Grant(
            principal_id=str(row.principal_id),
            principal_type=str(row.principal_type),
            role=role.name,
            scope=str(row.scope),
            inherited=str(row.scope).lower() != self._vault_id.lower(),
            reads_values=role.allows(READ),
            reads_names=role.allows(NAMES),
            writes=role.allows(WRITE),
        )


def _role(found: Any) -> _Role:
    allowed = [(tuple(one.data_actions or ()), tuple(one.not_data_actions or ())) for one in found.permissions or ()]
    return _Role(str(found.role_name), tuple(allowed))


def _fits(action: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(action, pattern.lower()) for pattern in patterns)


def _last(resource_id: str) -> str:
    return str(resource_id).rsplit("/", 1)[-1].lower()
