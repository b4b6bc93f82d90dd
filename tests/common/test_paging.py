"""Lists that grow come in pages for who asks; those of clients that read one page only come whole without."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common.clock import now
from common.paging import SHOWN
from gateways import tokens
from gateways.tokens import TokenWish
from tests.conftest import Person

pytestmark = pytest.mark.usefixtures("primary")


def project_with_secrets(admin: Person, count: int) -> str:
    project = str(admin.post("projects", {"name": "paged"})[1]["id"])
    for number in range(count):
        wish = {"project_id": project, "environment": "dev", "key": f"K{number}", "value": "v"}
        assert admin.post("secrets", wish)[0] == 201
    return project


def test_secrets_and_their_versions_come_whole_or_in_the_part_that_was_asked_for(admin: Person) -> None:
    project = project_with_secrets(admin, 4)
    path = f"secrets?project_id={project}"
    assert len(admin.get(path)[1]) == 4
    assert [row["key"] for row in admin.get(f"{path}&limit=2&offset=1")[1]] == ["K1", "K2"]
    secret = admin.get(path)[1][0]["id"]
    for number in range(3):
        assert admin.put(f"secrets/{secret}", {"value": f"v{number}"})[0] == 200
    assert len(admin.get(f"secrets/{secret}/versions")[1]) == 4
    assert [row["version"] for row in admin.get(f"secrets/{secret}/versions?limit=1&offset=1")[1]] == [3]


@pytest.mark.parametrize("path", ["projects", "rbac/users", "service-identities", "auth/sessions", "gateways/bootstrap"])
def test_a_page_is_never_longer_than_asked_for(admin: Person, person: Callable[[str], Person], path: str) -> None:
    person("auditor"), person("user")
    project_with_secrets(admin, 0), admin.post("projects", {"name": "another"})
    status, rows = admin.get(f"{path}?limit=1")
    assert status == 200 and len(rows) <= 1
    assert admin.get(f"{path}?limit=many")[0] == 400


def test_what_only_people_look_at_is_bounded_without_being_asked(admin: Person) -> None:
    for number in range(SHOWN + 2):
        tokens.create_token(TokenWish(f"gw-{number}"), actor="user:t", address="", now=now())
    rows = admin.get("gateways/bootstrap")[1]
    assert len(rows) == SHOWN and rows[0]["name"] == f"gw-{SHOWN + 1}"
