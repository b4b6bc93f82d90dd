"""Roles are data, and the walls between them are promises: these tests are what an auditor would ask (client-api G).

Proven here: exactly the system roles of the product exist, several roles give the union and an unknown one nothing (I20),
certificate managers see no secrets and secret managers no certificates, and the power to move or force an environment is an
administrator's alone.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts.roles import (
    AUDIT_READ,
    FAILOVER_FORCE,
    GATEWAY_ADMIN,
    GATEWAY_READ,
    METRICS_READ,
    SYSTEM_ROLES,
    permissions_of,
)

EVERY_ROLE = pytest.mark.parametrize("role", SYSTEM_ROLES)


def holders_of(permission: str) -> set[str]:
    return {role for role, permissions in SYSTEM_ROLES.items() if permission in permissions}


def resources_of(role: str) -> set[str]:
    return {permission.split(":")[0] for permission in SYSTEM_ROLES[role]}


class TestRoles:
    def test_the_system_roles_are_those_of_the_product(self) -> None:
        assert set(SYSTEM_ROLES) == {
            "viewer", "user", "finance", "auditor", "certificate_manager", "secret_manager", "ssh_admin", "project_admin",
            "admin", "secret_reader",
        }  # fmt: skip

    def test_a_secret_reader_reads_secrets_and_nothing_more(self) -> None:
        assert SYSTEM_ROLES["secret_reader"] == {"dashboard:read", "projects:read", "secrets:read"}

    @EVERY_ROLE
    def test_every_permission_is_a_resource_and_an_action(self, role: str) -> None:
        assert all(re.fullmatch(r"[a-z]+:[a-z]+", permission) for permission in SYSTEM_ROLES[role])

    @EVERY_ROLE
    def test_everybody_sees_the_dashboard(self, role: str) -> None:
        assert "dashboard:read" in SYSTEM_ROLES[role]

    def test_a_viewer_sees_nothing_else(self) -> None:
        assert SYSTEM_ROLES["viewer"] == {"dashboard:read"}

    def test_a_user_edits_secrets_and_asks_for_certificates_but_deletes_and_revokes_nothing(self) -> None:
        assert SYSTEM_ROLES["user"] == {
            "dashboard:read", "projects:read", "secrets:read", "secrets:write", "certificates:request",
        }  # fmt: skip


class TestWalls:
    @pytest.mark.parametrize(
        ("role", "forbidden"),
        [
            ("certificate_manager", {"secrets"}),
            ("secret_manager", {"certificates"}),
            ("viewer", {"secrets", "certificates", "projects"}),
            ("finance", {"secrets", "certificates", "projects", "users", "gateway"}),
            ("auditor", {"secrets", "certificates"}),
            ("ssh_admin", {"secrets", "certificates"}),
            ("project_admin", {"gateway", "failover", "users", "roles", "settings", "audit", "metrics"}),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_role_has_nothing_beyond_its_wall(self, role: str, forbidden: set[str]) -> None:
        assert resources_of(role) & forbidden == set()

    def test_an_auditor_changes_nothing(self) -> None:
        assert {permission.split(":")[1] for permission in SYSTEM_ROLES["auditor"]} == {"read"}

    @pytest.mark.parametrize(
        ("permission", "holders"),
        [
            (FAILOVER_FORCE, {"admin"}),
            (GATEWAY_ADMIN, {"admin"}),
            (METRICS_READ, {"admin"}),
            (GATEWAY_READ, {"admin", "auditor"}),
            (AUDIT_READ, {"admin", "auditor"}),
            ("users:write", {"admin"}),
            ("roles:write", {"admin"}),
            ("settings:write", {"admin"}),
            ("secrets:delete", {"admin", "project_admin", "secret_manager"}),
            ("certificates:revoke", {"admin", "project_admin", "certificate_manager"}),
        ],
    )
    def test_power_is_with_these_roles_only(self, permission: str, holders: set[str]) -> None:
        assert holders_of(permission) == holders


class TestUnion:
    @given(st.lists(st.sampled_from(sorted(SYSTEM_ROLES))))
    def test_several_roles_give_exactly_what_each_gives(self, roles: list[str]) -> None:
        given_by_each = {permission for role in roles for permission in SYSTEM_ROLES[role]}
        assert permissions_of(roles) == given_by_each
        assert permissions_of(reversed(roles)) == given_by_each

    @given(st.text().filter(lambda name: name not in SYSTEM_ROLES))
    def test_an_unknown_role_gives_nothing_and_takes_nothing(self, name: str) -> None:
        assert permissions_of([name]) == frozenset()
        assert permissions_of(["user", name]) == SYSTEM_ROLES["user"]

    @pytest.mark.parametrize("name", ["Admin", "ADMIN", " admin", "admin ", "a", ""])
    def test_a_name_that_only_looks_like_a_role_is_none(self, name: str) -> None:
        assert permissions_of([name]) == frozenset()

    def test_no_role_gives_nothing(self) -> None:
        assert permissions_of([]) == frozenset()

    def test_a_role_s_name_given_as_text_is_not_taken_for_its_letters(self) -> None:
        assert permissions_of("admin") == frozenset()
