"""The calls of existing clients that are no plain resource: settings, tokens for software, audit, adoption, empty bodies."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client

from common import paging
from tests.conformance.conftest import Terraform
from tests.conformance.strict import (
    decoded,
    filled,
    flag,
    identifier,
    or_null,
    text,
    texts,
    thing,
    time,
    whole,
    wrong_fields,
)

SETTINGS = {
    "project_id": identifier, "retention_days": whole, "notification_webhooks": or_null(texts), "slack_channel": text,
    "tags": or_null(texts), "owner_email": text, "sync_enabled": or_null(flag), "sync_interval_minutes": or_null(whole),
}  # fmt: skip
AUDIT = {
    "id": filled, "user_id": text, "project_id": text, "action": filled, "entity_type": text, "entity_id": text,
    "ip_address": text, "severity": filled, "details": text, "created_at": time, "event_data": thing,
}  # fmt: skip


def test_settings_of_a_project_are_put_read_and_unset(terraform: Terraform, world: dict[str, str]) -> None:
    path = f"projects/{world['project']}/settings"
    bare = terraform.ok("GET", path)
    assert wrong_fields(bare, SETTINGS) == [] and bare["sync_enabled"] is None and bare["tags"] is None
    wish = {"retention_days": 30, "tags": ["a", "b"], "sync_enabled": False, "sync_interval_minutes": 5, "owner_email": "a@b.c"}
    after = terraform.ok("PUT", path, wish)
    assert wrong_fields(after, SETTINGS) == [] and wish.items() <= after.items()
    assert terraform.ok("GET", path) == terraform.ok("PUT", path, wish) == after
    assert terraform.ok("PUT", path, {}) == bare


def test_an_environment_that_is_there_can_be_adopted(terraform: Terraform, world: dict[str, str]) -> None:
    path = f"organizations/{world['organization']}/environments"
    answer = terraform.call("POST", path, {"name": "prod", "slug": "prod", "is_production": True})
    assert answer.status == 409 and "already exists" in answer.body["error"]
    assert any(row["name"] == "prod" and row["slug"] == "prod" for row in terraform.ok("GET", path))


def test_a_role_that_is_there_can_be_adopted_unchanged(terraform: Terraform) -> None:
    wish = {"name": "ops", "display_name": "Ops", "description": "d", "permissions": ["secrets:read", "dashboard:read"]}
    made = terraform.ok("POST", "rbac/roles", wish)
    assert terraform.call("POST", "rbac/roles", wish).status == 409
    assert made in terraform.ok("GET", "rbac/roles")


@pytest.fixture
def service(terraform: Terraform) -> dict[str, Any]:
    row: dict[str, Any] = terraform.ok("POST", "service-identities/", {"display_name": "CI", "owner_email": "ops@example.com"})
    return row


def test_software_exchanges_its_credentials_for_a_token_that_works(
    terraform: Terraform, service: dict[str, Any], world: dict[str, str]
) -> None:
    wish = {"grant_type": "client_credentials", "client_id": service["client_id"], "client_secret": service["client_secret"]}
    shape = {"access_token": filled, "token_type": filled, "expires_in": whole}
    answer = Client().post("/api/v1/auth/token", wish, content_type="application/json")
    form = Client().post("/oauth/token", urlencode(wish), content_type="application/x-www-form-urlencoded")
    for body in (decoded(answer.content), decoded(form.content)):
        assert wrong_fields(body, shape) == [] and (body["token_type"], body["expires_in"]) == ("Bearer", 86400)
        assert Terraform(body["access_token"]).call("GET", "projects").status == 403
    terraform.ok("POST", f"service-identities/{service['id']}/roles", {"role_id": world["role"], "project_id": world["project"]})
    seen = Terraform(body["access_token"]).ok("GET", "projects")
    assert [row["id"] for row in seen] == [world["project"]]


@pytest.mark.parametrize("path", ["/api/v1/auth/token", "/oauth/token"])
def test_wrong_credentials_are_401_and_another_grant_is_400(service: dict[str, Any], path: str) -> None:
    right = {"grant_type": "client_credentials", "client_id": service["client_id"], "client_secret": service["client_secret"]}
    for wish, status in (
        ({**right, "client_secret": "x"}, 401), ({**right, "client_id": "x"}, 401), ({**right, "grant_type": "password"}, 400),
        ({}, 400),
    ):  # fmt: skip
        kind = "application/json" if path.startswith("/api") else "application/x-www-form-urlencoded"
        answer = Client().post(path, wish if kind == "application/json" else urlencode(wish), content_type=kind)
        assert answer.status_code == status and isinstance(answer.json()["error"], str), answer.content


def test_a_field_twice_in_the_form_is_refused(service: dict[str, Any]) -> None:
    raw = urlencode([("grant_type", "client_credentials"), ("client_id", "a"), ("client_id", "b"), ("client_secret", "c")])
    answer = Client().post("/oauth/token", raw, content_type="application/x-www-form-urlencoded")
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_FORMAT")


def test_an_api_token_takes_the_place_of_a_session(terraform: Terraform, world: dict[str, str]) -> None:
    token = terraform.ok("POST", "users/tokens", {"name": "ci", "scopes": ["projects:read"], "duration": "24h"})["token"]
    limited = Terraform(token)
    assert limited.ok("GET", f"projects/{world['project']}")["id"] == world["project"]
    assert limited.call("POST", "projects", {"name": "x"}).status == 403


@pytest.mark.parametrize("query", ["", "?limit=100&offset=0", "?limit=2&offset=1"])
def test_both_forms_of_the_audit_trail_are_bare_arrays(terraform: Terraform, world: dict[str, str], query: str) -> None:
    for path in (f"audit-logs/{query}", f"projects/{world['project']}/audit-logs{query}"):
        rows = terraform.ok("GET", path)
        assert isinstance(rows, list) and rows, path
        assert [wrong for row in rows for wrong in wrong_fields(row, AUDIT)] == []
    assert {row["project_id"] for row in terraform.ok("GET", f"projects/{world['project']}/audit-logs")} == {world["project"]}


def test_the_audit_trail_is_paged_without_gap_or_overlap(terraform: Terraform, world: dict[str, str]) -> None:
    whole_trail = [row["id"] for row in terraform.ok("GET", "audit-logs/?limit=1000")]
    pages = [row["id"] for at in range(0, len(whole_trail), 3) for row in terraform.ok("GET", f"audit-logs/?limit=3&offset={at}")]
    assert pages == whole_trail and len(whole_trail) > 4


@pytest.mark.parametrize(("limit", "rows"), [("0", 1), ("1", 1), ("2", 2), ("3", 2)])
def test_a_limit_beyond_the_bounds_is_the_nearest_bound(
    terraform: Terraform, world: dict[str, str], monkeypatch: pytest.MonkeyPatch, limit: str, rows: int
) -> None:
    monkeypatch.setattr(paging, "MOST_SHOWN", 2)
    assert len(terraform.ok("GET", f"audit-logs/?limit={limit}")) == rows


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "limit=1.5", "offset=-1", "limit=99999999999999999999"])
def test_a_page_that_makes_no_sense_is_400(terraform: Terraform, query: str) -> None:
    assert terraform.call("GET", f"audit-logs/?{query}").status == 400


def test_the_audit_trail_is_searched(terraform: Terraform, world: dict[str, str]) -> None:
    rows = terraform.ok("POST", "audit-logs/search", {"entity_type": "project", "action": "project.created"})
    assert [row["entity_id"] for row in rows] == [world["project"]]
    assert rows[0]["user_id"] and terraform.ok("POST", "audit-logs/search", {"user_id": rows[0]["user_id"], "limit": 1})
    assert terraform.ok("POST", "audit-logs/search", {"end_date": "2001-01-01T00:00:00Z"}) == []
    assert terraform.call("POST", "audit-logs/search", {"end_date": "yesterday"}).status == 400


def test_a_call_without_a_body_but_with_the_json_header_is_fine(terraform: Terraform, world: dict[str, str]) -> None:
    assert terraform.ok("POST", f"rbac/users/{world['user']}/disable")["status"] == "disabled"
    assert terraform.ok("POST", f"rbac/users/{world['user']}/enable")["status"] == "active"


def test_destroying_in_the_order_of_dependence_succeeds_and_everything_can_be_made_again(terraform: Terraform) -> None:
    for _ in range(2):
        organization = terraform.ok("POST", "organizations", {"name": "Cycle"})["id"]
        project = terraform.ok("POST", "projects", {"name": "p", "organization_id": organization})["id"]
        wish = {"name": "i", "type": "gitops", "provider": "generic", "environment": "prod", "config": {}}
        integration = terraform.ok("POST", f"projects/{project}/integrations", wish)["id"]
        rule = terraform.ok("POST", f"projects/{project}/sync-rules", {"name": "r", "integration_id": integration})["id"]
        for path in (
            f"projects/sync-rules/{rule}", f"projects/integrations/{integration}", f"projects/{project}",
            f"organizations/{organization}",
        ):  # fmt: skip
            assert terraform.call("DELETE", path).status < 400, path
