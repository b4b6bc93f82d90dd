"""The short way of changing a secret does what the whole way does, and leaves to it whatever it does not know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import Project
from common import audit
from common.models import AuditEntry, Change
from tests import factories
from tests.conftest import Person
from tests.gateway_runtime.conftest import Site, as_gateway, site  # noqa: F401  fixtures
from tests.vault.test_hot import SAME, WHOLE, make, ways_of
from vault import hot_change
from vault.models import Secret, SecretVersion, VaultClaim

NO_MATTER = ("version", "updated_at", "created_at", "id", "key")


@pytest.fixture
def project(primary: None) -> Project:
    return factories.project()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each change was made on the short way."""
    return ways_of(monkeypatch, hot_change, "new_value")


def put(person: Person, secret: str, body: Any, prefix: str = "/api/v1/", query: str = "", **headers: str) -> Any:
    client = Client(raise_request_exception=False)
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    return client.put(
        f"{prefix}secrets/{secret}{query}", data=text, content_type="application/json",
        headers={**person.headers, "Accept": "application/json", **headers},
    )  # fmt: skip


def told(secret: str) -> dict[str, Any]:
    """What the last change left behind, but for ids, times and names."""
    version = SecretVersion.objects.filter(secret=secret).order_by("version").last()
    entry = AuditEntry.objects.filter(entity_id=secret).order_by("id").last()
    change = Change.objects.filter(entity_id=secret).order_by("id").last()
    assert version and entry and change
    row = Secret.objects.values("ttl_hours", "metadata", "status", "version", "description", "tags").get(id=secret)
    details = {name: value for name, value in entry.details.items() if name != "key"}
    return {
        "row": row, "version": (version.version, version.operation, version.author, version.origin, version.reason),
        "audit": (entry.action, entry.actor, entry.environment, entry.organization, entry.project, entry.address, details),
        "feed": (change.scope, change.kind),
    }  # fmt: skip


def test_both_ways_leave_and_answer_the_same(admin: Person, project: Project, short: list[bool]) -> None:
    rich = {"ttl_hours": 5, "metadata": {"a": "b"}, "tags": ["x"], "description": "d"}
    one, other = make(admin, project, "one", **rich), make(admin, project, "other", **rich)
    for body in ({"value": "va\u2028lue \u00fc"}, {"value": "n", "base_version": 2}, {"value": "m", "base_version": None}):
        fast, slow = put(admin, one, body), put(admin, other, body, **WHOLE)
        assert (fast.status_code, slow.status_code) == (200, 200), (fast.content, slow.content)
        assert {**fast.json(), **dict.fromkeys(NO_MATTER)} == {**slow.json(), **dict.fromkeys(NO_MATTER)}
        assert list(fast.json()) == list(slow.json())
        known = [name for name in SAME if name != "Content-Length"]
        assert [fast.get(name) for name in known] == [slow.get(name) for name in known]
        assert told(one) == told(other)
    assert short == [True, False] * 3
    assert admin.get(f"secrets/{one}")[1]["value"] == "m"


REFUSED: Mapping[str, Any] = {
    "no value": {}, "null": {"value": None}, "number": {"value": 5}, "empty": {"value": ""}, "list": [1], "no JSON": "{",
    "NUL": '{"value": "a\\u0000"}', "twice": '{"value": "a", "value": "b"}',
    "too long": {"value": "x" * 70_000}, "stale": {"value": "x", "base_version": 7},
    "fraction": {"value": "x", "base_version": 1.0},
    "true": {"value": "x", "base_version": True}, "below": {"value": "x", "base_version": -1}, "latin": b'{"value": "\xe9"}',
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_refused_with_the_same_words_and_changes_nothing(
    kind: str, admin: Person, project: Project, short: list[bool]
) -> None:
    made = make(admin, project)
    fast, slow = put(admin, made, REFUSED[kind]), put(admin, made, REFUSED[kind], **WHOLE)
    assert (fast.status_code, fast.content) == (slow.status_code, slow.content)
    assert fast.status_code >= 400 and short == [False, False] and Secret.objects.get(id=made).version == 1


@pytest.mark.parametrize("more", [{"Idempotency-Key": "k"}, {"If-Match": '"1"'}, {"Accept": "*/*, application/json"}])
def test_unusual_calls_go_the_whole_way(more: dict[str, str], admin: Person, project: Project, short: list[bool]) -> None:
    made = make(admin, project)
    assert put(admin, made, {"value": "x"}, **more).status_code == 200 and short == [False]
    assert put(admin, made, {"value": "y", "description": "d"}).json()["description"] == "d" and short == [False, False]


def test_an_archived_a_deleted_and_an_unknown_secret_are_refused_as_ever(admin: Person, project: Project) -> None:
    made = make(admin, project)
    assert admin.post(f"secrets/{made}/archive")[0] == 200
    assert put(admin, made, {"value": "x"}).json()["code"] == "SECRET_ARCHIVED"
    assert admin.delete(f"secrets/{made}")[0] == 204
    assert put(admin, made, {"value": "x"}).status_code == 404
    assert put(admin, "00000000-0000-4000-8000-000000000000", {"value": "x"}).status_code == 404
    assert put(admin, "x", {"value": "x"}).status_code == 404


def test_who_may_only_read_or_not_even_that_changes_and_locks_nothing(admin: Person, project: Project) -> None:
    """I13: what is foreign is not even locked, so nothing of it shows in the time of the answer."""
    made, there = make(admin, project), make(admin, project, "p", environment="prod")
    reader = factories.member("viewer", project=project)
    stranger = factories.member("secret_manager", project=project, environment="dev")
    assert put(reader, made, {"value": "x"}).status_code == put(reader, made, {"value": "x"}, **WHOLE).status_code == 403
    with CaptureQueriesContext(connection) as seen:
        answer = put(stranger, there, {"value": "x"})
    assert answer.status_code == 404 and not any("FOR NO KEY UPDATE" in one["sql"] for one in seen)
    assert put(stranger, made, {"value": "x"}).status_code == 200
    assert (Secret.objects.get(id=made).version, Secret.objects.get(id=there).version) == (2, 1)


def test_what_a_vault_has_to_hear_of_goes_the_whole_way(admin: Person, project: Project, short: list[bool]) -> None:
    made = make(admin, project)
    secret = Secret.objects.get(id=made)
    claim = VaultClaim.objects.create(
        place="v", name="db", secret=secret.id, project=project.id, environment=secret.environment_id, key="db",
        operation="update", body="{}", actor="a", until="2000-01-01T00:00:00Z",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vault.claims.WAIT_SECONDS", 0.0)
        assert put(admin, made, {"value": "x"}).json()["code"] == "SECRET_BUSY"
    claim.delete()
    Project.objects.filter(id=project.id).update(storage="key_vault")
    assert put(admin, made, {"value": "x"}).status_code >= 400
    assert short == [False, False] and Secret.objects.get(id=made).version == 1


def test_without_an_audit_entry_nothing_is_changed(admin: Person, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """I17."""
    made = make(admin, project)

    monkeypatch.setattr(audit, "_ENTRIES", replace(audit._ENTRIES, table="no_such_table"))
    answer = put(admin, made, {"value": "x"})
    assert (answer.status_code, answer.json()["code"]) == (503, "AUDIT_UNAVAILABLE")
    assert Secret.objects.get(id=made).version == 1


def test_a_database_that_is_lost_while_it_commits_is_not_asked_twice(
    admin: Person, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows then whether the change was kept; the whole way would make it once more."""
    made, calls = make(admin, project), []

    def lost(*args: Any, **more: Any) -> None:
        calls.append(args)
        raise DatabaseError("the connection was lost")

    monkeypatch.setattr(hot_change.secrets, "apply_change", lost)
    assert put(admin, made, {"value": "x"}).status_code >= 500 and len(calls) == 1


def test_at_a_gateway_the_primary_is_asked_as_ever(site: Site, short: list[bool]) -> None:  # noqa: F811
    secret = site.secret()
    answer = put(site.person(), str(secret.id), {"value": "x"}, prefix="/gw/api/v1/")
    assert answer.status_code == 200 and short == [False], answer.content
