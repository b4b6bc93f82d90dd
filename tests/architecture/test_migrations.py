"""A migration stops nobody for long: what locks or rewrites a table that grows is done in a way that lets others go on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.postgres.operations import AddConstraintNotValid, AddIndexConcurrently, RemoveIndexConcurrently
from django.db import models
from django.db.migrations import RunPython, RunSQL
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.migration import Migration
from django.db.migrations.operations import AddConstraint, AddField, AddIndex, AlterField, CreateModel
from django.db.migrations.state import ModelState, ProjectState

from common.migration_operations import AddFieldOnce, BuildIndex, LongerText, RunUntilDone

OURS = ("accounts", "common", "vault", "integrations", "gateways", "failover", "gateway_runtime")
GROWING = {
    "auditentry", "auditlink", "auditpending", "change", "auditcheckpoint", "session", "apitoken", "ratecount", "failedsignin",
    "secret", "secretversion", "answeredrequest", "task", "receivedwrite", "rejectedresult", "messagereceipt",
    "gatewayauditrecord", "syncrun", "syncstep", "syncmemory", "rotation", "pendingwrite", "effect", "replicarow", "replicatoken",
}  # fmt: skip
"""Models, in lower case, whose tables grow with use. While one of them is locked its whole product waits."""
FOUNDED = {"accounts": 7, "common": 6, "vault": 9, "integrations": 8, "gateways": 14, "failover": 3, "gateway_runtime": 12}
"""Migrations up to these numbers make the first release: no database that is large is older, so they may lock."""
BLOCKING_SQL = re.compile(
    r"CREATE (UNIQUE )?INDEX (?!CONCURRENTLY)|ADD CONSTRAINT(?!.*NOT VALID)|ALTER COLUMN (?!\w+ DROP DEFAULT)|SET NOT NULL"
    r"|\bUPDATE \w+( (AS )?\w+)? SET\b|\bDELETE FROM\b", re.I | re.S
)  # fmt: skip
"""To drop a default changes no row."""
REPEATABLE = (AddFieldOnce, BuildIndex, RemoveIndexConcurrently, RunUntilDone)
"""Operations that find their own work done. What waits too long for a table is tried again from the migration's beginning."""


def blocking(migration: Migration) -> Iterator[str]:
    """Operations that lock a growing table for as long as it is large. What a migration has just made is small."""
    made = {one.name_lower for one in migration.operations if isinstance(one, CreateModel)}
    for one in migration.operations:
        table = str(getattr(one, "model_name", "")).lower()
        if isinstance(one, RunSQL) and not isinstance(one, RunUntilDone):
            text = str(one.sql)
            if BLOCKING_SQL.search(text) and any(f"_{name}" in text.lower() for name in GROWING - made):
                yield f"RunSQL {text[:60]!r}"
        elif table in GROWING - made and _blocks(one):
            yield f"{type(one).__name__} on {table}"


def _blocks(one: Any) -> bool:
    if isinstance(one, AddIndexConcurrently | AddConstraintNotValid | LongerText):
        return False
    if isinstance(one, AddField):
        return one.field.unique or (one.field.db_index and not one.field.is_relation) or _is_computed(one.field)
    return isinstance(one, AddIndex | AddConstraint | AlterField)


def _is_computed(field: Any) -> bool:
    """A default that is worked out for each row rewrites the table; a constant one does not."""
    return field.has_db_default() and not isinstance(field.db_default, str | int | float | bool | models.Value)


def newer_than(counts: dict[str, int]) -> Iterator[Migration]:
    for (app, name), migration in sorted(MigrationLoader(None, ignore_no_migrations=True).disk_migrations.items()):
        if app in OURS and int(name[:4]) > counts[app]:
            yield migration


def unrepeatable(migration: Migration) -> Iterator[str]:
    """Operations whose work stays when the migration is broken off, and which fail on it when it is tried again."""
    for one in migration.operations:
        if not migration.atomic and not isinstance(one, REPEATABLE):
            yield type(one).__name__


@pytest.mark.parametrize(
    ("operation", "blocks"),
    [
        (AddIndex("task", models.Index(fields=["kind"], name="a")), True),
        (AddIndexConcurrently("task", models.Index(fields=["kind"], name="a")), False),
        (AddIndex("role", models.Index(fields=["name"], name="a")), False),
        (AddConstraint("secret", models.CheckConstraint(condition=models.Q(version__gt=0), name="a")), True),
        (AddConstraintNotValid("secret", models.CheckConstraint(condition=models.Q(version__gt=0), name="a")), False),
        (AlterField("auditentry", "actor", models.TextField()), True),
        (LongerText("auditentry", "actor", models.CharField(max_length=99)), False),
        (AddField("task", "a", models.IntegerField(default=0)), False),
        (AddField("task", "a", models.IntegerField(unique=True, null=True)), True),
        (AddField("task", "a", models.DateTimeField(db_default=models.functions.Now())), True),
        (RunSQL("CREATE INDEX a ON gateways_task (kind)"), True),
        (RunSQL("CREATE INDEX CONCURRENTLY a ON gateways_task (kind)"), False),
        (RunSQL("UPDATE gateways_task t SET kind = ''"), True),
        (RunSQL("CREATE TRIGGER a AFTER UPDATE OF kind ON gateways_task"), False),
        (RunUntilDone("UPDATE gateways_task SET kind = '' WHERE id IN (SELECT id FROM gateways_task LIMIT 9)"), False),
    ],
    ids=lambda one: one if isinstance(one, bool) else type(one).__name__,
)
def test_what_blocks_is_known(operation: Any, blocks: bool) -> None:
    made = Migration("0099_of_a_test", "gateways")
    made.operations = [operation]
    assert bool(list(blocking(made))) is blocks


def test_no_new_migration_locks_a_growing_table_for_long() -> None:
    found = [f"{one.app_label}.{one.name}: {what}" for one in newer_than(FOUNDED) for what in blocking(one)]
    assert not found, "use BuildIndex, AddConstraintNotValid or RunUntilDone in a migration with atomic = False"


@pytest.mark.parametrize(
    ("operation", "atomic", "refused"),
    [
        (AddFieldOnce("task", "a", models.IntegerField(db_default=0)), False, False),
        (AddField("task", "a", models.IntegerField(db_default=0)), False, True),
        (AddField("task", "a", models.IntegerField(db_default=0)), True, False),
        (BuildIndex("task", models.Index(fields=["kind"], name="a")), False, False),
        (AddIndexConcurrently("task", models.Index(fields=["kind"], name="a")), False, True),
        (RunSQL("CREATE INDEX CONCURRENTLY a ON gateways_task (kind)"), False, True),
        (RunPython(RunPython.noop), False, True),
    ],
    ids=lambda one: one if isinstance(one, bool) else type(one).__name__,
)
def test_what_cannot_be_done_again_is_known(operation: Any, atomic: bool, refused: bool) -> None:
    made = Migration("0099_of_a_test", "gateways")
    made.operations, made.atomic = [operation], atomic
    assert bool(list(unrepeatable(made))) is refused


def test_every_migration_can_be_broken_off_and_done_again() -> None:
    nothing_exempt = dict.fromkeys(OURS, 0)
    found = [f"{one.app_label}.{one.name}: {what}" for one in newer_than(nothing_exempt) for what in unrepeatable(one)]
    assert not found, f"with atomic = False use only {', '.join(one.__name__ for one in REPEATABLE)}"


@pytest.mark.parametrize(
    ("field", "fits"),
    [(models.CharField(max_length=9), True), (models.CharField(max_length=7), False), (models.TextField(), False),
     (models.CharField(max_length=9, null=True), False)],
)  # fmt: skip
def test_a_longer_text_is_nothing_else(field: Any, fits: bool) -> None:
    state = ProjectState()
    state.add_model(ModelState("gateways", "thing", [("name", models.CharField(max_length=8))]))
    change = LongerText("thing", "name", field)
    if fits:
        change.state_forwards("gateways", state)
    else:
        with pytest.raises(ValueError, match="only the limit"):
            change.state_forwards("gateways", state)
