"""What callers are told when the database goes: a doubt about a change is raised where there was one, and nowhere else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client, RequestFactory
from rest_framework import serializers

from common.api import Operation, checked, exception_handler, guarded
from common.errors import ValidationFailed

GONE = OperationalError("server closed the connection unexpectedly")


class Asks(Operation):
    only_asks = True


@pytest.mark.parametrize(
    ("method", "view", "doubted"),
    [("GET", Operation, False), ("HEAD", Operation, False), ("OPTIONS", Operation, False), ("POST", Asks, False),
     ("POST", Operation, True), ("PUT", Operation, True), ("PATCH", Operation, True), ("DELETE", Operation, True)],
)  # fmt: skip
def test_only_a_change_may_have_been_kept(method: str, view: type[Operation], doubted: bool) -> None:
    context: dict[str, Any] = {"request": SimpleNamespace(method=method), "view": view()}
    answer = exception_handler(GONE, context)
    assert answer.status_code == 503 and answer["Retry-After"]
    assert (b"may have been kept" in answer.content) is doubted and b"does not answer" in answer.content


def test_a_plain_view_that_only_asks_raises_no_doubt_either() -> None:
    def view(_request: object) -> Any:
        raise GONE

    factory = RequestFactory()
    assert b"may have been kept" not in guarded(view)(factory.get("/")).content
    assert b"may have been kept" in guarded(view)(factory.post("/")).content


class Wish(serializers.Serializer):
    name = serializers.CharField()
    count = serializers.IntegerField()
    where = serializers.ListField(child=serializers.IntegerField(), required=False)


def test_all_that_is_missing_or_wrong_is_in_one_refusal() -> None:
    with pytest.raises(ValidationFailed) as refused:
        checked(Wish, {"where": [1, "x", "y"]})
    assert refused.value.sentence.startswith("name: is required; count: is required; where.1: ")
    assert refused.value.sentence.count(";") == 2
    with pytest.raises(ValidationFailed, match=r"^name: is required$"):
        checked(Wish, {"count": 1})


def test_a_browser_that_has_signed_in_is_told_what_is_there() -> None:
    answer = Client().get("/ui/")
    assert (
        answer.status_code == 200
        and b"/api/v1/docs" in answer.content
        and "default-src 'none'" in answer["Content-Security-Policy"]
    )
