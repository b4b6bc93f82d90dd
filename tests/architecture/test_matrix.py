"""Every route x every system role x where the role is held: the answer is what the declared permission says, in every cell (I20).

A role is held everywhere, or in one's own organization with one's own things asked for, or there with somebody else's. What is
somebody else's must look exactly like what never was.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.urls import URLPattern

from accounts.models import Role, RoleGrant, Session, User
from accounts.roles import SYSTEM_ROLES, permissions_of
from accounts.sessions import PREFIX, hash_token
from common.api import SIGNED_IN
from common.clock import now
from tests.architecture.test_api_rules import METHODS, PEOPLE, view_of
from tests.conftest import Person

NOTHING = "00000000-0000-4000-8000-000000000000"
PLACES: Mapping[str, Mapping[str, str]] = {
    "organization": {"identifier": "organization"},
    "environments": {"organization": "organization"},
    "environment": {"organization": "organization", "identifier": "environment"},
    "config-templates": {"organization": "organization"},
    "naming-preview": {"organization": "organization"},
    "naming-check": {"organization": "organization"},
    "config-template": {"organization": "organization", "identifier": "template"},
    "project": {"identifier": "project"},
    "project-settings": {"identifier": "project"},
    "project-storage": {"identifier": "project"},
    "project-audit-logs": {"identifier": "project"},
    "integrations": {"project": "project"},
    "integration": {"identifier": "integration"},
    "integration-test": {"identifier": "integration"},
    "integration-access": {"identifier": "integration"},
    "sync-rules": {"project": "project"},
    "sync-rule": {"identifier": "rule"},
    "sync-runs": {"identifier": "rule"},
    "sync-setup": {"identifier": "rule"},
    "user": {"identifier": "user"},
    "user-disable": {"identifier": "user"},
    "user-enable": {"identifier": "user"},
    "user-reset": {"identifier": "user"},
    "user-entra": {"identifier": "user"},
    "user-roles": {"identifier": "user"},
    "user-role": {"identifier": "user", "assignment": "assignment"},
    "effective-permissions": {"identifier": "user"},
}
"""Which thing of an organization each parameter of a route stands for. Routes that are not here are asked for nothing real."""
OF_ALL: Mapping[str, Mapping[str, str]] = {"role": {"identifier": "own_role"}}
"""The same for what belongs to no organization."""
WISHES: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("project-storage", "post"): {"to": "key_vault"},
    ("naming-preview", "post"): {"company": "crd", "project": "mzv", "environment": "PRO", "region": "gwc"},
    ("organizations", "post"): {"name": "New"},
    ("organization", "put"): {"name": "Renamed"},
    ("environments", "post"): {"name": "extra"},
    ("environment", "patch"): {"name": "other"},
    ("config-templates", "post"): {"name": "n", "template": "t"},
    ("config-template", "put"): {"name": "m", "template": "t"},
    ("projects", "post"): {"name": "n", "organization_id": "{organization}"},
    ("project", "put"): {"name": "m"},
    ("integrations", "post"): {"name": "n", "type": "t", "provider": "p"},
    ("integration", "put"): {"name": "m", "type": "t", "provider": "p"},
    ("sync-rules", "post"): {"name": "n", "integration_id": "{integration}"},
    ("sync-rule", "put"): {"name": "m", "integration_id": "{integration}"},
    ("users", "post"): {"email": "new@example.com", "password": "seven purple otters sing"},
    ("user-roles", "post"): {"role_id": "{role}", "organization_id": "{organization}", "environment": "dev"},
    ("roles", "post"): {"name": "own"},
    ("role", "put"): {"name": "own"},
    ("mappings", "post"): {"group_name": "g", "role_id": "{role}"},
    ("identity-providers", "post"): {"type": "oidc", "name": "n"},
    ("service-identities", "post"): {"display_name": "n", "owner_email": "o@example.com"},
    ("audit-search", "post"): {},
}
EVERYWHERE_ONLY = {
    ("organizations", "post"), ("organization", "delete"), ("users", "post"), ("user", "delete"), ("user-disable", "post"),
    ("user-enable", "post"), ("user-reset", "post"), ("user-entra", "post"), ("roles", "post"),
    ("role", "put"), ("role", "delete"),
}  # fmt: skip
"""What a role in one organization does not reach, though its permission is held there."""
NOT_EMPTY = {
    ("organization", "delete"), ("integration-test", "post"), ("integration-access", "get"), ("sync-runs", "post"),
}  # fmt: skip
"""What is refused with 409 to whoever may do it: the organization of this world has a project, its integration is no vault."""


@dataclass(frozen=True)
class Cell:
    name: str
    route: str
    method: str
    permission: str
    scoped: bool

    def path(self, things: Mapping[str, str]) -> str:
        places = PLACES.get(self.name) or OF_ALL.get(self.name, {})
        filled = re.sub(r"<str:code>", "NPR", self.route)
        return "/" + re.sub(r"<\w+:(\w+)>", lambda found: things.get(places.get(found[1], ""), NOTHING), filled)

    def wish(self, things: Mapping[str, str]) -> dict[str, Any]:
        body = dict(WISHES.get((self.name, self.method), {}))
        return {name: value.format(**things) if isinstance(value, str) else value for name, value in body.items()}

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.method

    @property
    def names_a_place(self) -> bool:
        return self.name in PLACES or self.key == ("projects", "post")


def cells_of(routes: list[tuple[str, URLPattern]]) -> Iterator[Cell]:
    for route, pattern in routes:
        view = view_of(pattern)
        if view.public:
            continue
        for method in METHODS:
            if hasattr(view, method):
                yield Cell(str(pattern.name), route, method, view.permissions[method.upper()], view.scoped)


CELLS = [cell for cell in cells_of(PEOPLE) if cell.permission != SIGNED_IN]
every_role = pytest.mark.parametrize("role", SYSTEM_ROLES)


@pytest.fixture
def role_row(primary: None, role: str) -> Role:
    return Role.objects.get(name=role)


@pytest.fixture
def own(admin: Person, primary: None) -> dict[str, str]:
    return organization_with_everything(admin, "Bank")


@pytest.fixture
def foreign(admin: Person, primary: None) -> dict[str, str]:
    return organization_with_everything(admin, "Insurer")


def organization_with_everything(admin: Person, name: str) -> dict[str, str]:
    """Ids of one thing of each kind in a new organization."""

    def made(path: str, body: dict[str, Any]) -> str:
        status, row = admin.post(path, body)
        assert status == 201, row
        return str(row["id"])

    viewer = str(Role.objects.get(name="viewer").id)
    organization = made("organizations", {"name": name})
    project = made("projects", {"name": "p", "organization_id": organization})
    integration = made(f"projects/{project}/integrations", {"name": "i", "type": "t", "provider": "p"})
    user = made("rbac/users", {"email": f"{name}@example.com", "password": "seven purple otters sing"})
    return {
        "role": viewer,
        "own_role": made("rbac/roles", {"name": f"of {name}"}),
        "organization": organization,
        "project": project,
        "integration": integration,
        "rule": made(f"projects/{project}/sync-rules", {"name": "r", "integration_id": integration}),
        "environment": made(f"organizations/{organization}/environments", {"name": "uat"}),
        "template": made(f"organizations/{organization}/config-templates", {"name": "t", "template": "x"}),
        "user": user,
        "assignment": made(f"rbac/users/{user}/roles", {"role_id": viewer, "organization_id": organization}),
    }


def caller(role: str, organization: str = "") -> Person:
    """Somebody with this role everywhere, or in one organization only."""
    user = User.objects.create(email="caller@example.com", role="viewer" if organization else role, password="!")
    if organization:
        RoleGrant.objects.create(user=user, role=Role.objects.get(name=role), organization_id=organization)
    token = f"{PREFIX}caller"
    Session.objects.create(user=user, token_hash=hash_token(token), expires_at=now() + timedelta(hours=1))
    return Person(token)


def answer(person: Person, cell: Cell, things: Mapping[str, str]) -> tuple[int, Any]:
    """Make the call and take back whatever it changed."""
    with transaction.atomic():
        more: dict[str, Any] = {} if cell.method == "get" else {"data": cell.wish(things), "content_type": "application/json"}
        found = person.call(cell.method, cell.path(things), **more)
        transaction.set_rollback(True)
    return found


def is_refusal(status: int, body: Any) -> bool:
    return status == 403 and body["code"] == "PERMISSION_DENIED"


def is_let_through(cell: Cell, status: int) -> bool:
    """With real things and a good body the call succeeds; elsewhere it is at least not refused and does not fail."""
    if cell.name in PLACES or cell.key in WISHES:
        return status < 400 or (status == 409 and cell.key in NOT_EMPTY)
    return status not in (401, 403) and status < 500


@every_role
def test_a_role_held_everywhere_opens_exactly_what_it_says(role: str, own: dict[str, str]) -> None:
    person, held = caller(role), permissions_of([role])
    wrong = []
    for cell in CELLS:
        status, body = answer(person, cell, own)
        right = is_let_through(cell, status) if cell.permission in held else is_refusal(status, body)
        if not right:
            wrong.append((cell.key, status, body))
    assert wrong == []


@every_role
def test_a_role_held_in_one_organization_opens_its_things_only(role: str, own: dict[str, str]) -> None:
    person, held = caller(role, own["organization"]), permissions_of([role])
    wrong = []
    for cell in CELLS:
        status, body = answer(person, cell, own)
        reaches = cell.permission in held and cell.scoped and cell.key not in EVERYWHERE_ONLY
        harmless = cell.permission in permissions_of(["viewer"])  # the role of the account itself counts everywhere
        right = is_let_through(cell, status) if reaches or harmless else is_refusal(status, body)
        if not right:
            wrong.append((cell.key, status, body))
    assert wrong == []


@every_role
def test_somebody_else_s_things_are_404_and_look_like_things_that_never_were(
    role: str, own: dict[str, str], foreign: dict[str, str]
) -> None:
    person, held = caller(role, own["organization"]), permissions_of([role])
    never = {name: str(uuid.uuid4()) for name in foreign} | {"role": foreign["role"]}
    wrong = []
    for cell in CELLS:
        if not cell.names_a_place:
            continue
        theirs, none = answer(person, cell, foreign), answer(person, cell, never)
        expected = 404 if cell.permission in held else 403
        if theirs != none or theirs[0] != expected:
            wrong.append((cell.key, theirs, none))
    assert wrong == []


@every_role
def test_no_list_names_a_thing_of_somebody_else(role: str, own: dict[str, str], foreign: dict[str, str]) -> None:
    person = caller(role, own["organization"])
    hidden = {identifier for name, identifier in foreign.items() if name not in ("role", "own_role")}
    for cell in CELLS:
        if cell.method == "get" and not cell.names_a_place:
            found = str(answer(person, cell, own))
            assert not [identifier for identifier in hidden if identifier in found], cell.key


def test_the_matrix_is_as_large_as_the_api() -> None:
    served = {(str(pattern.name), method) for _, pattern in PEOPLE for method in METHODS if hasattr(view_of(pattern), method)}
    public = {(str(pattern.name), method) for _, pattern in PEOPLE if view_of(pattern).public for method in METHODS}
    own_account = {cell.key for cell in cells_of(PEOPLE) if cell.permission == SIGNED_IN}
    assert {cell.key for cell in CELLS} == served - public - own_account
    assert set(PLACES) <= {cell.name for cell in CELLS}
    assert set(WISHES) <= {cell.key for cell in CELLS}
