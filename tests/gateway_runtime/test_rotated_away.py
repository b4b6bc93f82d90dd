"""What a rotation replaced comes back by `rollback` only, whichever way an ordinary change takes (finding C1)."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from common.clock import now
from gateway_runtime.models import PendingWrite
from gateways import inbox
from protocol.vocabulary import WriteOperation
from protocol.writes import WriteBody
from tests.conftest import Person
from tests.gateway_runtime.test_storage import Keeping, keeping  # noqa: F401  the fixture
from tests.gateway_runtime.test_with_the_primary import Pair, pair  # noqa: F401  the fixture
from vault.models import AnsweredRequest, Secret, SecretVersion, VaultClaim
from vault.ports import Origin, SecretChange
from vault.secrets import apply_change

REFUSED = (409, "VALUE_ROTATED_AWAY")


@pytest.fixture
def primary_person(pair: Pair) -> Person:  # noqa: F811  the fixture
    return Person(pair.ann.token)


def rotated(pair: Pair) -> str:  # noqa: F811  the fixture
    """Version 1 is "one", 2 "two", 3 the rotation's "three"; returns the path."""
    for operation, value in ((WriteOperation.UPDATE, "two"), (WriteOperation.ROTATE, "three")):
        change(pair, operation, value)
    pair.pull()
    return f"secrets/{pair.secret.id}"


def change(pair: Pair, operation: WriteOperation, value: str) -> None:  # noqa: F811  the fixture
    place = (pair.site.project.id, pair.site.environment.id)
    wish = SecretChange(operation, pair.secret.id, *place, "", None, WriteBody(value=value))
    apply_change(wish, Origin("user:admin"), None, now())


def said(answer: tuple[int, Any]) -> tuple[int, Any]:
    return answer[0], answer[1].get("code")


def test_every_ordinary_way_back_is_closed_and_names_the_rotation(pair: Pair, primary_person: Person) -> None:  # noqa: F811
    path, site = rotated(pair), pair.site
    for old in ("one", "two"):
        answers = {
            "shortest way": primary_person.put(path, {"value": old}),
            "whole way": primary_person.put(path, {"value": old, "ttl_hours": 24}),
            "rotation to it": primary_person.post(f"{path}/rotate", {"value": old}),
            "at a gateway": pair.ann.put(path, {"value": old}),
        }
        assert {said(answer) for answer in answers.values()} == {REFUSED}, answers
        error = answers["whole way"][1]
        assert error["rotation_version"] == 3 and "(version 3)" in error["error"] and "rollback" in error["error"], error
    assert Secret.objects.get(id=pair.secret.id).version == 3
    site.primary.down = True
    assert pair.ann.put(path, {"value": "two"})[0] == 202
    site.primary.down = False
    site.upload()
    inbox.apply_pending()
    PendingWrite.objects.update(not_before=now())
    site.upload()
    write = PendingWrite.objects.order_by("sequence").last()
    assert write is not None and (write.outcome, write.code) == ("dead_letter", "VALUE_ROTATED_AWAY"), "kept for a person"


def test_rollback_is_the_way_and_opens_the_others(pair: Pair, primary_person: Person) -> None:  # noqa: F811
    for operation, value in ((WriteOperation.UPDATE, "two"), (WriteOperation.ROTATE, "three")):
        change(pair, operation, value)
    path = f"secrets/{pair.secret.id}"
    assert primary_person.post(f"{path}/rollback", {"version": 2})[1]["version"] == 4
    assert primary_person.put(path, {"value": "two"})[1]["version"] == 5, "it is in force again"
    assert said(primary_person.put(path, {"value": "one"})) == REFUSED, "the other one is not"


def test_what_no_rotation_replaced_may_come_back(pair: Pair, primary_person: Person) -> None:  # noqa: F811
    path = rotated(pair)
    assert primary_person.put(path, {"value": "four"})[0] == 200
    assert primary_person.put(path, {"value": "three"})[0] == 200, "an update replaced the rotated one, so it may return"
    assert primary_person.put(path, {"value": "three"})[0] == 200


def test_values_of_before_there_were_marks_are_known_too(pair: Pair, primary_person: Person) -> None:  # noqa: F811
    path = f"secrets/{pair.secret.id}"
    change(pair, WriteOperation.UPDATE, "two")
    change(pair, WriteOperation.ROTATE, "three")
    SecretVersion.objects.update(value_mark="")
    assert said(primary_person.put(path, {"value": "two"})) == REFUSED
    assert said(primary_person.put(path, {"value": "fresh"}))[0] == 200


def test_a_secret_that_was_never_rotated_pays_nothing(pair: Pair, primary_person: Person) -> None:  # noqa: F811
    path = f"secrets/{pair.secret.id}"
    with CaptureQueriesContext(connection) as asked:
        assert primary_person.put(path, {"value": "x"})[0] == 200
    assert not [one for one in asked.captured_queries if "value_mark =" in one["sql"]]


def test_in_a_vault_it_is_refused_before_the_vault_hears_of_it(keeping: Keeping) -> None:  # noqa: F811  the fixture
    ann, row = keeping.pair.ann, keeping.create(value="one")[1]
    path = f"secrets/{row['id']}"
    assert ann.post(f"{path}/rotate", {"value": "two"})[0] == 200
    sets = keeping.sets()
    assert said(ann.put(path, {"value": "one"})) == REFUSED and keeping.sets() == sets
    assert keeping.there() == {"DB-PASSWORD": "two"}
    assert ann.post(f"{path}/rollback", {"version": 1})[0] == 200 and keeping.there() == {"DB-PASSWORD": "one"}
    assert ann.put(path, {"value": "one"})[0] == 200


def test_no_hash_of_a_value_is_in_the_open(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    kept = list[str]()
    taken = VaultClaim.save
    monkeypatch.setattr(VaultClaim, "save", lambda self, *args, **more: (kept.append(self.body), taken(self, *args, **more))[1])
    keeping.create(value="guess-me")
    known = hashlib.sha256(b"guess-me").hexdigest()
    rows = [*SecretVersion.objects.values(), *PendingWrite.objects.values(), *AnsweredRequest.objects.values()]
    assert known not in str(rows) + str(kept) and kept
