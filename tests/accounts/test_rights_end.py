"""How rights end that came by Entra, by an environment, or by a password somebody else knew."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts import sso
from accounts.claims import Person as Claimed
from accounts.models import ApiToken, GroupMapping, Role, RoleGrant, Session, User
from accounts.principals import principal_named
from common.clock import now
from common.models import AuditEntry
from tests import factories
from tests.conftest import Person

MINUTE = timedelta(minutes=1)
OID = "9c4c8ddb-0000-4000-8000-000000000001"


def mapping(name: str, role: str = "admin") -> GroupMapping:
    return GroupMapping.objects.create(group_external_id=name, group_display_name=name, role=Role.objects.get(name=role))


def sign_in(*names: str, said: timedelta = timedelta(0)) -> Person:
    """Ada comes in by Entra with these App Roles and groups; Entra said so a while ago."""
    claimed = Claimed(OID, "ada@bank.example", "Ada", names, (), overage=False, said_at=now() - said)
    return Person(sso._come_in(claimed, (), None, address="", now=now()).token)


def ada() -> User:
    return User.objects.get(sso_external_id=OID)


def token_of(person: Person) -> Person:
    status, row = person.post("users/tokens", {"name": "t", "duration": "8784h"})
    assert status == 201, row
    return Person(row["token"])


def roles_shown(admin: Person, user: User) -> list[str]:
    return [row["role"] for row in admin.get(f"rbac/users/{user.id}/roles")[1]]


def confirmed(ago: timedelta) -> None:
    User.objects.filter(pk=ada().pk).update(entra_confirmed_at=now() - ago)


@pytest.fixture
def leaver(primary: None) -> tuple[Person, Person]:
    """An administrator by Entra: her session and her API token."""
    mapping("APP_ADMIN")
    session = sign_in("APP_ADMIN")
    return session, token_of(session)


def may_make_administrators(person: Person) -> bool:
    body = {"email": "back@example.com", "password": "seven purple otters sing", "role": "admin"}
    return person.post("rbac/users", body)[0] == 201


class TestEntra:
    def test_what_is_withdrawn_makes_no_new_administrator(self, leaver: tuple[Person, Person], admin: Person) -> None:
        for row in admin.get(f"rbac/users/{ada().id}/roles")[1]:
            assert admin.delete(f"rbac/users/{ada().id}/roles/{row['id']}")[0] == 204
        assert roles_shown(admin, ada()) == [] and admin.get(f"rbac/users/{ada().id}")[1]["role"] == "member"
        assert not any(may_make_administrators(one) for one in leaver)
        assert {one.get("rbac/users")[0] for one in leaver} == {403}
        assert leaver[0].get("auth/me/permissions")[1]["permissions"] == []

    def test_a_deleted_mapping_takes_what_it_alone_gave(self, leaver: tuple[Person, Person], admin: Person) -> None:
        group = mapping("b4c1f7ce-0000-4000-8000-000000000001")
        sign_in("APP_ADMIN", group.group_external_id.upper())
        first = GroupMapping.objects.get(group_external_id="APP_ADMIN")
        assert admin.delete(f"rbac/mappings/{first.id}")[0] == 204
        assert roles_shown(admin, ada()) == ["admin"] and leaver[1].get("rbac/users")[0] == 200
        assert admin.delete(f"rbac/mappings/{group.id}")[0] == 204
        assert roles_shown(admin, ada()) == [] and {one.get("rbac/users")[0] for one in leaver} == {403}
        told = AuditEntry.objects.filter(action="rbac.user.removed").get()
        assert (told.entity_id, told.details["why"]) == (str(ada().id), "its mapping was deleted")

    def test_a_grant_from_before_mappings_were_kept_ends_with_any_of_its_role(
        self, leaver: tuple[Person, Person], admin: Person
    ) -> None:
        RoleGrant.objects.update(given_by=[])
        assert admin.delete(f"rbac/mappings/{GroupMapping.objects.get().id}")[0] == 204
        assert roles_shown(admin, ada()) == []

    def test_grants_by_hand_stay_with_a_mapping_of_the_same_role(self, leaver: tuple[Person, Person], admin: Person) -> None:
        role = str(Role.objects.get(name="admin").id)
        assert admin.post(f"rbac/users/{ada().id}/roles", {"role_id": role})[0] == 201
        assert admin.delete(f"rbac/mappings/{GroupMapping.objects.get().id}")[0] == 204
        assert leaver[1].get("rbac/users")[0] == 200

    def test_without_entras_word_a_session_ends_after_an_hour_and_a_token_after_a_day(
        self, leaver: tuple[Person, Person]
    ) -> None:
        session, token = leaver
        row = Session.objects.get(user=ada())
        assert now() + 59 * MINUTE < row.expires_at <= now() + 60 * MINUTE
        Session.objects.update(expires_at=now() + timedelta(days=1))  # as one of before had it
        confirmed(59 * MINUTE)
        assert (session.get("auth/me")[0], token.get("auth/me")[0]) == (200, 200)
        confirmed(61 * MINUTE)
        assert (session.get("auth/me")[0], token.get("auth/me")[0]) == (401, 200)
        confirmed(24 * 60 * MINUTE)
        status, answer = token.get("auth/me")
        assert (status, answer["code"]) == (401, "AUTH_EXPIRED") and "signed in with Entra" in answer["error"]
        sign_in("APP_ADMIN")
        assert token.get("auth/me")[0] == 200, "their next sign-in is Entra's word"
        User.objects.filter(pk=ada().pk).update(entra_confirmed_at=None)
        assert (session.get("auth/me")[0], token.get("auth/me")[0]) == (401, 401)

    def test_entras_word_counts_from_when_it_was_said_and_an_older_one_takes_back_no_newer_one(
        self, leaver: tuple[Person, Person]
    ) -> None:
        User.objects.filter(pk=ada().pk).update(entra_confirmed_at=None)
        late = sign_in("APP_ADMIN", said=61 * MINUTE)
        assert late.get("auth/me")[0] == 401, "an hour after it was said, not after it was shown"
        assert now() - 62 * MINUTE < ada().entra_confirmed_at < now() - 60 * MINUTE
        assert sign_in("APP_ADMIN").get("auth/me")[0] == 200
        newest = ada().entra_confirmed_at
        sign_in("APP_ADMIN", said=30 * MINUTE)
        assert ada().entra_confirmed_at == newest
        sign_in("APP_ADMIN", said=-2 * MINUTE)
        assert ada().entra_confirmed_at <= now(), "its clock goes before ours"

    def test_a_mapping_ends_for_many_with_as_many_statements_as_for_few(self, admin: Person, primary: None) -> None:
        counts = []
        assert admin.get("auth/me")[0] == 200  # notes when the session was last used
        for many in (2, 40):
            one, other = mapping(f"ONE_{many}", "auditor"), mapping(f"OTHER_{many}", "auditor")
            users = [User.objects.create(email=f"u{number}.{many}@example.com", sso_provider="entra") for number in range(many)]
            for number, user in enumerate(users):
                given = [str(one.id), str(other.id)] if number % 2 else [str(one.id)]
                RoleGrant.objects.create(user=user, role=one.role, assigned_by_sso=True, given_by=given)
            with CaptureQueriesContext(connection) as seen:
                assert admin.delete(f"rbac/mappings/{one.id}")[0] == 204
            counts.append(len(seen))
            held = RoleGrant.objects.filter(user__in=users)
            assert set(held.values_list("user", flat=True)) == {user.id for user in users[1::2]}
            assert all(row.given_by == [str(other.id)] for row in held)
            assert set(User.objects.filter(id__in=[user.id for user in users[::2]]).values_list("role", flat=True)) == {"member"}
            assert set(User.objects.filter(id__in=[user.id for user in users[1::2]]).values_list("role", flat=True)) == {"viewer"}
            ended = AuditEntry.objects.filter(action="rbac.user.removed", entity_id__in=[str(user.id) for user in users])
            assert ended.count() == many // 2
        assert counts[0] == counts[1]

    def test_work_in_their_name_goes_on_for_a_month(self, leaver: tuple[Person, Person]) -> None:
        actor = f"user:{ada().id}"
        confirmed(timedelta(days=29))
        assert principal_named(actor, now())
        confirmed(timedelta(days=31))
        assert principal_named(actor, now()) is None


class TestPlaces:
    @pytest.fixture
    def bank(self, admin: Person, primary: None) -> dict[str, str]:
        made = admin.post("organizations", {"name": "Bank"})[1]["id"]
        return {one["slug"]: one["id"] for one in admin.get(f"organizations/{made}/environments")[1]} | {"id": made}

    def test_a_slug_of_all_organizations_does_not_become_production_by_itself(
        self, bank: dict[str, str], admin: Person, person: Callable[[str], Person]
    ) -> None:
        factories.grant(person("viewer"), "user", environment="dev")
        at = f"organizations/{bank['id']}/environments"
        for call in (
            lambda: admin.patch(f"{at}/{bank['dev']}", {"is_production": True}),
            lambda: (admin.delete(f"{at}/{bank['dev']}"), admin.post(at, {"name": "dev", "is_production": True}))[1],
        ):
            status, answer = call()
            assert (status, answer["code"]) == (409, "GRANTS_OF_THIS_SLUG"), answer
        assert admin.post(at, {"name": "dev"})[0] == 201

    def test_other_environments_and_other_organizations_keep_their_grants(self, bank: dict[str, str], admin: Person) -> None:
        other = admin.post("organizations", {"name": "Insurer"})[1]["id"]
        user = admin.post("rbac/users", {"email": "u@example.com", "password": "seven purple otters sing"})[1]["id"]
        role = str(Role.objects.get(name="user").id)
        for where in ({"organization_id": bank["id"], "environment": slug} for slug in ("dev", "qa")):
            assert admin.post(f"rbac/users/{user}/roles", {"role_id": role, **where})[0] == 201
        assert admin.post(f"rbac/users/{user}/roles", {"role_id": role, "organization_id": other, "environment": "dev"})[0] == 201
        assert admin.delete(f"organizations/{bank['id']}/environments/{bank['dev']}")[0] == 204
        left = {(row.organization_id and str(row.organization_id), row.environment) for row in RoleGrant.objects.all()}
        assert left == {(bank["id"], "qa"), (other, "dev")}


class TestAccountsWithAPassword:
    def test_the_role_of_the_account_is_shown_and_can_be_ended(self, admin: Person, primary: None) -> None:
        body = {"email": "u@example.com", "password": "seven purple otters sing"}
        user = admin.post("rbac/users", {**body, "role": "auditor"})[1]["id"]
        caller = Person(admin.post("auth/login", body)[1]["token"])
        row = admin.get(f"rbac/users/{user}/roles")[1][0]
        assert (row["id"], row["role"]) == (user, "auditor") and caller.get("audit-logs")[0] == 200
        assert admin.delete(f"rbac/users/{user}/roles/{user}")[0] == 204
        assert caller.get("audit-logs")[0] == 403 and admin.get(f"rbac/users/{user}")[1]["role"] == "viewer"
        assert admin.delete(f"rbac/users/{user}/roles/{user}")[0] == 409

    def test_nobody_ends_the_role_of_who_may_do_more(self, admin: Person, person: Callable[[str], Person], primary: None) -> None:
        Role.objects.create(name="keeper", permissions=["users:read", "roles:read", "roles:write"])
        keeper = person("viewer")
        factories.grant(keeper, "keeper")
        boss = admin.get("auth/me")[1]["id"]
        assert keeper.get(f"rbac/users/{boss}/roles")[1][0]["role"] == "admin"
        assert keeper.delete(f"rbac/users/{boss}/roles/{boss}")[0] == 403

    @pytest.mark.parametrize(("more", "living"), [({}, 0), ({"keep_tokens": False}, 0), ({"keep_tokens": True}, 1)])
    def test_a_new_password_ends_tokens_unless_they_are_kept(
        self, admin: Person, primary: None, more: dict[str, Any], living: int
    ) -> None:
        body = {"email": "u@example.com", "password": "seven purple otters sing"}
        admin.post("rbac/users", body)
        caller = Person(admin.post("auth/login", body)[1]["token"])
        token = token_of(caller)
        wish = {"current_password": body["password"], "new_password": "eleven brass kettles hum", **more}
        assert caller.post("auth/password", wish)[0] == 204 and caller.get("auth/me")[0] == 200
        assert ApiToken.objects.filter(revoked_at=None).count() == living
        assert token.get("auth/me")[0] == (200 if living else 401)
