"""The system roles and their permissions, as data. Pure: no Django here (client-api G).

A permission is `resource:action`. Several roles give the union. Domain separation: certificate managers see no secrets and
secret managers no certificates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

GATEWAY_ADMIN = "gateway:admin"
GATEWAY_READ = "gateway:read"
FAILOVER_FORCE = "failover:force"
METRICS_READ = "metrics:read"
AUDIT_READ = "audit:read"

_SECRETS = frozenset({"secrets:read", "secrets:write", "secrets:delete"})
_CERTIFICATES = frozenset({"certificates:read", "certificates:write", "certificates:revoke"})
_PROJECTS = frozenset({"projects:read"})
_FLEET = frozenset({GATEWAY_ADMIN, GATEWAY_READ, FAILOVER_FORCE, METRICS_READ, "agent:admin"})
_PEOPLE = frozenset({"users:read", "users:write", "roles:read", "roles:write", "settings:read", "settings:write"})

_LIMITED: Mapping[str, frozenset[str]] = {
    "viewer": frozenset({"dashboard:read"}),
    "user": frozenset({"dashboard:read", "secrets:read", "secrets:write", "certificates:request"}) | _PROJECTS,
    "finance": frozenset({"dashboard:read", "billing:read"}),
    "auditor": frozenset({"dashboard:read", AUDIT_READ, "users:read", "deployments:read", "compliance:read", GATEWAY_READ}),
    "certificate_manager": frozenset({"dashboard:read", "certificates:request"}) | _PROJECTS | _CERTIFICATES,
    "secret_reader": frozenset({"dashboard:read", "secrets:read"}) | _PROJECTS,
    "secret_manager": frozenset({"dashboard:read"}) | _PROJECTS | _SECRETS,
    "ssh_admin": frozenset({"dashboard:read", "ssh:read", "ssh:write"}) | _PROJECTS,
    "project_admin": frozenset({"dashboard:read", "projects:write", "certificates:request"})
    | _PROJECTS
    | _SECRETS
    | _CERTIFICATES,
}
ADMIN = "admin"
SYSTEM_ROLES: Mapping[str, frozenset[str]] = {
    **_LIMITED,
    ADMIN: frozenset[str]().union(_FLEET, _PEOPLE, *_LIMITED.values()),
}
"""An administrator holds whatever any role holds; nobody could give a role away otherwise."""
KNOWN_PERMISSIONS = frozenset[str]().union(*SYSTEM_ROLES.values())
"""What an own role and an API token may name."""
MEMBER, VIEWER = "member", "viewer"
"""`member` is what existing clients call an account without further rights; it is a viewer."""


def permissions_of_account(role: str) -> frozenset[str]:
    """What the role of an account gives everywhere."""
    return permissions_of([VIEWER if role == MEMBER else role])


def permissions_of(roles: Iterable[str]) -> frozenset[str]:
    """The union of the permissions of these roles; an unknown role gives nothing."""
    return frozenset[str]().union(*(SYSTEM_ROLES.get(role, frozenset()) for role in roles))


SECRETS_READ, SECRETS_WRITE, SECRETS_DELETE = "secrets:read", "secrets:write", "secrets:delete"
PROJECTS_READ, PROJECTS_WRITE = "projects:read", "projects:write"
USERS_READ, USERS_WRITE = "users:read", "users:write"
ROLES_READ, ROLES_WRITE = "roles:read", "roles:write"
SETTINGS_READ, SETTINGS_WRITE = "settings:read", "settings:write"
