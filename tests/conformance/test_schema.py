"""The API does what its OpenAPI document says, whatever is sent: no server error, nothing that is not described."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import schemathesis
from django.test import Client
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from orchestrator.openapi import document
from tests.conftest import Person

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ENDS_THE_SESSION = {"/api/v1/auth/logout", "/api/v1/auth/refresh"}
OPERATIONS = [found.ok() for found in schemathesis.openapi.from_dict(document()).get_all_operations()]
BY_OPERATION = pytest.mark.parametrize(
    "operation",
    [one for one in OPERATIONS if one.path not in ENDS_THE_SESSION],
    ids=lambda one: one.label.replace("/api/v1/", ""),
)


def sent(case: Any, person: Person) -> Response:
    """Send a generated case through Django's own client, inside the transaction of the test."""
    wanted = case.as_transport_kwargs(base_url="http://localhost", headers=person.headers)
    request = requests.Request(**{name: value for name, value in wanted.items() if name != "timeout"}).prepare()
    parts = urlsplit(request.url or "")
    body = request.body.encode() if isinstance(request.body, str) else request.body or b""
    headers = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.items()
               if name.lower() not in ("content-type", "content-length")}  # fmt: skip
    answer = Client(raise_request_exception=False).generic(
        request.method or "", parts.path, body,
        content_type=request.headers.get("Content-Type", "application/json"), QUERY_STRING=parts.query, **headers,
    )  # fmt: skip
    return Response(
        answer.status_code, {name: [value] for name, value in answer.headers.items()}, answer.getvalue(), request, 0.0, False
    )


@pytest.mark.parametrize("examples", [10, pytest.param(60, marks=pytest.mark.long)])
@BY_OPERATION
def test_each_operation_answers_as_described(primary: None, admin: Person, operation: Any, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(case=operation.as_strategy())
    def holds(case: Any) -> None:
        case.validate_response(sent(case, admin), checks=CHECKS)

    holds()


def test_every_operation_of_the_document_is_tried() -> None:
    assert len(OPERATIONS) == sum(len(operations) for operations in document()["paths"].values())
