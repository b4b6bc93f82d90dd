"""Moving a project's values into its vault and back: looked at first, resumed after a crash, nothing lost, nothing kept twice."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import Project, User
from common.clock import now
from common.models import AuditEntry
from gateways import dispatch, replica_records, storage_moves, storage_waiting
from gateways.models import Gateway, Task
from integrations.models import Integration, SyncRule
from protocol import paths
from protocol.replica import ReplicaKind, ReplicaProject, ReplicaSecret
from protocol.storage import MOST_VERSIONS, MoveAnswer, MovedSecret, MovedVersion, MoveProgress
from protocol.sync import LARGEST_VALUE_THERE
from sandbox.azure.directory import CLIENT_ID, TENANT_ID
from sandbox.azure.server import Sandbox
from tests.conftest import Person
from tests.gateways.sync_desk import Killed, Line, SyncDesk
from tests.gateways.vault_desk import be_on, cloud_of, sandbox_vault
from vault import values
from vault.models import Secret, SecretVersion

OTHER = "kv-mazevault-we-npr"
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


def second_vault(desk: SyncDesk) -> str:
    """Another vault of the environment, which its gateways may touch too."""
    other = sandbox_vault(desk.sandbox, OTHER)
    be_on(desk.monkeypatch, cloud_of(desk.sandbox), (desk.url, other))
    return other


def vault_of(url: str) -> dict[str, Any]:
    return {"name": "vault", "type": "key_vault", "provider": "azure_key_vault", "config": {"vault_url": url}}


def tags_of(desk: SyncDesk, name: str) -> dict[str, str]:
    return dict(desk.portal().get_secret(name).properties.tags)


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


def test_a_preview_opens_no_value_and_asks_as_much_for_many_secrets_as_for_few(
    desk: SyncDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def statements() -> int:
        with CaptureQueriesContext(connection) as asked:
            preview(desk)
        return len(asked)

    monkeypatch.setattr(values, "open_value", lambda *_: pytest.fail("a value was opened"))
    desk.put("A", "one")
    few = statements()
    for number in range(6):
        desk.put(f"K{number}", "value")
        desk.put(f"K{number}", "x" * (LARGEST_VALUE_THERE + number % 2))
    assert statements() == few and len(preview(desk)["problems"]) == 3


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
    monkeypatch.setattr(storage_waiting, "AT_ONCE", 2)
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


@pytest.mark.parametrize("how", ["delete", "put"])
def test_the_way_to_the_vault_stays_while_values_are_on_their_way(desk: SyncDesk, how: str) -> None:
    other = second_vault(desk)
    desk.put("A", "precious")
    path, said = f"projects/integrations/{desk.integration}", list[tuple[int, str]]()

    def meanwhile(where: str, when: str) -> None:
        if where.endswith("storage/move") and when == "after" and not said:
            status, body = desk.admin.delete(path) if how == "delete" else desk.admin.put(path, vault_of(other))
            said.append((status, body["code"]))

    start(desk)
    desk.work(line=Line(desk.npr, meanwhile))
    assert said == [(409, "STORAGE_MOVING")] and desk.there() == {"A": "precious"}
    assert desk.admin.delete(path)[1]["code"] == desk.admin.put(path, vault_of(other))[1]["code"] == "VAULT_HOLDS_VALUES"


def test_no_other_integration_becomes_the_one_that_holds_the_values(desk: SyncDesk) -> None:
    other = second_vault(desk)
    project = desk.made("projects", {"name": "second"})
    wish = {"name": "git", "type": "gitops", "provider": "generic", "environment": "dev", "config": {}}
    git = desk.made(f"projects/{project}/integrations", wish)
    vault = desk.made(f"projects/{project}/integrations", {**vault_of(desk.url), "environment": "dev"})
    desk.project, desk.integration = project, vault
    desk.put("A", "one")
    assert move(desk)["state"] == "succeeded"
    status, body = desk.admin.put(f"projects/integrations/{git}", {**vault_of(other), "name": "git"})
    assert (status, body["code"]) == (409, "VAULT_HOLDS_VALUES")
    assert desk.admin.put(f"projects/integrations/{vault}", {**vault_of(desk.url), "name": "renamed"})[0] == 200


def test_a_retired_or_older_value_is_never_taken_for_the_one_in_the_vault(desk: SyncDesk) -> None:
    for number in range(MOST_VERSIONS + 2):
        desk.put("OLD", f"v{number}")
    desk.put("RETIRED", "old")
    desk.put("RETIRED", "new")
    SecretVersion.objects.filter(secret__key="RETIRED", version=1).update(retired_at=now())
    assert preview(desk)["shares"][0]["older_versions_that_stay"] == 2
    assert move(desk)["state"] == "succeeded"
    assert desk.there() == {"OLD": f"v{MOST_VERSIONS + 1}", "RETIRED": "new"}
    assert SecretVersion.objects.get(secret__key="RETIRED", version=1).sealed_value is None, "nobody gets it back, so it is gone"
    told = replica_records.load("NPR", [(ReplicaKind.SECRET, row.id) for row in Secret.objects.all()], now()).by_thing
    assert [row.value for row in told.values() if isinstance(row, ReplicaSecret)] == [None, None]
    assert values.holding(Secret.objects.get(key="OLD")) is None, "its value now is in the vault"
    status, body = desk.admin.post(f"secrets/{desk.ids()['RETIRED']}/rollback", {"version": 1})
    assert status == 409, body
    first = f"secrets/{desk.ids()['OLD']}/versions/1"
    assert desk.admin.get(first)[1]["value"] == "v0", "what stayed here is read here"


def test_a_value_that_stayed_in_the_vault_is_not_brought_anywhere_by_an_older_one(desk: SyncDesk) -> None:
    other = second_vault(desk)
    desk.put("A", "old")
    start(desk)
    desk.work()
    desk.portal().set_secret("A", "changed there")
    done = move(desk, "mazevault")
    assert done["state"] == "incomplete" and done["failed"][0]["code"] == "CHANGED_IN_VAULT"
    secret = Secret.objects.get(key="A")
    older = secret.versions.get(version=1)
    secret.versions.create(version=2, external_version=older.external_version, operation="update", author="user:x")
    Secret.objects.update(version=2)
    older.external_version, older.sealed_value = "", values.seal_value(secret, 1, "old")
    older.save()
    wish = {**vault_of(other), "name": "dr", "environment": "dev"}
    desk.integration = desk.made(f"projects/{desk.project}/integrations", wish)
    desk.with_rule(sync_direction="push")
    desk.run(confirm=desk.run("preview")["digest"])
    vault = desk.sandbox.world.vaults.named(OTHER)
    assert vault is not None and not vault.listed("secrets")


def test_no_run_begins_while_the_project_is_moved(desk: SyncDesk) -> None:
    desk.put("A", "one")
    desk.with_rule()
    start(desk)
    Project.objects.update(storage="mazevault")
    status, body = desk.admin.post(f"projects/sync-rules/{desk.rule}/runs", {"phase": "preview"})
    assert (status, body["code"]) == (409, "RULE_NOT_RUNNABLE") and "being moved" in body["error"]


def test_the_integration_is_free_again_once_every_value_came_home(desk: SyncDesk) -> None:
    for number in range(3):
        desk.put("A", f"v{number}")
    move(desk)
    SecretVersion.objects.filter(version=1).update(retired_at=now())
    assert move(desk, "mazevault")["state"] == "succeeded"
    assert desk.here() == {"A": "v2"} and desk.admin.delete(f"projects/integrations/{desk.integration}")[0] == 204


def test_names_that_a_rule_of_the_project_brought_are_taken_over(desk: SyncDesk) -> None:
    desk.with_rule()
    desk.put("A", "one")
    desk.put("B", "two")
    desk.first()
    desk.portal().set_secret("B", "changed there", tags=dict(tags_of(desk, "B")))
    done = move(desk)
    assert (done["state"], done["moved"]) == ("incomplete", 1)
    assert [(row["key"], row["code"]) for row in done["failed"]] == [("B", "VALUE_DIFFERS_IN_VAULT")]
    assert desk.there() == {"A": "one", "B": "changed there"}
    assert tags_of(desk, "A")["mazevault-owner"].startswith(f"project:{desk.project}/")
    assert desk.admin.put(f"secrets/{desk.ids()['A']}", {"value": "three"})[1]["code"] != "NAME_TAKEN_IN_VAULT"


def test_a_vault_reached_by_workload_identity_is_told_to_the_gateways(desk: SyncDesk) -> None:
    wish = vault_of(desk.url)
    wish["config"]["auth_method"] = "workload_identity"
    assert desk.admin.put(f"projects/integrations/{desk.integration}", wish)[0] == 200
    desk.put("A", "one")
    assert move(desk)["state"] == "succeeded"
    project = (ReplicaKind.PROJECT, Project.objects.get(id=desk.project).id)
    told = replica_records.load("NPR", [project], now()).by_thing[project]
    assert isinstance(told, ReplicaProject) and [row.access.vault_url for row in told.vaults] == [desk.url]
    status, body = desk.admin.get(f"secrets/{desk.ids()['A']}")
    assert (status, body["code"]) == (409, "VALUE_AT_GATEWAY")


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


TO_VAULT = (
    [MovedVersion(1, "v1"), MovedVersion(9, "v9")], [MovedVersion(0, "v0")], [MovedVersion(1, "v1"), MovedVersion(1, "v2")],
    [MovedVersion(1, "")], [MovedVersion(1, "v1", "a value too")],
)  # fmt: skip
FROM_VAULT = (
    [MovedVersion(1)], [MovedVersion(1, "v1", "value")], [MovedVersion(7, value="value")],
    [MovedVersion(1, value="x" * (LARGEST_VALUE_THERE + 1))],
)  # fmt: skip
SAID = [("key_vault", told) for told in TO_VAULT] + [("mazevault", told) for told in FROM_VAULT]


@pytest.mark.parametrize(("to", "told"), SAID, ids=range(len(SAID)))
def test_only_what_was_handed_out_counts_and_only_what_its_direction_brings(
    desk: SyncDesk, to: str, told: list[MovedVersion]
) -> None:
    desk.put("DB", "one")
    if to == "mazevault":
        move(desk)
    before = list(SecretVersion.objects.values_list("version", "sealed_value", "external_version", "value_digest"))
    start(desk, to)
    offered = next(task for task in desk.npr.claim().tasks if task.kind == storage_moves.KIND)
    secret = Secret.objects.get()
    report = MoveProgress(look(desk)["id"], offered.claim, desk.npr.epoch, [MovedSecret(str(secret.id), told, secret.version)])
    answer: Any = desk.npr.call(paths.STORAGE_MOVE, report, MoveAnswer)
    assert answer.status_code == 400, answer
    assert list(SecretVersion.objects.values_list("version", "sealed_value", "external_version", "value_digest")) == before
    assert Gateway.objects.get(id=desk.npr.row.id).held_at is not None and look(desk)["moved"] == 0
    assert AuditEntry.objects.filter(action="gateway.held", entity_id=str(desk.npr.row.id)).exists()


def test_a_gateway_learns_of_no_rule_of_another_environment(desk: SyncDesk) -> None:
    desk.with_rule()
    own, other = SyncRule.objects.get(), SyncRule.objects.get()
    url = sandbox_vault(desk.sandbox, "kv-mazevault-pro")
    wish = {"name": "of production", "type": "key_vault", "provider": "azure_key_vault", "environment": "prod",
            "config": {"vault_url": url}}  # fmt: skip
    other.pk, other.name, other.integration_id = None, "other", desk.made(f"projects/{desk.project}/integrations", wish)
    other.id = uuid.uuid4()
    other.save(force_insert=True)
    desk.put("DB", "one")
    start(desk)
    offered = next(task for task in desk.npr.claim().tasks if task.kind == storage_moves.KIND)
    answer = desk.npr.call(paths.STORAGE_MOVE, MoveProgress(look(desk)["id"], offered.claim, desk.npr.epoch), MoveAnswer)
    assert answer.takes_over == [str(own.id)]


def broken(key: str) -> Secret:
    """Somebody changed the row of a value in the database."""
    secret = Secret.objects.get(key=key)
    SecretVersion.objects.filter(secret=secret).update(sealed_value=b"\x01" + bytes(200))
    return secret


def test_a_value_that_does_not_open_is_named_and_keeps_no_other_one_back(desk: SyncDesk) -> None:
    filled(desk)
    secret = broken("DB_PASSWORD")
    moved = move(desk)
    assert (moved["state"], moved["moved"]) == ("incomplete", 2)
    [stayed] = moved["failed"]
    assert (stayed["key"], stayed["code"]) == ("DB_PASSWORD", "SEAL_BROKEN")
    assert "'DB_PASSWORD' (version" in stayed["error"] and "Set its value anew" in stayed["error"]
    status, body = desk.admin.get(f"secrets/{secret.id}")
    assert (status, body["code"]) == (500, "SEAL_BROKEN") and "'DB_PASSWORD'" in body["error"]
    listed = desk.admin.get(f"secrets?project_id={desk.project}")[1]
    assert {row["key"] for row in listed} == {"DB_PASSWORD", "token"}, "a list opens no value"


def test_an_integration_whose_secrets_do_not_open_is_named_in_the_preview_and_saved_anew(desk: SyncDesk) -> None:
    desk.put("A", "one")
    config = {"vault_url": desk.url, "auth_method": "client_secret", "tenant_id": TENANT_ID, "client_id": CLIENT_ID,
              "client_secret": "s"}  # fmt: skip
    row = Integration.objects.get(deleted_at=None)
    path = f"projects/integrations/{row.id}"
    wish = {"name": row.name, "type": row.type, "provider": row.provider, "environment": "dev", "config": config}
    assert desk.admin.put(path, wish)[0] == 200
    Integration.objects.filter(id=row.id).update(sealed_secrets=b"\x01" + bytes(200))
    [problem] = preview(desk)["problems"]
    assert f"integration '{row.name}' do not open" in problem and "with all of its secrets" in problem
    assert desk.admin.get(f"projects/{desk.project}/integrations")[0] == 200, "a list opens none"
    assert desk.admin.put(path, wish)[0] == 200 and preview(desk)["problems"] == []
