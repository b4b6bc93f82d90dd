"""Moving an environment over the API, with gateways that speak the real protocol (DESIGN §8, I1, I5)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db.models import F
from django.db.models.functions import Now
from msgspec import structs

from common.models import AuditEntry
from failover import driver
from failover.models import Operation
from gateways import marks, routes
from gateways.models import EpochGrant, Gateway, GatewayInstance, GatewayStatus, Route
from protocol.marks import Mark, sign_mark
from protocol.vocabulary import Assignment
from tests.conftest import Person, fleet_of
from tests.fakes.gateway import FakeGateway

Pair = tuple[FakeGateway, FakeGateway]


def state_of(admin: Person, code: str = "NPR") -> dict[str, Any]:
    status, body = admin.get(f"admin/failover/{code}")
    assert status == 200, body
    return dict(body)


def activate(admin: Person, first: FakeGateway) -> None:
    """A whole planned move to DR."""
    assert admin.post("admin/failover/NPR/activate-dr")[0] == 202
    driver.drive_all()
    order = first.told_to_fence()
    assert order is not None
    first.acknowledge_fence(order.operation, order.epoch)
    driver.drive_all()
    assert state_of(admin)["state"] == "DR_ACTIVE"


def let_lease_end(code: str = "NPR") -> None:
    """As if the whole fencing wait had passed since the last renewal."""
    past = timedelta(seconds=settings.MAZEVAULT.timing.fence_wait + 0.001)
    Route.objects.filter(environment_id=code).update(lease_until=Now() - past)


def grow_old(gateway: FakeGateway, seconds: float) -> None:
    GatewayStatus.objects.filter(gateway_id=gateway.id).update(heartbeat_at=F("heartbeat_at") - timedelta(seconds=seconds))


def test_the_answer_to_the_seeds_call_without_a_body(npr: Pair, admin: Person) -> None:
    status, body = admin.post("admin/failover/npr/activate-dr")
    assert status == 202
    assert {"environment", "state", "epoch", "active_gateway", "standby_gateway", "operation"} <= body.keys()
    assert (body["environment"], body["state"], body["epoch"]) == ("NPR", "FO_DRAINING", 1)
    assert (body["active_gateway"], body["standby_gateway"]) == ("gw-npr-primary", "gw-npr-dr")
    operation = body["operation"]
    assert (operation["kind"], operation["step"]) == ("activate-dr", "FO_DRAINING")
    assert operation["waits_for"] and operation["waits_until"].endswith("Z")


def test_a_planned_move_and_back_takes_two_epochs_and_leaves_one_active_gateway_in_each(npr: Pair, admin: Person) -> None:
    first, second = npr
    activate(admin, first)
    assert first.renew_lease().verdict == "not_active"
    assert (second.take_over().assigned_role, second.renew_lease().verdict) == (Assignment.ACTIVE, "granted")
    assert first.take_over().assigned_role is Assignment.FENCED

    assert admin.post("admin/failover/NPR/failback")[0] == 202
    driver.drive_all()
    drain = second.take_over().drain
    assert drain is not None and state_of(admin)["state"] == "DRAINING"
    second.report_drained(drain.operation, drain.epoch)
    driver.drive_all()
    fence = second.take_over().fence
    assert fence is not None
    second.acknowledge_fence(fence.operation, fence.epoch)
    driver.drive_all()
    body = state_of(admin)
    assert (body["state"], body["epoch"], body["active_gateway"]) == ("PRIMARY_ACTIVE", 3, "gw-npr-primary")
    assert second.take_over().assigned_role is Assignment.STANDBY
    grants = EpochGrant.objects.filter(environment_id="NPR").order_by("epoch").values_list("epoch", "gateway__name")
    assert list(grants) == [(1, "gw-npr-primary"), (2, "gw-npr-dr"), (3, "gw-npr-primary")]


def test_npr_moves_and_no_row_of_pro_changes(npr: Pair, admin: Person) -> None:
    fleet_of("PRO")
    before = Route.objects.filter(environment_id="PRO").values().get()
    activate(admin, npr[0])
    assert Route.objects.filter(environment_id="PRO").values().get() == before


def test_no_gateway_gets_a_lease_while_the_old_one_may_act(npr: Pair, admin: Person) -> None:
    first, second = npr
    admin.post("admin/failover/NPR/activate-dr")
    first.told_to_fence()
    assert first.renew_lease().verdict == "fencing"
    assert second.renew_lease(epoch=2).verdict != "granted"
    assert state_of(admin)["state"] == "FENCING"


def test_without_an_acknowledgement_promotion_comes_strictly_after_the_lease_and_the_allowance(npr: Pair, admin: Person) -> None:
    admin.post("admin/failover/NPR/activate-dr")
    Route.objects.filter(pk="NPR").update(lease_until=Now() - timedelta(seconds=settings.MAZEVAULT.timing.fence_wait - 0.5))
    driver.drive_all()
    assert state_of(admin)["state"] == "FENCING"
    let_lease_end()
    driver.drive_all()
    assert (state_of(admin)["state"], state_of(admin)["epoch"]) == ("DR_ACTIVE", 2)


@pytest.mark.parametrize("wrong", ["operation", "epoch", "sender"])
def test_an_acknowledgement_that_does_not_fit_the_order_promotes_nobody(npr: Pair, admin: Person, wrong: str) -> None:
    first, second = npr
    admin.post("admin/failover/NPR/activate-dr")
    order = first.told_to_fence()
    assert order is not None
    operation = "00000000-0000-4000-8000-000000000000" if wrong == "operation" else order.operation
    sender = second if wrong == "sender" else first
    answer = sender.acknowledge_fence(operation, order.epoch + 1 if wrong == "epoch" else order.epoch)
    assert answer.detail == "no such order"
    driver.drive_all()
    assert state_of(admin)["state"] == "FENCING"


def test_the_same_request_while_it_is_open_gives_the_same_operation(npr: Pair, admin: Person) -> None:
    one = admin.post("admin/failover/NPR/activate-dr")
    two = admin.post("admin/failover/npr/activate-dr/")
    assert (one[0], two[0]) == (202, 202)
    assert one[1]["operation"]["id"] == two[1]["operation"]["id"]
    assert Operation.objects.count() == 1


def test_a_goal_that_is_reached_begins_nothing(npr: Pair, admin: Person) -> None:
    status, body = admin.post("admin/failover/NPR/failback")
    assert (status, body["state"], body["operation"]) == (200, "PRIMARY_ACTIVE", None)
    assert not Operation.objects.exists()


def test_another_open_operation_is_409_and_shown(npr: Pair, admin: Person) -> None:
    _, open_one = admin.post("admin/failover/NPR/activate-dr")
    status, body = admin.post("admin/failover/NPR/failback")
    assert (status, body["code"]) == (409, "OPERATION_OPEN")
    assert body["operation"]["id"] == open_one["operation"]["id"]


def test_an_unknown_environment_is_404_for_every_path(npr: Pair, admin: Person) -> None:
    for method, path in (("get", ""), ("post", "/plan"), ("post", "/activate-dr"), ("post", "/failback"), ("post", "/cancel"),
                         ("get", "/history")):  # fmt: skip
        status, body = getattr(admin, method)(f"admin/failover/nowhere{path}")
        assert (status, body["code"]) == (404, "RESOURCE_NOT_FOUND"), path
        assert "NPR, PRO" in body["error"]


def test_without_a_standby_it_is_409_with_the_check_that_says_so(primary: None, admin: Person) -> None:
    FakeGateway("gw-npr-primary").enrol().heartbeat()
    driver.drive_all()
    status, body = admin.post("admin/failover/NPR/activate-dr")
    assert (status, body["code"], [row["name"] for row in body["checks"]]) == (409, "CHECKS_FAILED", ["target_enrolled"])
    assert not Operation.objects.exists()


def _silent(gateway: FakeGateway) -> None:
    grow_old(gateway, 1000)


def _banned(gateway: FakeGateway) -> None:
    Gateway.objects.filter(pk=gateway.id).update(banned_at=Now())


def _ill(gateway: FakeGateway) -> None:
    from protocol.messages import Probe

    gateway.heartbeat(database=Probe(ok=False))


@pytest.mark.parametrize(
    ("harm", "check"),
    [(_silent, "target_heartbeat"), (_banned, "target_allowed"), (_ill, "target_score"),
     (lambda gateway: gateway.heartbeat(write_queue_depth=3), "target_queue")],
    ids=["silent", "banned", "ill", "queue"],
)  # fmt: skip
def test_failback_to_an_unfit_primary_is_409_with_the_failing_checks(
    npr: Pair, admin: Person, harm: Callable[[FakeGateway], None], check: str
) -> None:
    first, _ = npr
    activate(admin, first)
    harm(first)
    status, body = admin.post("admin/failover/NPR/failback")
    assert (status, body["code"]) == (409, "CHECKS_FAILED")
    assert check in [row["name"] for row in body["checks"]]
    assert (state_of(admin)["state"], state_of(admin)["active_gateway"]) == ("DR_ACTIVE", "gw-npr-dr")


def test_a_dead_primary_does_not_stop_the_plain_call(npr: Pair, admin: Person) -> None:
    first, second = npr
    grow_old(first, 100_000)
    assert admin.post("admin/failover/NPR/activate-dr")[0] == 202
    let_lease_end()
    driver.drive_all()
    assert state_of(admin)["active_gateway"] == second.name


def test_what_was_passed_over_without_a_plan_is_recorded(npr: Pair, admin: Person) -> None:
    _, second = npr
    second.heartbeat(version="1.9.0")
    _, body = admin.post("admin/failover/NPR/activate-dr")
    assert "same_version" in body["operation"]["passed_over"]
    assert AuditEntry.objects.filter(action="failover.requested").get().details["waived"] == body["operation"]["passed_over"]


class TestPlan:
    def test_says_green_and_changes_nothing(self, npr: Pair, admin: Person) -> None:
        before = Route.objects.values().get(pk="NPR")
        status, plan = admin.post("admin/failover/NPR/plan")
        assert (status, plan["kind"], plan["verdict"]) == (201, "activate-dr", "green"), plan["checks"]
        assert plan["estimate"]["writes_at_risk"] == 0
        assert Route.objects.values().get(pk="NPR") == before
        assert not Operation.objects.exists()

    def test_is_accepted_once_while_the_world_stands_still(self, npr: Pair, admin: Person) -> None:
        _, plan = admin.post("admin/failover/NPR/plan")
        status, body = admin.post("admin/failover/NPR/activate-dr", {"plan_id": plan["plan_id"]})
        assert (status, body["operation"]["plan_id"]) == (202, plan["plan_id"])

    def test_is_409_when_the_world_moved(self, npr: Pair, admin: Person) -> None:
        _, second = npr
        _, plan = admin.post("admin/failover/NPR/plan")
        second.heartbeat(version="1.9.0")
        status, body = admin.post("admin/failover/NPR/activate-dr", {"plan_id": plan["plan_id"]})
        assert (status, body["code"]) == (409, "PLAN_OUTDATED")
        assert not Operation.objects.exists()

    def test_of_another_environment_is_no_plan(self, npr: Pair, admin: Person) -> None:
        fleet_of("PRO")
        _, plan = admin.post("admin/failover/PRO/plan")
        assert admin.post("admin/failover/NPR/activate-dr", {"plan_id": plan["plan_id"]})[0] == 400

    def test_a_failing_waivable_check_must_be_waived_by_name(self, npr: Pair, admin: Person) -> None:
        _, second = npr
        second.heartbeat(version="1.9.0")
        _, plan = admin.post("admin/failover/NPR/plan")
        assert plan["verdict"] == "needs_waiver"
        wish = {"plan_id": plan["plan_id"]}
        assert admin.post("admin/failover/NPR/activate-dr", wish)[0] == 409
        status, body = admin.post("admin/failover/NPR/activate-dr", {**wish, "waive": ["same_version"]})
        assert (status, body["operation"]["passed_over"]) == (202, ["same_version"])

    def test_a_hard_check_cannot_be_waived(self, npr: Pair, admin: Person) -> None:
        status, body = admin.post("admin/failover/NPR/activate-dr", {"waive": ["target_heartbeat"]})
        assert (status, body["error"]) == (400, "waive: target_heartbeat is not a check that can be waived")

    def test_is_demanded_by_an_environment_that_says_so(self, npr: Pair, admin: Person) -> None:
        from gateways.models import GatewayEnvironment

        GatewayEnvironment.objects.filter(code="NPR").update(requires_plan=True)
        status, body = admin.post("admin/failover/NPR/activate-dr")
        assert (status, body["code"]) == (409, "PLAN_REQUIRED")


class TestCancel:
    def test_gives_the_lease_back_in_the_same_epoch(self, npr: Pair, admin: Person) -> None:
        first, _ = npr
        admin.post("admin/failover/NPR/activate-dr")
        first.told_to_fence()
        status, body = admin.post("admin/failover/NPR/cancel", {"reason": "false alarm"})
        assert (status, body["state"], body["epoch"], body["operation"]["outcome"]) == (200, "PRIMARY_ACTIVE", 1, "cancelled")
        assert first.take_over().fence.cancelled
        assert first.renew_lease().verdict == "granted"

    def test_is_refused_once_the_gateway_has_confirmed(self, npr: Pair, admin: Person) -> None:
        first, _ = npr
        admin.post("admin/failover/NPR/activate-dr")
        order = first.told_to_fence()
        first.acknowledge_fence(order.operation, order.epoch)
        status, body = admin.post("admin/failover/NPR/cancel")
        assert (status, body["code"]) == (409, "TOO_LATE")
        driver.drive_all()
        assert state_of(admin)["state"] == "DR_ACTIVE"

    def test_a_confirmation_after_the_cancel_counts_for_nothing(self, npr: Pair, admin: Person) -> None:
        first, _ = npr
        admin.post("admin/failover/NPR/activate-dr")
        order = first.told_to_fence()
        admin.post("admin/failover/NPR/cancel")
        assert first.acknowledge_fence(order.operation, order.epoch).detail == "no such order"
        admin.post("admin/failover/NPR/activate-dr")
        first.told_to_fence()
        assert state_of(admin)["state"] == "FENCING"

    def test_in_the_moment_of_danger_nothing_is_taken_back(self, npr: Pair, admin: Person) -> None:
        first, _ = npr
        admin.post("admin/failover/NPR/activate-dr")
        routes.freeze("NPR", "a gateway has seen a higher epoch")
        status, body = admin.post("admin/failover/NPR/cancel")
        assert (status, body["code"]) == (409, "TOO_LATE")
        Route.objects.filter(pk="NPR").update(lease_open=True, fence_cancelled=True)  # whoever cancelled a moment earlier
        admin.post("admin/tasks", {"environment": "NPR", "kind": "gateway.probe"})
        assert (first.take_over().assigned_role, first.take_over().poll_tasks) == (Assignment.DRAINING, False)

    def test_without_an_operation_is_409(self, npr: Pair, admin: Person) -> None:
        status, body = admin.post("admin/failover/NPR/cancel")
        assert (status, body["code"]) == (409, "NO_OPERATION")


class TestForce:
    def test_promotes_at_once_and_shows_the_risk(self, npr: Pair, admin: Person) -> None:
        admin.post("admin/failover/NPR/activate-dr")
        npr[0].told_to_fence()
        status, body = admin.post("admin/failover/NPR/force", {"confirm": "NPR", "reason": "the data centre burns"})
        assert (status, body["state"], body["active_gateway"]) == (202, "DR_ACTIVE", "gw-npr-dr")
        assert body["operation"]["forced_by"].startswith("user:")
        assert body["operation"]["split_risk_until"] > body["operation"]["opened_at"]
        assert AuditEntry.objects.filter(action="failover.force", severity="critical").exists()

    def test_counts_a_lease_that_nobody_here_knows_of_into_the_risk(self, npr: Pair, admin: Person) -> None:
        """After a restore an unknown lease may outlive the stored one."""
        admin.post("admin/failover/NPR/activate-dr", {"waive": ["source_queue"]})
        blocked = Now() + timedelta(seconds=300)
        Route.objects.filter(pk="NPR").update(lease_until=Now() - timedelta(seconds=60), lease_blocked_until=blocked)
        body = admin.post("admin/failover/NPR/force", {"confirm": "NPR", "reason": "the data centre burns"})[1]
        risk = Operation.objects.get(id=body["operation"]["id"]).split_risk_until
        assert risk == Route.objects.get(pk="NPR").lease_blocked_until

    @pytest.mark.parametrize(
        ("wish", "field"), [({"confirm": "npr", "reason": "x"}, "confirm"), ({"confirm": "NPR", "reason": " "}, "reason"),
                            ({"reason": "x"}, "confirm")],
    )  # fmt: skip
    def test_wants_the_typed_name_and_a_reason(self, npr: Pair, admin: Person, wish: dict[str, str], field: str) -> None:
        admin.post("admin/failover/NPR/activate-dr")
        status, body = admin.post("admin/failover/NPR/force", wish)
        assert status == 400 and body["error"].startswith(f"{field}:")
        assert state_of(admin)["state"] == "FO_DRAINING"

    def test_has_nothing_to_do_at_rest(self, npr: Pair, admin: Person) -> None:
        status, body = admin.post("admin/failover/NPR/force", {"confirm": "NPR", "reason": "impatience"})
        assert (status, body["code"]) == (409, "NOTHING_TO_FORCE")

    def test_needs_its_own_permission(self, npr: Pair, person: Callable[[str], Person]) -> None:
        status, body = person("auditor").post("admin/failover/NPR/force", {"confirm": "NPR", "reason": "x"})
        assert (status, body["code"]) == (403, "PERMISSION_DENIED")


class TestHold:
    """Two truths: a gateway has seen an epoch that this database does not know (a restored Primary, I4)."""

    def hold(self, npr: Pair) -> None:
        """The backup is of epoch 1; in what was lost the environment had come to epoch 7."""
        npr[1].keep(marks.mark_of("NPR", 7))
        npr[1].heartbeat(epoch=7)
        driver.drive_all()

    def test_a_higher_epoch_stops_every_lease_until_a_person_decides(self, npr: Pair, admin: Person) -> None:
        first, _ = npr
        self.hold(npr)
        body = state_of(admin)
        assert body["state"] == "HOLD" and "7" in body["hold_reason"]
        assert first.renew_lease().verdict == "fencing"
        status, refused = admin.post("admin/failover/NPR/activate-dr")
        assert (status, refused["code"]) == (409, "ENVIRONMENT_HELD")
        assert body["hold_reason"] in refused["error"] and "resume" in refused["error"]
        assert body["hold_reason"] in body["headline"] and "resume" in body["next"]
        told = admin.get("admin/failover/NPR/history")[1][0]["sentence"]
        assert body["hold_reason"] in told and "POST admin/failover/NPR/resume" in told

    def test_a_misspelt_gateway_is_answered_with_the_usable_ones(self, npr: Pair, admin: Person) -> None:
        self.hold(npr)
        wish = {"gateway": "gw-nrp-dr", "confirm": "NPR", "reason": "x"}
        assert admin.post("admin/failover/NPR/resume", wish)[1]["error"].endswith("usable are gw-npr-dr, gw-npr-primary")
        Gateway.objects.filter(name="gw-npr-dr").update(held_at=Now())
        assert admin.post("admin/failover/NPR/resume", wish)[1]["error"].endswith("usable are gw-npr-primary")

    def test_a_held_environment_goes_on_reading_and_accepts_nothing(self, npr: Pair) -> None:
        first, _ = npr
        self.hold(npr)
        directive = first.heartbeat()
        assert (directive.assigned_role, directive.poll_tasks) == (Assignment.DRAINING, False)
        assert first.renew_lease().verdict == "fencing"

    def test_a_gateway_that_was_told_to_fence_itself_stays_fenced_in_a_hold(self, npr: Pair, admin: Person) -> None:
        assert admin.post("admin/failover/NPR/activate-dr")[0] == 202
        npr[0].told_to_fence()
        self.hold(npr)
        assert npr[0].heartbeat().assigned_role == Assignment.FENCED

    def test_resume_goes_on_above_every_epoch_seen_and_only_after_an_old_lease_must_have_ended(
        self, npr: Pair, admin: Person
    ) -> None:
        _, second = npr
        self.hold(npr)
        wish = {"gateway": "gw-npr-dr", "confirm": "NPR", "reason": "restored from backup"}
        status, body = admin.post("admin/failover/NPR/resume", wish)
        assert (status, body["state"], body["epoch"], body["active_gateway"]) == (200, "DR_ACTIVE", 8, "gw-npr-dr")
        second.take_over()
        assert second.renew_lease().verdict == "held"
        Route.objects.filter(pk="NPR").update(lease_blocked_until=Now() - timedelta(seconds=1))
        assert second.renew_lease().verdict == "granted"

    @pytest.mark.parametrize("said", [2, 7, 1001, 2**31, 2**40, 2**53])
    def test_an_epoch_without_proof_holds_the_gateway_and_not_the_environment(self, npr: Pair, admin: Person, said: int) -> None:
        first, second = npr
        refused = second.heartbeat(epoch=said)
        assert refused.status_code == 400 and refused.json()["error"].startswith(f"epoch: {said} is not believed")
        driver.drive_all()
        assert state_of(admin)["state"] == "PRIMARY_ACTIVE" and "epoch" in second.row.held_reason
        assert GatewayStatus.objects.get(gateway=second.row).highest_epoch <= 1
        assert AuditEntry.objects.filter(action="gateway.held", severity="critical").count() == 1
        assert admin.post(f"gateways/{second.id}/release", {"reason": "its disk was bad"})[0] == 200
        assert [one.heartbeat().epoch for one in (first, second, second)] == [1, 1, 1], "a release lasts"
        assert second.row.held_at is None and first.renew_lease().verdict == "granted"

    def test_a_mark_of_another_environment_or_signed_by_somebody_else_proves_nothing(self, npr: Pair, admin: Person) -> None:
        first, second = npr
        forged = sign_mark(Mark("NPR", 7), second.keys.signing)
        for shown in (forged, marks.mark_of("PRO", 7), structs.replace(marks.mark_of("NPR", 7), signature="x" * 88),
                      structs.replace(forged, key=marks.mark_of("NPR", 1).key)):  # fmt: skip
            assert second.heartbeat(epoch=7, mark=shown).status_code == 400
            driver.drive_all()
            assert state_of(admin)["state"] == "PRIMARY_ACTIVE"
        assert first.renew_lease().verdict == "granted"

    def test_what_an_earlier_version_stored_of_a_liar_raises_no_epoch(self, npr: Pair, admin: Person) -> None:
        self.hold(npr)
        GatewayStatus.objects.filter(gateway=npr[0].row).update(highest_epoch=2**40)
        wish = {"gateway": npr[0].name, "confirm": "NPR", "reason": "looked at it"}
        assert admin.post("admin/failover/NPR/resume", wish)[1]["epoch"] == 8
        assert [one.heartbeat().epoch for one in npr] == [8, 8]

    def test_an_environment_that_was_driven_far_up_works_on_where_it_is(self, npr: Pair, admin: Person) -> None:
        """An earlier version believed more: the epoch cannot go back, and nobody is refused for it."""
        Route.objects.filter(pk="NPR").update(epoch=2**40 + 1)
        for gateway in npr:
            assert gateway.take_over().epoch == 2**40 + 1
            assert gateway.heartbeat().epoch == 2**40 + 1 and gateway.row.held_at is None
        assert npr[0].renew_lease().verdict == "granted"
        activate(admin, npr[0])
        assert state_of(admin)["epoch"] == 2**40 + 2

    def test_a_restore_to_before_such_an_epoch_is_resumed_above_it_on_proof(self, npr: Pair, admin: Person) -> None:
        npr[1].keep(marks.mark_of("NPR", 2**40 + 1))
        npr[1].heartbeat(epoch=2**40 + 1)
        driver.drive_all()
        wish = {"gateway": npr[1].name, "confirm": "NPR", "reason": "the backup is old"}
        assert admin.post("admin/failover/NPR/resume", wish)[1]["epoch"] == 2**40 + 2

    def test_resume_wants_a_gateway_that_is_not_held(self, npr: Pair, admin: Person) -> None:
        self.hold(npr)
        Gateway.objects.filter(name="gw-npr-dr").update(held_at=Now())
        status, body = admin.post("admin/failover/NPR/resume", {"gateway": "gw-npr-dr", "confirm": "NPR", "reason": "x"})
        assert status == 400 and body["error"].startswith("gateway:")

    def test_resume_wants_a_gateway_of_this_environment(self, npr: Pair, admin: Person) -> None:
        fleet_of("PRO")
        self.hold(npr)
        status, body = admin.post("admin/failover/NPR/resume", {"gateway": "gw-pro-dr", "confirm": "NPR", "reason": "x"})
        assert status == 400 and body["error"].startswith("gateway:")
        assert state_of(admin)["state"] == "HOLD"

    def test_resume_of_an_environment_that_is_not_held_is_409(self, npr: Pair, admin: Person) -> None:
        wish = {"gateway": "gw-npr-dr", "confirm": "NPR", "reason": "x"}
        assert admin.post("admin/failover/NPR/resume", wish)[1]["code"] == "NOT_HELD"


def test_history_tells_every_step_newest_first(npr: Pair, admin: Person) -> None:
    activate(admin, npr[0])
    _, rows = admin.get("admin/failover/NPR/history")
    assert [row["to"] for row in rows] == [
        "DR_ACTIVE", "PROMOTING", "FENCING", "FO_DRAINING", "FO_PREFLIGHT", "PRIMARY_ACTIVE",
    ]  # fmt: skip
    assert all(row["sentence"] and row["at"].endswith("Z") for row in rows)
    assert rows[0]["epoch"] == 2


def test_a_target_that_dies_between_request_and_step_aborts_cleanly(npr: Pair, admin: Person, monkeypatch: Any) -> None:
    _, second = npr
    monkeypatch.setattr(driver, "drive", lambda code: 0)  # the process that took the request dies before the first step
    admin.post("admin/failover/NPR/activate-dr")
    monkeypatch.undo()
    grow_old(second, 100_000)
    driver.drive_all()
    body = state_of(admin)
    assert (body["state"], body["operation"], body["last_operation"]["outcome"]) == ("PRIMARY_ACTIVE", None, "aborted")
    told = admin.get("admin/failover/NPR/history")[1][0]["sentence"]
    assert told.startswith("a hard check failed; nothing was changed: gw-npr-dr: its last heartbeat is")
    assert npr[0].renew_lease().verdict == "granted"


class TestUnusableTarget:
    """A ban counts at once, also in the middle of a move: past the fence there is no way back, so a person decides."""

    def move(self, npr: Pair, admin: Person) -> None:
        assert admin.post("admin/failover/NPR/activate-dr")[0] == 202

    def test_a_ban_after_the_fence_holds_the_environment_and_a_person_can_go_on(self, npr: Pair, admin: Person) -> None:
        first, second = npr
        self.move(npr, admin)
        assert admin.post(f"gateways/{second.id}/ban", {"reason": "stolen"})[0] == 200
        order = first.told_to_fence()
        first.acknowledge_fence(order.operation, order.epoch)
        driver.drive_all()
        body = state_of(admin)
        assert (body["state"], body["operation"], body["last_operation"]["outcome"]) == ("HOLD", None, "aborted")
        assert "gw-npr-dr was banned" in body["hold_reason"] and body["epoch"] == 1
        assert first.renew_lease().verdict == "fencing"
        assert AuditEntry.objects.get(action="failover.frozen").severity == "critical"
        wish = {"gateway": "gw-npr-primary", "confirm": "NPR", "reason": "the standby is gone"}
        status, body = admin.post("admin/failover/NPR/resume", wish)
        assert (status, body["state"], body["epoch"], body["active_gateway"]) == (200, "PRIMARY_ACTIVE", 2, "gw-npr-primary")

    def test_a_standby_that_is_held_meanwhile_is_not_promoted(self, npr: Pair, admin: Person) -> None:
        first, second = npr
        self.move(npr, admin)
        assert FakeGateway(second.name, role="dr-standby").register(second.token).status_code == 409, "a copied token"
        order = first.told_to_fence()
        first.acknowledge_fence(order.operation, order.epoch)
        driver.drive_all()
        body = state_of(admin)
        assert body["state"] == "HOLD" and "gw-npr-dr was held" in body["hold_reason"] and body["epoch"] == 1

    def test_a_drained_standby_is_refused_with_the_way_out(self, npr: Pair, admin: Person) -> None:
        _, second = npr
        assert admin.post(f"gateways/{second.id}/drain")[0] == 200
        status, body = admin.post("admin/failover/NPR/activate-dr")
        assert status == 409 and [check["name"] for check in body["checks"] if not check["passed"]] == ["target_allowed"], body
        assert admin.post(f"gateways/{second.id}/drain", {"draining": False})[0] == 200
        assert admin.post("admin/failover/NPR/activate-dr")[0] == 202

    def test_a_held_environment_lets_its_banned_gateway_be_decommissioned(self, npr: Pair, admin: Person) -> None:
        _, second = npr
        self.move(npr, admin)
        assert admin.post(f"gateways/{second.id}/ban", {"reason": "stolen"})[0] == 200
        let_lease_end()
        driver.drive_all()
        assert state_of(admin)["state"] == "HOLD"
        assert admin.post(f"gateways/{second.id}/decommission", {"reason": "replaced"})[0] == 200

    def test_the_target_of_an_open_move_cannot_be_decommissioned(self, npr: Pair, admin: Person) -> None:
        _, second = npr
        self.move(npr, admin)
        status, body = admin.post(f"gateways/{second.id}/decommission", {"reason": "old"})
        assert (status, body["code"]) == (409, "OPERATION_OPEN")
        assert admin.post("admin/failover/NPR/cancel")[0] == 200
        assert admin.post(f"gateways/{second.id}/decommission", {"reason": "old"})[0] == 200


def test_a_fault_in_one_environment_stops_no_move_of_another(npr: Pair, admin: Person, monkeypatch: Any) -> None:
    first, _ = fleet_of("PRO")
    assert admin.post("admin/failover/PRO/activate-dr")[0] == 202
    drain = first.take_over().drain
    first.report_drained(drain.operation, drain.epoch)
    monkeypatch.setattr(driver, "_environments_to_look_at", lambda: ["NPR", "PRO"])
    drive = driver.drive

    def broken(code: str) -> int:
        if code == "NPR":
            raise ZeroDivisionError("a fault of ours")
        return drive(code)

    monkeypatch.setattr(driver, "drive", broken)
    assert driver.drive_all() == 1
    assert state_of(admin, "PRO")["state"] == "FENCING"


def test_who_may_act_is_told_and_since_when_nobody_may(npr: Pair, admin: Person) -> None:
    body = state_of(admin)
    assert (body["may_act"], body["lease_ended_seconds"], body["next"]) == (True, None, "")
    Route.objects.filter(pk="NPR").update(lease_until=Now() - timedelta(seconds=30), switched_at=Now() - timedelta(hours=1))
    GatewayInstance.objects.update(first_heard_at=Now() - timedelta(hours=1))
    body = state_of(admin)
    assert body["may_act"] is False and 30 <= body["lease_ended_seconds"] < 60
    assert "nobody may act, the lease of gw-npr-primary ended 3" in body["headline"] and "activate-dr" in body["next"]


def test_a_drain_that_takes_too_long_goes_back_to_dr(npr: Pair, admin: Person) -> None:
    from failover.models import EnvironmentState

    first, second = npr
    activate(admin, first)
    second.take_over()
    second.renew_lease()
    assert admin.post("admin/failover/NPR/failback")[0] == 202
    drain = second.take_over().drain
    second.report_drained(drain.operation, drain.epoch, running_tasks=1)
    limit = timedelta(seconds=settings.MAZEVAULT.timing.drain_limit + 1)
    EnvironmentState.objects.filter(pk="NPR").update(since=Now() - limit)
    driver.drive_all()
    body = state_of(admin)
    assert (body["state"], body["last_operation"]["outcome"]) == ("DR_ACTIVE", "aborted")
    assert second.renew_lease().verdict == "granted"


def test_who_asked_is_shown_by_name_beside_the_id(npr: Pair, admin: Person) -> None:
    body = admin.post("admin/failover/NPR/activate-dr")[1]
    assert body["operation"]["requested_by"].startswith("user:")
    assert body["operation"]["requested_by_name"] == "admin@example.com"
    assert admin.get("admin/failover/NPR/history")[1][0]["actor_name"] in ("admin@example.com", None)
    assert "admin@example.com" in [row["actor_name"] for row in admin.get("admin/failover/NPR/history")[1]]
    admin.post("gateways/bootstrap", {"name": "gw-new"})
    assert (
        next(row for row in admin.get("gateways/bootstrap")[1] if row["name"] == "gw-new")["created_by_name"]
        == "admin@example.com"
    )
    asked = next(row for row in admin.get("audit-logs")[1] if row["action"] == "failover.requested")
    assert asked["user_name"] == "admin@example.com"
