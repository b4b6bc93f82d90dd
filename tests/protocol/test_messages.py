"""Bodies of the machine channel are decoded strictly: what does not fit is refused with the place where it does not (I20).

Proven here for every kind of message: it survives the trip, an unknown field or a missing one is refused, and no value changes
its type on the way. `SAMPLES` must name every kind, so that a new message is covered or the suite fails.
"""

from __future__ import annotations

import json
import pkgutil
from importlib import import_module
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import protocol
from protocol import marks, messages, replica, sign_in, storage, surveys, sync, vault_access, writes
from protocol.messages import Message, MessageError, decode, encode
from protocol.vocabulary import (
    Assignment,
    BreakerState,
    LeaseVerdict,
    ResultVerdict,
    Role,
    TaskOutcome,
    WriteOperation,
    WriteOutcome,
)  # fmt: skip

ID = "6f1f0f8e-6c1b-4a53-9a55-0d8f5f3f6a01"
WHEN = "2026-11-25T09:46:40Z"
PROBE = messages.Probe(ok=True, latency_ms=1.5, detail="fine")
OFFER = messages.OfferedTask(ID, "sync", {"rule": 1}, 7, ID, 60.0, 1)
RESULT = messages.TaskResult(ID, ID, 7, TaskOutcome.SUCCEEDED, 0.5, "done", {"version": "a"}, False)
FENCE, DRAIN = messages.FenceOrder(ID, 7, 2), messages.DrainOrder(ID, 7)
AUDIT = messages.AuditRecord(3, "[]", "ab" * 32)
WRITE = writes.QueuedWrite("{}", "{}", "salt", "signature", True)
RECEIPT = writes.WriteReceipt(ID, WriteOutcome.CONFLICT, 4, "VERSION_CONFLICT", "version 5 is there")
ORGANIZATION = replica.ReplicaOrganization(ID, "Bank", False, WHEN, WHEN)
ENVIRONMENT = replica.ReplicaEnvironment(ID, ID, "Dev", "dev", False, False, WHEN, WHEN)
PROJECT = replica.ReplicaProject(ID, ID, "pay", "", "dev", "mazevault", "manual_resolution", 60, False, WHEN, WHEN)
VERSION = replica.ReplicaVersion(1, "create", "user:1", "primary", "", WHEN, "v1", WHEN)
SECRET = replica.ReplicaSecret(
    ID, ID, ID, "db/password", "password", "", ["x"], {"a": "b"}, 0, {"enabled": True}, "active", 1, "value", "user:1",
    WHEN, WHEN, WHEN, WHEN, [VERSION],
)  # fmt: skip
GRANT = replica.ReplicaGrant(["secrets:read"], ID, ID, "dev", WHEN)
TOKEN = replica.ReplicaToken("ab" * 32, WHEN, ["secrets:read"])
PRINCIPAL = replica.ReplicaPrincipal(ID, "user", "a@example.com", [GRANT], [TOKEN])
ACCESS = vault_access.VaultAccess(ID, "https://kv-a.vault.azure.net", "client_secret", ID, ID, "secret", "/subscriptions/x")
WHOSE = (ID, ID, 7)
OURS = sync.OurSecret("DB_PASSWORD", 3, "ab" * 32, WHEN, False, True, ID)
ITEM = sync.SyncItem("DB_PASSWORD", "DB-PASSWORD", "ab" * 32, 3, "v1", WHEN)
ACTION = sync.SyncAction("update_there", "changed_here", "DB_PASSWORD", "DB-PASSWORD", "ab" * 32, 3, "v1", False, False, "v0")
NOTE = sync.SyncNote("A", "A", "conflict", "not_read")
BEGUN = sync.BegunStep(ID, "ab" * 16, "value", "v1", "CODE", "detail")
ENDED = sync.StepReport(ID, sync.StepEnd.FAILED, 3, "v2", "VALUE_TOO_LARGE", "too large")
HISTORY = sync.HistoryStep(ACTION, 3, "v2", ITEM)
OPEN = sync.OpenStep(ID, ACTION, "v1", False)
MOVED_VERSION = storage.MovedVersion(3, "v1", "value")
MOVING = storage.MovingSecret(ID, "DB", "DB", False, [MOVED_VERSION], 3)
MOVED = storage.MovedSecret(ID, [MOVED_VERSION], 3, "CODE", "detail")
LATE = surveys.LateWrite("DB", "project:x", 6, "op", WHEN)
REPLICA_VAULT = replica.ReplicaVault(ID, "v", 1, ACCESS)
SAMPLES: tuple[Message, ...] = (
    messages.Register("mzvb1.x", "csr", "csr", "key", "key", ID, "1.0.0", "gw-npr-primary", "NPR", "primary"),
    messages.Registered(ID, "gw-npr-primary", "NPR", Role.PRIMARY, "pem", "pem", "pem", 60.0),
    messages.Renew("csr", "csr"),
    messages.Renewed("pem", "pem", "pem"),
    PROBE,
    messages.Heartbeat(
        "1.0.0", Assignment.ACTIVE, 7, WHEN, WHEN, 44.5, WHEN, 3, 12.5, 41, BreakerState.HALF_OPEN, PROBE, PROBE,
        messages.Probe(ok=None), [PROBE, messages.Probe(ok=False)], 120.0, 5, 1, 2, 1,
    ),
    messages.SignedCheckpoint("{}", "signature", "key"), messages.Countersigned(7, "ab" * 32, "signature"),
    FENCE,
    DRAIN,
    messages.Directive("r1", Assignment.FENCED, 7, False, 60.0, 5.0, FENCE, DRAIN, True, True, ID),
    messages.AskDirective("r1", 25.0),
    messages.RenewLease(7, WHEN),
    messages.LeaseAnswer(LeaseVerdict.GRANTED, 7, 45.0),
    messages.ReleaseLease(7),
    messages.FenceAcknowledged(ID, 7, 41),
    messages.DrainReport(ID, 7, 0, 0),
    messages.SignOfLife(3, 5, 340.0, 12, True, 1.5),
    messages.ClaimTasks(7, 10),
    OFFER,
    messages.TaskOffers([OFFER], 7),
    RESULT,
    messages.TaskResults([RESULT]),
    messages.TaskVerdicts({ID: ResultVerdict.REJECTED_STALE_EPOCH}),
    messages.Acknowledged("no such order"),
    AUDIT,
    messages.AuditUpload([AUDIT]),
    messages.AuditTaken(3, "ab" * 32),
    messages.AuditPlace(3, "ab" * 32, f"{ID}#2"),
    WRITE,
    writes.WriteBatch([WRITE], [ID], True),
    messages.SignedMark("{}", "c2ln", "a2V5"),
    marks.Mark("NPR", 3, 17),
    writes.WriteCheck(3, WriteOperation.UPDATE, ID, ID, ID, "db", 3, f"user:{ID}", writes.WriteBody(external_version="pending")),
    writes.WriteKnown(ID, 3, "it would be made"),
    RECEIPT,
    writes.WriteReceipts([RECEIPT], 2.0),
    writes.WriteHead(ID, "NPR", ID, ID, 7, 41, "", WriteOperation.UPDATE, ID, ID, ID, "db", 3, "user:1", WHEN, "ab" * 32),
    writes.WriteBody("value", 24, {"a": "b"}, "password", "text", ["x"], {"enabled": True}, 2, "because", "v1"),
    replica.AskChanges(12, ID, 200),
    ORGANIZATION,
    ENVIRONMENT,
    PROJECT,
    VERSION,
    SECRET,
    GRANT,
    TOKEN,
    PRINCIPAL,
    replica.Changes(ID, 12, 13, True, [ORGANIZATION], [ENVIRONMENT], [PROJECT], [SECRET], [PRINCIPAL]),
    sign_in.EntraProof("token", "nonce", "10.0.0.1", "access"),
    sign_in.SessionOpened("mzv_x", WHEN, "a@example.com", "Ann", "viewer", WHEN, PRINCIPAL, ID),
    sign_in.EndSession("mzv_x", "10.0.0.1"),
    ACCESS,
    MOVED_VERSION, MOVING, MOVED, REPLICA_VAULT,
    storage.MoveProgress(*WHOSE, [MOVED]),
    storage.MoveAnswer(True, "project:x", ACCESS, MOVING),
    storage.EndMove(*WHOSE, True, "CODE", "detail"),
    storage.VersionSeen(3, storage.Sight.READ, "ab" * 32, "detail"),
    storage.LookReport(*WHOSE, ID, [storage.VersionSeen(3, storage.Sight.READ, "ab" * 32, "detail")], "CODE", "detail"),
    storage.LookAnswer(ACCESS, MOVING, "ab" * 32),
    LATE,
    surveys.Survey(2, [LATE]),
    sync.OpenRun(*WHOSE),
    sync.RunOrder(
        ID, sync.RunPhase.APPLY, ACCESS, "https://kv-a.vault.azure.net", "dev", "push", "incremental", "manual_resolution",
        "{{key}}", 10, 10, False, True, "https://kv-a.vault.azure.net", "dev", "{{key}}", "push", True, "ab" * 16, "ab" * 32,
    ),
    sync.AskRows(*WHOSE, sync.Listing.OURS, "A"),
    OURS, ITEM, ACTION, NOTE, BEGUN, ENDED, HISTORY, OPEN,
    sync.Rows("next", [OURS], [ITEM], ["A"], [OPEN], [HISTORY]),
    sync.PlanPart(*WHOSE, True, "ready", "ab" * 16, "ab" * 16, False, [ACTION], [NOTE], [["a", "b"]], [ITEM], ["A"]),
    sync.RunAnswer(False, "stopped"),
    sync.Progress(*WHOSE, [ENDED], [BEGUN]),
    sync.ProgressAnswer(True, "", [ENDED], {ID: "value"}),
    sync.EndRun(*WHOSE, sync.RunEnd.PAUSED, "CODE", "detail", 5, {"read": 3}),
    vault_access.AskAccess(ID, 7),
)  # fmt: skip
BY_KIND = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)


def as_json(message: Message, **other: Any) -> bytes:
    return json.dumps({**json.loads(encode(message)), **other}).encode()


def sample_of(kind: type[Message]) -> Message:
    return next(sample for sample in SAMPLES if type(sample) is kind)


def test_every_kind_of_message_has_a_sample() -> None:
    for module in pkgutil.iter_modules(protocol.__path__):
        import_module(f"protocol.{module.name}")  # a kind is known when its module was imported, whoever did it
    assert {type(sample) for sample in SAMPLES} == set(Message.__subclasses__())


class TestEveryKind:
    @BY_KIND
    def test_survives_the_trip(self, sample: Message) -> None:
        assert decode(encode(sample), type(sample)) == sample

    @BY_KIND
    def test_refuses_a_field_it_does_not_know(self, sample: Message) -> None:
        with pytest.raises(MessageError, match="surplus"):
            decode(as_json(sample, surplus=1), type(sample))

    @BY_KIND
    def test_names_each_required_field_that_is_missing(self, sample: Message) -> None:
        whole = json.loads(encode(sample))
        for field in msgspec.structs.fields(type(sample)):
            body = json.dumps({name: value for name, value in whole.items() if name != field.name}).encode()
            if field.required:
                with pytest.raises(MessageError, match=f"required field `{field.name}`"):
                    decode(body, type(sample))
            else:
                assert getattr(decode(body, type(sample)), field.name) in (field.default, [], {})

    @BY_KIND
    def test_names_the_field_that_was_meant(self, sample: Message) -> None:
        for name in type(sample).__struct_fields__:
            with pytest.raises(MessageError, match=f"unknown field `{name}z`.*did you mean `"):
                decode(as_json(sample, **{f"{name}z": 1}), type(sample))

    @BY_KIND
    def test_changes_no_type_of_any_field(self, sample: Message) -> None:
        """A number as text, a truth as number, a text as list: all refused, with the name of the field."""
        for name, value in json.loads(encode(sample)).items():
            other = [value] if isinstance(value, str | dict) else str(value)
            with pytest.raises(MessageError, match=rf"`\$\.{name}"):
                decode(as_json(sample, **{name: other}), type(sample))

    @BY_KIND
    @pytest.mark.parametrize("body", [b"", b"null", b"[]", b"7", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000])
    def test_is_an_object_or_nothing(self, sample: Message, body: bytes) -> None:
        with pytest.raises(MessageError):
            decode(body, type(sample))

    @BY_KIND
    def test_cannot_be_changed_after_decoding(self, sample: Message) -> None:
        with pytest.raises(AttributeError):
            setattr(sample, type(sample).__struct_fields__[0], "other")


class TestLimits:
    @pytest.mark.parametrize(
        ("kind", "field", "value"),
        [
            (messages.RenewLease, "epoch", -1),
            (messages.RenewLease, "epoch", 2**53 + 1),
            (messages.RenewLease, "epoch", 7.5),
            (messages.RenewLease, "epoch", True),
            (messages.RenewLease, "epoch", None),
            (messages.FenceOrder, "cancelled", 0),
            (messages.FenceOrder, "operation", ID.upper()),
            (messages.FenceOrder, "operation", ID.replace("-", "")),
            (messages.FenceOrder, "operation", f" {ID}"),
            (messages.FenceOrder, "operation", f"{ID}0"),
            (messages.Heartbeat, "lease_seconds_left", -0.1),
            (messages.Heartbeat, "lease_seconds_left", 10**9 + 1),
            (messages.Heartbeat, "reported_role", "primary"),
            (messages.Heartbeat, "breaker", "OPEN"),
            (messages.Heartbeat, "version", ""),
            (messages.Heartbeat, "version", "1" * 65),
            (messages.Heartbeat, "version", "1.0\n0"),
            (messages.Heartbeat, "write_queue_depth", -1),
            (messages.Heartbeat, "primary_latency_p95_ms", 10**7 + 1),
            (messages.Heartbeat, "project_key_vaults", [{"ok": True}] * 201),
            (messages.Probe, "ok", 1),
            (messages.Probe, "detail", "x" * 2001),
            (messages.AskDirective, "wait", 25.1),
            (messages.AskDirective, "wait", -1),
            (messages.AskDirective, "after", "x" * 129),
            (messages.ClaimTasks, "limit", 0),
            (messages.ClaimTasks, "limit", 51),
            (messages.TaskResults, "results", []),
            (messages.TaskResults, "results", [json.loads(encode(RESULT))] * 51),
            (messages.TaskResult, "outcome", "maybe"),
            (messages.Register, "token", "x" * 2049),
            (messages.Register, "csr", "x" * 16385),
            (messages.Register, "signing_key", "x" * 65),
            (messages.Register, "generation", "1"),
        ],
        ids=lambda value: repr(value)[:24] if not isinstance(value, type) else value.__name__,
    )
    def test_a_value_outside_of_its_limits_is_refused_by_name(self, kind: type[Message], field: str, value: Any) -> None:
        with pytest.raises(MessageError, match=rf"`\$\.{field}"):
            decode(as_json(sample_of(kind), **{field: value}), kind)

    @pytest.mark.parametrize(
        ("kind", "field", "value"),
        [
            (messages.RenewLease, "epoch", 0),
            (messages.RenewLease, "epoch", 2**53),
            (messages.AskDirective, "wait", 25),
            (messages.ClaimTasks, "limit", 1),
            (messages.ClaimTasks, "limit", 50),
            (messages.Heartbeat, "version", "1" * 64),
            (messages.Heartbeat, "project_key_vaults", [{"ok": True}] * 200),
            (messages.Heartbeat, "primary_latency_p95_ms", None),
            (messages.Probe, "ok", None),
            (messages.TaskResults, "results", [json.loads(encode(RESULT))] * 50),
            (messages.Register, "csr", "x" * 16384),
        ],
        ids=lambda value: repr(value)[:24] if not isinstance(value, type) else value.__name__,
    )
    def test_a_value_on_its_limit_is_taken(self, kind: type[Message], field: str, value: Any) -> None:
        decode(as_json(sample_of(kind), **{field: value}), kind)

    @pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e400"])
    def test_a_number_that_is_none_never_arrives(self, number: bytes) -> None:
        body = encode(messages.LeaseAnswer(LeaseVerdict.GRANTED, 7, 45.0)).replace(b"45.0", number)
        with pytest.raises(MessageError):
            decode(body, messages.LeaseAnswer)

    def test_the_error_says_where_deep_inside(self) -> None:
        body = as_json(messages.TaskOffers([OFFER, OFFER], 7)).replace(b'"attempt": 1', b'"attempt": -1')
        with pytest.raises(MessageError, match=r"\$\.tasks\[0\]\.attempt|\$\.tasks\[\.\.\.\]\.attempt"):
            decode(body, messages.TaskOffers)

    @given(st.binary(max_size=300))
    def test_arbitrary_bytes_are_refused_and_never_crash(self, body: bytes) -> None:
        with pytest.raises(MessageError):
            decode(body, messages.Heartbeat)


class TestVocabulary:
    """Values that are stored, sent and shown: a change is a migration, so they stand here a second time."""

    @pytest.mark.parametrize(
        ("words", "values"),
        [
            (Role, ["primary", "dr-standby"]),
            (Assignment, ["active", "standby", "fenced", "draining"]),
            (BreakerState, ["closed", "half-open", "open"]),
            (
                LeaseVerdict,
                ["granted", "not_active", "stale_epoch", "fencing", "clock_skew", "held", "another_instance", "quarantined"],
            ),
            (TaskOutcome, ["succeeded", "failed", "refused"]),
            (ResultVerdict, ["accepted", "duplicate", "rejected_stale_epoch", "rejected_stale_claim", "unknown_task"]),
        ],
        ids=lambda value: value.__name__ if isinstance(value, type) else "",
    )
    def test_the_words_on_the_wire_have_not_changed(self, words: Any, values: list[str]) -> None:
        assert [word.value for word in words] == values

    @pytest.mark.parametrize(("state", "metric"), [(BreakerState.CLOSED, 0), (BreakerState.HALF_OPEN, 1), (BreakerState.OPEN, 2)])
    def test_the_metric_of_the_breaker_is_that_of_the_dashboards(self, state: BreakerState, metric: int) -> None:
        assert state.metric == metric

    def test_each_role_stands_in_for_the_other(self) -> None:
        assert [role.counterpart for role in Role] == [Role.DR_STANDBY, Role.PRIMARY]


def test_no_message_shows_a_secret_when_it_is_printed() -> None:
    """Whatever an exception, a log line or a debugger prints of a change, the value is not in it (I16)."""
    canary = "canary-5f0c"
    body = writes.WriteBody(value=canary, metadata={"a": canary}, description=canary, rotation={"by": canary})
    queued = writes.QueuedWrite(head="{}", body=writes.body_text(body), salt=canary, signature="s", promised=True)
    copied = replica.ReplicaSecret(
        id=ID, project=ID, environment=ID, key="db", type="general", description=canary, tags=[], metadata={"a": canary},
        ttl_hours=0, rotation={"by": canary}, status="active", version=1, value=canary, created_by="user:ann", created_at="",
        updated_at="", archived_at=None, deleted_at=None, versions=[],
    )  # fmt: skip
    page = replica.Changes(generation=ID, position=1, head=1, more=False, secrets=[copied])
    enrolling = messages.Register(
        token=canary, csr="", server_csr="", signing_key="", encryption_key="", generation=ID, version="1"
    )  # fmt: skip
    for message in (body, queued, writes.WriteBatch(writes=[queued]), copied, page, enrolling):
        assert canary in encode(message).decode(), "it does hold the canary"
        assert canary not in f"{message!r} {message} {[message]} {list(message.__rich_repr__())}"
    assert "key='db'" in repr(page) and "promised=True" in repr(queued)
