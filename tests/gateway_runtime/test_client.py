"""The gateway's side of the sealed channel against the real Primary and against forgers of its answers (DESIGN §6)."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.db import transaction
from msgspec import structs

from common.clock import now
from gateway_runtime.client import (
    TRUST_PAUSE,
    URGENT,
    AnswerNotTrusted,
    Channel,
    Known,
    NotTheOneProcess,
    PrimaryRefused,
    PrimaryUnreachable,
    SignerUnknown,
    _refusal_of,
    fetch_trust,
)
from gateway_runtime.node import Node
from gateway_runtime.state import Sequences
from gateway_runtime.supervisor import Supervisor
from gateways import channel_keys, identity
from gateways.models import PrimaryKeyPair
from protocol import paths
from protocol.bootstrap_token import unpack
from protocol.envelope import SUITE, encode_public_key, key_id, open_parcel, packed, parse, seal
from protocol.messages import Acknowledged, AskDirective, Directive, LeaseAnswer, RenewLease, SignOfLife
from tests.fakes.gateway import FakeGateway
from tests.fakes.wire import Wire, unchanged
from tests.gateway_runtime.conftest import identity_of
from vault import succession
from vault.models import CertificateAuthority

EVERY_CALL = sorted(path for path in vars(paths).values() if isinstance(path, str) and "/gateways/channel/" in path)
ONE, TWO = "https://one.example", "https://two.example"


@dataclass
class Line:
    """A registered gateway's channel to the real Primary."""

    gateway: FakeGateway
    wire: Wire
    channel: Channel

    def ask(self) -> Directive:
        return self.channel.call(paths.DIRECTIVE, AskDirective(), Directive, timeout=5)

    def resealed(self, *, signer: Ed25519PrivateKey | None = None, **header: Any) -> None:
        """From here on answers come with another header or from another signer."""
        key = self.gateway.keys.encryption

        def change(answer: httpx.Response) -> httpx.Response:
            parcel = parse(answer.content)
            sealed = seal(
                structs.replace(parcel.header, **header),
                open_parcel(parcel, key),
                key.public_key(),
                signer or identity.signing_key(),
            )
            return httpx.Response(200, headers=answer.headers, content=sealed)

        self.wire.change = change


@pytest.fixture
def line(npr: tuple[FakeGateway, FakeGateway], monkeypatch: pytest.MonkeyPatch) -> Line:
    gateway, wire = npr[0], Wire(peer=npr[0].der())
    monkeypatch.setattr(httpx, "Client", wire)
    return Line(gateway, wire, channel_of(gateway))


def channel_of(gateway: FakeGateway, pin: str = "", **more: Any) -> Channel:
    sequences = Sequences()
    sequences.skip_to(gateway.sequence + 1000)
    made = Channel(
        urls=(ONE, TWO), known=Known((pin or unpack(gateway.token).pin,)), keys=gateway.keys, generation=gateway.generation,
        sequences=sequences, sender=gateway.id, environment="NPR", identity=None, tls_file=None, master_key=b"0" * 32,
        instance=uuid.UUID(gateway.instance), **more,
    )  # fmt: skip
    made._thumbprint = gateway.header("").certificate
    return made


def sealed_with(content: bytes) -> Callable[[httpx.Response], httpx.Response]:
    return lambda answer: httpx.Response(200, headers=answer.headers, content=content)


class TestTheOneProcess:
    def test_who_is_not_says_nothing_at_all(self, line: Line) -> None:
        held = [True, False]
        line.channel = channel_of(line.gateway, may_speak=lambda: held.pop(0) if held else False)
        line.ask()
        said = list(line.wire.asked)
        for path in EVERY_CALL:  # heartbeats, uploads, renewals, results, a goodbye: whatever there is
            with pytest.raises(NotTheOneProcess):
                line.channel.call(path, AskDirective(), Directive, timeout=5)
        assert line.wire.asked == said

    def test_its_silence_says_nothing_about_the_primary(self, line: Line) -> None:
        line.channel = channel_of(line.gateway, may_speak=lambda: False)
        for _ in range(20):
            with pytest.raises(NotTheOneProcess):
                line.ask()
        assert line.channel._breaker.allows(time.monotonic())

    def test_the_channel_of_a_gateway_asks_its_lock(self, line: Line, as_gateway: None, monkeypatch: pytest.MonkeyPatch) -> None:
        made, identity_here = Supervisor(), identity_of(line.gateway.keys, line.gateway.generation, line.gateway.id)
        made.node = Node(made.timing)
        monkeypatch.setattr("gateway_runtime.identity.tls_files", lambda *_: (None, None))
        monkeypatch.setattr("gateway_runtime.client._thumbprint", lambda _identity: "")
        made._use(replace(identity_here, urls=(ONE,)))
        with pytest.raises(NotTheOneProcess):
            made.channel.call(paths.DIRECTIVE, AskDirective(), Directive, timeout=5)
        assert not line.wire.asked


@pytest.fixture
def signed(line: Line) -> None:
    """Each message is signed by itself, as those are that may not be said in a session."""
    line.channel._no_session_until = math.inf


@pytest.mark.usefixtures("signed")
class TestAnswers:
    def test_the_primarys_own_answer_is_believed(self, line: Line) -> None:
        assert line.ask().epoch == line.gateway.epoch
        line.resealed()
        assert line.ask().epoch == line.gateway.epoch, "what is changed below is all that is wrong"

    def test_an_answer_that_somebody_else_signed_is_not(self, line: Line) -> None:
        line.resealed(signer=Ed25519PrivateKey.generate())
        with pytest.raises(SignerUnknown):
            line.ask()

    @pytest.mark.parametrize(
        "header",
        [
            {"request_hash": "of-another-request"}, {"environment": "PRO"}, {"direction": "up"}, {"sender": "another"},
            {"generation": str(uuid.UUID(int=7))}, {"method": "GET"}, {"path": paths.HEARTBEAT}, {"certificate": "a"},
            {"recipient": key_id(X25519PrivateKey.generate().public_key())}, {"issued_at": int(time.time()) - 3600},
        ],
        ids=lambda header: next(iter(header)),
    )  # fmt: skip
    def test_an_answer_made_for_something_else_is_not(self, line: Line, header: dict[str, Any]) -> None:
        line.resealed(**header)
        with pytest.raises(AnswerNotTrusted):
            line.ask()

    def test_the_answer_to_an_earlier_request_is_not(self, line: Line) -> None:
        answers: list[httpx.Response] = []

        def earlier(answer: httpx.Response) -> httpx.Response:
            answers.append(answer)
            return answers[0]

        line.wire.change = earlier
        line.ask()
        with pytest.raises(AnswerNotTrusted, match="wrong_request"):
            line.ask()

    def test_an_answer_of_another_kind_or_length_is_not(self, line: Line) -> None:
        for content in (b"{}", b"x" * (2 * 1024 * 1024 + 1)):
            line.wire.change = sealed_with(content)
            with pytest.raises(AnswerNotTrusted):
                line.ask()
        line.wire.change = lambda answer: httpx.Response(200, content=answer.content)
        with pytest.raises(PrimaryUnreachable):
            line.ask()


class TestSessions:
    def test_lease_heartbeat_and_directive_share_one_opening_and_nothing_else_is_in_it(self, line: Line) -> None:
        for _ in range(2):
            line.ask()
            line.channel.call(paths.LEASE_RENEW, lease_wish(), LeaseAnswer, timeout=5)
            line.channel.call(paths.SIGN_OF_LIFE, SignOfLife(number=1), Acknowledged, timeout=5)
        sent = [parse(wire) for wire in line.wire.sent]
        assert [one.is_in_session for one in sent] == [True, True, False] * 2
        assert len({one.session for one in sent if one.is_in_session}) == 1

    def test_an_answer_out_of_a_session_is_not_believed_in_one(self, line: Line) -> None:
        """Whoever can sign for the Primary is the Primary; but an answer to something else must not be put in its place."""
        line.ask()
        line.wire.change = lambda answer: httpx.Response(
            200, headers=answer.headers,
            content=seal(structs.replace(parse(answer.content).header, suite=SUITE), b"{}",
                         line.gateway.keys.encryption.public_key(), identity.signing_key()),
        )  # fmt: skip
        with pytest.raises(AnswerNotTrusted, match="unknown_suite"):
            line.ask()

    @pytest.mark.parametrize("part", ["header", "ciphertext"])
    def test_a_changed_answer_is_not_believed(self, line: Line, part: str) -> None:
        def change(answer: httpx.Response) -> httpx.Response:
            parcel = parse(answer.content)
            header = structs.replace(parcel.header, issued_at=parcel.header.issued_at + 1) if part == "header" else parcel.header
            ciphertext = parcel.ciphertext if part == "header" else bytes([parcel.ciphertext[0] ^ 1]) + parcel.ciphertext[1:]
            return httpx.Response(200, headers=answer.headers, content=packed(msgspec.json.encode(header), ciphertext))

        line.wire.change = change
        with pytest.raises(AnswerNotTrusted, match="not_decrypted"):
            line.ask()

    def test_the_next_one_is_opened_after_its_time_and_for_another_key_of_the_primary(self, line: Line) -> None:
        line.ask()
        session = line.channel._session
        assert session is not None
        line.channel._session = replace(session, facts=structs.replace(session.facts, issued_at=session.facts.issued_at - 3600))
        line.ask()
        assert line.channel._session is not None and line.channel._session.opening != session.opening
        PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT).delete()
        identity.ensure_keys()
        channel_keys.forget()
        line.ask()
        assert parse(line.wire.sent[-1]).session not in ("", session.opening)

    def test_where_the_primary_refuses_sessions_each_message_is_signed_by_itself(self, line: Line) -> None:
        line.wire.change = lambda answer: (
            httpx.Response(403, json={"error": "the sealed message was not accepted", "code": "ENVELOPE_REFUSED"})
            if parse(line.wire.sent[-1]).is_in_session else answer
        )  # fmt: skip
        line.ask()
        line.ask()
        assert [parse(wire).is_in_session for wire in line.wire.sent] == [True, False, False]
        line.channel._no_session_until = time.monotonic()
        line.ask()
        assert parse(line.wire.sent[3]).is_in_session, "an hour later it is tried again"

    def test_a_refusal_of_a_signed_message_is_told(self, line: Line) -> None:
        line.wire.change = lambda answer: httpx.Response(403, json={"error": "no", "code": "ENVELOPE_REFUSED"})
        with pytest.raises(PrimaryRefused):
            line.ask()
        assert [parse(wire).is_in_session for wire in line.wire.sent] == [True, False]
        for _ in range(3):
            with pytest.raises(PrimaryRefused):
                line.ask()
        assert [parse(wire).is_in_session for wire in line.wire.sent] == [True, False, True, True, True], "one call, not two"
        line.wire.change = unchanged
        line.ask()
        assert parse(line.wire.sent[-1]).is_in_session, "the session was not why"
        line.wire.change = lambda answer: (
            httpx.Response(403, json={"error": "no", "code": "ENVELOPE_REFUSED"})
            if parse(line.wire.sent[-1]).is_in_session else answer
        )  # fmt: skip
        line.channel._not_the_session_until = time.monotonic()
        line.ask()
        assert [parse(wire).is_in_session for wire in line.wire.sent[-2:]] == [True, False], "a minute later it is tried"


def lease_wish() -> RenewLease:
    return RenewLease(epoch=1, sent_at=datetime.now(UTC).isoformat())


def other_primary() -> dict[str, str]:
    """The trust document of a Primary with a root of its own."""
    with transaction.atomic():
        PrimaryKeyPair.objects.all().delete()
        CertificateAuthority.objects.exclude(scope="root").delete()
        CertificateAuthority.objects.all().delete()
        succession.ensure_authorities(())
        identity.ensure_keys()
        document = identity.trust_document()
        transaction.set_rollback(True)
    return {name: getattr(document, name) for name in document.__dataclass_fields__}


def answered_with(content: object) -> Callable[[httpx.Response], httpx.Response]:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda answer: httpx.Response(200, content=body, request=answer.request)


class TestTrust:
    def test_nothing_is_sent_to_a_primary_whose_root_is_not_the_pinned_one(self, line: Line) -> None:
        line.wire.change_trust = answered_with(other_primary())
        with pytest.raises(AnswerNotTrusted, match="certificate authority"):
            line.ask()
        assert line.wire.sent == []

    def test_the_pinned_root_vouches_for_its_own_signing_key_only(self, line: Line) -> None:
        forged = other_primary() | {name: getattr(identity.trust_document(), name) for name in ("root", "roots")}
        line.wire.change_trust = answered_with(forged)
        with pytest.raises(PrimaryUnreachable):
            line.ask()
        assert line.wire.sent == []

    @pytest.mark.parametrize("announced", [lambda: other_primary()["channel_certificate"], lambda: "no certificate"])
    def test_a_next_signing_key_counts_only_if_the_pinned_root_vouches_for_it(
        self, line: Line, announced: Callable[[], str]
    ) -> None:
        own = identity.trust_document().__dict__
        line.wire.change_trust = answered_with(own | {"next_channel_certificate": announced()})
        line.ask()
        assert line.channel._trust and len(line.channel._trust.signing_keys) == 1

    @pytest.mark.parametrize(
        "content", [{}, {"error": "x"}, [], None, b"<html>", {"root": 7}, {"root": "no certificate"}], ids=str
    )
    def test_what_is_no_trust_document_is_no_answer(self, line: Line, content: object) -> None:
        line.wire.change_trust = answered_with(content)
        with pytest.raises(PrimaryUnreachable):
            line.ask()

    def test_a_trust_document_whose_recipient_keys_all_ended_is_no_answer(self, line: Line) -> None:
        PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT).update(not_after=now() - timedelta(seconds=1))
        with pytest.raises(PrimaryUnreachable):
            line.ask()

    def test_a_trust_document_without_its_parts_is_no_answer(self, line: Line) -> None:
        whole = identity.trust_document().__dict__
        for missing in ("roots", "intermediates", "channel_certificate", "recipients"):
            line.wire.change_trust = answered_with({name: whole[name] for name in whole if name != missing})
            with pytest.raises(PrimaryUnreachable):
                fetch_trust(ONE, Known((unpack(line.gateway.token).pin,)), now())

    def test_a_primary_of_an_earlier_version_names_no_next_key(self, line: Line) -> None:
        whole = identity.trust_document().__dict__
        line.wire.change_trust = answered_with({name: whole[name] for name in whole if not name.startswith("next_")})
        line.ask()


class TestAddresses:
    def test_the_second_address_is_tried_when_the_first_is_dead(self, line: Line) -> None:
        line.wire.dead.add(ONE)
        with pytest.raises(PrimaryUnreachable):
            line.ask()
        line.ask()
        line.ask()
        assert [url.startswith(TWO) for url in line.wire.asked] == [False, True, True, True]

    def test_the_second_address_is_tried_when_the_first_is_not_our_primary(self, line: Line) -> None:
        own = line.wire.change_trust
        line.wire.change_trust = lambda answer: (answered_with({}) if ONE in str(answer.request.url) else own)(answer)
        with pytest.raises(PrimaryUnreachable):
            line.ask()
        line.ask()

    def test_an_address_that_dies_later_is_left_too(self, line: Line) -> None:
        line.ask()
        line.wire.dead.add(ONE)
        with pytest.raises(PrimaryUnreachable):
            line.ask()
        line.ask()

    def test_a_registration_tries_again_after_an_odd_trust_document(self, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        odd = iter([answered_with({}), answered_with(b"<html>")])
        line.wire.change_trust = lambda answer: next(odd, lambda answer: answer)(answer)
        made, wanted = Supervisor(), identity_of(line.gateway.keys, line.gateway.generation, line.gateway.id)
        monkeypatch.setattr(made.stop, "wait", lambda _pause: False)
        monkeypatch.setattr(made, "_become_the_only_process", lambda: None)
        monkeypatch.setattr(made, "_use", lambda _identity: None)
        monkeypatch.setattr("gateway_runtime.enroll.stored_identity", lambda: None)

        def register(_sequences: Sequences, _instance: uuid.UUID) -> Any:
            line.ask()
            return wanted

        monkeypatch.setattr("gateway_runtime.enroll.register", register)
        assert made.enrol() is wanted


def end_signing_key(left: timedelta) -> None:
    PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING).update(not_after=now() + left)


@pytest.mark.usefixtures("signed")
class TestSigningKey:
    def test_a_change_of_the_signing_key_that_nobody_announced_costs_one_look(self, line: Line) -> None:
        line.ask()
        end_signing_key(timedelta(seconds=-1))
        identity.ensure_keys()
        channel_keys.forget()  # as every process does by itself within seconds
        for _ in range(3):
            line.ask()
        assert line.wire.fetched_trust() == 2

    def test_a_change_that_was_announced_costs_none(self, line: Line) -> None:
        end_signing_key(timedelta(days=170))
        identity.ensure_keys()
        line.ask()
        before = encode_public_key(line.channel.primary_keys()[0])
        with transaction.atomic():
            identity._promote(now(), "system", "its time has come")
        channel_keys.forget()
        line.ask()
        assert (
            encode_public_key(line.channel.primary_keys()[0]) == encode_public_key(identity.signing_key().public_key()) != before
        )
        line.ask()
        assert line.wire.fetched_trust() == 1

    def test_a_forger_makes_the_gateway_look_once_in_a_while(self, line: Line) -> None:
        line.ask()
        line.resealed(signer=Ed25519PrivateKey.generate())
        for _ in range(4):
            with pytest.raises(SignerUnknown):
                line.ask()
        assert line.wire.fetched_trust() == 2 and len(line.wire.sent) == 1 + 2 + 3
        assert not line.channel._may_doubt(time.monotonic() + TRUST_PAUSE - 5)
        assert line.channel._may_doubt(time.monotonic() + TRUST_PAUSE + 5)

    def test_a_message_to_a_recipient_key_that_is_gone_is_sent_again_to_the_next(self, line: Line) -> None:
        line.ask()
        PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT).delete()
        identity.ensure_keys()
        channel_keys.forget()
        line.ask()
        assert line.wire.fetched_trust() == 2


def test_what_is_urgent_has_connections_of_its_own(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting directive call, a page of the copy or a long upload never makes a renewal shake hands anew."""
    made: list[Wire] = []

    def client(**options: Any) -> Wire:
        assert options["limits"].keepalive_expiry > 60 if "limits" in options else True
        made.append(replace(line.wire, asked=[]))
        return made[-1]

    monkeypatch.setattr("gateway_runtime.client.httpx.Client", client)
    line.channel.call(paths.DIRECTIVE, AskDirective(), Directive, timeout=5)
    renewal = RenewLease(epoch=0, sent_at=now().isoformat())
    line.channel.call(paths.LEASE_RENEW, renewal, LeaseAnswer, timeout=5)
    fetched, *pools = [[urlsplit(url).path for url in one.asked] for one in made]
    assert fetched == [paths.TRUST] and pools == [[paths.LEASE_RENEW], [paths.DIRECTIVE]]
    assert paths.HEARTBEAT in URGENT and paths.DIRECTIVE not in URGENT


@pytest.mark.parametrize(
    ("named", "seconds"),
    [("7", 7.0), ("0", 0.0), ("", None), ("soon", None), ("-3", None), ("1e9", None), ("9" * 40, None), ("٣", None)],
)
def test_the_pause_of_a_busy_primary_is_read_and_nothing_else(named: str, seconds: float | None) -> None:
    headers = [(b"Retry-After", named.encode())] if named else []
    answer = httpx.Response(503, headers=headers, json={"error": "this node is busy", "code": "UNAVAILABLE"})
    refused = _refusal_of(answer)
    assert isinstance(refused, PrimaryRefused) and refused.retry_after == seconds
