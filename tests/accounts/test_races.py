"""Two at once on real connections: one name once, nothing put into what is being deleted, no mapping changed under a secret."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from accounts.models import Organization, Project, Session, User
from accounts.rates import count_sign_in
from accounts.sessions import PREFIX, hash_token
from common.clock import now
from common.errors import TooManyRequests
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


def test_twenty_sign_ins_at_once_are_counted_one_by_one() -> None:
    moment = now()

    def attempt() -> bool:
        try:
            count_sign_in("ada@example.com", "192.0.2.1", moment)
        except TooManyRequests:
            return False
        return True

    assert at_once([attempt] * 20).count(True) == 10
