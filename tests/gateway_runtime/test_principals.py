"""Credentials at a gateway: hashes and grants of the copy, for a limited time, one answer for everything wrong (DESIGN §9)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from django.conf import settings

from accounts import rates
from common.clock import now
from common.models import AuditEntry
from gateway_runtime.models import NodeState, ReplicaToken
from tests.conftest import Person
from tests.gateway_runtime.conftest import SECRETS, GatewayPerson, Site


def code_for(person: Person, site: Site) -> tuple[int, str]:
    status, body = person.get(f"secrets?project_id={site.project.id}")
    return status, body["code"] if status != 200 else ""


def test_a_token_counts_while_the_copy_is_young_enough(site: Site) -> None:
    ann = site.person()
    longest = settings.MAZEVAULT.own_gateway.offline_auth_max
    site.cut_off_for(seconds=longest - 30)
    assert code_for(ann, site) == (200, "")
    site.cut_off_for(seconds=longest)
    assert code_for(ann, site) == (401, "AUTH_OFFLINE_TOO_LONG")
    assert code_for(GatewayPerson("mzv_unknown", ""), site) == (401, "AUTH_OFFLINE_TOO_LONG"), "the same for everybody"


def test_no_token_counts_when_the_clock_was_put_back_behind_the_copy(site: Site) -> None:
    """Else a clock put back by a year would make every credential live a year longer."""
    ann = site.person()
    site.cut_off_for(seconds=-50)
    assert code_for(ann, site) == (200, "")
    site.cut_off_for(seconds=-90)
    assert code_for(ann, site) == (401, "AUTH_OFFLINE_TOO_LONG")


def test_unknown_expired_and_revoked_tokens_get_one_answer(site: Site) -> None:
    expired, revoked = site.person(name="old"), site.person(name="gone")
    ReplicaToken.objects.filter(principal__name="old").update(expires_at=now() - timedelta(seconds=1))
    ReplicaToken.objects.filter(principal__name="gone").delete()
    answers = [one.get("writes") for one in (expired, revoked, GatewayPerson("mzv_never", ""))]
    assert {status for status, _ in answers} == {401} and len({str(body) for _, body in answers}) == 1


def test_without_a_token_nothing_is_answered(site: Site) -> None:
    assert GatewayPerson("", "").get("writes")[0] == 401
    assert Person().call("get", "/gw/api/v1/secrets?project_id=x", HTTP_AUTHORIZATION="Basic abc")[0] == 401


def test_before_the_first_complete_copy_nobody_is_known(site: Site) -> None:
    ann = site.person()
    NodeState.objects.update(replica_complete_at=None)
    assert code_for(ann, site) == (503, "REPLICA_INCOMPLETE")


@pytest.mark.parametrize(
    ("where", "status"),
    [({}, 200), ({"environment": "dev"}, 200), ({"environment": "DEV"}, 200), ({"environment": "qa"}, 404),
     ({"expires_at": "2020-01-01T00:00:00Z"}, 403)],
)  # fmt: skip
def test_a_grant_counts_where_and_while_it_says(site: Site, where: dict[str, str], status: int) -> None:
    secret = site.secret()
    assert site.person(SECRETS, **where).get(f"secrets/{secret.id}")[0] == status


def test_a_token_carries_no_more_than_its_scopes(site: Site) -> None:
    secret, reader = site.secret(), site.person(scopes=["secrets:read"])
    assert reader.get(f"secrets/{secret.id}")[0] == 200
    assert reader.put(f"secrets/{secret.id}", {"value": "x"})[0] == 403


def test_people_and_programs_have_the_limit_they_have_at_the_primary(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, ann, bob = site.secret(), site.person(), site.person(name="bob")
    monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, calls_per_minute=3))
    monkeypatch.setattr(rates, "_minute", lambda _now: 7)  # no minute ends while this runs
    asked = [f"secrets/{secret.id}", f"secrets?project_id={site.project.id}"] * 2
    assert [ann.get(path)[0] for path in asked] == [200, 200, 200, 429], "the short way and the whole one count together"
    status, refused = ann.get(asked[0])
    assert (status, refused["code"]) == (429, "RATE_LIMITED")
    assert bob.get(asked[0])[0] == 200
    assert AuditEntry.objects.filter(action="auth.limited").count() == 1
