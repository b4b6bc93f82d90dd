"""Writes that repeat a request which was answered before, here or through any gateway of the environment (I8, ADR 44)."""

from __future__ import annotations

from datetime import datetime

from gateways.write_bodies import BodyUnusable, open_body
from gateways.write_held import AnyWrite
from gateways.write_scene import Scene
from protocol.vocabulary import WriteOperation
from protocol.writes import WriteCheck
from vault import answered
from vault.answered import First
from vault.encryption import SealBroken
from vault.ports import SecretChange


def of_write(row: AnyWrite, scene: Scene) -> First | None:
    """The answer that the same request got before; None for a request that is new, or that another environment answered (I13).

    Raises `Conflict` (IDEMPOTENCY_MISMATCH) for another request under the same key.
    """
    first = scene.firsts.get((row.actor, row.idempotency_key)) if row.idempotency_key else None
    if first is None or first.environment != scene.environment:
        return None
    named = None if row.operation == WriteOperation.CREATE else row.secret
    first.refuse_other(_fingerprint(row), row.operation, named)
    return first


def answer_of(row: AnyWrite, scene: Scene, secret_version: int) -> First:
    """What a write that is applied now answers the same request with from now on. Asked before its content is wiped."""
    assert row.secret is not None  # noqa: S101  it was applied to it
    return First(answered.digest_of(_fingerprint(row)), row.secret, secret_version, scene.environment, row.operation)


def of_check(environment: str, body: WriteCheck, change: SecretChange, now: datetime) -> First | None:
    """As `of_write`, for a change that a gateway has not made yet."""
    if not body.idempotency_key:
        return None
    asked = body.actor, body.idempotency_key
    answered.hold([asked])
    first = answered.firsts([asked], environment, now).get(asked)
    if first is None or first.environment != environment:
        return None
    named = None if change.operation is WriteOperation.CREATE else change.secret
    first.refuse_other(body.body.request, change.operation.value, named)
    return first


def _fingerprint(row: AnyWrite) -> str:
    """Empty where the content cannot be read, or its gateway did not say."""
    if not row.idempotency_key:
        return ""
    try:
        return open_body(row).request
    except (BodyUnusable, SealBroken):
        return ""
