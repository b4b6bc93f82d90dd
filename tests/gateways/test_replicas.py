"""Copies that are ahead of the database, that differ from it, and the order to read everything again (DESIGN §9, I4)."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from accounts.models import RoleGrant, Session, User
from common import feed, retention
from common.clock import now
from common.models import AuditEntry, Change
from gateways import copy_digests, directives, replica_records, replicas
from gateways.instances import Seat
from gateways.models import GatewayStatus, PrimaryNode, Route
from protocol.replica import ReplicaKind, digest, fingerprint
from protocol.vocabulary import WriteOperation
from tests import factories
from tests.conftest import Person
from tests.fakes.gateway import FakeGateway
from tests.gateways.desk import Desk
from vault.models import Secret, SecretVersion

OTHER = digest(["1"])
"""What no copy here has."""


@pytest.fixture
def desk(npr: Any) -> Desk:
    return Desk(*npr)


def copy_of(gateway: FakeGateway) -> tuple[int, str]:
    """Position and digest of a copy that a gateway makes of all pages."""
    held: dict[str, str] = {}
    pages = gateway.all_changes()
    for page in pages:
        for record in [*page.organizations, *page.environments, *page.projects, *page.secrets]:
            held[record.id] = fingerprint(record)
    return pages[-1].position, digest(held.values())


def beat(gateway: FakeGateway, position: int, found: str = "") -> Any:
    copy_digests.advance_all()
    return gateway.heartbeat(replica_position=position, replica_digest=found)


def test_an_equal_copy_orders_nothing(desk: Desk) -> None:
    desk.secret("a")
    desk.secret("b")
    position, found = copy_of(desk.active)
    assert beat(desk.active, position, found).resync_replica is False
    desk.change(WriteOperation.DELETE, desk.secret("c").id)
    position, found = copy_of(desk.active)
    assert beat(desk.active, position, found).resync_replica is False


def test_a_different_copy_is_to_be_read_again_until_it_begins(desk: Desk) -> None:
    desk.secret()
    position, found = copy_of(desk.active)
    assert beat(desk.active, position, OTHER).resync_replica is True
    assert AuditEntry.objects.filter(action="gateway.replica.resync_ordered").count() == 1
    assert beat(desk.active, position, OTHER).resync_replica is True, "the order stands until it begins"
    assert AuditEntry.objects.filter(action="gateway.replica.resync_ordered").count() == 1
    desk.active.changes(0)
    assert directives.directive_for(desk.active.row, Seat(True)).resync_replica is False
    beat(desk.active, position, found)
    status = GatewayStatus.objects.get(gateway_id=desk.active.id)
    assert (status.resync_ordered_at, status.resync_begun_at, status.resync_ended_at is None) == (None, None, False)


def test_a_difference_right_after_a_re_read_orders_no_other_one(desk: Desk) -> None:
    desk.secret()
    position, _ = copy_of(desk.active)
    beat(desk.active, position, OTHER)
    desk.active.changes(0)
    beat(desk.active, position, OTHER)
    assert beat(desk.active, position, OTHER).resync_replica is False


def test_a_copy_behind_the_head_is_not_compared(desk: Desk) -> None:
    desk.secret("a")
    position, _ = copy_of(desk.active)
    desk.secret("b")
    assert beat(desk.active, position, OTHER).resync_replica is False


def test_a_copy_ahead_of_the_database_freezes_the_environment_on_proof(desk: Desk, admin: Person) -> None:
    desk.secret()
    position, _ = copy_of(desk.active)
    Change.objects.filter(position=position).delete()
    beat(desk.active, position)
    assert f"position {position}" in Route.objects.get(pk="NPR").danger
    assert AuditEntry.objects.filter(action="failover.frozen", severity="critical").count() == 1
    assert Route.objects.get(pk="PRO").danger == ""


@pytest.mark.parametrize("ahead", [1, 2**40, 2**53 - 10_000])
def test_a_position_that_was_never_given_holds_the_gateway_only(desk: Desk, admin: Person, ahead: int) -> None:
    desk.secret()
    position, _ = copy_of(desk.standby)
    refused = desk.standby.heartbeat(replica_position=position + ahead)
    assert refused.status_code == 400 and refused.json()["error"].startswith("replica_position: ")
    assert Route.objects.get(pk="NPR").danger == "" and desk.standby.row.held_at is not None
    admin.post(f"gateways/{desk.standby.id}/release", {"reason": "looked"})
    assert beat(desk.standby, position) and desk.standby.row.held_at is None


def test_after_a_resume_the_copies_begin_anew_and_freeze_nothing(desk: Desk, admin: Person) -> None:
    """The Primary's database was restored from yesterday: it lacks changes the gateway has."""
    from failover import driver

    desk.secret("kept")
    lost = desk.secret("lost")
    position, _ = copy_of(desk.active)
    Change.objects.filter(entity_id=lost.id).delete()
    lost.versions.all().delete()
    lost.delete()
    beat(desk.active, position)
    driver.drive_all()
    assert admin.get("admin/failover/NPR")[1]["state"] == "HOLD"
    wish = {"gateway": "gw-npr-primary", "confirm": "NPR", "reason": "the backup of yesterday is accepted"}
    assert admin.post("admin/failover/NPR/resume", wish)[0] == 200
    for gateway in (desk.active, desk.standby):
        gateway.take_over()
        assert directives.directive_for(gateway.row, Seat(True)).resync_replica is True
    assert beat(desk.active, position).resync_replica is True
    assert Route.objects.get(pk="NPR").danger == "", "it was told to begin anew and has not yet"
    position, found = copy_of(desk.active)
    assert position == feed.head("NPR")
    assert beat(desk.active, position).resync_replica is False, "the digest after the sweep is compared later"
    assert GatewayStatus.objects.get(gateway_id=desk.active.id).resync_ordered_at is None
    assert beat(desk.active, position, found).resync_replica is False


def test_a_cursor_of_another_life_of_the_database_must_begin_anew(desk: Desk) -> None:
    desk.secret()
    page = desk.active.changes()
    PrimaryNode.objects.update(generation=uuid.uuid4())
    desk.active.changes(page.position, page.generation)
    directive = directives.directive_for(desk.active.row, Seat(True))
    assert directive.resync_replica is True
    assert directive.primary_generation == str(PrimaryNode.objects.get(id=1).generation) != page.generation


@pytest.mark.parametrize("how", ["its cursor", "an accepted backup"])
def test_a_reading_that_was_begun_before_the_database_was_put_back_is_ordered_again(desk: Desk, how: str) -> None:
    desk.secret()
    page = desk.active.changes()
    GatewayStatus.objects.filter(gateway_id=desk.active.id).update(resync_ordered_at=now(), resync_begun_at=now())
    assert directives.directive_for(desk.active.row, Seat(True)).resync_replica is False, "it is reading"
    if how == "its cursor":
        PrimaryNode.objects.update(generation=uuid.uuid4())
        desk.active.changes(page.position, page.generation)
    else:
        replicas.order_resync_of_all("NPR", now(), how)
    assert directives.directive_for(desk.active.row, Seat(True)).resync_replica is True


def test_who_must_change_their_password_first_is_in_no_copy(desk: Desk) -> None:
    factories.member("secret_manager", name="ada")
    user = Session.objects.get(user__full_name="ada").user
    assert user is not None
    thing = (ReplicaKind.PRINCIPAL, user.id)
    assert replica_records.load("NPR", [thing], now()).by_thing
    User.objects.filter(pk=user.pk).update(must_change_password=True)
    assert not replica_records.load("NPR", [thing], now()).by_thing


def test_one_principal_that_cannot_be_read_is_left_out_and_stops_nobody(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("ada", "bob"):
        factories.member("secret_manager", name=name)
    ada = Session.objects.get(user__full_name="ada").user
    row = RoleGrant.objects.get(user=ada)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE accounts_rolegrant SET expires_at = '10000-01-01T00:59:59Z' WHERE id = %s", [row.id])
    users = {session.user.id for session in Session.objects.all() if session.user}
    records = replica_records.load("NPR", [(ReplicaKind.PRINCIPAL, user) for user in users], now())
    assert {record.name for record in records.by_thing.values()} >= {"bob@example.com"}
    assert "ada@example.com" not in {record.name for record in records.by_thing.values()}
    assert f"principal {ada.id} is left out" in caplog.text


@pytest.mark.parametrize("changes", [99, 100, 250])
def test_a_copy_names_the_place_of_a_value_after_many_changes_that_set_none(desk: Desk, changes: int) -> None:
    """Also of the value that a rollback to the oldest version listed would bring back; retention takes neither."""
    secret = desk.secret()
    secret.versions.update(sealed_value=None, value_digest="", external_version="v-in-the-vault")
    SecretVersion.objects.bulk_create(
        SecretVersion(secret=secret, version=number, operation="metadata", author="x", origin="primary", reason="",
                      value_digest="", external_version="")
        for number in range(2, changes + 2)
    )  # fmt: skip
    Secret.objects.filter(id=secret.id).update(version=changes + 1)
    secret.versions.update(created_at=now() - timedelta(days=4000))
    thing = (ReplicaKind.SECRET, secret.id)

    def record(**how: bool) -> Any:
        return replica_records.load("NPR", [thing], now(), **how).by_thing[thing]

    listed = record().versions
    assert [(one.version, one.external_version) for one in listed if one.external_version] == [(1, "v-in-the-vault")]
    assert listed[0].version == changes + 1 and len(listed) == min(changes + 1, 101)
    before = fingerprint(record())
    assert before == fingerprint(record(with_values=False))
    retention.apply("primary")
    assert fingerprint(record()) == before
    secret.versions.filter(version=1).update(external_version="another")
    assert fingerprint(record(with_values=False)) != before
