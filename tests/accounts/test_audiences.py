"""A credential counts where it is meant to: at the Primary, and at gateways of the environments it names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from django.db import transaction

from accounts import audiences, sessions
from accounts.authentication import rights_of
from accounts.models import Role, RoleGrant, ServiceIdentity, User
from accounts.sessions import hash_token, open_session
from common.clock import now
from common.errors import AuthenticationInvalid, ValidationFailed
from common.models import Change
from gateways import told_principals
from gateways.models import PrimaryNode, ToldPrincipal
from gateways.replica_records import load
from orchestrator.environment import PRIMARY, EnvironmentMistake
from orchestrator.environment import load as load_environment
from protocol.replica import ReplicaKind
from tests import factories
from tests.conftest import Person

BODY = {"email": "u@example.com", "password": "seven purple otters sing"}
ROLE = "secret_manager"
AUDIENCES: tuple[list[str] | None, ...] = (
    None, ["PRIMARY"], ["NPR"], ["PRO"], ["PRIMARY", "NPR"], ["NPR", "PRO"], ["PRIMARY", "NPR", "PRO"],
)  # fmt: skip
PLACES = ("PRIMARY", "NPR", "PRO")
Known = dict[str, str]


@pytest.fixture
def somebody(admin: Person, primary: None) -> dict[str, Any]:
    """A person and a service identity with secrets in both environments."""
    factories.organization()
    user = str(User.objects.create(email=BODY["email"], role=ROLE, password="!").id)
    service = admin.post("service-identities", {"display_name": "CI", "owner_email": "o@e.c"})[1]
    RoleGrant.objects.create(service_id=service["id"], role=Role.objects.get(name=ROLE))
    return {"user": user, "service": service}


def session(audience: list[str] | None) -> str:
    """As a sign-in opens it, without its slow hash."""
    return sessions._open(User.objects.get(email=BODY["email"]), "", now(), audience=audience).token


def token(by: str, audience: list[str] | None = None) -> str:
    status, row = Person(by).post("users/tokens", {"name": "t", **({} if audience is None else {"audience": audience})})
    assert (status, row["audience"]) == (201, audience), row
    return str(row["token"])


def of_service(somebody: dict[str, Any], audience: list[str] | None) -> str:
    more = {} if audience is None else {"audience": " ".join(audience)}
    wish = {"grant_type": "client_credentials", **{name: somebody["service"][name] for name in ("client_id", "client_secret")}}
    return str(Person().post("auth/token", {**wish, **more})[1]["access_token"])


def made(somebody: dict[str, Any], audience: list[str] | None) -> Iterator[tuple[str, str]]:
    """Every kind of credential with this audience."""
    everywhere = session(None)
    yield "session", session(audience)
    yield "API token", token(everywhere, audience)
    yield "API token made with one", token(token(everywhere), audience)
    yield "service", of_service(somebody, audience)
    if audience is None or "PRIMARY" in audience:
        renewed = Person(session(audience)).post("auth/refresh")[1]["token"]
        yield "refreshed session", renewed


def counting(texts: list[str]) -> dict[str, list[bool]]:
    """Where each credential counts, in the order of `PLACES`: asked of the Primary, and looked up in what gateways are told."""
    holders = [*User.objects.values_list("id", flat=True), *ServiceIdentity.objects.values_list("id", flat=True)]
    told = []
    for code in PLACES[1:]:
        records = load(code, [(ReplicaKind.PRINCIPAL, one) for one in holders], now()).by_thing.values()
        told.append({one.hash for record in records for one in record.tokens})
    return {text: [_at_primary(text), *(hash_token(text) in hashes for hashes in told)] for text in texts}


def _at_primary(text: str) -> bool:
    try:
        return bool(rights_of(text, now()))
    except AuthenticationInvalid:
        return False


def meant(audience: list[str] | None, place: str, production: bool) -> bool:
    if audience is None:
        return place == "PRIMARY" or not production
    return place in audience


@pytest.mark.parametrize("production", [False, True])
def test_a_credential_counts_where_it_is_meant_to_and_nowhere_else(
    somebody: dict[str, Any], settings: Any, production: bool
) -> None:
    settings.MAZEVAULT = replace(settings.MAZEVAULT, production=production, sign_ins_per_minute=1000)
    cells, wrong = 0, []
    for audience in AUDIENCES:
        with transaction.atomic():
            kinds = dict(made(somebody, audience))
            found = counting(list(kinds.values()))
            for (kind, text), place in product(kinds.items(), PLACES):
                cells += 1
                if found[text][PLACES.index(place)] != meant(audience, place, production):
                    wrong.append((kind, audience, place))
            transaction.set_rollback(True)
    print(f"audiences, {'' if production else 'not '}in production: {cells} cells, {len(wrong)} wrong")
    assert wrong == [] and cells >= 90


def test_a_session_of_a_gateway_counts_at_gateways_of_its_environment_only(somebody: dict[str, Any]) -> None:
    opened = open_session(User.objects.get(id=somebody["user"]), address="", now=now(), gateway_environment="NPR")
    assert counting([opened.token]) == {opened.token: [False, True, False]}


def test_a_sign_in_with_a_password_takes_an_audience(admin: Person, primary: None) -> None:
    factories.organization()
    admin.post("rbac/users", {**BODY, "role": ROLE})
    opened = [Person().post("auth/login", {**BODY, **more})[1]["token"] for more in ({"audience": ["npr", "PRIMARY"]}, {})]
    assert list(counting(opened).values()) == [[True, True, False], [True, True, True]]
    shown = [row["audience"] for row in Person(opened[0]).get("auth/sessions")[1]]
    assert shown == [None, ["PRIMARY", "NPR"]]


def test_a_credential_makes_none_that_counts_where_it_does_not(somebody: dict[str, Any]) -> None:
    narrow = token(session(None), ["PRIMARY", "NPR"])
    assert Person(narrow).post("users/tokens", {"name": "t"})[1]["audience"] == ["PRIMARY", "NPR"]
    assert Person(narrow).post("users/tokens", {"name": "t", "audience": ["npr"]})[1]["audience"] == ["NPR"]
    status, answer = Person(narrow).post("users/tokens", {"name": "t", "audience": ["PRO"]})
    assert status == 400 and "audience" in answer["error"]
    status, answer = Person(token(session(None), ["NPR"])).get("projects")
    assert (status, answer["code"]) == (401, "AUTH_INVALID") and "NPR" in answer["error"]


@pytest.mark.parametrize(
    ("wish", "said"), [([], "at least one"), (["NRP"], "did you mean NPR"), (["everywhere"], "known are PRIMARY, NPR, PRO")]
)
def test_an_unknown_audience_is_refused_and_named(db: None, wish: list[str], said: str) -> None:
    with pytest.raises(ValidationFailed, match=f"^audience: .*{said}"):
        audiences.read(wish)
    status, answer = Person().post("auth/login", {**BODY, "audience": wish})
    assert status == 400 and answer["error"].startswith("audience: ")


def test_no_gateway_environment_has_the_name_of_the_primary() -> None:
    with pytest.raises(EnvironmentMistake, match="names PRIMARY, which stands for the Primary"):
        load_environment({"MAZEVAULT_GATEWAY_ENVIRONMENTS": "npr,primary"})
    assert PRIMARY == audiences.PRIMARY


def test_who_a_gateway_knows_is_told_anew_when_production_begins(somebody: dict[str, Any], settings: Any) -> None:
    """Credentials without an audience that its copy holds from before must go."""
    ToldPrincipal.objects.create(environment_id="NPR", principal=somebody["user"])
    Change.objects.all().delete()
    assert not told_principals.tell_again_after_a_change() and not Change.objects.exists()
    settings.MAZEVAULT = replace(settings.MAZEVAULT, production=True)
    assert told_principals.tell_again_after_a_change() and not told_principals.tell_again_after_a_change()
    told = Change.objects.values_list("scope", "kind", "entity_id")
    assert [(scope, kind, str(one)) for scope, kind, one in told] == [("NPR", "principal", somebody["user"])]
    assert PrimaryNode.objects.get(id=1).everywhere_refused
