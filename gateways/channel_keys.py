"""The channel's keys in this process, remembered for moments, so that a message costs no look-up and no unsealing for them.

What is remembered is good for a few seconds: a key that is replaced or destroyed is forgotten in every process within that time.
The trust document is public and costs a signature; whatever number of strangers ask for it, it is made once a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.process_locks import ProcessLock
from gateways import identity

KEY_SECONDS = 5.0
"""Longest time a key is used after it was looked up."""
TRUST_SECONDS = 1.0
MOST_REMEMBERED = 16
"""Two recipient keys overlap, one key signs; a name nobody has is not remembered."""

T = TypeVar("T")
_lock = ProcessLock("keys of the channel")
_known: dict[str, tuple[float, Any]] = {}


def signing_key() -> Ed25519PrivateKey:
    """The key that signs what the Primary says to gateways."""
    return _remembered("signing", KEY_SECONDS, identity.signing_key)


def recipient_key(kid: str) -> X25519PrivateKey | None:
    """The key that opens what was sealed to this name; None when there is none (any more)."""
    return _remembered(f"recipient:{kid}", KEY_SECONDS, lambda: identity.recipient_key(kid))


def trust_document() -> identity.TrustDocument:
    return _remembered("trust", TRUST_SECONDS, identity.trust_document)


def forget() -> None:
    """Look everything up anew."""
    with _lock:
        _known.clear()


def _remembered(name: str, seconds: float, look_up: Callable[[], T]) -> T:
    with _lock:
        until, found = _known.get(name, (0.0, None))
    if time.monotonic() < until:
        known: T = found
        return known
    fresh = look_up()
    if fresh is not None:
        with _lock:
            if len(_known) >= MOST_REMEMBERED:
                _known.clear()
            _known[name] = (time.monotonic() + seconds, fresh)
    return fresh
