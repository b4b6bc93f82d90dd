"""Rotations: the values before a new one are retired only where the new one was seen to have arrived."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings

from common.clock import now
from common.models import AuditEntry
from gateway_runtime import vaults
from gateways import rotations
from integrations.azure.keyvault import KeyVault
from integrations.models import Integration
from protocol.vault_access import VaultAccess
from sandbox.azure.server import Sandbox
from tests import factories
from tests.conftest import Person
from tests.gateways.sync_desk import VAULT, SyncDesk
from tests.gateways.vault_desk import be_on, cloud_of, sandbox_vault
from vault.generating import KINDS, new_value
from vault.models import Secret, SecretVersion

OTHER = "kv-mazevault-we-npr"
pytestmark = pytest.mark.usefixtures("primary")


@pytest.fixture
def desk(admin: Person, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Any:
    desk = SyncDesk(admin, sandbox, monkeypatch)
    with override_settings(MAZEVAULT=replace(settings.MAZEVAULT, rotation_grace_hours=0)):
        yield desk


def rotate(desk: SyncDesk, key: str, **wish: Any) -> dict[str, Any]:
    status, row = desk.admin.post(f"secrets/{desk.ids()[key]}/rotate", wish)
    assert status == 200, row
    return dict(row)


def state(desk: SyncDesk, key: str) -> str:
    return str(desk.admin.get(f"secrets/{desk.ids()[key]}/rotations")[1][0]["state"])


def enabled(desk: SyncDesk, name: str) -> list[bool]:
    vault = desk.sandbox.world.vaults.named(VAULT)
    assert vault is not None
    item = vault.item("secrets", name)
    assert item is not None
    return [version.enabled for version in item.versions.values()]


def test_many_that_wait_keep_nobody_else_waiting(desk: SyncDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotations, "AT_ONCE", 3)
    desk.with_rule()
    for number in range(5):
        desk.put(f"K{number}", "one")
    desk.first()
    desk.setup(paused=True)
    for number in range(5):
        rotate(desk, f"K{number}", value="two")
    rotations.keep_up(now())
    desk.put("FREE", "one")
    rotate(desk, "FREE", value="two")
    for _ in range(4):
        rotations.keep_up(now())
    assert (state(desk, "FREE"), state(desk, "K0")) == ("retired", "waiting")


def test_one_that_cannot_go_on_says_why_and_stops_no_other(desk: SyncDesk) -> None:
    desk.put("LOST", "one")
    rotate(desk, "LOST", value="two")
    SecretVersion.objects.filter(version=2).update(external_version="x", sealed_value=None)
    Integration.objects.update(deleted_at=now())
    desk.put("FREE", "one")
    rotate(desk, "FREE", value="two")
    for _ in range(2):
        rotations.keep_up(now())
    row = desk.admin.get(f"secrets/{desk.ids()['LOST']}/rotations")[1][0]
    assert row["state"] == "waiting" and "it has none for dev" in row["detail"], row
    assert state(desk, "FREE") == "retired"


def pushed(desk: SyncDesk) -> None:
    """A secret that a settled rule has brought to the vault."""
    desk.with_rule().put("DB", "one")
    desk.first()


def go_on(desk: SyncDesk, rounds: int = 3) -> None:
    """What the loops of Primary and gateway do."""
    for _ in range(rounds):
        rotations.keep_up(now())
        desk.work()
    rotations.keep_up(now())


def test_the_old_value_is_retired_once_the_new_one_has_arrived(desk: SyncDesk) -> None:
    pushed(desk)
    row = rotate(desk, "DB")
    assert row["version"] == 2 and desk.here()["DB"] != "one" and desk.there() == {"DB": "one"}
    rotations.keep_up(now())
    assert state(desk, "DB") == "waiting" and enabled(desk, "DB") == [True], "the rule was told to run and has not yet"
    go_on(desk)
    assert state(desk, "DB") == "retired" and desk.there() == desk.here()
    assert enabled(desk, "DB") == [False, True]
    path = f"secrets/{row['id']}"
    assert desk.admin.get(f"{path}/versions/1")[1]["code"] == "VERSION_RETIRED"
    assert desk.admin.post(f"{path}/rollback", {"version": 1})[1]["code"] == "VERSION_RETIRED"
    assert desk.admin.get(path)[1]["value"] == desk.here()["DB"]
    assert [one["retired_at"] is not None for one in desk.admin.get(f"{path}/versions")[1]] == [False, True]
    assert AuditEntry.objects.filter(action="secret.version.retired").get().details["versions"] == [1]
    assert desk.here()["DB"] not in str(list(AuditEntry.objects.values()))
    told = desk.admin.client.get("/metrics", headers=desk.admin.headers).content.decode()
    assert 'mazevault_rotation_operations_total{result="retired"} 1.0' in told


def test_until_the_grace_period_is_over_the_old_value_goes_on(desk: SyncDesk) -> None:
    pushed(desk)
    with override_settings(MAZEVAULT=replace(settings.MAZEVAULT, rotation_grace_hours=24)):
        rotate(desk, "DB")
        go_on(desk)
        assert desk.there() == desk.here() and state(desk, "DB") == "waiting" and enabled(desk, "DB") == [True, True]
        rotations.keep_up(now() + timedelta(hours=25))
        go_on(desk)
        assert state(desk, "DB") == "retired" and enabled(desk, "DB") == [False, True]


def test_nothing_is_retired_where_the_vault_does_not_show_the_new_value(desk: SyncDesk) -> None:
    pushed(desk)
    rotate(desk, "DB")
    rotations.keep_up(now())
    desk.work()
    rotations.keep_up(now())
    desk.portal().set_secret("DB", "a person's")
    desk.work()
    rotations.keep_up(now())
    found = desk.admin.get(f"secrets/{desk.ids()['DB']}/rotations")[1][0]
    assert found["state"] == "failed" and "nothing was retired" in found["detail"], found
    assert enabled(desk, "DB") == [True] * 3 and not SecretVersion.objects.exclude(retired_at=None).exists()


def test_nothing_is_retired_anywhere_before_every_vault_shows_the_new_value(desk: SyncDesk) -> None:
    pushed(desk)
    other = sandbox_vault(desk.sandbox, OTHER)
    be_on(desk.monkeypatch, cloud_of(desk.sandbox), (desk.url, other))
    wish = {"name": "other", "type": "key_vault", "provider": "azure_key_vault", "environment": "dev",
            "config": {"vault_url": other}}  # fmt: skip
    second = desk.made(f"projects/{desk.project}/integrations", wish)
    desk.with_rule(integration_id=second)
    desk.first()
    rotate(desk, "DB")
    for _ in range(6):
        rotations.keep_up(now())
        if state(desk, "DB") == "verifying":
            break
        desk.work()
    assert state(desk, "DB") == "verifying"
    way = vaults.connection_of(VaultAccess(second, other, "managed_identity"))
    KeyVault(way, vaults.credential_of(way), vaults.guard())._client.set_secret("DB", "a person's")
    go_on(desk)
    assert state(desk, "DB") == "failed" and enabled(desk, "DB") == [True, True]


def test_a_repeated_request_makes_up_no_other_value(desk: SyncDesk) -> None:
    desk.put("DB", "one")
    path = f"secrets/{desk.ids()['DB']}/rotate"

    def asked(wish: dict[str, str]) -> tuple[int, Any]:
        return desk.admin.call("post", path, data=wish, content_type="application/json", HTTP_IDEMPOTENCY_KEY="k1")

    first, again = asked({}), asked({})
    assert (first[0], again[0], again[1]["version"]) == (200, 200, 2), again
    assert desk.admin.post(path, {"value": ""})[1]["error"].startswith("value: ")
    assert asked({"value": "chosen"})[1]["code"] == "IDEMPOTENCY_MISMATCH" and SecretVersion.objects.count() == 2


def test_a_rotation_says_what_it_waits_for_and_asks_again_after_a_stopped_run(desk: SyncDesk) -> None:
    pushed(desk)
    rotate(desk, "DB")
    rotations.keep_up(now())
    run = desk.admin.get(f"projects/sync-rules/{desk.rule}/runs")[1][0]
    assert desk.admin.post(f"projects/sync-runs/{run['id']}/stop")[0] == 200
    rotations.keep_up(now())
    told = desk.admin.get(f"secrets/{desk.ids()['DB']}/rotations")[1][0]
    assert told["state"] == "waiting" and "stopped" in told["detail"]
    rotations.keep_up(now() + timedelta(minutes=11))
    go_on(desk, rounds=5)
    assert state(desk, "DB") == "retired" and enabled(desk, "DB") == [False, True]


def test_another_change_takes_a_rotation_over(desk: SyncDesk) -> None:
    desk.put("DB", "one")
    rotate(desk, "DB")
    rotations._notice(now())
    desk.put("DB", "three")
    rotations.keep_up(now())
    assert state(desk, "DB") == "superseded" and not SecretVersion.objects.exclude(retired_at=None).exists()


def test_without_any_vault_the_new_value_is_enough(desk: SyncDesk) -> None:
    desk.put("DB", "one")
    rotate(desk, "DB", value="chosen")
    go_on(desk, rounds=1)
    assert state(desk, "DB") == "retired" and desk.here() == {"DB": "chosen"}


def test_a_value_in_a_vault_only_is_verified_there(desk: SyncDesk) -> None:
    desk.put("DB", "one")
    digest = desk.admin.post(f"projects/{desk.project}/storage", {"to": "key_vault"})[1]["digest"]
    desk.admin.post(f"projects/{desk.project}/storage", {"to": "key_vault", "confirm": digest})
    desk.work()
    secret = Secret.objects.get()
    vault = desk.sandbox.world.vaults.named(VAULT)
    assert vault is not None
    tags = desk.portal().get_secret("DB").properties.tags
    made = desk.portal().set_secret("DB", "two", tags=tags).properties.version  # what the gateway's keeper does
    Secret.objects.update(version=2)
    SecretVersion.objects.create(secret=secret, version=2, operation="rotate", author="user:x", external_version=made)
    go_on(desk)
    assert SecretVersion.objects.get(version=2).rotation.state == "retired" and enabled(desk, "DB") == [False, True]


def test_a_due_rotation_is_made_by_itself_and_once(desk: SyncDesk) -> None:
    wish = {"enabled": True, "rotation_interval_days": 30}
    for key, kind in (("DB", "password"), ("CERT", "certificate"), ("OFF", "password")):
        body = {"project_id": desk.project, "environment": "dev", "key": key, "value": "one", "type": kind,
                "rotation": {**wish, "enabled": key != "OFF"}}  # fmt: skip
        assert desk.admin.post("secrets", body)[0] == 201
    assert rotations.rotate_due(now() + timedelta(days=29)) == 0
    assert rotations.rotate_due(now() + timedelta(days=31)) == 1
    assert desk.here()["DB"] != "one" and desk.here()["CERT"] == desk.here()["OFF"] == "one"
    SecretVersion.objects.filter(operation="rotate").update(created_at=now())
    assert rotations.rotate_due(now() + timedelta(days=29)) == 0


def test_a_schedule_is_rotated_by_once_for_what_was_missed_and_not_before_its_time(desk: SyncDesk) -> None:
    """B11, C2: a schedule was taken with success and read by nothing."""
    body = {"project_id": desk.project, "environment": "dev", "key": "DB", "value": "one", "type": "password"}
    made = desk.admin.post("secrets", body)[1]
    SecretVersion.objects.update(created_at=now() - timedelta(days=900))
    assert desk.admin.patch(f"secrets/{made['id']}", {"rotation": {"enabled": True, "schedule": "0 3 1 * *"}})[0] == 200
    due = datetime.fromisoformat(desk.admin.get(f"secrets/{made['id']}/rotation-config")[1]["next_due_at"])
    assert now() < due < now() + timedelta(days=32) and (due.day, due.hour, due.minute) == (1, 3, 0)
    assert rotations.rotate_due(due - timedelta(seconds=1)) == 0 and desk.here()["DB"] == "one"
    late = due + timedelta(days=100)
    assert rotations.rotate_due(late) == 1 and desk.here()["DB"] != "one"
    SecretVersion.objects.filter(operation="rotate").update(created_at=late)
    Secret.objects.update(updated_at=late)
    assert rotations.rotate_due(late + timedelta(minutes=1)) == 0
    assert rotations.rotate_due(late + timedelta(days=32)) == 1


@pytest.mark.parametrize(
    ("wish", "field"), [({"length": 15}, "length"), ({"length": 257}, "length"), ({"length": "20"}, "length")]
)  # fmt: skip
def test_a_wrong_wish_is_refused_with_its_field(desk: SyncDesk, wish: dict[str, Any], field: str) -> None:
    desk.put("DB", "one")
    status, body = desk.admin.post(f"secrets/{desk.ids()['DB']}/rotate", wish)
    assert status == 400 and body["error"].startswith(f"{field}: ") and desk.here() == {"DB": "one"}


def test_a_certificate_is_not_made_up(desk: SyncDesk) -> None:
    body = {"project_id": desk.project, "environment": "dev", "key": "C", "value": "pem", "type": "certificate"}
    made = desk.admin.post("secrets", body)[1]
    assert desk.admin.post(f"secrets/{made['id']}/rotate", {})[1]["error"].startswith("value: ")
    assert desk.admin.post(f"secrets/{made['id']}/rotate", {"value": "pem 2"})[0] == 200


def test_generated_values_have_every_kind_of_character_and_are_never_the_same() -> None:
    made = {new_value("password", 16) for _ in range(200)}
    assert len(made) == 200 and all(any(c in kind for c in value) for value in made for kind in KINDS)


def test_one_secret_that_cannot_be_rotated_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(item: str, _: Any) -> bool:
        if item == "bad":
            raise ValueError("nobody foresaw this")
        return True

    assert [rotations._alone(breaks, item, now()) for item in ("bad", "good")] == [False, True]


@pytest.mark.django_db
def test_a_pass_looks_at_a_bounded_number_of_secrets_and_all_come_in_turn(primary: None, monkeypatch: pytest.MonkeyPatch) -> None:
    project = factories.project()
    environment = factories.environment_of(project, "dev")
    made = [
        Secret.objects.create(project=project, environment=environment, key=f"k/{number}", rotation={"enabled": True})
        for number in range(5)
    ]
    seen = list[Any]()
    monkeypatch.setattr(rotations, "LOOKED_AT", 2)
    monkeypatch.setattr(rotations._place, "after", None)
    real = Secret.objects.filter

    def noting(*args: Any, **kwargs: Any) -> Any:
        if "id__in" in kwargs and "type__in" in kwargs:
            seen.append(list(kwargs["id__in"]))
        return real(*args, **kwargs)

    monkeypatch.setattr(rotations.Secret.objects, "filter", noting)
    for _ in range(4):
        rotations.rotate_due(now())
    assert [len(one) for one in seen[:3]] == [2, 2, 1]
    assert {one for page in seen[:3] for one in page} == {one.id for one in made}
    assert seen[3] == seen[0], "and then from the beginning"
