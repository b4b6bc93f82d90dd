"""What a gateway says in a session counts as if it were signed, there and nowhere else (DESIGN §6, I13, I20)."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from django.http import HttpResponse
from django.utils import timezone
from msgspec import structs

from gateways import channel, channel_keys
from gateways.models import Gateway, GatewayCertificate, MessageReceipt, PrimaryKeyPair
from orchestrator.node.machine_lane import served_paths
from protocol import messages, paths
from protocol.channel_sessions import (
    IN_SESSION,
    LONGEST_OPENING,
    MOST_OF_ONE,
    SESSION_SECONDS,
    ChannelSession,
    KnownSessions,
    accept_session,
    check_session,
    open_session,
)
from protocol.envelope import (
    SESSION_SUITE,
    WINDOW_SECONDS,
    EnvelopeRefusal,
    EnvelopeRefused,
    parse,
    request_hash,
    seal,
)
from tests.fakes.gateway import FakeGateway

Pair = tuple[FakeGateway, FakeGateway]

pytestmark = pytest.mark.django_db


@pytest.fixture
def gateway(npr: Pair) -> FakeGateway:
    return npr[0]


@pytest.fixture
def session(gateway: FakeGateway) -> ChannelSession:
    channel.sessions = KnownSessions()
    return gateway.opened_session(paths.HEARTBEAT)


def refusal(answer: HttpResponse) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def beat(gateway: FakeGateway, session: ChannelSession, **header: Any) -> Any:
    return gateway.post(paths.HEARTBEAT, gateway.in_session(session, paths.HEARTBEAT, gateway.report(), **header))


REFUSED = (403, "ENVELOPE_REFUSED")


class TestWhatMayBeSaid:
    def test_heartbeat_lease_and_directive_are_answered_in_it(self, gateway: FakeGateway, session: ChannelSession) -> None:
        lease = messages.RenewLease(epoch=1, sent_at=datetime.now(UTC).isoformat())
        said: list[tuple[str, messages.Message, type[messages.Message]]] = [
            (paths.HEARTBEAT, gateway.report(), messages.Directive), (paths.LEASE_RENEW, lease, messages.LeaseAnswer),
            (paths.DIRECTIVE, messages.AskDirective(), messages.Directive),
        ]  # fmt: skip
        for path, body, kind in said:
            wire = gateway.in_session(session, path, body)
            answer = gateway.post(path, wire)
            assert answer.status_code == 200, answer.content
            parcel = parse(answer.content)
            assert parcel.header.suite == SESSION_SUITE and parcel.header.request_hash == request_hash(wire)
            assert parcel.signature == b"" and parcel.session == ""
            messages.decode(session.open_answer(parcel), kind)

    @pytest.mark.parametrize("path", sorted(set(served_paths()) - IN_SESSION))
    def test_what_is_evidence_or_carries_values_may_not(self, gateway: FakeGateway, session: ChannelSession, path: str) -> None:
        answer = gateway.post(path, gateway.in_session(session, path, messages.ClaimTasks(epoch=1, limit=1)))
        assert refusal(answer) == REFUSED

    def test_it_is_taken_once(self, gateway: FakeGateway, session: ChannelSession) -> None:
        header = gateway.header(paths.HEARTBEAT)
        wire = gateway.in_session(session, paths.HEARTBEAT, gateway.report(), message_id=header.message_id)
        assert gateway.post(paths.HEARTBEAT, wire).status_code == 200
        assert refusal(gateway.post(paths.HEARTBEAT, wire)) == (409, "REPLAYED")
        assert refusal(beat(gateway, session, sequence=parse(wire).header.sequence)) == (409, "NUMBER_USED")


class TestForgeries:
    def test_any_changed_byte_is_refused(self, gateway: FakeGateway, session: ChannelSession) -> None:
        assert beat(gateway, session).status_code == 200
        wire = gateway.in_session(session, paths.HEARTBEAT, gateway.report())
        taken = MessageReceipt.objects.count()
        for position in range(0, len(wire), max(1, len(wire) // 60)):
            changed = wire[:position] + bytes([wire[position] ^ 1]) + wire[position + 1 :]
            assert gateway.post(paths.HEARTBEAT, changed).status_code in (400, 403), position
        assert MessageReceipt.objects.count() == taken
        assert gateway.post(paths.HEARTBEAT, wire).status_code == 200

    def test_the_opening_of_another_gateway_opens_nothing(self, npr: Pair, session: ChannelSession) -> None:
        first, second = npr
        assert beat(first, session).status_code == 200
        assert refusal(beat(second, session)) == REFUSED
        wire = first.in_session(session, paths.HEARTBEAT, first.report())
        assert refusal(first.post(paths.HEARTBEAT, wire, peer=second.der())) == REFUSED

    @pytest.mark.parametrize("field", ["sender", "certificate", "environment", "generation", "instance", "recipient"])
    def test_it_belongs_to_what_it_was_opened_for(self, gateway: FakeGateway, session: ChannelSession, field: str) -> None:
        """The opening is signed by the right key and names something else in one field; the message around it is right."""
        other = str(uuid.uuid4())
        document = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT).latest("created_at")
        key = channel_keys.recipient_key(session.facts.recipient)
        assert key is not None and document
        foreign = open_session(structs.replace(session.facts, **{field: other}), key.public_key(), gateway.keys.signing)
        answer = beat(gateway, foreign, recipient=session.facts.recipient)
        assert refusal(answer) == REFUSED

    def test_an_opening_that_somebody_else_signed_is_none(self, npr: Pair, session: ChannelSession) -> None:
        key = channel_keys.recipient_key(session.facts.recipient)
        assert key is not None
        forged = open_session(session.facts, key.public_key(), npr[1].keys.signing)
        assert refusal(beat(npr[0], forged)) == REFUSED

    def test_a_signed_message_is_no_opening(self, gateway: FakeGateway, session: ChannelSession) -> None:
        """Of what a gateway signs, only an opening opens: a heartbeat of 32 bytes would else be a secret."""
        key = channel_keys.recipient_key(session.facts.recipient)
        assert key is not None
        header = structs.replace(gateway.header(paths.HEARTBEAT), recipient=session.facts.recipient)
        opening = seal(header, b"\0" * 32, key.public_key(), gateway.keys.signing).decode()
        made = accept_session(opening, gateway.keys.signing.public_key(), key)
        assert refusal(beat(gateway, made)) == REFUSED

    def test_no_opening_is_endless(self, gateway: FakeGateway, session: ChannelSession) -> None:
        key = channel_keys.recipient_key(session.facts.recipient)
        assert key is not None
        with pytest.raises(EnvelopeRefused):
            accept_session("x" * (LONGEST_OPENING + 1), gateway.keys.signing.public_key(), key)
        facts = structs.replace(session.facts, path="/" * 150)
        long = seal(facts, b"\0" * 64, key.public_key(), gateway.keys.signing).decode()
        with pytest.raises(EnvelopeRefused):
            accept_session(long, gateway.keys.signing.public_key(), key)


class TestItsEnd:
    def test_an_old_one_is_refused(self, session: ChannelSession) -> None:
        header, begun = structs.replace(session.facts, suite=SESSION_SUITE), session.facts.issued_at
        check_session(session.facts, header, begun + SESSION_SECONDS + WINDOW_SECONDS)
        for moment in (begun + SESSION_SECONDS + WINDOW_SECONDS + 1, begun - SESSION_SECONDS - WINDOW_SECONDS - 1):
            with pytest.raises(EnvelopeRefused) as refused:
                check_session(session.facts, header, moment)
            assert refused.value.reason is EnvelopeRefusal.OUTSIDE_WINDOW
        assert session.is_good_at(begun) and session.is_good_at(begun + SESSION_SECONDS - 1)
        assert not session.is_good_at(begun + SESSION_SECONDS) and not session.is_good_at(begun - 1)

    def test_it_ends_with_our_key_also_where_it_is_remembered(self, gateway: FakeGateway, session: ChannelSession) -> None:
        assert beat(gateway, session).status_code == 200
        PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT).delete()
        channel_keys.forget()
        assert refusal(beat(gateway, session)) == (409, "RECIPIENT_UNKNOWN")

    def test_it_ends_with_its_certificate_and_with_a_ban(self, gateway: FakeGateway, session: ChannelSession) -> None:
        assert beat(gateway, session).status_code == 200
        certificate = gateway.certificate
        gateway.renew()
        assert refusal(beat(gateway, session)) == REFUSED, "another certificate is another session"
        gateway.certificate = certificate
        GatewayCertificate.objects.filter(gateway_id=gateway.id).update(revoked_at=timezone.now())
        assert refusal(beat(gateway, session)) == (403, "CERTIFICATE_REVOKED")
        Gateway.objects.filter(pk=gateway.id).update(banned_at=timezone.now())
        assert refusal(beat(gateway, session)) == (403, "GATEWAY_BANNED")

    def test_a_copy_that_says_something_else_under_its_number_is_proof(
        self, gateway: FakeGateway, session: ChannelSession
    ) -> None:
        """A machine that was copied while it ran has the same instance, session and numbers."""
        number = gateway.header(paths.HEARTBEAT).sequence
        assert beat(gateway, session, sequence=number).status_code == 200
        assert refusal(beat(gateway, session, sequence=number)) == (409, "NUMBER_USED")
        assert gateway.row.held_code


class TestWhatIsRemembered:
    def test_another_process_takes_it_without_having_seen_its_beginning(
        self, gateway: FakeGateway, session: ChannelSession
    ) -> None:
        assert beat(gateway, session).status_code == 200
        channel.sessions = KnownSessions()
        assert beat(gateway, session).status_code == 200

    def test_an_opening_is_verified_once(
        self, gateway: FakeGateway, session: ChannelSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[str] = []

        def counted(opening: str, *arguments: Any) -> ChannelSession:
            seen.append(opening)
            return accept_session(opening, *arguments)

        monkeypatch.setattr(channel, "accept_session", counted)
        for _ in range(3):
            assert beat(gateway, session).status_code == 200
        assert seen == [session.opening]

    def test_no_more_than_so_many_and_none_that_is_over(self, gateway: FakeGateway) -> None:
        session = gateway.opened_session(paths.HEARTBEAT)

        def of(number: int, sender: str, at: int = 0) -> ChannelSession:
            facts = structs.replace(session.facts, sender=sender, issued_at=session.facts.issued_at + at)
            return replace(session, opening=f"{number}", facts=facts)

        known, now, asked = KnownSessions(most=4), session.facts.issued_at, list[str]()

        def use(one: ChannelSession, moment: int = now) -> bool:
            """Whether it was known."""
            before = len(asked)
            known.of(one.opening, moment, lambda opening: asked.append(opening) or one)
            return len(asked) == before

        mine = [of(number, "a") for number in range(MOST_OF_ONE + 1)]
        assert not any(use(one) for one in mine) and len(known) == MOST_OF_ONE, "a gateway has its newest few"
        assert not use(of(10, "b")) and use(mine[-1]) and len(known) == 4
        assert not use(of(11, "c")) and len(known) == 4 and use(mine[-1]), "the one that is used most stays"
        late = now + SESSION_SECONDS + WINDOW_SECONDS + 1
        assert not use(of(12, "d", at=SESSION_SECONDS), late) and len(known) == 1 and known._of_sender.keys() == {"d"}

    def test_an_opening_longer_than_any_is_not_even_hashed(self) -> None:
        with pytest.raises(EnvelopeRefused):
            KnownSessions().of("x" * (LONGEST_OPENING + 1), 0, lambda _: pytest.fail("it was looked at"))
