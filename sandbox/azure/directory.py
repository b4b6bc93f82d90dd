"""What the sandbox's tenant holds: the app registration of the product's guide, a cast of users and groups, two identities."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

TENANT_ID = "a0000000-0000-4000-8000-000000000001"
CLIENT_ID = "c0000000-0000-4000-8000-000000000001"
DEFAULT_REDIRECT_URI = "https://localhost:8443/api/v1/auth/sso/entra/callback"
GRAPH, KEY_VAULT, MANAGEMENT = "https://graph.microsoft.com", "https://vault.azure.net", "https://management.azure.com"
SUBSCRIPTION = "00000000-0000-4000-8000-00000000000a"
EXCHANGE_AUDIENCE = "api://AzureADTokenExchange"
GROUPS_IN_A_TOKEN = 200
"""Entra names more groups than this by a link to Graph (`_claim_names`) instead of listing them."""
NAMESPACE = uuid.UUID("5b1e55ed-0000-4000-8000-000000000000")


@dataclass(frozen=True)
class Resource:
    """An API that tokens are for. `audience` is what its tokens carry; `aliases` are other URIs it may be asked for by."""

    uri: str
    app_id: str
    name: str
    scopes: tuple[str, ...]
    aliases: tuple[str, ...] = ()

    @property
    def audience(self) -> str:
        return self.app_id if self.uri.startswith("api://") else self.uri


@dataclass
class Registration:
    """An app registration. `consents` maps the URI of a resource to the scopes an administrator granted."""

    client_id: str
    name: str
    secret: str
    redirect_uris: tuple[str, ...]
    app_roles: tuple[str, ...]
    consents: dict[str, tuple[str, ...]]
    groups_claim: bool = True
    application_permissions: dict[str, tuple[str, ...]] = field(default_factory=lambda: {GRAPH: ("Application.Read.All",)})
    """What the application may do as itself, by the URI of a resource."""


@dataclass(frozen=True)
class Group:
    """A security group. `parent` is the id of a group it is itself a member of."""

    id: str
    name: str
    parent: str = ""


@dataclass
class User:
    """A person of the tenant. `groups` are ids of direct memberships."""

    oid: str
    upn: str
    name: str
    about: str
    app_roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    enabled: bool = True


@dataclass(frozen=True)
class ManagedIdentity:
    """A user-assigned managed identity. `host` is the one machine that has it; `subject` its Kubernetes service account."""

    client_id: str
    principal_id: str
    name: str
    host: str
    subject: str

    @property
    def resource_id(self) -> str:
        group = f"/subscriptions/{SUBSCRIPTION}/resourcegroups/rg-crd-{self.host}-int-mzv-gwc"
        return f"{group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{self.name}"


@dataclass
class Directory:
    """One tenant."""

    tenant_id: str
    registration: Registration
    resources: tuple[Resource, ...]
    users: dict[str, User] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    identities: tuple[ManagedIdentity, ...] = ()

    def resource(self, uri: str) -> Resource | None:
        """By its URI, with or without a slash at the end, or by its application id."""
        wanted = uri.rstrip("/").lower()
        return next((one for one in self.resources if wanted in (one.uri.lower(), one.app_id.lower(), *one.aliases)), None)

    def user(self, oid: str) -> User | None:
        return next((one for one in self.users.values() if one.oid == oid), None)

    def all_groups_of(self, user: User) -> list[Group]:
        """Direct memberships and the groups these are in, each once."""
        found: dict[str, Group] = {}
        waiting = list(user.groups)
        while waiting:
            group = self.groups.get(waiting.pop(0))
            if group is None or group.id in found:
                continue
            found[group.id] = group
            waiting += [group.parent] if group.parent else []
        return list(found.values())

    def identity(self, client_id: str) -> ManagedIdentity | None:
        return next((one for one in self.identities if one.client_id == client_id), None)


def seeded(secret: str, redirect_uris: Iterable[str], vault_resource: str = KEY_VAULT) -> Directory:
    """The tenant as it is at the start, always with the same identifiers. `vault_resource`: what the vaults ask tokens for."""
    groups = {group.id: group for group in _groups()}
    return Directory(
        tenant_id=TENANT_ID,
        registration=_registration(secret, tuple(redirect_uris) or (DEFAULT_REDIRECT_URI,)),
        resources=_resources(vault_resource),
        users={user.upn: user for user in _users()},
        groups=groups,
        identities=tuple(_identity(code) for code in ("npr", "pro")),
    )


def identifier(name: str) -> str:
    """The same UUID for the same name, on every machine."""
    return str(uuid.uuid5(NAMESPACE, name))


def _registration(secret: str, redirect_uris: tuple[str, ...]) -> Registration:
    return Registration(
        client_id=CLIENT_ID,
        name="APP_MZV_INT_PRO_01",
        secret=secret,
        redirect_uris=redirect_uris,
        app_roles=("APP_MZV_PRO_ADMIN", "APP_MZV_PRO_AUDITOR", "APP_MZV_PRO_SECRETS", "APP_MZV_NPR_USER"),
        consents={
            GRAPH: ("User.Read", "GroupMember.Read.All"),
            KEY_VAULT: ("user_impersonation",),
            MANAGEMENT: ("user_impersonation",),
            f"api://{CLIENT_ID}": ("access",),
        },
    )


def _resources(vault_resource: str) -> tuple[Resource, ...]:
    impersonation = ("user_impersonation",)
    return (
        Resource(GRAPH, "00000003-0000-0000-c000-000000000000", "Microsoft Graph", ("User.Read", "GroupMember.Read.All")),
        Resource(KEY_VAULT, "cfa8b339-82a2-471a-a3c9-0fc0be7a4093", "Azure Key Vault", impersonation, (vault_resource,)),
        Resource(MANAGEMENT, "797f4846-ba00-4fd7-ba43-dac1f8f63013", "Azure Service Management", impersonation),
        Resource(f"api://{CLIENT_ID}", CLIENT_ID, "APP_MZV_INT_PRO_01", ("access",)),
    )


def _groups() -> list[Group]:
    everybody = Group(identifier("GRP_MZV_EVERYBODY"), "GRP_MZV_EVERYBODY")
    payments = Group(identifier("GRP_MZV_PAYMENTS"), "GRP_MZV_PAYMENTS", parent=everybody.id)
    many = [Group(identifier(f"GRP_BANK_{number:03}"), f"GRP_BANK_{number:03}") for number in range(GROUPS_IN_A_TOKEN + 30)]
    return [everybody, payments, *many]


def _users() -> list[User]:
    payments = identifier("GRP_MZV_PAYMENTS")
    many = tuple(identifier(f"GRP_BANK_{number:03}") for number in range(GROUPS_IN_A_TOKEN + 30))
    return [
        _user("ada.admin", "Ada Admin", "has the App Role APP_MZV_PRO_ADMIN", roles=("APP_MZV_PRO_ADMIN",)),
        _user("paul.project", "Paul Project", "is in the group GRP_MZV_PAYMENTS", groups=(payments,)),
        _user("stella.stranger", "Stella Stranger", "has no App Role and no group"),
        _user("olga.overage", "Olga Overage", "is in more than 200 groups and has the App Role APP_MZV_PRO_AUDITOR",
              roles=("APP_MZV_PRO_AUDITOR",), groups=(*many, payments)),
        _user("dora.disabled", "Dora Disabled", "her account is disabled", enabled=False),
    ]  # fmt: skip


def _user(
    login: str, name: str, about: str, roles: tuple[str, ...] = (), groups: tuple[str, ...] = (), *, enabled: bool = True
) -> User:
    return User(identifier(login), f"{login}@bank.example", name, about, roles, groups, enabled)


def _identity(code: str) -> ManagedIdentity:
    name = f"mi-mazevault-{code}"
    return ManagedIdentity(
        client_id=identifier(f"{name}/client"),
        principal_id=identifier(f"{name}/principal"),
        name=name,
        host=code,
        subject=f"system:serviceaccount:mazevault:mazevault-gateway-{code}",
    )
