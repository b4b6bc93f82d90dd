"""Every resource of existing clients, through its whole life (client-api B.0), as a client that never forgives sees it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from common.models import AuditEntry, Change
from tests.conformance.conftest import Answer, Terraform
from tests.conformance.resources import RESOURCES, Resource
from tests.conformance.strict import filled, text, wrong_fields

Fill = Callable[[Any], Any]


def those(wanted: Callable[[Resource], object]) -> pytest.MarkDecorator:
    """The test runs once for each resource of which this is true."""
    chosen = [resource for resource in RESOURCES if wanted(resource)]
    return pytest.mark.parametrize("resource", chosen, ids=[resource.name for resource in chosen])


every = those(lambda resource: True)


class Live:
    """A resource in the world, with a client at hand."""

    def __init__(self, resource: Resource, terraform: Terraform, fill: Fill) -> None:
        self.resource, self.terraform = resource, terraform
        self.many, self.body, self.changed = fill(resource.many), fill(resource.body), fill(resource.changed)
        self._one = fill(resource.one)

    def create(self) -> dict[str, Any]:
        row: dict[str, Any] = self.terraform.ok("POST", self.many, self.body)
        return row

    def one(self, row: dict[str, Any]) -> str:
        return str(self._one.replace("{id}", row["id"]))

    def listed(self, path: str = "") -> list[dict[str, Any]]:
        body = self.terraform.ok("GET", path or self.many)
        if self.resource.envelope:
            assert body.keys() == {self.resource.envelope}
            body = body[self.resource.envelope]
        assert isinstance(body, list)
        return body

    def lasting(self, row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name not in self.resource.once}

    def update(self, row: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self.terraform.ok(self.resource.update, self.one(row), body)
        return answer


@pytest.fixture
def live(resource: Resource, terraform: Terraform, fill: Fill) -> Live:
    return Live(resource, terraform, fill)


def refused(answer: Answer, status: int) -> str:
    """The sentence of an error in the one shape."""
    assert answer.status == status, answer
    assert wrong_fields(answer.body, {"error": filled, "code": filled}) == []
    assert text(answer.body.get("details", ""))
    return str(answer.body["error"])


@every
def test_the_answer_to_a_creation_has_every_field_in_its_type_and_echoes_what_was_sent(live: Live) -> None:
    row = live.create()
    assert wrong_fields(row, {**live.resource.shape, **live.resource.once}) == []
    for name, value in live.body.items():
        if name in live.resource.hidden:
            assert name not in row
        else:
            assert row[name] == value, name


@every
def test_every_answer_about_the_same_thing_is_the_same(live: Live) -> None:
    row = live.create()
    expected = live.lasting(row)
    assert [one for one in live.listed() if one["id"] == row["id"]] == [expected]
    if live.resource.readable:
        assert live.terraform.ok("GET", live.one(row)) == expected


@every
def test_both_slash_forms_answer_without_a_redirect(live: Live) -> None:
    row = live.create()
    plain = live.many.rstrip("/")
    assert live.listed(plain) == live.listed(f"{plain}/")
    if live.resource.readable:
        assert live.terraform.ok("GET", live.one(row)) == live.terraform.ok("GET", f"{live.one(row)}/")
    if live.resource.deletable:
        assert live.terraform.call("DELETE", f"{live.one(row)}/").status < 400
        assert live.terraform.call("POST", f"{plain}/", live.body).status < 400


@those(lambda resource: resource.update)
def test_a_change_keeps_the_id_and_the_time_of_creation_and_is_what_everybody_reads(live: Live) -> None:
    row = live.create()
    after = live.update(row, live.changed)
    assert wrong_fields(after, live.resource.shape) == []
    assert after["id"] == row["id"] and after.get("created_at") == row.get("created_at")
    assert {name: after[name] for name in live.changed} == live.changed
    assert [one for one in live.listed() if one["id"] == row["id"]] == [after]


@those(lambda resource: resource.update)
def test_the_same_state_again_changes_nothing_at_all(live: Live) -> None:
    row = live.create()
    after = live.update(row, live.changed)
    before = AuditEntry.objects.count(), Change.objects.count()
    assert live.update(row, live.changed) == after
    assert (AuditEntry.objects.count(), Change.objects.count()) == before


@those(lambda resource: resource.deletable)
def test_a_deleted_thing_is_gone_and_its_name_is_free(live: Live) -> None:
    row = live.create()
    assert live.terraform.call("DELETE", live.one(row)).status in (200, 204)
    assert row["id"] not in {one["id"] for one in live.listed()}
    if live.resource.readable:
        refused(live.terraform.call("GET", live.one(row)), 404)
    refused(live.terraform.call("DELETE", live.one(row)), 404)
    again = live.create()
    assert again["id"] != row["id"]
    assert live.terraform.call("DELETE", live.one(again)).status in (200, 204)


@those(lambda resource: resource.named)
def test_a_second_one_of_the_same_name_is_refused_in_the_words_clients_look_for(live: Live) -> None:
    live.create()
    sentence = refused(live.terraform.call("POST", live.many, live.body), 409)
    assert "already exists" in sentence


@every
def test_an_empty_body_and_a_wrong_type_are_refused_with_the_name_of_the_field(live: Live) -> None:
    for name in live.body:
        sentence = refused(live.terraform.call("POST", live.many, {**live.body, name: {"a": 1} if name != "config" else 7}), 400)
        assert sentence.startswith(f"{name}:"), sentence
    refused(live.terraform.call("POST", live.many), 400)


@every
def test_keys_that_are_not_known_are_refused_by_name_and_nothing_is_made(live: Live) -> None:
    answer = live.terraform.call("POST", live.many, {**live.body, "from_the_future": {"x": [1]}})
    refused(answer, 400)
    assert answer.body["error"].startswith("from_the_future: ")
    live.terraform.ok("POST", live.many, live.body)  # its name is still free


@every
def test_what_never_was_is_404(live: Live) -> None:
    nothing = {"id": str(uuid.uuid4())}
    for method, wanted in (("GET", live.resource.readable), (live.resource.update, True), ("DELETE", live.resource.deletable)):
        if method and wanted:
            refused(live.terraform.call(method, live.one(nothing), live.changed if method == live.resource.update else None), 404)
