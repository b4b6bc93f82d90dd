"""What a credential gives is remembered for a second at most, and no way to end a right is overlooked (docs/adr/0036)."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts import rights, sessions
from accounts.access import Principal
from accounts.authentication import rights_of
from accounts.models import ApiToken, Project, Role, RoleGrant, ServiceIdentity, Session, User
from accounts.sessions import PREFIX, hash_token
from accounts.tokens import PREFIX as TOKEN_PREFIX
from common import remembered
from common.clock import now
from common.errors import AuthenticationExpired, AuthenticationInvalid, MazeVaultError
from common.remembered import Remembered
from gateway_runtime import principals
from gateway_runtime.models import ReplicaPrincipal, ReplicaToken
from tests import factories

LONG = timedelta(hours=1)
HEARD_SECONDS = 5.0
"""A NOTIFY takes a millisecond; a machine that is busy with other tests may need longer."""


@dataclass
class Somebody:
    """A person and a service identity with everything a right can come from."""

    user: User
    service: ServiceIdentity
    role: Role
    project: Project
    session: Session
    token: ApiToken
    of_service: Session

    def tokens(self) -> list[str]:
        return [f"{PREFIX}{self.user.id}", f"{TOKEN_PREFIX}{self.user.id}", f"{PREFIX}{self.service.id}"]

    def seen(self) -> list[Any]:
        return [shown(one) for one in self.tokens()]


def somebody() -> Somebody:
    number = uuid.uuid4().hex
    user = User.objects.create(email=f"u{number}@example.com", role="auditor", password="!")
    service = ServiceIdentity.objects.create(display_name="CI", owner_email="o@e.c", client_id=f"c{number}", secret_hash="-")
    role = Role.objects.create(name=f"own{number}", permissions=["secrets:read", "secrets:write"])
    project = factories.project(factories.organization(f"Bank {number}"))
    for holder in ({"user": user}, {"service": service}):
        RoleGrant.objects.create(**holder, role=role, project=project)
    until = now() + LONG
    return Somebody(
        user, service, role, project,
        Session.objects.create(user=user, token_hash=hash_token(f"{PREFIX}{user.id}"), expires_at=until),
        ApiToken.objects.create(user=user, token_hash=hash_token(f"{TOKEN_PREFIX}{user.id}"), name="t", expires_at=until,
                                scopes=["secrets:read", "audit:read"]),
        Session.objects.create(service=service, token_hash=hash_token(f"{PREFIX}{service.id}"), expires_at=until),
    )  # fmt: skip


def shown(token: str) -> Any:
    """What a call with this token may do now, or why it is refused."""
    moment = now()
    try:
        found = rights_of(token, moment)
    except MazeVaultError as refused:
        return refused.code
    who = found.principal(moment)
    return sorted(who.permissions), sorted(who.permissions_anywhere), found.must_change_password, who.name


def statements(call: Callable[[], object]) -> int:
    with CaptureQueriesContext(connection) as made:
        call()
    return len(made)


@pytest.fixture
def listening(committed_primary: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Thread]:
    """Rights are remembered for ever, so that only a notice ends that."""
    monkeypatch.setattr(remembered, "SECONDS", 1e9)
    stop = threading.Event()
    thread = rights.follow(stop)
    until(lambda: rights._known._listening)
    yield thread
    stop.set()
    thread.join()
    assert not rights._known._listening and not len(rights._known)


def until(condition: Callable[[], object], otherwise: str = "it did not come about in time") -> None:
    deadline = time.monotonic() + HEARD_SECONDS
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.005)


def settle() -> None:
    """Wait until the notices of what the test itself made have come: a late one must not be taken for that of the end."""
    while (turn := rights._known._turn) >= 0:
        time.sleep(0.05)
        if rights._known._turn == turn:
            return


def by_hand(text: str) -> Callable[[Somebody], None]:
    """A statement of an administrator of the database, past all code."""

    def run(one: Somebody) -> None:
        with connection.cursor() as cursor:
            cursor.execute(text, {"user": one.user.id, "service": one.service.id, "session": one.session.id})

    return run


ENDS: Mapping[str, Callable[[Somebody], object]] = {
    "a session is signed out": lambda one: sessions.sign_out(one.session, address="", now=now()),
    "a session is revoked": lambda one: Session.objects.filter(id=one.session.id).update(revoked_at=now()),
    "a session is given an earlier end": lambda one: Session.objects.filter(id=one.session.id).update(expires_at=now()),
    "a session is removed": lambda one: Session.objects.filter(id=one.session.id).delete(),
    "the session of a service is revoked": lambda one: Session.objects.filter(id=one.of_service.id).update(revoked_at=now()),
    "a token is revoked": lambda one: ApiToken.objects.filter(id=one.token.id).update(revoked_at=now()),
    "a token is given an earlier end": lambda one: ApiToken.objects.filter(id=one.token.id).update(expires_at=now()),
    "a token is limited": lambda one: ApiToken.objects.filter(id=one.token.id).update(scopes=["audit:read"]),
    "a token is removed": lambda one: ApiToken.objects.filter(id=one.token.id).delete(),
    "an account is deactivated": lambda one: User.objects.filter(id=one.user.id).update(is_active=False),
    "an account is deleted": lambda one: User.objects.filter(id=one.user.id).update(deleted_at=now()),
    "an account has another role": lambda one: User.objects.filter(id=one.user.id).update(role="viewer"),
    "an account has another address": lambda one: User.objects.filter(id=one.user.id).update(email="x@example.com"),
    "a password must be changed": lambda one: User.objects.filter(id=one.user.id).update(must_change_password=True),
    "an account is removed": lambda one: User.objects.filter(id=one.user.id).delete(),
    "a service is disabled": lambda one: ServiceIdentity.objects.filter(id=one.service.id).update(status="disabled"),
    "a service is deleted": lambda one: ServiceIdentity.objects.filter(id=one.service.id).update(deleted_at=now()),
    "a grant is withdrawn": lambda one: RoleGrant.objects.filter(user=one.user).delete(),
    "a grant is given an end": lambda one: RoleGrant.objects.filter(service=one.service).update(expires_at=now()),
    "a grant is given": lambda one: RoleGrant.objects.create(user=one.user, role=Role.objects.get(name="admin")),
    "a role changes": lambda one: Role.objects.filter(id=one.role.id).update(permissions=["secrets:read"]),
    "by hand: a session": by_hand("UPDATE accounts_session SET revoked_at = now() WHERE id = %(session)s"),
    "by hand: an account": by_hand("UPDATE accounts_user SET is_active = false WHERE id = %(user)s"),
    "by hand: a grant": by_hand("DELETE FROM accounts_rolegrant WHERE service_id = %(service)s"),
}  # fmt: skip
"""Each way in which what a credential gives can change."""


def test_every_way_a_right_can_end_counts_as_soon_as_it_is_heard_of(listening: threading.Thread) -> None:
    for way, end in ENDS.items():
        one = somebody()
        settle()
        before = one.seen()
        until(lambda: statements(one.seen) == 0, f"{way}: rights are not remembered, so the test shows nothing")
        end(one)
        until(lambda: one.seen() != before, f"{way}: the right goes on")


def test_a_right_that_was_read_before_a_change_is_not_remembered_after_it() -> None:
    known = Remembered[str]("test")
    known.listens(True)

    def slow() -> str:
        known.forget()  # the notice comes while the old answer is on its way
        return "old"

    assert known.get("k", slow) == "old"
    assert known.get("k", lambda: "new") == "new"


def test_without_a_notice_an_answer_lives_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(remembered, "boottime", lambda: clock[0])
    known = Remembered[str]("test")
    known.listens(True)
    assert known.get("k", lambda: "first") == "first"
    clock[0] += 0.99
    assert known.get("k", lambda: "second") == "first"
    clock[0] += 0.02
    assert known.get("k", lambda: "second") == "second"
    assert remembered.SECONDS <= 1.0


def test_the_second_begins_before_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(remembered, "boottime", lambda: clock[0])
    known = Remembered[str]("test")
    known.listens(True)

    def slow() -> str:
        clock[0] += 5  # the database took long, or this process was frozen
        return "old"

    assert known.get("k", slow) == "old" and known.get("k", lambda: "new") == "new"


def test_what_is_remembered_has_a_bound() -> None:
    known = Remembered[int]("test", most=3)
    known.listens(True)
    for number in range(10):
        known.get(number, lambda number=number: number)
    assert len(known) == 3 and known.get(9, lambda: -1) == 9 and known.get(0, lambda: -1) == -1


def test_tokens_that_nobody_knows_take_no_place(listening: threading.Thread) -> None:
    for number in range(20):
        assert shown(f"{PREFIX}guess{number}") == "AUTH_INVALID"
    assert len(rights._known) == 0


def test_a_lost_listener_turns_the_memory_off_until_there_is_another(
    listening: threading.Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "PAUSE_SECONDS", 0.5)
    one = somebody()
    settle()
    one.seen()
    assert statements(one.seen) == 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ILIKE 'LISTEN mazevault_rights%'")
    until(lambda: not rights._known._listening)
    assert statements(one.seen) == statements(one.seen) == len(one.tokens())
    until(lambda: rights._known._listening)
    one.seen()
    assert statements(one.seen) == 0


def test_what_time_alone_ends_is_judged_at_each_call(listening: threading.Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    one = somebody()
    RoleGrant.objects.filter(user=one.user).update(expires_at=now() + LONG / 2)
    until(lambda: shown(one.tokens()[0])[1] and statements(one.seen) == 0)
    found = rights_of(one.tokens()[0], now())
    later = found.principal(now() + LONG * 0.75)
    assert "secrets:write" in found.principal(now()).permissions_anywhere
    assert "secrets:write" not in later.permissions_anywhere and isinstance(later, Principal)
    with pytest.raises(AuthenticationExpired):
        rights_of(one.tokens()[0], now() + LONG * 2)
    assert statements(one.seen) == 0


def test_nothing_is_remembered_where_nobody_listens(committed_primary: None) -> None:
    one = somebody()
    one.seen()
    assert statements(one.seen) == len(one.tokens())


def test_the_stamp_of_the_last_use_is_written_once_in_a_while_and_ends_no_right(listening: threading.Thread) -> None:
    one, moment = somebody(), now()
    found = rights_of(one.tokens()[0], moment)
    rights.note_use(found, moment)
    rights.note_use(found, moment + timedelta(seconds=1))  # of calls at the same time one writes
    assert Session.objects.get(id=one.session.id).last_used_at == moment
    one.seen()
    settle()
    fresh = rights_of(one.tokens()[0], moment)
    assert fresh.last_used_at == moment
    assert statements(lambda: rights.note_use(fresh, moment + rights.SEEN_EVERY)) == 0
    assert statements(lambda: rights.note_use(fresh, moment + rights.SEEN_EVERY * 1.1)) == 1
    assert len(rights._known), "a stamp is no change of rights"


def test_a_call_costs_no_statement_for_who_makes_it_but_once_a_slice(
    listening: threading.Thread, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.conftest import Person

    one = somebody()
    settle()
    person = Person(one.tokens()[0])
    settings.MAZEVAULT = replace(settings.MAZEVAULT, calls_per_minute=6000)
    first = person.get("auth/me/permissions")
    person.get("auth/me/permissions")  # the first one has left its stamp, and was read again for that
    assert first[0] == 200 and statements(lambda: person.get("auth/me/permissions")) == 0
    User.objects.filter(id=one.user.id).update(is_active=False)
    until(lambda: person.get("auth/me/permissions")[0] == 401)


def test_a_credential_that_ended_meanwhile_is_not_changed_any_more(listening: threading.Thread) -> None:
    """What is remembered opens reads; who changes their own credentials is looked at again."""
    from tests.conftest import Person

    one = somebody()
    one.seen()
    monkey = rights._known.forget
    rights._known.forget = lambda: None  # type: ignore[method-assign]  # the notice is lost
    try:
        Session.objects.filter(id=one.session.id).update(revoked_at=now())
        assert Person(one.tokens()[0]).get("auth/sessions")[0] == 401
    finally:
        rights._known.forget = monkey  # type: ignore[method-assign]


@pytest.mark.django_db(transaction=True)
def test_a_gateway_hears_of_the_end_of_a_right_in_its_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "SECONDS", 1e9)
    stop = threading.Event()
    thread = principals.follow(stop)
    until(lambda: principals._known._listening)
    try:
        for end in (
            lambda holder: ReplicaToken.objects.filter(principal=holder).delete(),
            lambda holder: ReplicaToken.objects.filter(principal=holder).update(scopes=[]),
            lambda holder: ReplicaPrincipal.objects.filter(id=holder.id).update(grants=[]),
            lambda holder: ReplicaPrincipal.objects.filter(id=holder.id).delete(),
        ):
            _ends_at_the_gateway(end)
    finally:
        stop.set()
        thread.join()


def _ends_at_the_gateway(end: Callable[[ReplicaPrincipal], object]) -> None:
    grant = {"permissions": ["secrets:read"], "organization": "", "project": "", "environment": "", "expires_at": None}
    holder = ReplicaPrincipal.objects.create(id=uuid.uuid4(), kind="user", name="ann", round=0, grants=[grant])
    ReplicaToken.objects.create(hash=f"h{holder.id}", principal=holder, expires_at=now() + LONG)

    def seen() -> Any:
        found = principals.rights_of(f"h{holder.id}", now())
        return principals.principal_of(found, now()).permissions if found else None

    until(lambda: seen() and statements(seen) == 0)
    end(holder)
    until(lambda: not seen())


def test_the_memory_is_kept_in_the_processes_that_answer_people() -> None:
    """A process that forgets to follow is slower; one that remembers and follows nothing would be wrong."""
    from pathlib import Path

    from orchestrator.node import roles

    text = Path(roles.__file__).read_text()
    assert "rights.follow()" in text and "principals.follow()" in text
    assert settings.MAZEVAULT is not None and not rights._known._listening


def test_a_session_that_ended_is_refused_with_its_own_words(committed_primary: None) -> None:
    one = somebody()
    Session.objects.filter(id=one.session.id).update(revoked_at=now())
    with pytest.raises(AuthenticationInvalid, match="sign in again"):
        rights_of(one.tokens()[0], now())
    ApiToken.objects.filter(id=one.token.id).update(revoked_at=now())
    with pytest.raises(AuthenticationInvalid, match="ask its holder"):
        rights_of(one.tokens()[1], now())
