"""Claims to roles, without a database."""

from __future__ import annotations

from typing import Any

import pytest

from accounts.claims import ClaimsRefused, GroupsAsRoles, MappingRow, person_of, roles_for, shown_role
from accounts.diagnoses import BY_NUMBER, Owner, diagnose

CLAIMS = {"oid": "o", "iat": 1_700_000_000, "preferred_username": "Ada@Bank.example", "name": "Ada"}
ROWS = [MappingRow("APP_MZV_PRO_ADMIN", "Administrators", "admin"), MappingRow("6f0c", "GRP_AUDIT", "auditor"),
        MappingRow("app_x", "", "user"), MappingRow(" ", "", "finance")]  # fmt: skip


@pytest.mark.parametrize(
    ("held", "roles"),
    [([], ()), (["app_mzv_pro_admin"], ("admin",)), (["ADMINISTRATORS"], ("admin",)), (["6F0C", "grp_audit"], ("auditor",)),
     (["6f0c", "APP_X"], ("auditor", "user")), (["APP_MZV_PRO_ADMIN "], ("admin",)), (["APP_MZV_PRO"], ()), (["", " "], ()),
     (["APP_MZV_PRO_ADMIN2"], ())],
)  # fmt: skip
def test_roles_are_those_of_every_mapping_that_names_an_identifier(held: list[str], roles: tuple[str, ...]) -> None:
    assert roles_for(held, ROWS) == roles


@pytest.mark.parametrize(
    ("roles", "shown"),
    [((), "viewer"), (("auditor", "user"), "auditor"), (("admin", "project_admin"), "admin"), (("my_own",), "my_own"),
     (("my_own", "user"), "user"), (("secret_manager", "certificate_manager"), "certificate_manager")],
)  # fmt: skip
def test_the_highest_role_is_shown(roles: tuple[str, ...], shown: str) -> None:
    assert shown_role(roles, "viewer") == shown


@pytest.mark.parametrize(
    ("more", "overage"),
    [({}, False), ({"_claim_names": {"groups": "src1"}}, True), ({"_claim_names": {"groups": "src1"}, "roles": ["A"]}, True),
     ({"hasgroups": True}, True), ({"hasgroups": "true"}, True), ({"_claim_names": {"other": "src1"}}, False),
     ({"_claim_names": "groups"}, False), ({"groups": ["a"]}, False)],
)  # fmt: skip
def test_overage_is_seen_in_each_of_its_forms_also_beside_roles(more: dict[str, Any], overage: bool) -> None:
    assert person_of({**CLAIMS, **more}).overage is overage


def test_a_person_is_known_by_oid_and_sign_in_name() -> None:
    person = person_of({**CLAIMS, "email": "ceo@bank.example", "name": "A\u202edA\n"})
    assert (person.external_id, person.address, person.name) == ("o", "ada@bank.example", "AdA")


@pytest.mark.parametrize(
    "more",
    [{"preferred_username": ""}, {"preferred_username": "no address"}, {"preferred_username": "a@b@c"}, {"roles": None},
     {"preferred_username": ["a@b"]}, {"groups": ["a", 1]}, {"roles": ["x"] * 1001}, {"preferred_username": "x" * 300 + "@b"},
     {"preferred_username": "a\ud800@b"}, {"preferred_username": "a\u202e@b"}],
)  # fmt: skip
def test_claims_of_another_shape_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ClaimsRefused):
        person_of({**CLAIMS, **more})


def test_groups_as_roles_are_recognised() -> None:
    with pytest.raises(GroupsAsRoles):
        person_of({**CLAIMS, "roles": ["APP_A", "5b1e55ed-0000-4000-8000-000000000001"]})


def test_each_diagnosis_says_cause_fix_and_owner_in_one_sentence_each() -> None:
    for number, row in BY_NUMBER.items():
        assert row.code.startswith("ENTRA_") and row.cause and row.fix and row.owner in Owner, number
        assert row.status in (401, 403, 503) and not row.cause.endswith("."), number


@pytest.mark.parametrize(
    ("answer", "code", "number"),
    [({"error_codes": [65001]}, "ENTRA_CONSENT_MISSING", 65001),
     ({"error_codes": [], "error_description": "AADSTS7000222: expired"}, "ENTRA_SECRET_EXPIRED", 7000222),
     ({"error": "invalid_grant", "suberror": "consent_required"}, "ENTRA_CONSENT_MISSING", None),
     ({"error_codes": [12345]}, "ENTRA_REFUSED", 12345), ({}, "ENTRA_REFUSED", None),
     ({"error_codes": "65001", "error": "x<script>"}, "ENTRA_REFUSED", None),
     ({"error_description": "AADSTS" + "9" * 4000}, "ENTRA_REFUSED", 999999999)],
)  # fmt: skip
def test_an_answer_of_entra_is_given_its_meaning(answer: dict[str, Any], code: str, number: int | None) -> None:
    diagnosis, found = diagnose(answer)
    assert (diagnosis.code, found) == (code, number)
    assert "<" not in diagnosis.cause
