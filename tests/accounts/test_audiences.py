"""A credential counts where it is meant to: at the Primary, and at gateways of the environments it names."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from importlib import import_module
from itertools import product
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from accounts import audiences, sessions
from accounts.authentication import rights_of
from accounts.models import ApiToken, Role, RoleGrant, ServiceIdentity, Session, User
from accounts.roles import SYSTEM_ROLES
from accounts.sessions import hash_token, open_session
from common import feed
from common.clock import now
from common.errors import AuthenticationInvalid, ValidationFailed
from common.models import AuditEntry, Change
from gateways import told_principals
from gateways.models import PrimaryNode, ToldPrincipal
from gateways.replica_records import load
from orchestrator import first_setup
from orchestrator.environment import PRIMARY, EnvironmentMistake
from orchestrator.environment import load as load_environment
from protocol.replica import ReplicaKind
from tests import factories
from tests.conftest import Person

BODY = {"email": "u@example.com", "password": "seven purple otters sing"}
ROLE = "secret_manager"
HOUR = timedelta(hours=1)
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


def changed(settings: Any, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """One of the facts that what gateways are told of people is made of."""
    own = settings.MAZEVAULT
    if what == "production":
        settings.MAZEVAULT = replace(own, production=True)
    elif what in ("session_max_age", "token_max_age"):
        settings.MAZEVAULT = replace(own, entra=replace(own.entra, **{what: 61}))
    elif what == "the form":
        monkeypatch.setattr(told_principals, "TOLD_FORM", 2**30)
    elif what == "a role":
        roles = {**SYSTEM_ROLES, "secret_reader": SYSTEM_ROLES["secret_reader"] | {"secrets:write"}}
        monkeypatch.setattr(told_principals, "SYSTEM_ROLES", roles)
    else:
        PrimaryNode.objects.update(told_form="")  # as after an update of a release that kept none


@pytest.mark.parametrize("what", ["production", "session_max_age", "token_max_age", "the form", "a role", "an update"])
def test_everybody_is_told_anew_when_what_is_told_depends_on_something_that_changed(
    somebody: dict[str, Any], settings: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Credentials that its copy holds from before must go, or end earlier; others come to count."""
    told_principals.tell_again_after_a_change()
    other = uuid.uuid4()
    ToldPrincipal.objects.create(environment_id="NPR", principal=somebody["user"])
    Change.objects.all().delete()
    with transaction.atomic():
        feed.note(["PRO"], ReplicaKind.PRINCIPAL, other)  # was named there, and nothing of theirs counted
    assert not told_principals.tell_again_after_a_change() and Change.objects.count() == 1
    changed(settings, monkeypatch, what)
    assert told_principals.tell_again_after_a_change() and not told_principals.tell_again_after_a_change()
    told = {(row.scope, row.kind, str(row.entity_id)) for row in Change.objects.order_by("-id")[:2]}
    assert told == {("NPR", "principal", somebody["user"]), ("PRO", "principal", str(other))} and Change.objects.count() == 3


class TestOfBeforeThereWereAudiences:
    """In production they go on at gateways for a while that everybody can see and an operator can end."""

    @pytest.fixture
    def old(self, somebody: dict[str, Any], settings: Any) -> list[str]:
        settings.MAZEVAULT = replace(settings.MAZEVAULT, production=True)
        opened = session(None)
        texts = [opened, token(opened)]
        for model in (Session, ApiToken):
            model._default_manager.filter(token_hash__in=map(hash_token, texts)).update(everywhere_until=now() + HOUR)
        return texts

    def test_they_go_on_until_then_and_what_is_made_with_one_does_not(self, old: list[str]) -> None:
        newer = token(old[1])
        assert counting([*old, newer]) == {old[0]: [True] * 3, old[1]: [True] * 3, newer: [True, False, False]}
        records = load("NPR", [(ReplicaKind.PRINCIPAL, User.objects.get(email=BODY["email"]).id)], now()).by_thing.values()
        ends = {one.hash: one.expires_at for person in records for one in person.tokens}
        assert all(datetime.fromisoformat(ends[hash_token(text)]) <= now() + HOUR for text in old), "cut off they hold to it"
        for model in (Session, ApiToken):
            model._default_manager.update(everywhere_until=now())
        assert counting(old) == {text: [True, False, False] for text in old}

    def test_an_operator_finds_them_gives_them_a_place_and_ends_the_wait(self, old: list[str], capsys: Any) -> None:
        rows = [one for model in (Session, ApiToken) for one in model._default_manager.filter(everywhere_until__gt=now())]
        call_command("audiences", "list")
        listed = capsys.readouterr().out
        assert all(str(row.id) in listed for row in rows) and BODY["email"] in listed and "at gateways until 2" in listed
        assert not any(hash_token(text) in listed for text in old)
        row = ApiToken.objects.get(token_hash=hash_token(old[1]))
        Change.objects.all().delete()
        call_command("audiences", "give", str(row.id), "npr,PRIMARY")
        assert counting(old) == {old[0]: [True, True, True], old[1]: [True, True, False]}
        assert Change.objects.filter(entity_id=row.user_id).exists()
        for wrong in ((str(row.id), "NPR"), (str(uuid.uuid4()), "NPR"), (str(rows[0].id), "NRP")):
            with pytest.raises(CommandError):
                call_command("audiences", "give", *wrong)
        call_command("audiences", "end-grace")
        assert counting(old) == {old[0]: [True, False, False], old[1]: [True, True, False]}
        actions = AuditEntry.objects.filter(action__in=("auth.token.audience", "auth.everywhere.ended"))
        assert actions.count() == 2

    def test_a_start_in_production_says_how_many_are_left(self, old: list[str], caplog: pytest.LogCaptureFixture) -> None:
        first_setup._say_what_counts_everywhere()
        assert "1 API tokens have no audience; gateways take the last of them until 2" in caplog.text

    def test_the_migration_gives_them_two_weeks_and_what_comes_later_nothing(self, somebody: dict[str, Any]) -> None:
        before = session(None)
        migration = import_module("accounts.migrations.0014_audiences_begin_gently")
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            for text in (migration._told(""), migration._undone(), migration._begun(), migration._told(", everywhere_until")):
                cursor.execute(text)
        after = session(None)
        until = Session.objects.get(token_hash=hash_token(before)).everywhere_until
        assert until and timedelta(days=13, hours=23) < until - now() < timedelta(days=14, minutes=1)
        assert Session.objects.get(token_hash=hash_token(after)).everywhere_until is None
