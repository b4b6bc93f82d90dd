"""Sessions of the sealed channel: one signed key exchange an hour instead of one for each heartbeat, lease and directive.

A gateway draws a secret, seals it to the Primary and signs that: an envelope like any other, the *opening*. Each message of the
session carries the opening, so that the Primary keeps nothing: any process of any node verifies it once, remembers what came of
it, and knows it by its hash from then on. Both directions have a key of their own, made from the secret and the opening. A
message is sealed by AES-256-GCM-SIV (RFC 8452) with its exact header as additional data and the hash of that header as nonce: a
copied machine that says something else under the same header tells no more than that it differs.

Who holds the secret is the gateway that signed the opening, or a Primary that holds the recipient key. So the Primary knows who
speaks, but could not prove it to others: what must be evidence (registrations, fences, writes, audit) and what carries values
stays signed and sealed one by one. Pure.
"""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import structs

from protocol import paths
from protocol.envelope import (
    SUITE,
    WINDOW_SECONDS,
    EnvelopeRefusal,
    EnvelopeRefused,
    Header,
    Parcel,
    open_parcel,
    packed,
    parse,
    seal,
    verify,
)

IN_SESSION = frozenset({paths.LEASE_RENEW, paths.HEARTBEAT, paths.DIRECTIVE})
"""What is neither evidence nor carries a value. The Primary takes nothing else in a session."""
METHOD = "SESSION"
"""What stands for the method in an opening: it can be no request, and no request can open a session."""
SESSION_SECONDS = 3600
"""After so long a gateway opens the next session; the Primary refuses one that is older than this and a message's window."""
LONGEST_OPENING = 4096
"""Bytes; one takes about 1,200."""
SECRET_BYTES = 32
MOST_REMEMBERED = 16_384
"""Sessions a process of the Primary remembers, about 7 kB each: more than the gateways of one Primary."""
MOST_OF_ONE = 3
"""Of one gateway: its process opens the next one an hour after the last, and another process may be taking over."""
_NONCE_BYTES = 12


@dataclass(frozen=True)
class ChannelSession:
    """Both keys of a session. `facts` is the header of its opening: who opened it, as which instance, when."""

    facts: Header
    opening: str
    _up: AESGCMSIV
    _down: AESGCMSIV

    def is_good_at(self, now: int) -> bool:
        """Whether its gateway may go on with it at this unix second."""
        return 0 <= now - self.facts.issued_at < SESSION_SECONDS

    def seal_request(self, header: Header, payload: bytes) -> bytes:
        """A message of the gateway, as bytes that travel."""
        return self._sealed(self._up, header, payload, self.opening)

    def seal_answer(self, header: Header, payload: bytes) -> bytes:
        """An answer of the Primary. Its header names the request that it answers."""
        return self._sealed(self._down, header, payload, "")

    def open_request(self, parcel: Parcel) -> bytes:
        """The payload, which nobody but this gateway made. Raises `EnvelopeRefused`."""
        return _decrypted(self._up, parcel)

    def open_answer(self, parcel: Parcel) -> bytes:
        """The payload, which nobody but a Primary with the recipient key made. Raises `EnvelopeRefused`."""
        return _decrypted(self._down, parcel)

    @staticmethod
    def _sealed(key: AESGCMSIV, header: Header, payload: bytes, opening: str) -> bytes:
        header_bytes = msgspec.json.encode(header)
        return packed(header_bytes, key.encrypt(_nonce(header_bytes), payload, header_bytes), session=opening)


def open_session(header: Header, recipient: X25519PublicKey, signer: Ed25519PrivateKey) -> ChannelSession:
    """A new session of the gateway that would send a request with this header."""
    facts = structs.replace(header, suite=SUITE, method=METHOD, path="", message_id=str(uuid.uuid4()), sequence=0)
    secret = os.urandom(SECRET_BYTES)
    return _session(facts, seal(facts, secret, recipient, signer).decode(), secret)


def accept_session(opening: str, signing_key: Ed25519PublicKey, recipient_key: X25519PrivateKey) -> ChannelSession:
    """The session that a gateway with this key opened to ours. Where and when it may be used is not looked at here
    (`check_session`). Raises `EnvelopeRefused`."""
    if len(opening) > LONGEST_OPENING:
        raise EnvelopeRefused(EnvelopeRefusal.MALFORMED)
    parcel = parse(opening.encode())
    verify(parcel, signing_key)
    secret = open_parcel(parcel, recipient_key)
    if len(secret) != SECRET_BYTES:
        raise EnvelopeRefused(EnvelopeRefusal.MALFORMED)
    return _session(parcel.header, opening, secret)


def check_session(facts: Header, header: Header, now: int) -> None:
    """Check that a message with this header, which was checked by itself, may be said in that session. Raises `EnvelopeRefused`.

    A session belongs to one certificate, one history and one process of a gateway, and to one of our keys.
    """
    rules = (
        (facts.method == METHOD and facts.path == "" and facts.direction == "up", EnvelopeRefusal.WRONG_REQUEST),
        (facts.sender == header.sender, EnvelopeRefusal.WRONG_SENDER),
        (facts.certificate == header.certificate, EnvelopeRefusal.WRONG_CERTIFICATE),
        (facts.recipient == header.recipient, EnvelopeRefusal.WRONG_RECIPIENT),
        (facts.environment == header.environment, EnvelopeRefusal.WRONG_ENVIRONMENT),
        (facts.generation == header.generation, EnvelopeRefusal.WRONG_GENERATION),
        (facts.instance == header.instance, EnvelopeRefusal.WRONG_INSTANCE),
        (not _is_over(facts, now), EnvelopeRefusal.OUTSIDE_WINDOW),
    )
    for holds, reason in rules:
        if not holds:
            raise EnvelopeRefused(reason)


class KnownSessions:
    """Sessions that were accepted, by the hash of their opening. Those that are over go first, then the ones of a gateway beyond
    its newest few, then the one that was not used for longest."""

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._most, self._lock = most, threading.Lock()
        self._known: OrderedDict[bytes, ChannelSession] = OrderedDict()
        self._of_sender: dict[str, deque[bytes]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, opening: str, now: int, accept: Callable[[str], ChannelSession]) -> ChannelSession:
        """The session of this opening; `accept` makes it where it is not known yet. Raises what `accept` raises, and
        `EnvelopeRefused` for an opening that is longer than any."""
        if len(opening) > LONGEST_OPENING:
            raise EnvelopeRefused(EnvelopeRefusal.MALFORMED)
        name = hashlib.sha256(opening.encode()).digest()
        with self._lock:
            found = self._known.get(name)
            if found is not None:
                self._known.move_to_end(name)
                return found
        made = accept(opening)
        with self._lock:
            if name not in self._known:
                self._add(name, made, now)
        return made

    def _add(self, name: bytes, made: ChannelSession, now: int) -> None:
        self._known[name] = made
        own = self._of_sender.setdefault(made.facts.sender, deque())
        own.append(name)
        while len(own) > MOST_OF_ONE:
            self._drop(own[0])
        while self._known:
            oldest = next(iter(self._known))
            if len(self._known) <= self._most and not _is_over(self._known[oldest].facts, now):
                break
            self._drop(oldest)

    def _drop(self, name: bytes) -> None:
        dropped = self._known.pop(name)
        own = self._of_sender[dropped.facts.sender]
        own.remove(name)
        if not own:
            del self._of_sender[dropped.facts.sender]


def _is_over(facts: Header, now: int) -> bool:
    return abs(now - facts.issued_at) > SESSION_SECONDS + WINDOW_SECONDS


def _session(facts: Header, opening: str, secret: bytes) -> ChannelSession:
    digest = hashlib.sha256(opening.encode()).digest()
    up, down = (AESGCMSIV(_key(secret, direction, digest)) for direction in (b"up", b"down"))
    return ChannelSession(facts, opening, up, down)


def _key(secret: bytes, direction: bytes, digest: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=digest, info=b"mazevault session v1 " + direction).derive(secret)


def _nonce(header_bytes: bytes) -> bytes:
    return hashlib.sha256(header_bytes).digest()[:_NONCE_BYTES]


def _decrypted(key: AESGCMSIV, parcel: Parcel) -> bytes:
    if not parcel.is_in_session:
        raise EnvelopeRefused(EnvelopeRefusal.UNKNOWN_SUITE)
    try:
        return key.decrypt(_nonce(parcel.header_bytes), parcel.ciphertext, parcel.header_bytes)
    except InvalidTag:
        raise EnvelopeRefused(EnvelopeRefusal.NOT_DECRYPTED) from None
