"""What goes when its time is over, and above all what stays (DESIGN §10; I8, I9)."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F

from common import retention
from common.clock import now
from common.models import RemovedTally
from gateways import dispatch, inbox, write_retention
from gateways.models import LossManifest, ReceivedWrite, RejectedResult, Task, WriteStream
from protocol import messages
from protocol.vocabulary import TaskOutcome, WriteOperation, WriteOutcome
from tests.conftest import Person
from tests.gateways.desk import Desk, id_of, row_of, value_of
from vault import values
from vault.models import Secret, SecretVersion

LONG = timedelta(days=4000)


@pytest.fixture
def desk(npr: Any) -> Desk:
    return Desk(*npr)


def result(offered: messages.OfferedTask, outcome: TaskOutcome = TaskOutcome.FAILED, **more: Any) -> messages.TaskResult:
    return messages.TaskResult(
        task=offered.id, claim=offered.claim, epoch=offered.epoch, outcome=outcome, duration_seconds=1.0, **more
    )


class TestTasks:
    def test_a_repeated_report_of_a_failure_is_a_repetition_and_leaves_nothing(self, desk: Desk) -> None:
        dispatch.create_task("NPR", "gateway.probe", {}, actor="user:x", address="")
        offered = desk.active.claim().tasks[0]
        told = [desk.active.results(result(offered)).verdicts[offered.id] for _ in range(3)]
        assert [one.value for one in told] == ["accepted", "duplicate", "duplicate"]
        assert not RejectedResult.objects.exists()

    def test_a_late_result_is_kept_once_however_often_it_is_told(self, desk: Desk) -> None:
        dispatch.create_task("NPR", "gateway.probe", {}, actor="user:x", address="")
        offered = desk.active.claim().tasks[0]
        Task.objects.update(claim=uuid.uuid4())
        for _ in range(3):
            desk.active.results(result(offered))
        assert RejectedResult.objects.count() == 1

    def test_old_ended_tasks_go_with_their_evidence_and_no_others(self, desk: Desk) -> None:
        old, common = now() - LONG, {"environment_id": "NPR", "kind": "gateway.probe", "created_by": "user:x"}
        gone = Task.objects.create(**common, state="failed", finished_at=old)
        RejectedResult.objects.create(task=gone, gateway=desk.active.row, epoch=1, verdict="x", body={})
        stay = [
            Task.objects.create(**common, state="pending", created_at=old),
            Task.objects.create(**common, state="failed", finished_at=now()),
            Task.objects.create(**{**common, "kind": "vault.survey"}, state="succeeded", detail="", finished_at=old),
        ]
        retention.apply("primary")
        assert set(Task.objects.values_list("id", flat=True)) == {one.id for one in stay}
        assert not RejectedResult.objects.exists()
        assert RemovedTally.objects.get(table="gateways_task").total == 1

    def test_a_long_backlog_goes_in_bounded_steps(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "BATCH", 2)
        monkeypatch.setattr(retention, "BATCHES", 2)
        Task.objects.bulk_create(
            Task(environment_id="NPR", kind="gateway.probe", created_by="x", state="failed", finished_at=now() - LONG)
            for _ in range(7)
        )
        left = []
        for _ in range(2):
            retention.apply("primary")
            left.append(Task.objects.count())
        assert left == [3, 0]


class TestVersions:
    def of(self, desk: Desk, newest: int, valued: set[int], **place: Any) -> Secret:
        """A secret whose versions are old; those of `valued` have a value in `place`, the others changed something else."""
        secret, bare = desk.secret(), {"sealed_value": None, "external_version": ""}
        SecretVersion.objects.bulk_create(
            SecretVersion(secret=secret, version=number, operation="update", author="x", origin="primary", reason="",
                          value_digest="", **(bare | place if number in valued else bare))
            for number in range(2, newest + 1)
        )  # fmt: skip
        secret.versions.filter(version=1).update(**(bare | place if 1 in valued else bare))
        Secret.objects.filter(id=secret.id).update(version=newest)
        SecretVersion.objects.update(created_at=now() - LONG)
        secret.refresh_from_db()
        return secret

    def left(self, secret: Secret) -> list[int]:
        retention.apply("primary")
        return list(secret.versions.order_by("version").values_list("version", flat=True))

    @pytest.mark.parametrize("place", [{"sealed_value": b"x"}, {"external_version": "v"}])
    def test_the_newest_hundred_stay_however_old_and_the_value_they_stand_on(self, desk: Desk, place: dict[str, Any]) -> None:
        everywhere = self.of(desk, 130, set(range(1, 131)), **place)
        assert self.left(everywhere) == list(range(30, 131))

    @pytest.mark.parametrize("place", [{"sealed_value": b"x"}, {"external_version": "v"}])
    def test_each_of_the_newest_hundred_finds_the_value_it_had(self, desk: Desk, place: dict[str, Any]) -> None:
        secret = self.of(desk, 150, {1, 3, 20, 60, 120}, **place)
        before = {number: values.resting(secret, number).version for number in range(51, 151)}
        assert self.left(secret) == [20, *range(51, 151)]
        assert {number: values.resting(secret, number).version for number in range(51, 151)} == before

    def test_the_present_value_outlives_any_number_of_changes_that_set_none(self, desk: Desk) -> None:
        secret = desk.secret(value="the only value")
        for number in range(101):
            desk.change(WriteOperation.ARCHIVE if number % 2 == 0 else WriteOperation.RESTORE, secret.id)
        SecretVersion.objects.update(created_at=now() - LONG)
        retention.apply("primary")
        assert value_of(secret) == "the only value"

    def test_the_statement_that_removes_asks_for_the_value_again(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was found may have become the only value meanwhile."""
        secret = self.of(desk, 130, {1}, external_version="v")
        monkeypatch.setattr(retention, "_FIND", retention._FIND.replace("({guard})", "(true OR {guard})"))
        assert self.left(secret) == [1, *range(31, 131)]

    def test_a_young_one_stays_beyond_the_hundred(self, desk: Desk) -> None:
        secret = desk.secret()
        Secret.objects.filter(id=secret.id).update(version=500)
        retention.apply("primary")
        assert secret.versions.count() == 1


class TestWrites:
    def settled(self, desk: Desk, *values: str) -> list[Any]:
        """Writes to one secret, one after the other, applied and long ago."""
        secret, sent = desk.secret(), list[Any]()
        for value in values:
            base = {"base_version": None, "previous": id_of(sent[-1])} if sent else {}
            sent.append(desk.write(secret, value, **base))
        desk.active.upload(*sent)
        inbox.apply_pending()
        assert [row_of(one).outcome for one in sent] == ["applied"] * len(values)
        ReceivedWrite.objects.update(settled_at=F("settled_at") - LONG)
        return sent

    def test_all_but_the_newest_of_a_secret_go_and_the_stream_remembers(self, desk: Desk) -> None:
        sent = self.settled(desk, "a", "b", "c")
        assert write_retention.apply() == 2
        assert [row.id for row in ReceivedWrite.objects.all()] == [row_of(sent[-1]).id]
        stream = WriteStream.objects.get()
        assert (stream.arrived, stream.highest, stream.floor, stream.forgotten) == (3, 3, 3, 2)

    def test_a_forgotten_write_that_comes_again_is_set_aside_and_never_applied(self, desk: Desk) -> None:
        sent = self.settled(desk, "a", "b", "c")
        write_retention.apply()
        receipt = desk.active.upload_one(sent[0], apply_now=True)
        assert (receipt.outcome, receipt.code) == (WriteOutcome.QUARANTINED, "SETTLED_LONG_AGO")
        assert Secret.objects.get().version == 4
        again = desk.active.upload_one(sent[0])
        assert again.outcome is WriteOutcome.QUARANTINED and ReceivedWrite.objects.count() == 2

    def test_a_write_after_the_newest_one_still_finds_it(self, desk: Desk) -> None:
        sent = self.settled(desk, "a", "b")
        write_retention.apply()
        late = desk.write(Secret.objects.get(), "c", base_version=None, previous=id_of(sent[-1]))
        assert desk.active.upload_one(late, apply_now=True).outcome is WriteOutcome.APPLIED

    def test_nothing_goes_behind_a_gap(self, desk: Desk) -> None:
        secret = desk.secret()
        missing = desk.write(secret, "lost")
        later = [desk.write(desk.secret(f"other/{number}"), "x") for number in range(2)]
        desk.active.upload(*later)
        inbox.apply_pending()
        ReceivedWrite.objects.update(settled_at=now() - LONG, outcome="superseded")
        assert write_retention.apply() == 0
        desk.active.upload(missing)
        inbox.apply_pending()
        assert row_of(missing).outcome == "applied"
        assert write_retention.apply() == 2

    @pytest.mark.parametrize("outcome", ["conflict", "quarantined", "dead_letter"])
    def test_what_waits_for_a_person_stays_until_it_is_decided(self, desk: Desk, outcome: str) -> None:
        self.settled(desk, "a")
        ReceivedWrite.objects.update(outcome=outcome)
        assert write_retention.apply() == 0
        ReceivedWrite.objects.update(resolution="discard")
        assert write_retention.apply() == 1

    def test_an_open_loss_keeps_the_writes_of_its_gateway(self, desk: Desk, admin: Person) -> None:
        self.settled(desk, "a", "b")
        desk.active.heartbeat(write_queue_depth=3, write_queue_last_sequence=5)
        desk.move_to_standby(acknowledged=False)
        assert LossManifest.objects.filter(closed_at=None).exists()
        assert write_retention.apply() == 0
        assert admin.get("admin/failover/NPR/loss-manifest")[1][0]["missing"] == 3
        LossManifest.objects.update(closed_at=now())
        assert write_retention.apply() == 1
        assert admin.get("admin/failover/NPR/loss-manifest")[1][0]["missing"] == 3, "counted, not looked up"
