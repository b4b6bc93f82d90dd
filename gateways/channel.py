"""The sealed channel on the Primary's side: who speaks, is it theirs, is it new; then call, then seal the answer (DESIGN §6).

Without any framework's request and with strict decoding, since every gateway comes here all the time. The checks run in one
order and each failure denies: certificate of the socket, row of the gateway, signature, binding to this very request, replay,
decryption, schema. What a check needs of the process it asks of the desk (`gateways.desks`).
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.errors import (
    AuthenticationInvalid,
    AuthenticationRequired,
    Conflict,
    MalformedBody,
    MethodNotAllowed,
    PermissionRefused,
    TooLarge,
)
from gateways import instances, quarantine
from gateways.desks import Desk
from gateways.instances import Seat
from gateways.models import Gateway, GatewayCertificate
from protocol.channel_sessions import IN_SESSION, ChannelSession, KnownSessions, accept_session, check_session
from protocol.envelope import (
    MAX_WIRE_BYTES,
    SESSION_SUITE,
    SUITE,
    EnvelopeRefused,
    Expectation,
    Header,
    Parcel,
    answer_header,
    check_binding,
    decode_encryption_key,
    decode_signing_key,
    open_parcel,
    parse,
    request_hash,
    seal,
    thumbprint_of_fingerprint,
    verify,
)
from protocol.messages import Message, MessageError, Register, decode, encode
from protocol.plain import plain_message

log = logging.getLogger("mazevault.gateways.channel")

LONG_BYTES = 64 * 1024
"""A sealed message or an answer beyond this is opened, decoded or sealed apart: it takes milliseconds in which nobody else is
served."""


@dataclass(frozen=True)
class Question:
    """One request as the front saw it. `path` is without trailing slash, `certificate` the DER that TLS has verified."""

    method: str
    path: str
    body: bytes
    certificate: bytes | None
    address: str


@dataclass(frozen=True)
class Call:
    """One authenticated message of a gateway. `seat` says whether the instance that sent it is the one that counts, `session`
    the session it was said in, None for one that is signed by itself."""

    gateway: Gateway
    certificate: GatewayCertificate
    header: Header
    address: str
    now: datetime
    seat: Seat
    desk: Desk
    session: ChannelSession | None = None


sessions = KnownSessions()
"""What was accepted in this process."""


@dataclass(frozen=True)
class Door:
    """One sealed call: what may be said there and what is done. Only the current instance of a gateway is answered, and only
    while its identity is in one hand.

    `waiting`: so is an instance that may not act yet; the function looks at `call.seat`. `quarantined`: so is a gateway whose
    identity two machines use. `held`: so is one that is set aside for any other reason, which finishes what it has and gets no
    value, no vault and no sign-in. A coroutine is run where it is called; any other function apart, on Django's connection.
    """

    kind: type[Message]
    handle: Callable[[Call, Any], Any]
    waiting: bool = False
    quarantined: bool = False
    held: bool = False

    def __post_init__(self) -> None:
        if iscoroutinefunction(self.handle) and not self.quarantined:
            raise TypeError("a door in the loop is open to whoever is quarantined: it looks at no row of now")

    async def pass_through(self, desk: Desk, question: Question) -> bytes:
        """The sealed answer. Raises `MazeVaultError`."""
        refuse_what_is_no_message(question)
        call, payload = await _opened(desk, question, await _caller(desk, question.certificate))
        self._refuse_who_may_not_act(call)
        answer = await self._handled(call, payload)
        epoch = getattr(answer, "epoch", 0)
        key = await desk.signing_key()
        return await _long_apart(
            desk, payload,
            lambda: sealed_answer(answer, call.header, call.gateway, question.body, key, desk.now(), epoch, call.session),
        )  # fmt: skip

    async def _handled(self, call: Call, payload: bytes) -> Message:
        if iscoroutinefunction(self.handle):
            said = await _long_apart(call.desk, payload, lambda: decoded(payload, self.kind))
            answer: Message = await self.handle(call, said)
            return answer
        return await call.desk.apart(lambda: self._handled_apart(call, payload))

    def _handled_apart(self, call: Call, payload: bytes) -> Message:
        """Such a function looks at the row of its gateway, so it gets it as it is now."""
        gateway = call.desk.row_of_now(call.gateway)
        if gateway.held_at and not (self.held or self.quarantined):
            raise PermissionRefused("this gateway is held until an operator releases it", code="GATEWAY_HELD")
        answer: Message = self.handle(replace(call, gateway=gateway), decoded(payload, self.kind))
        return answer

    def _refuse_who_may_not_act(self, call: Call) -> None:
        """Whatever is refused here stays where it is: the gateway keeps it and asks again."""
        if not call.seat.current and not self.waiting:
            raise Conflict(f"{instances.MAY_STILL_ACT}; this one waits", code="ANOTHER_INSTANCE", retry_after=call.seat.retry)
        if quarantine.has_two_lives(call.gateway) and not self.quarantined:
            raise PermissionRefused(
                "this gateway is quarantined: two machines use its identity; an administrator must look",
                code="GATEWAY_QUARANTINED",
            )


async def open_registration(desk: Desk, question: Question) -> tuple[Register, Header]:
    """Open a first message: its signing key is inside, since nobody knows the sender yet; the token proves the right."""
    refuse_what_is_no_message(question)
    try:
        parcel = parse(question.body)
        header = parcel.header
        sender = header.sender if header.sender.startswith("token:") else ""
        _bind(desk, question, parcel, sender=sender, certificate="", environment="", generation=header.generation)
        body = decoded(await _payload(desk, parcel), Register)
        verify(parcel, decode_signing_key(body.signing_key))
    except EnvelopeRefused as refused:
        raise _refusal(refused) from refused
    except ValueError as error:
        raise MalformedBody("signing_key must be a raw Ed25519 public key in base64url") from error
    return body, header


def sealed_answer(
    answer: Message, request_header: Header, gateway: Gateway, wire: bytes, key: Ed25519PrivateKey, now: datetime, epoch: int = 0,
    session: ChannelSession | None = None,
) -> bytes:  # fmt: skip
    """Seal a message to a gateway, bound to the request it answers, and in the session that was said in."""
    header = answer_header(
        request_header, recipient_key=gateway.encryption_key, environment=gateway.environment_id, epoch=epoch,
        request_hash=request_hash(wire), issued_at=int(now.timestamp()), message_id=str(uuid.uuid4()),
        suite=SESSION_SUITE if session else SUITE,
    )  # fmt: skip
    if session:
        return session.seal_answer(header, encode(answer))
    return seal(header, encode(answer), decode_encryption_key(gateway.encryption_key), key)


def refuse_what_is_no_message(question: Question) -> None:
    if question.method != "POST":
        raise MethodNotAllowed("this path takes POST only")
    if len(question.body) > MAX_WIRE_BYTES:
        raise TooLarge(f"a sealed message is at most {MAX_WIRE_BYTES} bytes and names its length")


def decoded(payload: bytes, kind: type[Message]):  # type: ignore[no-untyped-def]
    """Strictly, and with every text in it made plain: it is shown in logs and answers from here on."""
    try:
        return plain_message(decode(payload, kind))
    except MessageError as error:
        raise MalformedBody(f"the sealed body does not fit {kind.__name__}: {error}") from error


async def _caller(desk: Desk, shown: bytes | None) -> GatewayCertificate:
    if shown is None:
        raise AuthenticationRequired("this path needs a gateway's client certificate", code="CERTIFICATE_REQUIRED")
    return await _fit(desk, hashlib.sha256(shown).hexdigest())


async def _fit(desk: Desk, fingerprint: str, *, fresh: bool = False) -> GatewayCertificate:
    certificate = await desk.caller(fingerprint, fresh=fresh)
    if certificate is None:
        raise AuthenticationInvalid("this client certificate is not a gateway's", code="CERTIFICATE_UNKNOWN")
    _refuse_unfit(certificate, desk.now())
    return certificate


def _refuse_unfit(certificate: GatewayCertificate, now: datetime) -> None:
    gateway = certificate.gateway
    if gateway.banned_at:
        raise PermissionRefused("this gateway is banned", code="GATEWAY_BANNED")
    if gateway.decommissioned_at:
        raise PermissionRefused("this gateway is decommissioned", code="GATEWAY_DECOMMISSIONED")
    if certificate.revoked_at:
        raise PermissionRefused("this certificate was revoked", code="CERTIFICATE_REVOKED")
    if not certificate.not_before <= now < certificate.not_after:
        raise PermissionRefused(
            "this certificate is not valid now; create a bootstrap token for this gateway and set GATEWAY_BOOTSTRAP_TOKEN to it",
            code="CERTIFICATE_EXPIRED",
        )


async def _opened(desk: Desk, question: Question, certificate: GatewayCertificate) -> tuple[Call, bytes]:
    try:
        parcel = await _long_apart(desk, question.body, lambda: _verified(desk, question, certificate))
        session = await _session_of(desk, parcel, certificate.gateway) if parcel.is_in_session else None
        payload = await _long_apart(desk, question.body, partial(session.open_request, parcel)) if session else b""
        # After what proves who said it: a forgery proves nothing about anybody.
        row = await instances.take(desk, certificate.gateway, certificate.fingerprint, parcel.header, question.address)
        if row is None or not instances.is_as_remembered(row, certificate.gateway):
            certificate = await _fit(desk, certificate.fingerprint, fresh=True)
            _bind_to(desk, question, parcel, certificate)
        if row is None:
            raise AuthenticationInvalid("this client certificate is not a gateway's", code="CERTIFICATE_UNKNOWN")
        seat = await instances.seat_of(desk, certificate.gateway, parcel.header, question.address, row)
        if session is None:
            payload = await _payload(desk, parcel)
    except EnvelopeRefused as refused:
        raise _refusal(refused) from refused
    return Call(certificate.gateway, certificate, parcel.header, question.address, desk.now(), seat, desk, session), payload


def _verified(desk: Desk, question: Question, certificate: GatewayCertificate) -> Parcel:
    """The message, its signature checked; what is said in a session, where it may be, is proven by opening it (`_session_of`)."""
    parcel = parse(question.body)
    if not (parcel.is_in_session and question.path in IN_SESSION):
        verify(parcel, decode_signing_key(certificate.gateway.signing_key))
    _bind_to(desk, question, parcel, certificate)
    return parcel


async def _session_of(desk: Desk, parcel: Parcel, gateway: Gateway) -> ChannelSession:
    """The session of a message that was bound to this gateway. Its recipient key is asked for each time: one that is destroyed
    ends its sessions."""
    key = await _recipient_key(desk, parcel.header.recipient)
    signing_key, now = decode_signing_key(gateway.signing_key), int(desk.now().timestamp())
    session = sessions.of(parcel.session, now, lambda opening: accept_session(opening, signing_key, key))
    check_session(session.facts, parcel.header, now)
    return session


def _bind_to(desk: Desk, question: Question, parcel: Parcel, certificate: GatewayCertificate) -> None:
    gateway = certificate.gateway
    _bind(
        desk,
        question,
        parcel,
        sender=str(gateway.id),
        certificate=thumbprint_of_fingerprint(certificate.fingerprint),
        environment=gateway.environment_id,
        generation=str(gateway.generation),
    )


def _bind(
    desk: Desk, question: Question, parcel: Parcel, *, sender: str, certificate: str, environment: str, generation: str
) -> None:
    """Every field the header claims must be what the server sees itself (a moved or redirected message is refused)."""
    check_binding(
        parcel.header,
        Expectation(
            direction="up",
            sender=sender,
            certificate=certificate,
            recipient=parcel.header.recipient,  # an unknown recipient fails at the lookup of its key
            environment=environment,
            generation=generation,
            instance=parcel.header.instance,  # which one it is decides `gateways.instances`
            method=question.method,
            path=question.path,
            request_hash="",
            now=int(desk.now().timestamp()),
        ),
    )


async def _recipient_key(desk: Desk, kid: str) -> X25519PrivateKey:
    key = await desk.recipient_key(kid)
    if key is None:
        raise Conflict("the message is sealed to a key this Primary no longer has; fetch the trust document again",
                       code="RECIPIENT_UNKNOWN")  # fmt: skip
    return key


async def _payload(desk: Desk, parcel: Parcel) -> bytes:
    key = await _recipient_key(desk, parcel.header.recipient)
    return await _long_apart(desk, parcel.ciphertext, lambda: open_parcel(parcel, key))


async def _long_apart(desk: Desk, measure: bytes, work: Callable[[], Any]) -> Any:
    return await desk.apart(work) if len(measure) > LONG_BYTES else work()


def _refusal(refused: EnvelopeRefused) -> PermissionRefused:
    log.warning("sealed message refused: %s", refused.reason.value)
    return PermissionRefused(str(refused), code="ENVELOPE_REFUSED")
