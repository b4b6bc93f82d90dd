"""The machine lane: many calls in one loop, their statements in groups, and nothing answered before its commit (I7)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from common import group_commit
from common.direct import open_connection
from gateways import dispatch, fleet, lane, signs
from gateways.kinds import KINDS
from gateways.models import GatewayStatus, MessageReceipt
from protocol import messages, paths
from protocol.vocabulary import LeaseVerdict
from tests.conftest import fleet_of
from tests.fakes.gateway import FakeGateway
from tests.fakes.lane import RunningLane, running_lane

pytestmark = [pytest.mark.usefixtures("committed_primary"), pytest.mark.xdist_group("lane")]
AT_ONCE = 4
NOTICE_SECONDS = 1.0
"""A ban or a revocation counts after so long at most."""


@pytest.fixture
def running() -> Iterator[RunningLane]:
    with running_lane() as made:
        yield made


@pytest.fixture
def pair(committed_primary: None, running: RunningLane) -> tuple[FakeGateway, FakeGateway]:
    first, second = fleet_of("NPR")
    return running.take(first), running.take(second)


def together(*calls: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [one.result() for one in [pool.submit(apart, call) for call in calls]]


def apart(call: Callable[[], Any]) -> Any:
    """In a thread that takes no connection along when it ends."""
    try:
        return call()
    finally:
        connection.close()


@contextmanager
def held(statement: str, *values: Any) -> Iterator[None]:
    """Somebody else holds these rows meanwhile."""
    with open_connection() as other, other.transaction():
        other.execute(statement, values)
        yield


def until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"did not come true within {seconds} s"
        time.sleep(0.01)


def test_every_call_of_a_gateway_is_served_there(pair: Any) -> None:
    first, second = pair
    assert first.heartbeat().assigned_role == "active" and second.heartbeat().assigned_role == "standby"
    assert first.renew_lease().verdict is LeaseVerdict.GRANTED and second.renew_lease().verdict is LeaseVerdict.NOT_ACTIVE
    assert first.directive().revision == first.heartbeat().revision
    assert first.claim().tasks == [] and first.changes().generation
    assert first.renew().certificate and first.heartbeat().epoch == 1
    assert first.release_lease().detail == "released"


def test_registration_and_trust_are_served_there(running: RunningLane, committed_primary: None) -> None:
    newcomer = running.take(FakeGateway("gw-npr-primary")).enrol()
    assert newcomer.heartbeat().epoch in (0, 1)
    assert running.take(FakeGateway("gw-npr-primary")).register(newcomer.token).status_code == 409


def test_many_at_once_are_committed_together_and_each_gets_its_own_answer(
    pair: Any, running: RunningLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, serve = [], group_commit.Group._stated

    async def counted(group: Any, items: Any) -> Any:
        sizes.append(len(items))
        return await serve(group, items)

    monkeypatch.setattr(group_commit.Group, "_stated", counted)
    first, second = pair
    answers = together(*(lambda one=one: one.renew_lease() for one in [first, second] * 20))
    assert [one.verdict for one in answers] == ["granted", "not_active"] * 20
    assert max(sizes) > 1 and MessageReceipt.objects.filter(gateway_id=first.id).count() >= 20


def test_the_same_bytes_are_taken_once_even_when_they_come_together(pair: Any) -> None:
    first, _ = pair
    body = messages.RenewLease(epoch=1, sent_at=datetime.now(UTC).isoformat())
    wire = first.wire(body, first.header(paths.LEASE_RENEW))
    answers = together(*(lambda: first.post(paths.LEASE_RENEW, wire) for _ in range(8)))
    assert sorted(one.status_code for one in answers) == [200, *[409] * 7]
    assert all(b"REPLAYED" in one.content for one in answers if one.status_code == 409)


def test_a_row_that_somebody_holds_holds_up_nobody_else(pair: Any, running: RunningLane) -> None:
    first, _ = pair
    other = running.take(fleet_of("PRO")[0])
    with ThreadPoolExecutor(1) as pool:
        with held("SELECT 1 FROM gateways_route WHERE environment_id = 'NPR' FOR UPDATE"):
            waits = pool.submit(apart, first.renew_lease)
            began = time.monotonic()
            assert all(other.renew_lease().verdict is LeaseVerdict.GRANTED for _ in range(5))
            assert time.monotonic() - began < 5 and not waits.done()
        assert waits.result().verdict is LeaseVerdict.GRANTED


def test_a_poisoned_item_fails_alone(pair: Any, running: RunningLane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group is one transaction: what makes the database refuse it would take everybody with it."""
    first, second = pair
    with connection.cursor() as cursor:
        cursor.execute(
            f"""CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.gateway_id = '{first.id}' THEN RAISE EXCEPTION 'poisoned'; END IF; RETURN NEW; END $$;
            CREATE TRIGGER poison BEFORE UPDATE ON gateways_gatewaystatus FOR EACH ROW EXECUTE FUNCTION poison()"""
        )
    try:
        answers = together(*(lambda one=one: one.heartbeat() for one in [first, second] * 6))
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER poison ON gateways_gatewaystatus; DROP FUNCTION poison()")
    assert [getattr(one, "status_code", 200) for one in answers] == [500, 200] * 6
    assert first.heartbeat().assigned_role == "active"


def test_nothing_is_answered_before_its_commit(pair: Any, running: RunningLane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database ends every session of the lane at the moment of the commit: no call hears that it was done."""
    first, second = pair
    before = {row.gateway_id: row.heartbeat_at for row in GatewayStatus.objects.all()}
    with connection.cursor() as cursor:
        cursor.execute(
            """CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER cut AFTER UPDATE ON gateways_gatewaystatus DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION cut()"""
        )
    try:
        answers = together(*(lambda one=one: one.heartbeat() for one in (first, second)))
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER cut ON gateways_gatewaystatus; DROP FUNCTION cut()")
    assert {one.status_code for one in answers} == {503} and all(int(one.headers["Retry-After"]) >= 1 for one in answers)
    assert {row.gateway_id: row.heartbeat_at for row in GatewayStatus.objects.all()} == before
    until(lambda: getattr(first.heartbeat(), "assigned_role", "") == "active", 10)


def end(gateway: FakeGateway, how: str) -> None:
    if how == "revoked":
        with connection.cursor() as cursor:
            cursor.execute("UPDATE gateways_gatewaycertificate SET revoked_at = now() WHERE gateway_id = %s", [gateway.id])
        return
    use_case = {"banned": fleet.ban, "decommissioned": fleet.decommission}[how]
    use_case(uuid.UUID(gateway.id), reason="test", actor="user:test", address="", now=datetime.now(UTC))


@pytest.mark.parametrize("how", ["banned", "revoked", "decommissioned"])
class TestRevocation:
    def test_what_was_remembered_is_forgotten_within_a_second(self, pair: Any, running: RunningLane, how: str) -> None:
        first, second = pair
        assert first.heartbeat().epoch == second.heartbeat().epoch == 1 and running.desk._known.certificate_count == 2
        end(second, how)
        until(lambda: running.desk._known.certificate_count == 1, NOTICE_SECONDS)
        assert second.heartbeat().status_code == 403 and first.heartbeat().epoch == 1

    def test_it_counts_at_once_also_where_no_notice_arrives(
        self, pair: Any, running: RunningLane, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        _, second = pair
        second.heartbeat()
        monkeypatch.setattr(running.desk._known, "heed", lambda _: None)
        end(second, how)
        beaten = GatewayStatus.objects.get(pk=second.id).heartbeat_at
        assert second.heartbeat().status_code == 403 and second.renew_lease().status_code == 403
        assert GatewayStatus.objects.get(pk=second.id).heartbeat_at == beaten


def test_nothing_is_remembered_while_no_notice_could_arrive(pair: Any, running: RunningLane) -> None:
    first, _ = pair
    first.heartbeat()
    assert running.desk._known.certificate_count == 1
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' OR query = 'SELECT 1'")
    until(lambda: not running.desk._known.is_on, NOTICE_SECONDS)
    assert first.heartbeat().epoch == 1 and running.desk._known.certificate_count == 0
    until(lambda: running.desk._known.is_on, 5)
    first.heartbeat()
    assert running.desk._known.certificate_count == 1


def test_a_look_up_that_is_older_than_a_notice_is_not_remembered() -> None:
    known = lane.Known()
    known.is_on = True
    turn = known.turn
    known.heed("")
    known.remember_key("signing", object(), turn)
    assert known.key("signing") is None
    known.remember_key("signing", "key", known.turn)
    assert known.key("signing") == "key"


class TestWaiting:
    def test_a_call_waits_until_its_environment_is_told_something(self, pair: Any) -> None:
        _, second = pair
        before = second.directive().revision
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(apart, lambda: second.directive(before, 20))
            time.sleep(0.5)
            assert not call.done()
            number = signs.ask(second.row)
            assert call.result(2).sign == number

    def test_work_that_becomes_due_without_a_notice_is_told(self, pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lane, "DUE_SECONDS", 0.5)
        first, _ = pair
        dispatch.offer("NPR", KINDS["gateway.probe"], {}, actor="user:test", address="", pause=timedelta(seconds=2))
        before = first.directive()
        assert not before.tasks_waiting
        assert first.directive(after=before.revision, wait=20).tasks_waiting

    def test_at_the_end_of_its_time_it_is_answered(self, pair: Any) -> None:
        _, second = pair
        began, before = time.monotonic(), second.directive()
        assert second.directive(after=before.revision, wait=1).revision == before.revision
        assert 0.9 < time.monotonic() - began < 5

    def test_beyond_the_places_it_is_told_when_to_ask_again(self, pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        _, second = pair
        monkeypatch.setattr(lane, "MOST_WAITING", 0)
        answer = second.directive(after=second.directive().revision, wait=20)
        assert 5 <= answer.retry_after_seconds <= 15


def test_beyond_its_queue_it_refuses_and_says_when_to_come_again(
    pair: Any, running: RunningLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "MOST_WAITING", 0)
    answer = pair[0].renew_lease()
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1


def test_a_heartbeat_costs_three_statements_and_a_lease_two(pair: Any, running: RunningLane) -> None:
    first, _ = pair
    first.heartbeat()
    for call, most in ((first.heartbeat, ["hear", "look", "store"]), (first.renew_lease, ["hear", "renew"])):
        assert statements_of(running, call) == most


def statements_of(running: RunningLane, call: Callable[[], Any]) -> list[str]:
    """Names of the groups a call uses; whatever is done apart shows as `apart`."""
    names: list[str] = []
    run, apart = running.desk.run, running.desk.apart

    async def noted(statement: Any, item: Any) -> Any:
        names.append(statement.name)
        return await run(statement, item)

    async def noted_apart(work: Any) -> Any:
        names.append("apart")
        return await apart(work)

    running.desk.run, running.desk.apart = noted, noted_apart  # type: ignore[method-assign]
    try:
        call()
    finally:
        running.desk.run, running.desk.apart = run, apart  # type: ignore[method-assign]
    return names


def test_the_known_way_of_messages_never_falls_below_one_that_was_seen(pair: tuple[FakeGateway, FakeGateway]) -> None:
    """Two messages at once: the second waits for the row that the first one changes, and goes by what is there then."""
    gateway = pair[0]
    with open_connection() as other, ThreadPoolExecutor(1) as pool:
        other.execute("UPDATE gateways_gatewayinstance SET lag_seconds = 60 WHERE gateway_id = %s", [gateway.id])
        with other.transaction():
            other.execute("UPDATE gateways_gatewayinstance SET lag_seconds = 0.01 WHERE gateway_id = %s", [gateway.id])
            heard = pool.submit(gateway.heartbeat)
            time.sleep(0.5)
            assert not heard.done(), "the message was to wait for the row"
        assert heard.result(20).epoch == 1
        rows = other.execute("SELECT lag_seconds FROM gateways_gatewayinstance WHERE gateway_id = %s", [gateway.id]).fetchall()
    assert all(-1.0 < lag < 5.0 for (lag,) in rows), rows
