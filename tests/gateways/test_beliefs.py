"""Nothing one gateway says bricks an environment: every number of every message, said by an active gateway and by a standby."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.logs import OneLine
from common.models import AuditEntry
from failover import driver
from failover.models import EnvironmentState
from gateways import beliefs, dispatch, inbox
from gateways.models import EpochGrant, Gateway, GatewayStatus, ReceivedWrite, Route
from protocol import paths
from protocol.messages import Countersigned, DrainReport, FenceAcknowledged, Heartbeat, Probe, SignOfLife
from protocol.writes import WriteBody, WriteHead
from tests.conftest import Person, fleet_of
from tests.fakes.gateway import FakeGateway
from tests.gateways.desk import Desk, row_of
from tests.gateways.saying import Kinds, Place, kinds_by_path, places, sample, with_value

KINDS: Kinds = kinds_by_path()
NUMBERS = [(path, place) for path, kind in sorted(KINDS.items()) for place in places(kind, (int, float))]
HEAD = [place for place in places(WriteHead, (int,)) if place.kind is int]
SAID = [0, -1, 1, 2, 3, 17, 1001, 2**31 - 1, 2**31, 2**40, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64]
FRACTIONS = [0.5, -0.5, 1e9, 1e18, 1e308]
UNSAYABLE = ["NaN", "Infinity", "-Infinity", "1e999"]
"""No JSON, but what a careless decoder takes for numbers."""


class Fleet:
    """Both environments at rest, and what must be so whatever one gateway has said."""

    def __init__(self, admin: Person, desk: Desk) -> None:
        self.admin, self.desk = admin, desk
        self.speakers = (desk.active, desk.standby)
        self.everybody = [*self.speakers, *fleet_of("PRO")]
        for gateway in self.everybody:
            gateway.take_over()
        self.states = self.state()

    def state(self) -> Any:
        driver.drive_all()
        rows = EnvironmentState.objects.order_by("environment_id").values_list("environment_id", "state")
        routes = Route.objects.order_by("pk").values_list("pk", "epoch", "danger", "active_gateway", "lease_open")
        return list(rows), list(routes), EpochGrant.objects.count()

    def hears(self, speaker: FakeGateway, path: str, body: bytes) -> int:
        answer = speaker.post(path, speaker.sealed(body, speaker.header(path)))
        return int(answer.status_code)

    def goes_on(self, speaker: FakeGateway) -> None:
        """No environment left its state, nobody else is held, and after a release the speaker is an honest gateway again."""
        assert self.state() == self.states
        assert not Gateway.objects.exclude(id=speaker.id).exclude(held_at=None).exists()
        if speaker.row.held_at:
            assert self.admin.post(f"gateways/{speaker.id}/release", {"reason": "looked at it"})[0] == 200
        for gateway in self.everybody:
            assert gateway.take_over().epoch == 1, gateway.name
            assert gateway.row.held_at is None
        assert [one.renew_lease().verdict for one in self.everybody] == ["granted", "not_active"] * 2
        assert not GatewayStatus.objects.filter(highest_epoch__gt=1).exists()


@pytest.fixture
def desk(npr: Any) -> Desk:
    return Desk(*npr)


@pytest.fixture
def fleet(admin: Person, desk: Desk) -> Fleet:
    return Fleet(admin, desk)


def base_of(path: str, speaker: FakeGateway) -> Any:
    body = sample(KINDS[path])
    if KINDS[path] is Heartbeat:
        honest = msgspec.to_builtins(speaker.report(mark=None))
        said = {name: value for name, value in honest.items() if value is not None and name != "project_key_vaults"}
        return {**body, **said, "mark": None, "audit_head": "", "replica_digest": ""}
    return with_value(body, ("epoch",), 1) if "epoch" in body else {**body, "mark": None} if "mark" in body else body


def say(fleet: Fleet, speaker: FakeGateway, path: str, place: Place, value: Any) -> int:
    body = with_value(base_of(path, speaker), place.path, value)
    status = fleet.hears(speaker, path, msgspec.json.encode(body))
    if status == 200 and place.path == ("write_queue_last_sequence",):
        speaker.told_writes = value  # a number that goes back says that a database was put back, which is another story
    return status


def check(fleet: Fleet, number: int, which: int, value: Any) -> None:
    path, place = NUMBERS[number]
    speaker = fleet.speakers[which]
    assert say(fleet, speaker, path, place, value) < 500, (path, place.path, value)
    fleet.goes_on(speaker)


ANY = (st.integers(0, len(NUMBERS) - 1), st.integers(0, 1), st.sampled_from([*SAID, *FRACTIONS]))
QUIET = (HealthCheck.function_scoped_fixture,)


@settings(max_examples=15, deadline=None, suppress_health_check=QUIET)
@given(*ANY)
def test_a_number_anywhere_moves_no_environment(fleet: Fleet, number: int, which: int, value: Any) -> None:
    check(fleet, number, which, value)


@pytest.mark.long
@settings(max_examples=600, deadline=None, suppress_health_check=QUIET)
@given(*ANY)
def test_a_number_anywhere_moves_no_environment_at_length(fleet: Fleet, number: int, which: int, value: Any) -> None:
    check(fleet, number, which, value)


def test_the_numbers_that_others_go_by_whoever_says_them(fleet: Fleet) -> None:
    decisive = ("epoch", "replica_position", "write_queue_last_sequence", "write_queue_depth")
    for name in decisive:
        for speaker in fleet.speakers:
            for value in (2, 2**40):
                status = say(fleet, speaker, paths.HEARTBEAT, Place((name,), int), value)
                believed = (name, value) in {("write_queue_last_sequence", 2), ("write_queue_depth", 2)}
                assert status == (200 if believed else 400), (name, value)
                assert (speaker.row.held_at is None) == believed
                fleet.goes_on(speaker)


def test_what_is_no_number_is_refused_before_anybody_believes_it(fleet: Fleet) -> None:
    for path, place in NUMBERS[::7]:
        body = msgspec.json.encode(with_value(base_of(path, fleet.desk.active), place.path, "HERE"))
        for text in UNSAYABLE:
            said = body.replace(b'"HERE"', text.encode())
            assert fleet.hears(fleet.desk.active, path, said) in (400, 404, 409), (path, place.path, text)
    fleet.goes_on(fleet.desk.active)


@pytest.mark.parametrize("place", HEAD, ids=[str(place.path[-1]) for place in HEAD])
@pytest.mark.parametrize("which", [0, 1], ids=["active", "standby"])
def test_a_number_in_a_signed_write_moves_no_environment(fleet: Fleet, place: Place, which: int) -> None:
    speaker, secret = fleet.speakers[which], fleet.desk.secret()
    for value in SAID[:-2]:
        write = speaker.write(secret, "said", actor=fleet.desk.actor, **{str(place.path[-1]): value})
        assert isinstance(speaker.upload(write), list), (place.path, value)
        assert fleet.state() == fleet.states
    fleet.goes_on(speaker)


def test_fences_drains_and_signs_of_life_are_believed_as_far_as_a_queue_reaches(fleet: Fleet) -> None:
    speaker = fleet.desk.active
    said = [
        FenceAcknowledged(operation=str(uuid.uuid4()), epoch=1, write_queue_last_sequence=2**53),
        DrainReport(operation=str(uuid.uuid4()), epoch=1, write_queue_depth=2**53, running_tasks=0),
        DrainReport(operation=str(uuid.uuid4()), epoch=1, write_queue_depth=0, running_tasks=2**53),
        SignOfLife(number=1, write_queue_depth=2**53),
        SignOfLife(number=1, write_queue_last_sequence=2**53),
    ]
    there = (paths.FENCE_ACKNOWLEDGE, paths.DRAIN_REPORT, paths.DRAIN_REPORT, paths.SIGN_OF_LIFE, paths.SIGN_OF_LIFE)
    for message, path in zip(said, there, strict=True):
        assert fleet.hears(speaker, path, msgspec.json.encode(message)) == 400
        assert speaker.row.held_at is not None
        fleet.goes_on(speaker)


def test_what_is_not_believed_is_told_once_as_critical_and_named(fleet: Fleet) -> None:
    for _ in range(3):
        refused = fleet.desk.standby.heartbeat(epoch=9)
        assert refused.status_code == 400 and refused.json()["error"].startswith("epoch: 9 is not believed")
    entry = AuditEntry.objects.get(action="gateway.held")
    assert (entry.severity, entry.environment) == ("critical", "NPR")
    assert GatewayStatus.objects.get(gateway_id=fleet.desk.standby.id).report["epoch"] == 1, "nothing of it was stored"


def test_a_task_that_lasted_for_ages_counts_in_no_sum(fleet: Fleet) -> None:
    task = dispatch.create_task("NPR", "gateway.probe", {}, actor="user:test", address="")
    offer = fleet.desk.active.claim().tasks[0]
    result = {"task": str(task.id), "claim": offer.claim, "epoch": 1, "outcome": "succeeded", "duration_seconds": 1e9}
    assert fleet.hears(fleet.desk.active, paths.TASK_RESULTS, msgspec.json.encode({"results": [result]})) == 400
    fleet.goes_on(fleet.desk.active)


class TestEveryNumberIsDecidedOn:
    def test_of_a_heartbeat(self) -> None:
        counted = {place.path[0] for place in places(Heartbeat, (int,)) if len(place.path) == 1}
        decided = {"epoch", "replica_position", beliefs.LAST_SEQUENCE, *beliefs.COUNTED, *beliefs.ITS_OWN}
        assert counted <= decided, "say in gateways.beliefs how far the new number is believed"

    def test_of_every_message_there_is_a_place_in_the_fuzz(self) -> None:
        assert {path for path, _ in NUMBERS} >= {paths.HEARTBEAT, paths.LEASE_RENEW, paths.TASK_CLAIM, paths.CHANGES, paths.AUDIT}
        assert len(NUMBERS) > 45


def test_floors_count_what_is_plausible_or_proven() -> None:
    assert beliefs.epoch_floor(1, [], []) == 1
    assert beliefs.epoch_floor(1, [7, 2**40], []) == 7
    assert beliefs.epoch_floor(1, [1 + beliefs.EPOCH_STEP], []) == 1 + beliefs.EPOCH_STEP
    assert beliefs.epoch_floor(1, [2 + beliefs.EPOCH_STEP], [2**40]) == 2**40


NASTY = "x\n2026 FORGED\x1b[32m\x9b\u202e"
TEXTS = [(path, place) for path, kind in sorted(KINDS.items()) for place in places(kind, (str,)) if place.path[0] != "mark"]


def test_no_text_of_any_message_comes_raw_into_a_log_or_an_answer(fleet: Fleet, caplog: Any) -> None:
    task = dispatch.create_task("NPR", "gateway.probe", {}, actor="user:test", address="")
    offer = fleet.desk.active.claim().tasks[0]
    result = {"task": str(task.id), "claim": offer.claim, "epoch": 1, "outcome": "failed", "duration_seconds": 1.0,
              "retry": False, "detail": NASTY, "result": {"why": NASTY}}  # fmt: skip
    assert fleet.hears(fleet.desk.active, paths.TASK_RESULTS, msgspec.json.encode({"results": [result]})) == 200
    checkpoint = Countersigned(1, "d", refusal=NASTY)
    fleet.desk.active.heartbeat(database=Probe(ok=False, detail=NASTY), countersigned=checkpoint)
    for path, place in TEXTS:
        assert say(fleet, fleet.desk.standby, path, place, NASTY) < 500, (path, place.path)
    formatter = OneLine()
    assert all("\n2026" not in formatter.format(record).split("\n    ")[0] for record in caplog.records)
    for answer in ("gateways", "admin/gateway-health", "admin/tasks", f"admin/tasks/{task.id}", "admin/writes", "audit-logs"):
        status, body = fleet.admin.get(answer)
        assert status == 200
        assert all(text.isprintable() for text in texts_in(body)), answer


WORDS = [
    "2026-11-30T12:00:00+23:59", "2026-11-30T12:00:00+01:00:00.5", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "infinity", "now", "epoch", "9" * 60, "NaN", "{}", "[" * 60, "a\0b",
    "\U0010ffff",
]  # fmt: skip
"""Texts that are something else where a statement, or what is shown, takes them for a time, a number or an object."""


def test_no_text_of_any_message_is_taken_for_what_it_is_not(fleet: Fleet) -> None:
    """No column takes a NUL, so each place says one; the other words come up in turn, and times say all that look like one."""
    wrong = []
    for number, (path, place) in enumerate(TEXTS):
        is_time = str(place.path[-1]).endswith(("_at", "_until"))
        for word in WORDS[:7] if is_time else ("a\0b", *WORDS[number % len(WORDS) :][: number % 3 == 0]):
            if say(fleet, fleet.desk.standby, path, place, word) >= 500:
                wrong.append((path, place.path, word))
    for path, place in TEXTS[::9]:
        half = msgspec.json.encode(with_value(base_of(path, fleet.desk.standby), place.path, "HERE")).replace(b"HERE", b"\\ud800")
        assert fleet.hears(fleet.desk.standby, path, half) in (400, 404, 409), (path, place.path)
    assert wrong == []
    fleet.goes_on(fleet.desk.standby)
    for answer in ("gateways", "admin/gateway-health", "admin/tasks", "admin/writes", "audit-logs"):
        assert fleet.admin.get(answer)[0] == 200, answer


WRITTEN = [
    (kind, place) for kind in (WriteHead, WriteBody) for place in places(kind, (str,)) if len(place.path) == 1
    and place.path[0] not in ("id", "gateway", "generation", "environment", "body_digest", "secret")
]  # fmt: skip


def test_no_text_of_a_signed_write_stops_any_stream(fleet: Fleet) -> None:
    speaker, desk = fleet.desk.active, fleet.desk
    secret, said = desk.secret(), 0
    for kind, place in WRITTEN:
        name = str(place.path[0])
        words = WORDS if name == "accepted_at" else [*WORDS[::4], "a\0b"]
        told = [{name: word} if kind is WriteHead else {"body": WriteBody(**{"value": "v", name: word})} for word in words]
        answer = speaker.upload(*[speaker.write(secret, "said", **{"actor": desk.actor, **one}) for one in told])
        assert isinstance(answer, list), (name, answer.content)
        said += len(answer)
        inbox.apply_pending()
        open_ones = ReceivedWrite.objects.filter(outcome="received").values_list("accepted_at", "code", "detail")
        assert not open_ones, (name, list(open_ones))
    assert ReceivedWrite.objects.count() >= said
    honest = speaker.write(desk.secret("other"), "honest", actor=desk.actor)
    speaker.upload(honest)
    inbox.apply_pending()
    assert row_of(honest).outcome == "applied"
    assert fleet.admin.get("admin/writes")[0] == 200


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from texts_in(inner)
