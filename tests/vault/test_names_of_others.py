"""What came to nothing takes nothing from a living secret that has the name, nor from who set something later (I8)."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from gateways import put_back
from integrations.keeping import Work
from protocol.vocabulary import WriteOperation
from tests import factories
from vault.models import Secret

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("after", "is_older"), [(-60, True), (0, True), (1, False)])
def test_only_what_was_there_before_a_creation_began_is_taken_for_recovered_by_it(after: int, is_older: bool) -> None:
    secret: Any = SimpleNamespace(key="K")
    hold: Any = SimpleNamespace(since=BEGAN, operation="o")
    work = Work(None, secret, None, hold=hold)
    newest: Any = SimpleNamespace(created_at=BEGAN + timedelta(seconds=after))
    assert work._is_older(newest) is is_older
    assert not Work(None, secret, None)._is_older(newest), "who does not know since when deletes nothing"


def test_a_creation_that_is_given_up_leaves_the_name_to_the_living_secret_that_has_it(
    primary: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = factories.project(storage="key_vault")
    place = factories.environment_of(project)
    given_up = Secret(id=uuid.uuid4(), project=project, environment=place, key="db_password")
    row: Any = SimpleNamespace(operation=WriteOperation.CREATE.value)
    monkeypatch.setattr(put_back, "_secret_of", lambda _: given_up)
    monkeypatch.setattr(put_back, "_version_of", lambda _: "a" * 32)
    found = put_back.undoing_of(row)
    assert found is not None and found.does == "delete"
    Secret.objects.create(project=project, environment=place, key="DB-PASSWORD")
    assert put_back.undoing_of(row) is None
