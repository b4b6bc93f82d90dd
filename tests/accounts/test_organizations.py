"""Organizations, environments and projects: what is theirs, what is not, and what may not happen while something lives there."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings

from accounts.models import Environment, Organization, Project, Role, RoleGrant, User
from accounts.organizations import ensure_default_organization
from common.models import AuditEntry, Change
from tests.conftest import Person
from vault.models import Secret, SecretVersion

pytestmark = pytest.mark.usefixtures("primary")


def made(caller: Person, path: str, body: dict[str, Any]) -> dict[str, Any]:
    status, row = caller.post(path, body)
    assert status == 201, row
    return row


def grant(email: str, role: str, **place: Any) -> None:
    RoleGrant.objects.create(user=User.objects.get(email=email), role=Role.objects.get(name=role), **place)


@pytest.fixture
def bank(admin: Person) -> dict[str, Any]:
    return made(admin, "organizations", {"name": "Bank"})


@pytest.fixture
def insurer(admin: Person) -> dict[str, Any]:
    return made(admin, "organizations", {"name": "Insurer"})


@pytest.fixture
def resident(person: Any, bank: dict[str, Any]) -> Person:
    """Somebody who administers the bank and nothing else."""
    found: Person = person("viewer")
    grant("viewer@example.com", "admin", organization_id=bank["id"])
    return found


def test_a_new_organization_has_four_environments_and_only_prod_is_in_the_production_radius(
    admin: Person, bank: dict[str, Any]
) -> None:
    _, rows = admin.get(f"organizations/{bank['id']}/environments")
    assert {row["slug"]: row["gateway_environment"] for row in rows} == {
        "dev": "NPR",
        "staging": "NPR",
        "qa": "NPR",
        "prod": "PRO",
    }
    assert [row["slug"] for row in rows if row["is_production"]] == ["prod"]


def test_a_newcomer_can_make_a_project_with_a_name_alone(admin: Person) -> None:
    row = made(admin, "projects", {"name": "payments"})
    assert row["default_environment"] == "dev"
    assert Organization.objects.get(id=row["organization_id"]).name == "Default"


def test_a_project_says_that_production_is_always_resolved_by_people(admin: Person) -> None:
    row = made(admin, "projects", {"name": "payments", "conflict_strategy": "mazevault_wins"})
    assert (row["conflict_strategy"], row["production_conflict_strategy"]) == ("mazevault_wins", "manual_resolution")


def test_what_an_old_client_does_not_know_survives_its_put(admin: Person) -> None:
    row = made(admin, "projects", {"name": "payments", "max_staleness_seconds": 60, "stale_epoch_policy": "discard"})
    _, after = admin.put(f"projects/{row['id']}", {"name": "payments", "type": "web"})
    assert (after["max_staleness_seconds"], after["stale_epoch_policy"], after["type"]) == (60, "discard", "web")


def test_an_environment_with_secrets_keeps_its_radius_and_stays(admin: Person, bank: dict[str, Any]) -> None:
    project = made(admin, "projects", {"name": "payments", "organization_id": bank["id"]})
    dev = Environment.objects.get(organization_id=bank["id"], slug="dev")
    secret = Secret.objects.create(project_id=project["id"], environment=dev, key="password")
    path = f"organizations/{bank['id']}/environments/{dev.id}"
    status, body = admin.patch(path, {"is_production": True})
    assert status == 409 and body["error"].startswith("is_production:")
    assert admin.delete(path)[0] == 409
    SecretVersion.objects.create(secret=secret, version=1, sealed_value=b"x", operation="create", author="x")
    Secret.objects.filter(id=secret.id).update(deleted_at=dev.created_at)
    assert admin.patch(path, {"is_production": True})[0] == 409, "it can be restored, and is sealed for the former environment"
    SecretVersion.objects.update(sealed_value=None)
    assert admin.patch(path, {"is_production": True})[1]["gateway_environment"] == "PRO"
    assert admin.delete(path)[0] == 204


def test_an_organization_with_projects_stays(admin: Person, bank: dict[str, Any]) -> None:
    project = made(admin, "projects", {"name": "payments", "organization_id": bank["id"]})
    assert admin.delete(f"organizations/{bank['id']}")[0] == 409
    assert admin.delete(f"projects/{project['id']}")[0] == 204
    assert admin.delete(f"organizations/{bank['id']}")[0] == 204
    assert admin.get(f"organizations/{bank['id']}")[0] == 404


def test_foreign_things_and_absent_things_look_the_same(
    admin: Person, resident: Person, bank: dict[str, Any], insurer: dict[str, Any]
) -> None:
    foreign = made(admin, "projects", {"name": "theirs", "organization_id": insurer["id"]})
    environment = Environment.objects.filter(organization_id=insurer["id"]).first()
    nothing = str(uuid.uuid4())
    for method in ("get", "put", "delete", "patch"):
        for path, identifier in (
            ("organizations/{}", insurer["id"]), ("projects/{}", foreign["id"]), ("projects/{}/settings", foreign["id"]),
            ("organizations/{}/environments", insurer["id"]),
            (f"organizations/{bank['id']}/environments/{{}}", str(environment.id)),
        ):  # fmt: skip
            body = {} if method in ("get", "delete") or path.endswith("settings") else {"name": "mine"}
            theirs, none = (
                resident.call(method, f"/api/v1/{path.format(one)}", data=body, content_type="application/json")
                for one in (identifier, nothing)
            )
            assert theirs == none and theirs[0] in (404, 405), (method, path, theirs)


def test_lists_show_only_what_is_theirs(admin: Person, resident: Person, bank: dict[str, Any], insurer: dict[str, Any]) -> None:
    mine = made(resident, "projects", {"name": "ours"})
    made(admin, "projects", {"name": "theirs", "organization_id": insurer["id"]})
    assert mine["organization_id"] == bank["id"]
    assert [row["name"] for row in resident.get("organizations")[1]] == ["Bank"]
    assert [row["name"] for row in resident.get("projects")[1]] == ["ours"]
    assert resident.post("projects", {"name": "x", "organization_id": insurer["id"]})[0] == 404
    assert resident.post("organizations", {"name": "Mine"})[0] == 403


def test_a_grant_in_one_environment_shows_the_project_and_lets_nobody_change_it(
    admin: Person, person: Any, bank: dict[str, Any]
) -> None:
    project = made(admin, "projects", {"name": "payments", "organization_id": bank["id"]})
    caller = person("viewer")
    grant("viewer@example.com", "project_admin", project_id=project["id"], environment="dev")
    assert caller.get(f"projects/{project['id']}")[0] == 200
    assert caller.put(f"projects/{project['id']}", {"name": "other"})[0] == 403
    assert [row["id"] for row in caller.get("projects")[1]] == [project["id"]]


def test_every_change_is_audited_and_told_to_the_gateways_concerned(admin: Person) -> None:
    bank = made(admin, "organizations", {"name": "Bank"})
    project = made(admin, "projects", {"name": "payments", "organization_id": bank["id"]})
    admin.delete(f"projects/{project['id']}")
    trail = AuditEntry.objects.filter(entity="project", entity_id=project["id"]).order_by("id")
    assert [entry.action for entry in trail] == ["project.created", "project.deleted"]
    told = Change.objects.filter(kind="project", entity_id=project["id"]).values_list("scope", flat=True)
    assert sorted(told) == ["NPR", "NPR", "PRO", "PRO"]


def test_the_same_wish_again_leaves_no_trace(admin: Person) -> None:
    project = made(admin, "projects", {"name": "payments", "type": "web"})
    before = AuditEntry.objects.count(), Change.objects.count()
    assert admin.put(f"projects/{project['id']}", {"name": "payments", "type": "web"}) == (200, project)
    assert (AuditEntry.objects.count(), Change.objects.count()) == before


def test_a_deleted_project_frees_its_name_and_hides_its_secrets(admin: Person) -> None:
    first = made(admin, "projects", {"name": "payments"})
    assert admin.post("projects", {"name": "PAYMENTS"})[0] == 409
    admin.delete(f"projects/{first['id']}")
    assert made(admin, "projects", {"name": "payments"})["id"] != first["id"]
    assert Project.objects.filter(name="payments").count() == 2


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [("projects", {}, "name"), ("projects", {"name": " x"}, "name"), ("projects", {"name": "a\nb"}, "name"),
     ("projects", {"name": 7}, "name"), ("projects", {"name": "x", "organization_id": "x"}, "organization_id"),
     ("projects", {"name": "x", "max_staleness_seconds": "5"}, "max_staleness_seconds"),
     ("projects", {"name": "x", "max_staleness_seconds": 0}, "max_staleness_seconds"),
     ("projects", {"name": "x", "max_staleness_seconds": True}, "max_staleness_seconds"),
     ("projects", {"name": "x", "conflict_strategy": "coin"}, "conflict_strategy"),
     ("projects", {"name": "x", "organization_id": 5}, "organization_id"),
     ("organizations", {"name": "x" * 201}, "name")],
)  # fmt: skip
def test_a_wrong_field_is_named(admin: Person, path: str, body: dict[str, Any], field: str) -> None:
    status, answer = admin.post(path, body)
    assert status == 400 and answer["error"].startswith(f"{field}:"), answer


def test_the_default_organization_is_made_once_and_only_when_there_is_none(admin: Person) -> None:
    ensure_default_organization()
    assert Organization.objects.filter(deleted_at=None).count() == 1
    made(admin, "organizations", {"name": "Bank"})
    default = Organization.objects.get(name="Default")
    assert admin.delete(f"organizations/{default.id}")[0] == 204
    ensure_default_organization()
    assert [row["name"] for row in admin.get("organizations")[1]] == ["Bank"]


def test_without_an_organization_that_is_meant_a_project_is_refused_with_the_reason(admin: Person) -> None:
    made(admin, "organizations", {"name": "Bank"})
    made(admin, "organizations", {"name": "Insurer"})
    admin.put(f"organizations/{Organization.objects.get(name='Default').id}", {"name": "Head office"})
    status, body = admin.post("projects", {"name": "x"})
    assert status == 400 and body["error"].startswith("organization_id:")


def test_a_new_environment_tells_its_gateways_of_all_they_had_no_reason_to_know(admin: Person, bank: dict[str, Any]) -> None:
    project = made(admin, "projects", {"name": "payments", "organization_id": bank["id"]})
    Change.objects.all().delete()
    made(admin, f"organizations/{bank['id']}/environments", {"name": "live", "is_production": True})
    told = set(Change.objects.values_list("scope", "kind"))
    assert told == {("PRO", "organization"), ("PRO", "environment"), ("PRO", "project")}
    assert Change.objects.filter(kind="project").get().entity_id == uuid.UUID(project["id"])


def test_in_orchestrator_mode_new_projects_keep_their_values_in_a_vault(admin: Person) -> None:
    with override_settings(MAZEVAULT=replace(settings.MAZEVAULT, orchestrator_mode=True)):
        assert admin.post("projects", {"name": "vaulted"})[1]["storage"] == "key_vault"
        assert admin.post("projects", {"name": "here", "storage": "mazevault"})[1]["storage"] == "mazevault"
    assert admin.post("projects", {"name": "plain"})[1]["storage"] == "mazevault"
