"""Audit chains across nodes: what a gateway uploads stays as it was, and every tampering is found with the place (I18, T22)."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from msgspec import structs
from typer.testing import CliRunner

from cli.main import app as mazevault
from common import audit
from common.clock import now
from common.models import AuditCheckpoint, AuditEntry, AuditLink
from gateway_runtime.audit_upload import PAST, UPLOAD_PAUSE, Uploads, Witness, chain_step
from gateways import audit_chains, audit_report, audit_retention
from gateways.models import AuditCountersignature, GatewayAuditChain, GatewayAuditRecord, GatewayLife
from protocol import messages, paths
from protocol.audit import (
    ANCHORED,
    GENESIS,
    PRIMARY,
    Fault,
    Signed,
    Statement,
    countersign,
    entry_text,
    is_countersigned,
    link_hash,
    sign_statement,
    statement_of,
)
from protocol.audit_evidence import Evidence, Keys, Report, check, pin_of_pem
from protocol.audit_files import read_export, write_export
from protocol.envelope import encode_public_key
from tests.conftest import Person
from tests.fakes.gateway import FakeGateway
from tests.fakes.primary import RealPrimary

LATER = timedelta(minutes=2)


def told(number: int, **other: Any) -> str:
    """The text of an entry as a gateway writes it."""
    return entry_text({"id": number, "at": "2026-11-25T12:00:00.000000Z", "actor": "user:7", "action": "secret.read",
                       "entity": "secret", "entity_id": f"s-{number}", "severity": "info", "environment": "NPR",
                       "address": "192.0.2.7", "organization": None, "project": None, "details": "{}", **other})  # fmt: skip


def chain_of(generation: str, count: int, start: int = 0, previous: str = GENESIS) -> list[messages.AuditRecord]:
    records = []
    for position in range(start + 1, start + count + 1):
        previous = link_hash(generation, position, previous, told(position))
        records.append(messages.AuditRecord(position=position, text=told(position), hash=previous))
    return records


def upload(gateway: FakeGateway, records: list[messages.AuditRecord], life: str | None = None) -> Any:
    return gateway.call(paths.AUDIT, messages.AuditUpload(records=records, life=life), messages.AuditTaken)


def note(number: int) -> AuditEntry:
    return audit.record(actor="user:7", action="secret.read", entity="secret", entity_id=f"s-{number}", details={"n": number})


def hear_and_sign(gateway: FakeGateway) -> messages.Directive:
    """Take the offered checkpoint as an honest gateway does and say so in the next heartbeat."""
    offered = gateway.heartbeat().checkpoint
    digest = hashlib.sha256(offered.text.encode()).hexdigest()
    said = messages.Countersigned(statement_of(offered.text).position, digest, countersign(offered.text, gateway.keys.signing))
    answer: messages.Directive = gateway.heartbeat(countersigned=said)
    return answer


@pytest.fixture
def gateway(npr: tuple[FakeGateway, FakeGateway]) -> FakeGateway:
    return npr[0]


class TestUpload:
    def test_entries_are_stored_byte_for_byte_and_the_answer_says_how_far(self, gateway: FakeGateway) -> None:
        records = chain_of(str(gateway.generation), 3)
        answer = upload(gateway, records)
        assert (answer.position, answer.hash) == (3, records[-1].hash)
        assert list(GatewayAuditRecord.objects.order_by("position").values_list("position", "text", "hash")) == [
            (record.position, record.text, record.hash) for record in records
        ]

    def test_an_upload_that_is_sent_again_changes_nothing(self, gateway: FakeGateway) -> None:
        records = chain_of(str(gateway.generation), 3)
        assert upload(gateway, records[:2]).position == 2
        assert upload(gateway, records).position == 3
        assert upload(gateway, []).position == 3
        assert GatewayAuditRecord.objects.count() == 3

    def test_entries_behind_a_gap_wait_and_nobody_is_blamed(self, gateway: FakeGateway) -> None:
        records = chain_of(str(gateway.generation), 5)
        assert upload(gateway, [*records[:2], *records[3:]]).position == 2
        assert gateway.row.held_at is None
        assert upload(gateway, records[2:]).position == 5

    @pytest.mark.parametrize("position", [1, 3])
    def test_another_text_at_a_stored_position_is_refused_told_and_holds_the_gateway(
        self, gateway: FakeGateway, position: int
    ) -> None:
        chain = str(gateway.generation)
        records = chain_of(chain, 3)
        upload(gateway, records)
        before = records[position - 2].hash if position > 1 else GENESIS
        text = told(position, actor="user:8")
        forged = messages.AuditRecord(position=position, text=text, hash=link_hash(chain, position, before, text))
        answer = upload(gateway, [forged])
        assert (answer.status_code, answer.json()["code"]) == (409, "AUDIT_CONTRADICTED")
        assert GatewayAuditRecord.objects.get(position=position).text == records[position - 1].text
        assert gateway.row.held_at is not None
        entry = AuditEntry.objects.get(action="audit.gateway.contradicted")
        assert (entry.severity, entry.details["position"]) == ("critical", position)

    def test_what_comes_before_a_hash_that_does_not_fit_is_kept(self, gateway: FakeGateway) -> None:
        records = chain_of(str(gateway.generation), 4)
        records[2] = structs.replace(records[2], text=told(3, entity_id="another"))
        assert upload(gateway, records).status_code == 409
        assert GatewayAuditRecord.objects.count() == 2
        assert gateway.row.held_at is not None

    def test_a_chain_of_another_gateway_does_not_fit(self, npr: tuple[FakeGateway, FakeGateway]) -> None:
        first, second = npr
        assert upload(second, chain_of(str(first.generation), 2)).status_code == 409
        assert not GatewayAuditRecord.objects.exists()

    def test_stored_entries_are_neither_changed_nor_deleted(self, gateway: FakeGateway) -> None:
        upload(gateway, chain_of(str(gateway.generation), 2))
        rows = GatewayAuditRecord.objects.all()
        for change in (rows.delete, lambda: rows.update(text="")):
            with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
                change()


class TestFormerLives:
    """What a gateway did before it began a new life is evidence too (I18)."""

    def test_a_chain_of_a_former_life_is_taken_and_anchored(self, gateway: FakeGateway) -> None:
        former = former_life(gateway)
        taken = upload(gateway, chain_of(former, 3), former)
        assert (taken.position, GatewayAuditChain.objects.get(chain=former).gateway_id) == (3, gateway.row.id)
        audit_chains.anchor_heads(now())
        assert AuditEntry.objects.filter(action=ANCHORED, entity_id=former).count() == 1

    def test_a_life_of_somebody_else_is_refused(self, npr: tuple[FakeGateway, FakeGateway]) -> None:
        for life in (str(npr[1].generation), former_life(npr[1]), str(uuid.uuid4())):
            answer = upload(npr[0], chain_of(life, 1), life)
            assert (answer.status_code, answer.json()["error"].split(":")[0]) == (400, "life")
        assert not GatewayAuditChain.objects.exists()

    def test_another_past_of_a_former_life_is_refused_and_told_once_and_holds_nobody(self, gateway: FakeGateway) -> None:
        """The database was put back, which is why it is a former life."""
        former = former_life(gateway)
        upload(gateway, chain_of(former, 3), former)
        other = chain_of(former, 3, start=7)
        forged = [structs.replace(one, position=number) for number, one in enumerate(other, start=1)]
        for _ in range(2):
            assert upload(gateway, forged, former).json()["code"] == "AUDIT_CONTRADICTED"
        told_of = AuditEntry.objects.filter(action="audit.former_chain.contradicted")
        assert [one.severity for one in told_of] == ["critical"] and gateway.row.held_at is None


def former_life(gateway: FakeGateway) -> str:
    former = uuid.uuid4()
    GatewayLife.objects.create(gateway=gateway.row, generation=former, signing_key="k", began_at=now(), ended_at=now())
    return str(former)


class TestAnchors:
    def test_a_head_is_anchored_once_a_minute_when_it_moved(self, gateway: FakeGateway) -> None:
        records = chain_of(str(gateway.generation), 5)
        moment = now()
        upload(gateway, records[:2])
        assert audit_chains.anchor_heads(moment) == 1
        upload(gateway, records[2:])
        assert audit_chains.anchor_heads(moment + timedelta(seconds=59)) == 0
        assert audit_chains.anchor_heads(moment + timedelta(seconds=61)) == 1
        assert audit_chains.anchor_heads(moment + LATER) == 0
        anchored = AuditEntry.objects.filter(action="audit.gateway.anchored").order_by("id")
        assert [entry.details["position"] for entry in anchored] == [2, 5]
        assert anchored[1].details["hash"] == records[-1].hash


class TestCheckpoints:
    def test_a_checkpoint_is_signed_when_the_chain_moved_and_only_then(self, primary: None) -> None:
        note(1)
        audit.chain_all_pending()
        first = audit_chains.sign_checkpoint(now())
        assert first is not None
        assert (first.position, statement_of(first.text).hash) == audit.head()
        assert audit_chains.sign_checkpoint(now() + LATER) is None
        note(2)
        audit.chain_all_pending()
        assert audit_chains.sign_checkpoint(now()) is None, "the last one is too young"
        second = audit_chains.sign_checkpoint(now() + LATER)
        assert second is not None
        assert statement_of(second.text).previous_position == first.position

    def test_an_offered_checkpoint_wakes_nobody(self, gateway: FakeGateway) -> None:
        before = gateway.directive()
        audit.chain_all_pending()
        audit_chains.sign_checkpoint(now() + LATER)
        beat = gateway.heartbeat()
        assert beat.checkpoint is not None
        assert (beat.revision, gateway.directive().checkpoint) == (before.revision, None)

    def test_a_countersignature_is_stored_once_and_makes_its_key_part_of_the_chain(self, gateway: FakeGateway) -> None:
        audit.chain_all_pending()
        audit_chains.sign_checkpoint(now() + LATER)
        hear_and_sign(gateway)
        hear_and_sign(gateway)
        stored = AuditCountersignature.objects.get()
        assert is_countersigned(stored.checkpoint.text, stored.signature, gateway.keys.signing.public_key())
        known = AuditEntry.objects.get(action="audit.witness.known")
        assert known.details["key"] == encode_public_key(gateway.keys.signing.public_key())

    def test_a_countersignature_by_another_key_is_not_stored(self, gateway: FakeGateway) -> None:
        audit.chain_all_pending()
        audit_chains.sign_checkpoint(now() + LATER)
        offered = gateway.heartbeat().checkpoint
        gateway.keys, honest = structs_keys(gateway), gateway.keys
        assert offered is not None
        digest = hashlib.sha256(offered.text.encode()).hexdigest()
        said = messages.Countersigned(
            statement_of(offered.text).position, digest, countersign(offered.text, gateway.keys.signing)
        )
        gateway.keys = honest
        assert gateway.heartbeat(countersigned=said).checkpoint is not None
        assert not AuditCountersignature.objects.exists()

    def test_a_refusal_is_critical(self, gateway: FakeGateway) -> None:
        audit.chain_all_pending()
        audit_chains.sign_checkpoint(now() + LATER)
        offered = gateway.heartbeat().checkpoint
        digest = hashlib.sha256(offered.text.encode()).hexdigest()
        refused = messages.Countersigned(statement_of(offered.text).position, digest, refusal="position 1 has another hash")
        gateway.heartbeat(countersigned=refused)
        gateway.heartbeat(countersigned=refused)
        assert AuditEntry.objects.get(action="audit.checkpoint.contradicted").severity == "critical"

    def test_an_edit_since_the_last_checkpoint_raises_one_alarm(self, primary: None, intruder: Callable[..., int]) -> None:
        for number in range(4):
            note(number)
        audit.chain_all_pending()
        assert intruder("UPDATE common_auditentry SET actor = 'user:9' WHERE entity_id = 's-2'") == 1
        audit_chains.sign_checkpoint(now())
        note(5)
        audit.chain_all_pending()
        audit_chains.sign_checkpoint(now() + LATER)
        assert AuditEntry.objects.get(action="audit.chain.broken").severity == "critical"


def structs_keys(gateway: FakeGateway) -> Any:
    """The gateway's keys but for a signing key of somebody else."""
    return replace(gateway.keys, signing=Ed25519PrivateKey.generate())


class TestWitness:
    """The gateway's side, with a Primary that is only a key."""

    KEY, OWN = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()

    def offer(
        self, position: int, digest: str, *, minute: int = 0, generation: str = "g1", **other: Any
    ) -> messages.SignedCheckpoint:
        statement = Statement(PRIMARY, generation, position, digest, f"2026-11-25T12:{minute:02}:00+00:00", **other)
        signed = sign_statement(statement, self.KEY)
        return messages.SignedCheckpoint(signed.text, signed.signature, signed.key)

    def take(self, witness: Witness, offered: messages.SignedCheckpoint) -> messages.Countersigned | None:
        witness.pending = None
        witness.take(offered, (self.KEY.public_key(),), self.OWN)
        return witness.pending

    def test_it_signs_what_follows_and_remembers_it(self, db: None) -> None:
        witness, offered = Witness(), self.offer(5, "aa")
        said = self.take(witness, offered)
        assert said is not None and is_countersigned(offered.text, said.signature, self.OWN.public_key())
        assert self.take(Witness(), offered) is None, "once is enough, also after a restart"
        said = self.take(witness, self.offer(9, "bb", minute=1, previous_position=5, previous_hash="aa"))
        assert said is not None and not said.refusal
        assert AuditCheckpoint.objects.count() == 2

    @pytest.mark.parametrize(
        ("position", "digest", "restated"),
        [
            (5, "xx", {}),
            (4, "bb", {}),
            (9, "bb", {"previous_position": 5, "previous_hash": "xx"}),
            (9, "bb", {"previous_position": 3, "previous_hash": "zz"}),
        ],
        ids=[
            "another hash at its position",
            "a shorter chain",
            "a longer chain with another past",
            "a longer chain that leaves out what it signed",
        ],
    )
    def test_it_refuses_what_contradicts_its_memory(self, db: None, position: int, digest: str, restated: dict[str, Any]) -> None:
        self.take(Witness(), self.offer(5, "aa"))
        offered = self.offer(position, digest, minute=1, **restated)
        for _ in range(2):
            said = self.take(Witness(), offered)
            assert said is not None and said.refusal and not said.signature
        assert AuditCheckpoint.objects.count() == 1
        assert AuditEntry.objects.get(action="audit.checkpoint.contradicted").severity == "critical"

    def test_a_new_life_of_the_database_is_told_once_and_followed(self, db: None) -> None:
        self.take(Witness(), self.offer(5, "aa"))
        said = self.take(Witness(), self.offer(3, "cc", minute=1, generation="g2"))
        assert said is not None and said.signature
        said = self.take(Witness(), self.offer(5, "dd", minute=2, generation="g2", previous_position=3, previous_hash="cc"))
        assert said is not None and said.signature
        assert AuditEntry.objects.filter(action="audit.checkpoint.contradicted", severity="critical").count() == 1
        assert AuditCheckpoint.objects.filter(chain=PAST).count() == 1

    def test_a_checkpoint_signed_by_somebody_else_is_ignored(self, db: None) -> None:
        witness = Witness()
        witness.take(self.offer(5, "aa"), (Ed25519PrivateKey.generate().public_key(),), self.OWN)
        assert witness.pending is None and not AuditCheckpoint.objects.exists()


class LoopbackChannel(RealPrimary):
    """Stands where the gateway's channel stands; the calls go through the real views."""

    sent = 0

    def call(self, path: str, message: messages.Message, kind: type[Any], *, timeout: float) -> Any:
        self.sent += 1
        return super().call(path, message, kind, timeout=timeout)


class TestUploading:
    """The gateway's side: the chain it keeps in its own database arrives as it is."""

    def test_everything_arrives_in_order_and_then_it_rests(self, gateway: FakeGateway) -> None:
        chain = str(gateway.generation)
        for number in range(450):
            note(number)
        chain_step(chain)
        channel, uploads = LoopbackChannel(gateway), Uploads()
        pauses = [uploads.step(channel, chain, 5) for _ in range(5)]
        assert (pauses[-1], channel.sent) == (UPLOAD_PAUSE, 4)
        assert [link.hash for link in audit.links(chain)] == list(
            GatewayAuditRecord.objects.order_by("position").values_list("hash", flat=True)
        )
        note(451)
        chain_step(chain)
        uploads.step(channel, chain, 5)
        assert GatewayAuditChain.objects.get().position == audit.head(chain)[0]

    def test_what_former_lives_left_goes_after_the_present_one_and_a_contradiction_stops_nothing(
        self, gateway: FakeGateway
    ) -> None:
        present, good, forked = str(gateway.generation), former_life(gateway), former_life(gateway)
        upload(gateway, chain_of(forked, 1), forked)
        for number, chain in enumerate((good, forked, present)):
            note(number)
            chain_step(chain)
        channel, uploads = LoopbackChannel(gateway), Uploads()
        pauses = [uploads.step(channel, present, 5) for _ in range(12)]
        held = dict(GatewayAuditChain.objects.values_list("chain", "position"))
        assert held == {present: audit.head(present)[0], good: audit.head(good)[0], forked: 1, f"{forked}#1": 1}
        assert pauses[-1] == UPLOAD_PAUSE and channel.sent <= 12
        note(5)
        chain_step(present)
        uploads.step(channel, present, 5)
        assert GatewayAuditChain.objects.get(chain=present).position == audit.head(present)[0]

    def test_a_restart_asks_where_the_primary_stands_and_sends_nothing_twice(self, gateway: FakeGateway) -> None:
        chain = str(gateway.generation)
        note(1)
        chain_step(chain)
        for _ in range(2):
            Uploads().step(LoopbackChannel(gateway), chain, 5)
        uploads, channel = Uploads(), LoopbackChannel(gateway)
        assert uploads.step(channel, chain, 5) == 0
        uploads.step(channel, chain, 5)
        assert uploads.step(channel, chain, 5) == UPLOAD_PAUSE
        assert GatewayAuditChain.objects.get().position == audit.head(chain)[0]


@pytest.fixture
def intruder(db: None) -> Callable[..., int]:
    """Somebody who owns the tables and has switched the guards off."""

    def does(statement: str, *values: Any) -> int:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")  # a superuser's way past every trigger
            cursor.execute(statement, values)
            count = int(cursor.rowcount)
            cursor.execute("SET LOCAL session_replication_role = origin")
        return count

    return does


class Crime:
    """Ways to change a chain, each also as somebody does it who hashes everything anew afterwards."""

    def __init__(self, chain: str, does: Callable[..., int]) -> None:
        self.chain, self.does, self.own = chain, does, chain == PRIMARY
        self.table = "common_auditlink" if self.own else "gateways_gatewayauditrecord"

    def edit(self, position: int) -> None:
        if self.own:
            self.does("UPDATE common_auditentry SET actor = 'user:9' WHERE id = %s", self.entry(position))
        else:
            self.does(f"UPDATE {self.table} SET text = replace(text, 'user:7', 'user:9') WHERE chain = %s AND position = %s",  # noqa: S608
                      self.chain, position)  # fmt: skip

    def delete(self, position: int) -> None:
        entry = self.entry(position) if self.own else None
        self.does(f"DELETE FROM {self.table} WHERE chain = %s AND position = %s", self.chain, position)  # noqa: S608
        if entry:
            self.does("DELETE FROM common_auditentry WHERE id = %s", entry)

    def delete_and_close_the_gap(self, position: int) -> None:
        self.delete(position)
        for later in range(position + 1, self.length() + 1):
            self.move(later, later - 1)

    def insert(self, position: int) -> None:
        for later in range(self.length(), position - 1, -1):
            self.move(later, later + 1)
        if self.own:
            forged = note(99)
            self.does("DELETE FROM common_auditpending WHERE entry_id = %s", forged.pk)
            AuditLink.objects.create(chain=PRIMARY, position=position, entry=forged, hash="ab" * 32)
        else:
            GatewayAuditRecord.objects.create(chain=self.chain, position=position, text=told(99), hash="ab" * 32)

    def swap(self, position: int) -> None:
        other = position + 1 if position < self.length() else position - 1
        for old, new in ((position, 0), (other, position), (0, other)):
            self.move(old, new)

    def cut_the_tail(self, position: int) -> None:
        for later in range(self.length(), position - 1, -1):
            self.delete(later)

    def hash_anew(self) -> None:
        previous = GENESIS
        links = list(audit.links()) if self.own else list(audit_report.evidence().chains[self.chain]())
        for position, link in enumerate(links, start=1):
            previous = link_hash(self.chain, position, previous, link.text)
            self.does(f"UPDATE {self.table} SET hash = %s, position = %s WHERE chain = %s AND position = %s",  # noqa: S608
                      previous, position, self.chain, link.position)  # fmt: skip

    def entry(self, position: int) -> int:
        return int(AuditLink.objects.get(chain=PRIMARY, position=position).entry_id)

    def move(self, old: int, new: int) -> None:
        self.does(f"UPDATE {self.table} SET position = %s WHERE chain = %s AND position = %s", new, self.chain, old)  # noqa: S608

    def length(self) -> int:
        rows = AuditLink.objects if self.own else GatewayAuditRecord.objects
        return int(rows.filter(chain=self.chain).order_by("-position")[0].position)


CRIMES = ("edit", "delete", "delete_and_close_the_gap", "insert", "swap", "cut_the_tail")


@pytest.fixture
def proven(gateway: FakeGateway) -> Iterator[FakeGateway]:
    """A Primary with an audit trail and a gateway's copy, both covered by countersigned checkpoints."""
    upload(gateway, chain_of(str(gateway.generation), 6))
    audit_chains.anchor_heads(now())
    for number in range(3):
        note(number)
    audit.chain_all_pending()
    audit_chains.sign_checkpoint(now())
    hear_and_sign(gateway)
    note(9)
    audit.chain_all_pending()
    audit_chains.sign_checkpoint(now() + LATER)
    hear_and_sign(gateway)
    assert audit_report.verify().findings == []
    yield gateway


class TestTampering:
    @pytest.mark.parametrize("anew", [False, True], ids=["plainly", "with all hashes made anew"])
    @pytest.mark.parametrize("crime", CRIMES)
    def test_every_crime_at_every_position_is_found(
        self, proven: FakeGateway, intruder: Callable[..., int], crime: str, anew: bool
    ) -> None:
        """T22: all positions of the Primary's chain and of its copy of a gateway's chain; none may be missed."""
        tried, missed, misplaced = 0, [], []
        for chain in (PRIMARY, str(proven.generation)):
            for position in range(1, Crime(chain, intruder).length() + 1):
                with transaction.atomic():
                    one = Crime(chain, intruder)
                    getattr(one, crime)(position)
                    if anew:
                        one.hash_anew()
                    report = audit_report.verify()
                    transaction.set_rollback(True)
                tried += 1
                if report.sound:
                    missed.append((chain, position))
                elif not anew and (chain, position) not in {(one.chain, one.position) for one in report.findings}:
                    misplaced.append((chain, position, report.findings))
        assert tried > 12
        assert (missed, misplaced) == ([], [])

    def test_a_swapped_key_with_everything_signed_anew_is_found(self, proven: FakeGateway, intruder: Callable[..., int]) -> None:
        _sign_all_anew(Ed25519PrivateKey.generate(), intruder)
        assert {finding.fault for finding in audit_report.verify().findings} >= {Fault.SIGNATURE}

    def test_a_swapped_root_is_found_by_whoever_knows_the_right_one(self, proven: FakeGateway) -> None:
        evidence = audit_report.evidence()
        right = pin_of_pem(evidence.keys.root)
        assert check([evidence], right).sound
        assert not check([evidence], "sha256:" + "0" * 64).sound

    def test_a_swapped_witness_key_is_found(self, proven: FakeGateway, intruder: Callable[..., int]) -> None:
        other = Ed25519PrivateKey.generate()
        for row in AuditCountersignature.objects.select_related("checkpoint"):
            AuditCountersignature.objects.filter(pk=row.pk).update(
                key=encode_public_key(other.public_key()), signature=countersign(row.checkpoint.text, other)
            )
        assert not audit_report.verify().sound

    def test_a_tail_cut_together_with_its_checkpoints_is_found_with_a_gateway_s_memory(
        self, proven: FakeGateway, intruder: Callable[..., int]
    ) -> None:
        """Whoever owns the Primary's database can cut both; what gateways countersigned lies elsewhere."""
        memory = Evidence("gw-npr-primary", {}, _statements(), keys=Keys(root=audit_report.evidence().keys.root))
        first, last = AuditCheckpoint.objects.order_by("id")
        last.countersignatures.all().delete()
        last.delete()
        Crime(PRIMARY, intruder).cut_the_tail(first.position + 1)
        assert audit_report.verify().sound, "by itself it looks whole"
        found = check([audit_report.evidence(), memory]).findings
        assert {finding.fault for finding in found} == {Fault.TAIL_CUT}

    def test_a_checkpoint_taken_out_of_the_middle_is_found(self, proven: FakeGateway) -> None:
        first = AuditCheckpoint.objects.order_by("id")[0]
        first.countersignatures.all().delete()
        first.delete()
        assert [finding.fault for finding in audit_report.verify().findings] == [Fault.MISSING]

    def test_an_entry_kept_out_of_the_chain_is_found(self, proven: FakeGateway, intruder: Callable[..., int]) -> None:
        hidden = note(7)
        intruder("DELETE FROM common_auditpending WHERE entry_id = %s", hidden.pk)
        assert [finding.fault for finding in audit_report.verify().findings] == [Fault.UNCHAINED]

    def test_a_checkpoint_younger_than_the_export_is_no_tail_cut(self, proven: FakeGateway) -> None:
        moment = (now() + 2 * LATER).isoformat()
        older = audit_report.evidence(moment)
        lines = list(older.chains[PRIMARY]())
        older = replace(older, chains={**older.chains, PRIMARY: lambda: lines})
        note(50)
        audit.chain_all_pending()
        audit_chains.sign_checkpoint(now() + 3 * LATER)
        memory = Evidence("gw-npr-primary", {}, _statements())
        assert check([older, memory]).findings == []
        assert not check([replace(older, made_at=""), memory]).sound
        assert not check([replace(older, made_at=(now() + 4 * LATER).isoformat()), memory]).sound

    def test_a_gateway_that_cut_its_own_chain_is_found_by_the_primary_s_copy(self, proven: FakeGateway) -> None:
        chain = str(proven.generation)
        own = list(audit_report.evidence().chains[chain]())
        whole = Evidence("gw-npr-primary", {chain: lambda: own})
        assert check([audit_report.evidence(), whole]).sound
        found = check([audit_report.evidence(), Evidence("gw-npr-primary", {chain: lambda: own[:-1]})]).findings
        assert {finding.fault for finding in found} == {Fault.TAIL_CUT}

    def test_a_restored_database_is_excused_when_its_chain_says_so(self, proven: FakeGateway) -> None:
        later = Statement(PRIMARY, "old-life", 10**6, "ab" * 32, "2026-11-25T12:00:00+00:00")
        key = Ed25519PrivateKey.generate()
        signed = sign_statement(later, key)
        _certify(key)
        memory = Evidence("gw-npr-primary", {}, (signed,))
        assert not check([audit_report.evidence(), memory]).sound
        audit.record(actor="system", action="primary.database.changed", entity="primary", entity_id="old-life")
        audit.chain_all_pending()
        assert check([audit_report.evidence(), memory]).sound


class TestExport:
    @pytest.mark.parametrize("form", ["jsonl", "csv"])
    def test_an_export_is_as_sound_as_the_database_and_shows_each_change(
        self, proven: FakeGateway, tmp_path: Path, form: str
    ) -> None:
        counts = write_export(tmp_path / "out", audit_report.evidence(), form)
        assert set(counts) == {PRIMARY, str(proven.generation)}
        assert check([read_export(tmp_path / "out")]).findings == []
        for chain in counts:
            file = tmp_path / "out" / "chains" / f"{chain}.{form}"
            _tamper_with_every_line(file, lambda: check([read_export(tmp_path / "out")]), header=form == "csv")

    def test_a_chain_file_alone_is_checked_by_itself(self, proven: FakeGateway, tmp_path: Path) -> None:
        write_export(tmp_path / "out", audit_report.evidence())
        file = tmp_path / "out" / "chains" / "primary.jsonl"
        assert check([read_export(file)]).sound
        file.write_text(file.read_text().replace("user:7", "user:9", 1))
        assert not check([read_export(file)]).sound

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"format":1}', "\x00"])
    def test_what_is_no_export_is_refused_with_a_sentence(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match="no export of an audit trail"):
            read_export(tmp_path)


class TestCommand:
    """`mazevault audit verify` on files: no database, no Django."""

    def test_it_says_sound_or_what_and_where_by_exit_status_too(self, proven: FakeGateway, tmp_path: Path) -> None:
        call_command("audit", "export", out=tmp_path / "out", stdout=StringIO())
        ca = tmp_path / "ca.pem"
        ca.write_text(audit_report.evidence().keys.root)
        told = CliRunner().invoke(mazevault, ["audit", "verify", str(tmp_path / "out"), "--ca", str(ca)])
        assert (told.exit_code, told.stdout.splitlines()[-1]) == (0, "sound")
        file = tmp_path / "out" / "chains" / "primary.jsonl"
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
        told = CliRunner().invoke(mazevault, ["audit", "verify", str(tmp_path), "--ca", str(ca)])
        assert told.exit_code == 1
        assert "tail_cut" in told.stdout
        assert told.stdout.splitlines()[-1] == "NOT SOUND: 1 findings"

    def test_checking_files_loads_no_django(self, proven: FakeGateway, tmp_path: Path) -> None:
        write_export(tmp_path / "out", audit_report.evidence())
        program = ("import sys; from protocol.audit_files import read_export; from protocol.audit_evidence import check; "
                   "from pathlib import Path; sound = check([read_export(Path(sys.argv[1]))]).sound; "
                   "print(sound, 'django' in sys.modules)")  # fmt: skip
        done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["True", "False"]

    @pytest.mark.parametrize("wrong", [["nowhere"], ["--output", "xml"], [".", "--ca", "nowhere"]])
    def test_a_wrong_call_is_an_error_with_a_sentence(self, tmp_path: Path, wrong: list[str]) -> None:
        told = CliRunner().invoke(mazevault, ["audit", "verify", *wrong])
        assert told.exit_code == 1
        assert told.stderr.startswith("error: ")


class TestRetention:
    def test_nothing_goes_while_it_is_off(self, proven: FakeGateway) -> None:
        assert audit_retention.apply(now() + timedelta(days=10_000)) == []

    def test_old_entries_go_up_to_a_checkpoint_and_the_rest_still_proves_itself(self, proven: FakeGateway) -> None:
        last = AuditCheckpoint.objects.order_by("-id")[0]
        length = audit.head()[0]
        removed = audit_retention.remove_before(now() + LATER, now())
        assert [(one.chain, one.position) for one in removed] == [(PRIMARY, last.position), (str(proven.generation), 6)]
        assert AuditLink.objects.filter(position__lte=last.position).count() == 0
        assert AuditEntry.objects.count() == length - last.position + 2, "what is left and the two entries about the removals"
        audit.chain_all_pending()
        assert audit.head()[0] == length + 2, "each removal is told in the trail"
        report = audit_report.verify()
        assert report.findings == []
        assert report.chains[0].start == last.position
        upload(proven, chain_of(str(proven.generation), 2, 6, GatewayAuditChain.objects.get().hash))
        assert audit_report.verify().findings == []

    @pytest.mark.parametrize(("seconds", "cuts"), [(60.0, [2, 4, 6]), (-1.0, [2])])
    def test_a_turn_goes_on_until_nothing_old_is_left_or_its_time_is_over(
        self, proven: FakeGateway, settings: Any, monkeypatch: pytest.MonkeyPatch, seconds: float, cuts: list[int]
    ) -> None:
        """With one cut a turn more would come than goes, where many read."""
        monkeypatch.setattr(audit_retention, "TURN_SECONDS", seconds)
        settings.MAZEVAULT = replace(settings.MAZEVAULT, audit_retention_days=1)
        monkeypatch.setattr(audit_retention, "LONGEST_CUT", 2)
        of_the_copy = [one for one in audit_retention.apply(now() + timedelta(days=2)) if one.chain == str(proven.generation)]
        assert [(one.entries, one.position) for one in of_the_copy] == [(2, position) for position in cuts]
        upload(proven, chain_of(str(proven.generation), 2, 6, GatewayAuditChain.objects.get().hash))
        assert audit_report.verify().findings == []

    def test_entries_younger_than_the_limit_stay(self, proven: FakeGateway) -> None:
        count = AuditEntry.objects.count()
        assert audit_retention.remove_before(now() - timedelta(days=1), now()) == []
        assert AuditEntry.objects.count() == count

    def test_nothing_is_removed_from_a_chain_that_is_not_sound(self, proven: FakeGateway, intruder: Callable[..., int]) -> None:
        Crime(PRIMARY, intruder).edit(2)
        removed = audit_retention.remove_before(now() + LATER, now())
        assert [one.chain for one in removed] == [str(proven.generation)]

    def test_an_edit_after_a_cut_is_still_found(self, proven: FakeGateway, intruder: Callable[..., int]) -> None:
        audit_retention.remove_before(now() + LATER, now())
        audit.chain_all_pending()
        Crime(PRIMARY, intruder).edit(audit.head()[0])
        assert [finding.position for finding in audit_report.verify().findings] == [audit.head()[0]]

    def test_a_cut_without_our_signature_hides_no_deletion(self, proven: FakeGateway, intruder: Callable[..., int]) -> None:
        first = AuditCheckpoint.objects.order_by("id")[0]
        stranger = sign_statement(Statement(PRIMARY, "g", first.position, statement_of(first.text).hash, "x", is_cut=True),
                                  Ed25519PrivateKey.generate())  # fmt: skip
        AuditCheckpoint.objects.create(chain=PRIMARY, position=first.position, is_cut=True, text=stranger.text,
                                       signature=stranger.signature, key=stranger.key)  # fmt: skip
        intruder("DELETE FROM common_auditlink WHERE position <= %s", first.position)
        assert {finding.fault for finding in audit_report.verify().findings} >= {Fault.SIGNATURE, Fault.MISSING}

    def test_the_open_door_lets_nothing_go_that_no_cut_covers(self, proven: FakeGateway) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('mazevault.audit_cut', 'open', true)")
        for rows in (AuditLink.objects.all(), AuditEntry.objects.all(), GatewayAuditRecord.objects.all()):
            with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
                rows._raw_delete(rows.db)


class TestPeople:
    def test_an_auditor_gets_the_trail_as_json_that_can_be_checked(
        self, proven: FakeGateway, person: Callable[[str], Person]
    ) -> None:
        auditor = person("auditor")
        answer = auditor.client.get("/api/v1/audit-logs/export?format=json", headers=auditor.headers)
        rows = json.loads(b"".join(answer.streaming_content))
        placed = [row for row in rows if row["position"]]
        assert [row["position"] for row in placed] == list(range(1, len(placed) + 1))
        assert all(json.loads(row["text"])["actor"] == row["actor"] for row in rows)
        assert AuditEntry.objects.filter(action="audit.exported").count() == 1

    def test_filters_narrow_it_and_csv_cells_start_no_formula(self, proven: FakeGateway, person: Callable[[str], Person]) -> None:
        audit.record(actor="=cmd()", action="secret.read", entity="secret", entity_id="s-1")
        auditor = person("auditor")
        answer = auditor.client.get("/api/v1/audit-logs/export?action=secret.read&entity_id=s-1", headers=auditor.headers)
        lines = b"".join(answer.streaming_content).decode().splitlines()
        assert len(lines) == 3
        assert ",'=cmd()," in lines[2]

    def test_what_one_person_did_is_found_by_their_id(self, primary: None, person: Callable[[str], Person]) -> None:
        auditor = person("auditor")
        mine = auditor.get("auth/me")[1]["id"]
        for actor in (f"user:{mine}", f"service:{mine}", "user:somebody-else"):
            audit.record(actor=actor, action="x", entity="secret", entity_id="s-1")
        answer = auditor.client.get(f"/api/v1/audit-logs/export?format=json&action=x&user_id={mine}", headers=auditor.headers)
        rows = json.loads(b"".join(answer.streaming_content))
        assert [row["actor"] for row in rows] == [f"user:{mine}", f"service:{mine}"]

    @pytest.mark.parametrize(
        ("query", "word"),
        [("format=xml", "format"), ("start_date=soon", "start_date"), ("project_id=7", "project_id"), ("end_date=", "end_date")],
    )
    def test_a_wrong_filter_is_named(self, primary: None, person: Callable[[str], Person], query: str, word: str) -> None:
        status, body = person("auditor").get(f"audit-logs/export?{query}")
        assert (status, body["error"].split()[0]) == (400, word)

    def test_the_report_says_what_and_where(
        self, proven: FakeGateway, person: Callable[[str], Person], intruder: Callable[..., int]
    ) -> None:
        auditor = person("auditor")
        assert auditor.get("audit-logs/verify")[1]["sound"] is True
        Crime(PRIMARY, intruder).edit(2)
        status, body = auditor.get("audit-logs/verify")
        assert (status, body["sound"]) == (200, False)
        assert [(row["chain"], row["position"], row["fault"]) for row in body["findings"]] == [("primary", 2, "changed")]

    @pytest.mark.parametrize("path", ["audit-logs/export", "audit-logs/verify"])
    def test_it_needs_audit_read(self, primary: None, person: Callable[[str], Person], anybody: Person, path: str) -> None:
        assert person("viewer").get(path)[0] == 403
        assert anybody.get(path)[0] == 401


class TestAuditOrRefuse:
    """I17: with an audit that cannot be written, a request is refused and nothing has happened."""

    @pytest.fixture(params=["disk_full", "raise_exception", "not_null_violation"])
    def broken_audit(self, primary: None, request: pytest.FixtureRequest) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute(f"""
                CREATE FUNCTION audit_is_down() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE EXCEPTION 'down' USING ERRCODE = '{request.param}'; END $$""")
            cursor.execute("CREATE TRIGGER audit_is_down BEFORE INSERT ON common_auditentry "
                           "FOR EACH ROW EXECUTE FUNCTION audit_is_down()")  # fmt: skip

    def test_a_write_is_refused_and_changes_nothing(self, admin: Person, broken_audit: None) -> None:
        from gateways.models import BootstrapTokenRow

        status, body = admin.post("gateways/bootstrap", {"name": "gw-new"})
        assert (status, body["code"], "token" in body) == (503, "AUDIT_UNAVAILABLE", False)
        assert not BootstrapTokenRow.objects.exists()

    def test_a_read_that_must_be_audited_reveals_nothing(self, person: Callable[[str], Person], broken_audit: None) -> None:
        status, body = person("auditor").get("audit-logs/export?format=json")
        assert (status, body["code"]) == (503, "AUDIT_UNAVAILABLE")


def _statements() -> tuple[Signed, ...]:
    return tuple(Signed(row.text, row.signature, row.key) for row in AuditCheckpoint.objects.order_by("id"))


def _sign_all_anew(key: Ed25519PrivateKey, intruder: Callable[..., int]) -> None:
    for row in AuditCheckpoint.objects.all():
        signed = sign_statement(statement_of(row.text), key)
        AuditCheckpoint.objects.filter(pk=row.pk).update(signature=signed.signature, key=signed.key)
    intruder("UPDATE gateways_primarykeypair SET public_key = %s WHERE purpose = 'signing'", encode_public_key(key.public_key()))


def _certify(key: Ed25519PrivateKey) -> None:
    from gateways import identity
    from gateways.models import PrimaryKeyPair
    from vault import authorities
    from vault.generations import Standing
    from vault.profiles import PRIMARY_CHANNEL

    issued = authorities.issue(PRIMARY_CHANNEL, "platform", common_name="primary-channel", sans=(), public_key=key.public_key(),
                               now=now() - timedelta(days=1))  # fmt: skip
    identity._store(PrimaryKeyPair.SIGNING, key.public_key(), key.private_bytes_raw(), now() - timedelta(days=1),
                    now() - timedelta(hours=1), Standing.RETIRED, issued.pem)  # fmt: skip


def _tamper_with_every_line(file: Path, verdict: Callable[[], Report], *, header: bool) -> None:
    """Edit, delete, repeat and swap each line of a file; every time the check must notice."""
    text = file.read_text()
    lines = text.splitlines(keepends=True)
    first = 1 if header else 0
    for index in range(first, len(lines)):
        other = index + 1 if index + 1 < len(lines) else index - 1
        swapped = list(lines)
        swapped[index], swapped[other] = swapped[other], swapped[index]
        changes = [
            [*lines[:index], lines[index].replace("2026-", "2025-"), *lines[index + 1 :]],
            [*lines[:index], *lines[index + 1 :]],
            [*lines[: index + 1], *lines[index:]],
            lines[:index],
            swapped if other >= first else [],
        ]
        for change in changes:
            file.write_text("".join(change))
            assert not verdict().sound, (file.name, index, change[index : index + 1])
    file.write_text(text)
    assert verdict().sound
