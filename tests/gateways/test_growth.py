"""Work that does not grow: what a heartbeat, a directive, a look at the fleet and a scrape cost (DESIGN §10)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext

from common import audit
from common.clock import now
from gateways import audit_chains, copy_digests, directives, heartbeats, selectors, sightings
from gateways.instances import Seat
from gateways.lane import Doors
from gateways.models import AuditCountersignature, CopiedThing, CopyDigest, Gateway, GatewayStatus, LossManifest, TaskMinute
from gateways.replica_records import VERSIONS_SHOWN
from protocol import messages, paths
from protocol.audit import countersign, statement_of
from protocol.replica import digest
from protocol.vocabulary import WriteOperation
from tests.conftest import Person
from tests.fakes.gateway import FakeGateway
from tests.gateways.desk import Desk
from tests.gateways.test_replicas import copy_of
from vault.models import Secret

MOST_STATEMENTS = 6
"""For a heartbeat with everything in it: who calls, the receipt, one look, one store, the new version, the countersignature."""
_FRAMES = ("SAVEPOINT", "RELEASE", "BEGIN", "COMMIT")


@pytest.fixture
def desk(npr: Any) -> Desk:
    return Desk(*npr)


@contextmanager
def statements(most: int) -> Iterator[None]:
    """At most so many statements run inside, without the frames of transactions."""
    with CaptureQueriesContext(connection) as seen:
        yield
    ran = [one["sql"] for one in seen.captured_queries if not one["sql"].startswith(_FRAMES)]
    assert len(ran) <= most, "\n\n".join(ran)


def sql(text: str, *values: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(text, values)


def lose_the_first(desk: Desk) -> None:
    """A manifest stays open although its gateway is back and empty: two of its writes never came."""
    desk.active.heartbeat(write_queue_depth=2, write_queue_last_sequence=2)
    desk.move_to_standby(acknowledged=False)
    desk.active.take_over()


def sealed(gateway: FakeGateway, **said: Any) -> Callable[[], messages.Directive]:
    """A heartbeat as it is on the wire; calling it sends it."""
    wire = gateway.wire(gateway.report(**said), gateway.header(paths.HEARTBEAT))
    sent = list[Any]()

    def send() -> messages.Directive:
        sent.append(gateway.post(paths.HEARTBEAT, wire))
        assert sent[-1].status_code == 200, sent[-1].content
        return sent[-1]

    return send


def full_report(
    gateway: FakeGateway, version: str, checkpoint: messages.SignedCheckpoint, copy: tuple[int, str]
) -> Callable[[], Any]:
    said = messages.Countersigned(
        statement_of(checkpoint.text).position, audit_chains.digest_of(checkpoint.text),
        countersign(checkpoint.text, gateway.keys.signing),
    )  # fmt: skip
    return sealed(
        gateway,
        version=version,
        countersigned=said,
        replica_position=copy[0],
        replica_digest=copy[1],
        write_queue_last_sequence=2,
    )


def new_checkpoint(gateway: FakeGateway, days: int) -> messages.SignedCheckpoint:
    with_entry()
    assert audit_chains.sign_checkpoint(now() + timedelta(days=days))
    return gateway.heartbeat().checkpoint


def with_entry() -> None:
    from django.db import transaction

    with transaction.atomic():
        audit.record(actor="system", action="test", entity="test", entity_id="")
    audit.chain_all_pending()


def grow(desk: Desk, secrets: int, tasks: int, writes: int) -> None:
    """What a large and old installation holds, put there in bulk."""
    one = desk.secret("first")
    sql("""INSERT INTO vault_secret (id, project_id, environment_id, key, type, description, tags, metadata, ttl_hours, rotation,
                                     status, version, created_by, created_at, updated_at)
           SELECT gen_random_uuid(), project_id, environment_id, 'k/' || i, 'general', '', '[]', '{}', 0, NULL, 'active', 1, 'x',
                  now(), now() FROM vault_secret, generate_series(1, %s) AS i WHERE id = %s""", secrets, one.id)  # fmt: skip
    sql("""INSERT INTO common_change (scope, kind, entity_id, position)
           SELECT 'NPR', 'secret', id, 1000 + row_number() OVER () FROM vault_secret WHERE key LIKE 'k/%%'""")
    sql("""INSERT INTO gateways_task (id, environment_id, kind, payload, state, created_by, created_at, not_before, attempts,
               epoch, gateway_id, claim, finished_at, duration_seconds, detail, result)
           SELECT gen_random_uuid(), 'NPR', 'sync.run', '{}', 'succeeded', 'user:x', now(), now(), 1, 1, %s, gen_random_uuid(),
                  now() - interval '1 day', 1.0, 'done', '{}'
             FROM generate_series(1, %s) AS i""", desk.active.id, tasks)  # fmt: skip
    sql("""INSERT INTO gateways_receivedwrite (id, gateway_id, environment_id, generation, epoch, sequence, in_stream, operation,
               key, actor, accepted_at, head, signature, body_digest, promised, outcome, version, code, detail, attempts,
               not_before, received_at, settled_at, settled_by, resolution)
           SELECT gen_random_uuid(), %s, 'NPR', gen_random_uuid(), 1, i, true, 'update', 'k', 'user:x', '', 'h', '', '', true,
                  'applied', 1, '', '', 0, now(), now() - interval '1 day', now(), 'system', ''
             FROM generate_series(1, %s) i""", desk.active.id, writes)  # fmt: skip
    sql("ANALYZE")


class TestAHeartbeat:
    def test_a_full_one_takes_six_statements(self, desk: Desk) -> None:
        desk.secret()
        lose_the_first(desk)
        full_report(
            desk.active, "1.0.1", new_checkpoint(desk.active, 1), (0, "")
        )()  # the first one of a life makes its key known
        copy_digests.advance_all()
        checkpoint, copy = new_checkpoint(desk.active, 2), copy_of(desk.active)
        send = full_report(desk.active, "1.0.2", checkpoint, copy)
        with statements(MOST_STATEMENTS):
            send()
        assert AuditCountersignature.objects.count() == 2 and LossManifest.objects.filter(closed_at=None).exists()
        assert Gateway.objects.get(pk=desk.active.id).version == "1.0.2"
        assert GatewayStatus.objects.get(pk=desk.active.id).report["version"] == "1.0.2"

    def test_an_ordinary_one_takes_four(self, desk: Desk) -> None:
        send = sealed(desk.active)
        with statements(4):
            send()

    def test_it_takes_as_many_and_looks_at_as_little_in_a_large_installation(self, desk: Desk) -> None:
        grow(desk, secrets=3000, tasks=20_000, writes=20_000)
        copy_digests.advance_all()
        lose_the_first(desk)
        head = CopyDigest.objects.get(pk="NPR")
        copy = {"replica_position": head.position, "replica_digest": head.digest}
        send = sealed(desk.active, **copy)
        with statements(4):
            send()
        assert rows_read(sealed(desk.active, **copy)) < 200

    def test_what_the_directive_says_is_what_a_directive_call_says(self, desk: Desk) -> None:
        for gateway in (desk.active, desk.standby):
            assert gateway.heartbeat().revision == directives.directive_for(gateway.row, Seat(True)).revision


def rows_read(call: Callable[[], Any]) -> int:
    """Rows and index entries that PostgreSQL fetched from the large tables meanwhile."""
    counted = """SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0) FROM pg_stat_xact_user_tables
                  WHERE relname IN ('vault_secret', 'gateways_task', 'gateways_receivedwrite', 'gateways_copiedthing',
                                    'common_change', 'common_auditentry')"""

    def total() -> int:
        with connection.cursor() as cursor:
            cursor.execute(counted)
            return int(cursor.fetchone()[0])

    before = total()
    call()
    return total() - before


class TestTheFleet:
    def test_a_look_at_it_takes_one_statement_and_a_scrape_as_many_for_three_gateways_as_for_sixty(
        self, desk: Desk, admin: Person
    ) -> None:
        costs = []
        admin.get("admin/gateway-health")
        for more in (1, 57):
            sql("""INSERT INTO gateways_gateway (id, name, environment_id, role, standby_mode, generation, signing_key,
                       encryption_key, server_names, version, enrolled_at, created_at, held_reason, decommissioned_at)
                   SELECT gen_random_uuid(), 'gw-' || %s || '-' || i, 'PRO', 'role-' || %s || '-' || i, 'warm',
                          gen_random_uuid(), 'k', 'k', '[]', '1.0.0', now(), now(), '', NULL
                     FROM generate_series(1, %s) AS i""", more, more, more)  # fmt: skip
            sql("""INSERT INTO gateways_gatewaystatus (gateway_id, report, clock_skew_seconds, score, label, label_memory,
                       good_in_row, consecutive_failures, highest_epoch)
                   SELECT id, '{}', 0, 0, 'silent', '{}', 0, 0, 0 FROM gateways_gateway g
                    WHERE NOT EXISTS (SELECT 1 FROM gateways_gatewaystatus WHERE gateway_id = g.id)""")  # fmt: skip
            found = [
                count(lambda: admin.get("admin/gateway-health")), count(lambda: admin.get("/metrics")),
                count(lambda: admin.get("gateways")), count(heartbeats.count_missed),
            ]  # fmt: skip
            costs.append(found)
            GatewayStatus.objects.update(judged_at=None)
        assert len(admin.get("admin/gateway-health")[1]) == 60
        assert costs[0] == costs[1] and costs[1][3] == 2, costs

    def test_a_directive_call_looks_once(self, desk: Desk) -> None:
        row = desk.active.row
        with statements(1):
            directives.directive_for(row, Seat(True))

    def test_a_notice_of_one_environment_wakes_its_own_calls_only(self, desk: Desk) -> None:
        doors = Doors()
        before = {code: doors.turn(code) for code in ("NPR", "PRO")}
        doors.wake("NPR")
        doors.wake("PRO")
        assert (doors.turn("NPR"), doors.turn("PRO")) == (before["NPR"] + 1, before["PRO"] + 1)
        doors.wake()
        assert doors.turn("NPR") == before["NPR"] + 2


def count(call: Callable[[], Any]) -> int:
    with CaptureQueriesContext(connection) as seen:
        call()
    return len([one for one in seen.captured_queries if not one["sql"].startswith(_FRAMES)])


class TestTaskCounts:
    def test_health_counts_what_ended_in_the_last_quarter_of_an_hour(self, desk: Desk) -> None:
        minute = now().replace(second=0, microsecond=0)
        for ago, good, bad in ((0, 3, 1), (10, 2, 2), (16, 100, 100)):
            TaskMinute.objects.create(gateway_id=desk.active.id, minute=minute - timedelta(minutes=ago), good=good, bad=bad)
        seen = sightings.of(uuid.UUID(desk.active.id))
        assert seen is not None and (seen.tasks_good, seen.tasks_bad) == (5, 3)


def without_age(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "last_heartbeat": "", "heartbeat_age_seconds": 0, "certificate_days_left": 0} for row in rows]


class TestTwoClocks:
    @pytest.mark.parametrize("hours", [-1, 1])
    def test_a_primary_process_whose_clock_is_an_hour_off_says_the_same(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch, hours: int
    ) -> None:
        desk.standby.heartbeat()
        report = desk.standby.report()
        said = selectors.gateway_health()
        clock = time.time
        monkeypatch.setattr("time.time", lambda: clock() + hours * 3600)
        heartbeats.take_heartbeat(desk.standby.row, report)
        heartbeats.count_missed()
        status = GatewayStatus.objects.get(pk=desk.standby.id)
        assert abs((status.heartbeat_at - datetime.now(UTC)).total_seconds()) < 30
        assert abs(status.clock_skew_seconds) < 30
        GatewayStatus.objects.update(judged_at=None)
        heartbeats.count_missed()
        assert without_age(selectors.gateway_health()) == without_age(said)

    def test_a_time_stored_by_a_clock_ahead_holds_no_judging_up(self, desk: Desk) -> None:
        GatewayStatus.objects.update(judged_at=now() + timedelta(hours=1))
        heartbeats.count_missed()
        assert not GatewayStatus.objects.filter(judged_at__gt=now() + timedelta(minutes=1)).exists()


class TestTheRunningDigest:
    def test_it_is_what_a_reader_from_the_beginning_holds_after_every_kind_of_change(self, desk: Desk) -> None:
        secret = desk.secret("a")
        for number in range(4):
            desk.secret(f"b/{number}")
            desk.change(WriteOperation.UPDATE, secret.id, value=f"value {number}")
            copy_digests.advance_all()
            assert (CopyDigest.objects.get(pk="NPR").position, CopyDigest.objects.get(pk="NPR").digest) == copy_of(desk.active)
        desk.change(WriteOperation.DELETE, secret.id)
        desk.project.name = "renamed"
        copy_digests.advance_all()
        assert CopyDigest.objects.get(pk="NPR").digest == copy_of(desk.active)[1] == sum_of_things()

    def test_an_older_installation_comes_to_it_in_steps(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(7):
            desk.secret(f"a/{number}")
        position, held = copy_of(desk.active)
        CopyDigest.objects.all().delete()
        CopiedThing.objects.all().delete()
        monkeypatch.setattr(copy_digests, "CHUNK", 2)
        steps = 0
        while copy_digests.advance("NPR"):
            steps += 1
        assert steps >= 4
        assert (CopyDigest.objects.get(pk="NPR").position, CopyDigest.objects.get(pk="NPR").digest) == (position, held)

    def test_a_change_that_nobody_noted_is_found_by_looking_again_and_told(self, desk: Desk) -> None:
        secret = desk.secret("a")
        copy_digests.advance_all()
        before = copy_of(desk.active)
        Secret.objects.filter(id=secret.id).update(description="changed behind the back of the feed")
        assert copy_digests.check("NPR") == 1
        copy_digests.advance_all()
        after = copy_of(desk.active)
        assert after[0] > before[0] and CopyDigest.objects.get(pk="NPR").digest == after[1]

    def test_a_wrong_digest_is_put_right_at_the_end_of_a_round(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(copy_digests, "CHECKED_AT_ONCE", 2)
        secrets = [desk.secret(f"a/{number}") for number in range(5)]
        copy_digests.advance_all()
        while CopyDigest.objects.get(pk="NPR").checked_upto < CopiedThing.objects.get(entity_id=secrets[0].id).id:
            copy_digests.check("NPR")
        desk.change(WriteOperation.UPDATE, secrets[0].id, value="while the round goes on")
        copy_digests.advance_all()
        run_a_round()
        assert "put right" not in caplog.text, "a change in the middle of a round is in the sum of the round too"
        CopyDigest.objects.update(digest=digest(["ff"]))
        run_a_round()
        assert "put right" in caplog.text
        assert CopyDigest.objects.get(pk="NPR").digest == copy_of(desk.active)[1]

    def test_a_copy_of_an_earlier_version_has_another_form_and_is_not_compared(self, desk: Desk) -> None:
        desk.secret()
        copy_digests.advance_all()
        position, _ = copy_of(desk.active)
        assert desk.active.heartbeat(replica_position=position, replica_digest="0" * 64).resync_replica is False

    def test_no_more_versions_are_read_than_a_copy_shows(self, desk: Desk) -> None:
        secret = desk.secret()
        sql("""INSERT INTO vault_secretversion (id, secret_id, version, sealed_value, value_digest, external_version, operation,
                                                author, origin, reason, created_at)
               SELECT gen_random_uuid(), %s, v, NULL, '', '', 'update', 'x', 'primary', '', now() FROM generate_series(2, 1000) v
            """, secret.id)  # fmt: skip
        Secret.objects.filter(id=secret.id).update(version=1000)
        began = time.monotonic()
        page = desk.active.all_changes()[-1]
        assert [one.version for one in page.secrets[0].versions] == list(range(1000, 1000 - VERSIONS_SHOWN, -1))
        assert time.monotonic() - began < settings.MAZEVAULT.timing.heartbeat_interval


def run_a_round() -> None:
    upto = -1
    while upto:
        copy_digests.check("NPR")
        upto = CopyDigest.objects.get(pk="NPR").checked_upto


def sum_of_things() -> str:
    return digest(CopiedThing.objects.filter(environment_id="NPR").values_list("fingerprint", flat=True))
