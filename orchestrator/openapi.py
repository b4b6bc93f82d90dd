"""`GET /api/v1/openapi.json`: the description of the people's API, generated from the views."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from django.http import HttpRequest, HttpResponse
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator

from common.api import guarded
from common.errors import MethodNotAllowed

ERROR: dict[str, Any] = {
    "type": "object",
    "description": "The shape of every refusal. Some name more, for example the failing checks.",
    "properties": {
        "error": {"type": "string", "description": "a sentence for people"},
        "code": {"type": "string", "description": "for programs, for example RESOURCE_NOT_FOUND"},
        "details": {"type": "string"},
    },
    "required": ["error", "code"],
}
ERROR_REFERENCE = {"$ref": "#/components/schemas/Error"}


class BearerScheme(OpenApiAuthenticationExtension):
    """How people and tokens prove who they are."""

    target_class = "accounts.authentication.BearerAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "a token of POST /api/v1/auth/login"}


def one_form_of_each_path(endpoints: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Describe each path once, in its form without trailing slash."""
    return [endpoint for endpoint in endpoints if not endpoint[0].endswith("/")]


def with_errors(result: dict[str, Any], generator: object, request: object, public: bool) -> dict[str, Any]:
    """Every operation may answer with the one error shape of the design (§5)."""
    result.setdefault("components", {}).setdefault("schemas", {})["Error"] = ERROR
    answer = {"description": "refused; the sentence says why", "content": {"application/json": {"schema": ERROR_REFERENCE}}}
    for operations in result["paths"].values():
        for operation in operations.values():
            operation["responses"].setdefault("default", answer)
            operation.setdefault("summary", _first_sentence(operation.get("description", "")))
    return result


def _first_sentence(text: str) -> str:
    """What a list of operations shows beside each path."""
    return re.split(r"(?<=[a-z)`])[.:;]\s", " ".join(text.split()), maxsplit=1)[0].rstrip(".")


@cache
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document; built once a process, since the routes do not change."""
    schema: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return schema


@guarded
def openapi_document(request: HttpRequest) -> HttpResponse:
    """Public: it describes the product, not this installation."""
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed("this path takes GET only")
    return HttpResponse(json.dumps(document(), indent=1, sort_keys=True), content_type="application/json")
