"""What changed lately, in an order that readers can follow with a cursor: one entry for each thing in each scope.

A row is written with the change it tells of and has no position yet. One sequencer gives positions to committed rows only, so a
reader who has seen position n has seen everything below n, whatever transactions were under way. Each scope counts by itself: a
position tells a reader how much happened in their own scope, and nothing of another one (I13). An older entry of the same thing
goes away when a newer one gets its position, so reading from 0 visits everything once.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable

from django.db import connection, transaction
from django.db.models import Max

from common.locks import try_transaction_lock
from common.models import Change
from common.rowsets import Rowset

_CHANGES = Rowset("common_change", {"scope": "text", "kind": "text", "entity_id": "uuid"})

_PLACE = """
WITH waiting AS MATERIALIZED (
         SELECT id, scope, row_number() OVER (PARTITION BY scope ORDER BY id) AS place
           FROM (SELECT id, scope FROM common_change WHERE position IS NULL ORDER BY id LIMIT %s) AS next),
     last AS MATERIALIZED (
         SELECT one.scope, coalesce((SELECT max(position) FROM common_change WHERE scope = one.scope), 0) AS position
           FROM (SELECT DISTINCT scope FROM waiting) AS one),
     placed AS (
         UPDATE common_change SET position = last.position + waiting.place
           FROM waiting JOIN last USING (scope) WHERE common_change.id = waiting.id RETURNING 1)
SELECT (SELECT count(*) FROM placed), coalesce(json_object_agg(scope, position), '{}'::json)::text FROM last
"""
_FORGET_OLDER = """
DELETE FROM common_change AS older USING common_change AS newer
 WHERE newer.scope = %s AND newer.position > %s AND older.position < newer.position
   AND (older.scope, older.kind, older.entity_id) = (newer.scope, newer.kind, newer.entity_id)
"""


def note(scopes: Iterable[str], kind: str, entity_id: uuid.UUID) -> None:
    """Say that this thing changed, for the readers of these scopes. Raises `RuntimeError` outside of a transaction."""
    note_all((scope, kind, entity_id) for scope in sorted(set(scopes)))


def note_all(changes: Iterable[tuple[str, str, uuid.UUID]]) -> None:
    """Scope, kind and id of things that changed, noted in this order with one statement; else as `note`."""
    if not connection.in_atomic_block:
        raise RuntimeError("a change is noted in the transaction that makes it")
    _CHANGES.insert([{"scope": scope, "kind": kind, "entity_id": entity_id} for scope, kind, entity_id in changes])


def place_pending(batch: int = 2000) -> int:
    """Give all committed rows their positions, a batch in a transaction. One process at a time; returns how many were placed."""
    total = 0
    while placed := _place_batch(batch):
        total += placed
        if placed < batch:
            break
    return total


def changes_after(scope: str, position: int, limit: int) -> list[Change]:
    """The next entries of a scope in order, at most `limit` of them."""
    return list(Change.objects.filter(scope=scope, position__gt=position).order_by("position")[:limit])


def head(scope: str) -> int:
    """The newest position of a scope; 0 when nothing was ever noted."""
    return Change.objects.filter(scope=scope).aggregate(at=Max("position"))["at"] or 0


def _place_batch(batch: int) -> int:
    with transaction.atomic():
        if not Change.objects.filter(position=None).exists() or not try_transaction_lock("change-feed"):
            return 0
        with connection.cursor() as cursor:
            cursor.execute(_PLACE, [batch])
            placed, before = cursor.fetchone()
            for scope, position in json.loads(before).items():
                cursor.execute(_FORGET_OLDER, [scope, position])
    return int(placed)
