"""What sealing and opening one heartbeat costs, beside what encoding it costs without."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import structs

from protocol import messages, paths
from protocol.channel_sessions import open_session
from protocol.envelope import SESSION_SUITE, SUITE, Header, key_id, open_parcel, parse, seal, verify
from protocol.vocabulary import Assignment

ROUNDS = 2000


def envelope() -> dict[str, object]:
    """Operations a second on one core, and the bytes the envelope adds."""
    signing, recipient = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    now = datetime.now(UTC).isoformat()
    beat = messages.Heartbeat(
        version="1.0.0", reported_role=Assignment.ACTIVE, epoch=1, started_at=now, sent_at=now, lease_seconds_left=30,
        certificate_expires_at=now,
    )  # fmt: skip
    header = Header(
        suite=SUITE, direction="up", sender=str(uuid.uuid4()), certificate="A" * 43, recipient=key_id(recipient.public_key()),
        environment="NPR", epoch=1, generation=str(uuid.uuid4()), instance=str(uuid.uuid4()),
        message_id=str(uuid.uuid4()), sequence=1, method="POST",
        path=paths.HEARTBEAT, request_hash="", issued_at=int(time.time()),
    )  # fmt: skip
    payload = messages.encode(beat)
    wire = seal(header, payload, recipient.public_key(), signing)

    def opened() -> object:
        parcel = parse(wire)
        verify(parcel, signing.public_key())
        return messages.decode(open_parcel(parcel, recipient), messages.Heartbeat)

    session = open_session(header, recipient.public_key(), signing)
    in_session = structs.replace(header, suite=SESSION_SUITE)
    said = session.seal_request(in_session, payload)

    def opened_in_session() -> object:
        return messages.decode(session.open_request(parse(said)), messages.Heartbeat)

    plain = _rate(lambda: messages.decode(messages.encode(beat), messages.Heartbeat))
    sealing, opening = _rate(lambda: seal(header, payload, recipient.public_key(), signing)), _rate(opened)
    return {
        "plain_per_second": plain,
        "seal_per_second": sealing,
        "open_per_second": opening,
        "seal_in_session_per_second": _rate(lambda: session.seal_request(in_session, payload)),
        "open_in_session_per_second": _rate(opened_in_session),
        "payload_bytes": len(payload),
        "wire_bytes": len(wire),
        "wire_bytes_in_session": len(said),
        "method": f"{ROUNDS} rounds each, one thread, no network",
    }


def _rate(work: Callable[[], object]) -> int:
    began = time.perf_counter()
    for _ in range(ROUNDS):
        work()
    return round(ROUNDS / (time.perf_counter() - began))
