"""Bodies of the machine channel, decoded strictly: a wrong type, a missing field or an unknown one is an error (DESIGN §4).

Every struct travels as JSON inside a sealed envelope (`protocol.envelope`). Times are RFC 3339 UTC, durations are seconds,
identifiers are UUID texts. `decode` is the only way in.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
import msgspec.inspect
from msgspec import Meta, Struct

from protocol.decoding import decode_json
from protocol.nearest import nearest
from protocol.vocabulary import Assignment, BreakerState, LeaseVerdict, ResultVerdict, Role, TaskOutcome

Identifier = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")]
Chain = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(#[1-9][0-9]{0,2})?\Z", max_length=40)
]
"""A generation, and which fork of its audit chain (`protocol.audit.fork_name`)."""
Version = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[!-~]+( [!-~]+)*\Z")]
"""Printable ASCII: it is shown wherever gateways are listed."""
NO_NUL = r"^[^\x00]*\Z"
"""No database column takes a NUL. Texts that are not made plain (`protocol.plain.VERBATIM`) have to say so."""
Text = Annotated[str, Meta(max_length=2000, pattern=NO_NUL)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=0, le=10**9)]
Milliseconds = Annotated[float, Meta(ge=0, le=10**7)]
Pem = Annotated[str, Meta(max_length=16384, pattern=NO_NUL)]


_UNKNOWN = re.compile(r"unknown field `([^`]{1,200})`")


class MessageError(ValueError):
    """The body does not fit; the sentence says where (path into the JSON) and why."""


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all bodies. Fields named in `hidden` hold secrets and are shown in no `repr`, log or traceback (I16)."""

    hidden: ClassVar[frozenset[str]] = frozenset()

    def __repr__(self) -> str:
        shown = (f"{name}={'…' if name in self.hidden else repr(getattr(self, name))}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(shown)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, "…" if name in self.hidden else getattr(self, name)) for name in self.__struct_fields__]


class Register(Message, frozen=True):
    """First words of a gateway, sealed to the Primary, signed with the key it brings (DESIGN §6)."""

    hidden: ClassVar[frozenset[str]] = frozenset({"token"})

    token: Annotated[str, Meta(max_length=2048)]
    csr: Pem
    server_csr: Pem
    signing_key: Annotated[str, Meta(max_length=64)]
    encryption_key: Annotated[str, Meta(max_length=64)]
    generation: Identifier
    version: Version
    name: Annotated[str, Meta(max_length=200)] = ""
    environment: Annotated[str, Meta(max_length=32)] = ""
    role: Annotated[str, Meta(max_length=32)] = ""


class Registered(Message, frozen=True):
    gateway_id: Identifier
    name: str
    environment: str
    role: Role
    certificate: str
    chain: str
    server_certificate: str
    heartbeat_seconds: Seconds


class Renew(Message, frozen=True):
    """New keys of a gateway that still holds its old ones."""

    csr: Pem
    server_csr: Pem


class Renewed(Message, frozen=True):
    certificate: str
    chain: str
    server_certificate: str


class Probe(Message, frozen=True):
    """One measured part of a gateway. `ok` is None when the part is not configured and must be left out of the score."""

    ok: bool | None
    latency_ms: Milliseconds | None = None
    detail: Text = ""


class SignedCheckpoint(Message, frozen=True):
    """Where the Primary's audit chain stands, signed by its channel key (`protocol.audit.Statement`)."""

    text: Annotated[str, Meta(max_length=1024)]
    signature: Annotated[str, Meta(max_length=88)]
    key: Annotated[str, Meta(max_length=64)]


class SignedMark(Message, frozen=True):
    """How far an environment had come when the Primary signed this with its channel key (`protocol.marks`)."""

    text: Annotated[str, Meta(max_length=300, pattern=NO_NUL)]
    signature: Annotated[str, Meta(max_length=88, pattern=NO_NUL)]
    key: Annotated[str, Meta(max_length=64, pattern=NO_NUL)]


class Countersigned(Message, frozen=True):
    """A gateway's answer to a checkpoint: its own signature under the text, or why it refuses to sign."""

    position: Count
    digest: Annotated[str, Meta(max_length=64)]
    """SHA-256 (hex) of the checkpoint's text."""
    signature: Annotated[str, Meta(max_length=88, pattern=NO_NUL)] = ""
    refusal: Annotated[str, Meta(max_length=200)] = ""


class Heartbeat(Message, frozen=True):
    version: Version
    reported_role: Assignment
    epoch: Count
    started_at: str
    sent_at: str
    """Wall clock of the gateway; only for skew, never for safety."""
    lease_seconds_left: Seconds
    certificate_expires_at: str
    write_queue_depth: Count = 0
    write_queue_oldest_seconds: Seconds = 0
    write_queue_last_sequence: Count = 0
    breaker: BreakerState = BreakerState.CLOSED
    database: Probe = Probe(ok=None)
    cache: Probe = Probe(ok=None)
    gateway_key_vault: Probe = Probe(ok=None)
    project_key_vaults: Annotated[list[Probe], Meta(max_length=200)] = []
    primary_latency_p95_ms: Milliseconds | None = None
    tasks_succeeded: Count = 0
    tasks_failed: Count = 0
    heartbeat_failures: Count = 0
    running_effects: Count = 0
    write_queue_bytes: Count = 0
    replica_position: Count = 0
    """Cursor up to which the gateway's copy is complete."""
    replica_age_seconds: Seconds = 0
    """Seconds since the copy was last known to be complete; 10^9 when it never was or nobody knows."""
    replica_complete: bool = False
    """Whether the copy has been complete at least once in this life of the gateway's database."""
    replica_digest: Annotated[str, Meta(max_length=64)] = ""
    """`protocol.replica.digest` of the copy at that position; empty when it was not computed."""
    audit_position: Count = 0
    """Length of the gateway's own audit chain, and its head."""
    audit_head: Annotated[str, Meta(max_length=64)] = ""
    countersigned: Countersigned | None = None
    """Said once for each checkpoint of an earlier answer."""
    mark: SignedMark | None = None
    """The furthest one the Primary ever gave: proof, if its database knows less by now."""


class FenceOrder(Message, frozen=True):
    """Stop acting for `epoch` and say so. Orders of an environment are numbered in the order they were given.

    `cancelled` lifts the fence of this order and of every earlier one of the epoch: those were cancelled before it was given.
    """

    operation: Identifier
    epoch: Count
    number: Count
    cancelled: bool = False


class DrainOrder(Message, frozen=True):
    """Take no new work for `epoch`, finish what runs, then report."""

    operation: Identifier
    epoch: Count


class Directive(Message, frozen=True):
    """What the Primary wants of a gateway now. `revision` is opaque: the waiting call returns when it differs."""

    revision: str
    assigned_role: Assignment
    epoch: Count
    poll_tasks: bool
    next_heartbeat_seconds: Seconds
    retry_after_seconds: Seconds = 0
    fence: FenceOrder | None = None
    drain: DrainOrder | None = None
    renew_certificate: bool = False
    tasks_waiting: bool = False
    primary_generation: str = ""
    sign: Count = 0
    """Number of the last question whether this gateway is alive; 0 when it was never asked. See `SignOfLife`."""
    resync_replica: bool = False
    """Fetch the whole copy again and drop what is not in it: its digest differs, or an operator accepted an older database."""
    number: Count = 0
    """Of two directives of one epoch the one with the higher number was ordered later, however they arrive. 0 is none."""
    checkpoint: SignedCheckpoint | None = None
    """Only in a heartbeat's answer and never part of the revision, so it wakes nobody."""
    mark: SignedMark | None = None
    """To be kept and shown with every heartbeat; never part of the revision."""
    writes_seen: Count = 0
    """Only in a heartbeat's answer to a gateway whose database was put back: the highest number of its writes that is known to
    have been used. It goes on beyond; 0 says nothing."""
    waits: Text = ""
    """Why this running instance may not act although its gateway may: another one may still do so. Empty otherwise."""


class AskDirective(Message, frozen=True):
    """A waiting call: answered when the revision differs from `after` or after `wait` seconds (at most 25)."""

    after: Annotated[str, Meta(max_length=128, pattern=NO_NUL)] = ""
    wait: Annotated[float, Meta(ge=0, le=25)] = 0


class RenewLease(Message, frozen=True):
    epoch: Count
    sent_at: str


class LeaseAnswer(Message, frozen=True):
    verdict: LeaseVerdict
    epoch: Count
    ttl_seconds: Seconds = 0
    retry_after_seconds: Seconds = 0
    """When to ask again, where that is known; 0 leaves it to the gateway."""


class ReleaseLease(Message, frozen=True):
    """The instance that speaks stopped acting: it gives the rest of its lease back, if it has one, and says goodbye."""

    epoch: Count


class FenceAcknowledged(Message, frozen=True):
    """Committed to the gateway's database before it was sent (DESIGN §8)."""

    operation: Identifier
    epoch: Count
    write_queue_last_sequence: Count = 0


class DrainReport(Message, frozen=True):
    operation: Identifier
    epoch: Count
    write_queue_depth: Count
    running_tasks: Count
    write_queue_oldest_seconds: Seconds = 0


class SignOfLife(Message, frozen=True):
    """The answer to the question of this number, and what of this gateway matters to a move, measured now."""

    number: Annotated[int, Meta(ge=1, le=2**53)]
    write_queue_depth: Count = 0
    write_queue_oldest_seconds: Seconds = 0
    write_queue_last_sequence: Count = 0
    replica_complete: bool = False
    replica_age_seconds: Seconds = 0


class ClaimTasks(Message, frozen=True):
    epoch: Count
    limit: Annotated[int, Meta(ge=1, le=50)] = 10


class OfferedTask(Message, frozen=True):
    id: Identifier
    kind: str
    payload: dict[str, Any]
    epoch: Count
    claim: Identifier
    claim_seconds: Seconds
    attempt: Count


class TaskOffers(Message, frozen=True):
    tasks: list[OfferedTask]
    epoch: Count


class TaskResult(Message, frozen=True):
    task: Identifier
    claim: Identifier
    epoch: Count
    outcome: TaskOutcome
    duration_seconds: Seconds
    detail: Text = ""
    result: dict[str, Any] = {}
    retry: bool = True


class TaskResults(Message, frozen=True):
    results: Annotated[list[TaskResult], Meta(min_length=1, max_length=50)]


class TaskVerdicts(Message, frozen=True):
    verdicts: dict[str, ResultVerdict]


class AuditRecord(Message, frozen=True):
    """One entry of a gateway's audit chain: its exact text, its position and the hash that covers both (`common.audit`)."""

    position: Count
    text: Annotated[str, Meta(max_length=16384, pattern=NO_NUL)]
    hash: Annotated[str, Meta(max_length=64)]


class AuditPlace(Message, frozen=True):
    """A position of a chain and the hash there, as the speaker has them."""

    position: Count
    hash: Annotated[str, Meta(max_length=64)]
    chain: Chain | None = None
    """Which chain, where the message is about more than one."""


class AuditUpload(Message, frozen=True, omit_defaults=True):
    """The next entries of a chain of this gateway, in order. A Primary of an earlier version knows no `fork_at`."""

    records: Annotated[list[AuditRecord], Meta(max_length=200)]
    cut_at: Count = 0
    """Asks for a signed cut at this position, so that the gateway may remove its entries up to there; 0 for none."""
    life: Chain | None = None
    """The chain this is: a former generation, or a fork of one; None for the present generation's first one."""
    fork_at: AuditPlace | None = None
    """Asks which chain follows this one, which was contradicted. It begins behind this place, the last that both ways share."""


class AuditTaken(Message, frozen=True, omit_defaults=True):
    """The Primary holds the chain that was asked about up to here. A gateway of an earlier version knows no `follows`, and
    never asks for it."""

    position: Count
    hash: str
    cut: SignedCheckpoint | None = None
    """Signed only for what is held here and anchored in the Primary's own chain."""
    follows: AuditPlace | None = None
    """The chain that follows, and behind which place it begins."""


class Acknowledged(Message, frozen=True):
    """Nothing more to say."""

    detail: str = ""


Body = TypeVar("Body", bound=Message)


def encode(message: Message) -> bytes:
    return msgspec.json.encode(message)


def decode(body: bytes, kind: type[Body]) -> Body:
    """Decode strictly or raise `MessageError` that names the field."""
    try:
        return decode_json(body, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(_with_the_nearest(str(error), kind)) from error


def _with_the_nearest(sentence: str, kind: type[Message]) -> str:
    """The sentence about an unknown field with the known one that was meant, wherever in the body it stands."""
    unknown = _UNKNOWN.search(sentence)
    meant = nearest(unknown.group(1), names_in(kind)) if unknown else None
    return f"{sentence}; did you mean `{meant}`?" if meant else sentence


@cache
def names_in(kind: type[Struct]) -> frozenset[str]:
    """The fields of a message and of whatever is inside of it."""
    found: set[str] = set()
    waiting, seen = [msgspec.inspect.type_info(kind)], set[int]()
    while waiting:
        info = waiting.pop()
        if id(info) in seen:
            continue
        seen.add(id(info))
        if isinstance(info, msgspec.inspect.StructType):
            found |= {field.encode_name for field in info.fields}
            waiting += [field.type for field in info.fields]
        elif isinstance(info, msgspec.inspect.UnionType):
            waiting += info.types
        elif isinstance(info, msgspec.inspect.CollectionType):
            waiting.append(info.item_type)
        elif isinstance(info, msgspec.inspect.DictType):
            waiting.append(info.value_type)
    return frozenset(found)
