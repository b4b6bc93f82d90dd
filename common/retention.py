"""Removing what was kept long enough (`common.retained`): some rows at a time, beside whoever else does the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from django.apps import apps
from django.conf import settings
from django.db import connection, transaction
from django.db.models import F

from common.locks import try_transaction_lock
from common.models import RemovedTally
from common.retained import RULES, Rule
from common.rows import ensure

log = logging.getLogger("mazevault.retention")

BATCH = 1000
"""Rows removed in one transaction."""
BATCHES = 60
"""Batches of one table in one run, once a minute: a thousand rows a second, twice what the messages of 10,000 gateways are. What
is left goes in the next one."""

_FIND = """
SELECT t.{key} FROM {table} t {joins}
 WHERE t.{age} < statement_timestamp() - %s * interval '1 day' AND ({guard})
 ORDER BY t.{age} LIMIT %s
"""
_DELETE = "DELETE FROM {table} t WHERE t.{key} = ANY(%s) AND ({guard}) RETURNING t.{key}"
_ROWS = """
SELECT c.relname, greatest(c.reltuples, 0)::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = current_schema() AND c.relname = ANY(%s)
"""


def apply(mode: str) -> int:
    """Remove what may go from every table of this kind of node. Safe to repeat and to race; returns how many rows went."""
    return sum(_clear(rule) for rule in rules_of(mode) if not rule.done_by)


def rules_of(mode: str) -> list[Rule]:
    return [rule for rule in RULES if mode in rule.on]


def days_of(rule: Rule) -> float:
    """How long rows of a table are kept here; 0 is for ever."""
    kept: Mapping[str, int] = settings.MAZEVAULT.retention
    return kept.get(rule.setting, rule.days)


def note_removed(table: str, rows: int) -> None:
    """Count what went from a table, in the transaction that removes it."""
    if rows:
        ensure(RemovedTally, table=table)
        RemovedTally.objects.filter(table=table).update(total=F("total") + rows)


def removed() -> dict[str, int]:
    return dict(RemovedTally.objects.order_by("table").values_list("table", "total"))


def table_rows(mode: str) -> Iterator[tuple[str, int]]:
    """About how many rows the growing tables have, as PostgreSQL last counted them; in one statement."""
    with connection.cursor() as cursor:
        cursor.execute(_ROWS, [sorted({rule.table for rule in rules_of(mode)})])
        yield from sorted(cursor.fetchall())


def _clear(rule: Rule) -> int:
    total, days = 0, days_of(rule)
    for _ in range(BATCHES if days and rule.guard != "false" else 0):
        gone = _remove(rule, days)
        total += gone
        if gone < BATCH:
            break
    if total:
        log.info("%s rows of %s were removed: their time was over", total, rule.table)
    return total


def _remove(rule: Rule, days: float) -> int:
    """One batch. The guard is asked again by the statement that removes: a row may have changed since it was found."""
    present = {model._meta.db_table for model in apps.get_models()}
    names = {"table": rule.table, "key": rule.key, "joins": rule.joins, "age": rule.age, "guard": rule.guard}
    with transaction.atomic():
        if not try_transaction_lock(f"retention:{rule.table}"):
            return 0
        with connection.cursor() as cursor:
            cursor.execute(_FIND.format(**names), [days, BATCH])
            found = [row[0] for row in cursor.fetchall()]
            if not found:
                return 0
            cursor.execute(_DELETE.format(**names), [found])
            gone = [row[0] for row in cursor.fetchall()]
            note_removed(rule.table, len(gone))
            for table, column in rule.children:  # references are looked at when the transaction ends
                if table in present:
                    cursor.execute(f"DELETE FROM {table} WHERE {column} = ANY(%s)", [gone])  # noqa: S608  a constant table
                    note_removed(table, cursor.rowcount)
    return len(found)
