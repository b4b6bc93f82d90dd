"""The audit trail: an entry commits with its change or not at all (I17), and any change to the past is found (I18).

Proven here on real PostgreSQL: the database refuses UPDATE, DELETE and TRUNCATE; somebody who gets around that, with the triggers
switched off, is found by `verify_chain` at the first row touched, whether he edits, deletes, inserts or reorders.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from hypothesis import given
from hypothesis import strategies as st

from common import audit
from common.audit import GENESIS, Severity, chain_pending, verify_chain
from common.direct import open_connection
from common.locks import lock_number
from common.models import AuditEntry, AuditLink
from protocol.audit import ENTRY_FIELDS, LARGEST_TEXT, PRIMARY, entry_text, link_hash

TABLES = ("common_auditentry", "common_auditlink")


def note(number: int = 1, **other: Any) -> AuditEntry:
    facts: dict[str, Any] = {"actor": "user:7", "action": "secret.read", "entity": "secret", "entity_id": f"s-{number}",
                             "severity": Severity.WARNING, "environment": "NPR", "address": "192.0.2.7",
                             "details": {"version": number, "why": {"b": [1, 2.5, None], "a": "ä"}}}  # fmt: skip
    return audit.record(**{**facts, **other})


def text(pk: int) -> str:
    """The canonical text of a stored entry."""
    return audit.text_of(audit.with_details_text(AuditEntry.objects.filter(pk=pk)).get())


@pytest.fixture
def chained(db: None) -> list[AuditEntry]:
    """Five entries in their place in the chain."""
    entries = [note(number) for number in range(1, 6)]
    assert chain_pending() == 5
    return entries


@pytest.fixture
def intruder(chained: list[AuditEntry]) -> Iterator[Callable[..., int]]:
    """Somebody who owns the tables and has switched the guards off."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table in TABLES:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")

        def does(statement: str, *values: Any) -> int:
            cursor.execute(statement, values)
            return int(cursor.rowcount)

        yield does


class TestRecording:
    def test_an_entry_keeps_every_fact_it_is_given(self, db: None) -> None:
        found = AuditEntry.objects.get(pk=note(3).pk)
        assert (found.actor, found.action, found.entity, found.entity_id) == ("user:7", "secret.read", "secret", "s-3")
        assert (found.severity, found.environment, found.address) == ("warning", "NPR", "192.0.2.7")
        assert found.details == {"version": 3, "why": {"b": [1, 2.5, None], "a": "ä"}}

    def test_what_is_undone_leaves_no_entry(self, db: None) -> None:
        class ChangeOfMind(Exception): ...

        with pytest.raises(ChangeOfMind), transaction.atomic():
            note()
            raise ChangeOfMind
        assert not AuditEntry.objects.exists()

    @pytest.mark.django_db(transaction=True)
    def test_an_entry_outside_of_a_transaction_is_refused(self) -> None:
        """It could outlive the change it tells of, or the change it."""
        with pytest.raises(RuntimeError, match="in the transaction of the change"):
            note()
        assert not AuditEntry.objects.exists()

    def test_names_that_are_too_long_are_cut_and_stop_nothing(self, db: None) -> None:
        entry = note(actor="a" * 65, entity_id="i" * 65, address="x" * 65)
        entry.refresh_from_db()
        assert {len(entry.actor), len(entry.entity_id), len(entry.address)} == {64}


class TestDatabaseGuards:
    @pytest.mark.parametrize("table", TABLES)
    @pytest.mark.parametrize("statement", ["DELETE FROM {0}", "UPDATE {0} SET {1} = {1}"], ids=["delete", "update"])
    def test_rows_are_neither_changed_nor_deleted(self, chained: list[AuditEntry], table: str, statement: str) -> None:
        column = {"common_auditentry": "actor", "common_auditlink": "hash"}[table]
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement.format(table, column))
        assert verify_chain().length == 5

    @pytest.mark.parametrize("table", TABLES)
    def test_tables_are_not_emptied(self, chained: list[AuditEntry], table: str) -> None:
        """The suite switches this one guard off to clean up after itself, so the test switches it on again."""
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER {table}_all")
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {table} CASCADE")
        assert verify_chain().length == 5

    def test_the_application_s_own_ways_are_no_way_round(self, chained: list[AuditEntry]) -> None:
        chained[0].actor = "user:8"
        entries, links = AuditEntry.objects.all(), AuditLink.objects.all()
        for change in (chained[0].save, lambda: entries.update(actor="user:8"), links.delete, lambda: links.update(hash="")):
            with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
                change()


class TestChaining:
    def test_every_hash_covers_its_entry_and_the_hash_before(self, chained: list[AuditEntry]) -> None:
        previous = GENESIS
        for position, link in enumerate(AuditLink.objects.order_by("position"), start=1):
            assert (link.position, link.entry_id) == (position, chained[position - 1].pk)
            assert link.hash == link_hash(PRIMARY, position, previous, text(link.entry_id))
            previous = link.hash
        assert verify_chain() == audit.ChainReport(length=5, head=previous, broken_at=None, unchained=0)

    def test_the_hash_can_be_recomputed_without_our_code(self, chained: list[AuditEntry]) -> None:
        """SHA-256 over a fixed line, chain, position, hash before and compact key-sorted JSON, each on a line of its own."""
        row = AuditEntry.objects.get(pk=chained[0].pk)
        details = '{"why": {"a": "ä", "b": [1, 2.5, null]}, "version": 1}'  # as PostgreSQL writes the value it keeps
        fields = {"id": row.pk, "at": row.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "actor": "user:7", "action": "secret.read",
                  "entity": "secret", "entity_id": "s-1", "severity": "warning", "environment": "NPR", "address": "192.0.2.7",
                  "organization": None, "project": None, "details": details}  # fmt: skip
        body = json.dumps(fields, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
        whole = f"mazevault audit link v1\nprimary\n1\n{'0' * 64}\n{body}"
        assert AuditLink.objects.get(position=1).hash == hashlib.sha256(whole.encode()).hexdigest()

    def test_chains_of_one_database_have_their_own_positions(self, chained: list[AuditEntry]) -> None:
        note(6)
        assert chain_pending(chain="other") == 1
        assert (audit.head("other")[0], audit.head()[0]) == (1, 5)
        assert (verify_chain("other").broken_at, verify_chain().broken_at) == (None, None)

    def test_details_beyond_measure_are_kept_as_their_beginning_and_a_digest(self, db: None) -> None:
        entry = note(details={"much": '"\\' * 50_000})
        assert entry.details["characters"] > 100_000
        assert len(entry.details["sha256"]) == 64
        assert len(text(entry.pk)) < LARGEST_TEXT

    def test_new_entries_wait_for_the_sequencer_and_then_go_on_where_the_chain_ended(self, chained: list[AuditEntry]) -> None:
        head = verify_chain().head
        sixth = note(6)
        assert (verify_chain().head, verify_chain().unchained) == (head, 1)
        assert chain_pending() == 1
        assert verify_chain() == audit.ChainReport(6, link_hash(PRIMARY, 6, head, text(sixth.pk)), None, 0)

    def test_a_batch_takes_the_oldest_first_and_leaves_the_rest(self, db: None) -> None:
        entries = [note(number) for number in range(5)]
        assert [chain_pending(batch=2) for _ in range(4)] == [2, 2, 1, 0]
        assert list(AuditLink.objects.order_by("position").values_list("entry_id", flat=True)) == [one.pk for one in entries]

    def test_an_empty_trail_is_sound(self, db: None) -> None:
        assert chain_pending() == 0
        assert verify_chain() == audit.ChainReport(0, GENESIS, None, 0)

    def test_only_one_process_at_a_time_is_the_sequencer(self, db: None) -> None:
        note()
        with open_connection() as other:
            other.execute("SELECT pg_advisory_lock(%s)", [lock_number("audit-chain")])
            assert chain_pending() == 0
            other.execute("SELECT pg_advisory_unlock(%s)", [lock_number("audit-chain")])
        assert chain_pending() == 1

    @given(st.lists(st.sampled_from([name for name in ENTRY_FIELDS if name not in ("id", "at")]),
                    min_size=2, max_size=2, unique=True))  # fmt: skip
    def test_a_text_moved_from_one_field_to_another_gives_another_hash(self, names: list[str]) -> None:
        plain = dict.fromkeys(ENTRY_FIELDS, "")
        one, other = (link_hash(PRIMARY, 1, GENESIS, entry_text({**plain, name: "x"})) for name in names)
        assert one != other


class TestTampering:
    @pytest.mark.parametrize(
        "assignment",
        [
            "at = at + interval '1 microsecond'", "actor = 'user:8'", "action = 'secret.write'", "entity = 'project'",
            "entity_id = 's-9'", "severity = 'info'", "environment = 'PRO'", "address = ''", "details = '{}'",
            "project = gen_random_uuid()", "organization = gen_random_uuid()", "details = jsonb_set(details, '{why,b,1}', '2.6')",
            "details = jsonb_set(details, '{why,b,1}', '2.50000000000000000000001')",
        ],
        ids=lambda text: text.split(" = ")[0] + " deep inside" * ("jsonb_set" in text) + " and tiny" * ("000" in text),
    )  # fmt: skip
    @pytest.mark.parametrize("position", [1, 3, 5])
    def test_an_edit_of_any_field_is_found_at_its_position(
        self, chained: list[AuditEntry], intruder: Callable[..., int], position: int, assignment: str
    ) -> None:
        assert intruder(f"UPDATE common_auditentry SET {assignment} WHERE id = %s", chained[position - 1].pk) == 1  # noqa: S608  the attack itself
        assert verify_chain().broken_at == position

    def test_the_table_of_edits_covers_every_column(self) -> None:
        covered = {"at", "actor", "action", "entity", "entity_id", "severity", "environment", "address", "organization",
                   "project", "details"}  # fmt: skip
        assert {field.column for field in AuditEntry._meta.concrete_fields} - {"id"} == covered

    @pytest.mark.parametrize("position", [1, 2, 4])
    def test_a_deletion_is_found(self, chained: list[AuditEntry], intruder: Callable[..., int], position: int) -> None:
        intruder("DELETE FROM common_auditlink WHERE position = %s", position)
        intruder("DELETE FROM common_auditentry WHERE id = %s", chained[position - 1].pk)
        assert verify_chain().broken_at == position

    @pytest.mark.parametrize("position", [1, 2, 4])
    def test_a_deletion_with_the_gap_closed_is_found(
        self, chained: list[AuditEntry], intruder: Callable[..., int], position: int
    ) -> None:
        intruder("DELETE FROM common_auditlink WHERE position = %s", position)
        intruder("DELETE FROM common_auditentry WHERE id = %s", chained[position - 1].pk)
        for later in range(position + 1, 6):
            intruder("UPDATE common_auditlink SET position = %s WHERE position = %s", later - 1, later)
        assert verify_chain().broken_at == position

    def test_two_entries_that_changed_places_are_found(self, chained: list[AuditEntry], intruder: Callable[..., int]) -> None:
        for old, new in ((2, 0), (3, 2), (0, 3)):
            intruder("UPDATE common_auditlink SET position = %s WHERE position = %s", new, old)
        assert list(AuditLink.objects.order_by("position").values_list("entry_id", flat=True)) == [
            chained[index].pk for index in (0, 2, 1, 3, 4)
        ]
        assert verify_chain().broken_at == 2

    def test_an_entry_put_in_between_is_found_even_when_its_own_hash_is_right(
        self, chained: list[AuditEntry], intruder: Callable[..., int]
    ) -> None:
        for position in (5, 4, 3):
            intruder("UPDATE common_auditlink SET position = %s WHERE position = %s", position + 1, position)
        forged = AuditEntry.objects.get(pk=note(99).pk)
        before = AuditLink.objects.get(position=2).hash
        AuditLink.objects.create(position=3, entry=forged, chain=PRIMARY, hash=link_hash(PRIMARY, 3, before, text(forged.pk)))
        assert verify_chain().broken_at == 4

    def test_a_changed_hash_is_found(self, chained: list[AuditEntry], intruder: Callable[..., int]) -> None:
        intruder("UPDATE common_auditlink SET hash = %s WHERE position = 3", "0" * 64)
        assert verify_chain().broken_at == 3

    def test_a_chain_renumbered_from_elsewhere_is_found(self, chained: list[AuditEntry], intruder: Callable[..., int]) -> None:
        intruder("UPDATE common_auditlink SET position = position + 100")
        assert verify_chain().broken_at == 1

    def test_a_tail_cut_off_shows_in_length_and_head(self, chained: list[AuditEntry], intruder: Callable[..., int]) -> None:
        """What is left is a sound chain, so only somebody who knows the old head (a checkpoint elsewhere) can tell."""
        whole = verify_chain()
        intruder("DELETE FROM common_auditlink WHERE position = 5")
        intruder("DELETE FROM common_auditentry WHERE id = %s", chained[4].pk)
        left = verify_chain()
        assert (left.broken_at, left.length, left.unchained) == (None, 4, 0)
        assert left.head != whole.head
