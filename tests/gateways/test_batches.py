"""Writes that arrive and are settled together come to what they come to one by one, and cost few statements (ADR 37, I8, I9)."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.db import DataError, connection, transaction
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec import structs

from accounts.models import User
from common import feed
from common.clock import database_now
from common.models import AuditEntry, Change
from gateways import inbox
from gateways.models import ReceivedWrite, WriteStream, WriteTally
from protocol.vocabulary import WriteOperation
from protocol.writes import QueuedWrite, WriteBatch, WriteBody
from tests import factories
from tests.fakes.gateway import NewSecret
from tests.gateways.desk import Desk, history, id_of, row_of, value_of
from vault import recording, values
from vault.models import Secret, SecretVersion

O = WriteOperation  # noqa: E741  the table below is read across
FRAMES = ("SAVEPOINT", "RELEASE", "BEGIN", "COMMIT")


@pytest.fixture
def desk(npr: Any) -> Desk:
    return Desk(*npr)


class Shuffler:
    """Writes of all kinds, good and bad, to a few secrets; each is built from what came before it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.secrets: list[Any] = [desk.secret(f"key-{number}") for number in range(3)]
        desk.change(O.UPDATE, self.secrets[2].id, value="primary")
        self.last: dict[uuid.UUID, str] = {}
        self.viewer = User.objects.create(email="viewer@example.com", full_name="V", role="viewer", password="!")
        factories.signed_in_at("NPR", self.viewer)

    def write(self, kind: str, number: int) -> QueuedWrite:
        secret = self.secrets[number % len(self.secrets)]
        return getattr(self, f"_{kind}")(secret, number)

    def _chained(self, secret: Any, operation: WriteOperation, value: str | None = None, **other: Any) -> QueuedWrite:
        previous = self.last.get(secret.id, "")
        base = {"base_version": None if previous else getattr(secret, "version", None)}
        write = self.desk.write(secret, value, operation=operation, **{"previous": previous, **base, **other})
        self.last[secret.id] = id_of(write)
        return write

    def _update(self, secret: Any, number: int) -> QueuedWrite:
        return self._chained(secret, O.UPDATE, f"value {number}")

    def _rotate(self, secret: Any, number: int) -> QueuedWrite:
        return self._chained(secret, O.ROTATE, f"rotated {number}")

    def _metadata(self, secret: Any, number: int) -> QueuedWrite:
        return self._chained(
            secret, O.METADATA, body=WriteBody(tags=[str(number)], metadata={"n": str(number)}, ttl_hours=number)
        )

    def _stray(self, secret: Any, number: int) -> QueuedWrite:
        """On a version, whatever waits."""
        return self.desk.write(secret, f"stray {number}", base_version=1 + number % 3)

    def _create(self, _: Any, number: int) -> QueuedWrite:
        new = NewSecret(self.desk.project.id, self.desk.dev.id, f"key-{number % 6}")
        self.secrets.append(new)
        return self._chained(new, O.CREATE, f"new {number}", base_version=None)

    def _archive(self, secret: Any, _: int) -> QueuedWrite:
        return self._chained(secret, O.ARCHIVE)

    def _restore(self, secret: Any, _: int) -> QueuedWrite:
        return self._chained(secret, O.RESTORE)

    def _delete(self, secret: Any, _: int) -> QueuedWrite:
        return self._chained(secret, O.DELETE)

    def _purge(self, secret: Any, _: int) -> QueuedWrite:
        return self._chained(secret, O.PURGE)

    def _rollback(self, secret: Any, number: int) -> QueuedWrite:
        return self._chained(secret, O.ROLLBACK, body=WriteBody(rollback_to=1 + number % 3))

    def _malformed(self, secret: Any, _: int) -> QueuedWrite:
        return self._chained(secret, O.UPDATE, "a\0b")

    def _not_allowed(self, secret: Any, number: int) -> QueuedWrite:
        return self._chained(secret, O.UPDATE, f"value {number}", actor=f"user:{self.viewer.id}")

    def _nobody(self, secret: Any, number: int) -> QueuedWrite:
        return self.desk.write(secret, f"value {number}", actor=f"service:{uuid.uuid4()}")

    def _elsewhere(self, secret: Any, number: int) -> QueuedWrite:
        return self.desk.write(secret, f"value {number}", project=str(uuid.uuid4()))

    def _gap(self, secret: Any, number: int) -> QueuedWrite:
        return self.desk.write(secret, f"value {number}", base_version=None, previous=str(uuid.uuid4()))

    def _foreign(self, secret: Any, number: int) -> QueuedWrite:
        others = [last for named, last in self.last.items() if named != secret.id]
        return self.desk.write(secret, f"value {number}", base_version=None, previous=others[0] if others else "")

    def _stale(self, secret: Any, number: int) -> QueuedWrite:
        return self.desk.write(secret, f"value {number}", epoch=0)

    def _forged(self, secret: Any, number: int) -> QueuedWrite:
        return structs.replace(self.desk.write(secret, f"value {number}"), body='{"value":"evil"}')

    def _future(self, secret: Any, number: int) -> QueuedWrite:
        return self.desk.write(secret, f"value {number}", base_version=99)


KINDS = sorted(name[1:] for name in vars(Shuffler) if name.startswith("_") and not name.startswith(("__", "_chained")))
MOSTLY = [*KINDS, *["update"] * 6, *["create"] * 2]


def settle_all() -> None:
    """Until nothing is left to do now."""
    for _ in range(2):
        ReceivedWrite.objects.filter(outcome="received").update(not_before=database_now())
        while inbox.apply_pending():
            pass


def outcome_of(desk: Desk, send: Callable[[], None]) -> dict[str, Any]:
    """What everything is after this, which is then taken back."""
    with transaction.atomic():
        newest = AuditEntry.objects.order_by("-id").values_list("id", flat=True).first()
        send()
        settle_all()
        told = AuditEntry.objects.filter(id__gt=newest, entity__in=["secret", "write"]).order_by("id")
        found = {
            "writes": sorted(
                (one.id, str(one.claimed_id), one.outcome, one.code, one.detail, one.version, one.resolution, one.promised,
                 one.attempts, one.in_stream)
                for one in ReceivedWrite.objects.all()
            ),
            "kept": sorted(ReceivedWrite.objects.filter(sealed_body__isnull=False).values_list("id", flat=True)),
            "secrets": sorted(
                (one.id, one.key, one.version, one.status, one.ttl_hours, one.created_by, bool(one.archived_at),
                 bool(one.deleted_at))
                for one in Secret.objects.all()
            ),
            "fields": {one.id: (one.tags, one.metadata, one.rotation) for one in Secret.objects.all()},
            "versions": sorted(
                (one.secret_id, one.version, one.operation, one.author, one.origin, one.write or one.id, one.epoch or 0,
                 one.value_digest, one.sealed_value is None)
                for one in SecretVersion.objects.all()
            ),
            "values": {one.id: _value(one) for one in Secret.objects.select_related("environment")},
            "audit": sorted(told.exclude(action="gateway.write.contradicts").values_list("action", "entity_id", "actor")),
            "audit of each": {one: list(told.filter(entity_id=str(one)).values_list("action", flat=True))
                              for one in Secret.objects.values_list("id", flat=True)},
            "changes": sorted(Change.objects.values_list("scope", "kind", "entity_id").distinct()),
            "tally": sorted(WriteTally.objects.values_list("environment", "outcome", "total")),
            "streams": sorted(WriteStream.objects.values_list("gateway", "arrived", "highest")),
        }  # fmt: skip
        transaction.set_rollback(True)
    return found


def _value(secret: Secret) -> str | None:
    held = values.holding(secret)
    return values.open_value(secret, held) if held else None


@pytest.mark.parametrize("policy", ["manual_resolution", "external_wins"])
@settings(
    max_examples=8, deadline=None, database=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(data=st.data())
def test_a_batch_comes_to_what_its_writes_come_to_one_by_one(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, policy: str, data: st.DataObject
) -> None:
    row = desk.active.row
    with transaction.atomic():
        desk.policy(conflict_strategy=policy)
        mix = data.draw(st.lists(st.tuples(st.sampled_from(MOSTLY), st.integers(0, 11)), min_size=8, max_size=20))
        shuffler = Shuffler(desk)
        writes = [shuffler.write(*one) for one in mix]
        again = data.draw(st.lists(st.sampled_from(writes), max_size=2))
        queue = [*writes, *again]

        def take(*some: QueuedWrite) -> None:
            inbox.take_batch(row, WriteBatch(writes=list(some)), database_now())

        def one_by_one() -> None:
            for write in queue:
                take(write)

        with monkeypatch.context() as small:
            small.setattr(inbox, "GROUP", 1)
            alone = outcome_of(desk, one_by_one)
        together = outcome_of(desk, lambda: take(*queue))
        for name, told in alone.items():
            assert together[name] == told, (name, mix)
        transaction.set_rollback(True)


class TestTrouble:
    """One write's trouble is its own, also where it is found only when all are stored."""

    def test_what_the_database_refuses_when_all_are_stored_stops_only_itself(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writes = [desk.write(desk.secret(f"key-{number}"), f"v{number}") for number in range(9)]
        poison = uuid.UUID(id_of(writes[4]))
        stored = recording.Recorder.store_rest

        def refusing(book: recording.Recorder) -> None:
            if any(version["write"] == poison for version in book.versions):
                raise DataError("this one")
            stored(book)

        monkeypatch.setattr(recording.Recorder, "store_rest", refusing)
        desk.active.upload(*writes)
        inbox.apply_pending()
        ended = [row_of(write).outcome for write in writes]
        assert ended == ["applied"] * 4 + ["dead_letter"] + ["applied"] * 4
        assert row_of(writes[4]).code == "NOT_STORABLE"
        assert SecretVersion.objects.filter(write__isnull=False).count() == 8
        assert not SecretVersion.objects.filter(write=poison).exists()

    def test_a_creation_under_an_id_of_another_environment_gets_one_of_its_own(self, desk: Desk) -> None:
        """Else its gateway would learn that the id is taken there (I13)."""
        taken = NewSecret(desk.project.id, desk.dev.id, "taken")
        Secret.objects.create(
            id=taken.id, project=desk.project, environment=desk.prod, key="there", created_at=database_now(),
            updated_at=database_now(),
        )  # fmt: skip
        good = [desk.write(desk.secret(f"key-{number}"), "fine") for number in range(3)]
        bad = desk.write(taken, "x", operation=O.CREATE, base_version=None)
        desk.active.upload(good[0], bad, *good[1:])
        inbox.apply_pending()
        assert [row_of(write).outcome for write in (*good, bad)] == ["applied"] * 4
        made = Secret.objects.get(key="taken")
        assert row_of(bad).secret == made.id != taken.id and Secret.objects.get(id=taken.id).key == "there"

    def test_after_one_that_met_what_will_pass_the_others_are_settled_with_the_next_pass(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writes = [desk.write(desk.secret(f"key-{number}"), f"v{number}") for number in range(4)]
        held = uuid.UUID(id_of(writes[1]))
        stored = recording.Recorder.store_rest

        def waiting(book: recording.Recorder) -> None:
            if any(version["write"] == held for version in book.versions):
                with connection.cursor() as cursor:
                    cursor.execute("DO $$ BEGIN RAISE EXCEPTION 'held' USING ERRCODE = '55P03'; END $$")
            stored(book)

        monkeypatch.setattr(recording.Recorder, "store_rest", waiting)
        desk.active.upload(*writes)
        assert inbox.apply_pending() == 1
        assert (row_of(writes[1]).outcome, row_of(writes[1]).code) == ("received", "TRYING_AGAIN")
        assert inbox.apply_pending() == 2
        assert [row_of(write).outcome for write in writes] == ["applied", "received", "applied", "applied"]


class TestCrashes:
    """A process that dies: what it had not committed is done again, what it had is done once (I7, I8)."""

    @pytest.mark.parametrize("place", ["inbox:taken:before-commit", "inbox:taken:after-commit", "inbox:group:before-commit",
                                       "inbox:group:after-commit"])  # fmt: skip
    def test_nothing_is_lost_and_nothing_done_twice(self, desk: Desk, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
        secrets = [desk.secret(f"key-{number}") for number in range(5)]
        writes = [desk.write(secret, "first") for secret in secrets]
        writes += [
            desk.write(secret, "second", base_version=None, previous=id_of(before))
            for secret, before in zip(secrets, writes, strict=True)
        ]
        row = desk.active.row

        class Died(BaseException):
            pass

        def reach(name: str) -> None:
            if name == place:
                raise Died

        def whole() -> None:
            inbox.take_batch(row, WriteBatch(writes=writes), database_now())
            inbox.apply_pending()

        with monkeypatch.context() as dying:
            dying.setattr(inbox, "reach", reach)
            with pytest.raises(Died):
                whole()
        whole()
        assert [row_of(write).outcome for write in writes] == ["applied"] * 10
        assert [value_of(secret) for secret in secrets] == ["second"] * 5
        assert all([number for number, _ in history(secret)] == [1, 2, 3] for secret in secrets)
        assert WriteStream.objects.get(gateway=row).arrived == 10


class TestBudget:
    """How many statements a batch takes, whatever is in it."""

    TAKING, SETTLING, AGAIN = 16, 36, 12
    """Statements of a batch taken for the first time, of a group settled, and of a batch that comes again."""

    def cost(self, call: Callable[[], object]) -> int:
        with CaptureQueriesContext(connection) as seen:
            call()
        ran = [one["sql"][:160] for one in seen.captured_queries if not one["sql"].startswith(FRAMES)]
        self.ran = "\n".join(ran)
        return len(ran)

    def test_it_does_not_grow_with_its_writes(self, desk: Desk) -> None:
        people = [
            factories.signed_in_at(
                "NPR", User.objects.create(email=f"w{number}@example.com", full_name="W", role="secret_manager", password="!")
            )
            for number in range(30)
        ]
        row, costs = desk.active.row, []
        desk.active.upload(desk.write(desk.secret("warm"), "x"))
        inbox.apply_pending()
        for count in (4, 60):
            made = [desk.secret(f"{count}/{number}") for number in range(count // 2)]
            writes = [desk.write(secret, "x", actor=people[at % 30]) for at, secret in enumerate(made)]
            writes += [
                desk.write(desk.new(f"{count}/new/{number}"), "x", operation=O.CREATE, base_version=None)
                for number in range(count // 2)
            ]
            batch = WriteBatch(writes=writes)
            taking = self.cost(lambda batch=batch: inbox.take_batch(row, batch, database_now()))
            assert taking <= self.TAKING, self.ran
            settling = self.cost(inbox.apply_pending)
            assert settling <= self.SETTLING, self.ran
            again = self.cost(lambda batch=batch: inbox.take_batch(row, batch, database_now()))
            assert again <= self.AGAIN, self.ran
            costs.append((taking, settling, again))
        assert costs[0] == costs[1]
        assert set(ReceivedWrite.objects.values_list("outcome", flat=True)) == {"applied"}

    def test_a_long_queue_to_one_secret_is_settled_group_by_group(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inbox, "GROUP", 7)
        secret, writes = desk.secret(), list[QueuedWrite]()
        for number in range(30):
            previous = id_of(writes[-1]) if writes else ""
            writes.append(desk.write(secret, f"v{number}", previous=previous, base_version=None if previous else 1))
        desk.active.upload(*writes)
        assert inbox.apply_pending() == 30
        assert value_of(secret) == "v29" and [number for number, _ in history(secret)] == list(range(1, 32))

    def test_a_group_holds_no_more_bytes_than_it_may(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inbox, "GROUP_BYTES", 3000)
        writes = [desk.write(desk.secret(f"key-{number}"), "x" * 1000) for number in range(6)]
        desk.active.upload(*writes)
        groups, settle = list[int](), inbox.settle_held
        monkeypatch.setattr(inbox, "settle_held", lambda code, rows, now: groups.append(len(rows)) or settle(code, rows, now))
        assert inbox.apply_pending() == 6
        assert groups == [2, 2, 2]

    def test_writes_of_the_past_are_set_aside_together(self, desk: Desk) -> None:
        writes = [desk.write(desk.secret(f"key-{number}"), "late") for number in range(20)]
        desk.move_to_standby()
        row = desk.active.row
        cost = self.cost(lambda: inbox.take_batch(row, WriteBatch(writes=writes), database_now()))
        assert cost <= self.TAKING + self.SETTLING, self.ran
        assert {row_of(write).code for write in writes} == {"STALE_EPOCH"}


def test_changes_of_a_batch_are_in_the_feed(desk: Desk) -> None:
    secrets = [desk.secret(f"key-{number}") for number in range(4)]
    feed.place_pending()
    before = feed.head("NPR")
    desk.active.upload(*[desk.write(secret) for secret in secrets])
    inbox.apply_pending()
    feed.place_pending()
    assert {change.entity_id for change in feed.changes_after("NPR", before, 100)} == {secret.id for secret in secrets}
