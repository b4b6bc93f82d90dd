"""An id of somebody else's thing is answered as an id that nobody has: same status, code and sentence, wherever it stands (I13).

The cells are made from the OpenAPI document: every operation x every place for an id in path, query and body. The other ids of an
operation are the caller's own, so that each is looked at as deep as it goes. The ids that exist elsewhere are one of every kind:
in another organization, and in another environment of the caller's own project.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import transaction

from accounts.models import Project, RoleGrant
from orchestrator.openapi import document
from tests import factories
from tests.architecture.test_matrix import caller, organization_with_everything
from tests.conftest import Person, fleet_of

PARTS, SHARE = 4, 4
"""The table is walked in so many tests; the quick run tries the kind that fits a place and every fourth of the others."""
OWN = {
    "organization": "organization", "organizations": "organization", "organization_id": "organization", "project": "project",
    "projects": "project", "project_id": "project", "environments": "environment", "config-templates": "template",
    "template_id": "template", "integrations": "integration", "integration_id": "integration", "sync-rules": "rule",
    "sync-runs": "run", "users": "user", "user_id": "user", "assignment": "assignment", "secrets": "secret", "roles": "own_role",
    "role_id": "own_role", "tokens": "token", "sessions": "session", "service-identities": "service",
}  # fmt: skip
"""Which of the caller's own things an id stands for, by its name or by the collection before it; of others they have none."""
BODIES: Mapping[str, Mapping[str, Any]] = {
    "post /api/v1/secrets": {"environment": "dev", "key": "fresh", "value": "v"},
    "post /api/v1/projects": {"name": "fresh"},
    "put /api/v1/projects/{identifier}": {"name": "fresh"},
    "post /api/v1/projects/{project}/sync-rules": {"name": "fresh"},
    "put /api/v1/projects/sync-rules/{identifier}": {"name": "fresh"},
    "post /api/v1/projects/{project}/integrations": {"name": "n", "type": "t", "provider": "p"},
    "put /api/v1/projects/integrations/{identifier}": {"name": "n", "type": "t", "provider": "p"},
    "post /api/v1/rbac/users/{identifier}/roles": {"environment": "dev"},
    "post /api/v1/rbac/mappings": {"group_name": "g"},
    "post /api/v1/organizations/{organization}/naming/preview": {
        "company": "crd", "project": "mzv", "environment": "PRO", "region": "gwc",
    },
    "post /api/v1/organizations/{organization}/environments": {"name": "fresh"},
    "post /api/v1/organizations/{organization}/config-templates": {"name": "n", "template": "t"},
    "put /api/v1/organizations/{organization}/config-templates/{identifier}": {"name": "n", "template": "t"},
    "patch /api/v1/organizations/{organization}/environments/{identifier}": {"name": "other"},
    "put /api/v1/organizations/{identifier}": {"name": "other"},
    "post /api/v1/projects/{identifier}/storage": {"to": "key_vault"},
    "put /api/v1/secrets/{identifier}": {"value": "v"},
    "patch /api/v1/secrets/{identifier}": {"description": "d"},
    "post /api/v1/secrets/{identifier}/rollback": {"version": 1},
    "post /api/v1/admin/writes/resolve": {"resolution": "discard"},
    "post /api/v1/admin/writes/{identifier}/resolve": {"resolution": "discard"},
    "post /api/v1/admin/vaults/open": {"origin": "https://kv-a.vault.azure.net", "gateway_environment": "NPR"},
    "post /api/v1/admin/vaults/close": {"origin": "https://kv-a.vault.azure.net"},
    "post /api/v1/users/tokens": {"name": "n"},
    "put /api/v1/rbac/roles/{identifier}": {"name": "fresh"},
}  # fmt: skip
"""What else a body needs for its ids to be looked at."""
ALONE = {
    "post /api/v1/audit-logs/search", "post /api/v1/admin/failover/{code}/activate-dr",
    "post /api/v1/admin/failover/{code}/failback",
    "post /api/v1/organizations/{organization}/naming/check", "post /api/v1/service-identities/{identifier}/roles",
}  # fmt: skip
"""Bodies that need nothing beside their ids, or (of names to check) whose ids are looked at first."""
NOT_AN_ID = {"client_id"}
"""Of who signs in; that they are told apart from nobody is the matter of the sign-in's own tests."""


@dataclass(frozen=True)
class Cell:
    """One place for an id (`path`, `query` or `body`, and its name) of one operation."""

    method: str
    path: str
    where: str
    name: str
    query: tuple[str, ...]
    body: tuple[str, ...]

    def call(self, person: Person, own: Mapping[str, str], identifier: str) -> tuple[int, Any]:
        """The answer, with whatever the call did taken back."""
        path = re.sub(r"\{(\w+)\}", lambda found: self._of(own, found[1], found.start(), identifier), self.path)
        query = {name: self._other(own, name) for name in self.query if name != self.name or self.where != "query"}
        query = {name: value for name, value in query.items() if value} if self.where != "query" else {self.name: identifier}
        body: dict[str, Any] = {name: self._other(own, name) for name in self.body}
        body = {name: value for name, value in body.items() if value}
        if self.where == "body":
            body[self.name] = [identifier] if self.name == "ids" else identifier
        body |= BODIES.get(f"{self.method} {self.path}", {})
        more: dict[str, Any] = {} if self.method in ("get", "delete") else {"data": body, "content_type": "application/json"}
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        with transaction.atomic():
            found = person.call(self.method, f"{path}?{asked}" if asked else path, **more)
            transaction.set_rollback(True)
        return found

    @property
    def wanted(self) -> str:
        """The kind of thing this place is for; empty where that is none the caller has."""
        return self.kind(self.name, self.path.partition(f"{{{self.name}}}")[0] if self.where == "path" else "")

    def kind(self, name: str, before: str) -> str:
        return OWN.get(name) or OWN.get(before.rstrip("/").rsplit("/", 1)[-1].removesuffix("{"), "")

    def _of(self, own: Mapping[str, str], name: str, at: int, identifier: str) -> str:
        if self.where == "path" and name == self.name:
            return identifier
        if name == "code":
            return "NPR"
        return own.get(self.kind(name, self.path[:at]), "1" if name == "number" else str(uuid.uuid4()))

    def _other(self, own: Mapping[str, str], name: str) -> str:
        return own.get(OWN.get(name, ""), "") if name != self.name else ""


def cells() -> Iterator[Cell]:
    described = document()
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            query = [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]
            content = operation.get("requestBody", {}).get("content", {})
            body = ids_in(next(iter(content.values()))["schema"], described) if content else []
            asked = tuple(name for name in query if name.endswith("_id") or name in ("project", "gateway"))
            for where, names in (("path", re.findall(r"\{(\w+)\}", path)), ("query", asked), ("body", body)):
                for name in names:
                    if name not in ("code", "number", *NOT_AN_ID):
                        yield Cell(method, path, where, name, asked, tuple(body))


def ids_in(schema: Mapping[str, Any], described: Mapping[str, Any]) -> list[str]:
    if "$ref" in schema:
        return ids_in(described["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], described)
    found = schema.get("properties", {})
    return [name for name, inner in found.items() if inner.get("format") == "uuid" or name.endswith("_id") or name == "ids"]


@dataclass
class World:
    """Somebody with rights in one place, their things, and one thing of every kind of somebody else."""

    person: Person
    own: dict[str, str]
    theirs: dict[str, str]


def in_another_organization(admin: Person) -> World:
    own, theirs = (everything(admin, name) for name in ("Bank", "Insurer"))
    del theirs["role"], theirs["own_role"]  # roles belong to no organization: they are there for all
    gateway = {"gateway": str(fleet_of("PRO")[0].row.id)}
    return World(caller("admin", own["organization"]), own, {**theirs, **gateway})


def in_another_environment(admin: Person) -> World:
    """The caller may act in dev of a project; what is in its prod is somebody else's."""
    own = everything(admin, "Bank")
    wish = {"project_id": own["project"], "environment": "prod", "key": "p", "value": "v"}
    secret = admin.post("secrets", wish)[1]["id"]
    person = caller("project_admin", own["organization"])
    RoleGrant.objects.filter(user__email="caller@example.com").update(environment="dev", project=own["project"])
    return World(person, own, {"secret": secret})


def everything(admin: Person, name: str) -> dict[str, str]:
    """Ids of the things of an organization. What belongs to none (roles) is there for all."""
    made = organization_with_everything(admin, name)
    project = Project.objects.get(id=made["project"])
    wish = {"project_id": made["project"], "environment": "dev", "key": "k", "value": "v"}
    mine = factories.member("project_admin", project=project)
    made |= {
        "secret": admin.post("secrets", wish)[1]["id"],
        "token": mine.post("users/tokens", {"name": "t", "scopes": ["secrets:read"]})[1]["id"],
    }
    return made


@pytest.fixture
def world(primary: None, admin: Person, request: pytest.FixtureRequest) -> World:
    made: World = request.param(admin)
    return made


both = pytest.mark.parametrize(
    "world", [in_another_organization, in_another_environment], indirect=True, ids=lambda one: one.__name__
)


def masked(answer: tuple[int, Any], identifier: str) -> tuple[int, str]:
    status, body = answer
    return status, json.dumps(body, sort_keys=True, default=str).replace(identifier, "<the id>")


@both
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("share", [SHARE, pytest.param(1, marks=pytest.mark.long)])
def test_somebody_else_s_id_is_an_id_of_nobody(world: World, part: int, share: int) -> None:
    looked_at, wrong = 0, list[str]()
    for number, cell in enumerate(list(cells())[part::PARTS]):
        nobody = str(uuid.uuid4())
        expected = masked(cell.call(world.person, world.own, nobody), nobody)
        fitting, among = cell.wanted, list(world.theirs)[number % share :: share]
        for kind in {*among, *([fitting] if fitting in world.theirs else [])}:
            identifier = world.theirs[kind]
            looked_at += 1
            found = masked(cell.call(world.person, world.own, identifier), identifier)
            if found != expected:
                wrong.append(f"{cell.method} {cell.path} {cell.where} {cell.name} = {kind}: {found} and not {expected}")
    print(f"{looked_at} cells, {len(wrong)} wrong")
    assert looked_at and not wrong, "\n".join(wrong)


def test_every_body_with_ids_gets_what_else_it_needs() -> None:
    """An operation that is refused for another field would hide what it says of an id."""
    bodies = {f"{cell.method} {cell.path}" for cell in cells() if cell.where == "body"}
    assert bodies - ALONE <= BODIES.keys() and bodies >= ALONE
