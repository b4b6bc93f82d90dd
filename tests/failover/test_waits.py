"""A move goes only to somebody who is there, and waits only for somebody who is there (DESIGN §8).

Proven here with gateways that speak the real protocol: a frozen or killed target is noticed before the fence and before the
promotion; a living source brings its queue first, within a bound that is shown; a silent one is not waited for.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db.models import F
from django.db.models.functions import Now

from failover import driver
from failover.models import EnvironmentState, Operation
from gateways import directives, signs
from gateways.instances import Seat
from gateways.models import Route, SignOfLife
from protocol import messages, paths
from tests.conftest import Person
from tests.failover.test_api import activate, let_lease_end, state_of
from tests.fakes.gateway import FakeGateway

Pair = tuple[FakeGateway, FakeGateway]
FORCE = {"confirm": "NPR", "reason": "the machine is off"}


def sentences(admin: Person) -> list[str]:
    return [row["sentence"] for row in admin.get("admin/failover/NPR/history")[1]]


def pass_bound(*gateways: FakeGateway) -> None:
    """As if the time in which a living gateway answers had passed since it was asked, and since it was last heard."""
    bound = timedelta(seconds=settings.MAZEVAULT.timing.sign_of_life + 0.1)
    ids = [gateway.id for gateway in gateways]
    SignOfLife.objects.filter(gateway_id__in=ids).update(asked_at=F("asked_at") - bound, answered_at=F("answered_at") - bound)
    Operation.objects.filter(finished_at=None).update(opened_at=F("opened_at") - bound)


def pass_time_of_drain(seconds: float) -> None:
    EnvironmentState.objects.filter(pk="NPR").update(since=Now() - timedelta(seconds=seconds))


class TestTarget:
    """The one that is to become active."""

    def test_that_sleeps_is_moved_to_by_nobody_and_the_source_is_never_fenced(self, npr: Pair, admin: Person) -> None:
        first, second = npr
        second.lively = False
        status, body = admin.post("admin/failover/NPR/activate-dr")
        assert (status, body["state"]) == (202, "FO_PREFLIGHT")
        assert body["operation"]["waits_for"].startswith("gw-npr-dr to give a sign of life; gw-npr-dr was last heard of")
        assert body["operation"]["waits_until"]
        assert first.renew_lease().verdict == "granted", "nothing was taken from the source"
        pass_bound(second)
        driver.drive_all()
        body = state_of(admin)
        assert (body["state"], body["operation"], body["last_operation"]["outcome"]) == ("PRIMARY_ACTIVE", None, "aborted")
        assert sentences(admin)[0].startswith(
            "the DR gateway gave no sign of life; nothing was changed: gw-npr-dr was last heard of"
        )
        assert first.renew_lease().verdict == "granted"

    def test_that_answers_late_is_moved_to_when_it_answers(self, npr: Pair, admin: Person) -> None:
        _, second = npr
        second.lively = False
        admin.post("admin/failover/NPR/activate-dr")
        driver.drive_all()
        assert state_of(admin)["state"] == "FO_PREFLIGHT"
        second.give_sign()
        driver.drive_all()
        assert state_of(admin)["state"] == "FO_DRAINING"

    def test_with_a_sign_from_before_the_request_is_asked_again(self, npr: Pair, admin: Person) -> None:
        _, second = npr
        signs.ask(second.row)
        second.give_sign()
        second.lively = False
        assert admin.post("admin/failover/NPR/activate-dr")[1]["state"] == "FO_PREFLIGHT"

    def test_that_falls_asleep_while_the_source_drains_undoes_the_drain(self, npr: Pair, admin: Person) -> None:
        first, second = npr
        admin.post("admin/failover/NPR/activate-dr")
        drain = first.take_over().drain
        pass_bound(second)
        driver.drive_all()  # its answer is too old by now, so it is asked again
        first.report_drained(drain.operation, drain.epoch)
        driver.drive_all()
        assert state_of(admin)["state"] == "FO_DRAINING", "an empty source is not fenced for a target nobody hears"
        pass_bound(second)
        driver.drive_all()
        assert state_of(admin)["state"] == "PRIMARY_ACTIVE"
        assert first.take_over().drain is None and first.renew_lease().verdict == "granted"

    def test_that_dies_while_a_lease_runs_out_gives_the_source_its_lease_back(self, npr: Pair, admin: Person) -> None:
        first, second = npr
        admin.post("admin/failover/NPR/activate-dr", {"waive": ["source_queue"]})
        assert first.renew_lease().verdict == "fencing"
        pass_bound(second)
        let_lease_end()
        driver.drive_all()
        assert state_of(admin)["state"] == "FENCING", "the lease has run out, but nobody is there who could be promoted"
        pass_bound(second)
        driver.drive_all()
        body = state_of(admin)
        assert (body["state"], body["epoch"], body["last_operation"]["outcome"]) == ("PRIMARY_ACTIVE", 1, "aborted")
        assert first.take_over().fence.cancelled
        assert first.renew_lease().verdict == "granted"

    def test_that_sleeps_is_promoted_when_a_person_forces_it(self, npr: Pair, admin: Person) -> None:
        _, second = npr
        admin.post("admin/failover/NPR/activate-dr", {"waive": ["source_queue"]})
        second.lively = False
        pass_bound(second)
        assert admin.post("admin/failover/NPR/force", FORCE)[1]["active_gateway"] == second.name

    def test_that_sleeps_fails_the_plan_by_name(self, npr: Pair, admin: Person) -> None:
        _, second = npr
        second.lively = False
        plan = admin.post("admin/failover/NPR/plan")[1]
        failed = [check["name"] for check in plan["checks"] if not check["passed"]]
        assert (plan["verdict"], failed) == ("refused", ["target_answers"])

    def test_of_a_failback_is_asked_too(self, npr: Pair, admin: Person) -> None:
        first, second = npr
        activate(admin, first)
        first.take_over()
        second.take_over()
        second.renew_lease()
        first.lively = False
        assert admin.post("admin/failover/NPR/failback")[1]["state"] == "FB_PREFLIGHT"
        pass_bound(first)
        driver.drive_all()
        assert state_of(admin)["state"] == "DR_ACTIVE"
        assert second.renew_lease().verdict == "granted"


class TestQueueOfTheSource:
    def begin(self, npr: Pair, admin: Person, **wish: Any) -> dict[str, Any]:
        npr[0].heartbeat(write_queue_depth=5, write_queue_oldest_seconds=340.0, write_queue_last_sequence=5)
        status, body = admin.post("admin/failover/NPR/activate-dr", wish or None)
        assert status == 202, body
        return dict(body)

    def report(self, first: FakeGateway, waiting: int, oldest: float = 0.0) -> messages.Directive:
        directive = first.take_over()
        assert directive.drain is not None
        first.report_drained(directive.drain.operation, directive.drain.epoch, waiting=waiting, oldest=oldest)
        driver.drive_all()
        return directive

    def test_is_waited_for_and_the_wait_is_shown_with_reason_count_age_and_end(self, npr: Pair, admin: Person) -> None:
        self.begin(npr, admin)
        self.report(npr[0], 3, 341.0)
        operation = state_of(admin)["operation"]
        assert operation["step"] == "FO_DRAINING"
        assert operation["waits_for"] == (
            "gw-npr-primary to finish its work: 3 writes wait at gw-npr-primary, the oldest 341 s old"
        )
        shown = operation["draining"]
        assert (shown["writes"], shown["oldest_seconds"], shown["running"]) == (3, 341.0, 0)
        assert "brings the writes" in shown["reason"] and shown["until"] == operation["waits_until"]
        assert npr[0].renew_lease().verdict == "granted", "it goes on reading, and may bring what it has"
        self.report(npr[0], 0)
        assert state_of(admin)["state"] == "FENCING"
        assert "source_queue" not in state_of(admin)["operation"]["passed_over"]

    def test_that_does_not_arrive_in_time_is_passed_over_where_nobody_made_a_plan(self, npr: Pair, admin: Person) -> None:
        """The plain call of a disaster comes to its end."""
        self.begin(npr, admin)
        self.report(npr[0], 3, 341.0)
        pass_time_of_drain(settings.MAZEVAULT.timing.queue_wait + 1)
        driver.drive_all()
        body = state_of(admin)
        assert (body["state"], body["operation"]["passed_over"]) == ("FENCING", ["source_queue"])
        assert sentences(admin)[0].endswith("3 writes wait at gw-npr-primary, the oldest 341 s old")

    def test_that_does_not_arrive_in_time_ends_a_planned_move_where_it_began(self, npr: Pair, admin: Person) -> None:
        npr[0].heartbeat(write_queue_depth=5, write_queue_last_sequence=5)
        plan = admin.post("admin/failover/NPR/plan")[1]
        assert plan["verdict"] == "needs_waiver"
        self.begin(npr, admin, plan_id=plan["plan_id"])
        self.report(npr[0], 3)
        pass_time_of_drain(settings.MAZEVAULT.timing.queue_wait + 1)
        driver.drive_all()
        body = state_of(admin)
        assert (body["state"], body["last_operation"]["outcome"]) == ("PRIMARY_ACTIVE", "aborted")
        assert npr[0].take_over().drain is None

    @pytest.mark.parametrize("planned", [False, True])
    def test_can_be_waived_and_that_is_recorded(self, npr: Pair, admin: Person, planned: bool) -> None:
        wish: dict[str, Any] = {"waive": ["source_queue"]}
        npr[0].heartbeat(write_queue_depth=5, write_queue_last_sequence=5)
        if planned:
            wish["plan_id"] = admin.post("admin/failover/NPR/plan")[1]["plan_id"]
        body = self.begin(npr, admin, **wish)
        assert (body["state"], body["operation"]["passed_over"]) == ("FENCING", ["source_queue"])

    def test_is_never_green_while_accepted_writes_are_missing(self, npr: Pair, admin: Person) -> None:
        """Also when the depth in the heartbeat says nothing: the number of the last write says it."""
        npr[0].heartbeat(write_queue_depth=0, write_queue_last_sequence=2)
        plan = admin.post("admin/failover/NPR/plan")[1]
        check = next(one for one in plan["checks"] if one["name"] == "source_queue")
        assert (check["level"], check["passed"], plan["estimate"]["writes_at_risk"]) == ("waivable", False, 2)

    def test_is_told_as_it_is_now_and_not_as_it_was_a_heartbeat_ago(self, npr: Pair, admin: Person) -> None:
        npr[0].heartbeat()
        npr[0].said = {"write_queue_depth": 7, "write_queue_oldest_seconds": 12.0, "write_queue_last_sequence": 7}
        estimate = admin.post("admin/failover/NPR/plan")[1]["estimate"]
        assert (estimate["writes_at_risk"], estimate["oldest_write_seconds"]) == (7, 12.0)

    def test_field_of_the_request_is_read_strictly(self, npr: Pair, admin: Person) -> None:
        for wish in ({"waive": "source_queue"}, {"waive": ["queue"]}, {"waived": ["source_queue"]}):
            assert admin.post("admin/failover/NPR/activate-dr", wish)[0] == 400, wish


class TestSilentSource:
    def test_is_named_with_the_way_to_go_on_at_once(self, npr: Pair, admin: Person) -> None:
        """A failback away from a killed DR gateway is no wait of minutes for somebody who cannot answer."""
        first, second = npr
        activate(admin, first)
        first.take_over()
        second.take_over()
        second.renew_lease()
        second.lively = False
        body = admin.post("admin/failover/NPR/failback")[1]
        assert body["state"] == "DRAINING"
        waits = body["operation"]["waits_for"]
        assert "gw-npr-dr" in waits and "was last heard of" in waits and "force" in waits
        pass_time_of_drain(settings.MAZEVAULT.timing.sign_of_life + 1)
        first.give_sign()
        driver.drive_all()
        assert state_of(admin)["state"] == "FENCING_DR"
        assert "gw-npr-dr was last heard of" in sentences(admin)[0]

    def test_can_be_forced_out_of_the_drain(self, npr: Pair, admin: Person) -> None:
        npr[0].lively = False
        admin.post("admin/failover/NPR/activate-dr")
        assert admin.post("admin/failover/NPR/force", FORCE)[1]["state"] == "FENCING"

    def test_whose_lease_has_ended_is_not_waited_for_at_all(self, npr: Pair, admin: Person) -> None:
        npr[0].heartbeat(write_queue_depth=2, write_queue_last_sequence=2)
        npr[0].lively = False
        let_lease_end()
        body = admin.post("admin/failover/NPR/activate-dr")[1]
        assert (body["state"], body["epoch"], body["operation"]["passed_over"]) == ("DR_ACTIVE", 2, ["source_queue"])
        assert body["loss_manifest_open"]

    def test_that_stops_reporting_in_the_middle_of_its_drain_is_not_waited_for_longer(self, npr: Pair, admin: Person) -> None:
        first, _ = npr
        admin.post("admin/failover/NPR/activate-dr")
        drain = first.take_over().drain
        first.report_drained(drain.operation, drain.epoch, waiting=4)
        driver.drive_all()
        assert state_of(admin)["state"] == "FO_DRAINING"
        late = timedelta(seconds=settings.MAZEVAULT.timing.sign_of_life + 1)
        Route.objects.filter(pk="NPR").update(drain_reported_at=Now() - late)
        pass_time_of_drain(settings.MAZEVAULT.timing.sign_of_life + 2)
        driver.drive_all()
        assert state_of(admin)["state"] == "FENCING"

    def test_makes_the_plan_say_that_its_lease_runs_out(self, npr: Pair, admin: Person) -> None:
        """Its last heartbeat is seconds old, but it does not answer."""
        npr[0].lively = False
        estimate = admin.post("admin/failover/NPR/plan")[1]["estimate"]
        assert estimate["way"] == "the lease of the active gateway runs out" and estimate["seconds_to_serve"] > 40


class TestSigns:
    def test_a_number_that_was_never_asked_is_no_sign_of_life(self, npr: Pair) -> None:
        _, second = npr
        number = signs.ask(second.row)
        assert second.give_sign(number + 1).detail == "not asked"
        assert not signs.has_answered(second.row.id, number)
        assert second.give_sign(number).detail == "taken"
        assert second.give_sign(number).detail == "not asked"

    def test_an_open_question_keeps_its_number_so_that_asking_again_and_again_never_hides_silence(self, npr: Pair) -> None:
        _, second = npr
        number = signs.ask(second.row)
        asked_at = SignOfLife.objects.get(gateway_id=second.id).asked_at
        assert signs.ask(second.row) == number
        assert SignOfLife.objects.get(gateway_id=second.id).asked_at == asked_at

    def test_a_question_changes_the_directive_so_that_the_waiting_call_returns(self, npr: Pair) -> None:
        _, second = npr
        before = directives.directive_for(second.row, Seat(True)).revision
        signs.ask(second.row)
        assert directives.directive_for(second.row, Seat(True)).revision != before

    def test_an_answer_that_waited_somewhere_is_not_of_now(self, npr: Pair, admin: Person) -> None:
        """Its sender may have frozen since: it is asked again, and nothing moves to it on that answer."""
        _, second = npr
        second.lively = False
        admin.post("admin/failover/NPR/activate-dr")
        number = SignOfLife.objects.get(gateway_id=second.id).asked
        pass_bound(second)
        assert second.give_sign(number).detail == "taken"
        Operation.objects.update(opened_at=Now())
        driver.drive_all()
        assert state_of(admin)["state"] == "FO_PREFLIGHT"
        assert SignOfLife.objects.get(gateway_id=second.id).asked == number + 1

    def test_a_gateway_answers_for_itself_only(self, npr: Pair) -> None:
        first, second = npr
        number = signs.ask(second.row)
        first.give_sign(number)
        assert not signs.has_answered(second.row.id, number)

    @pytest.mark.parametrize("number", [0, -1, 2**53 + 1])
    def test_a_number_that_no_question_can_have_is_refused(self, npr: Pair, number: int) -> None:
        answer = npr[1].call(paths.SIGN_OF_LIFE, messages.SignOfLife(number=number), messages.Acknowledged)
        assert answer.status_code == 400
