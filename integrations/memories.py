"""The memory of a sync rule as rows: which secrets both sides had, under a key of digests that rests sealed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable

from common.sealing import Place, sealer
from integrations.models import SyncItem, SyncMemory, SyncRule
from integrations.sync.facts import Base, Direction, Remembered

KEY_BYTES = 32


def memory_of(rule: SyncRule, scope: str) -> SyncMemory:
    """The rule's memory, made when it is first needed, in the gateway environment whose vault it speaks of."""
    found = SyncMemory.objects.filter(rule=rule).first()
    if found is not None and found.scope == scope:
        return found
    SyncMemory.objects.filter(rule=rule).delete()
    fresh = SyncMemory(rule=rule, scope=scope)
    fresh.sealed_digest_key = sealer().seal(*place(fresh), os.urandom(KEY_BYTES))
    fresh.save(force_insert=True)
    return fresh


def digest_key(memory: SyncMemory) -> bytes:
    return sealer().open_sealed(*place(memory), bytes(memory.sealed_digest_key))


def place(memory: SyncMemory) -> Place:
    """What the key of the digests is sealed for."""
    return memory.scope, "integrations_syncmemory", str(memory.rule_id), 1


def begin_anew(memory: SyncMemory, of: Base) -> None:
    """Forget everything when the rule speaks of another vault or other names now; a changed direction is a first run again."""
    known = Base(memory.target, memory.transform, memory.environment, Direction(memory.direction or Direction.PULL))
    if (known.target, known.transform, known.environment) != (of.target, of.transform, of.environment):
        memory.items.all().delete()
        memory.settled = False
    if known.direction is not of.direction:
        memory.settled = False
    memory.target, memory.transform, memory.environment = of.target, of.transform, of.environment
    memory.direction = of.direction.value
    memory.save(update_fields=["target", "transform", "environment", "direction", "settled"])


def remember(memory: SyncMemory, items: Iterable[Remembered]) -> None:
    """Put these in place of what was known of their names."""
    rows = [
        SyncItem(
            memory=memory, folded_name=item.name.lower(), name=item.name, key=item.key, digest=item.digest,
            our_version=item.our_version, their_version=item.their_version, stamp=item.stamp,
        )
        for item in items
    ]  # fmt: skip
    SyncItem.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["memory", "folded_name"],
        update_fields=["name", "key", "digest", "our_version", "their_version", "stamp"],
    )  # fmt: skip


def forget(memory: SyncMemory, names: Iterable[str]) -> None:
    memory.items.filter(folded_name__in=[name.lower() for name in names]).delete()


def known(memory: SyncMemory, name: str) -> Remembered | None:
    """What is remembered of a name."""
    row = memory.items.filter(folded_name=name.lower()).first()
    return Remembered(row.key, row.name, row.digest, row.our_version, row.their_version, row.stamp) if row else None


def known_count(rule: uuid.UUID) -> int:
    return SyncItem.objects.filter(memory=rule).count()
