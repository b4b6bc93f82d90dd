"""What a call of a gateway needs of the process it is served in. The rules are written once, as coroutines over a desk.

In the machine lane (`gateways.lane`) a desk groups the statements of many calls and waits without a thread. The desk of one
request answers everything at once on the request's own connection, so that such a coroutine never waits and can be run to its
end by whoever has no event loop: commands, and the suite's gateways, whose calls go through the very functions of the lane.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.db import connection

from common import clock
from common.grouped import Grouped, Item, Row, run_alone
from gateways import channel_keys
from gateways.models import Gateway, GatewayCertificate

T = TypeVar("T")
LOOK_SECONDS = 0.02
"""How often a desk without a loop looks whether what it waits for has come."""


class Desk(Protocol):
    """`run` commits before it returns. What `apart` is given may take long and use Django's connection, as in any request;
    `row_of_now` is for that. A `caller` may be a remembered one unless it is to be `fresh`."""

    def now(self) -> datetime: ...

    async def caller(self, fingerprint: str, *, fresh: bool = False) -> GatewayCertificate | None: ...

    def row_of_now(self, gateway: Gateway) -> Gateway: ...

    async def recipient_key(self, kid: str) -> X25519PrivateKey | None: ...

    async def signing_key(self) -> Ed25519PrivateKey: ...

    async def run(self, statement: Grouped, item: Item) -> Row | None: ...

    async def apart(self, work: Callable[[], T]) -> T: ...

    def turn(self, code: str) -> int: ...

    async def next_turn(self, code: str, after: int, seconds: float) -> bool: ...


class RequestDesk:
    """Of one request, in its thread. Two moments of a wait look the same to it, so it says that everything may have changed."""

    def now(self) -> datetime:
        return clock.now()

    async def caller(self, fingerprint: str, *, fresh: bool = False) -> GatewayCertificate | None:
        return certificate_of(fingerprint)

    def row_of_now(self, gateway: Gateway) -> Gateway:
        return gateway

    async def recipient_key(self, kid: str) -> X25519PrivateKey | None:
        return channel_keys.recipient_key(kid)

    async def signing_key(self) -> Ed25519PrivateKey:
        return channel_keys.signing_key()

    async def run(self, statement: Grouped, item: Item) -> Row | None:
        return run_alone(statement, item)

    async def apart(self, work: Callable[[], T]) -> T:
        return work()

    def turn(self, code: str) -> int:
        return 0

    async def next_turn(self, code: str, after: int, seconds: float) -> bool:
        if not connection.in_atomic_block:
            connection.close()
        time.sleep(min(seconds, LOOK_SECONDS))
        return True


def certificate_of(fingerprint: str) -> GatewayCertificate | None:
    """The certificate with this fingerprint and its gateway."""
    return GatewayCertificate.objects.select_related("gateway").filter(fingerprint=fingerprint).first()


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine over a `RequestDesk` to its end in this thread."""
    try:
        work.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    work.close()
    raise RuntimeError("what is done over the desk of a request never waits")
