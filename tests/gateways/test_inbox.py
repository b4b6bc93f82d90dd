"""Writes arrive, are stored once and settled once: order, repetition, bad input, people who left (DESIGN §9, I3, I7 to I10)."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.db import DatabaseError, connection
from msgspec import structs

from accounts.models import RoleGrant, User
from common.clock import database_now
from common.errors import Unavailable
from common.models import AuditEntry
from gateways import inbox, marks, settlement, write_resolution
from gateways.models import Gateway, ReceivedWrite, Route, WriteTally
from gateways.settlement import ATTEMPTS
from gateways.write_bodies import open_body
from gateways.write_scene import Scene
from protocol.vocabulary import Assignment, WriteOperation, WriteOutcome
from protocol.writes import QueuedWrite, WriteBody, WriteHead, body_digest, head_of, sign
from tests import factories
from tests.conftest import Person, fleet_of
from tests.fakes.gateway import FakeGateway, NewSecret
from tests.gateways.desk import Desk, history, id_of, row_of, value_of
from vault.models import Secret, SecretStatus, SecretVersion
from vault.ports import SecretChange
from vault.secrets import apply_change

CANARY = "canary-9f4e-value"


@pytest.fixture
def desk(npr: Any) -> Desk:
    return Desk(*npr)


def test_a_write_on_the_current_version_is_applied_and_says_who_made_it_and_where(desk: Desk) -> None:
    secret = desk.secret()
    write = desk.write(secret)
    assert desk.active.upload_one(write).outcome is WriteOutcome.RECEIVED
    assert inbox.apply_pending() == 1
    assert value_of(secret) == "two"
    version = SecretVersion.objects.get(secret=secret, version=2)
    assert (version.author, version.origin, str(version.write), version.epoch) == (
        desk.actor, f"gateway:{desk.active.id}", id_of(write), desk.active.epoch,
    )  # fmt: skip
    row = row_of(write)
    assert (row.outcome, row.version, row.sealed_body) == ("applied", 2, None)
    assert [receipt.outcome for receipt in desk.active.upload(ask=(id_of(write),))] == [WriteOutcome.APPLIED]


def test_a_caller_who_waits_gets_the_end_in_the_same_call(desk: Desk) -> None:
    secret = desk.secret()
    receipt = desk.active.upload_one(desk.write(secret, promised=False), apply_now=True)
    assert (receipt.outcome, receipt.version) == (WriteOutcome.APPLIED, 2)


def test_a_new_secret_is_created_from_a_write(desk: Desk) -> None:
    new = desk.new()
    receipt = desk.active.upload_one(desk.write(new, CANARY, operation=WriteOperation.CREATE, promised=False), apply_now=True)
    assert (receipt.outcome, receipt.version) == (WriteOutcome.APPLIED, 1)
    assert value_of(new) == CANARY


def test_successive_writes_of_one_secret_are_no_conflicts(desk: Desk) -> None:
    secret = desk.secret()
    first = desk.write(secret, "a")
    second = desk.write(secret, "b", base_version=None, previous=id_of(first))
    third = desk.write(secret, "c", base_version=None, previous=id_of(second))
    desk.active.upload(first, second, third)
    assert inbox.apply_pending() == 3
    assert [version for version, _ in history(secret)] == [1, 2, 3, 4]
    assert value_of(secret) == "c"


def test_a_gap_stops_only_what_depends_on_it(desk: Desk) -> None:
    one, other = desk.secret("one"), desk.secret("other")
    first = desk.write(one, "a")
    second = desk.write(one, "b", base_version=None, previous=id_of(first))
    third = desk.write(other, "c")
    desk.active.upload(second, third)
    inbox.apply_pending()
    assert (row_of(second).outcome, row_of(second).code) == ("received", "PREVIOUS_MISSING")
    assert row_of(third).outcome == "applied"
    desk.active.upload(first)
    inbox.apply_pending()
    inbox.apply_pending()
    assert value_of(one) == "b"


def test_a_gap_that_lasts_is_given_to_a_person_and_nothing_is_lost(desk: Desk) -> None:
    secret = desk.secret()
    orphan = desk.write(secret, "b", base_version=None, previous=str(uuid.uuid4()))
    desk.active.upload(orphan)
    long_ago = database_now() - timedelta(minutes=11)
    ReceivedWrite.objects.filter(id=id_of(orphan)).update(received_at=long_ago, not_before=long_ago)
    inbox.apply_pending()
    row = row_of(orphan)
    assert (row.outcome, row.code, row.sealed_body is not None) == ("dead_letter", "PREVIOUS_MISSING", True)


def test_an_earlier_write_of_a_secret_is_never_passed_even_when_it_is_not_named(desk: Desk) -> None:
    secret = desk.secret()
    first, second = desk.write(secret, "a"), desk.write(secret, "b", promised=False)
    desk.active.upload(first)
    ReceivedWrite.objects.filter(id=id_of(first)).update(not_before=database_now() + timedelta(minutes=1))
    receipt = desk.active.upload_one(second, apply_now=True)
    assert (receipt.outcome, receipt.code) == (WriteOutcome.RECEIVED, "PREVIOUS_WAITS")
    assert row_of(second).promised, "the answer was received, so nobody may refuse it any more"


def test_a_changed_base_is_a_conflict_that_keeps_the_content(desk: Desk) -> None:
    secret = desk.secret()
    desk.change(WriteOperation.UPDATE, secret.id, value="primary")
    write = desk.write(secret, "gateway")
    desk.active.upload(write)
    inbox.apply_pending()
    row = row_of(write)
    assert (row.outcome, row.code, row.sealed_body is not None) == ("conflict", "VERSION_CONFLICT", True)
    assert value_of(secret) == "primary"
    assert AuditEntry.objects.filter(action="gateway.write.conflict", entity_id=id_of(write)).count() == 1


@pytest.mark.parametrize(
    ("policy", "outcome", "value"),
    [("mazevault_wins", "superseded", "primary"), ("external_wins", "applied", "gateway")],
)
def test_the_policy_of_the_project_decides(desk: Desk, policy: str, outcome: str, value: str) -> None:
    desk.policy(conflict_strategy=policy)
    secret = desk.secret()
    desk.change(WriteOperation.UPDATE, secret.id, value="primary")
    write = desk.write(secret, "gateway")
    desk.active.upload(write)
    inbox.apply_pending()
    assert (row_of(write).outcome, value_of(secret)) == (outcome, value)
    assert row_of(write).sealed_body is None


@pytest.mark.parametrize(("minutes", "outcome"), [(-5, "superseded"), (0, "applied")])
def test_the_most_recent_wins_by_the_times_of_both_sides(desk: Desk, minutes: int, outcome: str) -> None:
    desk.policy(conflict_strategy="most_recent_wins")
    secret = desk.secret()
    desk.change(WriteOperation.UPDATE, secret.id, value="primary")
    accepted = (database_now() + timedelta(minutes=minutes)).isoformat()
    write = desk.write(secret, "gateway", accepted_at=accepted)
    desk.active.upload(write)
    inbox.apply_pending()
    assert row_of(write).outcome == outcome


def test_a_clock_an_hour_off_wins_nothing_and_the_rest_goes_on(desk: Desk) -> None:
    desk.policy(conflict_strategy="most_recent_wins")
    secret, other = desk.secret("one"), desk.secret("other")
    desk.change(WriteOperation.UPDATE, secret.id, value="primary")
    ahead = (database_now() + timedelta(hours=1)).isoformat()
    write, fine = desk.write(secret, "gateway", accepted_at=ahead), desk.write(other, "x", accepted_at=ahead)
    desk.active.upload(write, fine)
    inbox.apply_pending()
    assert (row_of(write).outcome, row_of(write).code) == ("conflict", "CLOCK_NOT_TRUSTED")
    assert row_of(fine).outcome == "applied", "times decide nothing else"


def test_in_production_only_a_person_decides(primary: Any) -> None:
    desk = Desk(*fleet_of("PRO"))
    desk.dev = desk.prod
    desk.policy(conflict_strategy="external_wins", stale_epoch_policy="replay_as_new")
    secret = desk.secret()
    desk.change(WriteOperation.UPDATE, secret.id, value="primary")
    write, stale = desk.write(secret, "gateway"), desk.write(desk.secret("other"), "x", epoch=0)
    desk.active.upload(write, stale)
    inbox.apply_pending()
    assert (row_of(write).outcome, row_of(stale).outcome) == ("conflict", "quarantined")


def test_a_deletion_and_an_update_meet_as_a_conflict_whatever_the_policy(desk: Desk) -> None:
    desk.policy(conflict_strategy="external_wins")
    secret = desk.secret()
    desk.change(WriteOperation.DELETE, secret.id)
    write = desk.write(secret, "gateway")
    desk.active.upload(write)
    inbox.apply_pending()
    assert row_of(write).outcome == "conflict"
    assert Secret.objects.get(id=secret.id).status == SecretStatus.DELETED


class TestRepetition:
    def test_a_write_that_comes_again_is_answered_as_it_ended(self, desk: Desk) -> None:
        write = desk.write(desk.secret())
        desk.active.upload(write)
        inbox.apply_pending()
        assert [r.outcome for r in desk.active.upload(write, write)] == [WriteOutcome.APPLIED] * 2
        assert SecretVersion.objects.filter(write=id_of(write)).count() == 1
        assert WriteTally.objects.get(environment="NPR", outcome="duplicate").total == 2

    def test_the_same_id_with_another_body_is_evidence_and_changes_nothing(self, desk: Desk) -> None:
        secret = desk.secret()
        write = desk.write(secret, "good")
        other = desk.write(secret, "evil", id=id_of(write), sequence=head_of(write.head).sequence)
        desk.active.upload(write)
        receipt = desk.active.upload_one(other)
        assert (receipt.id, receipt.outcome, receipt.code) == (id_of(write), WriteOutcome.QUARANTINED, "ID_REUSED")
        inbox.apply_pending()
        assert (value_of(secret), row_of(write).outcome) == ("good", "applied")
        evidence = ReceivedWrite.objects.get(claimed_id=id_of(write))
        assert (evidence.outcome, evidence.in_stream, evidence.sealed_body is not None) == ("quarantined", False, True)
        alarm = AuditEntry.objects.get(action="gateway.write.contradicts")
        assert alarm.severity == "critical"
        desk.active.upload(other)
        assert ReceivedWrite.objects.filter(claimed_id=id_of(write)).count() == 1, "the same evidence is kept once"

    def test_a_used_sequence_number_with_another_id_is_kept_for_a_person(self, desk: Desk) -> None:
        secret, other = desk.secret("one"), desk.secret("other")
        first = desk.write(secret, "a")
        again = desk.write(other, "b", sequence=head_of(first.head).sequence)
        receipts = desk.active.upload(first, again)
        assert [receipt.code for receipt in receipts] == ["", "SEQUENCE_REUSED"]
        assert row_of(again).sealed_body is not None, "somebody was promised this write"
        held = Gateway.objects.get(id=desk.active.id)
        assert held.held_at and "put back to an earlier state" in held.held_reason, "its database is older than what it said"
        assert AuditEntry.objects.get(action="gateway.held").severity == "critical"
        directive = desk.active.heartbeat()
        assert (directive.assigned_role, directive.poll_tasks) == (Assignment.DRAINING, False)
        Gateway.objects.filter(id=desk.active.id).update(held_at=None)
        inbox.apply_pending()
        assert (value_of(secret), value_of(other)) == ("a", "one")

    def test_a_refusal_whose_answer_was_lost_begins_anew_once_it_was_promised(self, desk: Desk) -> None:
        """The gateway heard nothing, so it told its caller that the write is queued: now it may not vanish."""
        secret = desk.secret()
        desk.change(WriteOperation.UPDATE, secret.id, value="primary")
        write = desk.write(secret, "gateway", promised=False)
        receipt = desk.active.upload_one(write, apply_now=True)
        assert (receipt.outcome, receipt.code) == (WriteOutcome.REFUSED, "VERSION_CONFLICT")
        assert row_of(write).sealed_body is None
        promised = structs.replace(write, promised=True)
        assert desk.active.upload(ask=(id_of(write),))[0].outcome is WriteOutcome.QUEUED, "asked about, it must be sent again"
        assert desk.active.upload_one(promised).outcome is WriteOutcome.RECEIVED
        inbox.apply_pending()
        assert (row_of(write).outcome, row_of(write).sealed_body is not None) == ("conflict", True)

    def test_nobody_but_its_request_settles_a_write_whose_caller_waits(self, desk: Desk, monkeypatch: Any) -> None:
        write = desk.write(desk.secret(), promised=False)
        monkeypatch.setattr(inbox, "settle_now", lambda *args, **more: None)  # the request dies after taking it
        desk.active.upload(write, apply_now=True)
        assert inbox.apply_pending() == 0
        ReceivedWrite.objects.update(not_before=database_now())
        assert inbox.apply_pending() == 1

    def test_an_unknown_write_is_to_be_sent_again(self, desk: Desk) -> None:
        assert desk.active.upload(ask=(str(uuid.uuid4()),))[0].outcome is WriteOutcome.QUEUED


class TestBadInput:
    """Each gets a named outcome, nothing is lost, and the write beside it is applied."""

    def settle_beside(self, desk: Desk, bad: QueuedWrite) -> tuple[str, str]:
        good = desk.write(desk.secret("good"), "fine")
        receipts = desk.active.upload(bad, good)
        assert isinstance(receipts, list), receipts.content
        inbox.apply_pending()
        assert row_of(good).outcome == "applied"
        receipt = desk.active.upload(bad)[0]
        return receipt.outcome.value, receipt.code

    def test_an_oversized_value(self, desk: Desk) -> None:
        assert self.settle_beside(desk, desk.write(desk.secret(), "x" * 65_537)) == ("dead_letter", "VALIDATION_ERROR")

    def test_a_binary_value(self, desk: Desk) -> None:
        assert self.settle_beside(desk, desk.write(desk.secret(), "a\0b")) == ("dead_letter", "VALIDATION_ERROR")

    def test_an_unknown_project(self, desk: Desk) -> None:
        write = desk.write(desk.secret(), project=str(uuid.uuid4()))
        assert self.settle_beside(desk, write) == ("dead_letter", "RESOURCE_NOT_FOUND")

    def test_an_unknown_secret(self, desk: Desk) -> None:
        assert self.settle_beside(desk, desk.write(desk.new(), base_version=1)) == ("dead_letter", "RESOURCE_NOT_FOUND")

    def test_a_head_of_another_gateway_environment(self, desk: Desk) -> None:
        assert self.settle_beside(desk, desk.write(desk.secret(), environment="PRO")) == ("dead_letter", "WRONG_ENVIRONMENT")

    def test_a_project_environment_of_another_gateway_environment_looks_like_an_absent_one(self, desk: Desk) -> None:
        absent = desk.write(desk.new(), operation=WriteOperation.CREATE, project_environment=str(uuid.uuid4()))
        foreign = desk.write(desk.new(), operation=WriteOperation.CREATE, project_environment=str(desk.prod.id))
        assert self.settle_beside(desk, foreign) == ("dead_letter", "RESOURCE_NOT_FOUND")
        desk.active.upload(absent)
        inbox.apply_pending()
        assert row_of(absent).detail == row_of(foreign).detail

    def test_a_base_from_the_future(self, desk: Desk) -> None:
        assert self.settle_beside(desk, desk.write(desk.secret(), base_version=7)) == ("conflict", "BASE_FROM_FUTURE")

    def test_a_base_that_is_no_version(self, desk: Desk) -> None:
        assert self.settle_beside(desk, desk.write(desk.secret(), base_version=2**70)) == ("dead_letter", "VALIDATION_ERROR")

    def test_a_forged_signature(self, desk: Desk) -> None:
        forged = structs.replace(desk.write(desk.secret()), signature=desk.write(desk.secret("x")).signature)
        assert self.settle_beside(desk, forged) == ("dead_letter", "WRITE_FORGED")
        evidence = ReceivedWrite.objects.get(claimed_id=id_of(forged))
        assert (evidence.sealed_body, evidence.secret, evidence.actor) == (None, None, ""), "nothing of it is believed"

    def test_a_body_that_was_not_signed(self, desk: Desk) -> None:
        forged = structs.replace(desk.write(desk.secret()), body=msgspec.json.encode(WriteBody(value="evil")).decode())
        assert self.settle_beside(desk, forged) == ("dead_letter", "WRITE_FORGED")

    def test_a_forged_write_takes_no_genuine_ones_place(self, desk: Desk) -> None:
        write = desk.write(desk.secret())
        desk.active.upload(structs.replace(write, body='{"value":"evil"}'))
        assert desk.active.upload_one(write).outcome is WriteOutcome.RECEIVED
        inbox.apply_pending()
        assert row_of(write).outcome == "applied"

    def test_a_gateway_of_another_environment_as_its_author(self, desk: Desk) -> None:
        foreign, _ = fleet_of("PRO")
        write = desk.write(desk.secret(), gateway=foreign.id, generation=str(foreign.generation))
        assert self.settle_beside(desk, write) == ("quarantined", "WRITER_UNKNOWN")

    def test_a_writer_we_do_not_know_may_be_our_own_gap_so_a_person_can_apply_what_it_brought(
        self, desk: Desk, admin: Person
    ) -> None:
        """Its gateway keeps no content once it was answered, and the sender did prove who it is."""
        secret = desk.secret()
        write = desk.write(secret, CANARY, generation=str(uuid.uuid4()))
        receipt = desk.active.upload_one(write)
        assert (receipt.id, receipt.outcome, receipt.code) == (id_of(write), WriteOutcome.QUARANTINED, "WRITER_UNKNOWN")
        evidence = ReceivedWrite.objects.get(claimed_id=id_of(write))
        assert (evidence.in_stream, evidence.secret, str(evidence.gateway_id)) == (False, secret.id, desk.active.id)
        path = f"admin/writes/{evidence.id}/resolve"
        assert admin.post(path, {"resolution": "retry"})[0] == 409
        assert admin.post(path, {"resolution": "apply"})[0] == 200
        assert value_of(secret) == CANARY

    def test_a_head_of_another_form_is_answered_under_its_id_and_keeps_its_content(self, desk: Desk) -> None:
        write = desk.write(desk.secret(), CANARY)
        head = {**json.loads(write.head), "operation": "a new one"}
        receipt = desk.active.upload_one(structs.replace(write, head=json.dumps(head)))
        assert (receipt.id, receipt.outcome, receipt.code) == (id_of(write), WriteOutcome.QUARANTINED, "WRITE_UNREADABLE")
        evidence = ReceivedWrite.objects.get(claimed_id=id_of(write))
        assert open_body(evidence).value == CANARY
        assert (evidence.secret, evidence.actor) == (None, ""), "nothing of it is believed"

    def test_a_head_that_is_no_json(self, desk: Desk) -> None:
        good = desk.write(desk.secret("good"))
        receipts = desk.active.upload(structs.replace(desk.write(desk.secret()), head="\0 no json"), good)
        assert [receipt.code for receipt in receipts] == ["WRITE_UNREADABLE", ""]

    def test_a_signed_body_that_does_not_fit(self, desk: Desk) -> None:
        write = desk.write(desk.secret())
        text = '{"value":7}'
        head = structs.replace(head_of(write.head), body_digest=body_digest(text, write.salt))
        signed, signature = sign(head, desk.active.keys.signing)
        strange = structs.replace(write, head=signed, signature=signature, body=text)
        assert self.settle_beside(desk, strange) == ("dead_letter", "VALIDATION_ERROR")

    def test_a_previous_that_is_another_secrets_write(self, desk: Desk) -> None:
        first = desk.write(desk.secret("one"))
        desk.active.upload(first)
        write = desk.write(desk.secret("other"), base_version=None, previous=id_of(first))
        assert self.settle_beside(desk, write) == ("quarantined", "PREVIOUS_FOREIGN")

    def test_a_batch_of_ten_thousand_is_refused_by_name(self, desk: Desk) -> None:
        tiny = QueuedWrite(head="", body="", salt="", signature="", promised=True)
        answer = desk.active.upload(*[tiny] * 10_000)
        assert answer.status_code == 400
        assert "$.writes" in answer.json()["error"]
        assert not ReceivedWrite.objects.exists()

    def test_a_batch_of_too_many_bytes_is_refused_by_name(self, desk: Desk) -> None:
        secret = desk.secret()
        writes = [desk.write(secret, "x" * 65_536) for _ in range(17)]
        answer = desk.active.upload(*writes)
        assert (answer.status_code, answer.json()["error"].split(":")[0]) == (413, "writes")

    def test_a_batch_of_one_mebibyte_is_taken(self, desk: Desk) -> None:
        secret = desk.secret()
        assert len(desk.active.upload(*[desk.write(secret, "x" * 65_000) for _ in range(16)])) == 16


class TestTime:
    def test_a_promotion_between_receiving_and_applying_quarantines(self, desk: Desk) -> None:
        secret = desk.secret()
        write = desk.write(secret, "late")
        assert desk.active.upload_one(write).outcome is WriteOutcome.RECEIVED
        desk.move_to_standby()
        inbox.apply_pending()
        assert (row_of(write).outcome, row_of(write).code) == ("quarantined", "STALE_EPOCH")
        assert value_of(secret) == "one"

    def test_a_write_of_the_past_is_set_aside_in_the_request_that_brings_it(self, desk: Desk) -> None:
        write = desk.write(desk.secret(), "late")
        desk.move_to_standby()
        assert desk.active.upload_one(write).outcome is WriteOutcome.QUARANTINED

    def test_the_policy_discard_drops_a_write_of_the_past_and_says_so(self, desk: Desk) -> None:
        desk.policy(stale_epoch_policy="discard")
        write = desk.write(desk.secret(), "late")
        desk.move_to_standby()
        desk.active.upload(write)
        row = row_of(write)
        assert (row.outcome, row.resolution, row.settled_by, row.sealed_body) == ("quarantined", "discard", "policy", None)
        assert AuditEntry.objects.filter(action="gateway.write.quarantined", actor="policy").exists()

    def test_the_policy_replay_makes_a_new_change_of_the_current_epoch(self, desk: Desk) -> None:
        desk.policy(stale_epoch_policy="replay_as_new")
        secret = desk.secret()
        write = desk.write(secret, "late")
        desk.move_to_standby()
        assert desk.active.upload_one(write).outcome is WriteOutcome.APPLIED
        version = SecretVersion.objects.get(secret=secret, version=2)
        assert (version.epoch, str(version.write)) == (Route.objects.get(pk="NPR").epoch, id_of(write))
        assert AuditEntry.objects.filter(action="gateway.write.replayed").exists()

    def test_a_replay_on_another_base_is_a_conflict_whatever_the_policy(self, desk: Desk) -> None:
        desk.policy(stale_epoch_policy="replay_as_new", conflict_strategy="external_wins")
        secret = desk.secret()
        write = desk.write(secret, "late")
        desk.change(WriteOperation.UPDATE, secret.id, value="primary")
        desk.move_to_standby()
        assert desk.active.upload_one(write).outcome is WriteOutcome.CONFLICT

    def test_a_write_of_an_earlier_life_is_proven_with_the_key_of_that_life(self, desk: Desk) -> None:
        write = desk.write(desk.secret(), "late")
        reborn = FakeGateway(desk.active.name, "NPR", "primary").enrol()
        reborn.take_over()
        receipt = reborn.upload_one(write)
        assert (receipt.outcome, receipt.code) == (WriteOutcome.QUARANTINED, "STALE_EPOCH")

    def test_a_higher_epoch_than_ours_with_its_proof_freezes_the_environment_and_waits(self, desk: Desk) -> None:
        write = desk.write(desk.secret(), epoch=99)
        desk.active.keep(marks.mark_of("NPR", 99))
        assert desk.active.upload_one(write).outcome is WriteOutcome.RECEIVED
        assert Route.objects.get(pk="NPR").danger
        assert row_of(write).code == "ENVIRONMENT_HELD"

    @pytest.mark.parametrize("said", [{"epoch": 2}, {"epoch": 2**53}, {"sequence": 2**31}, {"sequence": 2**62}])
    def test_numbers_nobody_believes_set_the_write_and_its_gateway_aside_and_nothing_else(
        self, desk: Desk, said: dict[str, int]
    ) -> None:
        secret = desk.secret()
        lie, fine = desk.write(secret, "lie", **said), desk.write(desk.secret("other"))
        receipt = desk.active.upload_one(lie)
        assert (receipt.outcome, receipt.code) == (WriteOutcome.QUARANTINED, "WRITE_NOT_BELIEVED")
        assert row_of(lie).in_stream is False and row_of(lie).sealed_body is not None
        route, active = Route.objects.get(pk="NPR"), desk.active.row
        assert (route.danger, route.epoch) == ("", 1) and next(iter(said)) in active.held_reason
        assert AuditEntry.objects.filter(action="gateway.held", severity="critical").count() == 1
        Gateway.objects.filter(id=active.id).update(held_at=None)
        assert desk.active.upload_one(fine, apply_now=True).outcome is WriteOutcome.APPLIED

    def test_a_standby_that_signs_a_write_of_an_epoch_it_never_was_active_in_is_set_aside(self, desk: Desk) -> None:
        desk.policy(stale_epoch_policy="replay_as_new")
        secret = desk.secret()
        lie = desk.standby.write(secret, "lie", actor=desk.actor, epoch=1)
        receipt = desk.standby.upload_one(lie)
        assert (receipt.outcome, receipt.code) == (WriteOutcome.QUARANTINED, "WRITE_NOT_BELIEVED")
        assert "another gateway was active" in desk.standby.row.held_reason
        assert desk.active.row.held_at is None and value_of(secret) == "one"
        inbox.apply_pending()
        assert row_of(lie).outcome == "quarantined"

    def test_a_held_gateways_writes_wait_for_its_release(self, desk: Desk) -> None:
        secret = desk.secret()
        Gateway.objects.filter(id=desk.active.id).update(held_at=database_now())
        write = desk.write(secret)
        desk.active.upload(write)
        assert inbox.apply_pending() == 0
        Gateway.objects.filter(id=desk.active.id).update(held_at=None)
        ReceivedWrite.objects.update(not_before=database_now())
        assert inbox.apply_pending() == 1

    def test_what_a_banned_gateway_had_sent_waits_for_a_person_and_not_for_ever(self, desk: Desk) -> None:
        secret = desk.secret()
        write = desk.write(secret)
        desk.active.upload(write)
        Gateway.objects.filter(id=desk.active.id).update(banned_at=database_now())
        inbox.apply_pending()
        row = row_of(write)
        assert (row.outcome, row.code, row.sealed_body is not None) == ("quarantined", "GATEWAY_BANNED", True)
        assert value_of(secret) == "one"


class TestPeople:
    def test_a_leavers_write_is_dead_and_revives_by_retry_when_they_return(self, desk: Desk) -> None:
        secret = desk.secret()
        write = desk.write(secret)
        User.objects.filter(id=desk.writer.id).update(is_active=False)
        desk.active.upload(write)
        inbox.apply_pending()
        row = row_of(write)
        assert (row.outcome, row.code, row.sealed_body is not None) == ("dead_letter", "ACTOR_NOT_ALLOWED", True)
        User.objects.filter(id=desk.writer.id).update(is_active=True)
        write_resolution.resolve(row.id, "retry", factories.principal("admin"), address="", now=database_now())
        inbox.apply_pending()
        assert (row_of(write).outcome, value_of(secret)) == ("applied", "two")

    def test_who_lost_the_role_in_the_place_may_not_write_there_any_more(self, desk: Desk) -> None:
        person = factories.member("secret_manager", project=desk.project)
        holder = User.objects.get(full_name__startswith="secret_manager")
        actor = factories.signed_in_at("NPR", holder)
        kept, lost = desk.write(desk.secret("a"), actor=actor), desk.write(desk.secret("b"), actor=actor)
        desk.active.upload(kept)
        inbox.apply_pending()
        RoleGrant.objects.filter(user=holder).delete()
        desk.active.upload(lost)
        inbox.apply_pending()
        assert (row_of(kept).outcome, row_of(lost).outcome) == ("applied", "dead_letter")
        assert person.token

    def test_who_may_write_but_not_delete_deletes_nothing(self, desk: Desk) -> None:
        User.objects.filter(id=desk.writer.id).update(role="user")
        secret = desk.secret()
        write = desk.write(secret, None, operation=WriteOperation.DELETE)
        desk.active.upload(write)
        inbox.apply_pending()
        assert (row_of(write).outcome, row_of(write).code) == ("dead_letter", "ACTOR_NOT_ALLOWED")


class TestPoison:
    def test_a_passing_failure_is_tried_again_and_then_given_to_a_person(self, desk: Desk, monkeypatch: Any) -> None:
        secret, other = desk.secret("one"), desk.secret("other")
        poison, good = desk.write(secret, CANARY), desk.write(other, "fine")

        def broken(change: SecretChange, *args: Any, **more: Any) -> Any:
            if change.secret == secret.id:
                raise DatabaseError(f"something about {CANARY}")
            return apply_change(change, *args, **more)

        monkeypatch.setattr(settlement, "apply_change", broken)
        desk.active.upload(poison, good)
        for attempt in range(1, ATTEMPTS + 1):
            inbox.apply_pending()
            assert row_of(poison).attempts == attempt
            ReceivedWrite.objects.filter(id=id_of(poison)).update(not_before=database_now())
        assert row_of(good).outcome == "applied"
        row = row_of(poison)
        assert (row.outcome, row.code, CANARY in row.detail) == ("dead_letter", "ATTEMPTS_EXHAUSTED", False)
        inbox.apply_pending()
        assert row_of(poison).attempts == ATTEMPTS

    @pytest.mark.parametrize("state", ["40P01", "55P03", "57014"], ids=["deadlock", "held row", "cancelled"])
    def test_what_the_database_took_back_is_tried_until_it_passes(self, desk: Desk, state: str, monkeypatch: Any) -> None:
        first, later = desk.write(secret := desk.secret()), desk.secret("other")

        def taken_back(*_: Any, **__: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION 'taken back' USING ERRCODE = '{state}'; END $$")

        desk.active.upload(first, desk.write(later, "fine"))
        with monkeypatch.context() as troubled:
            troubled.setattr(settlement, "apply_change", taken_back)
            for _ in range(ATTEMPTS + 2):
                ReceivedWrite.objects.update(not_before=database_now())
                inbox.apply_pending()
        row = row_of(first)
        assert (row.outcome, row.code) == ("received", "TRYING_AGAIN") and row.not_before > database_now()
        ReceivedWrite.objects.update(not_before=database_now())
        assert inbox.apply_pending() == 2 and value_of(secret) == "two"

    def test_without_an_audit_a_write_is_neither_refused_nor_given_up(self, desk: Desk, monkeypatch: Any) -> None:
        secret = desk.secret()
        write, asked = desk.write(secret), desk.write(desk.secret("other"), promised=False)
        down = Unavailable("the audit trail cannot be written right now", code="AUDIT_UNAVAILABLE")

        def refuse(*args: Any, **more: Any) -> None:
            raise down

        desk.active.upload(write)
        with monkeypatch.context() as audit_down:
            audit_down.setattr(settlement, "apply_change", refuse)
            assert desk.active.upload_one(asked, apply_now=True).outcome is WriteOutcome.RECEIVED
            for _ in range(ATTEMPTS + 1):
                ReceivedWrite.objects.update(not_before=database_now())
                inbox.apply_pending()
        assert (row_of(write).outcome, row_of(asked).outcome, row_of(write).code) == ("received", "received", "TRYING_AGAIN")
        ReceivedWrite.objects.update(not_before=database_now())
        assert inbox.apply_pending() == 2

    def test_content_that_was_changed_in_the_database_is_never_applied(self, desk: Desk) -> None:
        secret, other = desk.secret("one"), desk.secret("other")
        first, second = desk.write(secret, "a"), desk.write(other, "b")
        desk.active.upload(first, second)
        rows = {id_of(one): bytes(row_of(one).sealed_body) for one in (first, second)}
        ReceivedWrite.objects.filter(id=id_of(first)).update(sealed_body=rows[id_of(second)])
        for _ in range(ATTEMPTS):
            ReceivedWrite.objects.update(not_before=database_now())
            inbox.apply_pending()
        assert (row_of(first).outcome, value_of(secret)) == ("dead_letter", "one")
        assert row_of(second).outcome == "applied"


def test_no_content_of_a_write_rests_in_plain_text(desk: Desk) -> None:
    desk.active.upload(desk.write(desk.secret(), CANARY))
    row = ReceivedWrite.objects.get()
    stored = " ".join(str(getattr(row, field.attname)) for field in ReceivedWrite._meta.fields) + repr(bytes(row.sealed_body))
    assert CANARY not in stored
    assert CANARY not in " ".join(str(entry.details) for entry in AuditEntry.objects.all())


def test_the_head_names_are_those_of_the_row(desk: Desk) -> None:
    """Every field of the signed head that decides something is a column, so decisions read what was signed."""
    write = desk.write(desk.secret())
    desk.active.upload(write)
    row, head = row_of(write), msgspec.json.decode(write.head, type=WriteHead)
    assert (str(row.gateway_id), str(row.generation), row.epoch, row.sequence) == (
        head.gateway, head.generation, head.epoch, head.sequence,
    )  # fmt: skip
    assert (str(row.secret), str(row.project), str(row.project_environment), row.key, row.base_version, row.actor) == (
        head.secret, head.project, head.project_environment, head.key, head.base_version, head.actor,
    )  # fmt: skip


class TestTroubleAroundAWrite:
    """What fails before a write is decided on, or after, is that write's trouble and no stream's."""

    @pytest.mark.parametrize("where", ["prepare", "close"])
    @pytest.mark.parametrize("number", [1, 5])
    def test_ends_up_with_that_write(self, desk: Desk, monkeypatch: Any, where: str, number: int) -> None:
        writes = [desk.write(desk.secret(f"key-{one}")) for one in range(number)]
        poison = uuid.UUID(id_of(writes[number // 2]))
        honest = getattr(Scene, where)

        def poisoned(scene: Scene, *rows: Any) -> None:
            honest(scene, *rows)
            held = [one.id for one in rows[0]] if rows else [one.id for one in scene.changed.values() if not one.code]
            if poison in held:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT '2026-11-30T12:00:00+23:59'::timestamptz")

        monkeypatch.setattr(Scene, where, poisoned)
        desk.active.upload(*writes)
        assert inbox.apply_pending() == number
        told = [(row_of(one).outcome, row_of(one).code) for one in writes]
        wrong = ("dead_letter", "NOT_STORABLE")
        assert told == [wrong if one == number // 2 else ("applied", "") for one in range(number)]

    def test_that_passes_leaves_it_for_later(self, desk: Desk, monkeypatch: Any) -> None:
        write, asked = desk.write(desk.secret()), []

        def away(*_: Any) -> None:
            asked.append(1)
            raise Unavailable("not now")

        with monkeypatch.context() as patched:
            patched.setattr(Scene, "prepare", away)
            desk.active.upload(write)
            assert inbox.apply_pending() == 0 and len(asked) == 1
        assert (row_of(write).outcome, row_of(write).code) == ("received", settlement.TRYING_AGAIN)
        ReceivedWrite.objects.update(not_before=database_now())
        assert inbox.apply_pending() == 1 and row_of(write).outcome == "applied"


def test_a_stream_that_fails_stops_no_other_and_is_told_once(desk: Desk, monkeypatch: Any, caplog: Any) -> None:
    pro = fleet_of("PRO")[0]
    factories.signed_in_at("PRO", desk.writer)
    there = NewSecret(desk.project.id, desk.prod.id, "k")
    mine = desk.write(desk.secret())
    other = pro.write(there, "v", operation=WriteOperation.CREATE, base_version=None, actor=desk.actor)
    desk.active.upload(mine)
    pro.upload(other)
    honest = inbox.settle_held

    def fails(environment: str, *rest: Any) -> Any:
        if environment == "NPR":
            raise AssertionError("whatever it is")
        return honest(environment, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(inbox, "settle_held", fails)
        streams = inbox._streams_with_work(database_now())
        patched.setattr(inbox, "_streams_with_work", lambda _: sorted(streams, key=lambda one: one.environment))
        assert [inbox.apply_pending() for _ in range(2)] == [1, 0]
    assert (row_of(mine).outcome, row_of(other).outcome) == ("received", "applied")
    said = [one.getMessage() for one in caplog.records if "cannot be settled" in one.getMessage()]
    assert len(said) == 1 and "gw-npr-primary" in said[0]
    assert inbox.apply_pending() == 1 and row_of(mine).outcome == "applied"
    assert "are settled again" in caplog.text
