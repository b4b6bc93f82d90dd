"""Two at once on real connections: one name once, nothing put into what is being deleted, no mapping changed under a secret."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction

from accounts.models import GroupMapping, Organization, Project, Role, Session, User
from accounts.rates import count_sign_in
from accounts.sessions import PREFIX, hash_token
from common.clock import now
from common.errors import TooManyRequests
from common.rows import hold, share
from tests.conftest import Person

pytestmark = pytest.mark.usefixtures("committed_primary")


@pytest.fixture
def token() -> str:
    user = User.objects.create(email="root@example.com", role="admin", password="!")
    Session.objects.create(user=user, token_hash=hash_token(f"{PREFIX}race"), expires_at=now() + timedelta(days=365))
    return f"{PREFIX}race"


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run all calls at the same moment, each on a connection of its own."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        try:
            start.wait(10)
            return call()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_a_name_is_given_once_however_many_ask(token: str) -> None:
    wish = {"name": "only one"}
    statuses = at_once([lambda: Person(token).post("organizations", wish)[0] for _ in range(8)])
    assert sorted(statuses) == [201] + [409] * 7
    assert Organization.objects.filter(name="only one").count() == 1


def test_no_project_is_left_in_a_deleted_organization(token: str) -> None:
    for attempt in range(4):
        organization = Person(token).post("organizations", {"name": f"short lived {attempt}"})[1]["id"]
        made, ended = at_once([
            lambda: Person(token).post("projects", {"name": "late", "organization_id": organization})[0],
            lambda: Person(token).delete(f"organizations/{organization}")[0],
        ])  # fmt: skip
        assert (made, ended) in {(201, 409), (404, 204), (409, 204)}
        living = Project.objects.filter(organization_id=organization, deleted_at=None).exists()
        assert living == (made == 201)


def test_an_environment_is_remapped_or_gets_its_secret_never_both(token: str) -> None:
    for attempt in range(4):
        caller = Person(token)
        project = caller.post("projects", {"name": f"p{attempt}"})[1]
        path = f"organizations/{project['organization_id']}/environments"
        environment = caller.post(path, {"name": f"e{attempt}"})[1]["id"]
        wish = {"key": "k", "value": "v", "project_id": project["id"], "environment": f"e{attempt}"}
        at_once([
            lambda: Person(token).post("secrets", wish)[0],
            lambda: Person(token).patch(f"{path}/{environment}", {"is_production": True})[0],
        ])  # fmt: skip
        rows = caller.get(f"secrets?project_id={project['id']}")[1]
        assert all(caller.get(f"secrets/{row['id']}")[1]["value"] == "v" for row in rows)


@pytest.mark.parametrize("way", ["their own role", "the other's account", "the other one's account deleted"])
def test_of_two_administrators_at_once_one_stays(way: str) -> None:
    for attempt in range(4):
        User.objects.filter(role="admin").update(is_active=False)
        people = [User.objects.create(email=f"a{attempt}.{one}@example.com", role="admin", password="!") for one in range(2)]
        for one in people:
            Session.objects.create(user=one, token_hash=hash_token(f"{PREFIX}{one.id}"), expires_at=now() + timedelta(days=1))

        def call(one: User, other: User) -> Callable[[], int]:
            caller = Person(f"{PREFIX}{one.id}")
            if way == "their own role":
                return lambda: caller.delete(f"rbac/users/{one.id}/roles/{one.id}")[0]
            if way == "the other's account":
                return lambda: caller.post(f"rbac/users/{other.id}/disable")[0]
            return lambda: caller.delete(f"rbac/users/{other.id}")[0]

        statuses = at_once([call(people[0], people[1]), call(people[1], people[0])])
        left = User.objects.filter(role="admin", is_active=True, deleted_at=None).count()
        assert left == 1 and sum(status in (200, 204) for status in statuses) == 1, (statuses, left)


def test_who_only_reads_mappings_waits_for_nobody_who_does_and_whoever_deletes_one_waits() -> None:
    mapping = GroupMapping.objects.create(group_external_id="A", group_display_name="A", role=Role.objects.get(name="auditor"))

    def tried(taking: Callable[[Any, Any], Any]) -> bool:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '200ms'")
                return bool(taking(GroupMapping, [mapping.id]) == [mapping.id])
        except OperationalError:
            return False
        finally:
            connection.close()

    with transaction.atomic(), ThreadPoolExecutor(1) as pool:
        assert share(GroupMapping, [str(mapping.id), "00000000-0000-4000-8000-000000000001"]) == [mapping.id]
        assert pool.submit(tried, share).result() is True
        assert pool.submit(tried, hold).result() is False


def test_twenty_sign_ins_at_once_are_counted_one_by_one() -> None:
    moment = now()

    def attempt() -> bool:
        try:
            count_sign_in("ada@example.com", "192.0.2.1", moment)
        except TooManyRequests:
            return False
        return True

    assert at_once([attempt] * 20).count(True) == 10
