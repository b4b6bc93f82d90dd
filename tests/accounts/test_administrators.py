"""Nothing takes the last right to everything: whoever asks, in whatever way."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from accounts.models import GroupMapping, Role, RoleGrant, User
from common.clock import now
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


def test_nobody_is_kept_from_ending_other_roles(admin: Person) -> None:
    row = RoleGrant.objects.create(user=me(admin), role=Role.objects.get(name="auditor"))
    assert admin.delete(f"rbac/users/{me(admin).id}/roles/{row.id}")[0] == 204
