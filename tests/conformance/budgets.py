"""Statements of the operations that are used most: the table the test holds them to, and the page for operators made of it.

Counted are statements of a request after the first one, with what a token gives remembered nowhere (which costs one statement; in
a running process it is remembered for a second, ADR 36) and without the frames of transactions. The number is the same with few
and with many stored objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Budget:
    """One operation; `{…}` in path and body are ids of the world the test makes. `note` says what the statements are."""

    method: str
    path: str
    statements: int
    body: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    status: int = 200

    def __str__(self) -> str:
        return f"{self.method} {self.path.split('?')[0]}{' by key' if 'key=' in self.path else ''}"


SECRET = {"project_id": "{project}", "key": "new-{round}", "value": "v"}
CREDENTIALS = {"grant_type": "client_credentials", "client_id": "{client_id}", "client_secret": "{client_secret}"}
PRIMARY: tuple[Budget, ...] = (
    Budget("GET", "health", 0, note="asked on connections of their own, once in a tenth of a second"),
    Budget("GET", "/metrics", 17, note="four of them for what has a series by gateway or environment"),
    Budget("GET", "auth/me", 2),
    Budget("GET", "auth/me/permissions", 1),
    Budget("GET", "auth/sessions", 3),
    Budget("GET", "secrets/{secret}", 3, note="who asks; the secret with its value; the audit entry, committed with others'"),
    Budget("GET", "secrets?project_id={project}&key=db", 3, note="the same"),
    Budget("GET", "secrets?project_id={project}", 4),
    Budget("GET", "secrets/{secret}/versions", 3),
    Budget("GET", "secrets/{secret}/versions/1", 5),
    Budget("GET", "organizations", 2),
    Budget("GET", "organizations/{organization}", 2),
    Budget("GET", "organizations/{organization}/environments", 3),
    Budget("GET", "projects", 2),
    Budget("GET", "projects/{project}", 2),
    Budget("GET", "projects/{project}/settings", 2),
    Budget("GET", "projects/{project}/storage", 4),
    Budget("GET", "projects/{project}/integrations", 3),
    Budget("GET", "projects/{project}/sync-rules", 4),
    Budget("GET", "projects/sync-rules/{rule}/runs", 5, note="steps and notes are counted for all runs shown at once"),
    Budget("GET", "rbac/users", 2),
    Budget("GET", "rbac/roles", 2),
    Budget("GET", "rbac/users/{user}/roles", 4),
    Budget("GET", "service-identities", 2),
    Budget("GET", "users/tokens", 3),
    Budget("GET", "identity-providers", 2),
    Budget("GET", "rbac/mappings", 2),
    Budget("GET", "audit-logs", 3),
    Budget("GET", "projects/{project}/audit-logs", 4),
    Budget("GET", "gateways", 2),
    Budget("GET", "gateways/{gateway}", 4),
    Budget("GET", "admin/gateway-health", 3),
    Budget("GET", "admin/failover/NPR", 5),
    Budget("GET", "admin/failover/NPR/history", 3),
    Budget("GET", "admin/tasks", 3),
    Budget("GET", "admin/writes", 2),
    Budget("GET", "admin/authorities", 3),
    Budget("GET", "admin/vaults", 2),
    Budget("POST", "auth/login", 11, {"email": "lin@example.com", "password": "seven purple otters sing"}),
    Budget("POST", "auth/token", 7, CREDENTIALS),
    Budget("POST", "users/tokens", 9, {"name": "n{round}", "scopes": ["secrets:read"]}, status=201),
    Budget("POST", "secrets", 16, SECRET, status=201),
    Budget("PUT", "secrets/{secret}", 11, {"value": "v{round}"}, "one of them only where a rotation came before"),
    Budget("PATCH", "secrets/{secret}", 10, {"description": "d{round}"}),
    Budget("POST", "secrets/{secret}/rotate", 12),
)
GATEWAY: tuple[Budget, ...] = (
    Budget("GET", "health", 0, note="asked on connections of their own, once in a tenth of a second"),
    Budget("GET", "auth/me", 2),
    Budget("GET", "secrets/{secret}", 3, note="the same; role, fence and age of the copy are columns of the second"),
    Budget("GET", "secrets?project_id={project}&key=db/password", 3),
    Budget("GET", "secrets?project_id={project}", 8),
    Budget("GET", "secrets/{secret}/versions", 6),
    Budget("GET", "writes", 3),
    Budget("POST", "secrets", 39, SECRET, status=201),
)


HEAD = """# Budgets

<!-- made by `python -m cli.documents write` from tests/conformance/budgets.py -->

How many statements an operation makes of the database, at most. The numbers are the same with few and with many stored objects;
a test holds every operation to its row. Counted without the frames of transactions.

The first statement of a call with a token says who asks. A running process remembers that for up to a second, so most calls make
one less ([ADR 36](../adr/0036-rights-for-a-second-and-audit-in-groups.md)). Beside these, the calls of a credential are counted
in sixty slices of its limit for a minute, and the moment of its last use is kept every five minutes.
"""


def document() -> str:
    """docs/operations/budgets.md."""
    parts = [HEAD]
    for title, rows in (("At the Primary", PRIMARY), ("At a gateway", GATEWAY)):
        lines = [f"| `{row}` | {row.statements} | {row.note} |" for row in rows]
        parts.append("\n".join([f"\n## {title}\n", "| operation | statements | |", "|---|---|---|", *lines, ""]))
    return "".join(parts)
