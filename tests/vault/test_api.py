"""The secrets API on the Primary, path by path (client-api B.1 secret, B.3)."""

from __future__ import annotations

from typing import Any

import pytest

from accounts.models import Project
from tests import factories
from tests.conftest import Person

pytestmark = pytest.mark.usefixtures("primary")


@pytest.fixture
def project(primary: None) -> Project:
    return factories.project()


def create(person: Person, project: Project, **more: Any) -> dict[str, Any]:
    status, row = person.post("secrets", {"project_id": str(project.id), "key": "db", "value": "hunter2", **more})
    assert status == 201, row
    return row


def test_a_secret_is_created_and_read_back(admin: Person, project: Project) -> None:
    made = create(admin, project, metadata={"owner": "ann"}, ttl_hours=24)
    assert (made["status"], made["version"], made["environment"]) == ("active", 1, "dev")
    status, row = admin.get(f"secrets/{made['id']}")
    assert status == 200
    assert row == {**made, "value": "hunter2"}
