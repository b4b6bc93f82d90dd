"""Something is put into what is deleted at the same moment, on two connections. Whoever is second waits, and then knows it.

Each pair runs in both orders: the first request is answered but not committed when the second one begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction

from accounts.models import (
    ConfigTemplate,
    Environment,
    GroupMapping,
    Organization,
    Project,
    Role,
    RoleGrant,
    ServiceIdentity,
    Session,
    User,
)
from accounts.sessions import PREFIX, hash_token
from common.clock import now
from integrations.models import Integration, SyncRule
from tests.conftest import Person

pytestmark = pytest.mark.usefixtures("committed_primary")

Call = Callable[[Person], tuple[int, Any]]
LIVING = {"deleted_at": None}
STAYS_AS_IN_SEQUENCE = {
    ("organization", "template"),
    ("project", "integration"),
    ("project", "sync rule"),
    ("environment", "integration"),
}
"""What a deletion hides with its place, whenever it was put there."""
PAIRS = {
    "role": ("grant to a person", "grant to a service", "mapping"),
    "account": ("grant to a person",),
    "service": ("grant to a service",),
    "organization": ("grant in the organization", "environment", "project", "template"),
    "project": ("grant in the project", "integration", "sync rule"),
    "environment": ("grant in the environment", "integration"),
    "integration": ("sync rule", "sync rule turned to it"),
}


class World:
    """Fresh things of every kind."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.user = User.objects.create(email=f"{name}@example.com", role="viewer", password="!").id
        self.service = ServiceIdentity.objects.create(display_name=name, client_id=name).id
        self.role = Role.objects.create(name=name, permissions=["secrets:read"]).id
        self.organization = Organization.objects.create(name=name).id
        self.empty = Organization.objects.create(name=f"{name} empty").id
        place = Environment.objects.create(organization_id=self.organization, name=name, slug=name, gateway_environment="NPR")
        self.environment = place.id
        self.project = Project.objects.create(organization_id=self.organization, name=name).id
        kind = {"project_id": self.project, "type": "t", "provider": "generic", "sealed_under": "platform"}
        self.integration, other = (Integration.objects.create(name=one, **kind).id for one in ("first", "other"))
        self.rule = SyncRule.objects.create(project_id=self.project, integration_id=other, name="first").id
        self.integrations, self.rules = f"projects/{self.project}/integrations", f"projects/{self.project}/sync-rules"

    def deletion(self, what: str) -> Call:
        path = {
            "role": f"rbac/roles/{self.role}",
            "account": f"rbac/users/{self.user}",
            "service": f"service-identities/{self.service}",
            "organization": f"organizations/{self.empty}",
            "project": f"projects/{self.project}",
            "environment": f"organizations/{self.organization}/environments/{self.environment}",
            "integration": f"projects/integrations/{self.integration}",
        }[what]
        return lambda caller: caller.delete(path)

    def use(self, what: str) -> Call:
        of_user, of_service = f"rbac/users/{self.user}/roles", f"service-identities/{self.service}/roles"
        role, wish = {"role_id": str(self.role)}, {"name": "late", "type": "t", "provider": "generic", "environment": self.name}
        rule = {"name": "late", "integration_id": str(self.integration)}
        path, body = {
            "grant to a person": (of_user, role),
            "grant to a service": (of_service, role),
            "mapping": ("rbac/mappings", {"group_name": self.name, **role}),
            "grant in the organization": (of_user, {**role, "organization_id": str(self.empty)}),
            "grant in the project": (of_user, {**role, "project_id": str(self.project)}),
            "grant in the environment": (of_user, {**role, "organization_id": str(self.organization), "environment": self.name}),
            "environment": (f"organizations/{self.empty}/environments", {"name": "late"}),
            "project": ("projects", {"name": "late", "organization_id": str(self.empty)}),
            "template": (f"organizations/{self.empty}/config-templates", {"name": "late", "template": "x"}),
            "integration": (self.integrations, wish),
            "sync rule": (self.rules, rule),
            "sync rule turned to it": (f"projects/sync-rules/{self.rule}", rule),
        }[what]
        return lambda caller: caller.put(path, body) if what == "sync rule turned to it" else caller.post(path, body)

    def left(self, what: str) -> bool:
        rows: dict[str, Any] = {
            "mapping": GroupMapping.objects.filter(role=self.role),
            "environment": Environment.objects.filter(name="late", organization=self.empty, **LIVING),
            "project": Project.objects.filter(organization=self.empty, **LIVING),
            "template": ConfigTemplate.objects.filter(organization=self.empty),
            "integration": Integration.objects.filter(name="late", project=self.project, **LIVING),
        }
        if what.startswith("grant"):
            return RoleGrant.objects.filter(role=self.role).exists()
        if what.startswith("sync rule"):
            return SyncRule.objects.filter(name="late", project=self.project, **LIVING).exists()
        return bool(rows[what].exists())


@pytest.fixture
def callers() -> tuple[Person, Person]:
    """Two administrators, so that nothing of their own makes one wait for the other."""

    def made(name: str) -> Person:
        user = User.objects.create(email=f"{name}@example.com", role="admin", password="!")
        Session.objects.create(user=user, token_hash=hash_token(PREFIX + name), expires_at=now() + timedelta(days=1))
        return Person(PREFIX + name)

    return made("ada"), made("bob")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made
        made.submit(lambda: connection.close()).result(10)


def somebody_waits(asked: Future[Any]) -> bool:
    """Whether the second request comes to wait for the first one's rows before it is answered."""
    until = time.monotonic() + 2
    while not asked.done() and time.monotonic() < until:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))")
            if cursor.fetchone():
                return True
        time.sleep(0.002)
    return False


@pytest.mark.parametrize("deleted", PAIRS)
def test_of_a_deletion_and_a_use_at_once_the_second_knows_of_the_first(
    deleted: str, callers: tuple[Person, Person], pool: ThreadPoolExecutor
) -> None:
    wrong = []
    for number, used in enumerate(PAIRS[deleted]):
        for order in ("deleted first", "used first"):
            world = World(f"{order[0]}{number}")
            calls = [world.deletion(deleted), world.use(used)]
            first, second = calls if order == "deleted first" else calls[::-1]
            with transaction.atomic():
                before = first(callers[0])
                asked = pool.submit(second, callers[1])
                waited = somebody_waits(asked)
            after, left = asked.result(10), world.left(used)
            if order == "deleted first":
                right = before[0] == 204 and 400 <= after[0] < 500 and not left
            else:
                stays = after[0] == 409 or (deleted, used) in STAYS_AS_IN_SEQUENCE
                grants_of_a_deleted_account = deleted in ("account", "service")
                right = before[0] in (200, 201) and after[0] in (204, 409) and (left == stays or grants_of_a_deleted_account)
            if not (right and waited):
                wrong.append((order, deleted, used, before[0], after, "left" if left else "gone", f"waited: {waited}"))
    assert not wrong, (len(wrong), wrong)
