"""From token to identity and over restarts: what a gateway has is lost only to what the Primary accepted (DESIGN §6)."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from django.conf import settings

from common.clock import now
from gateway_runtime import enroll, state
from gateway_runtime.breaker import Breaker
from gateway_runtime.client import Known, PrimaryRefused, PrimaryUnreachable, fetch_trust
from gateway_runtime.enroll import EnrolmentImpossible
from gateway_runtime.identity import Identity
from gateway_runtime.models import NodeState
from gateway_runtime.state import Sequences
from gateway_runtime.supervisor import Supervisor
from gateways.models import BootstrapTokenRow, Gateway
from protocol import paths
from protocol.bootstrap_token import PREFIX, unpack
from protocol.envelope import parse
from protocol.messages import Acknowledged, ReleaseLease
from tests.fakes.gateway import FakeGateway
from tests.fakes.wire import Wire, lost, unchanged
from tests.gateway_runtime.conftest import GATEWAY

pytestmark = pytest.mark.usefixtures("primary")


@dataclass
class Place:
    """Where a gateway is to be: its settings, and the network to its Primary."""

    wire: Wire
    give_token: Callable[[str], None]

    def start(self) -> Identity:
        """What a process does to become somebody."""
        return enroll.stored_identity() or enroll.register(Sequences(), uuid.uuid4())

    def facts(self) -> NodeState:
        return NodeState.objects.get()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    def give(token: str) -> None:
        own = replace(GATEWAY, state_file=tmp_path / "state.json", bootstrap_token=token)
        monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, gateway=own))

    wire = Wire()
    monkeypatch.setattr(httpx, "Client", wire)
    give("")
    return Place(wire, give)


def new_token(name: str = "gw-npr-primary") -> str:
    return FakeGateway(name).new_token()


def has_acted() -> None:
    NodeState.objects.update(highest_epoch=7, fenced_operation=uuid.uuid4(), fenced_epoch=7, fenced_number=3, write_sequence=9)


def expired(token: str) -> str:
    BootstrapTokenRow.objects.filter(id=unpack(token).id).update(expires_at=now() - timedelta(hours=1))
    return token


def revoked(token: str) -> str:
    BootstrapTokenRow.objects.filter(id=unpack(token).id).update(revoked_at=now())
    return token


REFUSED: dict[str, Callable[[], str]] = {
    "expired": lambda: expired(new_token()),
    "revoked": lambda: revoked(new_token()),
    "of another gateway": lambda: new_token("gw-npr-dr"),
    "no token": lambda: PREFIX + "damaged",
}


def test_a_token_makes_an_identity_that_a_restart_finds_with_and_without_it(place: Place) -> None:
    token = new_token()
    place.give_token(token)
    made = place.start()
    assert Gateway.objects.get(pk=made.gateway_id).generation == made.generation == place.facts().generation
    sent = len(place.wire.sent)
    assert place.start().gateway_id == made.gateway_id
    place.give_token("")
    assert place.start().gateway_id == made.gateway_id and len(place.wire.sent) == sent, "a restart asks for nothing"


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_token_leaves_a_working_gateway_as_it_was(place: Place, kind: str) -> None:
    place.give_token(new_token())
    made = place.start()
    has_acted()
    before = NodeState.objects.values().get()
    place.give_token(REFUSED[kind]())
    for _ in range(2):
        assert place.start().certificate == made.certificate
    place.give_token("")
    assert place.start().certificate == made.certificate
    assert NodeState.objects.values().get() == before


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_token_ends_a_gateway_that_is_nobody_yet(place: Place, kind: str) -> None:
    place.give_token(REFUSED[kind]())
    with pytest.raises(EnrolmentImpossible):
        place.start()


def test_without_token_and_state_file_it_says_what_to_do(place: Place) -> None:
    with pytest.raises(EnrolmentImpossible, match="GATEWAY_BOOTSTRAP_TOKEN is not set"):
        place.start()


def test_a_newer_token_begins_a_new_life_when_the_primary_took_it(place: Place) -> None:
    place.give_token(new_token())
    made = place.start()
    has_acted()
    place.give_token(new_token())
    place.wire.dead.add(urls_of(made))
    with pytest.raises(Exception, match="gave no trust document"):
        place.start()
    assert (place.facts().highest_epoch, place.facts().generation) == (7, made.generation)
    place.wire.dead.clear()
    again = place.start()
    row = place.facts()
    assert (again.gateway_id, row.generation) == (made.gateway_id, again.generation) and again.generation != made.generation
    assert (row.highest_epoch, row.fenced_epoch, row.write_sequence, row.life) == (0, None, 0, 3)


def urls_of(identity: Identity) -> str:
    assert len(identity.urls) == 1
    return identity.urls[0]


def test_a_lost_answer_is_asked_for_again_with_the_same_keys(place: Place) -> None:
    place.give_token(new_token())
    place.wire.change = lost
    with pytest.raises(Exception, match="the answer was lost"):
        place.start()
    place.wire.change = unchanged
    made = place.start()
    assert Gateway.objects.get().generation == made.generation == place.facts().generation
    assert place.start().certificate == made.certificate


@pytest.mark.parametrize("last", ["the file", "the database"])
def test_a_crash_while_the_answer_is_stored_is_made_good_by_the_next_start(
    place: Place, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.give_token(new_token())
    former = place.start()
    place.give_token(new_token())
    begin = state.begin_new_life

    def crash(generation: uuid.UUID) -> None:
        if last == "the database":
            begin(generation)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(state, "begin_new_life", crash)
        place.start()
    sent = len(place.wire.sent)
    made = place.start()
    assert made.generation == place.facts().generation != former.generation
    assert len(place.wire.sent) == sent and place.facts().life == 3


@pytest.mark.parametrize("with_token", [True, False])
def test_a_state_file_of_another_life_of_the_database_is_not_used(place: Place, with_token: bool) -> None:
    token = new_token()
    place.give_token(token)
    place.start()
    NodeState.objects.update(generation=uuid.uuid4())
    place.give_token(token if with_token else "")
    with pytest.raises(EnrolmentImpossible, match="another life"):
        place.start()


def test_a_refused_token_is_no_way_around_another_life_of_the_database(place: Place) -> None:
    place.give_token(new_token())
    place.start()
    NodeState.objects.update(generation=uuid.uuid4())
    place.give_token(expired(new_token()))
    with pytest.raises(EnrolmentImpossible, match="expired"):
        place.start()


def test_no_message_number_comes_twice_over_a_new_enrolment(place: Place) -> None:
    place.give_token(new_token())
    place.start()
    place.give_token(new_token())
    sequences = Sequences()
    assert enroll.stored_identity() is None
    enroll.register(sequences, uuid.uuid4())
    taken = [parse(wire).header.sequence for wire in place.wire.sent]
    taken += [numbers.take() for numbers in (sequences, Sequences(), Sequences()) for _ in range(state.SEQUENCE_BLOCK)]
    assert len(taken) == len(set(taken))


class TestAddressOfThePrimary:
    """The environment comes before the state file, so that a Primary with a new name is followed without a new enrolment."""

    NEW = "https://new.example:8443"

    def follow(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> Identity:
        place.give_token(new_token())
        registered = place.start()
        own = replace(settings.MAZEVAULT.own_gateway, primary_urls=(self.NEW,))
        monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, gateway=own))
        assert self.NEW not in registered.urls
        return registered

    def test_is_the_one_of_the_environment_and_the_log_says_so(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        registered = self.follow(place, monkeypatch)
        with caplog.at_level("INFO"):
            again = place.start()
        assert enroll.primary_urls(again.urls) == (self.NEW, *registered.urls)
        assert f"PRIMARY_BACKEND_URL is {self.NEW}: it counts before {registered.urls[0]}" in caplog.text

    def test_is_asked_first_by_the_running_gateway(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        registered = self.follow(place, monkeypatch)
        supervisor = Supervisor()
        supervisor.node = SimpleNamespace(breaker=Breaker(), highest_epoch=0)  # type: ignore[assignment]
        monkeypatch.setattr(supervisor.one_process, "still_held", lambda: True)  # who holds no lock says nothing
        supervisor._use(registered)
        place.wire.asked.clear()
        with suppress(PrimaryUnreachable, PrimaryRefused):
            supervisor.channel.call(paths.LEASE_RELEASE, ReleaseLease(epoch=1), Acknowledged, timeout=1)
        assert place.wire.asked[0].startswith(self.NEW)

    def test_of_another_authority_is_not_believed(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        """The pin of the token goes on protecting: an address is no identity."""
        registered = self.follow(place, monkeypatch)
        with pytest.raises(PrimaryUnreachable, match="none that this gateway trusts"):
            fetch_trust(enroll.primary_urls(registered.urls)[0], Known(("sha256:" + "0" * 64,)), now())
