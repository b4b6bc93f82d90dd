"""Many passes, requests and promotions at once, on real connections: each write is applied once and in its time (I3, I8)."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.clock import database_now
from gateways import inbox, routes
from gateways.models import ReceivedWrite, Route
from protocol.writes import WriteBatch
from tests.conftest import fleet_of
from tests.gateways.desk import Desk, history, id_of, row_of, value_of
from tests.gateways.test_races import at_once
from vault.models import SecretVersion


@pytest.mark.usefixtures("committed_primary")
@pytest.mark.xdist_group("races")
class TestRaces:
    def test_passes_side_by_side_apply_each_write_once_and_in_order(self) -> None:
        desk = Desk(*fleet_of("NPR"))
        secrets = [desk.secret(f"key-{number}") for number in range(6)]
        newest: dict[Any, str] = {}
        writes = []
        for number in range(60):
            secret = secrets[number % 6]
            previous = newest.get(secret.id, "")
            write = desk.write(secret, f"v{number}", previous=previous, base_version=None if previous else 1)
            newest[secret.id] = id_of(write)
            writes.append(write)
        desk.active.upload(*writes)
        for _ in range(20):
            at_once(*[inbox.apply_pending] * 4)
            ReceivedWrite.objects.filter(outcome="received").update(not_before=database_now())
        assert set(ReceivedWrite.objects.values_list("outcome", flat=True)) == {"applied"}
        assert SecretVersion.objects.filter(write__isnull=False).count() == 60
        for number, secret in enumerate(secrets):
            assert [version for version, _ in history(secret)] == list(range(1, 12))
            assert value_of(secret) == f"v{54 + number}"

    def test_the_same_batch_many_times_at_once_is_taken_once(self) -> None:
        desk = Desk(*fleet_of("NPR"))
        batch = WriteBatch(writes=[desk.write(desk.secret(f"key-{number}")) for number in range(5)], apply_now=True)
        row = desk.active.row
        answers = at_once(*[lambda: inbox.take_batch(row, batch, database_now())] * 6)
        assert {receipt.outcome.value for answer in answers for receipt in answer.receipts} == {"applied"}
        assert SecretVersion.objects.filter(write__isnull=False).count() == 5

    def test_a_promotion_beside_a_pass_splits_the_writes_cleanly(self) -> None:
        desk = Desk(*fleet_of("NPR"))
        writes = [desk.write(desk.secret(f"key-{number}")) for number in range(40)]
        desk.active.upload(*writes)
        standby = desk.standby.row

        def promote() -> None:
            with transaction.atomic():
                routes.promote(routes.lock_route("NPR"), standby, None)

        at_once(inbox.apply_pending, promote)
        inbox.apply_pending()
        promoted_at = Route.objects.get(pk="NPR").switched_at
        outcomes = [row_of(write) for write in writes]
        assert {row.outcome for row in outcomes} <= {"applied", "quarantined"}
        late = [row for row in outcomes if row.outcome == "applied" and row.settled_at > promoted_at]
        assert late == [], "what was applied was applied before the promotion"


@pytest.fixture
def desk(npr: Any) -> Desk:
    return Desk(*npr)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_part_of_a_queue_any_number_of_times_gives_the_same_state(desk: Desk, data: st.DataObject) -> None:
    """I10: prefixes, suffixes, the whole, in any mixture with passes; the end is the end of a queue sent once."""
    one = desk.secret(f"one-{SecretVersion.objects.count()}")
    other = desk.secret(f"other-{SecretVersion.objects.count()}")
    first, second = desk.write(one, "1"), desk.write(other, "2")
    third = desk.write(one, "3", base_version=None, previous=id_of(first))
    stray = desk.write(other, "4", base_version=1)
    queue = [first, second, third, stray]
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, 3))
        part = queue[start : data.draw(st.integers(start + 1, 4))]
        inbox.take_batch(desk.active.row, WriteBatch(writes=part), database_now())
        if data.draw(st.booleans()):
            ReceivedWrite.objects.filter(outcome="received").update(not_before=database_now())
            inbox.apply_pending()
    for _ in range(2):
        inbox.take_batch(desk.active.row, WriteBatch(writes=queue), database_now())
        ReceivedWrite.objects.filter(outcome="received").update(not_before=database_now())
        inbox.apply_pending()
    assert value_of(one) == "3" and history(one)[-1][0] == 3
    ended = sorted(row_of(write).outcome for write in (second, stray))
    assert ended == ["applied", "conflict"], "both were made on version 1, so one of them meets the other"
    assert [row_of(write).outcome for write in (first, third)] == ["applied", "applied"]
    assert value_of(other) in ("2", "4") and history(other)[-1][0] == 2
