"""Moving a project's values into its vault and back: looked at first, resumed after a crash, nothing lost, nothing kept twice."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from accounts.models import Project, User
from common.clock import now
from common.models import AuditEntry
from gateways import dispatch, storage_moves
from gateways.models import Task
from sandbox.azure.directory import CLIENT_ID, TENANT_ID
from sandbox.azure.server import Sandbox
from tests.conftest import Person
from tests.gateways.sync_desk import Killed, Line, SyncDesk
from vault.models import Secret, SecretVersion

pytestmark = pytest.mark.usefixtures("primary")


@pytest.fixture
def desk(admin: Person, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> SyncDesk:
    return SyncDesk(admin, sandbox, monkeypatch)


def preview(desk: SyncDesk, to: str = "key_vault") -> dict[str, Any]:
    status, body = desk.admin.post(f"projects/{desk.project}/storage", {"to": to})
    assert status == 200, body
    return dict(body)


def start(desk: SyncDesk, to: str = "key_vault") -> None:
    status, body = desk.admin.post(f"projects/{desk.project}/storage", {"to": to, "confirm": preview(desk, to)["digest"]})
    assert status == 202, body


def move(desk: SyncDesk, to: str = "key_vault") -> dict[str, Any]:
    start(desk, to)
    desk.work()
    return look(desk)


def look(desk: SyncDesk) -> dict[str, Any]:
    return dict(desk.admin.get(f"projects/{desk.project}/storage")[1][0])


def filled(desk: SyncDesk) -> None:
    """Two living secrets, one with three values, and a deleted one."""
    for value in ("one", "two", "three"):
        desk.put("DB_PASSWORD", value)
    desk.put("token", "t")
    desk.put("GONE", "g")
    desk.delete("GONE")


def test_it_is_shown_before_anything_happens(desk: SyncDesk) -> None:
    filled(desk)
    shown = preview(desk)
    assert shown["problems"] == [] and shown["shares"] == [
        {"environment": "dev", "gateway_environment": "NPR", "target": desk.url, "secrets": 3, "versions": 5, "deleted": 1,
         "older_versions_that_stay": 0},
    ]  # fmt: skip
    desk.put("token", "changed")
    status, body = desk.admin.post(f"projects/{desk.project}/storage", {"to": "key_vault", "confirm": shown["digest"]})
    assert (status, body["code"]) == (409, "PREVIEW_STALE") and not desk.journal()
    assert Project.objects.get(id=desk.project).storage == "mazevault"


def test_every_version_goes_into_the_vault_in_its_order_and_nothing_stays(desk: SyncDesk) -> None:
    filled(desk)
    done = move(desk)
    assert (done["state"], done["moved"], done["failed"]) == ("succeeded", 3, [])
    assert desk.there() == {"DB-PASSWORD": "three", "token": "t"}
    assert not SecretVersion.objects.exclude(sealed_value=None).exists()
    versions = {write.version: write for write in desk.journal() if write.action == "set" and write.name == "DB-PASSWORD"}
    rows = SecretVersion.objects.filter(secret__key="DB_PASSWORD").order_by("version")
    assert [row.external_version for row in rows] == list(versions)
    vault = desk.sandbox.world.vaults.named("kv-mazevault-npr")
    assert vault is not None and [item.name for item in vault.listed("secrets", deleted=True)] == ["GONE"]
    assert "three" not in str(list(AuditEntry.objects.values()))


def test_there_and_back_brings_every_value_home(desk: SyncDesk) -> None:
    filled(desk)
    before, ids = desk.here(), desk.ids()
    move(desk)
    done = move(desk, "mazevault")
    assert (done["state"], done["to"], done["moved"]) == ("succeeded", "mazevault", 3)
    assert desk.here() == before and not SecretVersion.objects.exclude(external_version="").exists()
    path = f"secrets/{ids['DB_PASSWORD']}/versions"
    assert [desk.admin.get(f"{path}/{number}")[1]["value"] for number in (1, 2, 3)] == ["one", "two", "three"]
    gone = Secret.objects.get(key="GONE")
    assert desk.admin.post(f"secrets/{gone.id}/restore")[0] == 200 and desk.here()["GONE"] == "g"


def test_every_secret_is_found_however_few_are_looked_at_in_one_query(desk: SyncDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_moves, "AT_ONCE", 2)
    for number in range(7):
        desk.put(f"K{number}", f"value {number}")
    desk.put("used-again", "old")
    desk.delete("used-again")
    desk.put("USED_AGAIN", "new")
    assert preview(desk)["shares"][0]["secrets"] == 8
    done = move(desk)
    assert (done["state"], done["moved"]) == ("succeeded", 8)
    assert desk.there() == {**{f"K{number}": f"value {number}" for number in range(7)}, "USED-AGAIN": "new"}
    (stays,) = SecretVersion.objects.exclude(sealed_value=None).select_related("secret")
    assert stays.secret.key == "used-again", "its name in the vault belongs to the living one"


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("to", ["key_vault", "mazevault"])
def test_a_move_that_was_killed_goes_on(desk: SyncDesk, to: str, moment: str) -> None:
    for number in range(5):
        desk.put(f"K{number}", f"value {number}")
    if to == "mazevault":
        move(desk)
    said = list[str]()

    def cut(path: str, when: str) -> None:
        said.extend([path] if path.endswith("storage/move") and when == moment else [])
        if len(said) == 3:
            raise Killed

    start(desk, to)
    with pytest.raises(Killed):
        desk.work(line=Line(desk.npr, cut))
    assert look(desk)["state"] == "running" and 0 < look(desk)["moved"] < 5
    claim_again()
    desk.work()
    assert look(desk)["state"] == "succeeded"
    expected = {f"K{number}": f"value {number}" for number in range(5)}
    assert (desk.there() if to == "key_vault" else desk.here()) == expected


def test_a_secret_that_is_still_on_its_way_takes_no_new_value(desk: SyncDesk) -> None:
    desk.put("A", "one")
    start(desk)
    status, body = desk.admin.put(f"secrets/{desk.ids()['A']}", {"value": "two"})
    assert (status, body["code"]) == (409, "STORAGE_MOVING")
    assert desk.admin.get(f"secrets/{desk.ids()['A']}")[1]["value"] == "one", "reading goes on"
    status, body = desk.admin.post(f"projects/{desk.project}/storage", {"to": "mazevault", "confirm": "x"})
    assert (status, body["code"]) == (409, "STORAGE_MOVING")


def test_what_a_vault_cannot_hold_is_named_before_anything_moves(desk: SyncDesk) -> None:
    for key in ("A_B", "A.B", "no spaces", "BIG"):
        desk.put(key, "x" * (26_000 if key == "BIG" else 1))
    problems = preview(desk)["problems"]
    assert len(problems) == 3 and any("'A.B' in dev and 'A_B' in dev" in one for one in problems), problems
    status, body = desk.admin.post(f"projects/{desk.project}/storage", {"to": "key_vault", "confirm": preview(desk)["digest"]})
    assert (status, body["code"]) == (409, "STORAGE_CANNOT_MOVE") and not desk.journal()
    desk.admin.delete(f"projects/integrations/{desk.integration}")
    assert "add an integration" in preview(desk)["problems"][0]


def test_a_name_that_is_somebody_elses_stays_here_and_is_named(desk: SyncDesk) -> None:
    desk.portal().set_secret("A", "somebody else's")
    desk.put("A", "mine")
    desk.put("B", "b")
    done = move(desk)
    assert (done["state"], done["moved"]) == ("incomplete", 1)
    assert [(one["key"], one["code"]) for one in done["failed"]] == [("A", "NAME_TAKEN_IN_VAULT")]
    assert desk.there() == {"A": "somebody else's", "B": "b"} and desk.here()["A"] == "mine"


def test_a_denial_ends_it_and_everything_can_still_be_read(desk: SyncDesk, control: httpx.Client) -> None:
    desk.put("A", "one")
    control.post("/faults", json={"vault_forbidden": ["kv-mazevault-npr"]})
    done = move(desk)
    assert (done["state"], done["code"]) == ("failed", "KEY_VAULT_ROLE_MISSING") and "Fix: " in done["detail"]
    assert desk.admin.get(f"secrets/{desk.ids()['A']}")[1]["value"] == "one"
    control.post("/faults", json={"vault_forbidden": []})
    assert move(desk)["state"] == "succeeded" and desk.there() == {"A": "one"}


def test_two_environments_in_one_vault_do_not_share_a_name(desk: SyncDesk) -> None:
    wish = {"name": "second", "type": "key_vault", "provider": "azure_key_vault", "environment": "qa",
            "config": {"vault_url": desk.url}}  # fmt: skip
    desk.made(f"projects/{desk.project}/integrations", wish)
    desk.put("A", "one")
    desk.made("secrets", {"project_id": desk.project, "environment": "qa", "key": "A", "value": "another"})
    assert "'A' in dev and 'A' in qa" in str(preview(desk)["problems"])


def test_no_move_runs_in_a_persons_own_name(desk: SyncDesk) -> None:
    desk.put("A", "one")
    wish = {"name": "vault", "type": "key_vault", "provider": "azure_key_vault",
            "config": {"vault_url": desk.url, "auth_method": "on_behalf_of", "tenant_id": TENANT_ID,
                       "client_id": CLIENT_ID, "client_secret": "canary-8d1"}}  # fmt: skip
    status, body = desk.admin.put(f"projects/integrations/{desk.integration}", wish)
    assert status == 200, body
    assert "own name" in str(preview(desk)["problems"])


def test_what_was_changed_in_the_vault_stays_there_and_is_named(desk: SyncDesk) -> None:
    desk.put("A", "one")
    desk.put("B", "b")
    move(desk)
    desk.portal().set_secret("A", "from the portal")
    done = move(desk, "mazevault")
    assert (done["state"], done["moved"]) == ("incomplete", 1)
    assert [(one["key"], one["code"]) for one in done["failed"]] == [("A", "CHANGED_IN_VAULT")]
    assert desk.there()["A"] == "from the portal" and desk.here()["B"] == "b"
    assert SecretVersion.objects.get(secret__key="A").external_version


def test_a_value_that_is_switched_off_stays_alone(desk: SyncDesk) -> None:
    desk.put("A", "one")
    desk.put("B", "b")
    move(desk)
    newest = SecretVersion.objects.get(secret__key="A").external_version
    desk.portal().update_secret_properties("A", newest, enabled=False)
    done = move(desk, "mazevault")
    assert (done["state"], done["moved"], [one["code"] for one in done["failed"]]) == (
        "incomplete", 1, ["KEY_VAULT_OBJECT_DISABLED"],
    )  # fmt: skip


def test_a_retired_value_does_not_move(desk: SyncDesk) -> None:
    for value in ("one", "two"):
        desk.put("A", value)
    SecretVersion.objects.filter(version=1).update(retired_at=now())
    assert preview(desk)["shares"][0]["versions"] == 1
    assert move(desk)["state"] == "succeeded" and [write.action for write in desk.journal()] == ["set"]


@pytest.mark.parametrize("change", ["purge", "update"])
def test_what_changed_while_it_was_moved_is_not_overwritten(desk: SyncDesk, change: str) -> None:
    desk.put("A", "one")
    move(desk)
    identifier = desk.ids()["A"]

    def meanwhile(path: str, when: str) -> None:
        if path.endswith("storage/move") and when == "after" and not done:
            done.append(path)
            if change == "purge":
                Secret.objects.filter(id=identifier).update(status="purged")
                SecretVersion.objects.update(external_version="", sealed_value=None)
            else:
                assert desk.admin.put(f"secrets/{identifier}", {"value": "newer"})[0] == 200

    done = list[str]()
    start(desk, "mazevault")
    desk.work(line=Line(desk.npr, meanwhile))
    rows = SecretVersion.objects.filter(secret__key="A").order_by("version")
    if change == "purge":
        assert [row.sealed_value for row in rows] == [None]
    else:
        assert desk.here() == {"A": "newer"} and rows[0].external_version
    assert look(desk)["state"] == "succeeded"


def test_a_right_that_was_taken_away_leaves_the_rest_where_it_is(desk: SyncDesk) -> None:
    desk.put("A", "one")
    start(desk)
    User.objects.update(role="viewer")
    desk.work()
    User.objects.update(role="admin")
    assert look(desk)["state"] == "incomplete" and not desk.journal()


def test_a_move_nobody_works_on_any_more_is_ended(desk: SyncDesk) -> None:
    desk.put("A", "one")
    start(desk)
    Task.objects.update(state="dead_letter")
    assert storage_moves.sweep(now()) == 1 and look(desk)["code"] == "TASK_ENDED"


def test_the_storage_of_a_project_is_changed_by_a_move_only(desk: SyncDesk) -> None:
    status, body = desk.admin.put(f"projects/{desk.project}", {"name": "payments", "storage": "key_vault"})
    assert (status, body["code"]) == (409, "STORAGE_MOVE_NEEDED")


def claim_again() -> None:
    """What the sweep does when a claim runs out."""
    Task.objects.filter(state="claimed").update(claim_until=now() - timedelta(seconds=1))
    dispatch.sweep(now())
    Task.objects.filter(state="pending").update(not_before=now() - timedelta(seconds=1))
