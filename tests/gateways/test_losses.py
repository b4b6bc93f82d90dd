"""What a gateway that was replaced without its consent took with it, accounted for to the last write (DESIGN §8)."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest

from common.clock import database_now
from failover.preflight import Level
from gateways import inbox
from gateways.models import LossManifest, ReceivedWrite
from tests.conftest import Person
from tests.fakes.gateway import FakeGateway
from tests.gateways.desk import Desk, id_of, row_of


@pytest.fixture
def desk(npr: Any) -> Desk:
    return Desk(*npr)


def manifests(admin: Person) -> list[dict[str, Any]]:
    status, rows = admin.get("admin/failover/NPR/loss-manifest")
    assert status == 200
    return rows


def is_open(admin: Person) -> bool:
    return admin.get("admin/failover/NPR")[1]["loss_manifest_open"]


def report(desk: Desk, depth: int, last: int) -> None:
    desk.active.heartbeat(write_queue_depth=depth, write_queue_last_sequence=last)


def test_a_gateway_that_says_it_stopped_leaves_no_manifest_when_all_it_accepted_is_here(desk: Desk, admin: Person) -> None:
    desk.active.upload(desk.write(desk.secret()))
    inbox.apply_pending()
    report(desk, depth=0, last=1)
    desk.move_to_standby()
    assert (manifests(admin), is_open(admin)) == ([], False)
    assert admin.get("admin/failover/NPR")[1]["last_operation"]["fence_last_sequence"] == 1
    assert any("the number 1" in row["sentence"] for row in admin.get("admin/failover/NPR/history")[1])


def test_a_confirmed_fence_hides_no_accepted_write(desk: Desk, admin: Person) -> None:
    """Promised to five callers, confirmed as stopped, and then the region burns: all five are in the open."""
    writes = [desk.write(desk.secret(f"key/{number}"), "two") for number in range(5)]
    desk.active.upload(*writes[:2])
    inbox.apply_pending()
    desk.move_to_standby()
    row = manifests(admin)[0]
    assert (row["open"], row["stopped"], row["last_sequence"], row["missing"]) == (True, True, 5, 3)
    assert is_open(admin)
    desk.active.take_over()
    report(desk, depth=0, last=9)
    assert manifests(admin)[0]["last_sequence"] == 5, "what a gateway accepts after its fence is not of that time"

    desk.active.upload(*writes[2:])
    for write in writes[2:]:
        assert admin.post(f"admin/writes/{id_of(write)}/resolve", {"resolution": "apply"})[0] == 200
    report(desk, depth=0, last=5)
    row = manifests(admin)[0]
    assert (row["open"], row["missing"], is_open(admin)) == (False, 0, False)


def test_a_confirmed_fence_that_names_less_than_the_last_heartbeat_hides_nothing_either(desk: Desk, admin: Person) -> None:
    secret = desk.secret()
    for _ in range(2):
        desk.write(secret)  # its stream ends with 2 as it confirms
    report(desk, depth=4, last=4)
    desk.move_to_standby()
    row = manifests(admin)[0]
    assert (row["last_sequence"], row["missing"], row["open"]) == (4, 4, True)


def test_a_manifest_lists_what_arrives_late_and_closes_when_all_of_it_is_decided(desk: Desk, admin: Person) -> None:
    secret = desk.secret()
    first = desk.write(secret, "a")
    second = desk.write(secret, "b", base_version=None, previous=id_of(first))
    report(desk, depth=2, last=2)
    desk.move_to_standby(acknowledged=False)
    row = manifests(admin)[0]
    assert (row["gateway"], row["epoch"], row["reported_depth"], row["last_sequence"]) == ("gw-npr-primary", 1, 2, 2)
    assert (row["open"], row["missing"], row["writes"], is_open(admin)) == (True, 2, [], True)

    desk.active.upload(first)
    row = manifests(admin)[0]
    assert (row["missing"], row["arrived"], row["unresolved"]) == (1, 1, 1)
    listed = row["writes"][0]
    assert (listed["key"], listed["base_version"], listed["author"], listed["outcome"]) == (
        secret.key,
        1,
        desk.actor,
        "quarantined",
    )
    assert listed["body_digest"] == row_of(first).body_digest

    desk.active.upload(second)
    desk.active.take_over()
    report(desk, depth=0, last=2)
    assert is_open(admin), "both wait for a decision"
    for write, resolution in ((first, "apply"), (second, "discard")):
        assert admin.post(f"admin/writes/{id_of(write)}/resolve", {"resolution": resolution})[0] == 200
    row = manifests(admin)[0]
    assert (row["open"], row["missing"], row["unresolved"], row["closed_by"], is_open(admin)) == (False, 0, 0, "system", False)


def test_it_stays_open_until_the_gateway_is_back_and_empty(desk: Desk, admin: Person) -> None:
    report(desk, depth=0, last=0)
    desk.move_to_standby(acknowledged=False)
    inbox.apply_pending()
    assert is_open(admin), "nobody has heard from it yet"
    report(desk, depth=0, last=0)
    assert is_open(admin), "it does not know yet that it was replaced, so it may go on accepting"
    desk.active.take_over()
    report(desk, depth=1, last=0)
    assert is_open(admin)
    report(desk, depth=0, last=0)
    assert not is_open(admin)


def test_what_it_accepted_while_nobody_heard_it_is_missing_until_it_arrives(desk: Desk, admin: Person) -> None:
    report(desk, depth=0, last=0)
    desk.move_to_standby(acknowledged=False)
    report(desk, depth=1, last=1)
    row = manifests(admin)[0]
    assert (row["last_sequence"], row["missing"]) == (1, 1)
    desk.active.take_over()
    report(desk, depth=0, last=1)
    assert is_open(admin), "it says its queue is empty, but the write is not here"
    late = desk.write(desk.secret(), epoch=1)
    desk.active.upload(late)
    assert admin.post(f"admin/writes/{id_of(late)}/resolve", {"resolution": "discard"})[0] == 200
    report(desk, depth=0, last=1)
    assert not is_open(admin)


def test_a_new_life_on_an_empty_database_accounts_for_nothing(desk: Desk, admin: Person) -> None:
    """Cut off, it accepts writes after its last report and dies with them: its successor's empty queue proves nothing."""
    report(desk, depth=0, last=0)
    desk.move_to_standby(acknowledged=False)
    reborn = FakeGateway("gw-npr-primary", "NPR", "primary").enrol()
    reborn.take_over()
    reborn.heartbeat(write_queue_depth=0, write_queue_last_sequence=0)
    inbox.apply_pending()
    row = manifests(admin)[0]
    assert (row["open"], is_open(admin)) == (True, True)
    wish = {"confirm": "NPR", "reason": "its disk is gone"}
    assert admin.post(f"admin/failover/NPR/loss-manifest/{row['id']}/accept", wish)[0] == 200
    assert not is_open(admin)


def test_what_an_earlier_life_said_is_not_asked_of_the_lost_one(desk: Desk, admin: Person) -> None:
    report(desk, depth=5, last=5)
    desk.active = FakeGateway("gw-npr-primary", "NPR", "primary").enrol()
    desk.move_to_standby(acknowledged=False)
    row = manifests(admin)[0]
    assert (row["open"], row["reported_depth"], row["last_sequence"]) == (True, 0, 0)


def test_a_gateway_that_returns_without_its_queue_leaves_the_loss_in_the_open(desk: Desk, admin: Person) -> None:
    report(desk, depth=4, last=4)
    desk.move_to_standby(acknowledged=False)
    desk.active.take_over()
    report(desk, depth=0, last=0)
    row = manifests(admin)[0]
    assert (row["open"], row["missing"]) == (True, 4)
    path = f"admin/failover/NPR/loss-manifest/{row['id']}/accept"
    assert admin.post(path, {"confirm": "NPR", "reason": ""})[0] == 400
    assert admin.post(path, {"confirm": "PRO", "reason": "its disk is gone"})[0] == 400
    status, rows = admin.post(path, {"confirm": "NPR", "reason": "its disk is gone"})
    assert (status, rows[0]["open"], rows[0]["closed_reason"], rows[0]["missing"]) == (200, False, "its disk is gone", 4)
    assert admin.post(path, {"confirm": "NPR", "reason": "again"})[0] == 409


def test_a_loss_is_not_accepted_while_its_writes_wait(desk: Desk, admin: Person) -> None:
    write = desk.write(desk.secret())
    report(desk, depth=2, last=2)
    desk.move_to_standby(acknowledged=False)
    desk.active.upload(write)
    identifier = LossManifest.objects.get().id
    wish = {"confirm": "NPR", "reason": "gone"}
    status, body = admin.post(f"admin/failover/NPR/loss-manifest/{identifier}/accept", wish)
    assert (status, body["code"]) == (409, "SYNC_CONFLICT")


def failing(admin: Person) -> dict[str, str]:
    checks = admin.post("admin/failover/NPR/plan", {"kind": "failback"})[1]["checks"]
    return {check["name"]: check["level"] for check in checks if not check["passed"]}


def test_an_undecided_write_is_shown_and_does_not_take_the_way_back_away(desk: Desk, admin: Person) -> None:
    """One clash between two people must not keep an environment on its DR gateway: it waits for its decision where it is."""
    write = desk.write(desk.secret())
    desk.move_to_standby()
    desk.active.upload(write)
    desk.active.heartbeat()
    assert failing(admin)["target_conflicts"] == Level.WAIVABLE.value and "target_queue" not in failing(admin)
    status, body = admin.post("admin/failover/NPR/failback")
    assert (status, "target_conflicts" in body["operation"]["passed_over"]) == (202, True)
    assert row_of(write).outcome == "quarantined" and not row_of(write).resolution
    admin.post(f"admin/writes/{id_of(write)}/resolve", {"resolution": "discard"})
    assert "target_conflicts" not in failing(admin)


def test_a_failback_waits_until_the_writes_of_its_target_are_here_and_applied(desk: Desk, admin: Person) -> None:
    write = desk.write(desk.secret(), previous=str(uuid.uuid4()), base_version=None)
    desk.move_to_standby()
    desk.active.upload(write)
    ReceivedWrite.objects.filter(id=id_of(write)).update(outcome="received")
    assert failing(admin)["target_queue"] == Level.HARD.value
    assert admin.post("admin/failover/NPR/failback")[0] == 409


def test_dead_letters_since_the_last_move_are_a_waivable_reason_against_a_failback(desk: Desk, admin: Person) -> None:
    write = desk.write(desk.secret(), environment="PRO")
    desk.move_to_standby()
    desk.active.upload(write)
    checks = {check["name"]: check for check in admin.post("admin/failover/NPR/plan", {"kind": "failback"})[1]["checks"]}
    assert (checks["target_dead_letters"]["passed"], checks["target_dead_letters"]["level"]) == (False, "waivable")
    assert checks["target_queue"]["passed"]


def test_writes_that_arrived_before_are_not_part_of_a_loss(desk: Desk, admin: Person) -> None:
    write = desk.write(desk.secret())
    desk.active.upload(write)
    inbox.apply_pending()
    report(desk, depth=0, last=1)
    LossManifest.objects.all().delete()
    desk.move_to_standby(acknowledged=False)
    row = manifests(admin)[0]
    assert (row["missing"], row["writes"]) == (0, [])
    assert database_now() - LossManifest.objects.get().opened_at < timedelta(minutes=1)


def reborn(gateway: FakeGateway) -> FakeGateway:
    """Its machine and its database are lost; the same name is enrolled again on a new one."""
    return FakeGateway(gateway.name, gateway.environment, gateway.role).enrol()


def test_what_a_lost_machine_had_acknowledged_is_listed_when_its_gateway_is_enrolled_anew(desk: Desk, admin: Person) -> None:
    writes = [desk.write(desk.secret(f"key/{number}"), "two") for number in range(5)]
    desk.active.upload(writes[0], writes[2])
    inbox.apply_pending()
    report(desk, depth=3, last=5)
    old = desk.active.row.generation
    fresh = reborn(desk.active)
    row = manifests(admin)[0]
    assert (row["open"], row["last_sequence"], row["missing"], row["stopped"]) == (True, 5, 3, False)
    assert LossManifest.objects.get().generation == old != fresh.row.generation
    reborn(fresh)
    assert len(manifests(admin)) == 1, "the life in between had accepted nothing"


def test_a_gateway_that_is_enrolled_anew_with_everything_delivered_leaves_no_manifest(desk: Desk, admin: Person) -> None:
    desk.active.upload(desk.write(desk.secret()))
    report(desk, depth=0, last=1)
    reborn(desk.active)
    assert (manifests(admin), is_open(admin)) == ([], False)


def test_a_database_that_was_put_back_takes_nothing_out_of_the_manifest(desk: Desk, admin: Person) -> None:
    report(desk, depth=50, last=50)
    report(desk, depth=0, last=40)
    assert desk.active.row.held_code == "put_back"
    desk.move_to_standby(acknowledged=False)
    assert manifests(admin)[0]["last_sequence"] == 50
