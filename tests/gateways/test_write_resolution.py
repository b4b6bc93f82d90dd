"""What people see of writes that wait for them, and what they decide: for one, for many, never a value (DESIGN §9)."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from typing import Any

import pytest

from accounts.models import Project
from common.clock import database_now
from common.models import AuditEntry
from gateways import inbox
from gateways.models import ReceivedWrite, Route
from protocol.vocabulary import WriteOperation
from protocol.writes import QueuedWrite
from tests import factories
from tests.conftest import Person, fleet_of
from tests.gateways.desk import Desk, id_of, row_of, value_of
from vault.models import SecretVersion

CANARY, CURRENT = "canary-77aa-queued", "canary-77aa-current"


@pytest.fixture
def desk(npr: Any) -> Desk:
    return Desk(*npr)


def conflict(desk: Desk, key: str = "db/password", value: str = CANARY) -> tuple[Any, QueuedWrite]:
    """A secret that somebody changed at the Primary, and the gateway's write that met it."""
    secret = desk.secret(key)
    desk.change(WriteOperation.UPDATE, secret.id, value=CURRENT)
    write = desk.write(secret, value)
    desk.active.upload(write)
    inbox.apply_pending()
    assert row_of(write).outcome == "conflict"
    return secret, write


def resolve(person: Person, write: QueuedWrite, resolution: str, **more: Any) -> tuple[int, Any]:
    return person.post(f"admin/writes/{id_of(write)}/resolve", {"resolution": resolution, **more})


def test_a_conflict_is_listed_and_applied_as_a_change_of_who_decides(desk: Desk, admin: Person) -> None:
    secret, write = conflict(desk)
    status, rows = admin.get("admin/writes")
    assert (status, [(row["id"], row["outcome"], row["content_kept"]) for row in rows]) == (
        200,
        [(id_of(write), "conflict", True)],
    )
    status, row = resolve(admin, write, "apply")
    assert (status, row["outcome"], row["version"], row["resolution"], row["content_kept"]) == (200, "applied", 3, "apply", False)
    assert value_of(secret) == CANARY
    version = SecretVersion.objects.get(secret=secret, version=3)
    assert (version.author, str(version.write)) == (row["settled_by"], id_of(write))
    assert version.author != desk.actor
    entry = AuditEntry.objects.get(action="gateway.write.resolved")
    assert (entry.details["resolution"], entry.details["author"], entry.actor) == ("apply", desk.actor, row["settled_by"])
    assert admin.get("admin/writes")[1] == []


def test_a_quarantined_write_is_applied_in_the_current_epoch(desk: Desk, admin: Person) -> None:
    secret = desk.secret()
    write = desk.write(secret, "late")
    desk.move_to_standby()
    desk.active.upload(write)
    assert resolve(admin, write, "apply")[1]["outcome"] == "applied"
    assert SecretVersion.objects.get(secret=secret, version=2).epoch == Route.objects.get(pk="NPR").epoch == 2


def test_a_discarded_write_keeps_its_outcome_and_loses_its_content(desk: Desk, admin: Person) -> None:
    secret, write = conflict(desk)
    status, row = resolve(admin, write, "discard")
    assert (status, row["outcome"], row["resolution"], row["content_kept"]) == (200, "conflict", "discard", False)
    assert value_of(secret) == CURRENT


def test_a_decision_is_made_once(desk: Desk, admin: Person) -> None:
    _, write = conflict(desk)
    assert resolve(admin, write, "discard")[0] == 200
    for resolution in ("apply", "discard", "retry"):
        status, body = resolve(admin, write, resolution)
        assert (status, body["code"]) == (409, "SYNC_CONFLICT")


def test_applying_only_on_the_version_that_was_looked_at(desk: Desk, admin: Person) -> None:
    secret, write = conflict(desk)
    desk.change(WriteOperation.UPDATE, secret.id, value="again")
    status, body = resolve(admin, write, "apply", base_version=2)
    assert (status, body["code"]) == (409, "VERSION_CONFLICT")
    assert row_of(write).outcome == "conflict"
    assert resolve(admin, write, "apply", base_version=3)[0] == 200


def test_many_are_decided_each_for_itself_in_the_order_they_were_made(desk: Desk, admin: Person) -> None:
    secret, first = conflict(desk)
    second = desk.write(secret, "later", base_version=None, previous=id_of(first))
    desk.active.upload(second)
    inbox.apply_pending()
    _, other = conflict(desk, "other")
    ReceivedWrite.objects.filter(id=id_of(other)).update(project=uuid.uuid4())
    status, rows = admin.post("admin/writes/resolve", {"ids": [id_of(second), id_of(other), id_of(first)], "resolution": "apply"})
    assert status == 200
    assert [(row["id"], row["resolved"], row["code"]) for row in rows] == [
        (id_of(first), True, None), (id_of(second), True, None), (id_of(other), False, "RESOURCE_NOT_FOUND"),
    ]  # fmt: skip
    assert value_of(secret) == "later"


def test_many_are_named_by_a_filter(desk: Desk, admin: Person) -> None:
    for number in range(3):
        conflict(desk, f"key-{number}")
    quarantined = desk.write(desk.secret("late"), epoch=0)
    desk.active.upload(quarantined)
    wish = {"filter": {"outcome": "conflict", "environment": "npr", "gateway": "gw-npr-primary"}, "resolution": "discard"}
    status, rows = admin.post("admin/writes/resolve", wish)
    assert (status, len(rows), {row["resolved"] for row in rows}) == (200, 3, {True})
    assert [row["id"] for row in admin.get("admin/writes")[1]] == [id_of(quarantined)]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"resolution": "apply"}, "ids"),
        ({"resolution": "apply", "ids": [str(uuid.uuid4())], "filter": {}}, "ids"),
        ({"resolution": "burn", "ids": [str(uuid.uuid4())]}, "resolution"),
        ({"resolution": "apply", "filter": {"outcome": "gone"}}, "outcome"),
        ({"ids": [str(uuid.uuid4())]}, "resolution"),
        ({"resolution": "apply", "ids": ["x"]}, "ids"),
    ],
)
def test_a_wrong_wish_is_refused_by_name(primary: None, admin: Person, body: Any, field: str) -> None:
    status, answer = admin.post("admin/writes/resolve", body)
    assert (status, answer["error"].split(":")[0].split(".")[0]) == (400, field)


class TestPreview:
    def test_it_shows_both_sides_and_the_outcome_but_never_a_value(self, desk: Desk, admin: Person) -> None:
        secret, write = conflict(desk)
        status, shown = admin.get(f"admin/writes/{id_of(write)}/preview")
        assert (status, shown["values"]) == (200, "different")
        assert (shown["current"]["version"], shown["current"]["author"], shown["write"]["base_version"]) == (2, "user:admin", 1)
        assert shown["applying"] == {"possible": True, "version": 3, "code": "", "sentence": "update makes version 3"}
        text = json.dumps(shown)
        assert CANARY not in text and CURRENT not in text
        assert (value_of(secret), row_of(write).outcome) == (CURRENT, "conflict"), "looking changes nothing"
        assert not SecretVersion.objects.filter(secret=secret, version=3).exists()

    def test_equal_values_are_said_to_be_equal(self, desk: Desk, admin: Person) -> None:
        _, write = conflict(desk, value=CURRENT)
        assert admin.get(f"admin/writes/{id_of(write)}/preview")[1]["values"] == "equal"

    def test_who_may_not_read_secrets_learns_nothing_of_their_values(self, desk: Desk, person: Any) -> None:
        _, write = conflict(desk)
        status, shown = person("auditor").get(f"admin/writes/{id_of(write)}/preview")
        assert (status, shown["values"], shown["applying"]["possible"]) == (200, "hidden", False)


class TestRights:
    def test_looking_needs_gateway_read_and_deciding_needs_both_rights(self, desk: Desk, person: Any) -> None:
        _, write = conflict(desk)
        auditor, manager = person("auditor"), person("secret_manager")
        assert auditor.get("admin/writes")[0] == 200
        assert resolve(auditor, write, "discard")[0] == 403
        assert (manager.get("admin/writes")[0], resolve(manager, write, "discard")[0]) == (403, 403)

    def test_an_administrator_of_gateways_who_may_not_write_there_decides_nothing(self, desk: Desk, person: Any) -> None:
        from accounts.models import Role, RoleGrant, User

        _, write = conflict(desk)
        operator = person("viewer")
        role = Role.objects.create(name="gateway_operator", permissions=["gateway:admin", "gateway:read"])
        RoleGrant.objects.create(user=User.objects.get(email="viewer@example.com"), role=role)
        for resolution in ("apply", "discard", "retry"):
            status, body = resolve(operator, write, resolution)
            assert (status, "secrets:write" in body["error"]) == (403, True)
        assert row_of(write).resolution == ""

    def test_the_author_follows_their_write_and_a_stranger_sees_nothing(self, desk: Desk) -> None:
        from accounts.models import User

        author = factories.member("secret_manager", name="author", project=desk.project)
        stranger = factories.member("secret_manager", name="stranger", project=desk.project)
        write = desk.write(desk.secret(), actor=factories.signed_in_at("NPR", User.objects.get(full_name="author")))
        desk.active.upload(write)
        path = f"writes/{id_of(write)}"
        assert author.get(path)[1]["outcome"] == "received"
        inbox.apply_pending()
        assert [author.get(path)[1][name] for name in ("outcome", "version")] == ["applied", 2]
        assert stranger.get(path)[0] == 404
        assert stranger.get(path)[1] == stranger.get(f"writes/{uuid.uuid4()}")[1]


def test_a_write_whose_project_is_gone_can_only_be_discarded(desk: Desk, admin: Person) -> None:
    _, write = conflict(desk)
    Project.objects.filter(id=desk.project.id).update(deleted_at=database_now())
    assert resolve(admin, write, "apply")[0] == 404
    assert resolve(admin, write, "discard")[0] == 200


def test_an_old_write_that_is_tried_again_never_goes_on_top_of_a_newer_one(desk: Desk, admin: Person) -> None:
    """The gateway wins over the Primary by this policy, but not over itself (I9)."""
    desk.policy(conflict_strategy="external_wins")
    secret = desk.secret()
    old = desk.write(secret, "old", previous=str(uuid.uuid4()), base_version=None)
    desk.active.upload(old)
    long_ago = database_now() - timedelta(minutes=11)
    ReceivedWrite.objects.filter(id=id_of(old)).update(received_at=long_ago, not_before=long_ago)
    inbox.apply_pending()
    assert row_of(old).outcome == "dead_letter"
    new = desk.write(secret, "new")
    desk.active.upload(new)
    inbox.apply_pending()
    assert resolve(admin, old, "retry")[0] == 200
    inbox.apply_pending()
    assert (row_of(old).outcome, row_of(old).code) == ("received", "PREVIOUS_MISSING"), "it has its whole time again"
    ReceivedWrite.objects.filter(id=id_of(old)).update(previous=None, base_version=1, not_before=database_now())
    inbox.apply_pending()
    assert (row_of(old).outcome, row_of(old).code, value_of(secret)) == ("conflict", "LATER_APPLIED", "new")


def test_evidence_of_a_forged_write_has_nothing_to_apply(desk: Desk, admin: Person) -> None:
    from msgspec import structs

    forged = structs.replace(desk.write(desk.secret()), body='{"value":"evil"}')
    desk.active.upload(forged)
    status, row = admin.get(f"admin/writes/{id_of(forged)}")
    assert (status, row["code"], row["content_kept"], row["claimed_id"]) == (200, "WRITE_FORGED", False, id_of(forged))
    for resolution, expected in (("apply", 404), ("retry", 409), ("discard", 200)):
        assert admin.post(f"admin/writes/{row['id']}/resolve", {"resolution": resolution})[0] == expected


def test_nothing_is_applied_while_the_environment_is_held(desk: Desk, admin: Person) -> None:
    _, write = conflict(desk)
    Route.objects.filter(pk="NPR").update(danger="two truths")
    status, body = resolve(admin, write, "apply")
    assert (status, body["code"]) == (409, "ENVIRONMENT_HELD")


def test_an_operator_of_one_environment_meets_writes_of_both_in_lists_only_by_name(desk: Desk, admin: Person) -> None:
    conflict(desk)
    fleet_of("PRO")
    assert len(admin.get("admin/writes?environment=npr")[1]) == 1
    assert admin.get("admin/writes?environment=PRO")[1] == []
    assert admin.get("admin/writes?environment=XX")[0] == 404
    assert admin.get("admin/writes?outcome=nonsense")[0] == 400
