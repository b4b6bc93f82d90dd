"""Letting go of writes that were settled long ago, so that nothing they still stand for is lost (I8, I9).

A stored write is the memory that it was taken once. What replaces that memory is a number of its stream: everything up to
`floor` has arrived, and up to `forgotten` rows may be gone. A write that comes again from there is set aside for a person
(`gateways.inbox`) and never applied. The newest applied write of each secret in a stream stays, since what is older may not go
on top of it.
"""

from __future__ import annotations

from django.db import connection, transaction
from django.db.models import F

from common import retention
from common.locks import try_transaction_lock
from common.retained import PRIMARY, Rule
from gateways.models import WriteStream

READ_AT_ONCE = 5000
"""Sequence numbers looked at in one step of moving a floor."""

_ARRIVED = """
SELECT sequence FROM gateways_receivedwrite
 WHERE gateway_id = %s AND generation = %s AND in_stream AND sequence > %s ORDER BY sequence LIMIT %s
"""
_FORGET = """
WITH old AS (
    SELECT t.id FROM gateways_receivedwrite t
      LEFT JOIN gateways_writestream st ON st.gateway_id = t.gateway_id AND st.generation = t.generation
     WHERE t.settled_at < statement_timestamp() - %(days)s * interval '1 day'
       AND (t.outcome IN ('applied', 'superseded', 'duplicate', 'refused') OR t.resolution <> '')
       AND t.outcome <> 'received'
       AND (NOT t.in_stream OR t.sequence <= st.floor)
       AND (t.outcome <> 'applied' OR EXISTS (
            SELECT 1 FROM gateways_receivedwrite n WHERE n.gateway_id = t.gateway_id AND n.generation = t.generation
               AND n.secret = t.secret AND n.outcome = 'applied' AND n.sequence > t.sequence))
       AND NOT EXISTS (SELECT 1 FROM gateways_receivedwrite w WHERE w.previous = t.id AND w.outcome = 'received')
       AND NOT EXISTS (SELECT 1 FROM gateways_lossmanifest m WHERE m.gateway_id = t.gateway_id AND m.closed_at IS NULL)
     ORDER BY t.settled_at LIMIT %(limit)s
), gone AS (
    DELETE FROM gateways_receivedwrite WHERE id IN (SELECT id FROM old) AND settled_at IS NOT NULL AND outcome <> 'received'
    RETURNING gateway_id, generation, sequence, in_stream
), noted AS (
    UPDATE gateways_writestream st SET forgotten = GREATEST(st.forgotten, f.last)
      FROM (SELECT gateway_id, generation, max(sequence) AS last FROM gone WHERE in_stream GROUP BY 1, 2) f
     WHERE st.gateway_id = f.gateway_id AND st.generation = f.generation
)
SELECT count(*) FROM gone
"""
"""What was found is asked again by the statement that removes it: a refused write begins anew when it was promised after all."""


def apply() -> int:
    """Move the floors, then remove what may go. Safe to repeat and to race; returns how many writes went."""
    for stream in WriteStream.objects.filter(floor__lt=F("highest")):
        raise_floor(stream)
    rule = next(one for one in retention.rules_of(PRIMARY) if one.table == "gateways_receivedwrite")
    days, total = retention.days_of(rule), 0
    for _ in range(retention.BATCHES if days else 0):
        gone = _forget(rule, days)
        total += gone
        if gone < retention.BATCH:
            break
    return total


def raise_floor(stream: WriteStream) -> int:
    """Go on from the floor as far as no number is missing, some thousands at a time. Returns the floor."""
    floor = stream.floor
    with connection.cursor() as cursor:
        cursor.execute(_ARRIVED, [stream.gateway_id, stream.generation, floor, READ_AT_ONCE])
        for (sequence,) in cursor.fetchall():
            if sequence != floor + 1:
                break
            floor = sequence
    WriteStream.objects.filter(id=stream.id, floor__lt=floor).update(floor=floor)
    return floor


def _forget(rule: Rule, days: float) -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        if not try_transaction_lock("retention:gateways_receivedwrite"):
            return 0
        cursor.execute(_FORGET, {"days": days, "limit": retention.BATCH})
        gone: int = cursor.fetchone()[0]
        retention.note_removed(rule.table, gone)
    return gone
