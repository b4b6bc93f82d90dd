"""Who may touch a name in a vault: one change at a time, held by a row instead of a transaction (ADR 30).

A claim is committed before the vault hears of anything and ends in the transaction that records the change. Its holder prolongs
it before each effect and loses it when it does not; all times are the database's, so nobody's clock decides.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec
from django.db import IntegrityError, connection, transaction
from django.db.models import Q
from django.db.models.functions import Now
from msgspec import structs

from accounts.models import Environment
from common.clock import database_now
from common.errors import Unavailable
from common.sealing import Place, SealBroken
from protocol.decoding import decode_json
from protocol.messages import decode
from protocol.vocabulary import WriteOperation
from protocol.writes import WriteBody, body_text
from vault import encryption, marks, rules
from vault.models import VaultClaim
from vault.ports import SecretChange

LIFE_SECONDS = 30.0
"""For the looks, the question to the Primary and a token, before the first effect; each effect prolongs it."""
MARGIN_SECONDS = 5.0
"""How much longer a claim lives than the call it is prolonged for: what was begun in time has ended when it ends."""
WAIT_SECONDS = 3.0
"""So long a second writer of the same name waits for the first one, without a database connection."""
LOOK_SECONDS = 0.1
KEPT = timedelta(days=7)
"""A claim of which nobody could find out what became of it is dropped then, with an audit entry."""
HOLDS_UP = timedelta(minutes=15)
"""A change that no vault hears of waits so long for another one of which nobody knows what became of it, counted from that one's
beginning. Then it is recorded; the other one is judged on the secret as it is by then and put back where it does not fit."""
LOST = "CLAIM_LOST"
PAUSES = (5.0, 15.0, 60.0, 300.0, 900.0)
"""Seconds until what became of a claim is looked for again, after so many looks in vain."""

_PROLONG = """
UPDATE vault_vaultclaim SET until = greatest(until, clock_timestamp() + %s * interval '1 second')
 WHERE id = %s AND turn = %s AND until > clock_timestamp() RETURNING id
"""
_TAKE_OVER = """
UPDATE vault_vaultclaim SET turn = turn + 1, until = clock_timestamp() + %s * interval '1 second'
 WHERE id = %s AND turn = %s AND until <= clock_timestamp() RETURNING turn
"""


@dataclass(frozen=True)
class Request:
    """Who asked for a change and how a repetition is recognised; kept with the claim, so that it can be ended for them."""

    actor: str
    address: str = ""
    idempotency_key: str = ""
    digest: str = ""
    fingerprint: str = field(default="", repr=False)
    """`SecretChange.fingerprint`; it rests sealed only."""


class Marks(msgspec.Struct, frozen=True, omit_defaults=True):
    """What tells of a value to who can guess it: the hash of the value, the fingerprint of the request."""

    value_hash: str = ""
    request: str = ""

    def __repr__(self) -> str:
        return "Marks(hidden)"


def take(change: SecretChange, request: Request, place: str, *, seconds: float = LIFE_SECONDS) -> VaultClaim | None:
    """Claim the name for this change; None while another change has it. Must run inside `atomic`.

    With `seconds=0` it is a note that something is to be looked into. A change with a version of the vault is one to be undone.
    """
    told = structs.replace(change.body, value=None, value_hash="", request="")
    chosen = marks.hash_of(change.body.value) if change.body.value is not None else change.body.value_hash
    claim = VaultClaim(
        place=place, name=rules.folded_vault_name(change.key), secret=change.secret, project=change.project,
        environment=change.environment, key=change.key, operation=change.operation.value, base_version=change.base_version,
        body=body_text(told), actor=request.actor, address=request.address,
        idempotency_key=request.idempotency_key, digest=request.digest, until=database_now() + timedelta(seconds=seconds),
    )  # fmt: skip
    if chosen or request.fingerprint:
        claim.sealed_marks = encryption.seal(*place_of(claim), msgspec.json.encode(Marks(chosen, request.fingerprint)))
    try:
        with transaction.atomic():
            claim.save(force_insert=True)
    except IntegrityError:
        return None
    return claim


def place_of(claim: VaultClaim) -> Place:
    """What its marks are sealed for."""
    scopes = Environment.objects.filter(id=claim.environment).values_list("gateway_environment", flat=True)
    return scopes.first() or "platform", claim._meta.db_table, str(claim.id), 1


def marks_of(claim: VaultClaim) -> Marks:
    """Empty ones where nothing is known of them any more: a key that was destroyed takes them with it."""
    if claim.sealed_marks is None:
        return Marks()
    try:
        return decode_json(encryption.open_sealed(*place_of(claim), bytes(claim.sealed_marks)), Marks)
    except (SealBroken, encryption.MasterKeyMismatch):
        return Marks()


def request_of(claim: VaultClaim) -> Request:
    """Who asked for it, for whoever ends it."""
    return Request(claim.actor, claim.address, claim.idempotency_key, claim.digest, marks_of(claim).request)


def prolong(claim: VaultClaim, seconds: float) -> None:
    """Before a call that ends within these seconds. Raises `Unavailable` (CLAIM_LOST) when the claim is not ours any more."""
    with connection.cursor() as cursor:
        cursor.execute(_PROLONG, [seconds + MARGIN_SECONDS, claim.id, claim.turn])
        if cursor.fetchone() is None:
            raise lost()


def note_recovery(claim: VaultClaim) -> None:
    """Before a recovery is asked for. Raises `Unavailable` (CLAIM_LOST) when the claim is not ours any more."""
    moment = claim.recovering_since or database_now()
    if not VaultClaim.objects.filter(id=claim.id, turn=claim.turn).update(recovering_since=moment):
        raise lost()
    claim.recovering_since = moment


def end(claim: VaultClaim) -> None:
    """Give the name free, in the transaction that records the change. Raises `Unavailable` when somebody else ended it."""
    ended, _ = VaultClaim.objects.filter(id=claim.id, turn=claim.turn).delete()
    if not ended:
        raise lost()


def release(claim: VaultClaim) -> None:
    """Give the name free: nothing of the change is in the vault. One that somebody else has by now stays theirs."""
    VaultClaim.objects.filter(id=claim.id, turn=claim.turn).delete()


def doubt(claim: VaultClaim, seconds: float) -> None:
    """Nobody saw how the call ended: the claim stays until it cannot arrive any more, and is then looked into."""
    moment = database_now() + timedelta(seconds=seconds + MARGIN_SECONDS)
    VaultClaim.objects.filter(id=claim.id, turn=claim.turn).update(until=moment)


def take_over(claim: VaultClaim) -> bool:
    """Become the holder of a claim that has ended without a word. False when somebody was first, or it lives."""
    with connection.cursor() as cursor:
        cursor.execute(_TAKE_OVER, [LIFE_SECONDS, claim.id, claim.turn])
        row = cursor.fetchone()
    if row is None:
        return False
    claim.turn = row[0]
    return True


def put_off(claim: VaultClaim) -> None:
    """What became of it could not be found out now. The next writer of the name, or the sweep, looks again."""
    moment, pause = database_now(), PAUSES[min(claim.looks, len(PAUSES) - 1)]
    mine = VaultClaim.objects.filter(id=claim.id, turn=claim.turn)
    mine.update(looks=claim.looks + 1, until=moment, look_at=moment + timedelta(seconds=pause))


def too_old(claim: VaultClaim) -> bool:
    return claim.begun_at is not None and database_now() - claim.begun_at > KEPT


def of_name(place: str, key: str) -> VaultClaim | None:
    return VaultClaim.objects.filter(place=place, name=rules.folded_vault_name(key)).first()


def of_request(request: Request) -> VaultClaim | None:
    """The claim of a twin: the same request under the same idempotency key."""
    key = request.idempotency_key
    return VaultClaim.objects.filter(actor=request.actor, idempotency_key=key).first() if key else None


def holding_up(secret: uuid.UUID) -> VaultClaim | None:
    """What a change of this secret that no vault hears of has to wait for: one under way, or one not settled for `HOLDS_UP`."""
    waits = Q(until__gt=Now()) | Q(begun_at__gt=Now() - HOLDS_UP)
    return VaultClaim.objects.filter(waits, secret=secret).order_by("begun_at").first()


def ended_alone(limit: int) -> list[VaultClaim]:
    """Claims whose holder never came back, the oldest first."""
    moment = database_now()
    return list(VaultClaim.objects.filter(until__lte=moment, look_at__lte=moment).order_by("until")[:limit])


def wish_of(claim: VaultClaim) -> SecretChange:
    """The change as it was asked for, without its value but with what that is known again by."""
    body = structs.replace(decode(claim.body.encode(), WriteBody), value_hash=marks_of(claim).value_hash)
    return SecretChange(
        WriteOperation(claim.operation), claim.secret, claim.project, claim.environment, claim.key, claim.base_version,
        body,
    )  # fmt: skip


def lost() -> Unavailable:
    return Unavailable(
        "the change took too long and was given up; read the secret to see what it is now, then try again",
        code=LOST, retry_after=5,
    )  # fmt: skip


def busy(claim: VaultClaim | None = None) -> Unavailable:
    """SECRET_BUSY, with what is waited for, since when, and what is known of it."""
    seconds = seconds_left(claim) if claim is not None else 2.0
    return Unavailable(_waited_for(claim), code="SECRET_BUSY", retry_after=max(1, round(seconds)))


def _waited_for(claim: VaultClaim | None) -> str:
    if claim is None:
        return "another change of this secret is being made in its vault; try again"
    other = f"another change of this secret ({claim.operation}, begun {claim.begun_at:%Y-%m-%d %H:%M:%S} UTC)"
    if not claim.looks:
        return f"{other} is being made in its vault; try again"
    minutes, days = round(HOLDS_UP / timedelta(minutes=1)), KEPT.days
    return (
        f"nobody knows yet what became of {other}: its vault was asked {claim.looks} times in vain. Test the integration. "
        f"A change of what does not rest in the vault waits {minutes} minutes for it, one of the value {days} days at most"
    )


def seconds_left(claim: VaultClaim) -> float:
    left: Any = (claim.until - database_now()).total_seconds()
    return max(0.0, float(left))
