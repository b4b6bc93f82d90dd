"""Nothing takes the last right to everything: whoever asks, in whatever way."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from accounts import people
from accounts.changes import By
from accounts.models import GroupMapping, Role, RoleGrant, User
from accounts.principals import principal_of_user
from common.clock import now
from common.errors import Conflict
from tests.conftest import Person

pytestmark = pytest.mark.usefixtures("primary")


def me(person: Person) -> User:
    return User.objects.get(id=person.get("auth/me")[1]["id"])


def another(**more: Any) -> User:
    return User.objects.create(email=f"other{User.objects.count()}@example.com", password="!", **more)


def given(user: User, **more: Any) -> RoleGrant:
    return RoleGrant.objects.create(user=user, role=Role.objects.get(name="admin"), **more)


def own_role(admin: Person) -> str:
    return f"rbac/users/{me(admin).id}/roles/{me(admin).id}"


def by_hand(admin: Person) -> str:
    """An account of Entra has no role but its grants."""
    User.objects.filter(id=me(admin).id).update(sso_provider="entra", entra_confirmed_at=now(), role="member")
    return f"rbac/users/{me(admin).id}/roles/{given(me(admin)).id}"


def by_a_mapping(admin: Person) -> str:
    role = Role.objects.get(name="admin")
    mapping = GroupMapping.objects.create(group_external_id="A", group_display_name="A", role=role)
    User.objects.filter(id=me(admin).id).update(sso_provider="entra", entra_confirmed_at=now(), role="member")
    given(me(admin), assigned_by_sso=True, given_by=[str(mapping.id)])
    return f"rbac/mappings/{mapping.id}"


@pytest.mark.parametrize("way", [own_role, by_hand, by_a_mapping])
def test_the_last_administrator_keeps_it_and_is_told_what_to_do_first(admin: Person, way: Any) -> None:
    path = way(admin)
    for nobody in (
        lambda: None,
        lambda: given(another(), expires_at=now() + timedelta(days=1)),
        lambda: given(another(), environment="dev"),
        lambda: another(role="admin", is_active=False),
        lambda: another(role="admin", deleted_at=now()),
        lambda: another(role="admin", sso_provider="entra"),
        lambda: another(role="project_admin"),
    ):
        nobody()
        status, answer = admin.delete(path)
        assert (status, answer["code"]) == (409, "LAST_ADMINISTRATOR") and "rbac/users/{id}/roles" in answer["error"]
        assert "gateway:admin" in admin.get("auth/me/permissions")[1]["everywhere"]
    given(another())
    assert admin.delete(path)[0] == 204
    assert "gateway:admin" not in admin.get("auth/me/permissions")[1]["everywhere"]


def of_entra(**more: Any) -> User:
    return another(role="member", sso_provider="entra", entra_confirmed_at=now(), **more)


@pytest.mark.parametrize("by_entra", [True, False], ids=["its role is Entra's", "its account is Entra's"])
def test_the_last_administrator_of_our_own_stays_while_the_others_are_of_entra(admin: Person, by_entra: bool) -> None:
    given(of_entra(), assigned_by_sso=by_entra)
    status, answer = admin.delete(own_role(admin))
    assert (status, answer["code"]) == (409, "LAST_ADMINISTRATOR") and "signs in with a password here" in answer["error"]
    assert "rbac/users/{id}/roles" in answer["error"]
    given(another())
    assert admin.delete(own_role(admin))[0] == 204


@pytest.mark.parametrize("change", [
    lambda user, by: people.delete(user.id, by, now()),
    lambda user, by: people.set_active(user.id, False, by, now()),
    lambda user, by: people.give_to_entra(user.id, by, now()),
])  # fmt: skip
def test_no_way_takes_the_last_administrator_of_our_own(admin: Person, change: Any) -> None:
    by = By(principal_of_user(given(of_entra(), assigned_by_sso=True).user, now()), "")
    with pytest.raises(Conflict) as refused:
        change(me(admin), by)
    assert refused.value.code == "LAST_ADMINISTRATOR"


def test_where_all_are_of_entra_already_one_may_go(admin: Person) -> None:
    path = by_hand(admin)
    given(of_entra(), assigned_by_sso=True)
    assert admin.delete(path)[0] == 204


def test_nobody_is_kept_from_ending_other_roles(admin: Person) -> None:
    row = RoleGrant.objects.create(user=me(admin), role=Role.objects.get(name="auditor"))
    assert admin.delete(f"rbac/users/{me(admin).id}/roles/{row.id}")[0] == 204
