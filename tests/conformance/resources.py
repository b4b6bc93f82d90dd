"""The contract as a table: one entry for each resource of existing clients (client-api B.1). A new row is one entry here.

Paths are written in the slash form the clients use. `{organization}`, `{project}` and the like are ids of the small world that
`conftest` builds; bodies are filled the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.conformance.strict import Shape, absent, filled, flag, identifier, or_null, text, texts, thing, time

TIMES: Shape = {"created_at": time, "updated_at": time}


@dataclass(frozen=True)
class Resource:
    """How one resource is made, read, changed and ended.

    `changed` is the body of `update`, the method that changes it; `once` are fields of the creation's answer only; `hidden` are
    fields of the body that never come back; `named` is the field whose value may be there once only, if there is one.
    """

    name: str
    many: str
    one: str
    body: Mapping[str, Any]
    shape: Shape
    update: str = ""
    changed: Mapping[str, Any] = field(default_factory=dict)
    readable: bool = True
    deletable: bool = True
    envelope: str = ""
    once: Shape = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    named: str = ""


RESOURCES = (
    Resource(
        name="organization",
        many="organizations",
        one="organizations/{id}",
        body={"name": "Conformance Ltd."},
        shape={"id": identifier, "name": text, **TIMES},
        update="PUT",
        changed={"name": "Conformance Inc."},
        named="name",
    ),
    Resource(
        name="project",
        many="projects",
        one="projects/{id}",
        body={"name": "billing", "type": "application", "environment": "Some Words 7", "organization_id": "{organization}"},
        shape={
            "id": identifier, "name": text, "type": text, "environment": text, "default_environment": text,
            "organization_id": identifier, "conflict_strategy": filled, "storage": filled, **TIMES,
        },
        update="PUT",
        changed={"name": "invoicing", "type": "service", "environment": "prod", "organization_id": "{organization}"},
        named="name",
    ),
    Resource(
        name="project with a name only",
        many="projects",
        one="projects/{id}",
        body={"name": "lonely"},
        shape={"id": identifier, "name": text, "type": text, "environment": text, "organization_id": identifier, **TIMES},
        update="PUT",
        changed={"name": "lonelier"},
        named="name",
    ),
    Resource(
        name="environment",
        many="organizations/{organization}/environments",
        one="organizations/{organization}/environments/{id}",
        body={"name": "Pre Prod", "slug": "pre-prod", "is_production": True, "incident_auto_escalation": True},
        shape={
            "id": identifier, "organization_id": identifier, "name": text, "slug": text, "is_production": flag,
            "incident_auto_escalation": flag, **TIMES,
        },
        update="PATCH",
        changed={"name": "Pre-Production"},
        readable=False,
        named="name",
    ),
    Resource(
        name="environment without flags",
        many="organizations/{organization}/environments",
        one="organizations/{organization}/environments/{id}",
        body={"name": "Sand Box", "slug": "sand-box"},
        shape={"id": identifier, "slug": text, "is_production": flag, "incident_auto_escalation": flag, **TIMES},
        update="PATCH",
        changed={"name": "Sandbox"},
        readable=False,
        named="name",
    ),
    Resource(
        name="user",
        many="rbac/users",
        one="rbac/users/{id}",
        body={"email": "Grace@Example.com", "full_name": "Grace H.", "password": "seven purple otters sing", "role": "member"},
        shape={"id": identifier, "email": text, "full_name": text, "role": text, "status": filled},
        readable=False,
        hidden=frozenset({"password"}),
        named="email",
    ),
    Resource(
        name="role",
        many="rbac/roles",
        one="rbac/roles/{id}",
        body={
            "name": "release-manager", "display_name": "Release manager", "description": "ships", "permissions":
            ["secrets:read", "projects:read", "dashboard:read"],
        },
        shape={
            "id": identifier, "name": text, "display_name": text, "description": text, "permissions": texts,
            "is_system_role": flag,
        },
        readable=False,
        deletable=False,
        named="name",
    ),
    Resource(
        name="role without permissions",
        many="rbac/roles",
        one="rbac/roles/{id}",
        body={"name": "bare"},
        shape={"id": identifier, "name": text, "display_name": text, "description": text, "permissions": texts},
        readable=False,
        deletable=False,
        named="name",
    ),
    Resource(
        name="user role",
        many="rbac/users/{user}/roles",
        one="rbac/users/{user}/roles/{id}",
        body={"role_id": "{role}", "project_id": "{project}", "environment": "PROD"},
        shape={"id": identifier, "user_id": identifier, "role_id": identifier, "project_id": identifier, "environment": text},
        readable=False,
        named="role_id",
    ),
    Resource(
        name="user role everywhere",
        many="rbac/users/{user}/roles",
        one="rbac/users/{user}/roles/{id}",
        body={"role_id": "{role}"},
        shape={"id": identifier, "user_id": identifier, "role_id": identifier, "project_id": absent, "environment": absent},
        readable=False,
        named="role_id",
    ),
    Resource(
        name="group mapping",
        many="rbac/mappings",
        one="rbac/mappings/{id}",
        body={"group_name": "SEC-Vault Admins", "role_id": "{role}"},
        shape={"id": identifier, "group_name": text, "role_id": identifier},
        readable=False,
        named="group_name",
    ),
    Resource(
        name="identity provider",
        many="identity-providers",
        one="identity-providers/{id}",
        body={
            "type": "entra_id", "name": "Corporate", "sync_schedule": "0 3 * * *",
            "config": {"tenant_id": "t", "client_id": "c"},
        },
        shape={
            "id": identifier, "type": text, "name": text, "config": thing, "sync_schedule": text, "status": filled, **TIMES,
        },
        update="PUT",
        changed={"type": "entra_id", "name": "Corporate 2", "config": {"tenant_id": "u"}},
    ),
    Resource(
        name="integration",
        many="projects/{project}/integrations",
        one="projects/integrations/{id}",
        body={
            "name": "variables", "type": "gitops", "provider": "azure_devops", "environment": "prod",
            "config": {"azure_org": "acme", "azure_project": "shop", "azure_mode": "variable_group"},
        },
        shape={"id": identifier, "project_id": identifier, "name": text, "type": text, "provider": text, "config": thing},
        update="PUT",
        changed={"name": "variables 2", "type": "gitops", "provider": "azure_devops", "config": {"azure_org": "acme"}},
        named="name",
    ),
    Resource(
        name="sync rule",
        many="projects/{project}/sync-rules",
        one="projects/sync-rules/{id}",
        body={
            "name": "down", "integration_id": "{integration}", "project_id": "{project}", "target_environment": "dev",
            "source_path": "/app", "key_transform_template": "{{environment}}_{{key}}", "conflict_strategy": "external_wins",
            "sync_direction": "bidirectional", "sync_mode": "full_sync",
        },
        shape={
            "id": identifier, "name": text, "integration_id": identifier, "project_id": identifier, "target_environment": text,
            "source_path": text, "key_transform_template": text, "conflict_strategy": filled, "sync_direction": filled,
            "sync_mode": filled, "created_at": text, "updated_at": text,
        },
        update="PUT",
        changed={"name": "up", "integration_id": "{integration}", "project_id": "{project}"},
        readable=False,
        envelope="rules",
        named="name",
    ),
    Resource(
        name="config template",
        many="organizations/{organization}/config-templates",
        one="organizations/{organization}/config-templates/{id}",
        body={"name": "naming", "description": "d", "format": "naming", "template": "  {company}{zone}\n"},
        shape={
            "id": identifier, "organization_id": identifier, "name": text, "description": text, "format": text,
            "template": text, "variables": thing, **TIMES,
        },
        update="PUT",
        changed={"name": "naming", "template": "{company}"},
        readable=False,
        named="name",
    ),
    Resource(
        name="api token",
        many="users/tokens",
        one="users/tokens/{id}",
        body={"name": "ci", "scopes": ["secrets:read", "projects:read"], "duration": "1h30m"},
        shape={"id": identifier, "name": text, "scopes": texts, "expires_at": time, "created_at": time},
        readable=False,
        once={"token": filled},
        hidden=frozenset({"duration"}),
    ),
    Resource(
        name="api token without limits",
        many="users/tokens",
        one="users/tokens/{id}",
        body={"name": "ci", "scopes": None, "duration": "24h"},
        shape={"id": identifier, "name": text, "scopes": or_null(texts), "expires_at": time, "created_at": time},
        readable=False,
        once={"token": filled},
        hidden=frozenset({"duration"}),
    ),
    Resource(
        name="service identity",
        many="service-identities/",
        one="service-identities/{id}",
        body={"display_name": "Pipeline", "description": "builds", "owner_email": "ops@example.com"},
        shape={
            "id": identifier, "display_name": text, "description": text, "owner_email": text, "client_id": filled,
            "status": filled, **TIMES,
        },
        update="PUT",
        changed={"display_name": "Pipeline 2", "owner_email": "ops@example.com"},
        once={"client_secret": filled},
    ),
)  # fmt: skip
