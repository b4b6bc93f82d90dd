"""An audit chain that a copy of the gateway, or the gateway before its database was put back, went on with too (ADR 42).

Gateway and Primary share one database here; what each of them writes is chained apart (`Site.chained`).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.db.models import Q

from common import audit
from common.clock import now
from common.models import AuditCheckpoint, AuditEntry, AuditLink, AuditPending
from gateway_runtime import audit_retention as own_retention
from gateway_runtime.audit_upload import CONTRADICTED_PAUSE, UPLOAD_PAUSE, Uploads, chain_step
from gateway_runtime.models import AuditFork
from gateways import audit_chains, audit_retention, fleet, identity, secret_audit
from gateways.audit_report import evidence
from gateways.models import GatewayAuditChain, GatewayAuditRecord
from protocol import messages, paths
from protocol.audit import FORKED, GENESIS, MOST_FORKS, Fault, Signed, fork_name, link_hash, statement_of
from protocol.audit_evidence import Evidence, Report, check
from protocol.audit_files import read_export, write_export
from tests.fakes.gateway import FakeGateway
from tests.gateways.test_audit_chains import LoopbackChannel, former_life, intruder, note, told, upload  # noqa: F401  a fixture

pytestmark = pytest.mark.django_db
WRITTEN_BY_THE_GATEWAY = Q(action="secret.read") | Q(action=FORKED, severity="critical")


class Channel(LoopbackChannel):
    def primary_keys(self) -> tuple[Ed25519PublicKey, ...]:
        return (identity.signing_key().public_key(),)


class Site:
    """A gateway with its own audit chain, beside its Primary."""

    def __init__(self, gateway: FakeGateway, intruder: Callable[..., int]) -> None:  # noqa: F811
        self.gateway, self.intruder, self.chain = gateway, intruder, str(gateway.generation)
        self.channel, self.uploads, self.numbers = Channel(gateway), Uploads(), iter(range(1, 1000))
        self.cut_here = True
        """Whether the cuts of the chain are the gateway's, or its Primary's."""

    def reads(self, count: int) -> None:
        """People read secrets at the gateway."""
        for _ in range(count):
            note(next(self.numbers))
        self.chained()

    def chained(self) -> None:
        waiting = AuditEntry.objects.filter(pk__in=AuditPending.objects.values("entry_id"))
        mine = list(waiting.filter(WRITTEN_BY_THE_GATEWAY).order_by("id").values_list("pk", flat=True))
        AuditPending.objects.filter(pk__in=mine).delete()
        audit.chain_all_pending()
        AuditPending.objects.bulk_create(AuditPending(entry_id=pk) for pk in mine)
        chain_step(self.chain)

    def uploaded(self, tries: int = 12) -> float:
        """Until it rests, or is contradicted; returns the last pause."""
        for _ in range(tries):
            pause = self.uploads.step(self.channel, self.chain, 5)
            self.chained()
            if pause in (UPLOAD_PAUSE, CONTRADICTED_PAUSE):
                break
        return pause

    def copy_goes_on(self, count: int, after: int, name: str = "") -> None:
        """A copy of the gateway uploads entries of its own behind a position."""
        previous, records = audit.head(self.chain)[1], []
        if after != audit.head(self.chain)[0]:
            previous = AuditLink.objects.get(chain=self.chain, position=after).hash
        for position in range(after + 1, after + count + 1):
            text = told(position, actor="user:copy")
            previous = link_hash(self.chain, position, previous, text)
            records.append(messages.AuditRecord(position=position, text=text, hash=previous))
        assert upload(self.gateway, records, name or None).position == after + count

    def put_back_to(self, position: int) -> None:
        """Its database is that of an earlier moment."""
        gone = list(AuditLink.objects.filter(chain=self.chain, position__gt=position).values_list("entry_id", flat=True))
        self.intruder("DELETE FROM common_auditlink WHERE chain = %s AND position > %s", self.chain, position)
        self.intruder("DELETE FROM common_auditentry WHERE id = ANY(%s)", gone)
        AuditFork.objects.filter(position__gte=position).delete()
        self.uploads = Uploads()

    def released(self) -> None:
        fleet.release(self.gateway.row.id, reason="the copy was stopped", actor="user:1", address="", now=now())

    def held(self) -> dict[str, int]:
        return dict(GatewayAuditChain.objects.filter(gateway=self.gateway.row).values_list("chain", "position"))

    def shown(self) -> list[Evidence]:
        """What both show, as an auditor gets it."""
        own = AuditCheckpoint.objects.filter(chain=self.chain, is_cut=True) if self.cut_here else ()
        cuts = tuple(Signed(one.text, one.signature, one.key) for one in own)
        return [evidence(), Evidence("gw-npr-primary", {self.chain: lambda: audit.links(self.chain)}, cuts)]

    def report(self) -> Report:
        return check(self.shown())

    def fork(self, number: int = 1) -> str:
        return fork_name(self.chain, number)


@pytest.fixture
def site(npr: tuple[FakeGateway, FakeGateway], intruder: Callable[..., int]) -> Site:  # noqa: F811
    audit.chain_all_pending()
    made = Site(npr[0], intruder)
    made.reads(3)
    assert made.uploaded() == UPLOAD_PAUSE
    return made


def contradictions() -> list[AuditEntry]:
    return list(AuditEntry.objects.filter(action="audit.gateway.contradicted").order_by("id"))


def forks_told(severity: str) -> list[AuditEntry]:
    return list(AuditEntry.objects.filter(action=FORKED, severity=severity).order_by("id"))


def texts(chain: str) -> dict[int, str]:
    return dict(GatewayAuditRecord.objects.filter(chain=chain).values_list("position", "text"))


def own_texts(site: Site) -> dict[int, str]:
    return {link.position: link.text for link in audit.links(site.chain)}


def missing(site: Site, told_of: int) -> tuple[int, bool]:
    """Up to where the one answer about a secret says the gateway's own entries are here, and whether some are missing."""
    site.gateway.heartbeat(audit_position=told_of)
    (facts,) = [one for one in secret_audit._nodes("NPR") if one.name == "gw-npr-primary"]
    return facts.held, secret_audit.missing_of(facts)[0] is not None


def test_a_copy_wrote_first_and_after_one_release_all_evidence_of_both_is_held_and_proven(
    site: Site, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    site.copy_goes_on(3, after=3)
    site.reads(2)
    assert [site.uploaded() for _ in range(3)] == [CONTRADICTED_PAUSE] * 3
    row = site.gateway.row
    assert (row.held_code, row.held_at is not None) == ("two_pasts", True) and "then release the gateway" in row.held_reason
    assert [(one.severity, one.details["position"]) for one in contradictions()] == [("critical", 4)]
    said = [one for one in caplog.records if one.name == "mazevault.gateway.audit" and one.levelno >= logging.ERROR]
    assert len(said) == 1, "it is logged once, not at each try"
    assert {one.fault for one in site.report().findings} == {Fault.TAIL_CUT}, "nobody has looked yet"
    held = GatewayAuditChain.objects.get(chain=site.chain)
    assert (held.contradicted_position, held.contradicted_hash != held.contradicting_hash) == (4, True)

    assert missing(site, 5) == (3, True), "the copy's entries do not stand for its own"
    site.released()
    assert site.uploaded() == UPLOAD_PAUSE
    site.reads(2)
    site.uploaded()
    assert site.gateway.row.held_at is None and len(contradictions()) == 1
    assert missing(site, 8) == (8, False)
    assert site.held() == {site.chain: 6, site.fork(): 8}
    assert texts(site.fork()) == {position: text for position, text in own_texts(site).items() if position > 3}
    (entry,) = forks_told("critical")
    own = {link.position: link.hash for link in audit.links(site.chain)}
    assert entry.details == {
        "chain": site.chain, "position": 3, "hash": own[3], "own_position": 5, "own_hash": own[5], "taken_position": 6,
        "taken_hash": held.hash,
    }  # fmt: skip
    audit_chains.anchor_heads(now() + timedelta(minutes=2))
    site.chained()
    report = site.report()
    assert report.findings == []
    assert [(one.chain, one.position, one.follows) for one in report.forks] == [(site.chain, 3, site.fork())]
    for number, one in enumerate(site.shown()):
        write_export(tmp_path / str(number), one)
    assert any("FORK" in line for line in check([read_export(tmp_path / "0"), read_export(tmp_path / "1")]).lines())


@pytest.mark.parametrize("moment", ["contradicted", "released", "forked"])
def test_a_restart_goes_on_where_it_was(site: Site, moment: str) -> None:
    site.copy_goes_on(3, after=3)
    site.reads(2)
    for now_is in ("contradicted", "released", "forked"):
        if now_is == "released":
            site.released()
        assert site.uploaded() == (CONTRADICTED_PAUSE if now_is == "contradicted" else UPLOAD_PAUSE)
        if now_is == moment:
            site.uploads = Uploads()
    site.reads(1)
    assert site.uploaded() == UPLOAD_PAUSE
    assert site.held() == {site.chain: 6, site.fork(): 7}
    assert (len(contradictions()), len(forks_told("critical")), site.gateway.row.held_at) == (1, 1, None)


def test_a_second_copy_makes_a_second_fork(site: Site) -> None:
    site.copy_goes_on(2, after=3)
    site.reads(2)
    site.uploaded()
    site.released()
    site.uploaded()
    site.copy_goes_on(3, after=6, name=site.fork())
    site.reads(1)
    assert site.uploaded() == CONTRADICTED_PAUSE
    assert [one.details["chain"] for one in contradictions()] == [site.chain, site.fork()]
    assert site.gateway.row.held_code == "two_pasts"
    site.released()
    assert site.uploaded() == UPLOAD_PAUSE
    assert site.held() == {site.chain: 5, site.fork(): 9, site.fork(2): 8}
    report = site.report()
    assert (report.findings, [one.follows for one in report.forks]) == ([], [site.fork(), site.fork(2)])
    assert site.gateway.row.held_at is None


@pytest.mark.parametrize("anchored", [True, False])
def test_a_database_that_was_put_back_goes_on_in_a_fork_with_nothing_missing(site: Site, anchored: bool) -> None:
    site.reads(12)
    site.uploaded()
    if anchored:
        audit_chains.anchor_heads(now() + timedelta(minutes=2))
        site.chained()
    site.put_back_to(7)
    assert site.uploaded() == UPLOAD_PAUSE and contradictions() == [], "nothing contradicts yet"
    site.reads(2)
    assert site.uploaded() == CONTRADICTED_PAUSE
    assert [one.details["position"] for one in contradictions()] == [8]
    site.released()
    assert site.uploaded() == UPLOAD_PAUSE
    assert site.held() == {site.chain: 15, site.fork(): 10}
    assert sorted(texts(site.fork())) == [8, 9, 10] and site.report().findings == []


def test_a_database_put_back_under_a_running_process_is_seen_too(site: Site) -> None:
    site.reads(6)
    site.uploaded()
    uploads = site.uploads
    site.put_back_to(5)
    site.uploads = uploads
    site.uploaded()
    site.reads(2)
    assert site.uploaded() == CONTRADICTED_PAUSE
    assert contradictions()[0].details["position"] == 6


def test_where_the_last_common_entry_is_not_kept_any_more_all_that_is_here_is_sent(site: Site) -> None:
    site.reads(6)
    site.uploaded()
    site.put_back_to(5)
    site.intruder("DELETE FROM gateways_gatewayauditrecord WHERE chain = %s AND position BETWEEN 4 AND 8", site.chain)
    site.reads(5)
    assert site.uploaded() == CONTRADICTED_PAUSE
    site.released()
    assert site.uploaded() == UPLOAD_PAUSE
    assert texts(site.fork()) == own_texts(site) and len(contradictions()) == 1
    assert missing(site, audit.head(site.chain)[0]) == (audit.head(site.chain)[0], False)
    assert texts(site.chain)[1] == texts(site.fork())[1]
    first: Any = "s-1"
    assert len(secret_audit._of_gateways(first, 50)) == 1, "what both chains hold is told once"


def test_a_database_put_back_to_before_its_first_fork_makes_a_second_one(site: Site) -> None:
    site.copy_goes_on(2, after=3)
    site.reads(2)
    site.uploaded()
    site.released()
    site.uploaded()
    site.put_back_to(2)
    assert site.uploaded() == UPLOAD_PAUSE
    site.reads(1)
    assert site.uploaded() == CONTRADICTED_PAUSE
    assert site.gateway.row.held_at is not None
    site.released()
    assert site.uploaded() == UPLOAD_PAUSE
    assert site.held()[site.fork(2)] == audit.head(site.chain)[0]
    assert texts(site.fork(2)) == {position: text for position, text in own_texts(site).items() if position > 2}
    assert site.report().findings == [] and site.gateway.row.held_at is None


def test_only_its_own_chains_that_were_opened_can_be_named(site: Site, npr: tuple[FakeGateway, FakeGateway]) -> None:
    site.copy_goes_on(2, after=3)
    site.reads(1)
    site.uploaded()
    place = messages.AuditPlace(position=3, hash=AuditLink.objects.get(chain=site.chain, position=3).hash)

    def ask(gateway: FakeGateway, at: messages.AuditPlace, life: str | None = None) -> tuple[int, str]:
        body = messages.AuditUpload(records=[], fork_at=at, life=life)
        answer: Any = gateway.call(paths.AUDIT, body, messages.AuditTaken)
        if isinstance(answer, messages.AuditTaken):
            return 200, str(answer.follows and answer.follows.chain)
        return answer.status_code, answer.json()["error"].split(":")[0]

    assert ask(site.gateway, place)[0] == 409, "nobody has released it"
    assert ask(site.gateway, messages.AuditPlace(position=3, hash="ab" * 32))[0] == 409
    site.released()
    assert ask(site.gateway, messages.AuditPlace(position=3, hash="ab" * 32)) == (400, "fork_at"), "another entry is held there"
    assert ask(site.gateway, messages.AuditPlace(position=99, hash="ab" * 32)) == (400, "fork_at"), "it does not reach so far"
    assert ask(npr[1], place) == (400, "fork_at"), "nothing contradicts that one"
    for life in (site.fork(), site.chain):
        assert ask(npr[1], place, life) == (400, "life")
    assert upload(site.gateway, [], site.fork()).status_code == 400, "it was never opened"
    assert [ask(site.gateway, place) for _ in range(2)] == [(200, site.fork())] * 2, "the answer may be lost"
    assert len(forks_told("warning")) == 1
    for life in (site.fork(), site.fork(2)):
        assert upload(npr[1], [], life).status_code == 400
    assert upload(site.gateway, [], site.fork(2)).status_code == 400
    for life in (f"{site.chain}#0", f"{site.chain}#01", f"{site.chain}#x", f"{site.chain}#1000"):
        assert upload(site.gateway, [], life).status_code == 400
    GatewayAuditChain.objects.create(chain=site.fork(MOST_FORKS), gateway=site.gateway.row, hash="", contradicted_at=now())
    site.released()
    assert ask(site.gateway, place, site.fork(MOST_FORKS))[0] == 409, "forks of a life are bounded"


def test_an_upload_of_a_forked_chain_holds_nobody_again(site: Site) -> None:
    """A gateway of an earlier version goes on saying it, and a copy may."""
    site.copy_goes_on(2, after=3)
    site.reads(1)
    site.uploaded()
    site.released()
    link = AuditLink.objects.get(chain=site.chain, position=4)
    records = [messages.AuditRecord(position=4, text=audit.text_of(audit.with_details_text(
        AuditEntry.objects.filter(pk=link.entry_id)).get()), hash=link.hash)]  # fmt: skip
    for _ in range(2):
        answer = upload(site.gateway, records)
        assert (answer.status_code, answer.json()["details"]) == (409, "4")
    assert site.gateway.row.held_at is None and len(contradictions()) == 1


def test_nothing_is_added_to_a_chain_that_has_gone_on_in_another_one(site: Site) -> None:
    """What fits there is of the copy: it is sent to the chain that follows, where it contradicts and quarantines."""
    site.copy_goes_on(2, after=3)
    site.reads(1)
    site.uploaded()
    site.released()
    assert site.uploaded() == UPLOAD_PAUSE
    before = site.held()[site.chain]
    last = GatewayAuditRecord.objects.get(chain=site.chain, position=before)
    text = told(before + 1, actor="user:copy")
    more = messages.AuditRecord(position=before + 1, text=text, hash=link_hash(site.chain, before + 1, last.hash, text))
    answer = upload(site.gateway, [more])
    assert (answer.status_code, answer.json()["details"]) == (409, str(before + 1))
    assert site.held()[site.chain] == before
    assert upload(site.gateway, [more], site.fork()).status_code == 409
    assert site.gateway.row.held_at is not None


def test_a_fork_that_tells_more_again_than_it_must_is_told_as_critical(site: Site) -> None:
    """A gateway in a stranger's hands could tell its whole past anew; the chain of before stays what it was."""
    site.copy_goes_on(2, after=3)
    site.reads(1)
    site.uploaded()
    site.released()
    taken = site.gateway.call(
        paths.AUDIT, messages.AuditUpload(records=[], fork_at=messages.AuditPlace(position=0, hash=GENESIS)), messages.AuditTaken
    )
    assert isinstance(taken, messages.AuditTaken)
    (forked,) = [entry for entry in forks_told("critical") if entry.actor != "system"]
    assert (forked.details["position"], forked.details["told_again"]) == (0, 3)
    assert site.held()[site.chain] == 5


def test_a_release_before_the_contradiction_is_none(site: Site) -> None:
    site.released()
    site.copy_goes_on(1, after=3)
    site.reads(1)
    assert site.uploaded() == CONTRADICTED_PAUSE and site.gateway.row.held_at is not None


def test_who_released_it_after_the_copy_had_written_need_not_do_it_twice(site: Site) -> None:
    """It was quarantined for two lives first; its own entries arrive only after the release of that."""
    site.copy_goes_on(2, after=3)
    site.released()
    site.reads(1)
    assert site.uploaded() == UPLOAD_PAUSE
    assert (site.gateway.row.held_at, site.held()[site.fork()]) == (None, 5)
    assert [(one.severity, one.details["released_since"]) for one in contradictions()] == [("critical", True)]
    assert site.report().findings == []


def test_a_contradiction_of_a_gateway_that_is_held_already_is_told_and_the_release_counts_for_it(site: Site) -> None:
    fleet.hold("NPR", type(site.gateway.row).objects.filter(pk=site.gateway.row.pk), "for another reason", now())
    site.copy_goes_on(1, after=3)
    site.reads(1)
    assert site.uploaded() == CONTRADICTED_PAUSE
    assert (site.gateway.row.held_reason, len(contradictions())) == ("for another reason", 1)
    site.released()
    assert site.uploaded() == UPLOAD_PAUSE and site.fork() in site.held()


def test_a_chain_of_a_former_life_forks_without_a_release(site: Site) -> None:
    former = former_life(site.gateway)
    present, site.chain = site.chain, former
    site.reads(2)
    site.chain = present
    forged = link_hash(former, 1, "0" * 64, told(1))
    upload(site.gateway, [messages.AuditRecord(position=1, text=told(1), hash=forged)], former)
    uploads = Uploads()
    for _ in range(9):
        uploads.step(site.channel, present, 5)
    assert site.held()[fork_name(former, 1)] == 2
    assert AuditEntry.objects.filter(action="audit.former_chain.contradicted").count() == 1
    assert site.gateway.row.held_at is None


@pytest.fixture
def forked(site: Site, settings: Any) -> Site:
    """Three entries in common, three of a copy, two of the gateway and the one that tells of the fork; all anchored."""
    kept = {**settings.MAZEVAULT.retention, "MAZEVAULT_AUDIT_RETENTION_DAYS": 90}
    settings.MAZEVAULT = replace(settings.MAZEVAULT, retention=kept)
    site.copy_goes_on(3, after=3)
    site.reads(2)
    site.uploaded()
    site.released()
    site.uploaded()
    assert audit_chains.anchor_heads(now() + timedelta(minutes=2)) == 2
    site.chained()
    return site


def test_a_gateway_removes_what_is_old_on_both_sides_of_a_fork_and_the_rest_still_proves_itself(
    forked: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_retention, "LONGEST_CUT", 2)
    for upto, name in ((2, forked.chain), (4, forked.fork()), (6, forked.fork())):
        assert own_retention.apply(forked.channel, forked.chain, now() + timedelta(days=200), 5) == 2
        cuts = AuditCheckpoint.objects.filter(chain=forked.chain)
        assert [(one.position, statement_of(one.text).chain) for one in cuts] == [(upto, name)]
        assert forked.report().findings == []
    forked.reads(1)
    forked.uploads = Uploads()
    assert forked.uploaded() == UPLOAD_PAUSE and forked.report().findings == []


def test_the_primary_removes_what_is_old_on_both_sides_of_a_fork_and_the_rest_still_proves_itself(forked: Site) -> None:
    audit_chains.sign_checkpoint(now() + timedelta(minutes=2))
    forked.cut_here, later = False, now() + timedelta(days=200)
    removed = audit_retention.remove_before(later, later)
    assert {(one.chain, one.position) for one in removed} >= {(forked.chain, 6), (forked.fork(), 6)}
    assert {one.chain for one in removed} >= {"primary"}, "the entry that told of the fork is gone as well"
    forked.chained()
    report = forked.report()
    assert (report.findings, report.forks) == ([], [])
    forked.reads(1)
    forked.uploads = Uploads()
    assert forked.uploaded() == UPLOAD_PAUSE and forked.report().findings == []


def test_a_fork_that_nobody_told_of_and_a_change_in_one_are_found(site: Site) -> None:
    site.copy_goes_on(2, after=3)
    site.reads(2)
    site.uploaded()
    site.released()
    site.uploaded()
    site.intruder("UPDATE gateways_gatewayauditrecord SET text = replace(text, 'user:7', 'user:9') WHERE chain = %s "
                  "AND position = 5", site.fork())  # fmt: skip
    found = {(one.chain, one.position, one.fault) for one in site.report().findings}
    assert found == {(site.fork(), 5, Fault.CHANGED)}
    primary, own = site.shown()
    untold = replace(primary, chains={**primary.chains, f"{uuid.uuid4()}#1": tuple})
    assert Fault.MISSING in {one.fault for one in check([untold, own]).findings}
    entry = forks_told("warning")[0]
    site.intruder("UPDATE common_auditentry SET details = jsonb_set(details, '{position}', '1') WHERE id = %s", entry.pk)
    assert Fault.CHANGED in {one.fault for one in site.report().findings if one.chain == "primary"}


def test_what_is_said_between_versions_stays_as_it_was() -> None:
    """Each side refuses fields it does not know, so what is new is said only to who asked for it."""
    said = msgspec.json.decode(messages.encode(messages.AuditUpload(records=[], cut_at=3)))
    answered = msgspec.json.decode(messages.encode(messages.AuditTaken(position=3, hash="h")))
    assert said == {"records": [], "cut_at": 3} and answered == {"position": 3, "hash": "h"}
