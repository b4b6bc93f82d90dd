"""A gateway lets its own audit entries go once the Primary answers for them, and its chain still proves itself (DESIGN §10)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common import audit, audit_report
from common.clock import now
from common.models import AuditCheckpoint, AuditEntry, AuditLink
from gateway_runtime import audit_retention
from gateway_runtime.audit_upload import Uploads, chain_step
from gateways import audit_chains, identity
from gateways.audit_report import evidence
from protocol import messages, paths
from protocol.audit_evidence import Evidence, check
from tests.fakes.gateway import FakeGateway
from tests.gateways.test_audit_chains import LoopbackChannel, intruder, note  # noqa: F401  a fixture

pytestmark = pytest.mark.django_db
LATER = timedelta(days=200)


class Channel(LoopbackChannel):
    key: Ed25519PublicKey | None = None

    def primary_keys(self) -> tuple[Ed25519PublicKey, ...]:
        return (self.key or identity.signing_key().public_key(),)


@pytest.fixture
def channel(primary: None, settings: Any) -> Channel:
    gateway = FakeGateway("gw-npr-primary").enrol()
    chain = str(gateway.generation)
    kept = {**settings.MAZEVAULT.retention, "MAZEVAULT_AUDIT_RETENTION_DAYS": 90}
    settings.MAZEVAULT = replace(settings.MAZEVAULT, retention=kept)
    audit.chain_all_pending()  # what the Primary itself wrote
    for number in range(5):
        note(number)
    chain_step(chain)
    made, uploads = Channel(gateway), Uploads()
    for _ in range(3):
        uploads.step(made, chain, 5)
    return made


def apply(channel: Channel, later: timedelta = LATER) -> int:
    return audit_retention.apply(channel, chain_of(channel), now() + later, 5)


def chain_of(channel: Channel) -> str:
    return str(channel.gateway.generation)


def anchor(channel: Channel) -> None:
    assert audit_chains.anchor_heads(now()) == 1
    audit.chain_all_pending()


def shown(channel: Channel) -> Evidence:
    """What the gateway shows of its own chain."""
    chain = chain_of(channel)
    cuts = tuple(one for one in audit_report.statements() if f'"{chain}"' in one.text)
    return Evidence("gw-npr-primary", {chain: lambda: audit.links(chain)}, cuts)


def test_nothing_goes_before_the_primary_has_anchored_it(channel: Channel) -> None:
    assert apply(channel) == 0
    assert AuditLink.objects.filter(chain=chain_of(channel)).count() == 5


def test_what_is_old_held_and_anchored_goes_and_the_chain_still_proves_itself(channel: Channel) -> None:
    chain = chain_of(channel)
    anchor(channel)
    assert apply(channel) == 5
    assert AuditLink.objects.filter(chain=chain).count() == 0
    assert audit.start_of(chain)[0] == 5 == audit.head(chain)[0]
    chain_step(chain)  # the entry about the removal goes on from the cut
    assert [link.position for link in audit.links(chain)] == [6]
    assert audit.verify_chain(chain).broken_at is None
    report = check([evidence(), shown(channel)])
    assert report.findings == [] and shown(channel).statements


def test_younger_entries_stay(channel: Channel) -> None:
    anchor(channel)
    assert apply(channel, timedelta(days=89)) == 0
    assert AuditLink.objects.filter(chain=chain_of(channel)).count() == 5


def test_keeping_everything_asks_for_nothing(channel: Channel, settings: Any) -> None:
    anchor(channel)
    settings.MAZEVAULT = replace(settings.MAZEVAULT, retention={"MAZEVAULT_AUDIT_RETENTION_DAYS": 0})
    before = channel.sent
    assert apply(channel) == 0 and channel.sent == before


def test_a_long_past_goes_in_parts_and_old_cuts_go_with_it(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    anchor(channel)
    monkeypatch.setattr(audit_retention, "LONGEST_CUT", 2)
    assert [apply(channel), apply(channel)] == [2, 2]
    assert AuditCheckpoint.objects.filter(chain=chain_of(channel), is_cut=True).count() == 1
    assert check([evidence(), shown(channel)]).findings == []


def test_an_edited_chain_keeps_everything(channel: Channel, intruder: Any) -> None:  # noqa: F811
    anchor(channel)
    entry = AuditLink.objects.get(chain=chain_of(channel), position=3).entry_id
    intruder("UPDATE common_auditentry SET actor = 'user:nobody' WHERE id = %s", entry)
    before = AuditEntry.objects.count()
    assert apply(channel) == 0 and AuditEntry.objects.count() == before


def test_a_cut_by_somebody_else_removes_nothing(channel: Channel) -> None:
    anchor(channel)
    channel.key = Ed25519PrivateKey.generate().public_key()
    assert apply(channel) == 0


def test_the_primary_signs_no_cut_beyond_what_it_anchored(channel: Channel) -> None:
    anchor(channel)
    asked = messages.AuditUpload(records=[], cut_at=6)
    answer = channel.gateway.call(paths.AUDIT, asked, messages.AuditTaken)
    assert answer.cut is None
