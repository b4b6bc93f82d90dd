"""A gateway of the cast that speaks the real protocol to the real views, without a process and without a socket.

Every field of an outgoing message can be overridden, so that a test can play an attacker.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import EllipsisType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from django.http import HttpResponse
from django.test import Client
from msgspec import structs

from common.clock import now
from failover import driver
from gateway_runtime.client import own_keys_of
from gateway_runtime.identity import Keys
from gateways import identity, signs, tokens
from gateways.models import Gateway, PrimaryKeyPair
from gateways.peer import PEER_CERTIFICATE
from gateways.tokens import TokenWish
from protocol import messages, paths
from protocol.bootstrap_token import unpack
from protocol.certificates import build_csr, x5t_s256
from protocol.channel_sessions import ChannelSession, open_session
from protocol.envelope import (
    CONTENT_TYPE,
    SESSION_SUITE,
    SUITE,
    Header,
    decode_encryption_key,
    open_parcel,
    open_recipients,
    parse,
    seal,
    verify,
)
from protocol.marks import read_mark
from protocol.replica import AskChanges, Changes
from protocol.vocabulary import Assignment, WriteOperation
from protocol.writes import (
    QueuedWrite,
    WriteBatch,
    WriteBody,
    WriteHead,
    WriteReceipt,
    WriteReceipts,
    body_digest,
    body_text,
    new_salt,
    sign,
)
from vault.generations import Standing


@dataclass(frozen=True)
class NewSecret:
    """A secret that does not exist yet, in the form `FakeGateway.write` takes."""

    project_id: uuid.UUID
    environment_id: uuid.UUID
    key: str
    id: uuid.UUID = field(default_factory=uuid.uuid4)
    version: int | None = None


KNOWN: dict[uuid.UUID, FakeGateway] = {}
"""Every gateway that was enrolled in this test, by id."""


def all_answer(questions: Iterable[tuple[uuid.UUID, int]], seconds: float = 0.0) -> None:
    """Stands for the moment in which a request waits for signs of life: whoever is lively gives his."""
    for gateway, number in questions:
        known = KNOWN.get(gateway)
        if known is not None and known.lively:
            known.give_sign(number)


def _signer_of_the_primary() -> Ed25519PublicKey:
    """Of its channel certificate, without opening the private key."""
    current = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING, standing=Standing.CURRENT)
    key = x509.load_pem_x509_certificate(current.values_list("certificate", flat=True)[0].encode()).public_key()
    assert isinstance(key, Ed25519PublicKey)
    return key


@dataclass(eq=False)
class FakeGateway:
    """One gateway. `enrol` makes it somebody; the other methods are its calls."""

    name: str
    environment: str = "NPR"
    role: str = "primary"
    keys: Keys = field(default_factory=Keys.generate)
    generation: uuid.UUID = field(default_factory=uuid.uuid4)
    instance: str = field(default_factory=lambda: str(uuid.uuid4()))
    sequence: int = 0
    write_sequence: int = 0
    told_writes: int = 0
    """The number of its writes it told last; a later report says no lower one unless a test wants that."""
    epoch: int = 0
    certificate: str = ""
    id: str = ""
    token: str = ""
    client: Client = field(default_factory=Client)
    lively: bool = True
    """Whether it gives a sign of life when it is asked; a frozen or killed one does not."""
    said: dict[str, Any] = field(default_factory=dict)
    """What its last heartbeat said beside the ordinary."""
    mark: messages.SignedMark | None = None
    """The furthest one the Primary gave, as a gateway keeps it."""
    _numbers: threading.Lock = field(default_factory=threading.Lock)

    def copied(self) -> FakeGateway:
        """Its disk and its database were copied and the copy was started: the same in everything but the process."""
        return replace(self, instance=str(uuid.uuid4()), client=Client())

    def restarted(self) -> FakeGateway:
        """The next process on the same database: it begins with the next block of message numbers."""
        return replace(self, instance=str(uuid.uuid4()), sequence=(self.sequence // 1000 + 1) * 1000, client=Client())

    def enrol(self, **wish: Any) -> FakeGateway:
        """Get a token and redeem it; asserts success."""
        answer = self.register(self.new_token(**wish))
        assert isinstance(answer, messages.Registered), answer.content
        return self

    def new_token(self, **wish: Any) -> str:
        asked = TokenWish(name=self.name, environment=self.environment, role=self.role, **wish)
        self.token = tokens.create_token(asked, actor="user:test", address="127.0.0.1", now=now()).text
        return self.token

    def registration(self, token: str, **other: Any) -> messages.Register:
        signing, encryption = own_keys_of(self.keys)
        body = messages.Register(
            token=token, csr=build_csr(self.keys.client, self.name), server_csr=build_csr(self.keys.server, self.name),
            signing_key=signing, encryption_key=encryption, generation=str(self.generation), version="1.0.0",
        )  # fmt: skip
        return messages.Register(**{**{name: getattr(body, name) for name in body.__struct_fields__}, **other})

    def register(self, token: str, **other: Any) -> Any:
        """Redeem a token. `other` overrides fields of the registration."""
        header = structs.replace(self.header(paths.REGISTER), sender=f"token:{unpack(token).id}", certificate="", environment="")
        answer = self.send(paths.REGISTER, self.registration(token, **other), header=header, peer=None)
        if answer.status_code != 200:
            return answer
        body = self.open(answer, messages.Registered)
        self.certificate, self.id = body.certificate, body.gateway_id
        KNOWN[uuid.UUID(self.id)] = self
        return body

    def heartbeat(self, **other: Any) -> Any:
        self.said = other
        return self.call(paths.HEARTBEAT, self.report(**other), messages.Directive)

    def report(self, **other: Any) -> messages.Heartbeat:
        moment = datetime.now(UTC)
        facts: dict[str, Any] = {
            "version": "1.0.0", "reported_role": Assignment.STANDBY, "epoch": self.epoch, "lease_seconds_left": 0.0,
            "started_at": (moment - timedelta(minutes=5)).isoformat(), "sent_at": moment.isoformat(),
            "certificate_expires_at": self.certificate_ends().isoformat(), "database": messages.Probe(ok=True, latency_ms=1),
            "cache": messages.Probe(ok=True, latency_ms=1), "primary_latency_p95_ms": 5.0,
            "replica_complete": True, "mark": self.mark, "write_queue_last_sequence": self.told_writes,
        }  # fmt: skip
        report = messages.Heartbeat(**{**facts, **other})
        self.told_writes = report.write_queue_last_sequence
        return report

    def directive(self, after: str = "", wait: float = 0) -> Any:
        return self.call(paths.DIRECTIVE, messages.AskDirective(after=after, wait=wait), messages.Directive)

    def renew_lease(self, epoch: int | None = None) -> Any:
        body = messages.RenewLease(epoch=self.epoch if epoch is None else epoch, sent_at=datetime.now(UTC).isoformat())
        return self.call(paths.LEASE_RENEW, body, messages.LeaseAnswer)

    def renew(self) -> Any:
        """Have new TLS keys certified and call with them from now on."""
        fresh = Keys.generate()
        body = messages.Renew(csr=build_csr(fresh.client, self.name), server_csr=build_csr(fresh.server, self.name))
        answer = self.call(paths.RENEW, body, messages.Renewed)
        if isinstance(answer, messages.Renewed):
            self.keys, self.certificate = replace(self.keys, client=fresh.client, server=fresh.server), answer.certificate
        return answer

    def release_lease(self, epoch: int | None = None) -> Any:
        body = messages.ReleaseLease(epoch=self.epoch if epoch is None else epoch)
        return self.call(paths.LEASE_RELEASE, body, messages.Acknowledged)

    def acknowledge_fence(self, operation: str, epoch: int, last_sequence: int | None = None) -> Any:
        """Confirm a fence. The last number is that of this gateway's stream of writes unless said otherwise."""
        last = self.write_sequence if last_sequence is None else last_sequence
        body = messages.FenceAcknowledged(operation=operation, epoch=epoch, write_queue_last_sequence=last)
        return self.call(paths.FENCE_ACKNOWLEDGE, body, messages.Acknowledged)

    def told_to_fence(self) -> messages.FenceOrder:
        """Drain if that is ordered, as a living gateway does, and hear the fence order that follows."""
        directive = self.take_over()
        if directive.drain is not None and (directive.fence is None or directive.fence.cancelled):
            self.report_drained(directive.drain.operation, directive.drain.epoch)
            driver.drive_all()
            directive = self.take_over()
        assert directive.fence is not None and not directive.fence.cancelled
        return directive.fence

    def give_sign(self, number: int | None = None, **other: Any) -> Any:
        """Answer the question whether it is alive; the last one unless a number is given."""
        asked = signs.asked_of(self.row.id) if number is None else number
        told = {name: value for name, value in self.said.items() if name in messages.SignOfLife.__struct_fields__}
        body = messages.SignOfLife(**{"number": asked, "replica_complete": True, **told, **other})
        return self.call(paths.SIGN_OF_LIFE, body, messages.Acknowledged)

    def report_drained(self, operation: str, epoch: int, running_tasks: int = 0, waiting: int = 0, oldest: float = 0.0) -> Any:
        body = messages.DrainReport(
            operation=operation, epoch=epoch, write_queue_depth=waiting, running_tasks=running_tasks,
            write_queue_oldest_seconds=oldest,
        )  # fmt: skip
        return self.call(paths.DRAIN_REPORT, body, messages.Acknowledged)

    def claim(self, epoch: int | None = None, limit: int = 1) -> Any:
        body = messages.ClaimTasks(epoch=self.epoch if epoch is None else epoch, limit=limit)
        return self.call(paths.TASK_CLAIM, body, messages.TaskOffers)

    def results(self, *results: messages.TaskResult) -> Any:
        return self.call(paths.TASK_RESULTS, messages.TaskResults(results=list(results)), messages.TaskVerdicts)

    def write(self, secret: Any, value: str | None = None, *, promised: bool = True, body: WriteBody | None = None,
              **head: Any) -> QueuedWrite:  # fmt: skip
        """The next write of this gateway's stream to a secret (a row, or a `tests.fakes.gateway.NewSecret`), signed.

        `head` overrides any field of the signed head; nothing is sent.
        """
        self.write_sequence += 1
        carried = body or WriteBody(value=value)
        text, salt = body_text(carried), new_salt()
        facts: dict[str, Any] = {
            "id": str(uuid.uuid4()), "environment": self.environment, "gateway": self.id, "generation": str(self.generation),
            "epoch": self.epoch, "sequence": self.write_sequence, "previous": "", "operation": WriteOperation.UPDATE,
            "secret": str(secret.id), "project": str(secret.project_id), "project_environment": str(secret.environment_id),
            "key": secret.key, "base_version": secret.version, "actor": "user:00000000-0000-4000-8000-0000000000aa",
            "accepted_at": datetime.now(UTC).isoformat(), "body_digest": body_digest(text, salt),
        }  # fmt: skip
        signed, signature = sign(WriteHead(**{**facts, **head}), self.keys.signing)
        return QueuedWrite(head=signed, body=text, salt=salt, signature=signature, promised=promised)

    def upload(self, *writes: QueuedWrite, apply_now: bool = False, ask: tuple[str, ...] = ()) -> Any:
        """Send writes; the receipts in their order."""
        batch = WriteBatch(writes=list(writes), ask=list(ask), apply_now=apply_now, mark=self.mark)
        answer = self.call(paths.WRITES, batch, WriteReceipts)
        return answer.receipts if isinstance(answer, WriteReceipts) else answer

    def upload_one(self, write: QueuedWrite, *, apply_now: bool = False) -> WriteReceipt:
        receipts = self.upload(write, apply_now=apply_now)
        assert isinstance(receipts, list), receipts.content
        return receipts[0]

    def changes(self, after: int = 0, generation: str = "", limit: int = 200, rights_after: int | None = 0) -> Any:
        """`rights_after=None` asks as a gateway of the former version does."""
        ask = AskChanges(after=after, generation=generation, limit=limit, rights_after=rights_after)
        return self.call(paths.CHANGES, ask, Changes)

    def all_changes(self, after: int = 0) -> list[Changes]:
        """Every page up to the head."""
        pages = [self.changes(after)]
        while pages[-1].more:
            pages.append(self.changes(pages[-1].position, pages[-1].generation))
        return pages

    def take_over(self) -> messages.Directive:
        """Hear the directive and act under its epoch, as a gateway does. Its queue is as it said before."""
        answer = self.heartbeat(**{name: value for name, value in self.said.items() if name.startswith("write_queue")})
        assert isinstance(answer, messages.Directive), answer.content
        self.epoch = answer.epoch
        return answer

    def call(self, path: str, body: messages.Message, kind: type[messages.Message], **header: Any) -> Any:
        """The opened answer, or the response itself when the Primary said no."""
        answer = self.send(path, body, header=structs.replace(self.header(path), **header))
        return self.open(answer, kind) if answer.status_code == 200 else answer

    def send(self, path: str, body: messages.Message, *, header: Header, peer: bytes | EllipsisType | None = ...) -> Any:
        return self.post(path, self.wire(body, header), peer)

    def wire(self, body: messages.Message, header: Header) -> bytes:
        return self.sealed(messages.encode(body), header)

    def sealed(self, payload: bytes, header: Header) -> bytes:
        """Seal and sign any bytes, for the newest key of the Primary: what its trust document says, without composing that each
        time."""
        newest = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.RECIPIENT, not_after__gt=now()).order_by("-generation")
        kid, public_key = newest.values_list("kid", "public_key")[0]
        header = structs.replace(header, recipient=header.recipient or kid)
        return seal(header, payload, decode_encryption_key(public_key), self.keys.signing)

    def opened_session(self, path: str) -> ChannelSession:
        """A session as a gateway opens one for a message to this path."""
        document = identity.trust_document()
        recipient = open_recipients(document.recipients, identity.signing_key().public_key(), datetime.now(UTC))[0]
        header = structs.replace(self.header(path), recipient=recipient.kid)
        return open_session(header, decode_encryption_key(recipient.public_key), self.keys.signing)

    def in_session(self, session: ChannelSession, path: str, body: messages.Message, **header: Any) -> bytes:
        """A message of this gateway in a session, as bytes; any field of the header can be overridden."""
        facts = {"suite": SESSION_SUITE, "recipient": session.facts.recipient, **header}
        return session.seal_request(structs.replace(self.header(path), **facts), messages.encode(body))

    def post(self, path: str, wire: bytes, peer: bytes | EllipsisType | None = ..., **headers: Any) -> Any:
        """Put these bytes on the wire under this client certificate (DER; None for none)."""
        der = self.der() if peer is ... else peer
        socket: dict[str, Any] = {PEER_CERTIFICATE: der}
        return self.client.post(path, data=wire, content_type=CONTENT_TYPE, **socket, **headers)

    def header(self, path: str) -> Header:
        with self._numbers:
            self.sequence += 1
            sequence = self.sequence
        return Header(
            suite=SUITE, direction="up", sender=self.id, certificate=x5t_s256(self.der()) if self.certificate else "",
            recipient="", environment=self.environment, epoch=self.epoch, generation=str(self.generation),
            instance=self.instance, message_id=str(uuid.uuid4()), sequence=sequence, method="POST", path=path, request_hash="",
            issued_at=int(time.time()),
        )  # fmt: skip

    def open(self, answer: HttpResponse, kind: type[messages.Message]) -> Any:
        parcel = parse(answer.content)
        verify(parcel, _signer_of_the_primary())
        said = messages.decode(open_parcel(parcel, self.keys.encryption), kind)
        self.keep(getattr(said, "mark", None))
        return said

    def keep(self, given: messages.SignedMark | None) -> None:
        """Keep a mark that says more than the one before."""
        told, before = (read_mark(one) if one else None for one in (given, self.mark))
        if told and (before is None or told.reach > before.reach):
            self.mark = given

    def der(self) -> bytes:
        return x509.load_pem_x509_certificate(self.certificate.encode()).public_bytes(Encoding.DER)

    def certificate_ends(self) -> datetime:
        return x509.load_pem_x509_certificate(self.certificate.encode()).not_valid_after_utc

    @property
    def row(self) -> Gateway:
        return Gateway.objects.get(pk=self.id)
