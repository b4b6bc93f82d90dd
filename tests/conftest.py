"""What every test may ask for: a set-up Primary, an administrator, the cast of four gateways."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Model
from django.test import Client, TransactionTestCase

from accounts.models import Session, User
from accounts.organizations import ensure_default_organization
from accounts.sessions import PREFIX, hash_token
from accounts.setup import ensure_system_roles
from common import outside
from common.clock import now
from failover import driver
from failover.transitions import state_of
from failover.witness import ClockWitness
from gateways import channel_keys, generation, identity, routes, signs
from gateways.remembered import memory
from tests.fakes.gateway import KNOWN, FakeGateway, all_answer
from vault import succession

KEPT = ("django_migrations", "django_content_type", "auth_permission")
"""What the migrations have filled for good."""
_WRITTEN = """
    SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
    AND relname <> ALL(%s) AND pg_relation_size(oid) > 0
"""


def _empty(_: TransactionTestCase) -> None:
    """After a test that commits: only the tables that hold something are emptied, and what Django makes once stays."""
    with connection.cursor() as cursor:
        cursor.execute(_WRITTEN, [list(KEPT)])
        written = [connection.ops.quote_name(name) for (name,) in cursor.fetchall()]
        if not written:
            return
        cursor.execute(" UNION ALL ".join(f"SELECT '{name}' WHERE EXISTS (SELECT FROM {name})" for name in written))  # noqa: S608
        filled = [name for (name,) in cursor.fetchall()]
        if filled:
            cursor.execute(f"TRUNCATE {', '.join(filled)} CASCADE")


TransactionTestCase._fixture_teardown = _empty


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> None:
    """Tests that commit are cleaned up by TRUNCATE, which the audit tables refuse; rows stay protected."""
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        for table in ("common_auditentry", "common_auditlink", "gateways_gatewayauditrecord"):
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER {table}_all")


@pytest.fixture(autouse=True)
def _lively_gateways_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateways without a process have no waiting call: they answer while a request waits for their signs of life."""
    KNOWN.clear()
    monkeypatch.setattr(signs, "wait_for", all_answer)


@pytest.fixture(autouse=True)
def _driver_has_watched_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like a Primary that runs for hours: it has watched the clocks since before any lease of a test was given."""
    monkeypatch.setattr(driver, "witness", ClockWitness(watching_since=-1e6))


@pytest.fixture(autouse=True)
def _nothing_is_remembered_of_the_database() -> None:
    """What a test begins in the database is rolled back, which is what a database that was put back looks like."""
    memory.forget()


@pytest.fixture(autouse=True)
def nothing_outside_in_a_transaction(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A call to the outside inside a database transaction fails the test, also where the product catches what it raises."""
    found = list[str]()

    def refuse(what: str) -> None:
        found.append("".join(traceback.format_stack(limit=25)))
        raise AssertionError(f"{what} is called inside a database transaction")

    monkeypatch.setattr(outside, "on_fault", refuse)
    yield
    assert not found, f"called to the outside inside a database transaction:\n{found[0]}"


@pytest.fixture
def primary(db: None) -> None:
    """What `manage.py setup` makes, but for files."""
    _set_up()


@pytest.fixture
def committed_primary(transactional_db: None) -> None:
    """The same for tests with several connections."""
    _set_up()


_script = ""
"""Statements that make the rows of a set-up Primary. They are composed once in each process and then take one round trip: making
keys, certificates and rows anew takes most of a small test."""
_COUNTED = ("AuditEntry", "Change")
"""Tables whose ids the database counts."""


def _set_up() -> None:
    global _script
    channel_keys.forget()
    _script = _script or _composed()
    with connection.cursor() as cursor:
        cursor.execute(_script)


def _composed() -> str:
    statements: list[str] = []

    def note(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Mapping[str, Any]) -> Any:
        statements.append(context["cursor"].cursor.mogrify(sql, params))
        return execute(sql, params, many, context)

    with transaction.atomic():
        before = {model: set(model._default_manager.values_list("pk", flat=True)) for model in apps.get_models()}
        _make()
        base = list(_rows_of_everything(before))
        transaction.set_rollback(True)
    with transaction.atomic():
        with connection.execute_wrapper(note):
            for model, rows in base:
                model._default_manager.bulk_create([model(**row) for row in rows])
        transaction.set_rollback(True)
    return ";\n".join(one for one in statements if one.startswith("INSERT"))


def _make() -> None:
    codes = settings.MAZEVAULT.gateway_environments
    routes.ensure_environments(codes)
    for code in codes:
        state_of(code)
    succession.ensure_authorities(codes)
    ensure_system_roles()
    ensure_default_organization()
    generation.look()
    identity.ensure_keys()


def _rows_of_everything(before: Mapping[type[Model], set[Any]]) -> Iterator[tuple[type[Model], list[dict[str, Any]]]]:
    """Every table with rows that were not there before, what refers to others last."""
    for model in sorted(apps.get_models(), key=lambda one: sum(field.is_relation for field in one._meta.concrete_fields)):
        if model._meta.app_label in ("contenttypes", "auth") or model.__name__ in ("AuditPending",):
            continue  # the first two are Django's own, the last one is filled by a trigger
        rows = list(model._default_manager.exclude(pk__in=before[model]).values())
        if model.__name__ in _COUNTED:
            rows = [{name: value for name, value in row.items() if name != "id"} for row in rows]
        if rows:
            yield model, rows


class Person:
    """Somebody who calls the API with a bearer token. Every answer is `(status, body)`."""

    def __init__(self, token: str = "") -> None:
        self.token = token
        self.client = Client(raise_request_exception=False)
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str) -> tuple[int, Any]:
        return self.call("get", path)

    def post(self, path: str, body: Any = None) -> tuple[int, Any]:
        return self.call("post", path, data="" if body is None else body, content_type="application/json")

    def put(self, path: str, body: Any = None) -> tuple[int, Any]:
        return self.call("put", path, data="" if body is None else body, content_type="application/json")

    def patch(self, path: str, body: Any = None) -> tuple[int, Any]:
        return self.call("patch", path, data="" if body is None else body, content_type="application/json")

    def delete(self, path: str) -> tuple[int, Any]:
        return self.call("delete", path)

    def call(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        full = path if path.startswith("/") else f"/api/v1/{path}"
        answer = getattr(self.client, method)(full, headers=self.headers, **more)
        content = b"".join(answer.streaming_content) if answer.streaming else answer.content
        is_json = "json" in answer.get("Content-Type", "")
        return answer.status_code, (json.loads(content) if is_json else content.decode()) if content else None


@pytest.fixture
def anybody() -> Person:
    return Person()


@pytest.fixture
def person(db: None) -> Callable[[str], Person]:
    """A signed-in person with this role."""

    def make(role: str) -> Person:
        user = User.objects.create(email=f"{role}@example.com", full_name=role.title(), role=role, password="!")
        token = f"{PREFIX}{role}-token-for-tests"
        Session.objects.create(
            user=user, token_hash=hash_token(token), expires_at=now() + timedelta(hours=1), address="127.0.0.1"
        )
        return Person(token)

    return make


@pytest.fixture
def admin(person: Callable[[str], Person]) -> Person:
    return person("admin")


@pytest.fixture
def npr(primary: None) -> Iterator[tuple[FakeGateway, FakeGateway]]:
    """gw-npr-primary and gw-npr-dr, enrolled, heard of, and the first one holding its lease."""
    yield fleet_of("NPR")


def fleet_of(code: str) -> tuple[FakeGateway, FakeGateway]:
    """Both gateways of an environment, enrolled; the primary one made active and holding its lease."""
    from failover import driver

    lower = code.lower()
    first = FakeGateway(f"gw-{lower}-primary", code, "primary").enrol()
    second = FakeGateway(f"gw-{lower}-dr", code, "dr-standby").enrol()
    for gateway in (first, second):
        gateway.heartbeat()
    driver.drive_all()
    first.take_over()
    first.renew_lease()
    for gateway in (first, second):
        gateway.take_over()
    return first, second
