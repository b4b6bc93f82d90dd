"""The sealed channel on the Primary's side: who speaks, is it theirs, is it new; then call, then seal the answer (DESIGN §6).

Plain views with strict decoding, since every gateway comes here all the time. The checks run in one order and each failure
denies: certificate of the socket, row of the gateway, signature, binding to this very request, replay, decryption, schema.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import wraps

from django.http import HttpRequest, HttpResponse

from common.api import client_address, guarded
from common.clock import now as clock_now
from common.errors import (
    AuthenticationInvalid,
    AuthenticationRequired,
    Conflict,
    MalformedBody,
    MethodNotAllowed,
    PermissionRefused,
    TooLarge,
)
from common.parsing import is_longer
from gateways import channel_keys, instances, quarantine
from gateways.instances import Seat
from gateways.models import Gateway, GatewayCertificate
from gateways.peer import peer_fingerprint
from protocol.envelope import (
    CONTENT_TYPE,
    MAX_WIRE_BYTES,
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


@dataclass(frozen=True)
class Call:
    """One authenticated message of a gateway. `seat` says whether the instance that sent it is the one that counts."""

    gateway: Gateway
    certificate: GatewayCertificate
    header: Header
    address: str
    now: datetime
    seat: Seat


Handler = Callable[[Call, Message], Message]


def channel(
    kind: type[Message], *, waiting: bool = False, quarantined: bool = False
) -> Callable[[Callable], Callable[[HttpRequest], HttpResponse]]:
    """Make a view of a function `(call, body) -> message`; the body is decoded as `kind`.

    Only the current instance of a gateway is answered, and only while its identity is in one hand. `waiting`: so is an instance
    that may not act yet; the function looks at `call.seat`. `quarantined`: so is a gateway whose identity two machines use.
    """

    def decorate(handle: Callable) -> Callable[[HttpRequest], HttpResponse]:
        @wraps(handle)
        @guarded
        def view(request: HttpRequest) -> HttpResponse:
            wire = _wire(request)
            certificate = _caller(request)
            call, payload = _opened(request, wire, certificate)
            _refuse_who_may_not_act(call, waiting=waiting, quarantined=quarantined)
            answer = handle(call, _decoded(payload, kind))
            return _sealed(answer, call, wire)

        vars(view)["kind"] = kind  # what may be said there, for whoever looks at the routes
        return view

    return decorate


def open_registration(request: HttpRequest) -> tuple[Register, Header, bytes]:
    """Open a first message: its signing key is inside, since nobody knows the sender yet; the token proves the right."""
    wire = _wire(request)
    try:
        parcel = parse(wire)
        header = parcel.header
        sender = header.sender if header.sender.startswith("token:") else ""
        _bind(request, parcel, sender=sender, certificate="", environment="", generation=header.generation)
        payload = open_parcel(parcel, _recipient(parcel))
        body = _decoded(payload, Register)
        verify(parcel, decode_signing_key(body.signing_key))
    except EnvelopeRefused as refused:
        raise _refusal(refused) from refused
    except ValueError as error:
        raise MalformedBody("signing_key must be a raw Ed25519 public key in base64url") from error
    return body, header, wire


def sealed_answer(answer: Message, request_header: Header, gateway: Gateway, wire: bytes, epoch: int = 0) -> HttpResponse:
    """Seal a message to a gateway, bound to the request it answers."""
    header = answer_header(
        request_header, recipient_key=gateway.encryption_key, environment=gateway.environment_id, epoch=epoch,
        request_hash=request_hash(wire), issued_at=int(clock_now().timestamp()), message_id=str(uuid.uuid4()), suite=SUITE,
    )  # fmt: skip
    body = seal(header, encode(answer), decode_encryption_key(gateway.encryption_key), channel_keys.signing_key())
    response = HttpResponse(body, content_type=CONTENT_TYPE)
    response["Content-Length"] = str(len(body))
    response["Cache-Control"] = "no-store"
    return response


def _wire(request: HttpRequest) -> bytes:
    if request.method != "POST":
        raise MethodNotAllowed("this path takes POST only")
    length = str(request.META.get("CONTENT_LENGTH") or "0")
    if not length.isdecimal() or is_longer(length, MAX_WIRE_BYTES):
        raise TooLarge(f"a sealed message is at most {MAX_WIRE_BYTES} bytes and names its length")
    return request.body


def _caller(request: HttpRequest) -> GatewayCertificate:
    fingerprint = peer_fingerprint(request)
    if fingerprint is None:
        raise AuthenticationRequired("this path needs a gateway's client certificate", code="CERTIFICATE_REQUIRED")
    certificate = GatewayCertificate.objects.select_related("gateway").filter(fingerprint=fingerprint).first()
    if certificate is None:
        raise AuthenticationInvalid("this client certificate is not a gateway's", code="CERTIFICATE_UNKNOWN")
    _refuse_unfit(certificate, clock_now())
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


def _opened(request: HttpRequest, wire: bytes, certificate: GatewayCertificate) -> tuple[Call, bytes]:
    gateway = certificate.gateway
    try:
        parcel = parse(wire)
        verify(parcel, decode_signing_key(gateway.signing_key))
        _bind(
            request,
            parcel,
            sender=str(gateway.id),
            certificate=thumbprint_of_fingerprint(certificate.fingerprint),
            environment=gateway.environment_id,
            generation=str(gateway.generation),
        )
        address = client_address(request)
        seat = instances.hear(gateway, parcel.header, address)  # after the signature: a forgery proves nothing about anybody
        payload = open_parcel(parcel, _recipient(parcel))
    except EnvelopeRefused as refused:
        raise _refusal(refused) from refused
    return Call(gateway, certificate, parcel.header, address, clock_now(), seat), payload


def _refuse_who_may_not_act(call: Call, *, waiting: bool, quarantined: bool) -> None:
    """Whatever is refused here stays where it is: the gateway keeps it and asks again."""
    if not call.seat.current and not waiting:
        raise Conflict(f"{instances.MAY_STILL_ACT}; this one waits", code="ANOTHER_INSTANCE", retry_after=call.seat.retry)
    if quarantine.has_two_lives(call.gateway) and not quarantined:
        raise PermissionRefused(
            "this gateway is quarantined: two machines use its identity; an administrator must look", code="GATEWAY_QUARANTINED"
        )


def _bind(request: HttpRequest, parcel: Parcel, *, sender: str, certificate: str, environment: str, generation: str) -> None:
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
            method=request.method or "",
            path=request.path.rstrip("/"),
            request_hash="",
            now=int(clock_now().timestamp()),
        ),
    )


def _recipient(parcel: Parcel):  # type: ignore[no-untyped-def]
    key = channel_keys.recipient_key(parcel.header.recipient)
    if key is None:
        raise Conflict("the message is sealed to a key this Primary no longer has; fetch the trust document again",
                       code="RECIPIENT_UNKNOWN")  # fmt: skip
    return key


def _decoded(payload: bytes, kind: type[Message]):  # type: ignore[no-untyped-def]
    """Strictly, and with every text in it made plain: it is shown in logs and answers from here on."""
    try:
        return plain_message(decode(payload, kind))
    except MessageError as error:
        raise MalformedBody(f"the sealed body does not fit {kind.__name__}: {error}") from error


def _refusal(refused: EnvelopeRefused) -> PermissionRefused:
    log.warning("sealed message refused: %s", refused.reason.value)
    return PermissionRefused(str(refused), code="ENVELOPE_REFUSED")


def _sealed(answer: Message, call: Call, wire: bytes) -> HttpResponse:
    return sealed_answer(answer, call.header, call.gateway, wire, epoch=getattr(answer, "epoch", 0))
