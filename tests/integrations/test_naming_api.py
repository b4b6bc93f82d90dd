"""The naming convention over the API: the seed's examples, an organization's own template, and what is refused."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import pytest

from tests.conftest import Person

pytestmark = pytest.mark.usefixtures("primary")
PRO = {"company": "crd", "project": "mzv", "environment": "PRO", "region": "gwc", "zone": "int"}


@pytest.fixture
def bank(admin: Person) -> str:
    return str(admin.post("organizations", {"name": "Bank"})[1]["id"])


def names(admin: Person, bank: str, **wish: Any) -> dict[str, str]:
    status, rows = admin.post(f"organizations/{bank}/naming/preview", {**PRO, **wish})
    assert status == 200, rows
    return {row["type"]: row["name"] for row in rows}


def test_the_defaults_give_the_names_of_the_guide(admin: Person, bank: str) -> None:
    found = names(admin, bank)
    assert found["resource_group"] == "rg-crd-pro-int-mzv-gwc" and found["key_vault"] == "crdprointmzvgwckv01"


def test_an_organizations_own_template_counts(admin: Person, bank: str) -> None:
    own = {"name": "ours", "format": "naming-convention", "template": json.dumps({"key_vault": "kv-{proj}-{env}{nn}"})}
    assert admin.post(f"organizations/{bank}/config-templates", own)[0] == 201
    assert names(admin, bank)["key_vault"] == "kv-mzv-pro01"
    other = {"name": "other", "template": json.dumps({"key_vault": "{proj}-{env}-other{nn}"})}
    identifier = admin.post(f"organizations/{bank}/config-templates", other)[1]["id"]
    assert names(admin, bank, template_id=identifier)["key_vault"] == "mzv-pro-other01"
    assert admin.post(f"organizations/{bank}/naming/preview", {**PRO, "template_id": str(uuid.uuid4())})[0] == 404


def test_a_template_that_is_none_is_refused_with_its_fault(admin: Person, bank: str) -> None:
    broken = {"name": "broken", "format": "naming-convention", "template": json.dumps({"key_vault": "{nonsense}"})}
    admin.post(f"organizations/{bank}/config-templates", broken)
    status, body = admin.post(f"organizations/{bank}/naming/preview", PRO)
    assert status == 400 and "'broken'" in body["error"] and "nonsense" in body["error"]


def test_names_and_conventions_are_checked(admin: Person, bank: str) -> None:
    path = f"organizations/{bank}/naming/check"
    assert admin.post(path, {})[1]["problems"] == []
    status, body = admin.post(path, {"type": "key_vault", "names": ["ok-name", "x", "much-too-long-for-a-key-vault-name"]})
    assert (status, body["names"], len(body["problems"])) == (200, 3, 2)
    assert admin.post(path, {"names": ["a"]})[1]["error"].startswith("type: ")


def test_what_is_missing_or_unknown_is_named(admin: Person, bank: str) -> None:
    status, body = admin.post(f"organizations/{bank}/naming/preview", {"company": "crd"})
    assert status == 400 and body["error"].startswith("project: ")
    status, rows = admin.post(f"organizations/{bank}/naming/preview", {**PRO, "environment": "nope"})
    assert status == 200 and rows[0]["name"] == "" and rows[0]["problems"][0]["field"] == "environment"


def test_a_template_in_which_everything_is_twice_is_refused_at_once(admin: Person, bank: str) -> None:
    twice = "{" + ",".join(f'"k{number}":1,"k{number}":1' for number in range(2500)) + "}"
    admin.post(f"organizations/{bank}/config-templates", {"name": "t", "format": "naming-convention", "template": twice})
    begun = time.thread_time()
    status, body = admin.post(f"organizations/{bank}/naming/preview", PRO)
    assert status == 400 and "is there twice" in body["error"]
    assert time.thread_time() - begun < 1


def test_a_map_of_very_many_places_is_refused(admin: Person, bank: str) -> None:
    places = {"zones": [f"z{number}" for number in range(20)], "regions": [f"r{number}" for number in range(2)]}
    status, body = admin.post(f"organizations/{bank}/naming/check", places)
    assert status == 400 and body["error"].startswith("zones: zones times regions may be at most 20")


def test_of_many_names_that_are_the_same_a_few_are_told(admin: Person, bank: str) -> None:
    same = json.dumps({"key_vault": "vault{nn}"})
    admin.post(f"organizations/{bank}/config-templates", {"name": "same", "format": "naming-convention", "template": same})
    places = {"zones": [f"z{number}" for number in range(10)], "regions": ["a", "b"]}
    status, body = admin.post(f"organizations/{bank}/naming/check", places)
    assert status == 200 and len(body["problems"]) == 1
    assert "and 170 more" in body["problems"][0]["problem"] and len(body["problems"][0]["problem"]) < 1000
