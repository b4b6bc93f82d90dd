"""The same API on a node that is no source: it queues, says how old its copy is, or serves nothing at all."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import override_settings
from django.urls import include, path

from accounts.models import Project
from common.errors import Unavailable
from gateways.storage_ways import PrimaryWays
from integrations.keeping import VaultKeeper
from protocol.vocabulary import WriteOutcome
from tests import factories
from tests.conftest import Person
from vault.models import Secret, SecretVersion
from vault.node import PrimaryNode
from vault.ports import Asker, Freshness, PendingCreation, SecretChange, Written
from vault.urls import secret_routes

AS_OF = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
WRITE = uuid.UUID("7d0f0c4e-0000-4000-8000-000000000001")


KEEPER = VaultKeeper(PrimaryWays())


@dataclass
class CopyingNode:
    """A gateway in the simplest words: it promises every change and applies none."""

    active: bool = True
    too_old: bool = False
    promised: list[SecretChange] = field(default_factory=list)

    keeper = KEEPER
    hot_part = None
    applies_changes = False

    def admit(self) -> None:
        if not self.active:
            raise Unavailable("this gateway is a standby", code="NOT_ACTIVE", retry_after=5)

    def freshness(self, project: Project) -> Freshness | None:
        if self.too_old:
            raise Unavailable("the copy is too old for this project", code="STALE", retry_after=5)
        return Freshness(AS_OF, stale=True)

    def pending(self, secret: uuid.UUID) -> uuid.UUID | None:
        return WRITE if any(change.secret == secret for change in self.promised) else None

    def pending_of(self, secrets: Iterable[uuid.UUID]) -> Mapping[uuid.UUID, uuid.UUID]:
        return {secret: WRITE for secret in secrets if self.pending(secret)}

    def creation_of(self, secret: uuid.UUID) -> PendingCreation | None:
        return None

    def write(self, change: SecretChange, asker: Asker, *, idempotency_key: str, now: datetime) -> Written:
        self.promised.append(change)
        return Written(WriteOutcome.QUEUED, WRITE, None, 0)


NODE = CopyingNode()
urlpatterns = [path("api/v1/", include(secret_routes(NODE))), path("source/", include(secret_routes(PrimaryNode(KEEPER))))]


@pytest.fixture
def node() -> Any:
    NODE.active, NODE.too_old, NODE.promised = True, False, []
    with override_settings(ROOT_URLCONF=__name__):
        yield NODE


@pytest.fixture
def project(primary: None) -> Project:
    return factories.project()


@pytest.fixture
def secret(node: CopyingNode, admin: Person, project: Project) -> dict[str, Any]:
    status, row = admin.post("/source/secrets", {"project_id": str(project.id), "key": "db", "value": "hunter2"})
    assert status == 201
    return row


CHANGES = [
    ("put", "", {"value": "new"}),
    ("patch", "", {"tags": ["x"]}),
    ("post", "/rollback", {"version": 1}),
    ("post", "/archive", {}),
    ("post", "/restore", {}),
    ("delete", "", None),
    ("delete", "/permanent", None),
]


@pytest.mark.parametrize(("method", "tail", "body"), CHANGES)
def test_a_promised_change_is_202_and_says_where_to_follow_it(
    node: CopyingNode, admin: Person, secret: dict[str, Any], method: str, tail: str, body: Any
) -> None:
    more = {} if body is None else {"data": body, "content_type": "application/json"}
    answer = admin.call(method, f"secrets/{secret['id']}{tail}", **more)
    assert answer == (
        202,
        {"durability": "gateway", "id": str(WRITE), "status": "queued", "status_url": f"/api/v1/writes/{WRITE}",
         "secret_id": secret["id"], "because": None, "since": None},
    )  # fmt: skip
    assert SecretVersion.objects.count() == 1, "nothing changed here"


def test_a_promised_creation_tells_the_id_the_secret_will_have(node: CopyingNode, admin: Person, project: Project) -> None:
    status, body = admin.post("secrets", {"project_id": str(project.id), "key": "new", "value": "x"})
    assert (status, body["secret_id"]) == (202, str(node.promised[0].secret))


def test_reads_say_how_old_they_are_and_what_is_pending(node: CopyingNode, admin: Person, secret: dict[str, Any]) -> None:
    admin.call("put", f"secrets/{secret['id']}", data={"value": "new"}, content_type="application/json")
    for _, row in (admin.get(f"secrets/{secret['id']}"), admin.get(f"secrets?project_id={secret['project_id']}&key=db")):
        assert (row["as_of"], row["stale"], row["pending_write"]) == ("2026-01-02T03:04:05.678901Z", True, str(WRITE))
        assert row["value"] == "hunter2", "the last applied value"
    assert admin.get(f"secrets?project_id={secret['project_id']}")[1][0]["stale"] is True


def paths_of(secret: dict[str, Any]) -> list[str]:
    one = f"secrets/{secret['id']}"
    return [one, f"{one}/versions", f"{one}/versions/1", f"secrets?project_id={secret['project_id']}",
            f"secrets?project_id={secret['project_id']}&key=db"]  # fmt: skip


def test_a_copy_that_is_too_old_serves_nothing(node: CopyingNode, admin: Person, secret: dict[str, Any]) -> None:
    node.too_old = True
    for where in paths_of(secret):
        status, body = admin.get(where)
        assert (status, body["code"]) == (503, "STALE"), where


def test_a_standby_serves_nothing(node: CopyingNode, admin: Person, secret: dict[str, Any]) -> None:
    node.active = False
    answers = [admin.get(where) for where in paths_of(secret)]
    for method, tail, body in CHANGES:
        more = {} if body is None else {"data": body, "content_type": "application/json"}
        answers.append(admin.call(method, f"secrets/{secret['id']}{tail}", **more))
    assert {(status, body["code"]) for status, body in answers} == {(503, "NOT_ACTIVE")}
    assert node.promised == []


def test_a_standby_tells_nobody_that_it_is_one_without_a_token(node: CopyingNode, anybody: Person) -> None:
    node.active = False
    assert anybody.get("secrets")[0] == 401


def test_a_value_that_is_not_held_here_is_named_so(node: CopyingNode, admin: Person, secret: dict[str, Any]) -> None:
    admin.call("put", f"/source/secrets/{secret['id']}", data={"value": "new"}, content_type="application/json")
    SecretVersion.objects.filter(version=1).update(sealed_value=None)
    status, body = admin.get(f"secrets/{secret['id']}/versions/1")
    assert (status, body["code"]) == (409, "VALUE_NOT_HELD")
    assert admin.get(f"secrets/{secret['id']}/versions/2")[0] == 200
    assert Secret.objects.count() == 1
