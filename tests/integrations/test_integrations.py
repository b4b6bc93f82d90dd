"""Integrations and sync rules as stored objects: secrets stay in, foreign things stay out, production keeps its own rule."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest

from accounts import sealed_config
from accounts.models import Role, RoleGrant, User
from common.models import AuditEntry
from integrations.models import Integration
from tests.conftest import Person

pytestmark = pytest.mark.usefixtures("primary")


@pytest.fixture
def project(admin: Person) -> dict[str, Any]:
    row: dict[str, Any] = admin.post("projects", {"name": "payments"})[1]
    return row


@pytest.fixture
def integration(admin: Person, project: dict[str, Any]) -> dict[str, Any]:
    config = {"azure_org": "acme", "azure_pat": "pat-of-acme"}
    wish = {"name": "devops", "type": "gitops", "provider": "azure_devops", "environment": "prod", "config": config}
    row: dict[str, Any] = admin.post(f"projects/{project['id']}/integrations", wish)[1]
    return row


def test_secrets_of_a_configuration_rest_sealed_under_the_environment_and_never_come_back(
    admin: Person, integration: dict[str, Any]
) -> None:
    assert integration["config"] == {"azure_org": "acme"}
    row = Integration.objects.get()
    assert row.sealed_under == "PRO" and b"pat-of-acme" not in bytes(row.sealed_secrets)
    assert sealed_config.secrets_of(row, "PRO") == {"azure_pat": "pat-of-acme"}
    trail = str(list(AuditEntry.objects.values()))
    assert "pat-of-acme" not in trail + str(admin.get(f"projects/integrations/{integration['id']}"))


def test_a_put_without_the_secret_keeps_it_and_one_with_it_replaces_it(admin: Person, integration: dict[str, Any]) -> None:
    path = f"projects/integrations/{integration['id']}"
    wish = {"name": "devops", "type": "gitops", "provider": "azure_devops", "config": {"azure_org": "other"}}
    assert admin.put(path, wish)[1]["config"] == {"azure_org": "other"}
    assert sealed_config.secrets_of(Integration.objects.get(), "PRO") == {"azure_pat": "pat-of-acme"}
    admin.put(path, {**wish, "config": {"azure_pat": "new"}})
    assert sealed_config.secrets_of(Integration.objects.get(), "PRO") == {"azure_pat": "new"}


def test_a_sealed_value_of_an_older_state_does_not_open(admin: Person, integration: dict[str, Any]) -> None:
    old = bytes(Integration.objects.get().sealed_secrets)
    wish = {"name": "devops", "type": "gitops", "provider": "azure_devops", "config": {"azure_pat": "new"}}
    admin.put(f"projects/integrations/{integration['id']}", wish)
    row = Integration.objects.get()
    row.sealed_secrets = old
    with pytest.raises(Exception, match="do not open"):
        sealed_config.secrets_of(row, "PRO")


def test_deleting_wipes_the_secret_and_ends_its_rules(
    admin: Person, project: dict[str, Any], integration: dict[str, Any]
) -> None:
    admin.post(f"projects/{project['id']}/sync-rules", {"name": "r", "integration_id": integration["id"]})
    assert admin.delete(f"projects/integrations/{integration['id']}")[0] == 204
    assert Integration.objects.get().sealed_secrets is None
    assert admin.get(f"projects/{project['id']}/sync-rules") == (200, {"rules": []})
    assert AuditEntry.objects.filter(action="sync_rule.deleted").count() == 1


def test_in_production_a_person_decides_whatever_the_rule_says(
    admin: Person, project: dict[str, Any], integration: dict[str, Any]
) -> None:
    path, wish = (
        f"projects/{project['id']}/sync-rules",
        {"integration_id": integration["id"], "conflict_strategy": "external_wins"},
    )
    counted = {
        name: admin.post(path, {**wish, "name": name, "target_environment": name})[1]["effective_conflict_strategy"]
        for name in ("dev", "prod")
    }
    assert counted == {"dev": "external_wins", "prod": "manual_resolution"}


@pytest.mark.parametrize(
    ("change", "field"),
    [({"integration_id": str(uuid.uuid4())}, "integration_id"), ({"project_id": str(uuid.uuid4())}, "project_id"),
     ({"conflict_strategy": "coin"}, "conflict_strategy"), ({"sync_direction": "up"}, "sync_direction"),
     ({"sync_mode": "some"}, "sync_mode"), ({"key_transform_template": "{{user}}"}, "key_transform_template")],
)  # fmt: skip
def test_a_rule_that_makes_no_sense_is_refused(
    admin: Person, project: dict[str, Any], integration: dict[str, Any], change: dict[str, Any], field: str
) -> None:
    wish = {"name": "r", "integration_id": integration["id"], **change}
    status, body = admin.post(f"projects/{project['id']}/sync-rules", wish)
    assert status == 400 and body["error"].startswith(f"{field}:")


OVERLONG: dict[str, tuple[dict[str, Any], str]] = {
    "a long name": ({"aA" * 100: "1"}, f"config.{'aA' * 50}…: a name may have at most 100 characters"),
    "a very long name": ({"aA" * 40_000: "1"}, "config.aAaAaA"),
    "a long name inside": ({"outer": [{"b" * 101: 1}]}, f"config.{'b' * 100}…: a name may have"),
    "many fields": ({f"f{number}": 1 for number in range(201)}, "config: may have at most 200 fields"),
    "many elements": ({"list": [1] * 200}, "config: may have at most 200 fields"),
    "a long value": ({"pem": "x" * (32 * 1024 + 1)}, "config.pem: may have at most 32768 characters"),
    "much in all": ({f"f{number}": "x" * 30_000 for number in range(3)}, "config: may have at most 65536 bytes"),
}


@pytest.mark.parametrize("kind", OVERLONG)
def test_a_configuration_out_of_bounds_is_refused_at_once_by_its_field(
    admin: Person, project: dict[str, Any], integration: dict[str, Any], kind: str
) -> None:
    config, sentence = OVERLONG[kind]
    wish = {"name": "big", "type": "x", "provider": "generic", "config": config}
    provider = {"type": "oidc", "name": "big", "config": config}
    for method, path, body in (
        (admin.post, f"projects/{project['id']}/integrations", wish),
        (admin.put, f"projects/integrations/{integration['id']}", wish),
        (admin.post, "identity-providers", provider),
    ):
        begun = time.thread_time()
        status, answer = method(path, body)
        assert status == 400 and answer["error"].startswith(sentence), (path, answer)
        assert time.thread_time() - begun < 1


def test_secrets_that_are_kept_from_before_are_counted_too(admin: Person, project: dict[str, Any]) -> None:
    wish = {"name": "grows", "type": "x", "provider": "generic", "config": {f"a{n}_token": "x" for n in range(150)}}
    row = admin.post(f"projects/{project['id']}/integrations", wish)[1]
    more = {**wish, "config": {f"b{n}_token": "x" for n in range(150)}}
    status, body = admin.put(f"projects/integrations/{row['id']}", more)
    assert status == 400 and body["error"].startswith("config: with those kept from before")
    cleared = {**wish, "config": {f"a{n}_token": None for n in range(150)}}
    assert admin.put(f"projects/integrations/{row['id']}", cleared)[0] == 200
    assert admin.put(f"projects/integrations/{row['id']}", more)[0] == 200


@pytest.mark.parametrize("template", ["{{" + " " * 496, "{{" * 250, "{{key}}{{ {key} }}", "{{key}} }}"])
def test_braces_that_are_no_placeholder_are_refused(
    admin: Person, project: dict[str, Any], integration: dict[str, Any], template: str
) -> None:
    wish = {"name": "r", "integration_id": integration["id"], "key_transform_template": template}
    status, body = admin.post(f"projects/{project['id']}/sync-rules", wish)
    assert status == 400 and body["error"].startswith("key_transform_template: ")


def test_an_integration_of_another_project_serves_no_rule_here(admin: Person, integration: dict[str, Any]) -> None:
    other = admin.post("projects", {"name": "other"})[1]
    assert admin.post(f"projects/{other['id']}/sync-rules", {"name": "r", "integration_id": integration["id"]})[0] == 400


def test_foreign_and_absent_integrations_and_rules_look_the_same(
    admin: Person, project: dict[str, Any], integration: dict[str, Any], person: Any
) -> None:
    rule = admin.post(f"projects/{project['id']}/sync-rules", {"name": "r", "integration_id": integration["id"]})[1]
    bank = admin.post("organizations", {"name": "Bank"})[1]
    stranger = person("viewer")
    role = Role.objects.get(name="admin")
    RoleGrant.objects.create(user=User.objects.get(email="viewer@example.com"), role=role, organization_id=bank["id"])
    wishes = {
        "integrations": {"name": "x", "type": "t", "provider": "p"},
        "sync-rules": {"name": "x", "integration_id": bank["id"]},
    }
    for kind, identifier in (("integrations", integration["id"]), ("sync-rules", rule["id"])):
        for method in ("get", "put", "delete"):
            theirs, none = (
                stranger.call(method, f"/api/v1/projects/{kind}/{one}", content_type="application/json", data=wishes[kind])
                if method == "put"
                else stranger.call(method, f"/api/v1/projects/{kind}/{one}")
                for one in (identifier, str(uuid.uuid4()))
            )
            assert theirs == none and theirs[0] in (404, 405), (kind, method, theirs)
        assert stranger.get(f"projects/{project['id']}/{kind}")[0] == 404


def test_what_is_only_kept_says_so(admin: Person, project: dict[str, Any], integration: dict[str, Any]) -> None:
    assert integration["not_in_force"][0].startswith("provider: not in force: ")
    path, wish = f"projects/{project['id']}/sync-rules", {"name": "r", "integration_id": integration["id"]}
    made = admin.post(path, {**wish, "conflict_strategy": "mazevault_wins", "target_environment": "prod"})[1]
    fields = [one.partition(":")[0] for one in made["not_in_force"]]
    assert (
        fields == ["integration_id", "conflict_strategy"]
        and admin.get(path)[1]["rules"][0]["not_in_force"] == made["not_in_force"]
    )
