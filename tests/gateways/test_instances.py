"""One identity, one running instance: a copy of a gateway gets nothing and is told of (DESIGN §6, I1, I2)."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import get_resolver
from msgspec import structs

from common.clock import database_now, now
from common.errors import PermissionRefused
from common.models import AuditEntry
from gateways import fleet, instances, machine_api, routes
from gateways.dispatch import create_task
from gateways.models import Gateway, GatewayInstance, GatewayPresence, GatewayStatus, MessageReceipt, Route, Task
from protocol import messages, paths
from protocol.vocabulary import Assignment, LeaseVerdict
from tests.conftest import Person
from tests.fakes.gateway import FakeGateway
from tests.gateways.desk import Desk

Pair = tuple[FakeGateway, FakeGateway]


def code_of(answer: Any) -> str:
    return str(answer.json()["code"])


def verdict_of(gateway: FakeGateway) -> LeaseVerdict:
    answer = gateway.renew_lease()
    assert isinstance(answer, messages.LeaseAnswer), answer.content
    return answer.verdict


def let_time_pass(gateway: FakeGateway, seconds: float) -> None:
    """Everything that was heard of the instances of a gateway was heard so much earlier."""
    earlier = timedelta(seconds=seconds)
    for row in GatewayInstance.objects.filter(gateway_id=gateway.id):
        row.first_heard_at -= earlier
        row.heard_at -= earlier
        row.waiting_since = row.waiting_since and row.waiting_since - earlier
        row.save()
    for known in GatewayPresence.objects.filter(gateway_id=gateway.id):
        known.until = known.until and known.until - earlier
        known.save()
    for route in Route.objects.exclude(lease_until=None):
        Route.objects.filter(pk=route.pk).update(lease_until=route.lease_until - earlier)


def why(admin: Person, gateway: FakeGateway) -> str:
    rows = admin.get("admin/gateway-health")[1]
    return " | ".join(next(row for row in rows if row["name"] == gateway.name)["why"])


def skipped(gateway: FakeGateway) -> FakeGateway:
    """It began with an early number and has heard which one is free, as a real one does within the same call."""
    gateway.sequence = 2
    refused = gateway.heartbeat()
    assert code_of(refused) == "NUMBER_USED"
    gateway.sequence = int(refused.json()["details"]) - 1
    return gateway


class TestACopyOfTheActiveGateway:
    def test_gets_no_lease_whoever_is_ahead_in_numbers(self, npr: Pair) -> None:
        first, _ = npr
        ahead = first.restarted()
        for gateway, verdict in (
            (first, "granted"),
            (ahead, "another_instance"),
            (first, "granted"),
            (ahead, "another_instance"),
        ):
            assert verdict_of(gateway) == verdict
        assert 0 < ahead.renew_lease().retry_after_seconds <= 15

    def test_gets_no_task_and_no_order_but_may_read(self, npr: Pair) -> None:
        first, _ = npr
        create_task("NPR", "gateway.probe", {}, actor="user:test", address="")
        other = first.restarted()
        told = other.directive(wait=5)
        assert (told.assigned_role, told.poll_tasks, told.tasks_waiting, told.fence) == (Assignment.DRAINING, False, False, None)
        assert "another instance" in told.waits and 0 < told.retry_after_seconds <= 15
        assert code_of(other.claim()) == "ANOTHER_INSTANCE"
        assert first.claim().tasks and first.directive().assigned_role is Assignment.ACTIVE
        assert Task.objects.get().state == "claimed"

    def test_confirms_no_fence_and_reports_no_drain(self, npr: Pair) -> None:
        first, _ = npr
        other = first.restarted()
        routes.stop_lease(routes.lock_route("NPR"), uuid.uuid4())
        order = first.take_over().fence
        other.epoch = first.epoch
        assert code_of(other.acknowledge_fence(order.operation, order.epoch)) == "ANOTHER_INSTANCE"
        assert other.heartbeat().fence is None
        assert Route.objects.get(pk="NPR").fence_acknowledged_at is None
        assert first.acknowledge_fence(order.operation, order.epoch).detail == "stored"

    def test_does_not_end_the_lease_of_the_other(self, npr: Pair) -> None:
        first, _ = npr
        other = first.restarted()
        assert other.release_lease().detail == "nothing to release"
        assert Route.objects.get(pk="NPR").lease_until > database_now()
        assert verdict_of(first) == "granted"

    def test_its_heartbeat_is_not_that_of_the_gateway(self, npr: Pair) -> None:
        first, _ = npr
        before = GatewayStatus.objects.get(gateway_id=first.id)
        assert first.restarted().heartbeat(epoch=99, write_queue_depth=77).waits
        after = GatewayStatus.objects.get(gateway_id=first.id)
        assert (after.heartbeat_at, after.report, after.highest_epoch) == (
            before.heartbeat_at,
            before.report,
            before.highest_epoch,
        )

    def test_is_shown_with_both_addresses(self, npr: Pair, admin: Person) -> None:
        first, _ = npr
        other = first.restarted()
        other.client.defaults["REMOTE_ADDR"] = "203.0.113.9"
        other.heartbeat()
        told = why(admin, first)
        assert all(part in told for part in (first.instance, other.instance, "127.0.0.1", "203.0.113.9"))
        assert first.row.held_at is None, "a restart after a crash looks the same"


class TestTheNextProcess:
    def test_after_a_crash_waits_until_the_lease_must_have_ended(self, npr: Pair) -> None:
        first, _ = npr
        verdict_of(first)
        after = first.restarted()
        let_time_pass(first, 45)
        assert verdict_of(after) == "another_instance"
        let_time_pass(first, 1.5)
        assert verdict_of(after) == "granted"
        assert verdict_of(first) == "another_instance"

    def test_after_an_orderly_end_goes_on_at_once(self, npr: Pair) -> None:
        first, _ = npr
        assert first.release_lease().detail == "released"
        assert verdict_of(first.restarted()) == "granted"
        assert verdict_of(first) == "another_instance", "nothing it says afterwards counts"

    def test_of_a_standby_goes_on_at_once_after_a_goodbye_and_soon_after_a_crash(self, npr: Pair) -> None:
        _, second = npr
        after = second.restarted()
        assert after.heartbeat().waits
        let_time_pass(second, 26)
        assert not after.heartbeat().waits
        after.release_lease(epoch=0)
        assert not after.restarted().heartbeat().waits

    def test_a_lease_that_was_asked_for_after_the_goodbye_goes_on(self, npr: Pair) -> None:
        first, _ = npr
        goodbye = first.header(paths.LEASE_RELEASE)
        assert verdict_of(first) == "granted"
        first.send(paths.LEASE_RELEASE, messages.ReleaseLease(epoch=1), header=goodbye)
        assert verdict_of(first.restarted()) == "another_instance"

    def test_of_a_new_enrolment_waits_for_nobody_but_the_lease(self, npr: Pair) -> None:
        reborn = FakeGateway(npr[0].name).enrol()
        assert not reborn.heartbeat().waits
        assert reborn.renew_lease(1).verdict == "held"

    def test_a_copy_of_a_standby_takes_nothing_from_it(self, npr: Pair) -> None:
        _, second = npr
        other = second.restarted()
        assert other.directive().waits and not second.directive().waits
        routes.promote(routes.lock_route("NPR"), second.row, None)
        assert second.take_over().assigned_role is Assignment.ACTIVE and other.take_over().assigned_role is Assignment.DRAINING
        assert (verdict_of(other), verdict_of(second)) == ("another_instance", "granted")


class TestTwoLives:
    def proven(self, gateway: FakeGateway) -> tuple[FakeGateway, FakeGateway]:
        """A copy that began with used numbers, and the original that was heard long after."""
        other = skipped(gateway.copied())
        other.client.defaults["REMOTE_ADDR"] = "203.0.113.9"
        assert gateway.row.held_at is None, "the database may have been put back"
        let_time_pass(gateway, 11)
        gateway.sequence += 100
        gateway.heartbeat()
        other.heartbeat()
        return gateway, other

    def test_are_quarantined_with_both_named(self, npr: Pair, admin: Person) -> None:
        first, other = self.proven(npr[0])
        assert first.row.held_code == "two_lives"
        told = why(admin, first)
        assert told.count("two machines use this identity") == 1 and "quarantined: " in told
        assert all(part in told for part in (first.instance, other.instance, "127.0.0.1", "203.0.113.9"))
        entry = AuditEntry.objects.get(action="gateway.quarantined")
        assert entry.severity == "critical" and {first.instance, other.instance} <= set(entry.details.values())
        other.heartbeat()
        assert AuditEntry.objects.filter(action="gateway.quarantined").count() == 1, "told once"

    def test_get_no_lease_no_work_and_no_values_and_keep_what_they_have(self, npr: Pair) -> None:
        for gateway in self.proven(npr[0]):
            assert verdict_of(gateway) in ("quarantined", "another_instance")
            assert gateway.directive().assigned_role is Assignment.DRAINING
            for answer in (gateway.claim(), gateway.changes(), gateway.acknowledge_fence(str(uuid.uuid4()), 1)):
                assert code_of(answer) in ("GATEWAY_QUARANTINED", "ANOTHER_INSTANCE")

    def test_a_release_counts_until_there_is_new_proof(self, npr: Pair, admin: Person) -> None:
        first, other = self.proven(npr[0])
        assert admin.post(f"gateways/{first.id}/release", {"reason": "the copy was stopped"})[0] == 200
        assert verdict_of(first) == "granted"
        other.heartbeat()
        assert first.row.held_at is None, "nobody lived on since then as far as is known"
        let_time_pass(first, 30)
        first.heartbeat()
        first.row.__class__.objects.filter(pk=first.id).update(released_at=database_now() - timedelta(seconds=20))
        other.heartbeat()
        assert first.row.held_code == "two_lives"

    def test_a_new_enrolment_leaves_the_copy_behind(self, npr: Pair) -> None:
        first, other = self.proven(npr[0])
        reborn = FakeGateway(first.name).enrol()
        assert reborn.row.held_at is None and not reborn.heartbeat().waits
        assert code_of(other.heartbeat()) == "CERTIFICATE_REVOKED"

    def test_one_number_twice_from_one_process_is_proof(self, npr: Pair) -> None:
        """The memory of a running machine was copied, so that both copies call themselves the same."""
        first, _ = npr
        header = first.header(paths.HEARTBEAT)
        assert first.send(paths.HEARTBEAT, first.report(), header=header).status_code == 200
        again = structs.replace(header, message_id=str(uuid.uuid4()))
        assert code_of(first.send(paths.HEARTBEAT, first.report(), header=again)) == "NUMBER_USED"
        assert first.row.held_code == "two_lives" and verdict_of(first) == "quarantined"

    def test_two_that_share_no_number_are_proof_when_neither_falls_silent(self, npr: Pair) -> None:
        first, _ = npr
        other = first.restarted()
        for seconds in (9, 9, 30):
            first.renew_lease()
            other.heartbeat()
            assert first.row.held_at is None
            let_time_pass(first, seconds)
        first.heartbeat()
        other.heartbeat()
        assert first.row.held_code == "two_lives"

    def test_the_same_message_again_is_a_replay_and_proves_nothing(self, npr: Pair) -> None:
        first, _ = npr
        wire = first.wire(first.report(), first.header(paths.HEARTBEAT))
        assert first.post(paths.HEARTBEAT, wire).status_code == 200
        for _ in range(3):
            assert code_of(first.post(paths.HEARTBEAT, wire)) == "REPLAYED"
        assert first.row.held_at is None

    @pytest.mark.parametrize("forged", ["signature", "certificate"])
    def test_a_forged_message_proves_nothing(self, npr: Pair, forged: str) -> None:
        first, second = npr
        header = first.header(paths.HEARTBEAT)
        assert first.send(paths.HEARTBEAT, first.report(), header=header).status_code == 200
        before = MessageReceipt.objects.count(), GatewayInstance.objects.count()
        again = structs.replace(header, message_id=str(uuid.uuid4()), instance=str(uuid.uuid4()))
        thief = FakeGateway(first.name) if forged == "signature" else first
        thief.certificate, thief.id = first.certificate, first.id
        peer = first.der() if forged == "signature" else second.der()
        assert code_of(thief.send(paths.HEARTBEAT, first.report(), header=again, peer=peer)) == "ENVELOPE_REFUSED"
        assert first.row.held_at is None
        assert (MessageReceipt.objects.count(), GatewayInstance.objects.count()) == before

    def test_a_withheld_message_of_the_former_process_proves_nothing(self, npr: Pair) -> None:
        """Somebody on the way kept one back and delivers it when the next process speaks."""
        first, _ = npr
        late = first.wire(
            first.report(), structs.replace(first.header(paths.HEARTBEAT), issued_at=first.header("").issued_at - 200)
        )
        after = skipped(first.copied())
        let_time_pass(first, 12)
        first.post(paths.HEARTBEAT, late)
        after.heartbeat()
        assert first.row.held_at is None


class TestADatabaseThatWasPutBack:
    def put_back(self, gateway: FakeGateway, *, writes: int = 0) -> FakeGateway:
        """The former process ended in order; the next one runs on the database of earlier."""
        gateway.release_lease()
        other = gateway.copied()
        other.sequence, other.write_sequence = 2, writes
        return other

    def test_goes_on_beyond_the_used_numbers_within_one_call(self, npr: Pair, admin: Person) -> None:
        first, _ = npr
        back = skipped(self.put_back(first))
        assert not back.heartbeat().waits and verdict_of(back) == "granted"
        assert back.directive().assigned_role is Assignment.ACTIVE
        assert "its database was put back to an earlier state" in why(admin, first) and first.row.held_at is None
        assert AuditEntry.objects.filter(action="gateway.put_back", severity="warning").count() == 1

    def test_takes_no_write_before_it_has_gone_beyond_the_numbers_of_its_writes(self, npr: Pair) -> None:
        first, desk = npr[0], Desk(*npr)
        secret = desk.secret()
        for value in ("two", "three"):
            first.upload_one(desk.write(secret, value))
        first.heartbeat(write_queue_last_sequence=2)
        back = skipped(self.put_back(first, writes=1))
        assert back.directive().assigned_role is Assignment.DRAINING
        told = back.heartbeat(write_queue_last_sequence=1)
        assert (told.assigned_role, told.writes_seen) == (Assignment.DRAINING, 2)
        told = back.heartbeat(write_queue_last_sequence=2)
        assert (told.assigned_role, told.writes_seen) == (Assignment.ACTIVE, 0) and first.row.held_at is None

    def test_is_quarantined_when_writes_it_had_acknowledged_are_gone(self, npr: Pair, admin: Person) -> None:
        first, _ = npr
        first.heartbeat(write_queue_last_sequence=7)
        back = skipped(self.put_back(first))
        assert back.heartbeat(write_queue_last_sequence=3).writes_seen == 7
        told = why(admin, first)
        assert "put back to an earlier state" in told and "4 to 7" in told and "two machines" not in told
        assert first.row.held_code == "put_back" and verdict_of(back) == "granted", "one life: it finishes what it has"

    def test_a_lost_write_below_one_that_arrived_is_noticed_too(self, npr: Pair, admin: Person) -> None:
        """The first was promised and waits; the second and third were applied while their callers waited."""
        first, desk = npr[0], Desk(*npr)
        writes = [desk.write(desk.secret(f"key/{number}"), "two") for number in range(3)]
        first.upload(*writes[1:])
        first.heartbeat(write_queue_last_sequence=3)
        skipped(self.put_back(first)).heartbeat(write_queue_last_sequence=0)
        assert first.row.held_code == "put_back" and "1 of the writes" in why(admin, first)

    def test_under_a_running_process_is_noticed_by_its_next_heartbeat(self, npr: Pair) -> None:
        first, _ = npr
        first.heartbeat(write_queue_last_sequence=7)
        assert first.heartbeat(write_queue_last_sequence=5).writes_seen == 7
        assert first.row.held_code == "put_back"

    def test_an_old_heartbeat_that_comes_late_is_none(self, npr: Pair) -> None:
        first, _ = npr
        late = first.header(paths.HEARTBEAT)
        first.heartbeat(write_queue_last_sequence=7)
        answer = first.send(paths.HEARTBEAT, first.report(write_queue_last_sequence=5), header=late)
        assert first.open(answer, messages.Directive).writes_seen == 0 and first.row.held_at is None

    def test_is_noticed_after_its_receipts_are_gone(self, npr: Pair) -> None:
        first, _ = npr
        MessageReceipt.objects.update(received_at=database_now() - timedelta(hours=1))
        assert instances.drop_receipts() > 0 and not MessageReceipt.objects.exists()
        back = self.put_back(first)
        assert code_of(back.heartbeat()) == "NUMBER_USED"
        assert first.row.held_at is None


ANSWERED_WHILE_WAITING = {"heartbeat", "directive", "lease", "release", "give_changes", "sign_out"}
ANSWERED_IN_QUARANTINE = {"heartbeat", "directive", "lease", "release", "take_writes", "audit_upload", "sign_out"}
ANSWERED_WHEN_HELD = ANSWERED_IN_QUARANTINE | {"fence", "drain", "sign_of_life", "task_results", "renew", "give_changes"}
"""The table of ADR 28. Whoever adds a call decides here; the answer for a call that is not named is no."""


REFUSALS = ("ANOTHER_INSTANCE", "GATEWAY_QUARANTINED", "GATEWAY_HELD")


class TestEveryCall:
    def answers(self, gateway: FakeGateway) -> set[str]:
        """Calls that are not refused for who asks; an empty body is refused for what it is, later."""
        found = set()
        for view, path in channel_views().items():
            answer = gateway.call(path, messages.Acknowledged(), messages.Acknowledged)
            refused = hasattr(answer, "status_code") and code_of(answer) in REFUSALS
            found |= set() if refused else {view}
        return found

    def test_of_an_instance_that_waits(self, npr: Pair) -> None:
        assert self.answers(npr[0].restarted()) == ANSWERED_WHILE_WAITING

    def test_of_a_gateway_that_lives_twice(self, npr: Pair) -> None:
        first, _ = TestTwoLives().proven(npr[0])
        assert self.answers(first) == ANSWERED_IN_QUARANTINE

    def test_of_a_gateway_that_is_held(self, npr: Pair) -> None:
        """It finishes what it has, and is given nothing new: no work, no value, no vault, no sign-in (ADR 3)."""
        assert fleet.hold("NPR", Gateway.objects.filter(pk=npr[0].row.pk), "its bootstrap token was presented again", now())
        assert self.answers(npr[0]) == ANSWERED_WHEN_HELD


def channel_views() -> dict[str, str]:
    """Every sealed call, by the name of its function."""
    found: dict[str, str] = {}

    def collect(patterns: Any, prefix: str) -> None:
        for pattern in patterns:
            where = prefix + str(pattern.pattern)
            if hasattr(pattern, "url_patterns"):
                collect(pattern.url_patterns, where)
            elif getattr(pattern.callback, "__module__", "") == machine_api.__name__ and "/channel/" in where:
                found.setdefault(pattern.callback.__name__, "/" + where.rstrip("/"))

    collect(get_resolver().url_patterns, "")
    assert len(found) > 20
    return found


class TestCost:
    def test_a_message_of_the_current_instance_costs_one_statement(self, npr: Pair) -> None:
        first, _ = npr
        with CaptureQueriesContext(connection) as seen:
            first.call("/api/v1/gateways/channel/lease", messages.RenewLease(epoch=1, sent_at="x"), messages.LeaseAnswer)
        assert len([one for one in seen.captured_queries if "gatewaypresence" in one["sql"]]) == 1

    def test_remembers_few_instances(self, npr: Pair) -> None:
        first, _ = npr
        for _ in range(20):
            first.restarted().heartbeat()
            let_time_pass(first, 0.5)
        rows = GatewayInstance.objects.filter(gateway_id=first.id)
        assert rows.count() <= instances.KEPT and rows.filter(instance=first.instance).exists()


def test_a_lease_is_granted_only_to_the_instance_that_is_current_when_it_is_stored(npr: Pair) -> None:
    """A Primary process stood still between taking the message and renewing the lease."""
    first, _ = npr
    GatewayPresence.objects.filter(gateway_id=first.id).update(instance=uuid.uuid4())
    grant = routes.renew_lease(first.row, instance=first.instance, epoch=1, sequence=10**6, skew_seconds=0)
    assert grant.verdict is LeaseVerdict.ANOTHER_INSTANCE


class TestLateWords:
    def test_a_call_of_the_former_life_does_not_unseat_the_instance_of_the_new_one(self, npr: Pair) -> None:
        """What a worker read with the certificate, before the gateway was enrolled anew; then it stood still."""
        active, _ = npr
        read_before, late = Gateway.objects.get(id=active.id), active.header(paths.HEARTBEAT)
        reborn = FakeGateway(active.name, active.environment, active.role).enrol()
        Route.objects.filter(pk=active.environment).update(lease_blocked_until=None, lease_until=None)  # that block has passed
        reborn.take_over()
        assert verdict_of(reborn) == "granted"
        clone = reborn.restarted()
        assert verdict_of(clone) == "another_instance"
        with pytest.raises(PermissionRefused, match="enrolled anew"):
            instances.hear(read_before, late, "10.0.0.1")
        assert verdict_of(clone) == "another_instance", "the lease of the first one still lives"

    def test_an_instance_that_waited_and_said_goodbye_never_counts(self, npr: Pair) -> None:
        active, _ = npr
        other = active.restarted()
        assert verdict_of(other) == "another_instance"
        other.release_lease()
        let_time_pass(active, 60)
        assert verdict_of(other) != "granted"
        assert verdict_of(active) == "granted", "the current one goes on"


class TestAClockThatWasPutBack:
    """The gateway's own: each of its messages looks as if it had been long on its way."""

    def say(self, gateway: FakeGateway, *, put_back: int) -> GatewayInstance:
        header = gateway.header(paths.HEARTBEAT)
        gateway.send(paths.HEARTBEAT, gateway.report(), header=structs.replace(header, issued_at=header.issued_at - put_back))
        return GatewayInstance.objects.get(gateway_id=gateway.id)

    def test_does_not_make_an_honest_gateway_late_for_ever(self, npr: Pair) -> None:
        first, _ = npr
        before = self.say(first, put_back=0)
        for _ in range(60):
            GatewayInstance.objects.update(lag_grown_at=database_now() - timedelta(minutes=1))
            row = self.say(first, put_back=60)
            if row.heard_at > before.heard_at:
                break
        assert row.heard_at > before.heard_at and row.lag_seconds <= 60

    def test_is_believed_slowly_in_the_statement_as_in_the_rule(self, npr: Pair) -> None:
        first, _ = npr
        before = self.say(first, put_back=0)
        GatewayInstance.objects.update(lag_grown_at=database_now() - timedelta(minutes=1))
        raised = self.say(first, put_back=100)
        assert raised.lag_seconds == pytest.approx(before.lag_seconds + 5, abs=0.3) and raised.heard_at == before.heard_at
        again = self.say(first, put_back=100)
        assert (again.lag_seconds, again.lag_grown_at) == (raised.lag_seconds, raised.lag_grown_at), "once in a while only"
        assert self.say(first, put_back=0).lag_seconds < 2

    def test_makes_one_that_waits_punctual_in_time_too(self, npr: Pair) -> None:
        first, _ = npr
        other = skipped(first.restarted())
        mine = GatewayInstance.objects.filter(instance=other.instance)
        header = structs.replace(other.header(paths.HEARTBEAT), issued_at=other.header(paths.HEARTBEAT).issued_at - 100)
        mine.update(lag_seconds=0, lag_grown_at=database_now() - timedelta(minutes=1))
        other.send(paths.HEARTBEAT, other.report(), header=header)
        assert mine.get().lag_seconds == pytest.approx(5, abs=0.3)
