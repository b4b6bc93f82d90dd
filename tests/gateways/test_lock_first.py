"""Lock first, read second: whoever waited for a row sees it, and what it refers to, as they are after the wait."""

from __future__ import annotations

import ast
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from accounts.models import Project
from common.rows import locked
from gateways import routes
from gateways.models import Route
from tests import factories
from tests.conftest import fleet_of
from tests.lock_watch import findings, reads_others_while_it_locks
from vault.models import Secret

ROOT = Path(__file__).parents[2]
PRODUCT = ("accounts", "common", "failover", "gateway_runtime", "gateways", "integrations", "orchestrator", "vault")


def functions() -> Iterator[tuple[str, ast.AST]]:
    for package in PRODUCT:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    yield f"{path.relative_to(ROOT)}:{node.name}", node


def test_no_function_locks_and_joins_in_one_query() -> None:
    assert not [name for name, node in functions() if _locks_and_joins(node)], "use common.rows.locked"


def _locks_and_joins(function: ast.AST) -> bool:
    """In one expression, or in a query that was kept under a name before."""
    kept: dict[str, set[str]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    kept.setdefault(target.id, set()).update(_chain(node.value))
    chains = [_chain(node) | kept.get(_base(node), set()) for node in ast.walk(function) if isinstance(node, ast.expr)]
    return any({"select_for_update", "select_related"} <= chain for chain in chains)


def _chain(node: ast.AST) -> set[str]:
    """The names of a chain of calls: `rows.a().b()` gives a and b."""
    found = set()
    while isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        node = node.func if isinstance(node, ast.Call) else node.value
    return found


def _base(node: ast.AST) -> str:
    while isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def meanwhile(waits: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run it in a transaction of another thread, and wait until it waits for a row."""
    seen: list[Any] = []

    def run() -> None:
        try:
            with transaction.atomic():
                seen.append(waits())
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    until = time.monotonic() + 10
    with connection.cursor() as cursor:
        while time.monotonic() < until:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return thread, seen
            time.sleep(0.02)
    raise AssertionError("nobody waits for the row")


@pytest.mark.usefixtures("committed_primary")
def test_who_waited_for_the_route_sees_the_gateway_that_was_promoted_meanwhile() -> None:
    _, second = fleet_of("NPR")
    with transaction.atomic():
        route = routes.lock_route("NPR")
        thread, seen = meanwhile(lambda: (found := routes.lock_route("NPR")) and (found.active_gateway_id, found.active_gateway))
        routes.promote(route, second.row, None)
    thread.join(10)
    [(identifier, gateway)] = seen
    assert str(identifier) == second.id and gateway == second.row


@pytest.mark.usefixtures("committed_primary")
def test_who_waited_for_a_row_sees_what_it_refers_to_as_it_is_then() -> None:
    place = factories.project()
    secret = Secret.objects.create(project=place, environment=factories.environment_of(place), key="k", version=1, created_by="x")
    with transaction.atomic():
        locked(Secret.objects.all(), secret.pk)
        thread, seen = meanwhile(lambda: locked(Secret.objects.select_related("project"), secret.pk))
        Project.objects.filter(id=place.id).update(storage="key_vault")
        Secret.objects.filter(pk=secret.pk).update(version=2)
    thread.join(10)
    assert (seen[0].version, seen[0].project.storage) == (2, "key_vault")


def test_a_row_that_is_not_among_those_asked_for_is_not_given(primary: None) -> None:
    with transaction.atomic():
        assert locked(Route.objects.filter(epoch=99), "NPR") is None
        assert locked(Route.objects.all(), "NOWHERE") is None
        assert locked(Route.objects.all(), "NPR") is not None


def test_a_statement_that_locks_and_joins_is_found(primary: None) -> None:
    with findings() as found, transaction.atomic():
        Route.objects.select_for_update(of=("self",)).select_related("active_gateway").get(environment_id="NPR")
    assert len(found) == 1 and "reads other tables" in found[0]


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("SELECT a FROM t WHERE a = 1 FOR UPDATE", False),
        ("SELECT a FROM t INNER JOIN u ON (t.b = u.a) WHERE t.a = 1 FOR NO KEY UPDATE OF t", True),
        ("SELECT a FROM t WHERE b IN (SELECT a FROM u) FOR UPDATE", True),
        ("UPDATE t SET a = 1 WHERE b IN (SELECT b FROM t WHERE (c = 1) FOR UPDATE SKIP LOCKED)", False),
        ("SELECT a FROM t INNER JOIN u ON (t.b = u.a)", False),
    ],
)
def test_which_statement_locks_and_reads_others(sql: str, found: bool) -> None:
    assert reads_others_while_it_locks(sql) is found
