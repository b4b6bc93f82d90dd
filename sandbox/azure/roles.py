"""Azure's role-based access: role definitions, who has which role where, and whether that allows an operation on a vault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from sandbox.azure.directory import SUBSCRIPTION, Directory, identifier

if TYPE_CHECKING:
    from sandbox.azure.vaults import Vault

PROVIDER = "providers/Microsoft.Authorization"
VAULTS = "Microsoft.KeyVault/vaults"
READ_ASSIGNMENTS = "Microsoft.Authorization/roleAssignments/read"


@dataclass(frozen=True)
class Role:
    """A built-in role under its real id. `actions` are of Resource Manager, `data_actions` of the vault itself."""

    id: str
    name: str
    actions: tuple[str, ...] = ()
    data_actions: tuple[str, ...] = ()

    @property
    def resource_id(self) -> str:
        return f"/subscriptions/{SUBSCRIPTION}/{PROVIDER}/roleDefinitions/{self.id}"


@dataclass(frozen=True)
class Assignment:
    """A principal has a role at a scope and everything below it."""

    name: str
    role: Role
    principal_id: str
    principal_type: str
    scope: str

    @property
    def resource_id(self) -> str:
        return f"{self.scope}/{PROVIDER}/roleAssignments/{self.name}"


def _data(*names: str) -> tuple[str, ...]:
    return tuple(f"{VAULTS}/{name}" for name in names)


ROLES: tuple[Role, ...] = (
    Role("8e3af657-a8ff-443c-a75c-2fe8c4bcb635", "Owner", ("*",)),
    Role("acdd72a7-3385-48ef-bd42-f606fba81ae7", "Reader", ("*/read",)),
    Role("00482a5a-887f-4fb3-b363-3b7fe8e74483", "Key Vault Administrator", data_actions=_data("*")),
    Role("21090545-7ca7-4776-b22c-e363652d74d2", "Key Vault Reader", data_actions=_data("*/read", "secrets/readMetadata/action")),
    Role("b86a8fe4-44ce-4948-aee5-eccb2c155cd7", "Key Vault Secrets Officer", data_actions=_data("secrets/*")),
    Role("4633458b-17de-408a-b874-0445c86b69e6", "Key Vault Secrets User",
         data_actions=_data("secrets/getSecret/action", "secrets/readMetadata/action")),
    Role("a4417e6f-fecd-4de8-b567-7b0420556985", "Key Vault Certificates Officer", data_actions=_data("certificates/*")),
    Role("db79e9a7-68ee-4b58-9aeb-b90e7c24fcba", "Key Vault Certificate User",
         data_actions=_data("certificates/read", "secrets/getSecret/action", "secrets/readMetadata/action", "keys/read")),
    Role("14b46e9e-c2b7-41b4-b07b-48a6ebf60603", "Key Vault Crypto Officer", data_actions=_data("keys/*")),
    Role("e147488a-f6f5-4113-8e2d-b22465e65bf6", "Key Vault Crypto Service Encryption User",
         data_actions=_data("keys/read", "keys/wrap/action", "keys/unwrap/action")),
)  # fmt: skip


@dataclass
class Access:
    """All role assignments of the tenant."""

    directory: Directory
    assignments: list[Assignment] = field(default_factory=list)

    def grant(self, principal: str, role_name: str, scope: str) -> Assignment:
        """Give a role; the same twice is once. `principal` is a user's address, a group's or identity's name, or an object id.

        Raises `LookupError` naming what is not there.
        """
        role = role_named(role_name)
        oid, kind = self._principal(principal)
        made = Assignment(identifier(f"{scope}/{role.id}/{oid}"), role, oid, kind, scope)
        if made not in self.assignments:
            self.assignments.append(made)
        return made

    def revoke(self, name: str) -> bool:
        """Take an assignment away by its name. False when there was none."""
        kept = [one for one in self.assignments if one.name != name]
        found = len(kept) < len(self.assignments)
        self.assignments = kept
        return found

    def memberships(self, oid: str) -> set[str]:
        """The object itself and every group it is in."""
        user = self.directory.user(oid)
        return {oid, *(group.id for group in self.directory.all_groups_of(user))} if user else {oid}

    def allows_data(self, oid: str, vault: Vault, action: str) -> bool:
        wanted = f"{VAULTS}/{action}"
        return self._allows(oid, vault.resource_id, lambda role: _fits(wanted, role.data_actions))

    def allows(self, oid: str, scope: str, action: str) -> bool:
        return self._allows(oid, scope, lambda role: _fits(action, role.actions))

    def _allows(self, oid: str, scope: str, fits: Callable[[Role], bool]) -> bool:
        own = self.memberships(oid)
        return any(one.principal_id in own and is_at_or_below(scope, one.scope) and fits(one.role)
                   for one in self.assignments)  # fmt: skip

    def _principal(self, text: str) -> tuple[str, str]:
        directory = self.directory
        known = [(user.oid, "User", (user.oid, user.upn)) for user in directory.users.values()]
        known += [(group.id, "Group", (group.id, group.name)) for group in directory.groups.values()]
        known += [(one.principal_id, "ServicePrincipal", (one.principal_id, one.name)) for one in directory.identities]
        own = directory.registration
        known.append((own.client_id, "ServicePrincipal", (own.client_id, own.name)))
        found = next(((oid, kind) for oid, kind, names in known if text in names), None)
        if found is None:
            raise LookupError(f"principal: there is no {text} in the directory")
        return found


def role_named(text: str) -> Role:
    """By its name or its id. Raises `LookupError`."""
    found = next((role for role in ROLES if text.lower() in (role.name.lower(), role.id)), None)
    if found is None:
        raise LookupError(f"role: there is no role {text}")
    return found


def is_at_or_below(scope: str, parent: str) -> bool:
    """Whether a scope is another one or inside it. Resource ids ignore case."""
    inner, outer = f"{scope.strip('/').lower()}/", f"{parent.strip('/').lower()}/"
    return inner.startswith(outer) or outer == "/"


def _fits(action: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(action, pattern) for pattern in patterns)
