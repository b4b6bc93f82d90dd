"""A gateway's word on who made a write counts for people it was told of, in one spelling, with a credential that lived there."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction

from accounts.models import ApiToken, Role, RoleGrant, ServiceIdentity, Session, User
from common.clock import moment_of, now
from common.models import AuditEntry
from gateways import authors, inbox
from gateways.models import EpochGrant, GatewayLife, ToldPrincipal
from protocol import paths
from protocol.vocabulary import WriteOperation
from protocol.writes import WriteBody, WriteCheck, WriteKnown
from tests import factories
from tests.conftest import Person
from tests.fakes.gateway import FakeGateway
from tests.gateways.desk import Desk, row_of

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
NAMED = "00000000-0000-4000-8000-0000000000aa"


@pytest.fixture
def desk(npr: tuple[FakeGateway, FakeGateway]) -> Desk:
    return Desk(*npr)


@dataclass(frozen=True)
class Case:
    """Somebody with a credential, and when the write was accepted, from now; `told`: gateways of NPR were told of them.

    The credential was made, epoch and life of the gateway began so long from now; `everywhere`: it goes on without an audience.
    `before`: when somebody whom Entra let in last at `entra` had come in before.
    """

    made: timedelta = -48 * HOUR
    epoch: timedelta = -72 * HOUR
    life: timedelta = -72 * HOUR
    everywhere: timedelta | None = None
    lives: timedelta = HOUR
    revoked: timedelta | None = None
    audience: tuple[str, ...] | None = None
    opened_at: str = ""
    told: bool = True
    accepted: timedelta | str = timedelta(0)
    entra: timedelta | None = None
    before: timedelta | None = None
    token: bool = False
    production: bool = False
    believed: bool = True


CASES: Mapping[str, Case] = {
    "a session": Case(),
    "a token": Case(token=True),
    "nobody the gateway was told of": Case(told=False, believed=False),
    "a token of nobody it was told of": Case(told=False, token=True, believed=False),
    "an ended session": Case(lives=-HOUR, believed=False),
    "an ended token": Case(lives=-HOUR, token=True, believed=False),
    "a revoked session": Case(revoked=-HOUR, believed=False),
    "a revoked token": Case(revoked=-HOUR, token=True, believed=False),
    "accepted before the session ended, brought later": Case(lives=-HOUR, accepted=-2 * HOUR),
    "accepted before it was revoked, brought later": Case(revoked=-HOUR, accepted=-2 * HOUR),
    "accepted after it was revoked": Case(revoked=-HOUR, accepted=-HOUR / 2, believed=False),
    "accepted in the future": Case(lives=-HOUR, accepted=2 * HOUR, believed=False),
    "accepted at no time": Case(lives=-HOUR, accepted="never", believed=False),
    "at no time, with a session that lives": Case(accepted="never"),
    "a session of this environment's gateways": Case(opened_at="NPR"),
    "a session of another environment's gateways": Case(opened_at="PRO", believed=False),
    "meant for here": Case(audience=("NPR",)),
    "meant for elsewhere": Case(audience=("PRIMARY", "PRO"), believed=False),
    "a token meant for elsewhere": Case(audience=("PRO",), token=True, believed=False),
    "meant for everywhere, in production": Case(production=True, believed=False),
    "of before there were audiences": Case(production=True, everywhere=HOUR),
    "a token of before there were audiences": Case(production=True, everywhere=HOUR, token=True),
    "of before there were audiences, whose time is over": Case(production=True, everywhere=-HOUR, believed=False),
    "of before there were audiences, accepted in its time": Case(production=True, everywhere=-HOUR, accepted=-2 * HOUR),
    "of before there were audiences, and ended since": Case(production=True, everywhere=HOUR, revoked=-HOUR, accepted=-2 * HOUR),
    "a session that was made later": Case(made=-HOUR, accepted=-2 * HOUR, believed=False),
    "a token that was made later": Case(made=-HOUR, accepted=-2 * HOUR, token=True, believed=False),
    "a session that was made before": Case(made=-2 * HOUR, accepted=-HOUR),
    "made a little later by another clock": Case(made=-HOUR + MINUTE / 3, accepted=-HOUR),
    "a session made later by a clock that is slow": Case(made=-HOUR + 4.9 * MINUTE, accepted=-HOUR),
    "a token made later by a clock that is slow": Case(made=-HOUR + 4.9 * MINUTE, accepted=-HOUR, token=True),
    "a session made later than any clock is slow": Case(made=-HOUR + 5.1 * MINUTE, accepted=-HOUR, believed=False),
    "a token made later than any clock is slow": Case(made=-HOUR + 5.1 * MINUTE, accepted=-HOUR, token=True, believed=False),
    "ended a minute before it was accepted": Case(revoked=-HOUR, accepted=-HOUR + MINUTE, believed=False),
    "run out a minute before it was accepted": Case(lives=-HOUR, accepted=-HOUR + MINUTE, believed=False),
    "an epoch that began a little later by a slow clock": Case(revoked=-HOUR, accepted=-2 * HOUR, epoch=-2 * HOUR + 4.9 * MINUTE),
    "a token of Entra, confirmed by a slow clock": Case(entra=-HOUR + 4.9 * MINUTE, accepted=-HOUR, token=True),
    "an ended session, before its epoch began": Case(revoked=-HOUR, accepted=-2 * HOUR, epoch=-HOUR / 2, believed=False),
    "an ended token, before its epoch began": Case(
        revoked=-HOUR, accepted=-2 * HOUR, epoch=-HOUR / 2, token=True, believed=False
    ),
    "an ended session, before the life began": Case(revoked=-HOUR, accepted=-2 * HOUR, life=-HOUR / 2, believed=False),
    "a living session, before the life began": Case(accepted=-2 * HOUR, life=-HOUR / 2),
    "an ended session, years ago": Case(revoked=-HOUR, accepted=-90_000 * HOUR, believed=False),
    "meant for here, in production": Case(audience=("PRIMARY", "NPR"), production=True),
    "of Entra, confirmed": Case(entra=-HOUR / 2),
    "of Entra, not confirmed for long": Case(entra=-3 * HOUR, believed=False),
    "a token of Entra, confirmed yesterday": Case(entra=-23 * HOUR, token=True),
    "a token of Entra, confirmed later only": Case(entra=-HOUR, accepted=-2 * HOUR, token=True, believed=False),
    "a token of Entra, confirmed before and later": Case(entra=-HOUR, before=-20 * HOUR, accepted=-2 * HOUR, token=True),
    "a token of Entra, long before and later": Case(
        entra=-HOUR, before=-30 * HOUR, accepted=-2 * HOUR, token=True, believed=False
    ),
    "a token of Entra, not confirmed for long": Case(entra=-25 * HOUR, token=True, believed=False),
}


def somebody(kind: str, case: Case) -> str:
    """They may write everywhere; what is asked is whether the gateway may say that they did."""
    holder: Any = (
        User.objects.create(email="ann@example.com", role="secret_manager", password="!") if kind == "user"
        else ServiceIdentity.objects.create(display_name="CI", owner_email="o@e.c", client_id="c", secret_hash="-")
    )  # fmt: skip
    RoleGrant.objects.create(**{kind: holder}, role=Role.objects.get(name="secret_manager"))
    if case.entra is not None:
        User.objects.filter(pk=holder.pk).update(sso_provider="entra", entra_confirmed_at=now() + case.entra)
    if case.before is not None:
        came = now() + case.before
        Session.objects.create(
            **{kind: holder}, token_hash=uuid.uuid4().hex, created_at=came, expires_at=came + HOUR, audience=["PRIMARY"]
        )
    where = {} if case.token else {"gateway_environment": case.opened_at}
    (ApiToken if case.token else Session).objects.create(
        **{kind: holder}, token_hash=uuid.uuid4().hex, expires_at=now() + case.lives,
        audience=case.audience and list(case.audience),
        revoked_at=None if case.revoked is None else now() + case.revoked, created_at=now() + case.made,
        everywhere_until=None if case.everywhere is None else now() + case.everywhere, **where,
    )  # fmt: skip
    if case.told:
        ToldPrincipal.objects.create(environment_id="NPR", principal=holder.id)
    return f"{kind}:{holder.id}"


def claim_of(gateway: FakeGateway, actor: str, accepted: str, received: datetime) -> authors.Claim:
    moment = moment_of(accepted)
    return authors.Claim(uuid.uuid4(), actor, moment, received, gateway.epoch, uuid.UUID(gateway.id), gateway.generation)


def test_who_is_believed_to_have_written(desk: Desk, settings: Any) -> None:
    wrong, cells, received = [], 0, now()
    for name, case in CASES.items():
        settings.MAZEVAULT = replace(settings.MAZEVAULT, production=case.production)
        for kind in ("user",) if case.entra is not None else ("user", "service"):
            cells += 1
            with transaction.atomic():
                actor = somebody(kind, case)
                accepted = case.accepted if isinstance(case.accepted, str) else (received + case.accepted).isoformat()
                EpochGrant.objects.filter(environment_id="NPR").update(granted_at=received + case.epoch)
                GatewayLife.objects.update(began_at=received + case.life)
                if bool(authors.believed("NPR", [claim_of(desk.active, actor, accepted, received)])) != case.believed:
                    wrong.append((name, kind))
                transaction.set_rollback(True)
    print(f"authorship: {cells} cells, {len(wrong)} wrong")
    assert wrong == []


def test_what_is_not_believed_is_dead_and_waits_for_a_person_and_a_caller_who_waits_hears_so(desk: Desk) -> None:
    told, other = (somebody("user", CASES["a session"]), somebody("service", CASES["nobody the gateway was told of"]))
    believed, not_believed = (desk.write(desk.secret(key), actor=one) for key, one in (("a", told), ("b", other)))
    desk.active.upload(believed, not_believed)
    inbox.apply_pending()
    assert [row_of(one).outcome for one in (believed, not_believed)] == ["applied", "dead_letter"]
    assert (row_of(not_believed).code, row_of(not_believed).sealed_body is not None) == ("AUTHOR_NOT_BELIEVED", True)
    receipt = desk.active.upload_one(desk.write(desk.secret("c"), actor=other, promised=False), apply_now=True)
    assert (receipt.outcome, receipt.code) == ("refused", "AUTHOR_NOT_BELIEVED")


SPELLINGS: Mapping[str, Callable[[str], str]] = {
    "capitals": lambda one: f"user:{one.upper()}",
    "braces": lambda one: f"user:{{{one}}}",
    "an urn": lambda one: f"user:urn:uuid:{one}",
    "no hyphens": lambda one: "user:" + one.replace("-", ""),
    "blanks": lambda one: f"user: {one}",
    "a line below": lambda one: f"user:{one}\n",
    "another kind": lambda one: f"USER:{one}",
    "the kind of nobody": lambda one: f"gateway:{one}",
    "no kind": lambda one: one,
    "other digits": lambda one: f"user:{one[:-1]}\N{FULLWIDTH DIGIT ONE}",
    "system": lambda one: "system",
    "nothing": lambda one: "",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_author_has_one_spelling(desk: Desk, spelling: str) -> None:
    write = desk.write(desk.secret(), actor=SPELLINGS[spelling](str(desk.writer.id)))
    desk.active.upload(write)
    inbox.apply_pending()
    row = row_of(write)
    assert (row.outcome, row.code) == ("dead_letter", "VALIDATION_ERROR") and row.detail.startswith("actor: ")


def test_what_came_through_a_gateway_is_found_by_its_author_and_names_the_gateway(desk: Desk, admin: Person) -> None:
    desk.active.upload(desk.write(desk.secret()), desk.write(desk.new(), operation=WriteOperation.CREATE, base_version=None))
    inbox.apply_pending()
    told = AuditEntry.objects.filter(action__in=("secret.updated", "secret.created"), details__node__isnull=False)
    assert told.count() == 2
    for entry in told:
        assert (entry.actor, entry.details["principal"]) == (desk.actor, desk.actor)
        assert entry.details["via"] == f"gateway:{desk.active.id}"
    found = admin.post("audit-logs/search", {"user_id": str(desk.writer.id), "limit": 100})[1]
    assert len([row for row in found if row["action"] in ("secret.updated", "secret.created")]) == 2


def test_a_gateway_asks_about_nobody_it_was_not_told_of(desk: Desk) -> None:
    """A change of a vault is asked about before it is made there, so the same is believed of its author."""
    secret = desk.secret()
    for actor, code in ((desk.actor, ""), (f"user:{NAMED}", "AUTHOR_NOT_BELIEVED")):
        body = WriteCheck(
            epoch=desk.active.epoch, operation=WriteOperation.DELETE, secret=str(secret.id), project=str(secret.project_id),
            project_environment=str(secret.environment_id), key=secret.key, base_version=secret.version, actor=actor,
            body=WriteBody(),
        )  # fmt: skip
        answer = desk.active.call(paths.WRITES_CHECK, body, WriteKnown)
        assert ("" if isinstance(answer, WriteKnown) else answer.json()["code"]) == code


def test_a_grant_that_was_given_later_excuses_no_earlier_write(desk: Desk) -> None:
    """Nor does one that was withdrawn since: what counts is what was held then and still is."""
    actor = somebody("service", CASES["a session"])
    EpochGrant.objects.update(granted_at=now() - 72 * HOUR)
    GatewayLife.objects.update(began_at=now() - 72 * HOUR)
    at = (now() - HOUR).isoformat()
    outcomes = []
    for given in (-HOUR / 2, -HOUR + 4.9 * MINUTE, -2 * HOUR):
        RoleGrant.objects.filter(service=actor.partition(":")[2]).update(created_at=now() + given)
        write = desk.write(desk.secret(f"k{given.total_seconds():.0f}"), actor=actor, accepted_at=at)
        desk.active.upload(write)
        inbox.apply_pending()
        outcomes.append((row_of(write).outcome, row_of(write).code))
    assert outcomes == [("dead_letter", "ACTOR_NOT_ALLOWED"), ("applied", ""), ("applied", "")]


def test_it_takes_one_statement_and_bounded_reading_for_any_number_of_writes(desk: Desk, django_assert_num_queries: Any) -> None:
    actors = [factories.signed_in_at("NPR", User.objects.create(email=f"u{one}@example.com", password="!")) for one in range(20)]
    moment = now()
    with django_assert_num_queries(1):
        named = [claim_of(desk.active, actor, "", moment) for actor in [*actors, f"user:{NAMED}", "nonsense"]]
        assert len(authors.believed("NPR", named)) == 20
    with django_assert_num_queries(0):
        assert authors.believed("NPR", [claim_of(desk.active, "system", "", moment)]) == {}


@pytest.mark.parametrize("kind", ["user", "service"])
def test_what_is_read_of_an_author_does_not_grow_with_what_is_stored(
    desk: Desk, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended ones by the thousand that say nothing, of somebody who is not believed: every one would have to be looked at."""
    actor = somebody(kind, CASES["an ended session"])
    holder = {f"{kind}_id": actor.partition(":")[2]}
    ended = {**holder, "created_at": now() - 48 * HOUR, "expires_at": now() + HOUR, "revoked_at": now() - HOUR}
    for model in (Session, ApiToken):
        model._default_manager.bulk_create(model(**ended, token_hash=f"{number:064x}") for number in range(3000))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE accounts_session, accounts_apitoken")
    monkeypatch.setattr(authors, "MOST_LOOKED_AT", 50)
    told: list[Any] = []
    monkeypatch.setattr(authors, "fetch", lambda text, values: told.append((text, values)) or [])
    authors.believed("NPR", [claim_of(desk.active, actor, "", now())])
    with connection.cursor() as cursor:
        cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + told[0][0], told[0][1])
        plan = cursor.fetchone()[0]
    nodes = list(_nodes((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]))
    read = [(_rows_of(node), name) for node in nodes if (name := _table_of(node)).startswith(("accounts_", "living_"))]
    print(f"{kind}: at most {max(read)} rows read by a step, of 6,000 that are stored")
    assert len(read) >= 4 and max(read)[0] <= 60, max(read)


@pytest.mark.parametrize("kind", ["user", "service"])
@pytest.mark.parametrize("model", [Session, ApiToken])
def test_what_others_were_made_and_ended_hides_nothing_that_lived(
    desk: Desk, kind: str, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline makes one for each of its runs and revokes it; some were made since, some ended since, most before."""
    monkeypatch.setattr(authors, "MOST_LOOKED_AT", 5)
    at = now() - HOUR
    for case in (CASES["a session"], replace(CASES["a session"], revoked=-HOUR / 2)):
        with transaction.atomic():
            actor = somebody(kind, replace(case, token=model is ApiToken))
            others = [(at - 3 * HOUR, at - 2 * HOUR), (at + HOUR / 2, at + 3 * HOUR / 4), (at + HOUR / 2, None)]
            model.objects.bulk_create(
                model(**{f"{kind}_id": actor.partition(":")[2]}, token_hash=uuid.uuid4().hex, created_at=made, revoked_at=ended,
                      expires_at=now() + life * HOUR)
                for made, ended in others for life in (1 / 4, 1 / 2, 2, 48, 96, 128, 256)
            )  # fmt: skip
            EpochGrant.objects.update(granted_at=now() - 72 * HOUR)
            GatewayLife.objects.update(began_at=now() - 72 * HOUR)
            assert authors.believed("NPR", [claim_of(desk.active, actor, at.isoformat(), now())]), case
            transaction.set_rollback(True)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from _nodes(inner)


def _rows_of(node: dict[str, Any]) -> float:
    thrown = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return (node["Actual Rows"] + thrown) * node["Actual Loops"]


def _table_of(node: dict[str, Any]) -> str:
    return str(node.get("Relation Name") or node.get("Index Name") or "")
