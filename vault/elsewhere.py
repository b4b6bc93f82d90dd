"""Changes of secrets whose values rest in a vault: the name is claimed, the vault is called, the change is recorded (ADR 24, 30).

The other way round, a row would promise a value that the vault may refuse. No transaction is open while a vault is called: the
claim keeps other changes of the name out, and says after a crash what was begun.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from django.db import transaction
from msgspec import structs

from accounts.models import Environment, Project, Storage
from common.direct import give_connection_back
from common.errors import Conflict, MazeVaultError, NotFound
from common.failpoints import reach
from protocol.vocabulary import WriteOperation
from vault import claims, marks, rules, secrets, values
from vault.claims import Request
from vault.models import Secret, VaultClaim
from vault.ports import AnsweredBefore, Asker, Done, SecretChange, ValueKeeper

log = logging.getLogger("mazevault.vault")

PENDING = "pending"
"""Stands for the vault's version while a change is only tried."""
SWITCHED_OFF = "KEY_VAULT_OBJECT_DISABLED"
"""What is only disabled can be enabled again."""
AT_ONCE = 20
"""Claims one pass of the sweep looks into."""

Result = TypeVar("Result")
Given = TypeVar("Given", covariant=True)


@dataclass(frozen=True)
class Made(Generic[Result]):
    """A change that was recorded, as it was recorded: without a value that rests in a vault.

    `trouble` is what kept the rest of it from being made; the caller is told of it.
    """

    result: Result
    change: SecretChange
    trouble: MazeVaultError | None = None


class Desk(Protocol[Given]):
    """How a node takes the changes of one request. All but `ask` run in a transaction of the caller."""

    @property
    def request(self) -> Request: ...

    def known(self, change: SecretChange) -> Given | None:
        """What the same request was answered before."""

    def goes_on(self, change: SecretChange) -> bool:
        """Try what comes after the vault and take it back; raises what it would raise. False when there is nothing to do."""

    def ask(self, change: SecretChange) -> None:
        """Ask whoever else has a say, outside of any transaction; raises what they refuse, or `AnsweredBefore`."""

    def record(self, change: SecretChange, *, whole: bool = True) -> Given:
        """Keep the change. What is not the whole of what was asked for is not the answer to a repetition."""


DeskOf = Callable[[VaultClaim], Desk[object]]
"""The desk for a change that somebody else began and did not end. Raises what its maker may not do any more."""


class Held:
    """`vault.ports.Hold` by a claim."""

    def __init__(self, claim: VaultClaim) -> None:
        self.claim, self.operation, self.since = claim, str(claim.id), claim.begun_at

    @property
    def recovering_since(self) -> datetime | None:
        return self.claim.recovering_since

    def prolong(self, seconds: float) -> None:
        claims.prolong(self.claim, seconds)

    def recovering(self) -> None:
        claims.note_recovery(self.claim)


def change_secret(
    change: SecretChange, asker: Asker, keeper: ValueKeeper, desk: Desk[Result], desk_of: DeskOf
) -> Made[Result]:  # fmt: skip
    """Make a change where its value belongs and record it.

    Raises what `desk` and the vault refuse, and `Unavailable`: SECRET_BUSY while another change of the secret is being made,
    CLAIM_LOST when this one took too long.
    """
    there = _to_be_changed_there(change)
    if there is None:
        _refuse_to_leave_it_there(change, asker, keeper)
        return Made(_record_here(change, asker, keeper, desk, desk_of), change)
    with _denials_told(change, there, asker):
        place = keeper.place_to_write(there)
    begun = _begin(change, asker, keeper, desk, desk_of, place)
    if not isinstance(begun, VaultClaim):
        return Made(begun, change)
    with _ending(begun, keeper):
        desk.ask(_tried(change))
        with _denials_told(change, there, asker):
            done = keeper.carry_out(change, there, asker, Held(begun))
    reach("vault:called:before-record")
    return _record(begun, change, done, asker, keeper, desk)


def take_back(change: SecretChange, actor: str, keeper: ValueKeeper, desk_of: DeskOf) -> None:
    """A change that is in the vault was refused afterwards: what is recorded shall count there again, now or by the sweep."""
    secret = _secret_of(change)
    if secret is None or not change.body.external_version:
        return
    place = keeper.place_to_write(secret)
    with transaction.atomic():
        claim = claims.take(change, Request(actor), place, seconds=0.0)
    if claim is not None:
        settle(claim, keeper, desk_of)


def sweep(keeper: ValueKeeper, desk_of: DeskOf) -> int:
    """Look into the changes that were begun in a vault and never recorded. Returns how many were ended."""
    return sum(settle(claim, keeper, desk_of) for claim in claims.ended_alone(AT_ONCE))


def settle(claim: VaultClaim, keeper: ValueKeeper, desk_of: DeskOf, asker: Asker | None = None) -> bool:
    """Find out what became of a change whose maker is gone: recorded if the vault has it, else forgotten.

    False while that cannot be found out. `asker` is somebody who may look, where only people can.
    """
    if not claims.take_over(claim):
        return False
    wish = claims.wish_of(claim)
    secret = _secret_of(wish)
    if secret is None:
        claims.release(claim)
        return True
    try:
        outcome = _settled(claim, wish, secret, keeper, desk_of, asker)
    except MazeVaultError as trouble:
        return _look_later(claim, secret, wish, trouble)
    log.info("a change of a vault was begun and not ended: %s, %s", claim.id, outcome)
    return True


@contextmanager
def _ending(claim: VaultClaim, keeper: ValueKeeper) -> Iterator[None]:
    """What a refused call leaves: nothing, or a claim that is looked into once the call cannot arrive any more."""
    try:
        yield
    except AnsweredBefore:
        claims.release(claim)
        raise
    except MazeVaultError as refused:
        if refused.in_doubt:
            claims.doubt(claim, keeper.seconds)
        else:
            claims.release(claim)
        raise


@contextmanager
def _denials_told(change: SecretChange, secret: Secret, asker: Asker) -> Iterator[None]:
    """Audits what the vault denied, and raises it as the vault did."""
    try:
        yield
    except MazeVaultError as refused:
        _tell_denial(refused, secret, asker, change.operation)
        raise


def _begin(
    change: SecretChange, asker: Asker, keeper: ValueKeeper, desk: Desk[Result], desk_of: DeskOf, place: str
) -> VaultClaim | Result:  # fmt: skip
    """The claim; or the answer, where the request was answered before or there is nothing to do.

    What stands in the way and was left alone is looked into once: more looks in vain only put the next one of the sweep off.
    """
    deadline, looked_into = time.monotonic() + claims.WAIT_SECONDS, set[uuid.UUID]()
    while True:
        with transaction.atomic():
            known = _known(change, desk)
            if known is not None:
                return known
            other = claims.of_name(place, change.key) or claims.of_request(desk.request)
            if other is None:
                if _to_be_changed_there(change) is None or not desk.goes_on(_tried(change)):
                    return desk.record(change)
                claim = claims.take(change, desk.request, place)
                if claim is not None:
                    return claim
        if other is not None and not claims.seconds_left(other) and other.id not in looked_into:
            looked_into.add(other.id)
            settle(other, keeper, desk_of, asker)
            continue
        if time.monotonic() > deadline:
            raise claims.busy(other)
        give_connection_back()
        time.sleep(claims.LOOK_SECONDS)


def _record_here(
    change: SecretChange, asker: Asker, keeper: ValueKeeper, desk: Desk[Result], desk_of: DeskOf
) -> Result:  # fmt: skip
    """No vault has to hear of it. Where one hears of another change of the same secret, that one comes first: it is waited for,
    and looked into once if its maker is gone; for longer than `claims.HOLDS_UP` it holds up nobody."""
    deadline, looked_into = time.monotonic() + claims.WAIT_SECONDS, set[uuid.UUID]()
    while not change.body.external_version and (other := claims.holding_up(change.secret)) is not None:
        if not claims.seconds_left(other) and other.id not in looked_into:
            looked_into.add(other.id)
            settle(other, keeper, desk_of, asker)
            continue
        if time.monotonic() > deadline:
            raise claims.busy(other)
        give_connection_back()
        time.sleep(claims.LOOK_SECONDS)
    with transaction.atomic():
        known = _known(change, desk)
        return known if known is not None else desk.record(change)


def _known(change: SecretChange, desk: Desk[Result]) -> Result | None:
    """What the same request was answered before. Raises `NotFound` for what can be nothing but a repetition, and is none."""
    known = desk.known(change)
    if known is None and change.only_repeated:
        raise NotFound(rules.ABSENT)
    return known


def _record(
    claim: VaultClaim, change: SecretChange, done: Done, asker: Asker, keeper: ValueKeeper, desk: Desk[Result]
) -> Made[Result]:  # fmt: skip
    wish = _as_done(change, done)
    try:
        with transaction.atomic():
            claims.end(claim)
            result = desk.record(wish, whole=done.trouble is None)
    except MazeVaultError as refused:
        if refused.code != claims.LOST:
            _undo_now(claim, wish, keeper, asker)
        raise
    secret = _secret_of(change)
    if done.trouble is not None and secret is not None:
        _tell_denial(done.trouble, secret, asker, change.operation)
    return Made(result, wish, done.trouble)


def _undo_now(claim: VaultClaim, wish: SecretChange, keeper: ValueKeeper, asker: Asker) -> None:
    """What the vault has could not be recorded. Where it cannot be put back now either, the claim stays and says so."""
    secret = _secret_of(wish)
    try:
        if secret is not None:
            _put_back(claim, wish, secret, keeper, asker)
    except MazeVaultError as trouble:
        log.warning("a change of a vault that was not recorded is undone later: %s, %s", claim.id, trouble)
        claims.put_off(claim)


def _put_back(claim: VaultClaim, wish: SecretChange, secret: Secret, keeper: ValueKeeper, asker: Asker | None) -> str:
    is_anothers = wish.operation is WriteOperation.CREATE and name_is_anothers(secret)  # then it set a version of that one's name
    there = not is_anothers and keeper.put_back(wish, secret, asker, Held(claim), wish.body.external_version or "")
    outcome = "put back" if there else "changed since, so the vault is left as it is"
    with transaction.atomic():
        claims.end(claim)
        secrets.tell_ended(secret, claim.actor, wish.operation, outcome)
    return outcome


def _settled(
    claim: VaultClaim, wish: SecretChange, secret: Secret, keeper: ValueKeeper, desk_of: DeskOf, asker: Asker | None
) -> str:  # fmt: skip
    if wish.body.external_version:
        return _put_back(claim, wish, secret, keeper, asker)
    done = keeper.look_into(wish, secret, asker, str(claim.id))
    recovers = wish.operation is WriteOperation.CREATE or claim.recovering_since is not None
    if done is None and recovers and not name_is_anothers(secret):
        return _ended_unmade(claim, wish, secret, keeper, asker)
    if done is None:
        claims.release(claim)
        return "not made"
    made = _as_done(wish, done)
    try:
        with transaction.atomic():
            claims.end(claim)
            desk_of(claim).record(made, whole=done.instead is None)
            secrets.tell_ended(secret, claim.actor, made.operation, "recorded")
        return "recorded"
    except MazeVaultError as refused:
        if refused.status >= 500:
            raise
        return _put_back(claim, made, secret, keeper, asker)


def _ended_unmade(
    claim: VaultClaim, wish: SecretChange, secret: Secret, keeper: ValueKeeper, asker: Asker | None
) -> str:  # fmt: skip
    """A creation that came to nothing may have recovered an older secret of the name, whose value must not live on; nor what a
    restoration recovers that comes after its end. While Azure is about to bring it back, that cannot be said: it raises."""
    if not keeper.put_back(wish, secret, asker, Held(claim), ""):
        claims.release(claim)
        return "not made"
    with transaction.atomic():
        claims.end(claim)
        secrets.tell_ended(secret, claim.actor, wish.operation, "not made; what was recovered for it is deleted again")
    return "not made, and what was recovered for it is deleted again"


def _look_later(claim: VaultClaim, secret: Secret, wish: SecretChange, trouble: MazeVaultError) -> bool:
    if claims.too_old(claim):
        with transaction.atomic():
            claims.release(claim)
            secrets.tell_ended(secret, claim.actor, wish.operation, f"nobody could find out: {trouble.code}")
        return True
    claims.put_off(claim)
    return False


def _tell_denial(refused: MazeVaultError, secret: Secret, asker: Asker, operation: WriteOperation) -> None:
    if refused.status == 403:
        with transaction.atomic():
            secrets.tell_denial(secret, asker, refused.code, operation)


def _to_be_changed_there(change: SecretChange) -> Secret | None:
    """The secret, when a vault has to hear of the change. Raises `Conflict` (STORAGE_MOVING)."""
    project = Project.objects.filter(id=change.project).first()
    if project is None or not secrets.in_vault(project, change.operation) or change.body.external_version:
        return None
    secret = _secret_of(change)
    if secret is None:
        return None
    if change.operation not in secrets.SEALS and (_rests_here(secret) or name_is_anothers(secret)):
        return None  # the vault has nothing of it
    _refuse_while_it_moves(secret)
    return secret


def _refuse_to_leave_it_there(change: SecretChange, asker: Asker, keeper: ValueKeeper) -> None:
    """A later secret of the same name has taken over the older one's name in the vault, and with it all its versions: nobody can
    end those alone, so it is not told that they were. Raises `Conflict` (VALUE_STILL_IN_VAULT) and what the vault refuses."""
    secret = _secret_of(change) if change.operation is WriteOperation.PURGE else None
    row = values.resting(secret) if secret is not None and secret.project.storage == Storage.KEY_VAULT else None
    if secret is None or row is None or not row.external_version or not name_is_anothers(secret):
        return
    try:
        with _denials_told(change, secret, asker):
            keeper.read(secret, row.external_version, asker, newest=False)
    except MazeVaultError as refused:
        if refused.status == 404:
            return
        if refused.code != SWITCHED_OFF:
            raise
    raise Conflict(
        "a later secret of this key has the name in the vault, and the versions of this one with it: a vault ends a name as a "
        "whole. Destroy the later one for good first, or wait with this one; it stays deleted",
        code="VALUE_STILL_IN_VAULT",
    )


def _tried(change: SecretChange) -> SecretChange:
    return recorded(change, PENDING) if change.operation in secrets.SEALS else change


def _as_done(change: SecretChange, done: Done) -> SecretChange:
    if done.instead is not None:
        change = replace(change, operation=done.instead)
    return recorded(change, done.version) if change.operation in secrets.SEALS or done.version else change


def recorded(change: SecretChange, external_version: str) -> SecretChange:
    """The same change, with the place of its value instead of the value."""
    value, known = change.body.value, change.body.value_hash
    digest = known if value is None else marks.hash_of(value)
    body = structs.replace(change.body, value=None, external_version=external_version, value_hash=digest)
    return replace(change, body=body)


def _refuse_while_it_moves(secret: Secret) -> None:
    """A secret moves with all its versions in their order, so nothing may come in between."""
    if _rests_here(secret):
        raise Conflict(
            "storage: the value of this secret has not arrived in the project's vault; try again when it is there, and see "
            "GET projects/{id}/storage for what could not be moved",
            code="STORAGE_MOVING",
        )


def _rests_here(secret: Secret) -> bool:
    row = None if secret._state.adding else values.resting(secret)
    return row is not None and row.sealed_value is not None


def name_is_anothers(secret: Secret) -> bool:
    """Whether a living secret has the name in the vault now: an older tombstone of it must not touch that one."""
    place = Secret.objects.filter(project_id=secret.project_id, environment_id=secret.environment_id, deleted_at=None)
    keys = place.exclude(id=secret.id).values_list("key", flat=True)
    return rules.folded_vault_name(secret.key) in map(rules.folded_vault_name, keys)


def _secret_of(change: SecretChange) -> Secret | None:
    """The secret of a change; for a creation one that is not saved. None where its place is gone."""
    found = Secret.objects.select_related("project", "environment").filter(id=change.secret).first()
    if found is not None and change.operation is not WriteOperation.CREATE:
        return found
    project = Project.objects.filter(id=change.project).first()
    environment = Environment.objects.filter(id=change.environment).first()
    if project is None or environment is None:
        return None
    return Secret(id=change.secret, project=project, environment=environment, key=change.key)
