"""The secrets API on the Primary, path by path (client-api B.1 secret, B.3)."""

from __future__ import annotations

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.utils.crypto import salted_hmac

from accounts.models import Environment, Project
from common import retention
from common.clock import now
from common.models import AuditEntry
from tests import factories
from tests.conftest import Person
from vault import secrets as use_cases
from vault.models import AnsweredRequest, Secret, SecretVersion

UNKNOWN = "00000000-0000-4000-8000-000000000000"
FIELDS = {
    "id", "project_id", "organization_id", "environment", "key", "type", "description", "tags", "ttl_hours", "metadata",
    "rotation", "storage", "version", "status", "created_by", "created_at", "updated_at", "expires_at", "as_of", "stale",
    "pending_write", "rotation_not_in_force",
}  # fmt: skip


@pytest.fixture
def project(primary: None) -> Project:
    return factories.project()


def create(person: Person, project: Project, **more: Any) -> dict[str, Any]:
    status, row = person.post("secrets", {"project_id": str(project.id), "key": "db", "value": "hunter2", **more})
    assert status == 201, row
    return row


def send(person: Person, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """A call with further headers."""
    person.headers, kept = {**person.headers, **headers}, person.headers
    try:
        return person.call(method, path, data="" if body is None else json.dumps(body), content_type="application/json")
    finally:
        person.headers = kept


class TestCreateAndRead:
    def test_a_secret_is_created_and_read_back(self, admin: Person, project: Project) -> None:
        made = create(admin, project, metadata={"owner": "ann"}, ttl_hours=24)
        assert (made["status"], made["version"], made["environment"]) == ("active", 1, "dev")
        assert made.keys() == FIELDS
        assert admin.get(f"secrets/{made['id']}") == (200, {**made, "value": "hunter2"})

    def test_every_field_comes_back_as_it_was_sent(self, admin: Person, project: Project) -> None:
        rotation = {"enabled": True, "schedule": "0 3 * * *", "rotation_interval_days": 90, "notification_emails": ["a@b.cz"]}
        sent = {
            "value": "  ž\n\t\u2028 ", "metadata": {"a": " b "}, "tags": ["x", "y"], "description": "for the ledger",
            "type": "api_key", "rotation": rotation, "ttl_hours": 24, "environment": "PRODUCTION", "key": "café / κλειδί",
        }  # fmt: skip
        made = create(admin, project, **sent)
        _, row = admin.get(f"secrets/{made['id']}")
        assert {name: row[name] for name in sent} == {**sent, "environment": "prod"}
        begun = datetime.fromisoformat(row["updated_at"])
        assert datetime.fromisoformat(row["expires_at"]) - begun == timedelta(hours=24)

    def test_the_words_of_older_guides_are_understood(self, admin: Person, project: Project) -> None:
        status, row = admin.post("secrets", {"project_id": str(project.id), "name": "n", "value": "x", "type": "generic"})
        assert (status, row["key"], row["type"]) == (201, "n", "general")

    def test_what_is_left_out_or_null_has_its_plain_default(self, admin: Person, project: Project) -> None:
        nothing = dict.fromkeys(("metadata", "tags", "description", "type", "rotation", "ttl_hours", "environment"))
        row = create(admin, project, **nothing)
        assert (row["metadata"], row["tags"], row["description"], row["type"]) == ({}, [], "", "general")
        assert (row["rotation"], row["ttl_hours"], row["expires_at"], row["environment"]) == (None, 0, None, "dev")

    def test_a_key_that_lives_already_is_409_and_the_sentence_says_so(self, admin: Person, project: Project) -> None:
        create(admin, project)
        status, body = admin.post("secrets", {"project_id": str(project.id), "key": "db", "value": "x"})
        assert (status, body["code"]) == (409, "DUPLICATE_NAME")
        assert "already exists" in body["error"]

    def test_the_audit_entry_of_a_read_is_there_before_the_value_leaves(
        self, admin: Person, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """I17: an audit that cannot be written gives no value. The short way has its own test (`test_hot`)."""
        made, whole = create(admin, project), Client(headers={**admin.headers, "Accept": "application/json, text/plain"})

        def broken(**_more: Any) -> None:
            raise RuntimeError("the trail is full")

        monkeypatch.setattr(use_cases.audit, "record", broken)
        for path in (f"secrets/{made['id']}", f"secrets/{made['id']}/versions/1", f"secrets?project_id={project.id}&key=db"):
            answer = whole.get(f"/api/v1/{path}")
            assert answer.status_code == 500
            assert b"hunter2" not in answer.content

    def test_each_read_of_a_value_is_audited_and_a_list_is_not(self, admin: Person, project: Project) -> None:
        made = create(admin, project)
        for path, count in (
            (f"secrets/{made['id']}", 1),
            (f"secrets/{made['id']}/versions/1", 2),
            (f"secrets?project_id={project.id}&key=db", 3),
            (f"secrets/{made['id']}/versions", 3),
            (f"secrets?project_id={project.id}", 3),
        ):
            status, body = admin.get(path)
            assert status == 200, body
            assert AuditEntry.objects.filter(action="secret.read", entity_id=made["id"]).count() == count
            assert ("hunter2" in str(body)) == ("versions/1" in path or "key=" in path or path.endswith(made["id"]))


class TestByKey:
    def get(self, person: Person, project: Project, more: str = "", key: str = "db") -> tuple[int, Any]:
        return person.get(f"secrets?project_id={project.id}&key={key}{more}")

    def test_the_only_match_needs_no_environment(self, admin: Person, project: Project) -> None:
        made = create(admin, project, environment="qa")
        assert self.get(admin, project) == (200, {**made, "value": "hunter2"})

    def test_of_several_the_default_environments_one_is_meant(self, admin: Person, project: Project) -> None:
        for slug in ("qa", "dev", "prod"):
            create(admin, project, environment=slug, value=slug)
        assert self.get(admin, project)[1]["value"] == "dev"

    def test_without_a_default_one_the_choices_are_named(self, admin: Person, project: Project) -> None:
        create(admin, project, environment="qa")
        create(admin, project, environment="prod")
        status, body = self.get(admin, project)
        assert (status, body["code"]) == (409, "ENVIRONMENT_NEEDED")
        assert body["error"].endswith("prod, qa")

    @pytest.mark.parametrize("text", ["prod", "PROD", "Production", "%20production%20"])
    def test_an_environment_is_named_by_name_or_slug_in_any_case(self, admin: Person, project: Project, text: str) -> None:
        create(admin, project)
        create(admin, project, environment="prod", value="real")
        assert self.get(admin, project, f"&environment={text}")[1]["value"] == "real"

    def test_an_unknown_environment_is_named_with_those_that_exist(self, admin: Person, project: Project) -> None:
        create(admin, project)
        for status, body in (
            self.get(admin, project, "&environment=uat"),
            admin.post("secrets", {"project_id": str(project.id), "key": "n", "value": "x", "environment": "uat"}),
        ):
            assert (status, body["error"]) == (
                400, "environment: there is no environment 'uat'; there are: dev, prod, qa, staging",
            )  # fmt: skip

    def test_an_unknown_key_is_404_and_a_missing_project_is_400(self, admin: Person, project: Project) -> None:
        assert self.get(admin, project, key="nothing")[0] == 404
        assert admin.get("secrets?key=db")[1]["error"] == "project_id: is required"
        assert admin.get("secrets?project_id=7&key=db")[0] == 400
        status, body = admin.get(f"secrets?project_id={UNKNOWN}&key=db")
        assert (status, body["code"]) == (404, "PROJECT_NOT_FOUND")

    def test_an_archived_secret_is_found_by_id_only(self, admin: Person, project: Project) -> None:
        made = create(admin, project)
        admin.post(f"secrets/{made['id']}/archive")
        assert self.get(admin, project)[0] == 404
        assert admin.get(f"secrets/{made['id']}")[1]["value"] == "hunter2"


class TestList:
    def keys(self, person: Person, project: Project, more: str = "") -> list[str]:
        status, rows = person.get(f"secrets?project_id={project.id}{more}")
        assert status == 200, rows
        assert all(row.keys() == FIELDS for row in rows)
        return [row["key"] for row in rows]

    def test_a_project_is_listed_by_key_without_values(self, admin: Person, project: Project) -> None:
        for key in ("b", "a"):
            create(admin, project, key=key)
        create(admin, project, key="a", environment="prod")
        assert self.keys(admin, project) == ["a", "a", "b"]
        assert self.keys(admin, project, "&environment=Production") == ["a"]

    def test_status_chooses(self, admin: Person, project: Project) -> None:
        made = {key: create(admin, project, key=key)["id"] for key in ("live", "old", "gone", "destroyed")}
        admin.post(f"secrets/{made['old']}/archive")
        admin.delete(f"secrets/{made['gone']}")
        admin.delete(f"secrets/{made['destroyed']}")
        admin.delete(f"secrets/{made['destroyed']}/permanent")
        assert self.keys(admin, project) == ["live"]
        assert self.keys(admin, project, "&status=archived") == ["old"]
        assert self.keys(admin, project, "&status=deleted") == ["gone"]
        assert self.keys(admin, project, "&status=all") == ["gone", "live", "old"]
        assert admin.get(f"secrets?project_id={project.id}&status=x")[0] == 400


class TestChange:
    def test_put_gives_the_full_object_back_with_the_next_version(self, admin: Person, project: Project) -> None:
        made = create(admin, project, ttl_hours=24, metadata={"a": "b"}, tags=["t"])
        status, row = send(admin, "put", f"secrets/{made['id']}", {"value": "new", "ttl_hours": 48, "metadata": {"c": "d"}})
        assert status == 200
        assert row == {**made, "value": "new", "ttl_hours": 48, "metadata": {"c": "d"}, "version": 2,
                       "updated_at": row["updated_at"], "expires_at": row["expires_at"]}  # fmt: skip
        assert admin.get(f"secrets/{made['id']}") == (200, row)

    def test_put_replaces_and_patch_keeps(self, admin: Person, project: Project) -> None:
        """A client leaves out what is zero or empty, so with PUT left out means gone."""
        made = create(admin, project, ttl_hours=24, metadata={"a": "b"}, tags=["t"])
        _, row = send(admin, "patch", f"secrets/{made['id']}", {"ttl_hours": 12})
        assert (row["version"], row["ttl_hours"], row["metadata"], row["tags"]) == (2, 12, {"a": "b"}, ["t"])
        _, row = send(admin, "put", f"secrets/{made['id']}", {"value": "new"})
        assert (row["version"], row["ttl_hours"], row["metadata"], row["tags"]) == (3, 0, {}, ["t"])

    def test_patch_keeps_the_value_and_takes_none(self, admin: Person, project: Project) -> None:
        made = create(admin, project)
        assert send(admin, "patch", f"secrets/{made['id']}", {"tags": ["x"]})[0] == 200
        assert admin.get(f"secrets/{made['id']}")[1]["value"] == "hunter2"
        assert send(admin, "patch", f"secrets/{made['id']}", {"value": "x"})[1]["error"].startswith("value: ")
        assert send(admin, "patch", f"secrets/{made['id']}", {})[0] == 400

    def test_versions_tell_who_did_what(self, admin: Person, project: Project) -> None:
        made = create(admin, project, change_reason="first")
        send(admin, "put", f"secrets/{made['id']}", {"value": "new", "change_reason": "second"})
        status, rows = admin.get(f"secrets/{made['id']}/versions")
        assert status == 200
        assert [(row["version"], row["current"], row["operation"], row["change_reason"]) for row in rows] == [
            (2, True, "update", "second"), (1, False, "create", "first"),
        ]  # fmt: skip
        assert all(row["created_by"].startswith("user:") and row["origin"] == "primary" for row in rows)

    def test_an_old_version_gives_the_value_it_had(self, admin: Person, project: Project) -> None:
        made = create(admin, project)
        send(admin, "patch", f"secrets/{made['id']}", {"tags": ["x"]})
        send(admin, "put", f"secrets/{made['id']}", {"value": "new"})
        seen = [admin.get(f"secrets/{made['id']}/versions/{number}")[1]["value"] for number in (1, 2, 3)]
        assert seen == ["hunter2", "hunter2", "new"]
        for number in ("0", "4", "x", "99999999999", "-1", "1.0", "٣"):
            assert admin.get(f"secrets/{made['id']}/versions/{number}")[0] == 404, number

    def test_a_rollback_is_a_new_version_with_an_old_value(self, admin: Person, project: Project) -> None:
        made = create(admin, project)
        send(admin, "put", f"secrets/{made['id']}", {"value": "new"})
        status, row = admin.post(f"secrets/{made['id']}/rollback", {"version": 1, "change_reason": "broken"})
        assert (status, row["version"]) == (200, 3)
        assert admin.get(f"secrets/{made['id']}")[1]["value"] == "hunter2"
        for body in ({}, {"version": 3}, {"version": 0}, {"version": "1"}, {"version": True}, {"version": 1.0}):
            assert admin.post(f"secrets/{made['id']}/rollback", body)[1]["error"].startswith("version: "), body

    def test_delete_leaves_a_tombstone_that_can_be_restored_or_destroyed(self, admin: Person, project: Project) -> None:
        made = create(admin, project)
        path = f"secrets/{made['id']}"
        assert admin.delete(path) == (204, None)
        assert [admin.get(one)[0] for one in (path, f"{path}/versions", f"{path}/versions/1")] == [404, 404, 404]
        assert admin.delete(path)[0] == 404
        assert admin.post(f"{path}/restore")[0] == 200
        assert admin.get(path)[1]["value"] == "hunter2"
        assert admin.delete(f"{path}/permanent")[1]["code"] == "SECRET_IN_USE"
        admin.delete(path)
        assert admin.delete(f"{path}/permanent") == (204, None)
        assert [admin.post(f"{path}/restore")[0], admin.delete(f"{path}/permanent")[0]] == [404, 404]
        assert set(SecretVersion.objects.filter(secret_id=made["id"]).values_list("sealed_value", flat=True)) == {None}

    def test_an_archived_secret_takes_no_change_until_it_is_restored(self, admin: Person, project: Project) -> None:
        path = f"secrets/{create(admin, project)['id']}"
        assert admin.post(f"{path}/archive")[1]["status"] == "archived"
        again = admin.post(f"{path}/archive")
        assert (again[0], again[1]["version"]) == (200, 2), "a repeated wish is fulfilled already"
        assert send(admin, "put", path, {"value": "x"})[1]["code"] == "SECRET_ARCHIVED"
        assert admin.post(f"{path}/restore")[1]["status"] == "active"
        assert send(admin, "put", path, {"value": "x"})[0] == 200

    def test_a_project_whose_values_rest_in_a_vault_takes_none_without_one(self, admin: Person, primary: None) -> None:
        project = factories.project(storage="key_vault")
        status, body = admin.post("secrets", {"project_id": str(project.id), "key": "db", "value": "x"})
        assert (status, body["code"]) == (409, "VAULT_MISSING")


class TestCompareAndSet:
    @pytest.mark.parametrize("tag", ['"1"', "1", 'W/"1"', "*", ' "1" '])
    def test_a_fitting_base_passes(self, admin: Person, project: Project, tag: str) -> None:
        made = create(admin, project)
        assert send(admin, "put", f"secrets/{made['id']}", {"value": "x"}, **{"If-Match": tag})[0] == 200

    @pytest.mark.parametrize("how", [{"header": '"1"'}, {"body": 1}, {"header": '"9"'}, {"body": 9}, {"body": 0}])
    def test_another_base_is_409_and_names_the_current_version(
        self, admin: Person, project: Project, how: dict[str, Any]
    ) -> None:
        path = f"secrets/{create(admin, project)['id']}"
        send(admin, "put", path, {"value": "second"})
        headers = {"If-Match": how["header"]} if "header" in how else {}
        body = {"base_version": how["body"]} if "body" in how else {}
        calls: list[Any] = [
            ("put", path, {"value": "x"}), ("patch", path, {"tags": []}),
            ("post", f"{path}/rollback", {"version": 1}), ("post", f"{path}/archive", {}),
        ]  # fmt: skip
        calls += [("delete", path, None)] if headers else []
        for method, where, wish in calls:
            status, answer = send(admin, method, where, None if wish is None else {**wish, **body}, **headers)
            assert (status, answer["code"], answer["current_version"]) == (409, "VERSION_CONFLICT", 2), (method, where)
        assert admin.get(path)[1]["value"] == "second"

    @pytest.mark.parametrize("tag", ["x", '"a"', '"1", "2"', '"-1"', "1.0", '"99999999999"'])
    def test_a_header_that_is_no_version_is_refused(self, admin: Person, project: Project, tag: str) -> None:
        made = create(admin, project)
        status, body = send(admin, "put", f"secrets/{made['id']}", {"value": "x"}, **{"If-Match": tag})
        assert (status, body["error"].split(":")[0]) == (400, "If-Match")

    def test_header_and_body_must_not_contradict(self, admin: Person, project: Project) -> None:
        made = create(admin, project)
        wish = {"value": "x", "base_version": 2}
        assert send(admin, "put", f"secrets/{made['id']}", wish, **{"If-Match": '"1"'})[0] == 400

    def test_answers_carry_the_version_as_etag(self, admin: Person, project: Project) -> None:
        path = f"/api/v1/secrets/{create(admin, project)['id']}"
        answer = admin.client.put(path, data={"value": "x"}, content_type="application/json", headers=admin.headers)
        assert answer["ETag"] == '"2"' == admin.client.get(path, headers=admin.headers)["ETag"]


def digest_of_an_older_release(kind: str, made: dict[str, Any], project: Project) -> str:
    """Composed here by hand, as the release before ADR 44 stored it."""
    secret = "" if kind == "create" else made["id"]
    body = {"update": '{"value":"x","ttl_hours":0,"metadata":{}}', "create": '{"value":"x"}', "rotate": "{}"}[kind]
    environment = str(Secret.objects.get(id=made["id"]).environment_id)
    asked = "\0".join([kind, secret, str(project.id), environment, made["key"], "None", body])
    return salted_hmac("answered-request", asked, algorithm="sha256").hexdigest()


class TestRepeated:
    """`Idempotency-Key`: a request whose answer was lost is sent again."""

    def test_a_repeated_creation_makes_one_secret(self, admin: Person, project: Project) -> None:
        wish = {"project_id": str(project.id), "key": "db", "value": "x"}
        first = send(admin, "post", "secrets", wish, **{"Idempotency-Key": "k1"})
        assert first[0] == 201
        assert send(admin, "post", "secrets", wish, **{"Idempotency-Key": "k1"}) == first
        assert Secret.objects.count() == SecretVersion.objects.count() == 1

    def test_a_repeated_update_makes_one_version(self, admin: Person, project: Project) -> None:
        path = f"secrets/{create(admin, project)['id']}"
        answers = [send(admin, "put", path, {"value": "x"}, **{"Idempotency-Key": "k"}) for _ in range(3)]
        assert answers[0] == answers[1] == answers[2] and answers[0][1]["version"] == 2

    def test_a_repeated_update_does_not_pass_its_value_off_as_the_newer_one(self, admin: Person, project: Project) -> None:
        path = f"secrets/{create(admin, project)['id']}"
        send(admin, "put", path, {"value": "x"}, **{"Idempotency-Key": "k"})
        send(admin, "put", path, {"value": "y"})
        status, row = send(admin, "put", path, {"value": "x"}, **{"Idempotency-Key": "k"})
        assert (status, row["version"], "value" in row) == (200, 2, False)
        assert send(admin, "put", path, {"value": "z"}, **{"If-Match": f'"{row["version"]}"'})[1]["code"] == "VERSION_CONFLICT"
        assert admin.get(path)[1]["value"] == "y"

    @pytest.mark.parametrize(("first", "other"), [({"length": 64}, {}), ({}, {"length": 64}), ({"length": 64}, {"length": 65})])
    def test_a_rotation_of_another_length_is_another_request(
        self, admin: Person, project: Project, first: dict[str, Any], other: dict[str, Any]
    ) -> None:
        path, key = f"secrets/{create(admin, project, type='password')['id']}/rotate", {"Idempotency-Key": "k"}
        made = send(admin, "post", path, first, **key)
        assert made[0] == 200 and send(admin, "post", path, first, **key) == made
        assert send(admin, "post", path, other, **key)[1]["code"] == "IDEMPOTENCY_MISMATCH"

    def test_the_usual_length_said_or_not_is_one_request(self, admin: Person, project: Project) -> None:
        path, key = f"secrets/{create(admin, project, type='password')['id']}/rotate", {"Idempotency-Key": "k"}
        assert send(admin, "post", path, {"length": 32}, **key) == send(admin, "post", path, {}, **key)

    @pytest.mark.parametrize("other", [{"value": "y"}, {"value": "x", "ttl_hours": 1}, {"value": "x", "base_version": 1}])
    def test_another_request_under_the_same_key_is_refused(self, admin: Person, project: Project, other: dict[str, Any]) -> None:
        path = f"secrets/{create(admin, project)['id']}"
        send(admin, "put", path, {"value": "x"}, **{"Idempotency-Key": "k"})
        status, body = send(admin, "put", path, other, **{"Idempotency-Key": "k"})
        assert (status, body["code"]) == (409, "IDEMPOTENCY_MISMATCH")
        assert admin.get(path)[1]["version"] == 2

    @pytest.mark.parametrize("kind", ["update", "create", "rotate"])
    def test_what_an_older_release_answered_is_known_after_the_upgrade(self, admin: Person, project: Project, kind: str) -> None:
        path = f"secrets/{create(admin, project)['id']}"
        method, where, wish, other = {
            "update": ("put", path, {"value": "x"}, {"value": "y"}),
            "create": ("post", "secrets", {"project_id": str(project.id), "key": "n", "value": "x"}, None),
            "rotate": ("post", f"{path}/rotate", {}, {"value": "chosen"}),
        }[kind]
        first = send(admin, method, where, wish, **{"Idempotency-Key": "k"})
        made = SecretVersion.objects.count()
        AnsweredRequest.objects.update(digest=digest_of_an_older_release(kind, first[1], project))
        assert send(admin, method, where, wish, **{"Idempotency-Key": "k"})[1]["version"] == first[1]["version"]
        if other is not None:
            assert send(admin, method, where, other, **{"Idempotency-Key": "k"})[1]["code"] == "IDEMPOTENCY_MISMATCH"
        assert SecretVersion.objects.count() == made

    def test_a_refused_request_keeps_no_key(self, admin: Person, project: Project) -> None:
        path = f"secrets/{create(admin, project)['id']}"
        headers = {"Idempotency-Key": "k"}
        assert send(admin, "put", path, {"value": "x", "base_version": 9}, **headers)[0] == 409
        assert send(admin, "put", path, {"value": "x", "base_version": 1}, **headers)[0] == 200

    def test_keys_of_two_callers_are_two_keys(self, admin: Person, project: Project) -> None:
        path = f"secrets/{create(admin, project)['id']}"
        colleague = factories.member("project_admin", project=project)
        send(admin, "put", path, {"value": "x"}, **{"Idempotency-Key": "k"})
        assert send(colleague, "put", path, {"value": "y"}, **{"Idempotency-Key": "k"})[1]["version"] == 3

    def test_a_key_is_forgotten_after_a_day(self, admin: Person, project: Project) -> None:
        path = f"secrets/{create(admin, project)['id']}"
        send(admin, "put", path, {"value": "x"}, **{"Idempotency-Key": "k"})
        for hours, left in ((23, 1), (25, 0)):
            AnsweredRequest.objects.update(at=now() - timedelta(hours=hours))
            retention.apply("primary")
            assert AnsweredRequest.objects.count() == left
        assert send(admin, "put", path, {"value": "x"}, **{"Idempotency-Key": "k"})[1]["version"] == 3

    def test_a_key_that_is_too_long_is_refused(self, admin: Person, project: Project) -> None:
        path = f"secrets/{create(admin, project)['id']}"
        assert send(admin, "put", path, {"value": "x"}, **{"Idempotency-Key": "k" * 201})[0] == 400


@pytest.mark.parametrize("path", ["secrets/{id}", "secrets/{id}/versions/1", "secrets?project_id={project_id}&key=db"])
def test_a_head_opens_no_value_and_tells_of_no_read(admin: Person, project: Project, path: str) -> None:
    made = create(admin, project)
    reads = AuditEntry.objects.filter(action="secret.read")
    answer = admin.client.head(f"/api/v1/{path.format(**made)}", headers=admin.headers)
    assert (answer.status_code, answer["ETag"], answer.content, reads.count()) == (200, '"1"', b"", 0)
    assert admin.get(path.format(**made))[1]["value"] == "hunter2" and reads.count() == 1


WRONG = [
    ({"value": 7}, "value"),
    ({"value": None}, "value"),
    ({"value": ["x"]}, "value"),
    ({"value": ""}, "value"),
    ({"value": "x" * 65_537}, "value"),
    ({"value": "a\0b"}, "value"),
    ({"key": ""}, "key"),
    ({"key": 7}, "key"),
    ({"key": "k" * 256}, "key"),
    ({"key": "a\tb"}, "key"),
    ({"project_id": 7}, "project_id"),
    ({"project_id": "x"}, "project_id"),
    ({"ttl_hours": "24"}, "ttl_hours"),
    ({"ttl_hours": 1.0}, "ttl_hours"),
    ({"ttl_hours": True}, "ttl_hours"),
    ({"ttl_hours": -1}, "ttl_hours"),
    ({"ttl_hours": 2**70}, "ttl_hours"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {"a": None}}, "metadata.a"),
    ({"metadata": ["a"]}, "metadata"),
    ({"metadata": {"a": "x" * 20_000}}, "metadata"),
    ({"tags": "x"}, "tags"),
    ({"tags": [1]}, "tags"),
    ({"type": "other"}, "type"),
    ({"type": 1}, "type"),
    ({"description": "x" * 1001}, "description"),
    ({"rotation": "daily"}, "rotation"),
    ({"rotation": {"enabled": 1}}, "rotation.enabled"),
    ({"environment": 1}, "environment"),
    ({"change_reason": "x" * 501}, "change_reason"),
    ({"base_version": "1"}, "base_version"),
    ({"base_version": -1}, "base_version"),
    ({"base_version": 2**70}, "base_version"),
]


@pytest.mark.parametrize(("wrong", "field"), WRONG, ids=[f"{field}-{number}" for number, (_, field) in enumerate(WRONG)])
def test_bad_input_is_400_and_the_sentence_begins_with_the_field(
    admin: Person, project: Project, wrong: dict[str, Any], field: str
) -> None:
    status, body = admin.post("secrets", {"project_id": str(project.id), "key": "db", "value": "x", **wrong})
    assert status == 400, body
    assert body["error"].startswith(field), body
    assert not Secret.objects.exists()


@pytest.mark.parametrize("missing", ["project_id", "key", "value"])
def test_a_missing_field_is_named(admin: Person, project: Project, missing: str) -> None:
    wish = {"project_id": str(project.id), "key": "db", "value": "x"}
    del wish[missing]
    assert admin.post("secrets", wish) == (400, {"error": f"{missing}: is required", "code": "VALIDATION_ERROR"})


def test_binary_is_refused(admin: Person, project: Project) -> None:
    raw = b'{"project_id":"' + str(project.id).encode() + b'","key":"k","value":"\xff\xfe"}'
    status, body = admin.call("post", "secrets", data=raw, content_type="application/json")
    assert (status, body["code"]) == (400, "INVALID_FORMAT")


class TestScopes:
    """Whoever may not read a place cannot tell that anything is there."""

    @pytest.fixture
    def made(self, admin: Person, project: Project) -> dict[str, Any]:
        return create(admin, project, environment="prod", value="real")

    def test_a_foreign_secret_answers_exactly_like_one_that_is_not_there(self, project: Project, made: dict[str, Any]) -> None:
        stranger = factories.member("project_admin", project=factories.project(factories.organization("Other")))
        neighbour = factories.member("project_admin", project=project, environment="dev")
        for person in (stranger, neighbour):
            for method, tail, wish in (
                ("get", "", None), ("put", "", {"value": "x"}), ("patch", "", {"tags": []}), ("delete", "", None),
                ("get", "/versions", None), ("get", "/versions/1", None), ("post", "/rollback", {"version": 1}),
                ("post", "/archive", {}), ("post", "/restore", {}), ("delete", "/permanent", None),
            ):  # fmt: skip
                foreign = send(person, method, f"secrets/{made['id']}{tail}", wish)
                absent = send(person, method, f"secrets/{uuid.uuid4()}{tail}", wish)
                assert foreign == absent and foreign[0] == 404, (method, tail, foreign)

    def test_a_foreign_project_answers_exactly_like_one_that_is_not_there(self, project: Project, made: dict[str, Any]) -> None:
        stranger = factories.member("project_admin", project=factories.project(factories.organization("Other")))
        for tail in ("", "&key=db", "&environment=prod"):
            foreign = stranger.get(f"secrets?project_id={project.id}{tail}")
            assert foreign == stranger.get(f"secrets?project_id={UNKNOWN}{tail}") and foreign[0] == 404
        wish = {"key": "db", "value": "x", "environment": "prod"}
        foreign = stranger.post("secrets", {"project_id": str(project.id), **wish})
        assert foreign == stranger.post("secrets", {"project_id": UNKNOWN, **wish}) and foreign[0] == 404

    def test_lists_and_keys_show_only_readable_environments(self, admin: Person, project: Project, made: dict[str, Any]) -> None:
        create(admin, project, value="fake")
        neighbour = factories.member("project_admin", project=project, environment="dev")
        assert [row["environment"] for row in neighbour.get(f"secrets?project_id={project.id}")[1]] == ["dev"]
        assert neighbour.get(f"secrets?project_id={project.id}&key=db")[1]["value"] == "fake"
        assert neighbour.get(f"secrets?project_id={project.id}&key=db&environment=prod")[0] == 404

    def test_who_may_read_and_not_write_is_told_so(self, project: Project, made: dict[str, Any]) -> None:
        from accounts.models import Role

        Role.objects.create(name="reader", permissions=["secrets:read"])
        Role.objects.create(name="writer-elsewhere", permissions=["secrets:write", "secrets:delete"])
        person = factories.member("reader", project=project)
        factories.grant(person, "writer-elsewhere", project=factories.project(factories.organization("Other")))
        assert person.get(f"secrets/{made['id']}")[0] == 200
        for method, tail, body in (("put", "", {"value": "x"}), ("delete", "", None), ("post", "/archive", {})):
            status, answer = send(person, method, f"secrets/{made['id']}{tail}", body)
            assert (status, answer["code"]) == (403, "PERMISSION_DENIED")
        status, answer = person.post("secrets", {"project_id": str(project.id), "key": "n", "value": "x"})
        assert (status, answer["code"]) == (403, "PERMISSION_DENIED")

    @pytest.mark.parametrize("text", ["x", "%00", "..%2f", "' OR 1=1 --", f"{{{UNKNOWN}}}", UNKNOWN.replace("-", "")])
    def test_a_strange_id_is_not_found(self, admin: Person, primary: None, text: str) -> None:
        assert admin.get(f"secrets/{text}")[0] in (400, 404)

    def test_secrets_of_a_deleted_project_or_environment_are_gone(
        self, admin: Person, project: Project, made: dict[str, Any]
    ) -> None:
        Environment.objects.filter(slug="prod").update(deleted_at="2026-01-01T00:00:00Z")
        assert admin.get(f"secrets/{made['id']}")[0] == 404
        Environment.objects.filter(slug="prod").update(deleted_at=None)
        Project.objects.filter(pk=project.pk).update(deleted_at="2026-01-01T00:00:00Z")
        assert admin.get(f"secrets/{made['id']}")[0] == 404
        assert admin.get(f"secrets?project_id={project.id}")[0] == 404


@pytest.mark.xdist_group("races")
class TestAtOnce:
    """Real threads on real connections."""

    def at_once(self, *calls: Any) -> list[Any]:
        barrier = threading.Barrier(len(calls))

        def run(call: Any) -> Any:
            try:
                barrier.wait(30)
                return call()
            finally:
                connection.close()

        with ThreadPoolExecutor(len(calls)) as pool:
            return [future.result() for future in [pool.submit(run, call) for call in calls]]

    def client(self, person: Person) -> Person:
        return Person(person.token)

    @pytest.mark.parametrize("rounds", [10, pytest.param(200, marks=pytest.mark.long)])
    def test_of_many_updates_on_one_version_exactly_one_wins(self, committed_primary: None, admin: Person, rounds: int) -> None:
        path = f"secrets/{create(admin, factories.project())['id']}"
        for version in range(1, rounds + 1):
            racers = [
                lambda number=number, version=version: send(
                    self.client(admin), "put", path, {"value": f"{version}-{number}"}, **{"If-Match": f'"{version}"'}
                )
                for number in range(4)
            ]
            answers = self.at_once(*racers)
            won = [body for status, body in answers if status == 200]
            lost = [(status, body["code"]) for status, body in answers if status != 200]
            assert (len(won), lost) == (1, [(409, "VERSION_CONFLICT")] * 3)
            assert admin.get(path)[1]["value"] == won[0]["value"]

    def test_without_a_base_every_update_gets_a_version_of_its_own(self, committed_primary: None, admin: Person) -> None:
        path = f"secrets/{create(admin, factories.project())['id']}"
        answers = self.at_once(
            *(lambda number=number: send(self.client(admin), "put", path, {"value": str(number)}) for number in range(8))
        )
        assert sorted(body["version"] for _, body in answers) == list(range(2, 10))

    def test_a_request_repeated_at_once_is_made_once(self, committed_primary: None, admin: Person) -> None:
        wish = {"project_id": str(factories.project().id), "key": "db", "value": "x"}
        again = lambda: send(self.client(admin), "post", "secrets", wish, **{"Idempotency-Key": "k"})  # noqa: E731
        answers = self.at_once(*[again] * 6)
        assert {(status, body["id"]) for status, body in answers} == {(201, str(Secret.objects.get().id))}

    def test_of_many_creations_of_one_key_exactly_one_wins(self, committed_primary: None, admin: Person) -> None:
        wish = {"project_id": str(factories.project().id), "key": "db", "value": "x"}
        answers = self.at_once(*(lambda: self.client(admin).post("secrets", wish) for _ in range(6)))
        assert sorted(status for status, _ in answers) == [201] + [409] * 5

    def test_a_creation_does_not_slip_into_a_project_that_is_being_deleted(self, committed_primary: None, admin: Person) -> None:
        project = factories.project()
        wish = {"project_id": str(project.id), "key": "db", "value": "x"}
        with ThreadPoolExecutor(1) as pool:
            with transaction.atomic():
                Project.objects.filter(pk=project.pk).update(deleted_at="2026-01-01T00:00:00Z")
                late = pool.submit(self.at_once, lambda: self.client(admin).post("secrets", wish))
                with pytest.raises(TimeoutError):
                    late.result(timeout=0.7)
            assert late.result(timeout=30)[0][0] == 404
        assert not Secret.objects.exists()


@pytest.mark.parametrize("key", ["\u200b", "\ufeffbom", "a\u202eb", "a\u00a0b", "\u3000", "a\u00adb"])
def test_a_key_that_looks_like_another_is_refused(admin: Person, project: Project, key: str) -> None:
    for wish in ({"key": key}, {"key": "k", "tags": [f"x{key}y"]}, {"key": "k", "metadata": {f"x{key}y": "v"}}):
        status, body = admin.post("secrets", {"project_id": str(project.id), "value": "v", **wish})
        assert status == 400 and "U+" in body["error"], body
    for path, wish in (
        ("projects", {"name": f"x{key}y"}),
        ("rbac/roles", {"name": f"x{key}y"}),
        ("users/tokens", {"name": f"x{key}y"}),
    ):
        assert admin.post(path, wish)[0] == 400


def test_both_spellings_of_a_letter_are_one_key(admin: Person, project: Project) -> None:
    wish = {"project_id": str(project.id), "value": "v"}
    status, made = admin.post("secrets", {**wish, "key": "caf\u0065\u0301"})
    assert (status, made["key"] if "key" in made else admin.get(f"secrets/{made['id']}")[1]["key"]) == (201, "caf\u00e9")
    assert admin.post("secrets", {**wish, "key": "caf\u00e9"})[0] == 409
    for spelling in ("caf\u00e9", "cafe\u0301"):
        assert admin.get(f"secrets?project_id={project.id}&key={spelling}")[1]["id"] == made["id"]


def test_what_is_wrong_with_a_version_is_told_under_the_name_it_was_said_by(admin: Person, project: Project) -> None:
    path = f"secrets/{create(admin, project)['id']}"
    for said, name in (({"If-Match": '"7"'}, "If-Match"), ({}, "base_version")):
        wish = {"value": "x"} if said else {"value": "x", "base_version": 7}
        status, answer = send(admin, "put", path, wish, **said)
        assert status == 409 and answer["error"].startswith(f"{name}: the secret is in version 1"), answer


@pytest.mark.parametrize("name", ["status", "limit", "offset"])
def test_what_is_for_lists_is_not_passed_over_beside_a_key(admin: Person, project: Project, name: str) -> None:
    create(admin, project, value="one")
    status, body = admin.get(f"secrets?project_id={project.id}&key=db&{name}=1")
    assert status == 400 and body["error"].startswith(f"{name}: is for lists")


def test_both_names_of_one_field_must_agree_and_a_given_value_has_no_length(admin: Person, project: Project) -> None:
    wish = {"project_id": str(project.id), "value": "v", "type": "password"}
    assert admin.post("secrets", {**wish, "key": "a", "name": "b"})[1]["error"].startswith("name: is another word for key")
    made = admin.post("secrets", {**wish, "key": "a", "name": "a"})[1]
    path = f"secrets/{made['id']}/rotate"
    assert admin.post(path, {"value": "w", "length": 20})[1]["error"].startswith("length: ")
    assert admin.post(path, {"reason": "x", "change_reason": "y"})[1]["error"].startswith("reason: ")
    assert admin.post(path, {"reason": "leaked", "force": True})[0] == 200
    assert admin.get(f"secrets/{made['id']}/versions")[1][0]["change_reason"] == "leaked"
