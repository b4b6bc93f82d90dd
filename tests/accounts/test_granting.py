"""Who may give what to whom: nobody grants above themselves, wherever and however they try (reliability row 10)."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from accounts import directory
from accounts.models import IdentityProvider, Role, RoleGrant, Session, User
from accounts.sessions import PREFIX, hash_token
from accounts.setup import ensure_system_roles
from common.api import rfc3339
from common.clock import now
from common.models import AuditEntry, Change
from tests.conftest import Person

pytestmark = pytest.mark.usefixtures("primary")
PASSWORD = "seven purple otters sing"


def role_id(name: str) -> str:
    return str(Role.objects.get(name=name).id)


def somebody(email: str, role: str = "viewer") -> User:
    return User.objects.create(email=email, role=role, password="!")


def grant(user: User, role: str, **place: Any) -> RoleGrant:
    return RoleGrant.objects.create(user=user, role=Role.objects.get(name=role), **place)


@pytest.fixture
def bank(admin: Person) -> dict[str, Any]:
    body: dict[str, Any] = admin.post("organizations", {"name": "Bank"})[1]
    return body


@pytest.fixture
def insurer(admin: Person) -> dict[str, Any]:
    body: dict[str, Any] = admin.post("organizations", {"name": "Insurer"})[1]
    return body


@pytest.fixture
def signed_in() -> Callable[[User], Person]:
    def make(user: User) -> Person:
        token = f"{PREFIX}{user.id}"
        Session.objects.create(user=user, token_hash=hash_token(token), expires_at=now() + timedelta(hours=1))
        return Person(token)

    return make


@pytest.fixture
def chief(bank: dict[str, Any], signed_in: Callable[[User], Person]) -> Person:
    """Administers the bank, and only the bank."""
    user = somebody("chief@example.com")
    grant(user, "admin", organization_id=bank["id"])
    return signed_in(user)


@pytest.fixture
def clerk(bank: dict[str, Any]) -> User:
    """Works at the bank."""
    user = somebody("clerk@example.com")
    grant(user, "viewer", organization_id=bank["id"])
    return user


class TestGrants:
    def test_an_administrator_of_one_organization_grants_there(self, chief: Person, clerk: User, bank: dict[str, Any]) -> None:
        status, row = chief.post(
            f"rbac/users/{clerk.id}/roles", {"role_id": role_id("secret_manager"), "organization_id": bank["id"]}
        )
        assert (status, row["role"], row["organization_id"]) == (201, "secret_manager", bank["id"])

    def test_and_nowhere_else(self, chief: Person, clerk: User, insurer: dict[str, Any], admin: Person) -> None:
        project = admin.post("projects", {"name": "theirs", "organization_id": insurer["id"]})[1]
        path, role = f"rbac/users/{clerk.id}/roles", role_id("user")
        assert chief.post(path, {"role_id": role})[0] in (403, 404)
        assert chief.post(path, {"role_id": role, "organization_id": insurer["id"]})[0] == 404
        assert chief.post(path, {"role_id": role, "project_id": project["id"]})[0] == 404
        assert chief.post(path, {"role_id": role, "environment": "dev"})[0] in (403, 404)

    def test_the_role_admin_comes_only_from_who_holds_it_everywhere(
        self, chief: Person, admin: Person, clerk: User, bank: dict[str, Any]
    ) -> None:
        wish = {"role_id": role_id("admin"), "organization_id": bank["id"]}
        status, body = chief.post(f"rbac/users/{clerk.id}/roles", wish)
        assert (status, body["code"]) == (403, "PERMISSION_DENIED")
        assert admin.post(f"rbac/users/{clerk.id}/roles", wish)[0] == 201

    def test_who_may_grant_but_lacks_a_permission_cannot_give_it(
        self, admin: Person, clerk: User, signed_in: Callable[[User], Person]
    ) -> None:
        Role.objects.create(name="granter", permissions=["roles:read", "roles:write", "users:read", "secrets:read"])
        helper = somebody("helper@example.com")
        grant(helper, "granter")
        caller = signed_in(helper)
        narrow = Role.objects.create(name="reader", permissions=["secrets:read"])
        wide = Role.objects.create(name="writer", permissions=["secrets:read", "secrets:write"])
        assert caller.post(f"rbac/users/{clerk.id}/roles", {"role_id": str(narrow.id)})[0] == 201
        status, body = caller.post(f"rbac/users/{clerk.id}/roles", {"role_id": str(wide.id)})
        assert status == 403 and "secrets:write" in body["error"]
        assert caller.post(f"rbac/users/{helper.id}/roles", {"role_id": role_id("admin")})[0] == 403
        assert caller.post("rbac/mappings", {"group_name": "all", "role_id": str(wide.id)})[0] == 403
        assert caller.post("rbac/roles", {"name": "w2", "permissions": ["secrets:write"]})[0] == 403

    def test_a_right_that_ends_cannot_be_given_for_longer(
        self, bank: dict[str, Any], clerk: User, signed_in: Callable[[User], Person]
    ) -> None:
        guest = somebody("guest@example.com")
        end = now() + timedelta(hours=1)
        grant(guest, "admin", organization_id=bank["id"], expires_at=end)
        caller, path = signed_in(guest), f"rbac/users/{clerk.id}/roles"
        wish = {"role_id": role_id("user"), "organization_id": bank["id"]}
        assert caller.post(path, wish)[0] == 403
        assert caller.post(path, {**wish, "expires_at": rfc3339(end + timedelta(minutes=1))})[0] == 403
        assert caller.post(path, {**wish, "expires_at": rfc3339(end - timedelta(minutes=1))})[0] == 201

    def test_a_grant_in_a_project_is_in_the_audit_of_its_organization(
        self, admin: Person, clerk: User, bank: dict[str, Any]
    ) -> None:
        project = admin.post("projects", {"name": "payments", "organization_id": bank["id"]})[1]
        admin.post(f"rbac/users/{clerk.id}/roles", {"role_id": role_id("viewer"), "project_id": project["id"]})
        entry = AuditEntry.objects.get(action="rbac.user.assigned", project=project["id"])
        assert str(entry.organization) == bank["id"]

    def test_an_empty_text_for_an_id_counts_as_absent(self, admin: Person, clerk: User) -> None:
        path = f"rbac/users/{clerk.id}/roles"
        wish = {"role_id": role_id("auditor"), "organization_id": "", "project_id": " "}
        status, row = admin.post(path, wish)
        assert status == 201 and not row["organization_id"] and not row["project_id"]
        status, answer = admin.post(path, {"role_id": ""})
        assert (status, answer["error"]) == (400, "role_id: is required")

    @pytest.mark.parametrize(
        "moment", ["9999-12-31T23:59:59-01:00", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "9001-01-01T00:00:00Z",
                   "1999-12-31T23:59:59Z", "2000-01-01T00:00:00+01:00"],
    )  # fmt: skip
    def test_a_moment_nobody_could_read_again_is_refused(self, admin: Person, clerk: User, moment: str) -> None:
        status, answer = admin.post(f"rbac/users/{clerk.id}/roles", {"role_id": role_id("viewer"), "expires_at": moment})
        assert (status, answer["error"].split(":")[0]) == (400, "expires_at"), answer
        assert admin.get(f"rbac/users/{clerk.id}/roles")[0] == 200

    def test_a_far_moment_that_can_be_read_is_taken(self, admin: Person, clerk: User) -> None:
        wish = {"role_id": role_id("viewer"), "expires_at": "9000-12-31T23:59:59Z"}
        assert admin.post(f"rbac/users/{clerk.id}/roles", wish)[1]["expires_at"].startswith("9000-12-31")

    def test_an_expired_grant_gives_nothing(self, bank: dict[str, Any], signed_in: Callable[[User], Person]) -> None:
        guest = somebody("guest@example.com")
        grant(guest, "admin", organization_id=bank["id"], expires_at=now() - timedelta(seconds=1))
        assert signed_in(guest).get(f"organizations/{bank['id']}")[0] == 403

    def test_a_limited_token_of_an_administrator_gives_no_more_than_its_scopes(self, admin: Person, clerk: User) -> None:
        scopes = ["roles:read", "roles:write", "users:read", "secrets:read"]
        limited = Person(admin.post("users/tokens", {"name": "t", "scopes": scopes})[1]["token"])
        path = f"rbac/users/{clerk.id}/roles"
        assert limited.post(path, {"role_id": role_id("admin")})[0] == 403
        assert limited.post(path, {"role_id": role_id("secret_manager")})[0] == 403
        reader = Role.objects.create(name="reader", permissions=["secrets:read"])
        assert limited.post(path, {"role_id": str(reader.id)})[0] == 201

    def test_an_environment_is_meant_by_name_or_slug_and_must_exist(
        self, admin: Person, clerk: User, bank: dict[str, Any], signed_in: Callable[[User], Person]
    ) -> None:
        admin.post(f"organizations/{bank['id']}/environments", {"name": "User Acceptance", "slug": "uat"})
        path = f"rbac/users/{clerk.id}/roles"
        wish = {"role_id": role_id("user"), "organization_id": bank["id"]}
        assert admin.post(path, {**wish, "environment": "nowhere"})[0] == 400
        status, row = admin.post(path, {**wish, "environment": "User Acceptance"})
        assert (status, row["environment"]) == (201, "User Acceptance")
        places = signed_in(clerk).get("auth/me/permissions")[1]["places"]
        assert [place["environment"] for place in places if "secrets:read" in place["permissions"]] == ["uat"]

    @pytest.mark.parametrize(
        "text", ["dev\u200b", " dev", "\u3000", "\u00ad", "\uff44\uff45\uff56", "de\u0301v", "Acceptance Test", "dev/x"]
    )
    def test_in_all_organizations_an_environment_is_a_slug_that_one_can_have(self, admin: Person, clerk: User, text: str) -> None:
        """Else the grant would give nothing and look as if it gave something."""
        path, role = f"rbac/users/{clerk.id}/roles", role_id("secret_manager")
        status, body = admin.post(path, {"role_id": role, "environment": text})
        assert status == 400 and body["error"].startswith("environment: "), body
        assert admin.post(path, {"role_id": role, "environment": "DEV"})[0] == 201

    def test_taking_a_role_away_takes_the_same_rights_and_is_told_to_the_gateways(
        self, chief: Person, admin: Person, clerk: User, bank: dict[str, Any], insurer: dict[str, Any]
    ) -> None:
        theirs = grant(clerk, "user", organization_id=insurer["id"])
        mine = grant(clerk, "user", organization_id=bank["id"])
        assert chief.delete(f"rbac/users/{clerk.id}/roles/{theirs.id}")[0] == 404
        assert str(theirs.id) not in str(chief.get(f"rbac/users/{clerk.id}/roles"))
        before = Change.objects.count()
        assert chief.delete(f"rbac/users/{clerk.id}/roles/{mine.id}")[0] == 204
        told = Change.objects.order_by("-id")[: Change.objects.count() - before]
        assert {(change.kind, change.scope) for change in told} == {("principal", "NPR"), ("principal", "PRO")}
        assert AuditEntry.objects.filter(action="rbac.user.removed", entity_id=str(clerk.id)).exists()


class TestPeople:
    def test_an_account_with_a_role_needs_a_maker_who_holds_it(self, admin: Person, signed_in: Callable[[User], Person]) -> None:
        Role.objects.create(name="desk", permissions=["users:read", "users:write"])
        desk = somebody("desk@example.com")
        grant(desk, "desk")
        caller = signed_in(desk)
        wish = {"email": "new@example.com", "password": PASSWORD}
        assert caller.post("rbac/users", {**wish, "role": "admin"})[0] == 403
        assert caller.post("rbac/users", {**wish, "role": "user"})[0] == 403
        assert caller.post("rbac/users", {**wish, "role": "member"})[0] == 201
        assert admin.post("rbac/users", {**wish, "email": "boss@example.com", "role": "admin"})[0] == 201

    @pytest.mark.parametrize("verb", ["reset", "disable"])
    def test_nobody_takes_over_an_account_that_may_do_more(
        self, admin: Person, verb: str, signed_in: Callable[[User], Person]
    ) -> None:
        Role.objects.create(name="desk", permissions=["users:read", "users:write", "dashboard:read"])
        desk, boss = somebody("desk@example.com"), somebody("boss@example.com", "admin")
        grant(desk, "desk")
        colleague = somebody("colleague@example.com")
        caller = signed_in(desk)
        assert caller.post(f"rbac/users/{boss.id}/{verb}")[0] == 403
        assert caller.delete(f"rbac/users/{boss.id}")[0] == 403
        assert caller.post(f"rbac/users/{colleague.id}/{verb}")[0] == 200
        assert caller.post(f"rbac/users/{desk.id}/{verb}")[0] == 409

    @pytest.mark.parametrize("verb", ["reset", "disable"])
    def test_who_is_an_administrator_for_an_hour_does_not_take_over_one_for_ever(
        self, admin: Person, verb: str, signed_in: Callable[[User], Person]
    ) -> None:
        """The password it would get outlives the hour."""
        guest, boss, peer = (somebody(f"{name}@example.com") for name in ("guest", "boss", "peer"))
        end = now() + timedelta(hours=1)
        grant(guest, "admin", expires_at=end)
        grant(boss, "admin")
        grant(peer, "admin", expires_at=end)
        caller = signed_in(guest)
        status, answer = caller.post(f"rbac/users/{boss.id}/{verb}")
        assert status == 403 and "longer" in answer["error"]
        assert caller.delete(f"rbac/users/{boss.id}")[0] == 403
        assert caller.post(f"rbac/users/{peer.id}/{verb}")[0] == 200

    def test_disabling_ends_sessions_and_tokens_and_enabling_brings_none_back(
        self, admin: Person, clerk: User, signed_in: Callable[[User], Person]
    ) -> None:
        session = signed_in(clerk)
        token = Person(session.post("users/tokens", {"name": "t", "scopes": None})[1]["token"])
        assert token.get("auth/me")[0] == 200
        admin.post(f"rbac/users/{clerk.id}/disable")
        assert [caller.get("auth/me")[0] for caller in (session, token)] == [401, 401]
        admin.post(f"rbac/users/{clerk.id}/enable")
        assert [caller.get("auth/me")[0] for caller in (session, token)] == [401, 401]

    def test_an_organization_s_administrator_sees_its_people_only(
        self, chief: Person, clerk: User, admin: Person, insurer: dict[str, Any]
    ) -> None:
        stranger = somebody("stranger@example.com")
        grant(stranger, "user", organization_id=insurer["id"])
        assert {row["email"] for row in chief.get("rbac/users")[1]} == {"chief@example.com", "clerk@example.com"}
        theirs, nobody = (chief.get(f"rbac/users/{one}/roles") for one in (stranger.id, uuid.uuid4()))
        assert theirs == nobody and theirs[0] == 404

    def test_effective_permissions_say_which_role_gives_what_where(
        self, admin: Person, clerk: User, bank: dict[str, Any]
    ) -> None:
        grant(clerk, "secret_manager", organization_id=bank["id"], environment="dev")
        _, body = admin.get(f"rbac/users/{clerk.id}/effective-permissions")
        why = {(row["role"], row["organization_id"], row["environment"]) for row in body["why"]}
        assert ("secret_manager", bank["id"], "dev") in why and ("viewer", None, None) in why
        assert "secrets:write" in body["permissions"] and "secrets:write" not in body["everywhere"]


class TestProviders:
    def test_secrets_of_a_provider_rest_sealed_and_never_come_back(self, admin: Person) -> None:

        config = {"tenant_id": "t", "client_secret": "open sesame", "inner": {"api_key": "k", "x": 1}}
        _, row = admin.post("identity-providers", {"type": "entra_id", "name": "Corp", "config": config})
        assert row["config"] == {"tenant_id": "t"}
        path = f"identity-providers/{row['id']}"
        kept = admin.put(path, {"type": "entra_id", "name": "Corp", "config": {"tenant_id": "u"}})[1]
        provider = IdentityProvider.objects.get()
        assert directory.provider_secrets(provider) == {"client_secret": "open sesame", "inner.api_key": "k", "inner.x": 1}
        assert b"sesame" not in bytes(provider.sealed_secrets) and "sesame" not in str(kept)
        assert "sesame" not in str(list(AuditEntry.objects.values()))
        admin.put(path, {"type": "entra_id", "name": "Corp", "config": {"client_secret": ""}})
        provider.refresh_from_db()
        assert directory.provider_secrets(provider) == {"inner.api_key": "k", "inner.x": 1}

    def test_who_writes_a_provider_must_hold_what_its_groups_give(
        self, admin: Person, signed_in: Callable[[User], Person]
    ) -> None:
        Role.objects.create(name="settings", permissions=["settings:read", "settings:write", "roles:read", "roles:write"])
        keeper = somebody("keeper@example.com")
        grant(keeper, "settings")
        caller, wish = signed_in(keeper), {"type": "entra_id", "name": "Mine"}
        assert caller.post("identity-providers", wish)[0] == 201
        mapping = admin.post("rbac/mappings", {"group_name": "admins", "role_id": role_id("admin")})[1]
        assert caller.post("identity-providers", wish)[0] == 403
        assert caller.delete(f"rbac/mappings/{mapping['id']}")[0] == 403
        assert admin.delete(f"rbac/mappings/{mapping['id']}")[0] == 204


def test_a_release_that_changes_a_system_role_tells_the_gateways_of_everybody_who_holds_it(bank: dict[str, Any]) -> None:
    by_account, by_grant, other = somebody("a@example.com", "user"), somebody("b@example.com"), somebody("c@example.com")
    grant(by_grant, "user", organization_id=bank["id"])
    Role.objects.filter(name="user").update(permissions=["dashboard:read"])
    Change.objects.all().delete()
    ensure_system_roles()
    told = set(Change.objects.filter(kind="principal").values_list("entity_id", flat=True))
    assert told == {by_account.id, by_grant.id} and other.id not in told
    before = Change.objects.count()
    ensure_system_roles()
    assert Change.objects.count() == before
