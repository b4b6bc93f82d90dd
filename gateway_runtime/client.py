"""The gateway's side of the sealed channel: one call out, one answer in, every answer checked against its request."""

from __future__ import annotations

import json
import logging
import math
import ssl
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import structs

from common import outside
from common.process_locks import ProcessLock, Rank
from common.waiting import seconds_named
from gateway_runtime.breaker import Breaker
from gateway_runtime.identity import Identity, Keys, key_password
from gateway_runtime.state import Sequences
from protocol import paths
from protocol.certificates import verify_chain, x5t_s256
from protocol.channel_sessions import IN_SESSION, ChannelSession, open_session
from protocol.envelope import (
    CONTENT_TYPE,
    MAX_WIRE_BYTES,
    SESSION_SUITE,
    SUITE,
    EnvelopeRefusal,
    EnvelopeRefused,
    Expectation,
    Header,
    Parcel,
    RecipientKey,
    check_binding,
    decode_encryption_key,
    encode_public_key,
    key_id,
    open_parcel,
    open_recipients,
    parse,
    request_hash,
    seal,
    verify,
)
from protocol.messages import Message, MessageError, decode, encode
from protocol.tls_faults import TlsFault, fault_of
from protocol.trust import RootSetRefused, chosen, open_root_set, pins_of

log = logging.getLogger("mazevault.gateway.client")

CONNECT_SECONDS = 5.0
URGENT_CONNECT_SECONDS = 3.0
"""A renewal that must connect anew, fails, and tries again still leaves two thirds of what the lease had."""
KEEPALIVE_SECONDS = 120.0
"""Longer than a heartbeat interval: what is urgent finds its connection warm. The Primary keeps it a little longer."""
URGENT = frozenset({paths.LEASE_RENEW, paths.LEASE_RELEASE, paths.HEARTBEAT, paths.FENCE_ACKNOWLEDGE, paths.DRAIN_REPORT})
UNSESSIONED_SECONDS = 3600.0
"""For so long each message is signed by itself after one in a session was refused: the Primary may be of an earlier version."""
SESSION_DOUBT_SECONDS = 60.0
"""For so long a refusal in a session is taken for what it is, after one that had nothing to do with the session."""
LATENCIES_KEPT = 100
HIGHEST_SKIP = 2**61
"""A refusal is not signed. Whoever makes a gateway use up its message numbers silences it; beyond this all its life has room."""
TRUST_PAUSE = 60.0
"""Seconds between two looks at the trust document because of an unknown signature, so that forged answers cause no flood."""

Answer = TypeVar("Answer", bound=Message)


class PrimaryUnreachable(Exception):
    """No answer came: connection, TLS or time. Trying again later helps."""


class CallsPaused(PrimaryUnreachable):
    """The circuit breaker is open: nothing was sent."""


class NotTheOneProcess(CallsPaused):
    """Another process of this gateway may be acting: nothing was sent, since two that speak look like a stolen identity."""


class PrimaryRefused(Exception):
    """The Primary answered no. `code` is its machine code, `status` the HTTP status, `details` what else it says.

    `retry_after` is the pause in seconds it names, None where it names none."""

    def __init__(self, status: int, code: str, sentence: str, details: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{status} {code}: {sentence}")
        self.status, self.code, self.sentence, self.details = status, code, sentence, details
        self.retry_after = retry_after


class SessionRefused(PrimaryRefused):
    """A message in this session was not accepted. Said again, signed by itself, it shows whether the session was why."""

    def __init__(self, refused: PrimaryRefused, session: ChannelSession) -> None:
        super().__init__(refused.status, refused.code, refused.sentence, refused.details, refused.retry_after)
        self.session = session


class AnswerNotTrusted(PrimaryUnreachable):
    """Something answered that is not our Primary, or not to this request. Treated as no answer."""


class SignerUnknown(AnswerNotTrusted):
    """The answer is signed by none of the keys known: a forgery, or the Primary signs with a new key by now."""


@dataclass(frozen=True)
class Known:
    """The roots a gateway trusts before it asks: their pins, and the revision of the set that named them."""

    pins: tuple[str, ...]
    revision: int = 0


@dataclass(frozen=True)
class Trust:
    """What follows from the pins: the roots, the keys the Primary signs with (now first, then next), its recipient keys.

    `revision` is that of the set of roots; None where nobody named one, or an older one, and `roots` are only those known before.
    """

    roots: str
    revision: int | None
    signing_keys: tuple[Ed25519PublicKey, ...]
    recipients: tuple[RecipientKey, ...]

    def signed_by(self, key: Ed25519PublicKey) -> Trust:
        """The same trust, of a Primary that signs with this key now."""
        return replace(self, signing_keys=(key, *(other for other in self.signing_keys if other is not key)))


def fetch_trust(url: str, known: Known, now: datetime) -> Trust:
    """Fetch the trust document and believe it only as far as a pin we know carries (DESIGN §6).

    The first connection cannot be verified yet, so nothing secret is sent on it: it only brings public certificates, and
    everything is checked against the pins before use. Raises `PrimaryUnreachable` for whatever else comes.
    """
    outside.begins("the Primary")
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.minimum_version = ssl.TLSVersion.TLSv1_3
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    try:
        with httpx.Client(verify=unverified, timeout=CONNECT_SECONDS, trust_env=False) as http:
            answer = http.get(f"{url}{paths.TRUST}")
            answer.raise_for_status()
            document = answer.json()
        return checked_trust(document, known, now)
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError, EnvelopeRefused) as error:
        told = _told_unreachable(url, error) if fault_of(error) else ""
        raise PrimaryUnreachable(told or f"{url} gave no trust document: {type(error).__name__} {error}".strip()) from error


def checked_trust(document: dict[str, str], known: Known, now: datetime) -> Trust:
    """What of a trust document is believed. Raises `AnswerNotTrusted` or `ValueError` where that is nothing."""
    anchors = chosen(document.get("roots") or document["root"], known.pins)
    if not anchors:
        raise AnswerNotTrusted(
            "the certificate authority of this server is none that this gateway trusts: check PRIMARY_BACKEND_URL, and whether "
            "something in between opens the connection. If the Primary has changed its root meanwhile, create a bootstrap token "
            "for this gateway there and set GATEWAY_BOOTSTRAP_TOKEN"
        )
    key = _signing_key(document["channel_certificate"], document, anchors, now)
    roots, revision = _roots(document, key, anchors, known)
    signing_keys = (key, *_next_keys(document, anchors, now))
    return Trust(roots, revision, signing_keys, open_recipients(document["recipients"], key, now))


def _roots(document: dict[str, str], key: Ed25519PublicKey, anchors: str, known: Known) -> tuple[str, int | None]:
    """All roots the Primary names under one we know. An older statement than the one we know brings no root back."""
    if "root_set" not in document:  # a Primary of an earlier version, or somebody who wants the next root forgotten
        return anchors, None
    named = open_root_set(document["root_set"], key)
    if named.revision < known.revision:
        return anchors, None
    roots = chosen(document["roots"], named.pins)
    if len(pins_of(roots)) != len(named.pins):
        raise RootSetRefused("a root that the Primary names is not shown")
    return roots, named.revision


def _next_keys(document: dict[str, str], anchors: str, now: datetime) -> list[Ed25519PublicKey]:
    """The announced key, if there is one that the root vouches for already: a clock that is behind sees it a little later."""
    announced = document.get("next_channel_certificate", "")
    with suppress(ValueError):
        return [_signing_key(announced, document, anchors, now)] if announced else []
    return []


def _signing_key(certificate: str, document: dict[str, str], anchors: str, now: datetime) -> Ed25519PublicKey:
    verify_chain(certificate, document["intermediates"], anchors, now, "channel")
    key = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise AnswerNotTrusted("the Primary's channel certificate does not hold a signing key")
    return key


@dataclass(frozen=True)
class Clients:
    """What is urgent has connections of its own, so that a renewal of the lease finds one that is open and that nobody uses."""

    urgent: httpx.Client
    others: httpx.Client

    def of(self, path: str) -> httpx.Client:
        return self.urgent if path in URGENT else self.others

    def close(self) -> None:
        self.urgent.close()
        self.others.close()


class Channel:
    """Sealed calls to the Primary. Safe to share between threads.

    `instance` names this process in each call. `put_back` is called when the Primary says that numbers of this gateway's messages
    were used before, which means that its database was put back or that another machine uses its identity. `may_speak` is asked
    before each call whether this process is the one that acts for the gateway.
    """

    def __init__(self, *, urls: tuple[str, ...], known: Known, keys: Keys, generation: uuid.UUID, sequences: Sequences,
                 sender: str, environment: str, identity: Identity | None, tls_file: Path | None, instance: uuid.UUID,
                 master_key: bytes, breaker: Breaker | None = None,
                 put_back: Callable[[], None] = lambda: None,
                 may_speak: Callable[[], bool] = lambda: True) -> None:  # fmt: skip
        self._breaker = breaker or Breaker()
        self._urls, self._known, self._keys = urls, known, keys
        self._generation, self._sequences = generation, sequences
        self._sender, self._environment = sender, environment
        self._instance, self._put_back, self._may_speak = str(instance), put_back, may_speak
        self._thumbprint, self._ends = _thumbprint(identity), _end_of(identity)
        self._tls_file, self._password = tls_file, key_password(master_key)
        self._lock = ProcessLock("channel")
        self._server_name: str | None = None
        """What is asked for in the TLS handshake instead of the host of the address."""
        self._fetching = ProcessLock("trust document", Rank.TRUST)
        self._failed_at = -math.inf
        self._trust: Trust | None = None
        self._doubted_at = -math.inf
        self._http: Clients | None = None
        self._http_roots = ""
        self._session: ChannelSession | None = None
        self._no_session_until = -math.inf
        self._not_the_session_until = -math.inf
        self.epoch = 0
        self.latencies: deque[float] = deque(maxlen=LATENCIES_KEPT)

    def call(self, path: str, message: Message, answer_kind: type[Answer], *, timeout: float) -> Answer:
        """Send one message and return the checked answer.

        Raises `PrimaryUnreachable` when there is no trustworthy answer and `PrimaryRefused` when the answer is no.
        """
        try:
            return self._call_watched(path, message, answer_kind, timeout)
        except SessionRefused as refused:
            if time.monotonic() < self._not_the_session_until:
                raise
            return self._said_by_itself(refused, path, message, answer_kind, timeout)
        except PrimaryRefused as refused:
            if refused.code == "NUMBER_USED":
                self._skip(refused)
            elif refused.code == "RECIPIENT_UNKNOWN":
                self.forget_trust()
            else:
                raise
        except SignerUnknown:
            if not self._may_doubt(time.monotonic()):
                raise
            self.forget_trust()
        return self._call_watched(path, message, answer_kind, timeout)

    def _said_by_itself(
        self, refused: SessionRefused, path: str, message: Message, answer_kind: type[Answer], timeout: float
    ) -> Answer:  # fmt: skip
        """Whether the session was why. What is refused signed by itself too (a clock that is wrong) does not cost two calls each
        time: it is looked at again once in a while."""
        try:
            answer = self._call_watched(path, message, answer_kind, timeout, signed=True)
        except PrimaryRefused as again:
            if again.code == refused.code:
                self._not_the_session_until = time.monotonic() + SESSION_DOUBT_SECONDS
            raise
        self._go_without_sessions(refused.session, time.monotonic())
        return answer

    def _go_without_sessions(self, refused: ChannelSession, now: float) -> None:
        """What was refused in a session was taken when it was signed by itself: the Primary takes no sessions."""
        with self._lock:
            if self._session is not refused:
                return
            self._session, self._no_session_until = None, now + UNSESSIONED_SECONDS
        log.warning("the Primary takes no messages in a session; each one is signed by itself for a while")

    def _session_for(self, header: Header, recipient: RecipientKey) -> ChannelSession | None:
        """The session to say a message with this header in; None where it is to be signed by itself."""
        if header.path not in IN_SESSION:
            return None
        with self._lock:
            if time.monotonic() < self._no_session_until:
                return None
            session = self._session
            if session is None or session.facts.recipient != recipient.kid or not session.is_good_at(header.issued_at):
                session = open_session(header, decode_encryption_key(recipient.public_key), self._keys.signing)
                self._session = session
            return session

    def forget_trust(self) -> None:
        """Fetch the Primary's keys anew before the next call."""
        with self._lock:
            self._trust = None

    def trusted(self) -> tuple[str, int | None]:
        """The roots (PEM) the Primary stands under and the revision of that set, as `Trust` has them; empty before a call."""
        trust = self._trust
        return (trust.roots, trust.revision) if trust else ("", None)

    def primary_keys(self) -> tuple[Ed25519PublicKey, ...]:
        """The Primary's signing keys as the pin vouches for them: that of now first, then the announced one, with which it may
        have begun to sign meanwhile. Raises `PrimaryUnreachable` before the first answer."""
        if self._trust is None:
            raise PrimaryUnreachable("the Primary has not shown its keys yet")
        return self._trust.signing_keys

    def close(self) -> None:
        with self._lock:
            if self._http is not None:
                self._http.close()

    def latency_p95_ms(self) -> float | None:
        """95th percentile of the last answers in milliseconds; None before the first."""
        measured = sorted(self.latencies)
        return round(measured[int(len(measured) * 0.95)] * 1000, 1) if measured else None

    def _skip(self, refused: PrimaryRefused) -> None:
        """Go on beyond the numbers the Primary has seen. Raises the refusal when it names no number."""
        named = refused.details
        if not (named.isdecimal() and len(named) < 20 and int(named) <= HIGHEST_SKIP):
            raise refused
        self._sequences.skip_to(int(named))
        log.error(
            "message numbers of this gateway were used before: its database was put back to an earlier state, or another machine "
            "uses its identity; going on from number %s", refused.details,
        )  # fmt: skip
        self._put_back()

    def _may_doubt(self, now: float) -> bool:
        """Whether an unknown signature is a reason to look at the trust document again; once in a while it is."""
        with self._lock:
            if now - self._doubted_at < TRUST_PAUSE:
                return False
            self._doubted_at = now
            return True

    def _call_watched(
        self, path: str, message: Message, answer_kind: type[Answer], timeout: float, *, signed: bool = False
    ) -> Answer:
        """One call through the circuit breaker; any answer, also a no, proves that the Primary is there."""
        if not self._may_speak():
            raise NotTheOneProcess("another process of this gateway may be running on its database")
        if not self._breaker.allows(time.monotonic()):
            raise CallsPaused("calls to the Primary are paused by the circuit breaker")
        try:
            answer = self._call_once(path, message, answer_kind, timeout, signed=signed)
        except PrimaryUnreachable as error:
            self._breaker.failed(time.monotonic())
            raise self._reason(error, datetime.now(UTC)) from error
        except PrimaryRefused:
            self._breaker.succeeded(time.monotonic())
            raise
        self._breaker.succeeded(time.monotonic())
        return answer

    def _reason(self, error: PrimaryUnreachable, now: datetime) -> Exception:
        """A handshake with a certificate that has ended is broken off without a sentence, so it is said here."""
        if self._ends is None or now < self._ends or isinstance(error, CallsPaused):
            return error
        return PrimaryRefused(
            403, "CERTIFICATE_EXPIRED",
            f"this gateway's certificate ended at {self._ends.isoformat()} and cannot be renewed any more; create a bootstrap "
            "token for this gateway on the Primary, set GATEWAY_BOOTSTRAP_TOKEN to it and start the gateway again",
            str(error),
        )  # fmt: skip

    def _call_once(self, path: str, message: Message, answer_kind: type[Answer], timeout: float, *, signed: bool) -> Answer:
        outside.begins("the Primary")
        trust, http, url = self._connected(path)
        recipient = trust.recipients[0]
        header = self._header(path, recipient.kid)
        session = None if signed else self._session_for(header, recipient)
        if session:
            header = structs.replace(header, suite=SESSION_SUITE)
            wire = session.seal_request(header, encode(message))
        else:
            wire = seal(header, encode(message), decode_encryption_key(recipient.public_key), self._keys.signing)
        began, connect = time.monotonic(), URGENT_CONNECT_SECONDS if path in URGENT else CONNECT_SECONDS
        try:
            answer = self._posted(http, f"{url}{path}", wire, httpx.Timeout(timeout, connect=min(timeout, connect)))
        except httpx.HTTPError as error:
            self._next_url()
            raise PrimaryUnreachable(_told_unreachable(url, error)) from error
        if answer.status_code != 200 or answer.headers.get("content-type") != CONTENT_TYPE:
            raise _in_session(_refusal_of(answer), session)
        payload = self._opened(answer.content, header, wire, trust, session)
        if path != paths.DIRECTIVE:
            self.latencies.append(time.monotonic() - began)
        try:
            return decode(payload, answer_kind)
        except MessageError as error:
            raise AnswerNotTrusted(f"the answer does not fit {answer_kind.__name__}: {error}") from error

    def _posted(self, http: httpx.Client, url: str, wire: bytes, timeout: httpx.Timeout) -> httpx.Response:
        """A Primary may show people a certificate of its operator's; then ours is asked for by name, from there on at first."""
        for name in (self._server_name, None if self._server_name else paths.MACHINE_NAME):
            more: dict[str, Any] = {"extensions": {"sni_hostname": name}} if name else {}
            try:
                answer = http.post(url, content=wire, headers={"Content-Type": CONTENT_TYPE}, timeout=timeout, **more)
            except httpx.ConnectError as error:
                if name != self._server_name or not _is_of_a_certificate(error):
                    raise
                refused = error
            else:
                self._server_name = name
                return answer
        raise refused

    def _header(self, path: str, recipient: str) -> Header:
        return Header(
            suite=SUITE,
            direction="up",
            sender=self._sender,
            certificate=self._thumbprint,
            recipient=recipient,
            environment=self._environment,
            epoch=self.epoch,
            generation=str(self._generation),
            instance=self._instance,
            message_id=str(uuid.uuid4()),
            sequence=self._sequences.take(),
            method="POST",
            path=path,
            request_hash="",
            issued_at=int(time.time()),
        )

    def _opened(self, wire: bytes, request: Header, request_wire: bytes, trust: Trust, session: ChannelSession | None) -> bytes:
        if len(wire) > MAX_WIRE_BYTES:
            raise AnswerNotTrusted("the answer is longer than any sealed message")
        try:
            parcel = parse(wire)
            signer = None if session else _signer_of(parcel, trust)
            check_binding(
                parcel.header,
                Expectation(
                    direction="down",
                    sender="primary",
                    certificate="",
                    recipient=key_id(self._keys.encryption.public_key()),
                    environment=parcel.header.environment if not self._environment else self._environment,
                    generation=request.generation,
                    instance=request.instance,
                    method=request.method,
                    path=request.path,
                    request_hash=request_hash(request_wire),
                    now=int(time.time()),
                ),
            )
            payload = session.open_answer(parcel) if session else open_parcel(parcel, self._keys.encryption)
        except EnvelopeRefused as error:
            kind = SignerUnknown if error.reason is EnvelopeRefusal.BAD_SIGNATURE else AnswerNotTrusted
            raise kind(f"the answer of the Primary is not trusted ({error.reason.value})") from error
        if signer is not None and signer is not trust.signing_keys[0]:
            self._note_signer(trust, signer)
        return payload

    def _note_signer(self, trust: Trust, signer: Ed25519PublicKey) -> None:
        """The Primary has begun to sign with its next key."""
        with self._lock:
            if self._trust is trust:
                self._trust = trust.signed_by(signer)

    def _connected(self, path: str) -> tuple[Trust, httpx.Client, str]:
        trust = self._known_trust() or self._awaited_trust()
        with self._lock:
            assert self._http is not None  # noqa: S101  set before the trust
            return trust, self._http.of(path), self._urls[0]

    def _known_trust(self) -> Trust | None:
        trust = self._trust
        return trust if trust is not None and trust.recipients[0].not_after > datetime.now(UTC) else None

    def _awaited_trust(self) -> Trust:
        """Fetched by one thread while the others wait for it, once: where it fails they do not try one after the other."""
        asked_at = time.monotonic()
        if not self._fetching.acquire(timeout=CONNECT_SECONDS):
            raise PrimaryUnreachable("the Primary's keys are being fetched, and that takes long")
        try:
            known = self._known_trust()
            if known is not None:
                return known
            if self._failed_at >= asked_at:
                raise PrimaryUnreachable("the Primary gave no trust document a moment ago")
            return self._fetched_trust()
        finally:
            self._fetching.release()

    def _fetched_trust(self) -> Trust:
        try:
            fetched = fetch_trust(self._urls[0], self._known, datetime.now(UTC))
        except PrimaryUnreachable:
            self._failed_at = time.monotonic()
            self._next_url()
            raise
        kept = self._http if self._http_roots == fetched.roots else None  # calls under way end on the clients before
        http = kept or self._clients(fetched.roots)
        with self._lock:
            self._http, self._http_roots, self._trust = http, fetched.roots, fetched
            if fetched.revision is not None:
                self._known = Known(pins_of(fetched.roots), fetched.revision)
        return fetched

    def _clients(self, roots: str) -> Clients:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=roots)
        if self._tls_file:
            context.load_cert_chain(self._tls_file, password=self._password)
        limits = httpx.Limits(keepalive_expiry=KEEPALIVE_SECONDS)
        urgent, others = (httpx.Client(verify=context, trust_env=False, limits=limits) for _ in range(2))
        return Clients(urgent, others)

    def _next_url(self) -> None:
        with self._lock:
            self._urls = (*self._urls[1:], self._urls[0])


_OF_A_CERTIFICATE = frozenset({
    TlsFault.FOREIGN_ROOT, TlsFault.OTHER_NAME, TlsFault.EXPIRED, TlsFault.NOT_YET, TlsFault.BAD_CERTIFICATE,
})  # fmt: skip
_TOLD = {
    TlsFault.FOREIGN_ROOT: (
        "shows a certificate that does not lead to the root this gateway knows: something else ends TLS there, or it is another "
        "Primary. Gateways need an address of the Primary itself (PRIMARY_BACKEND_URL, MAZEVAULT_ADVERTISED_URLS); whoever runs "
        "the Primary mends it"
    ),
    TlsFault.OTHER_NAME: (
        "shows a certificate of another name: add the host of this address to MAZEVAULT_ADVERTISED_URLS on the Primary, whose "
        "certificate then carries it, or give PRIMARY_BACKEND_URL a host that it carries already"
    ),
    TlsFault.EXPIRED: (
        "shows a certificate that has ended. Compare the clock of this machine with the Primary's first; if it is right, the "
        "Primary did not renew its certificate: see the log of its workers (MAZEVAULT_TLS_CERT_PATH names one of its operator's)"
    ),
    TlsFault.NOT_YET: (
        "shows a certificate that does not count yet: the clock of this machine is behind the Primary's, or that one is ahead; "
        "set both by NTP"
    ),
    TlsFault.BAD_CERTIFICATE: "shows a certificate that cannot be taken; whoever runs the Primary looks at its listener: {error}",
    TlsFault.OUR_CERTIFICATE: (
        "refuses the certificate of this gateway: it has ended or was revoked, or what listens there knows another root. Look at "
        "GET gateways/{{id}} on the Primary; a bootstrap token for this gateway (GATEWAY_BOOTSTRAP_TOKEN) gives it a new one"
    ),
    TlsFault.NO_TLS: (
        "speaks no TLS on this port: something stands in front of the Primary, or the port is one for plain HTTP. Gateways need "
        "the Primary's own port for them (8443 unless it was moved)"
    ),
    TlsFault.PROTOCOL: (
        "agrees on no TLS with this gateway, which speaks TLS 1.3 only: something in between ends or inspects TLS, or breaks "
        "handshakes off. Let this connection through untouched: {error}"
    ),
}
"""What a handshake ended with, and what to do."""


def _is_of_a_certificate(error: Exception) -> bool:
    """Whether another certificate, which may be there under our own name, could be the right one."""
    return fault_of(error) in _OF_A_CERTIFICATE


def _told_unreachable(url: str, error: Exception) -> str:
    fault = fault_of(error)
    if fault is not None:
        return f"{url} {_TOLD[fault].format(error=error)}"
    return f"{url}: {type(error).__name__} {error}".strip()


def own_keys_of(keys: Keys) -> tuple[str, str]:
    """(signing key, encryption key) as they travel in a registration."""
    return encode_public_key(keys.signing.public_key()), encode_public_key(keys.encryption.public_key())


def _signer_of(parcel: Parcel, trust: Trust) -> Ed25519PublicKey:
    """Which of the Primary's keys signed this. Raises `EnvelopeRefused` when none did."""
    *others, last = trust.signing_keys
    for key in others:
        with suppress(EnvelopeRefused):
            verify(parcel, key)
            return key
    verify(parcel, last)
    return last


def _thumbprint(identity: Identity | None) -> str:
    if identity is None:
        return ""
    return x5t_s256(x509.load_pem_x509_certificate(identity.certificate.encode()).public_bytes(Encoding.DER))


def _end_of(identity: Identity | None) -> datetime | None:
    """When the certificate we call with ends."""
    if identity is None or not identity.certificate:
        return None
    return x509.load_pem_x509_certificate(identity.certificate.encode()).not_valid_after_utc


def _in_session(refusal: Exception, session: ChannelSession | None) -> Exception:
    """A refusal of the envelope as one of the session it was sent in."""
    if session is not None and isinstance(refusal, PrimaryRefused) and refusal.code == "ENVELOPE_REFUSED":
        return SessionRefused(refusal, session)
    return refusal


def _refusal_of(answer: httpx.Response) -> Exception:
    try:
        body = answer.json()
        return PrimaryRefused(
            answer.status_code, str(body["code"]), str(body["error"])[:500], str(body.get("details") or "")[:500],
            seconds_named(answer.headers, datetime.now(UTC)),
        )  # fmt: skip
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
        if answer.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            return PrimaryRefused(answer.status_code, "TOO_LARGE", "the message is too long for what stands before the Primary")
        return PrimaryUnreachable(f"answered {answer.status_code} without a reason; is this a MazeVault Primary?")
