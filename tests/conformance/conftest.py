"""A client that calls as existing ones do, and the small world its resources live in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from django.test import Client

from tests.conformance.strict import decoded
from tests.conftest import Person


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any


class Terraform:
    """Sends JSON headers with every request, also without a body; follows nothing, retries nothing, decodes strictly."""

    def __init__(self, token: str) -> None:
        self._client = Client(raise_request_exception=False)
        self._token = token

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        answer = self._client.generic(
            method,
            f"/api/v1/{path}",
            data=_encoded(body),
            content_type="application/json",
            headers={"Accept": "application/json", "Authorization": f"Bearer {self._token}"},
        )
        assert answer.status_code not in (301, 302, 307, 308), f"{method} {path} is redirected"
        return Answer(answer.status_code, decoded(answer.content) if answer.content else None)

    def ok(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        answer = self.call(method, path, body)
        assert answer.status < 400, answer
        return answer.body


@pytest.fixture
def terraform(primary: None, admin: Person) -> Terraform:
    return Terraform(admin.token)


@pytest.fixture
def world(terraform: Terraform) -> dict[str, str]:
    """Ids of what the resources refer to."""
    organization = terraform.ok("POST", "organizations", {"name": "Bank"})["id"]
    project = terraform.ok("POST", "projects", {"name": "payments", "organization_id": organization})["id"]
    person = {"email": "lin@example.com", "full_name": "Lin", "password": "nine quiet lanterns drift"}
    wish = {"name": "generic", "type": "gitops", "provider": "generic", "environment": "dev", "config": {}}
    return {
        "organization": organization,
        "project": project,
        "user": terraform.ok("POST", "rbac/users", person)["id"],
        "role": next(row["id"] for row in terraform.ok("GET", "rbac/roles") if row["name"] == "secret_manager"),
        "integration": terraform.ok("POST", f"projects/{project}/integrations", wish)["id"],
    }


@pytest.fixture
def fill(world: dict[str, str]) -> Callable[[Any], Any]:
    """Put the world's ids into a path or body; texts such as `{{key}}` stay."""

    def filled(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: filled(inner) for name, inner in value.items()}
        if isinstance(value, str):
            for name, identifier in world.items():
                value = value.replace(f"{{{name}}}", identifier)
        return value

    return filled


def _encoded(body: Mapping[str, Any] | None) -> bytes:
    import json

    return b"" if body is None else json.dumps(body).encode()
