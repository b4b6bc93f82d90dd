"""Leases whose sender or past nobody knows any more: what the small model found and the rows must hold (I1, I4)."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from django.conf import settings
from django.db.models.functions import Now

from common.clock import database_now, now
from common.errors import PermissionRefused
from common.models import AuditEntry
from failover import driver
from gateway_runtime.identity import Keys
from gateways import enrollment, generation, routes
from gateways.models import Gateway, GatewayStatus, PrimaryNode, Route
from protocol import messages, paths
from protocol.certificates import build_csr
from tests.conftest import Person
from tests.failover.test_api import activate, let_lease_end, state_of
from tests.fakes.gateway import FakeGateway

Pair = tuple[FakeGateway, FakeGateway]


@pytest.fixture
def restored(npr: Pair) -> Pair:
    """The Primary's database is another one: leases were granted that its rows do not know."""
    Route.objects.filter(pk="NPR").update(lease_until=Now() - timedelta(days=1))
    PrimaryNode.objects.update(timeline=99)
    assert generation.look()
    return npr


def test_a_database_that_was_promoted_a_moment_ago_grants_nothing_before_anybody_looked(npr: Pair, admin: Person) -> None:
    """The control file names the new timeline only after the next checkpoint; what is written now is on it already."""
    first, _ = npr
    PrimaryNode.objects.update(timeline=99)
    assert first.renew_lease().verdict == "held"
    let_lease_end()
    assert admin.post("admin/failover/NPR/activate-dr")[0] == 202
    blocked = Route.objects.get(pk="NPR").lease_blocked_until
    assert blocked is not None and blocked > database_now() and state_of(admin)["state"] == "FENCING"


def test_what_was_checked_before_the_statement_is_checked_in_it(npr: Pair, admin: Person) -> None:
    """A ban commits between the look at the certificate and the renewal of a lease or of the certificate."""
    first, _ = npr
    seen, keys = first.row, Keys.generate()
    assert admin.post(f"gateways/{first.id}/ban")[0] == 200
    Route.objects.filter(pk="NPR").update(lease_open=True, danger="")
    assert routes.renew_lease(seen, instance=first.instance, epoch=1, sequence=999, skew_seconds=0).verdict != "granted"
    wish = messages.Renew(csr=build_csr(keys.client, "x"), server_csr=build_csr(keys.server, "x"))
    with pytest.raises(PermissionRefused):
        enrollment.renew(seen, wish, now=database_now())


def test_two_lives_of_a_gateway_that_never_had_a_lease_do_not_both_get_one(npr: Pair, admin: Person) -> None:
    first, second = npr
    activate(admin, first)
    second.take_over()
    former = second.row
    reborn = FakeGateway(second.name, role="dr-standby").enrol()
    assert routes.renew_lease(former, instance=second.instance, epoch=2, sequence=99, skew_seconds=0).verdict != "granted"
    reborn.take_over()
    assert reborn.renew_lease().verdict == "held"
    end_of_block()
    assert reborn.renew_lease().verdict == "granted"


def end_of_block() -> None:
    Route.objects.update(lease_blocked_until=Now() - timedelta(milliseconds=1))


def test_after_a_restore_nobody_gets_a_lease_until_an_unknown_one_must_have_ended(restored: Pair) -> None:
    first, _ = restored
    assert first.renew_lease().verdict == "held"
    blocked = Route.objects.get(pk="NPR").lease_blocked_until - database_now()
    assert blocked.total_seconds() > settings.MAZEVAULT.timing.lease_ttl + settings.MAZEVAULT.timing.drift
    end_of_block()
    assert first.renew_lease().verdict == "granted"


def test_a_failover_right_after_a_restore_waits_for_the_unknown_lease_too(restored: Pair, admin: Person) -> None:
    speak(restored)
    _, body = admin.post("admin/failover/NPR/activate-dr", {"waive": ["source_queue"]})
    driver.drive_all()
    assert (state_of(admin)["state"], state_of(admin)["epoch"]) == ("FENCING", 1)
    assert body["operation"]["waits_until"] == routes_until()
    end_of_block()
    driver.drive_all()
    assert state_of(admin)["state"] == "DR_ACTIVE"


def speak(pair: Pair) -> None:
    """Both say which epoch they have seen."""
    for one in pair:
        one.heartbeat()


def test_nothing_moves_before_the_gateways_said_which_epoch_they_have_seen(restored: Pair, admin: Person) -> None:
    """A database of the past may not know of a later epoch (N14)."""
    first, second = restored
    status, body = admin.post("admin/failover/NPR/activate-dr")
    assert (status, body["code"]) == (409, "EPOCHS_AWAITED") and f"{second.name}, {first.name}" in body["error"]
    first.heartbeat()
    assert second.name in admin.post("admin/failover/NPR/activate-dr")[1]["error"]
    second.heartbeat()
    assert admin.post("admin/failover/NPR/activate-dr")[0] == 202


def test_an_open_operation_is_answered_as_ever_and_a_goal_of_the_past_is_not_called_reached(
    restored: Pair, admin: Person
) -> None:
    """An operation that is open is 202 with itself. That the goal is reached is what the database of the past says: it waits."""
    status, body = admin.post("admin/failover/NPR/failback")
    assert (status, body["code"]) == (409, "EPOCHS_AWAITED")
    speak(restored)
    assert admin.post("admin/failover/NPR/failback")[0] == 200
    status, begun = admin.post("admin/failover/NPR/activate-dr")
    GatewayStatus.objects.update(heartbeat_at=PrimaryNode.objects.get(id=1).since - timedelta(seconds=1))
    again = admin.post("admin/failover/NPR/activate-dr")
    assert status == 202 and again[0] == 202 and again[1]["operation"]["id"] == begun["operation"]["id"]


def test_a_gateway_that_is_gone_is_waited_for_no_longer_than_the_block_lasts(restored: Pair, admin: Person) -> None:
    speak(restored[1:])
    end_of_block()
    assert admin.post("admin/failover/NPR/activate-dr")[1].get("code") != "EPOCHS_AWAITED"


def test_the_wait_counts_from_when_the_block_began(restored: Pair) -> None:
    """`since` is later than what any node remembers, so behind a clock that was put back it lies ahead."""
    began = AuditEntry.objects.filter(action=generation.CHANGED).latest("at").at
    PrimaryNode.objects.update(since=began + timedelta(hours=1))
    Route.objects.update(lease_blocked_until=began + timedelta(days=1))
    awaited = generation.awaited_of("NPR")
    assert awaited is not None and awaited[1] == began + timedelta(seconds=generation.lease_block_seconds())


def routes_until() -> str:
    moment = Route.objects.get(pk="NPR").lease_blocked_until
    return str(moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


def test_a_confirmed_or_forced_promotion_does_not_end_the_block(restored: Pair, admin: Person) -> None:
    first, second = restored
    speak(restored)
    admin.post("admin/failover/NPR/activate-dr")
    order = first.told_to_fence()
    first.acknowledge_fence(order.operation, order.epoch)
    driver.drive_all()
    assert state_of(admin)["active_gateway"] == second.name
    second.take_over()
    assert second.renew_lease().verdict == "held"
    end_of_block()
    assert second.renew_lease().verdict == "granted"


def test_a_gateway_that_begins_a_new_life_does_not_shorten_a_block(restored: Pair) -> None:
    before = Route.objects.get(pk="NPR").lease_blocked_until
    FakeGateway(restored[0].name).enrol()
    assert Route.objects.get(pk="NPR").lease_blocked_until >= before


def test_a_new_life_of_the_active_gateway_waits_for_the_lease_of_the_old_one(npr: Pair) -> None:
    reborn = FakeGateway(npr[0].name).enrol()
    reborn.take_over()
    assert reborn.renew_lease().verdict == "held"
    end_of_block()
    assert reborn.renew_lease().verdict == "granted"


def test_a_release_ends_the_lease_but_an_old_one_does_not_end_a_newer_lease(npr: Pair) -> None:
    first, _ = npr
    old = first.header(paths.LEASE_RELEASE)
    first.renew_lease()
    body = messages.ReleaseLease(epoch=1)
    assert first.open(first.send(paths.LEASE_RELEASE, body, header=old), messages.Acknowledged).detail == "nothing to release"
    assert first.release_lease().detail == "released"
    assert Route.objects.get(pk="NPR").lease_until <= database_now()


def test_a_late_renewal_does_not_open_the_door_to_a_late_release(npr: Pair) -> None:
    """Renewal 1 and release 2 of a process that is gone arrive after renewal 3 of its successor."""
    first, _ = npr
    renewal, release = first.header(paths.LEASE_RENEW), first.header(paths.LEASE_RELEASE)
    assert first.renew_lease().verdict == "granted"
    late = messages.RenewLease(epoch=1, sent_at=database_now().isoformat())
    first.send(paths.LEASE_RENEW, late, header=renewal)
    answer = first.send(paths.LEASE_RELEASE, messages.ReleaseLease(epoch=1), header=release)
    assert first.open(answer, messages.Acknowledged).detail == "nothing to release"
    assert Route.objects.get(pk="NPR").lease_until > database_now()


def test_a_gateway_with_a_wrong_wall_clock_gets_no_lease_and_is_told_why(npr: Pair) -> None:
    first, _ = npr
    wrong = messages.RenewLease(
        epoch=1, sent_at=(database_now() + timedelta(seconds=routes.MAXIMUM_SKEW_SECONDS + 5)).isoformat()
    )
    answer = first.call(paths.LEASE_RENEW, wrong, messages.LeaseAnswer)
    assert answer.verdict == "clock_skew"


def test_fence_orders_are_numbered_so_that_a_cancel_covers_earlier_ones(npr: Pair, admin: Person) -> None:
    first, _ = npr
    numbers = []
    for _ in range(2):
        admin.post("admin/failover/NPR/activate-dr")
        numbers.append(first.told_to_fence().number)
        admin.post("admin/failover/NPR/cancel")
    cancelled = first.take_over().fence
    assert numbers == [1, 2]
    assert (cancelled.cancelled, cancelled.number) == (True, 2)


def test_directives_are_numbered_in_the_order_of_the_changes_they_follow_from(npr: Pair, admin: Person) -> None:
    first, _ = npr
    numbers = [first.take_over().number]
    assert first.take_over().number == numbers[0] > 0, "nothing changed"
    for change in (
        lambda: Gateway.objects.filter(id=first.id).update(drained_at=now()),
        lambda: routes.freeze("NPR", "two truths were seen"),
        lambda: Route.objects.filter(environment_id="NPR").update(drain_operation=uuid.uuid4(), orders=0),
    ):
        change()
        numbers.append(first.take_over().number)
    assert numbers == sorted(set(numbers)), "each change counts, whoever writes it and whatever they write over the count"
