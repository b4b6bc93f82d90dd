"""Own roles are changed and deleted, with effect at the next call; conflicts name what is there (C6, C8)."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest

from accounts.models import Role, RoleGrant
from common.clock import now
from common.models import AuditEntry, Change
from tests import factories
from tests.conftest import Person

pytestmark = pytest.mark.usefixtures("primary")


@pytest.fixture
def role(admin: Person) -> dict[str, Any]:
    row: dict[str, Any] = admin.post("rbac/roles", {"name": "ops", "permissions": ["secrets:read", "projects:read"]})[1]
    return row


def test_a_role_is_read_replaced_and_deleted(admin: Person, role: dict[str, Any]) -> None:
    path = f"rbac/roles/{role['id']}"
    assert admin.get(path) == (200, role)
    wish = {"name": "operators", "display_name": "Operators", "permissions": ["projects:read", "audit:read"]}
    status, after = admin.put(path, wish)
    assert status == 200 and after == {**role, **wish}
    assert admin.get(path) == (200, after) and after in admin.get("rbac/roles")[1]
    told = AuditEntry.objects.get(action="rbac.role.modified").details
    assert (told["before"], told["added"], told["taken"]) == ("ops", ["audit:read"], ["secrets:read"])
    assert admin.put(path, wish)[0] == 200 and AuditEntry.objects.filter(action="rbac.role.modified").count() == 1
    assert admin.delete(path) == (204, None) and admin.get(path)[0] == 404
    assert admin.post("rbac/roles", {"name": "operators"})[0] == 201, "its name is free again"


def test_who_holds_it_has_the_change_at_the_next_call_and_gateways_are_told(admin: Person, role: dict[str, Any]) -> None:
    project = factories.project()
    person = factories.member("ops", project=project)
    assert person.get(f"projects/{project.id}")[0] == 200
    before = Change.objects.count()
    assert admin.put(f"rbac/roles/{role['id']}", {"name": "ops", "permissions": ["secrets:read"]})[0] == 200
    assert person.get(f"projects/{project.id}")[0] in (403, 404) and Change.objects.count() > before


def test_one_in_use_stays_and_says_by_whom_it_is_held(admin: Person, role: dict[str, Any]) -> None:
    project, path = factories.project(), f"rbac/roles/{role['id']}"
    factories.member("ops", project=project)
    grant = RoleGrant.objects.get(role_id=role["id"])
    mapping = admin.post("rbac/mappings", {"group_name": "ops-people", "role_id": role["id"]})[1]
    status, body = admin.delete(path)
    assert (status, body["code"]) == (409, "ROLE_IN_USE") and "1 assignments and 1 mappings" in body["error"]
    assert str(grant.id) in body["details"] and mapping["id"] in body["details"]
    assert admin.delete(f"rbac/mappings/{mapping['id']}")[0] == 204 and admin.delete(path)[0] == 409
    RoleGrant.objects.filter(id=grant.id).update(expires_at=now() - timedelta(seconds=1))
    assert admin.delete(path)[0] == 204 and not Role.objects.filter(id=role["id"]).exists()


def test_roles_of_the_product_stay_as_they_are(admin: Person) -> None:
    viewer = next(row for row in admin.get("rbac/roles")[1] if row["name"] == "viewer")
    for status, body in (
        admin.put(f"rbac/roles/{viewer['id']}", {"name": "viewer", "permissions": ["secrets:read"]}),
        admin.delete(f"rbac/roles/{viewer['id']}"),
    ):
        assert (status, body["code"]) == (409, "SYSTEM_ROLE")
    assert Role.objects.get(name="viewer").is_system_role


def test_nobody_changes_a_role_above_themselves(admin: Person, role: dict[str, Any], person: Any) -> None:
    Role.objects.create(name="keeper", permissions=["roles:read", "roles:write", "projects:read"])
    keeper = factories.member("keeper")
    path = f"rbac/roles/{role['id']}"
    for wish in ({"name": "ops", "permissions": ["projects:read"]}, {"name": "ops", "permissions": []}):
        assert keeper.put(path, wish)[0] == 403, "it gave secrets:read, which they do not hold"
    assert keeper.delete(path)[0] == 403
    admin.put(path, {"name": "ops", "permissions": ["projects:read"]})
    assert keeper.put(path, {"name": "ops", "permissions": ["projects:read", "secrets:read"]})[0] == 403
    assert keeper.put(path, {"name": "ops", "permissions": []})[0] == 200
    assert keeper.get(f"rbac/roles/{uuid.uuid4()}")[0] == keeper.delete(f"rbac/roles/{uuid.uuid4()}")[0] == 404


def test_a_misspelt_permission_is_named_with_the_nearest(admin: Person, role: dict[str, Any]) -> None:
    for status, body in (
        admin.put(f"rbac/roles/{role['id']}", {"name": "ops", "permissions": ["secret:read"]}),
        admin.post("rbac/roles", {"name": "x", "permissions": ["secret:read"]}),
    ):
        assert status == 400 and "there is no permission secret:read, did you mean secrets:read; known are" in body["error"]


def test_a_name_that_is_taken_is_told_with_the_id_of_what_has_it(admin: Person, role: dict[str, Any]) -> None:
    bank = admin.post("organizations", {"name": "Bank"})[1]
    project = admin.post("projects", {"name": "pay", "organization_id": bank["id"]})[1]
    integration = {"name": "g", "type": "x", "provider": "generic", "environment": "dev"}
    made = admin.post(f"projects/{project['id']}/integrations", integration)[1]
    rule = {"name": "r", "integration_id": made["id"]}
    template = {"name": "t", "template": "{}"}
    again: list[tuple[str, dict[str, Any], str]] = [
        ("organizations", {"name": "BANK"}, bank["id"]),
        ("projects", {"name": "Pay", "organization_id": bank["id"]}, project["id"]),
        ("rbac/roles", {"name": "OPS"}, role["id"]),
        (f"projects/{project['id']}/integrations", integration, made["id"]),
    ]
    for path, wish in (
        (f"projects/{project['id']}/sync-rules", rule), (f"organizations/{bank['id']}/config-templates", template),
        ("rbac/mappings", {"group_name": "g", "role_id": role["id"]}),
        ("rbac/users", {"email": "lin@example.com", "password": "nine quiet lanterns drift"}),
        (f"organizations/{bank['id']}/environments", {"name": "Odd", "slug": "odd"}),
        ("secrets", {"project_id": project["id"], "key": "K", "value": "v"}),
    ):  # fmt: skip
        again.append((path, wish, admin.post(path, wish)[1]["id"]))
    for path, wish, identifier in again:
        status, body = admin.post(path, wish)
        assert (status, body.get("details")) == (409, f"the id of the one that exists: {identifier}"), (path, body)
        assert "already exists" in body["error"], path


def test_who_may_not_see_it_learns_no_id(admin: Person) -> None:
    hidden = admin.post("organizations", {"name": "Hidden"})[1]
    mine = factories.organization("Mine")
    person = factories.member("admin", organization=mine)
    status, body = person.put(f"organizations/{mine.id}", {"name": "hidden"})
    assert status == 409 and hidden["id"] not in str(body) and "details" not in body
