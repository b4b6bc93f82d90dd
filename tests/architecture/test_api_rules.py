"""Rules that hold for every path of the API, today's and tomorrow's (DESIGN §5, I20)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.urls import URLPattern, URLResolver, get_resolver

from common.api import Operation
from tests.conftest import Person

PLAIN = {"trust", "register", "heartbeat", "directive", "lease-renew", "lease-release", "fence", "sign-of-life", "drain-report",
         "task-claim",
         "task-results", "certificate-renew", "channel-writes", "channel-changes", "channel-sign-in", "channel-sign-out",
         "channel-vault-access", "channel-sync-open", "channel-sync-rows", "channel-sync-plan", "channel-sync-progress",
         "channel-sync-end", "channel-writes-check", "channel-storage-move", "channel-storage-end", "channel-storage-look",
         "audit-upload", "root", "metrics", "openapi", "docs", "docs-asset", "ui"}  # fmt: skip
"""Paths that are not for people: the machine channel authenticates by certificate, the others are named in the design."""
OPEN = {"login", "health", "health-live", "health-ready", "service-token", "oauth-token", "entra-login", "entra-callback"}
"""Operations that answer without any credential."""
METHODS = ("get", "post", "put", "patch", "delete")
SHAPE = {"error", "code", "details"}


def patterns(resolver: Any = None, prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    for entry in (resolver or get_resolver()).url_patterns:
        if isinstance(entry, URLResolver):
            yield from patterns(entry, prefix + str(entry.pattern))
        elif not (entry.name or "").endswith("-slash"):
            yield prefix + str(entry.pattern), entry


def concrete(route: str) -> str:
    """The route with something plausible in the place of each parameter."""
    filled = re.sub(r"<str:code>", "NPR", route)
    return "/" + re.sub(r"<[^>]+>", "00000000-0000-4000-8000-000000000000", filled)


def view_of(pattern: URLPattern) -> Any:
    return getattr(pattern.callback, "view_class", None) or getattr(pattern.callback, "cls", None)


ROUTES = [(route, pattern) for route, pattern in patterns()]
PEOPLE = [
    (route, pattern) for route, pattern in ROUTES if pattern.name not in PLAIN and not str(pattern.name).startswith("channel-")
]
IDS = [pattern.name for _, pattern in PEOPLE]


@pytest.mark.parametrize(("route", "pattern"), PEOPLE, ids=IDS)
def test_people_reach_operations_that_declare_their_permissions(route: str, pattern: URLPattern) -> None:
    view = view_of(pattern)
    assert view is not None and issubclass(view, Operation)
    served = {name.upper() for name in METHODS if hasattr(view, name)}
    assert view.public or served == set(view.permissions), f"{view.__name__} serves {served}"
    assert view.__doc__, f"{view.__name__} says nothing of itself"


@pytest.mark.parametrize(("route", "pattern"), PEOPLE, ids=IDS)
def test_nobody_gets_in_without_a_token_and_the_answer_has_the_error_shape(
    primary: None, route: str, pattern: URLPattern, anybody: Person
) -> None:
    if pattern.name in OPEN:
        return
    for method in METHODS:
        status, body = anybody.call(method, concrete(route))
        assert status in (401, 405), (method, route, status)
        assert body.keys() <= SHAPE and body["error"]


@pytest.mark.parametrize(("route", "pattern"), PEOPLE, ids=IDS)
def test_a_viewer_is_refused_everywhere_but_at_their_own_account(
    primary: None, route: str, pattern: URLPattern, person: Any
) -> None:
    viewer = person("viewer")
    own = {"refresh", "logout", "me", "my-permissions", "password", "browser-session", "sessions", "session", "api-tokens",
           "api-token", "entra-check"}  # fmt: skip
    for method in METHODS:
        status, body = viewer.call(method, concrete(route))
        if pattern.name in own | OPEN or status == 405:
            continue
        assert (status, body["code"]) == (403, "PERMISSION_DENIED"), (method, route)


BODIES = {
    "no json": (b"{", 400),
    "array": (b"[]", 400),
    "text": (b'"x"', 400),
    "number": (b"7", 400),
    "null": (b"null", 400),
    "twice the same name": (b'{"name":"a","name":"b"}', 400),
    "not a number": (b'{"name":NaN}', 400),
    "nul": (b'{"name":"a\\u0000b"}', 400),
    "nul in a name": (b'{"a\\u0000":"b"}', 400),
    "deep": (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400),
    "deep array": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "not utf-8": (b'{"name":"\xff"}', 400),
    "lone surrogate": (b'{"name":"\\ud800","kind":"\\ud800","email":"\\ud800","password":"\\ud800"}', 400),
    "large": (b'{"name":"' + b"x" * (1024 * 1024) + b'"}', 413),
    "long number": (b'{"ttl_hours":' + b"9" * 10_000 + b"}", 400),
}
WRITING = [(route, pattern) for route, pattern in PEOPLE if hasattr(view_of(pattern), "post")]
EMPTY_IS_FINE = {"refresh", "logout"}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize(("route", "pattern"), WRITING, ids=[pattern.name for _, pattern in WRITING])
def test_a_body_that_is_no_plain_object_is_refused_in_the_error_shape(
    primary: None, admin: Person, route: str, pattern: URLPattern, kind: str
) -> None:
    raw, expected = BODIES[kind]
    status, body = admin.call("post", concrete(route), data=raw, content_type="application/json")
    if pattern.name in EMPTY_IS_FINE:
        assert status < 500
        return
    assert status in (expected, 404, 409, 400), (status, body)
    assert status != 500 and body.keys() <= SHAPE | {"checks", "operation"}
    if "<" not in route:
        assert status == expected, body


def test_unknown_paths_and_methods_have_the_error_shape(admin: Person) -> None:
    """C7: existing clients print `error` and `details` only, so these say which path and method it was."""
    nothing = {"error": "there is nothing at this path", "code": "RESOURCE_NOT_FOUND"}
    assert admin.get("rotation/configs?x=1") == (404, {**nothing, "details": "GET /api/v1/rotation/configs"})
    assert admin.get("/nothing") == (404, {**nothing, "details": "GET /nothing"})
    status, body = admin.get("/no\u202ething" + "x" * 500)
    assert status == 404 and body["details"].isprintable() and len(body["details"]) < 210
    status, body = admin.call("put", "/api/v1/gateways")
    assert (status, body["code"]) == (405, "METHOD_NOT_ALLOWED") and "GET" in body["error"]


@pytest.mark.parametrize("text", ["%00", "%F0%28%8C%28", "..%2f..%2fetc", "x" * 5000, "%0d%0aX-Evil:1", "' OR 1=1 --", "\u2028"])
def test_strange_ids_in_a_path_are_404(primary: None, admin: Person, text: str) -> None:
    for path in (f"gateways/{text}", f"admin/failover/{text}", f"admin/tasks/{text}"):
        status, body = admin.get(path)
        assert status in (404, 400) and body.keys() <= SHAPE, (path, status)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [("x=" + "y" * 4096, "the query is longer than 4096"), ("&".join(["a=1"] * 51), "more than 50 parameters")],
)
def test_a_query_out_of_bounds_is_refused_before_anybody_looks_into_it(anybody: Person, query: str, sentence: str) -> None:
    for path in ("health", "secrets", "auth/sso/entra/callback", "channel/trust"):
        status, body = anybody.get(f"{path}?{query}")
        assert (status, body["code"]) == (400, "INVALID_FORMAT") and sentence in body["error"]


def test_a_length_no_body_may_have_is_refused_before_it_is_read(anybody: Person) -> None:
    for path in ("auth/login", "secrets", "gateways/heartbeat"):
        for said in ("9" * 20, "9" * 3000):
            answer = anybody.client.post(f"/api/v1/{path}", data=b"{}", content_type="application/json", CONTENT_LENGTH=said)
            assert answer.status_code == 413 and answer.json()["error"].startswith("Content-Length: "), path


def test_each_path_answers_with_and_without_a_slash_and_never_redirects(primary: None, admin: Person) -> None:
    for route, pattern in PEOPLE:
        if not hasattr(view_of(pattern), "get"):
            continue
        plain, slash = admin.get(concrete(route)), admin.get(concrete(route) + "/")
        assert plain[0] == slash[0] and plain[0] not in (301, 302, 308), route
