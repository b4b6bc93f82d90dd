"""The project's side of a sync run: its secrets as facts, and the steps that write to it or take a value from it.

Everything is looked at again in the transaction that acts; a step whose secret is not in the planned state is not done.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from dataclasses import dataclass, replace
from datetime import datetime

from django.db.models import F, Q, QuerySet

from accounts.access import Principal
from common.api import rfc3339
from common.rows import hold
from common.sealing import SealBroken
from integrations.models import StepState, SyncRun, SyncStep
from integrations.sync.plan import Action
from integrations.sync.words import ActionKind
from protocol.sync import LARGEST_VALUE_THERE, PAGE, OurSecret, RunPhase
from protocol.vocabulary import WriteOperation
from protocol.writes import WriteBody
from vault import values
from vault.models import Secret, SecretStatus, SecretVersion
from vault.ports import Origin, SecretChange
from vault.secrets import apply_change, reveal

OWNER = "sync_rule:"
"""How the author of a version begins when a rule wrote it."""
TAKES_VALUE = frozenset({ActionKind.CREATE_THERE, ActionKind.UPDATE_THERE, ActionKind.RECOVER_THERE})
"""Steps that carry the project's value to the vault."""
GONE = (SecretStatus.DELETED, SecretStatus.PURGED)


class Outdated(Exception):
    """The secret is not in the state the step was planned for."""


class ValueTooLarge(Exception):
    """The vault holds no value of this size."""


@dataclass(frozen=True)
class Hand:
    """In whose name a step is done here: the rule writes, with the rights of whoever asked for the run. `operation` names the
    step; the version it makes carries it."""

    run: SyncRun
    caller: Principal
    node: str
    epoch: int
    now: datetime
    operation: uuid.UUID | None = None

    @property
    def author(self) -> str:
        return f"{OWNER}{self.run.rule_id}"


def facts(run: SyncRun, key: bytes, after: str) -> list[OurSecret]:
    """A page of the project's secrets in the run's environment, by key: the living one, else the newest tombstone."""
    rows = list(_secrets(run).filter(key__gt=after)[:PAGE])
    held = values.newest_of(rows)
    return [_fact(row, held.get(row.id), key) for row in rows]


def value_for(action: Action, hand: Hand) -> str:
    """The value a step takes to the vault; the audit says that it left. Raises `Outdated` or `ValueTooLarge`."""
    secret = _planned(action, hand.run, lock=False)
    if secret is None:
        raise Outdated
    value = reveal(secret, None, actor=hand.author, address="")
    if len(value.encode()) > LARGEST_VALUE_THERE:
        raise ValueTooLarge
    return value


def refuse_outdated(action: Action, run: SyncRun) -> None:
    """Raises `Outdated` when the project's side of a step is not as it was planned."""
    _planned(action, run, lock=False)


def carry_out(action: Action, value: str | None, hand: Hand) -> int:
    """Do a step that writes to the project; returns the secret's version afterwards. Raises `Outdated`, or the errors of
    `vault.secrets.apply_change`."""
    secret = _planned(action, hand.run, lock=True)
    if hand.run.phase == RunPhase.UNDO:
        _refuse_not_made_by_the_run(action, secret, hand)
    operation = WriteOperation
    if action.kind is ActionKind.DELETE_HERE and secret is not None:
        return _apply(hand, operation.DELETE, secret, WriteBody())
    if secret is None or (secret.status == SecretStatus.PURGED and action.kind is ActionKind.RESTORE_HERE):
        return _create(hand, action.key, value)
    if secret.status in GONE:
        _apply(replace(hand, operation=None), operation.RESTORE, secret, WriteBody())
    if action.kind is ActionKind.ROLLBACK_HERE:
        return _apply(hand, operation.ROLLBACK, secret, WriteBody(rollback_to=int(action.to_version)))
    return _apply(hand, operation.UPDATE, secret, WriteBody(value=value))


def _refuse_not_made_by_the_run(action: Action, secret: Secret | None, hand: Hand) -> None:
    """An undo takes back the very version that a step of the former run made. Versions from before they carried a step's
    operation are known by their author. Raises `Outdated`."""
    former = hand.run.undoes.steps.filter(state=StepState.DONE, name=action.name) if hand.run.undoes else SyncStep.objects.none()
    made = SecretVersion.objects.filter(secret=secret, version=action.our_version or 0, author=hand.author)
    if not made.filter(Q(write=None) | Q(write__in=former.values("operation"))).exists():
        raise Outdated


def digest(key: bytes, value: str) -> str:
    """The keyed digest of a value, the same here and at the gateway."""
    return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()


def _planned(action: Action, run: SyncRun, *, lock: bool) -> Secret | None:
    rows = Secret.objects.filter(project_id=run.rule.project_id, environment_id=run.environment_id, key=action.key)
    if lock:
        hold(Secret, list(rows.values_list("pk", flat=True)), no_key=True)
    found = _newest(rows.select_related("project__organization", "environment")).first()
    seen = (None, False) if found is None else (found.version, found.status in GONE)
    if seen != (action.our_version, action.our_deleted):
        raise Outdated
    return found


def _secrets(run: SyncRun) -> QuerySet[Secret]:
    rows = Secret.objects.filter(project_id=run.rule.project_id, environment_id=run.environment_id)
    return _newest(rows.select_related("environment")).distinct("key")


def _newest(rows: QuerySet[Secret]) -> QuerySet[Secret]:
    return rows.order_by("key", F("deleted_at").desc(nulls_first=True))


def _fact(secret: Secret, newest: SecretVersion | None, key: bytes) -> OurSecret:
    """`newest` has the secret's value; one that rests in a vault is not ours to bring anywhere."""
    gone, held = secret.status in GONE, newest if newest is not None and newest.sealed_value is not None else None
    try:
        seen = "" if gone or held is None else digest(key, values.open_value(secret, held))
    except SealBroken:  # it is in the log by name; like one that rests elsewhere it is brought nowhere, and the others are
        seen, held = "", None
    author = held.author if held else ""
    return OurSecret(
        key=secret.key,
        version=secret.version,
        digest=seen,
        changed_at=rfc3339(held.created_at if held else secret.updated_at) or "",
        deleted=gone,
        active=secret.status != SecretStatus.ARCHIVED and (gone or held is not None),
        owner=author.removeprefix(OWNER) if author.startswith(OWNER) else None,
    )


def _create(hand: Hand, key: str, value: str | None) -> int:
    run = hand.run
    change = SecretChange(
        WriteOperation.CREATE, uuid.uuid4(), run.rule.project_id, run.environment_id, key, 0, WriteBody(value=value)
    )
    return apply_change(change, _origin(hand), hand.caller, hand.now).version


def _apply(hand: Hand, operation: WriteOperation, secret: Secret, body: WriteBody) -> int:
    change = SecretChange(operation, secret.id, secret.project_id, secret.environment_id, secret.key, secret.version, body)
    return apply_change(change, _origin(hand), hand.caller, hand.now, held=secret).version


def _origin(hand: Hand) -> Origin:
    return Origin(hand.author, node=hand.node, write=hand.operation, epoch=hand.epoch)
