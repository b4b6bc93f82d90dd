"""Every way in which a right is given, and every way in which it ends, for a session, an API token and a gateway's copy.

A cell is right when the right was there before and nothing is left of it afterwards: at the Primary at the next call, at a
gateway with the next page of its copy, which must have been told. What only Entra knows ends with the time since its last word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction

from accounts import changes, obo, sessions, sso, tokens
from accounts.access import Scope
from accounts.authentication import rights_of
from accounts.changes import By
from accounts.claims import Person as Claimed
from accounts.models import Environment, GroupMapping, Project, Role, ServiceIdentity, Session, User
from accounts.principals import principal_of_service, principal_of_user
from accounts.sessions import hash_token
from accounts.setup import ensure_admin
from common.clock import now
from common.errors import MazeVaultError
from common.models import Change
from gateway_runtime import copying, principals
from gateways.replica_records import load
from protocol.replica import ReplicaKind, ReplicaPrincipal
from tests import factories
from tests.conftest import Person

RIGHT, ROLE, CODE = "secrets:read", "secret_manager", "NPR"
SESSION, TOKEN, GATEWAY = COLUMNS = ("session", "API token", "gateway")
APP_ROLE, GROUP = "APP_READERS", "b4c1f7ce-0000-4000-8000-000000000001"


@dataclass
class World:
    """An organization with a project, an administrator who ends things, and somebody who holds the right there."""

    admin: Person
    project: Project
    dev: Environment
    folder: Path
    holder: Any = None
    texts: dict[str, str] = field(default_factory=dict)
    later: timedelta = timedelta(0)
    """How much time has passed."""

    @property
    def place(self) -> Scope:
        return Scope(str(self.project.organization_id), str(self.project.id), "dev")

    @property
    def at(self) -> str:
        """Where the holder is managed."""
        return f"{'rbac/users' if isinstance(self.holder, User) else 'service-identities'}/{self.holder.id}"

    def done(self, method: str, path: str, body: Any = None) -> None:
        more = {} if method == "delete" else {"data": body or "", "content_type": "application/json"}
        status, answer = self.admin.call(method, path, **more)
        assert status < 300, (method, path, status, answer)

    def held(self) -> dict[str, bool]:
        """Whether the right is there, by column."""
        return {SESSION: self._at_primary(SESSION), TOKEN: self._at_primary(TOKEN), GATEWAY: self._at_gateway()}

    def _at_primary(self, column: str) -> bool:
        moment = now() + self.later
        try:
            return rights_of(self.texts[column], moment).principal(moment).may(RIGHT, self.place)
        except MazeVaultError:
            return False

    def _at_gateway(self) -> bool:
        moment = now() + self.later
        found = [principals.rights_of(hash_token(text), moment) for text in self.texts.values()]
        return any(one and principals.principal_of(one, moment).may(RIGHT, self.place) for one in found)

    def pull(self) -> None:
        """The next page of a gateway's copy, if the feed says that the holder changed."""
        if not Change.objects.filter(scope=CODE, kind=ReplicaKind.PRINCIPAL.value, entity_id=self.holder.id).exists():
            return
        Change.objects.all().delete()
        thing = (ReplicaKind.PRINCIPAL, self.holder.id)
        nothing = ReplicaPrincipal(id=str(self.holder.id), kind="user", name="", grants=[], tokens=[])
        copying.store_principals([load(CODE, [thing], now() + self.later).by_thing.get(thing, nothing)], 0)  # type: ignore[list-item]

    def let_in(self) -> None:
        """A session and an API token made with it, while the right is there; the gateway hears of both."""
        if isinstance(self.holder, User):
            opened = sessions.open_session(self.holder, address="", now=now())
            session, self.texts[SESSION] = opened.session, opened.token
            principal = principal_of_user(self.holder, now())
        else:
            self.texts[SESSION] = f"{sessions.PREFIX}of-the-service"
            session = Session.objects.create(
                service=self.holder, token_hash=hash_token(self.texts[SESSION]), expires_at=now() + sessions.LIFE
            )
            principal = principal_of_service(self.holder, now())
        _, self.texts[TOKEN] = tokens.create(session, "t", [RIGHT], "8784h", By(principal), now())
        changes.credential_changed(session)
        self.pull()


def local(role: str = "viewer") -> User:
    return User.objects.create(email="somebody@example.com", role=role, password="!")


def from_entra(*names: str) -> User:
    """Somebody who signs in with these App Roles and groups."""
    person = Claimed("9c4c8ddb-0000-4000-8000-000000000001", "ann@bank.example", "Ann", names, (), overage=False, said_at=now())
    return sso._come_in(person, (), None, address="", now=now()).user


def mapped(name: str, to: str = ROLE) -> GroupMapping:
    role = Role.objects.get(name=to)
    return GroupMapping.objects.create(group_external_id=name, group_display_name=name, role=role)


def granted(world: World, holder: User | ServiceIdentity, **where: Any) -> User | ServiceIdentity:
    body = {"role_id": str(Role.objects.get(name=where.pop("role", ROLE)).id), **where}
    world.holder = holder
    world.done("post", f"{world.at}/roles", body)
    return holder


def mapped_and_in(name: str) -> User:
    mapped(name)
    return from_entra(name.upper())


def own_role(world: World) -> Any:
    Role.objects.create(name="own", permissions=[RIGHT])
    return granted(world, local(), role="own")


def own_role_mapped(world: World) -> Any:
    Role.objects.create(name="own", permissions=[RIGHT])
    mapped(APP_ROLE, "own")
    return from_entra(APP_ROLE)


def service() -> ServiceIdentity:
    return ServiceIdentity.objects.create(display_name="CI", owner_email="o@e.c", client_id="c", secret_hash="-")


def first_administrator(world: World) -> User:
    """Made at the first start, when there was nobody; the one who ends things came later."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("accounts.setup.User.objects.exists", lambda: False)
        ensure_admin("first@example.com", world.folder / "password")
    return User.objects.get(email="first@example.com")


def given_over(world: World) -> Any:
    """An account with a password that an administrator gave to Entra, and that came in by it."""
    mapped(APP_ROLE)
    world.holder = local("admin")
    User.objects.filter(pk=world.holder.pk).update(email="ann@bank.example")
    world.done("post", f"{world.at}/entra")
    return from_entra(APP_ROLE)


GIVEN: Mapping[str, Callable[[World], Any]] = {
    "role of the account": lambda world: local(ROLE),
    "first administrator": first_administrator,
    "granted everywhere": lambda world: granted(world, local()),
    "granted in the organization": lambda world: granted(world, local(), organization_id=str(world.project.organization_id)),
    "granted in the project": lambda world: granted(world, local(), project_id=str(world.project.id)),
    "granted in the environment of the project": lambda world: granted(
        world, local(), project_id=str(world.project.id), environment="dev"
    ),
    "granted in the environment of the organization": lambda world: granted(
        world, local(), organization_id=str(world.project.organization_id), environment="Dev"
    ),
    "granted in environments of this slug": lambda world: granted(world, local(), environment="DEV"),
    "granted for a while": lambda world: granted(world, local(), expires_at=(now() + timedelta(minutes=30)).isoformat()),
    "granted an own role": own_role,
    "granted to a service": lambda world: granted(world, service()),
    "mapping of an App Role": lambda world: mapped_and_in(APP_ROLE),
    "mapping of a group": lambda world: mapped_and_in(GROUP),
    "mapping to an own role": own_role_mapped,
    "default role of Entra": lambda world: from_entra(),
    "granted to an account of Entra": lambda world: granted(world, from_entra("NOTHING"), project_id=str(world.project.id)),
    "account given to Entra": given_over,
}
MAPPED = {"mapping of an App Role", "mapping of a group", "mapping to an own role", "account given to Entra"}
ENTRA = MAPPED | {"default role of Entra", "granted to an account of Entra"}
ALL, SERVICE = set(GIVEN), {"granted to a service"}
BY_ENVIRONMENT = {"granted in the environment of the project", "granted in the environment of the organization"}
BY_PROJECT = {"granted in the project", "granted in the environment of the project", "granted to an account of Entra"}
BY_ORGANIZATION = BY_PROJECT | BY_ENVIRONMENT | {"granted in the organization"}


def withdraw_all(world: World) -> None:
    """Everything `roles` shows is taken away; of an account with a password a viewer is left."""
    for row in world.admin.get(f"{world.at}/roles")[1]:
        if row["role"] != "viewer" or row["id"] != row["user_id"]:
            world.done("delete", f"{world.at}/roles/{row['id']}")


def delete_mappings(world: World) -> None:
    for row in world.admin.get("rbac/mappings")[1]:
        world.done("delete", f"rbac/mappings/{row['id']}")


def environments(world: World) -> str:
    return f"organizations/{world.project.organization_id}/environments"


def delete_environment(world: World) -> None:
    """And make another one of the same name, as production."""
    world.done("delete", f"{environments(world)}/{world.dev.id}")
    world.done("post", environments(world), {"name": "Development", "slug": "dev", "is_production": True})


def delete_project(world: World) -> None:
    world.done("delete", f"projects/{world.project.id}")


def delete_organization(world: World) -> None:
    delete_project(world)
    world.done("delete", f"organizations/{world.project.organization_id}")


def reduce_role(world: World) -> None:
    own = Role.objects.get(name="own")
    world.done("put", f"rbac/roles/{own.id}", {"name": "own", "permissions": ["dashboard:read"]})


def pass_time(**span: int) -> Callable[[World], None]:
    def passed(world: World) -> None:
        world.later = timedelta(**span)

    return passed


def service_with(status: str) -> Callable[[World], None]:
    wish = {"display_name": "CI", "owner_email": "o@e.c", "status": status}
    return lambda world: world.done("put", world.at, wish)


ENDS: Mapping[str, tuple[set[str], Callable[[World], object]]] = {
    "all grants are withdrawn": (ALL, withdraw_all),
    "the mapping is deleted": (MAPPED, delete_mappings),
    "Entra takes App Role and group, seen at a sign-in elsewhere": (MAPPED, lambda world: from_entra("NOTHING")),
    "Entra says at a call that the account is disabled": (ENTRA, lambda world: obo.disable(world.holder, now(), reason="50057")),
    "Entra knows, and nobody asks it": (ENTRA, pass_time(hours=24, seconds=1)),
    "the account is disabled": (ALL - SERVICE, lambda world: world.done("post", f"{world.at}/disable")),
    "the account is deleted": (ALL - SERVICE, lambda world: world.done("delete", world.at)),
    "the password is reset": (ALL - SERVICE - ENTRA, lambda world: world.done("post", f"{world.at}/reset")),
    "the account is given to Entra": (ALL - SERVICE - ENTRA, lambda world: world.done("post", f"{world.at}/entra")),
    "the service is disabled": (SERVICE, service_with("disabled")),
    "the service gets another secret": (SERVICE, lambda world: world.done("post", f"{world.at}/secret")),
    "the service is deleted": (SERVICE, lambda world: world.done("delete", world.at)),
    "the role is reduced": ({"granted an own role", "mapping to an own role"}, reduce_role),
    "the grant expires": ({"granted for a while"}, pass_time(minutes=31)),
    "the environment is deleted and comes back": (BY_ENVIRONMENT, delete_environment),
    "the environment becomes production": (
        BY_ENVIRONMENT, lambda world: world.done("patch", f"{environments(world)}/{world.dev.id}", {"is_production": True})
    ),
    "the project is deleted": (BY_PROJECT, delete_project),
    "the organization is deleted": (BY_ORGANIZATION, delete_organization),
    "session and token live out their time": (ALL, pass_time(days=367)),
}  # fmt: skip


@pytest.fixture
def world(primary: None, admin: Person, tmp_path: Path) -> World:
    project = factories.project(factories.organization("Bank of Rights"))
    return World(admin, project, factories.environment_of(project, "dev"), tmp_path)


def cells(way: str) -> Iterator[tuple[str, str]]:
    return ((end, column) for end, (ways, _) in ENDS.items() if way in ways for column in COLUMNS)


@pytest.mark.parametrize("way", GIVEN)
def test_a_right_that_has_ended_is_nowhere_left(way: str, world: World, settings: Any) -> None:
    if way == "default role of Entra":
        settings.MAZEVAULT = replace(settings.MAZEVAULT, entra=replace(settings.MAZEVAULT.entra, default_role=ROLE))
    world.holder = GIVEN[way](world)
    world.let_in()
    assert world.held() == dict.fromkeys(COLUMNS, True)
    wrong = []
    for end, (ways, carry_out) in ENDS.items():
        if way in ways:
            with transaction.atomic():
                carry_out(world)
                world.pull()
                wrong += [(end, column) for column, held in world.held().items() if held]
                transaction.set_rollback(True)
            world.later = timedelta(0)
    print(f"rights matrix: {way}: {len(list(cells(way)))} cells, {len(wrong)} wrong")
    assert wrong == []


def test_the_matrix_has_every_way_and_every_end() -> None:
    total = sum(len(list(cells(way))) for way in GIVEN)
    print(f"rights matrix: {len(GIVEN)} ways, {len(ENDS)} ends, {total} cells")
    assert total >= 250 and all(ways <= ALL and ways for ways, _ in ENDS.values())
