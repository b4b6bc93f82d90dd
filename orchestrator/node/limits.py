"""How much a stranger may hold of a front, and for how long. A caller with a client certificate of ours is never counted here.

Times are seconds, sizes bytes. A stranger is whoever has shown no client certificate; people and their tools are strangers too,
so the numbers are far above what an office behind one address needs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from orchestrator.node.shares import Share

HANDSHAKE_SECONDS = 5.0
"""A TLS handshake takes two round trips; who needs longer is none or is not there."""
HEAD_SECONDS = 10.0
"""The head of a request must be there within this time of its first byte, however slowly it drips in."""
BODY_SECONDS = 30.0
"""The same for a whole body; the largest one then needs 70 kB/s."""
SEND_SECONDS = 20.0
"""A peer that takes less of an answer than the next pieces (`sending.AT_ONCE`) in so long loses its connection. However long an
answer is, it arrives at whoever takes some 4 kB/s."""
IDLE_SECONDS = 65.0
"""A connection on which nothing is asked is closed after so long."""
KNOWN_IDLE_SECONDS = 150.0
"""The same for a caller with a client certificate: longer than a heartbeat interval and than a gateway keeps its own end."""
LINGER_SECONDS = 1.0
"""After a refusal the rest of what a client sends is read and thrown away this long, so that it can read the refusal."""

LARGEST_HEAD = 32 * 1024
LONGEST_TARGET = 4094
MOST_FIELDS = 60
LARGEST_BODY = 1024 * 1024
"""What the API takes; a sealed message may be longer (`protocol.envelope.MAX_WIRE_BYTES`)."""
MOST_PIPELINED = 16
"""Requests a client may send ahead on one connection before it has read an answer."""

UNFINISHED = 2000
"""Connections of strangers, in all, that have not sent one complete request yet (or not the next one that they began). When there
are so many, the oldest of the address that has the most of them is ended in favour of one that has fewer."""
UNFINISHED_PER_ADDRESS = 500
"""The same for one address. One such connection costs a file descriptor and, once it spoke, about 60 kB."""
REQUESTS_PER_ADDRESS = 64
"""Requests of one stranger's address that are worked on, wait for a worker, or whose answer is not taken yet."""
CONNECTIONS = 4000
"""Connections of strangers in all, idle ones included; one of the address that has the most makes room, an idle one first."""
PER_CERTIFICATE = 64
"""Connections with one client certificate; a gateway needs about a dozen. Keeps one stolen certificate from taking all
descriptors."""
BODY_BYTES = 64 * 1024 * 1024
"""Bodies of strangers, in all, that are being received or worked on. Beyond them the address that holds the most makes room."""
BODY_BYTES_PER_ADDRESS = 24 * 1024 * 1024


@dataclass(frozen=True)
class Caps:
    """The limits an operator may set; 0 means no limit (for a node behind a proxy, where everybody has the proxy's address)."""

    unfinished: int = UNFINISHED
    unfinished_per_address: int = UNFINISHED_PER_ADDRESS
    requests_per_address: int = REQUESTS_PER_ADDRESS
    connections: int = CONNECTIONS


class Holdings:
    """What strangers hold now. Each `take` that answers True is followed by one `give` with the same arguments.

    Where all of something is taken, an address that holds less gets its part from the one that holds the most (`shares`).
    """

    def __init__(self, caps: Caps | None = None) -> None:
        self.caps = caps = caps or Caps()
        self.unfinished = Share(caps.unfinished, caps.unfinished_per_address)
        self.bodies = Share(BODY_BYTES, BODY_BYTES_PER_ADDRESS if caps.requests_per_address else 0)
        self.connections = Share(caps.connections)
        self._requests: Counter[str] = Counter()
        self._certificates: Counter[bytes] = Counter()

    def take_request(self, network: str) -> bool:
        if self.caps.requests_per_address and self._requests[network] >= self.caps.requests_per_address:
            return False
        self._requests[network] += 1
        return True

    def give_request(self, network: str) -> None:
        _less(self._requests, network)

    def take_certificate(self, certificate: bytes) -> bool:
        if self._certificates[certificate] >= PER_CERTIFICATE:
            return False
        self._certificates[certificate] += 1
        return True

    def give_certificate(self, certificate: bytes) -> None:
        _less(self._certificates, certificate)


def _less(counts: Counter[Any], key: object) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]
