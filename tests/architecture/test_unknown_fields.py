"""Every operation x every name it does not know, in query and body: 400 that names it and the nearest known one (docs/adr/0041).

The cells are made from the OpenAPI document, and for a gateway from its routes, so a new operation is in the table by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.urls import get_resolver

from common.described import accepted_by
from common.nearest import nearest
from orchestrator.openapi import document
from tests.architecture.test_api_rules import METHODS, PLAIN, concrete, patterns, view_of
from tests.conftest import Person

STRANGE = "zz_strange"
PARTS = 4
"""The table is walked in so many tests, so that none takes long."""


@dataclass(frozen=True)
class Cell:
    method: str
    path: str
    query: str
    body: Any
    wanted: tuple[str, ...]
    """What the sentence must have; empty: the names are known, so nobody may call them unknown."""


def misspelt(name: str) -> str:
    middle = len(name) // 2
    return name[:middle] + name[middle + 1 :] if len(name) > 2 else name + "x"


def cells_of(method: str, path: str, query: list[str], body: Mapping[str, str]) -> Iterator[Cell]:
    """`body` maps each field to `object` or `array` where it has a form of its own inside, else to nothing."""
    yield Cell(method, path, f"{STRANGE}=1", None, (STRANGE,))
    yield Cell(method, path, "", {STRANGE: 1}, (STRANGE,))
    yield Cell(method, path, "", {STRANGE: {}, "yy_other": []}, (STRANGE, "yy_other"))
    for name in query:
        yield Cell(method, path, f"{misspelt(name)}=1", None, (f"{misspelt(name)}: ", f"did you mean {name}?"))
        yield Cell(method, path, f"{name}=1&{name}=2", None, (f"{name}: comes more than once",))
    for name, form in body.items():
        yield Cell(method, path, "", {misspelt(name): 1}, (f"{misspelt(name)}: ", f"did you mean {name}?"))
        if form == "object":
            yield Cell(method, path, "", {name: {STRANGE: 1}}, (f"{name}.{STRANGE}: ",))
        if form == "array":
            yield Cell(method, path, "", {name: [{STRANGE: 1}]}, (f"{name}[0].{STRANGE}: ",))
    if body:
        yield Cell(method, path, "", dict.fromkeys(body), ())


def of_the_document() -> Iterator[Cell]:
    described = document()
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            query = [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]
            if operation["operationId"] == "entraCallback":  # RFC 6749 §4.1.2: what Entra adds is passed over
                continue
            content = operation.get("requestBody", {}).get("content", {})
            body = fields_of(next(iter(content.values()))["schema"], described) if content else {}
            filled = path.replace("{code}", "NPR")
            for name in ("identifier", "organization", "project", "assignment", "test", "run", "number", "gateway"):
                filled = filled.replace(f"{{{name}}}", "00000000-0000-4000-8000-000000000000")
            yield from cells_of(method, filled, query, body)


def fields_of(schema: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a body, with what is inside of each: a free map is nothing, since its names are its sender's."""
    if "$ref" in schema:
        return fields_of(described["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], described)
    return {name: inside(inner, described) for name, inner in schema.get("properties", {}).items()}


def inside(schema: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    of_one = schema.get("items", schema)
    named = [one for one in [of_one, *of_one.get("allOf", [])] if "$ref" in one and fields_of(one, described)]
    return "" if not named else "array" if "items" in schema else "object"


def of_a_gateway() -> Iterator[Cell]:
    for route, pattern in patterns(get_resolver("orchestrator.urls.gateway")):
        view = view_of(pattern)
        if view is None or route.endswith("/") or pattern.name == "entra-callback":
            continue
        for method in METHODS:
            if not hasattr(view, method):
                continue
            accepted = accepted_by(view, method)
            fields = accepted.body._declared_fields if accepted.body else {}
            yield from cells_of(method, f"/gw{concrete(route)}", sorted(accepted.query), dict.fromkeys(fields, ""))


def wrong(cells: list[Cell], caller: Person) -> list[str]:
    found = []
    for cell in cells:
        path = cell.path + (f"?{cell.query}" if cell.query else "")
        more = {"data": cell.body, "content_type": "application/json"} if cell.body is not None else {}
        if cell.method == "get" and cell.body is not None:  # the client of the tests would make a query of it
            status, body = generic(caller, path, cell.body)
        else:
            status, body = caller.call(cell.method, path, **more)
        said = body["error"] if isinstance(body, dict) and "error" in body else ""
        right = status == 400 and all(text in said for text in cell.wanted) if cell.wanted else "not known here" not in said
        if not right:
            found.append(f"{cell.method} {path} {cell.body}: {status} {said or body}")
    return found


def generic(caller: Person, path: str, body: Any) -> tuple[int, Any]:
    answer = caller.client.generic("GET", path, json.dumps(body), content_type="application/json", headers=caller.headers)
    return answer.status_code, json.loads(answer.content) if answer.content else None


@pytest.mark.parametrize("part", range(PARTS))
def test_no_operation_of_the_document_passes_over_a_name_it_does_not_know(primary: None, admin: Person, part: int) -> None:
    cells = list(of_the_document())[part::PARTS]
    found = wrong(cells, admin)
    print(f"{len(cells)} cells, {len(found)} wrong")
    assert len(cells) > 100 and not found, "\n".join(found)


def test_no_operation_of_a_gateway_passes_over_a_name_it_does_not_know(
    primary: None, admin: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ROOT_URLCONF", "tests.both_urls")
    cells = list(of_a_gateway())
    found = wrong(cells, admin)
    print(f"{len(cells)} cells, {len(found)} wrong")
    assert len(cells) > 50 and not found, "\n".join(found)


def test_what_is_no_operation_for_people_takes_no_query_either(primary: None, anybody: Person) -> None:
    for route, pattern in patterns():
        if pattern.name in PLAIN or not pattern.name or pattern.name.startswith("channel-"):
            status, body = anybody.get(f"{concrete(route)}?{STRANGE}=1")
            assert status == 400 and STRANGE in body["error"], (route, status, body)


def test_what_an_operation_takes_is_said_in_one_place_only() -> None:
    """An operation that is described past `common.described` would take whatever comes."""
    root = Path(__file__).parents[2]
    packages = ("accounts", "vault", "integrations", "gateways", "gateway_runtime", "failover", "orchestrator", "common")
    past = [
        str(file.relative_to(root)) for package in packages for file in (root / package).rglob("*.py")
        if re.search(r"\bextend_schema\b", file.read_text())
    ]  # fmt: skip
    assert past == ["common/described.py"]
    for urls in ("orchestrator.urls.primary", "orchestrator.urls.gateway"):
        for _, pattern in patterns(get_resolver(urls)):
            if view := view_of(pattern):
                bare = [name for name in METHODS if hasattr(view, name) and not hasattr(getattr(view, name), "accepted")]
                assert not bare, f"{view.__name__}: {bare} of {pattern.name} says nowhere what it takes"


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("scope", {"scopes", "name", "duration"}, "scopes"), ("env", {"environment", "name"}, "environment"),
        ("baseVersion", {"base_version", "value"}, "base_version"), ("enviroment", {"environment", "key"}, "environment"),
        ("x", {"name"}, None), ("", {"name"}, None), ("name", set(), None), ("n" * 5000, {"name"}, None),
        ("sync_diretion", {"sync_direction", "sync_mode"}, "sync_direction"),
    ],
)  # fmt: skip
def test_the_nearest_known_name_is_offered(name: str, known: set[str], meant: str | None) -> None:
    assert nearest(name, known) == meant


def test_a_misspelt_limit_makes_no_token_with_all_rights(primary: None, admin: Person) -> None:
    """B10: `scope` for `scopes` made a token that may do whatever its maker may."""
    status, body = admin.post("users/tokens", {"name": "ci", "scope": ["secrets:read"]})
    assert (status, body["code"]) == (400, "VALIDATION_ERROR")
    assert body["error"] == "scope: this field is not known here; did you mean scopes?"
    assert body["details"].startswith("known here: ") and {"duration", "name", "scopes"} <= set(
        re.findall(r"\w+", body["details"])
    )
    assert admin.get("users/tokens") == (200, [])


def test_thousands_of_unknown_names_make_one_short_sentence(primary: None, admin: Person) -> None:
    status, body = admin.post("users/tokens", {f"field{number}": 1 for number in range(3000)})
    assert status == 400 and len(body["error"]) < 500
    status, body = admin.post("users/tokens", {"a\u202eb\u200b" + "x" * 900: 1})
    assert status == 400 and body["error"].isprintable() and len(body["error"]) < 120
