"""The keys of a session: a direction has its own, a header its nonce, and both follow the written rules."""

from __future__ import annotations

import hashlib
import time
import uuid

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import structs

from protocol import paths
from protocol.channel_sessions import ChannelSession, accept_session, open_session
from protocol.envelope import SESSION_SUITE, EnvelopeRefused, Header, key_id, open_parcel, parse

SIGNS, READS = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
HEADER = Header(
    suite=SESSION_SUITE, direction="up", sender=str(uuid.uuid4()), certificate="c", recipient=key_id(READS.public_key()),
    environment="NPR", epoch=1, generation=str(uuid.uuid4()), instance=str(uuid.uuid4()), message_id=str(uuid.uuid4()),
    sequence=1, method="POST", path=paths.HEARTBEAT, request_hash="", issued_at=int(time.time()),
)  # fmt: skip


@pytest.fixture
def session() -> ChannelSession:
    return open_session(HEADER, READS.public_key(), SIGNS)


def test_both_ends_have_the_same_keys(session: ChannelSession) -> None:
    other = accept_session(session.opening, SIGNS.public_key(), READS)
    assert other.open_request(parse(session.seal_request(HEADER, b"up"))) == b"up"
    assert session.open_answer(parse(other.seal_answer(HEADER, b"down"))) == b"down"


def test_what_was_said_one_way_says_nothing_the_other_way(session: ChannelSession) -> None:
    request, answer = parse(session.seal_request(HEADER, b"x")), parse(session.seal_answer(HEADER, b"x"))
    assert request.ciphertext != answer.ciphertext
    for wrong in (lambda: session.open_answer(request), lambda: session.open_request(answer)):
        with pytest.raises(EnvelopeRefused):
            wrong()


def test_equal_words_under_two_headers_look_different(session: ChannelSession) -> None:
    one, other = (
        parse(session.seal_request(structs.replace(HEADER, sequence=number), b"the same")).ciphertext for number in (1, 2)
    )
    assert one[:8] != other[:8]


def test_the_bare_library_opens_it_by_the_written_rules(session: ChannelSession) -> None:
    """HKDF-SHA256 of the secret with the opening's hash as salt; AES-256-GCM-SIV with the header's hash as nonce."""
    secret = open_parcel(parse(session.opening.encode()), READS)
    salt = hashlib.sha256(session.opening.encode()).digest()
    for direction, wire in ((b"up", session.seal_request(HEADER, b"x")), (b"down", session.seal_answer(HEADER, b"x"))):
        key, parcel = HKDF(SHA256(), 32, salt, b"mazevault session v1 " + direction).derive(secret), parse(wire)
        nonce = hashlib.sha256(parcel.header_bytes).digest()[:12]
        assert AESGCMSIV(key).decrypt(nonce, parcel.ciphertext, parcel.header_bytes) == b"x"
