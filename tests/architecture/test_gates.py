"""What is open to whom is decided by the view that was resolved: a path is what somebody wrote, and a header what they claim."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

from accounts.models import User
from tests.architecture.test_api_rules import METHODS, OPEN, PEOPLE, concrete, view_of
from tests.conftest import Person

ROOT = Path(__file__).parents[2]
PRODUCT = ("accounts", "common", "failover", "gateway_runtime", "gateways", "integrations", "orchestrator", "vault")
PATHS = {"path", "path_info", "get_full_path", "build_absolute_uri", "get_host"}
READERS = {
    "common/api.py": "names it where there is nothing at it",
    "accounts/operations.py": "says in the audit which path was refused",
    "common/middleware.py": "measures it",
    "gateways/door_views.py": "binds a sealed message to it, which the sender signed",
    "gateway_runtime/client.py": "writes one",
    "orchestrator/node/heads.py": "takes it out of the bytes of a request",
    "orchestrator/node/http.py": "routes bytes to a process; what they may is decided there",
}
"""Files that read a request's path or host, and what for. None of them opens anything by it."""
HEADERS = ("X-FORWARDED", "X_FORWARDED", "FORWARDED_ALLOW", "SECURE_PROXY_SSL_HEADER", "USE_X_FORWARDED", "FORCE_SCRIPT_NAME")


def readers() -> Iterator[str]:
    for folder in PRODUCT:
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                is_request = (
                    isinstance(node, ast.Attribute) and node.attr in PATHS and ast.unparse(node.value).endswith("request")
                )
                if is_request:
                    yield str(file.relative_to(ROOT))


def test_nothing_is_opened_by_the_text_of_a_path() -> None:
    assert set(readers()) == set(READERS)


def test_no_header_of_a_proxy_or_a_framework_is_read() -> None:
    found = [
        (str(file.relative_to(ROOT)), name)
        for folder in PRODUCT for file in (ROOT / folder).rglob("*.py") for name in HEADERS if name in file.read_text().upper()
    ]  # fmt: skip
    assert found == []


def test_before_a_new_password_is_chosen_only_ones_own_account_is_open(primary: None, person: Callable[[str], Person]) -> None:
    """Every operation of the API, asked at its own path and at the same path behind one that is open."""
    someone = person("admin")
    User.objects.update(must_change_password=True)
    wrong = []
    for route, pattern in PEOPLE:
        view = view_of(pattern)
        for method in METHODS:
            if pattern.name in OPEN or not hasattr(view, method) or (view.open_before_password_change and method != "get"):
                continue
            status, body = someone.call(method, concrete(route))
            refused = status == 403 and body["code"] == "PASSWORD_CHANGE_REQUIRED"
            if refused == view.open_before_password_change:
                wrong.append((method, route, status))
            behind = someone.call(method, "/api/v1/auth" + concrete(route))[0]
            wrong += [(method, f"behind auth: {route}", behind)] if behind != 404 else []
    opened = {str(pattern.name) for _, pattern in PEOPLE if view_of(pattern).open_before_password_change}
    assert wrong == []
    assert opened == {"refresh", "logout", "browser-session", "sessions", "session", "password", "me", "my-permissions"}
