"""The secret of a change, locked and read with constant texts: lock first, read second (`common.rows`).

Its project and environment come with it as far as changes look at them; what else they have is read when it is asked for.
"""

from __future__ import annotations

import uuid
from typing import Any, LiteralString

from django.db import connection

from accounts.models import Environment, Project
from common.statements import fetch, plain
from vault.models import Secret

_LOCK: LiteralString = "SELECT id FROM vault_secret WHERE id = %(id)s FOR NO KEY UPDATE"
"""Rows may go on to be made that refer to the secret."""
_SECRET = ("created_at", "updated_at", "id", "project_id", "environment_id", "key", "type", "description", "tags", "metadata",
           "ttl_hours", "rotation", "status", "version", "created_by", "archived_at", "deleted_at",
           "rotated_version")  # fmt: skip
"""Columns in the order of the model's fields, as `from_db` wants them."""
_PROJECT = ("id", "organization_id", "storage", "deleted_at")
_ENVIRONMENT = ("id", "slug", "gateway_environment", "deleted_at")
_READ: LiteralString = """
SELECT s.created_at, s.updated_at, s.id, s.project_id, s.environment_id, s.key, s.type, s.description, s.tags, s.metadata,
       s.ttl_hours, s.rotation, s.status, s.version, s.created_by, s.archived_at, s.deleted_at, s.rotated_version,
       p.id, p.organization_id, p.storage, p.deleted_at, e.id, e.slug, e.gateway_environment, e.deleted_at
  FROM vault_secret s JOIN accounts_project p ON p.id = s.project_id JOIN accounts_environment e ON e.id = s.environment_id
 WHERE s.id = %(id)s
"""
_JSON = frozenset({"tags", "metadata", "rotation"})


def hold(identifier: uuid.UUID) -> Secret | None:
    """The secret with this id, nobody else's to change until the transaction ends. None when there is none, or its project or
    environment is deleted."""
    if not connection.in_atomic_block:
        raise RuntimeError("a secret is held in the transaction that changes it")
    which = {"id": identifier}
    rows = fetch(_READ, which) if fetch(_LOCK, which) else []
    secret = _secret(rows[0]) if rows else None
    return None if secret is None or secret.project.deleted_at or secret.environment.deleted_at else secret


def _secret(row: tuple[Any, ...]) -> Secret:
    to_project, to_environment = len(_SECRET), len(_SECRET) + len(_PROJECT)
    told = [plain(value) if name in _JSON else value for name, value in zip(_SECRET, row, strict=False)]
    secret = Secret.from_db(connection.alias, _SECRET, told)
    secret.project = Project.from_db(connection.alias, _PROJECT, row[to_project:to_environment])
    secret.environment = Environment.from_db(connection.alias, _ENVIRONMENT, row[to_environment:])
    return secret
