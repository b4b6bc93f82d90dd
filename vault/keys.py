"""Changing keys while everything runs: keys are wrapped anew under another master key, values sealed anew under another key.

Nothing is kept about how far a rotation came: rows say themselves which key they need. So it can be stopped or killed anywhere
and is finished by beginning it again. Readers find every value at any moment, under the old key or the new one.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import transaction
from django.db.models import BinaryField, F, Func, QuerySet, Value

from common import audit
from common.failpoints import reach
from common.locks import transaction_lock
from common.sealing import SealedColumn, columns
from vault import encryption
from vault.encryption import SealBroken
from vault.models import KeyEncryptionKey

BATCH = 200
"""Values sealed anew in one transaction."""


@dataclass(frozen=True)
class ScopeKeys:
    """The keys of one scope. `values` counts what each retired key still holds, by its id."""

    scope: str
    current: uuid.UUID
    since: datetime
    master_key: str
    retired: dict[uuid.UUID, int]


@dataclass(frozen=True)
class Step:
    """What one step of a rotation did. `broken` values do not open under the key they name; they keep it alive."""

    done: int
    broken: int = 0


def status() -> list[ScopeKeys]:
    """All scopes with their keys, by name."""
    rows = KeyEncryptionKey.objects.filter(retired_at=None).order_by("scope")
    return [
        ScopeKeys(row.scope, row.id, row.created_at, row.master_key_id, {old: _held_by(old) for old in _retired(row.scope)})
        for row in rows
    ]


def wrapped_elsewhere() -> int:
    """How many keys are not wrapped by the current master key yet."""
    return _foreign().count()


def rewrap_next(actor: str) -> Step:
    """Wrap one key under the current master key. `done` is 0 when all are.

    Raises `MasterKeyMismatch` when this process knows neither the master key that wraps it nor the one before.
    """
    with transaction.atomic():
        row = _foreign().select_for_update(no_key=True).order_by("id").first()
        if row is None:
            return Step(0)
        key = encryption.unwrap(row)
        before, row.master_key_id = row.master_key_id, encryption.master_key_id(settings.MAZEVAULT.master_key)
        row.wrapped = encryption.wrap(row.scope, row.id, key)
        if encryption.unwrap(row) != key:
            raise SealBroken(f"the key of {row.scope} did not survive its new wrapping; nothing was changed")
        row.save(update_fields=["wrapped", "master_key_id"])
        _audit(actor, "encryption.key.rewrapped", row, {"from": before, "to": row.master_key_id})
        reach("keys.rewrap")
    return Step(1)


def begin(scope: str, actor: str, now: datetime) -> bool:
    """Give the scope a new current key, unless an earlier rotation is not finished. Returns whether a key was made.

    Waits until everybody who seals under the old key has committed; from then on nobody does.
    """
    with transaction.atomic():
        transaction_lock(encryption.lock_of(scope))
        current = KeyEncryptionKey.objects.filter(scope=scope, retired_at=None).first()
        if current is None:
            raise LookupError(f"{scope} has no key yet")
        if _retired(scope):
            return False
        current.retired_at = now
        current.save(update_fields=["retired_at"])
        made = encryption.create_key(scope)
        _audit(actor, "encryption.key.rotated", made, {"from": str(current.id), "to": str(made.id)})
    return True


def reseal(scope: str, batch: int = BATCH) -> Iterator[Step]:
    """Seal everything anew that rests under retired keys of the scope, one batch and one transaction at each step."""
    old = _retired(scope)
    for column in columns() if old else ():
        last: Any = None
        while True:
            step, last = _reseal_batch(column, old, last, batch)
            if last is None:
                break
            yield step


def destroy_unused(scope: str, actor: str) -> int:
    """Forget retired keys that hold nothing any more; what was sealed under them in old backups stays shut for ever."""
    destroyed = 0
    for identifier in _retired(scope):
        with transaction.atomic():
            transaction_lock(encryption.lock_of(scope))
            row = KeyEncryptionKey.objects.select_for_update().filter(id=identifier).first()
            if row is None or _held_by(identifier):
                continue
            _audit(actor, "encryption.key.destroyed", row, {"key": str(row.id)})
            row.delete()
            reach("keys.destroy")
        destroyed += 1
    return destroyed


def held_by_retired(scope: str) -> int:
    """How many values still need a retired key of the scope."""
    return sum(_held_by(identifier) for identifier in _retired(scope))


def _reseal_batch(column: SealedColumn, old: Sequence[uuid.UUID], after: Any, batch: int) -> tuple[Step, Any]:
    """One transaction; the second result is the last row looked at, None at the end. Rows somebody holds are left for later."""
    done = broken = 0
    with transaction.atomic():
        rows = _resting(column, old).order_by("pk")
        rows = rows if after is None else rows.filter(pk__gt=after)
        held = list(rows.select_for_update(skip_locked=True, no_key=True).values_list("pk", flat=True)[:batch])
        found = list(_resting(column, old).filter(pk__in=held).order_by("pk").select_related(*column.related))
        for row in found:
            try:
                _reseal_row(column, row)
                done += 1
            except SealBroken:
                broken += 1
        reach("keys.reseal")
    return Step(done, broken), found[-1].pk if found else None


def _reseal_row(column: SealedColumn, row: Any) -> None:
    place = column.place(row)
    plaintext = encryption.open_sealed(*place, bytes(getattr(row, column.column)))
    changed = {column.column: encryption.seal(*place, plaintext), **column.keyed(row, plaintext)}
    type(row)._default_manager.filter(pk=row.pk).update(**changed)


def _held_by(identifier: uuid.UUID) -> int:
    return sum(_resting(column, [identifier]).count() for column in columns())


def _resting(column: SealedColumn, keys: Sequence[uuid.UUID]) -> QuerySet[Any]:
    """Rows whose value names one of these keys: 16 bytes behind the format byte."""
    named = Func(F(column.column), Value(2), Value(16), function="substring", output_field=BinaryField())
    rows = apps.get_model(column.model)._default_manager.annotate(key_named=named)
    return rows.filter(key_named__in=[key.bytes for key in keys])


def _retired(scope: str) -> list[uuid.UUID]:
    rows = KeyEncryptionKey.objects.filter(scope=scope, retired_at__isnull=False)
    return list(rows.order_by("retired_at", "id").values_list("id", flat=True))


def _foreign() -> QuerySet[KeyEncryptionKey]:
    return KeyEncryptionKey.objects.exclude(master_key_id=encryption.master_key_id(settings.MAZEVAULT.master_key))


def _audit(actor: str, action: str, row: KeyEncryptionKey, details: dict[str, Any]) -> None:
    audit.record(
        actor=actor, action=action, entity="encryption_key", entity_id=str(row.id), severity=audit.Severity.WARNING,
        details={"scope": row.scope, **details},
    )  # fmt: skip
