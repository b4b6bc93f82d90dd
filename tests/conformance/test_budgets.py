"""No operation makes more statements than its row of the table says, whatever is stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import Environment, User
from integrations.models import SyncRule, SyncRun
from tests.conformance import budgets
from tests.conformance.budgets import Budget
from tests.conftest import Person
from tests.fakes.gateway import FakeGateway
from tests.gateway_runtime.conftest import Site, as_gateway, site  # noqa: F401  fixtures

FRAMES = ("SAVEPOINT", "RELEASE", "ROLLBACK", "BEGIN", "COMMIT", "SET TRANSACTION")
MANY = 40
PASSWORD = "seven purple otters sing"


def sql(text: str, **values: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(text, values)


class Caller:
    """Sends the operations of a table and counts what they cost."""

    def __init__(self, person: Person, prefix: str, world: Mapping[str, str]) -> None:
        self.person, self.prefix, self.world = person, prefix, dict(world)

    def filled(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self.filled(inner) for name, inner in value.items()}
        if isinstance(value, str):
            for name, identifier in self.world.items():
                value = value.replace(f"{{{name}}}", identifier)
        return value

    def cost(self, row: Budget, turn: int) -> list[str]:
        """The statements of one call of the operation."""
        self.world["round"] = str(turn)
        path, body = self.filled(row.path), self.filled(dict(row.body))
        client = Client(raise_request_exception=False)
        more = {"data": json.dumps(body), "content_type": "application/json"} if row.method != "GET" else {}
        full = path if path.startswith("/") else f"{self.prefix}{path}"
        with CaptureQueriesContext(connection) as seen:
            answer = client.generic(row.method, full, headers=self.person.headers, **more)
        assert answer.status_code == row.status, (str(row), answer.status_code, answer.content[:300])
        return [one["sql"] for one in seen.captured_queries if not one["sql"].startswith(FRAMES)]


def wrong(rows: tuple[Budget, ...], caller: Caller, grow: Callable[[], None]) -> list[str]:
    """Each operation that costs more than its row says, or more when there is more."""
    few = [_twice(row, caller, 0) for row in rows]
    grow()
    many = [_twice(row, caller, 10) for row in rows]
    return [
        f"{row}: {len(one)} statements with few objects, {len(more)} with many, {row.statements} are allowed\n  "
        + "\n  ".join(text.strip()[:150].replace("\n", " ") for text in more)
        for row, one, more in zip(rows, few, many, strict=True)
        if not len(one) == len(more) <= row.statements
    ]


def _twice(row: Budget, caller: Caller, turn: int) -> list[str]:
    """What comes up once (a stamp, a key that is opened for the first time) is no part of it."""
    caller.cost(row, turn)
    return caller.cost(row, turn + 1)


@pytest.fixture
def world(admin: Person, npr: tuple[FakeGateway, FakeGateway]) -> dict[str, str]:
    def made(path: str, body: dict[str, Any]) -> str:
        status, row = admin.post(path, body)
        assert status in (200, 201, 202), (path, row)
        return str(row["id"])

    organization = made("organizations", {"name": "Bank"})
    project = made("projects", {"name": "payments", "organization_id": organization})
    integration = made(f"projects/{project}/integrations", {"name": "i", "type": "t", "provider": "p"})
    roles = {row["name"]: row["id"] for row in admin.get("rbac/roles")[1]}
    user = made("rbac/users", {"email": "lin@example.com", "password": PASSWORD})
    made(f"rbac/users/{user}/roles", {"role_id": roles["secret_manager"], "project_id": project})
    admin.post("users/tokens", {"name": "ci", "scopes": ["secrets:read"]})
    service = admin.post("service-identities", {"display_name": "CI", "owner_email": "o@example.com"})[1]
    rule = made(f"projects/{project}/sync-rules", {"name": "r", "integration_id": integration})
    add_runs({"rule": rule, "organization": organization}, 1)
    return {
        "organization": organization, "project": project, "integration": integration, "user": user, "role": roles["viewer"],
        "secret": made("secrets", {"project_id": project, "key": "db", "value": "one"}),
        "rule": rule,
        "gateway": str(npr[0].id), "service": str(service["id"]), "client_id": service["client_id"],
        "client_secret": service["client_secret"],
    }  # fmt: skip


@pytest.fixture(autouse=True)
def no_slice_of_a_limit_ends_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, calls_per_minute=1_000_000, sign_ins_per_minute=1000))


def test_operations_at_the_primary_keep_to_their_budgets(admin: Person, world: dict[str, str]) -> None:
    assert admin.post(f"secrets/{world['secret']}/rotate")[0] == 200  # a change costs one statement more from then on
    found = wrong(budgets.PRIMARY, Caller(admin, "/api/v1/", world), lambda: grow(admin, world))
    assert not found, "\n".join(found)


def test_operations_at_a_gateway_keep_to_their_budgets(site: Site) -> None:  # noqa: F811
    secret = site.secret()
    caller = Caller(site.person(), "/gw/api/v1/", {"secret": str(secret.id), "project": str(site.project.id)})

    def more() -> None:
        for number in range(MANY):
            site.secret(key=f"more/{number}")

    found = wrong(budgets.GATEWAY, caller, more)
    assert not found, "\n".join(found)


def grow(admin: Person, world: Mapping[str, str]) -> None:
    """Forty more of everything that can be listed."""
    values = {**world, "many": MANY, "admin": str(User.objects.get(email="admin@example.com").id)}
    for text in GROWTH:
        sql(text, **values)
    add_runs(world, MANY)


def add_runs(world: Mapping[str, str], many: int) -> None:
    rule = SyncRule.objects.get(id=world["rule"])
    environment = Environment.objects.filter(organization=world["organization"]).first()
    runs = [SyncRun(rule=rule, environment=environment, phase="apply", state="done", deletion_count=1, deletion_percent=1)
            for _ in range(many)]  # fmt: skip
    SyncRun.objects.bulk_create(runs)


GROWTH = (
    "INSERT INTO accounts_organization (id, name) SELECT gen_random_uuid(), 'o' || i FROM generate_series(1, %(many)s) i",
    "INSERT INTO accounts_environment (id, organization_id, name, slug, is_production, incident_auto_escalation,"
    " gateway_environment) SELECT gen_random_uuid(), %(organization)s, 'e' || i, 'e' || i, false, false, 'NPR'"
    " FROM generate_series(1, %(many)s) i",
    "INSERT INTO accounts_project (id, organization_id, name, type, environment, default_environment, storage, conflict_strategy,"
    " stale_epoch_policy, settings) SELECT gen_random_uuid(), %(organization)s, 'p' || i, '', '', 'dev', 'mazevault',"
    " 'manual_resolution', 'ask', '{}' FROM generate_series(1, %(many)s) i",
    "INSERT INTO vault_secret (id, project_id, environment_id, key, type, description, tags, metadata, ttl_hours, status,"
    " version, created_by) SELECT gen_random_uuid(), s.project_id, s.environment_id, 'k' || i, 'general', '', '[]', '{}', 0,"
    " 'active', 1, '' FROM vault_secret s, generate_series(1, %(many)s) i WHERE s.id = %(secret)s",
    "INSERT INTO vault_secretversion (id, secret_id, version, sealed_value, value_digest, external_version, operation, author,"
    " origin, reason) SELECT gen_random_uuid(), secret_id, 1000 + i, sealed_value, '', '', 'update', '', 'primary', ''"
    " FROM vault_secretversion v, generate_series(1, %(many)s) i WHERE v.secret_id = %(secret)s AND v.version = 1",
    "INSERT INTO accounts_user (id, password, email, email_folded, full_name, role, is_active, must_change_password,"
    " sso_provider, sso_external_id, disabled_by_sso) SELECT gen_random_uuid(), '!', 'u' || i || '@e.c', 'u' || i || '@e.c', '',"
    " 'viewer', true, false, '', '', false FROM generate_series(1, %(many)s) i",
    "INSERT INTO accounts_session (id, user_id, token_hash, address, gateway_environment, expires_at)"
    " SELECT gen_random_uuid(), %(admin)s, 'h' || i, '', '', now() + interval '1 hour' FROM generate_series(1, %(many)s) i",
    "INSERT INTO accounts_apitoken (id, user_id, name, token_hash, expires_at)"
    " SELECT gen_random_uuid(), %(admin)s, 't' || i, 't' || i, now() + interval '1 hour' FROM generate_series(1, %(many)s) i",
    "INSERT INTO accounts_role (id, name, display_name, description, permissions, is_system_role)"
    " SELECT gen_random_uuid(), 'r' || i, '', '', '[]', false FROM generate_series(1, %(many)s) i",
    "INSERT INTO accounts_rolegrant (id, user_id, role_id, environment, environment_given, assigned_by_sso)"
    " SELECT gen_random_uuid(), %(user)s, id, '', '', false FROM accounts_role WHERE NOT is_system_role",
    "INSERT INTO accounts_serviceidentity (id, display_name, description, owner_email, client_id, secret_hash, status)"
    " SELECT gen_random_uuid(), 's' || i, '', '', 'c' || i, '-', 'active' FROM generate_series(1, %(many)s) i",
    "INSERT INTO gateways_task (id, environment_id, kind, payload, state, created_by, created_at, not_before, attempts, epoch,"
    " detail, result) SELECT gen_random_uuid(), 'NPR', 'noop', '{}', 'succeeded', '', now(), now(), 0, 1, '', '{}'"
    " FROM generate_series(1, %(many)s) i",
)


def test_an_operation_that_asks_for_each_object_is_found(admin: Person, world: dict[str, str]) -> None:
    """The measure itself: one statement for each object is seen, and a row that allows too little."""
    caller = Caller(admin, "/api/v1/", world)
    row = Budget("GET", "projects", 2)
    assert wrong((row,), caller, lambda: None) == []
    assert wrong((replace(row, statements=1),), caller, lambda: None)
    cost, grown = caller.cost, list[bool]()
    caller.cost = lambda row, turn: cost(row, turn) + ["SELECT"] * (5 if grown else 0)  # type: ignore[method-assign]
    assert wrong((row,), caller, lambda: grown.append(True))


def test_the_table_has_the_forty_most_used_operations() -> None:
    assert len(budgets.PRIMARY) + len(budgets.GATEWAY) >= 40
    assert len({str(row) + row.path for row in budgets.PRIMARY}) == len(budgets.PRIMARY)
