"""When a rotation is due, and what of its settings has no effect (B11, C2)."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from accounts.models import Project, Storage
from common.clock import now
from tests import factories
from tests.conftest import Person
from vault import schedules
from vault.models import Secret, SecretVersion

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "after", "times"),
    [
        ("0 3 * * *", "2026-03-28 12:00", ["2026-03-29 03:00", "2026-03-30 03:00"]),
        ("0 3 * * 0", "2026-03-28 12:00", ["2026-03-29 03:00", "2026-04-05 03:00"]),
        ("  0   3 * *  sun ", "2026-03-28 12:00", ["2026-03-29 03:00"]),
        ("0 0 29 2 *", "2026-03-28 12:00", ["2028-02-29 00:00"]),
        ("0 0 L * *", "2026-03-28 12:00", ["2026-03-31 00:00", "2026-04-30 00:00"]),
        ("CRON_TZ=Europe/Berlin 30 2 29 3 *", "2026-03-28 12:00", ["2026-03-29 01:00", "2027-03-29 00:30"]),
        ("CRON_TZ=Europe/Berlin 30 2 * * *", "2026-03-28 12:00", ["2026-03-29 01:00", "2026-03-30 00:30"]),
        ("TZ=Europe/Berlin 30 2 * * *", "2026-10-24 12:00", ["2026-10-25 00:30", "2026-10-26 01:30"]),
        ("CRON_TZ=Europe/Berlin 0 * * * *", "2026-10-24 23:30", ["2026-10-25 00:00", "2026-10-25 01:00", "2026-10-25 02:00"]),
        ("CRON_TZ=America/New_York 0 9 * * 1-5", "2026-03-06 20:00", ["2026-03-09 13:00", "2026-03-10 13:00"]),
    ],
)
def test_the_times_of_a_schedule_are_those_of_its_zone_also_when_clocks_change(text: str, after: str, times: list[str]) -> None:
    found, moment = [], at(after)
    for _ in times:
        moment = schedules.read(text).after(moment) or NOON
        found.append(moment)
    assert found == [at(one) for one in times]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("every full moon", "five fields"), ("not a schedule", "five fields"), ("0 25 * * *", "Bad hour"),
        ("@daily", "five fields"),
        ("0 1 * * * *", "five fields"), ("CRON_TZ=Europe/Berlin", "five fields"), ("", "five fields"), ("0 0 30 2 *", "Bad day"),
        ("*/5 * * * *", "once an hour"), ("0,30 0 * * *", "once an hour"), ("* * * * *", "once an hour"),
        ("CRON_TZ=Nowhere/X 0 0 * * *", "zone"), ("TZ=../../etc/passwd 0 0 * * *", "zone"), ("TZ= 0 0 * * *", "zone"),
        ("L/2 * * * *", "Bad minute"), ("0 0 * * MON#9", "Bad day-of-week"), ("0 0 L/x * *", "cron"),
        ("\u0660 0 * * *", "Bad minute"),
        ("0 0 1/1/1/1/1/1 * *", "cron"), ("0 0 */31 2 1#5", "never comes"),
    ],
)  # fmt: skip
def test_what_is_no_schedule_is_refused_with_the_reason(text: str, why: str) -> None:
    began = time.process_time()
    with pytest.raises(schedules.ScheduleInvalid, match=why.replace("five", "5")):
        schedules.read(text)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("rotation", "due"),
    [
        (None, None), ({}, None), ({"enabled": False, "rotation_interval_days": 1}, None), ({"enabled": True}, None),
        ({"enabled": True, "rotation_interval_days": 0, "schedule": ""}, None),
        ({"enabled": True, "rotation_interval_days": 2}, NOON + timedelta(days=2)),
        ({"enabled": True, "schedule": "0 3 * * 1"}, at("2026-03-30 03:00")),
        ({"enabled": True, "schedule": "0 3 * * 1", "rotation_interval_days": 1}, NOON + timedelta(days=1)),
        ({"enabled": True, "schedule": "0 3 * * 1", "rotation_interval_days": 30}, at("2026-03-30 03:00")),
        ({"enabled": True, "schedule": "every full moon", "rotation_interval_days": 30}, NOON + timedelta(days=30)),
    ],
)  # fmt: skip
def test_the_earlier_of_interval_and_schedule_counts(rotation: dict[str, Any] | None, due: datetime | None) -> None:
    assert schedules.next_due(rotation, NOON, NOON) == due
    assert schedules.next_due(rotation, None, NOON) is None


def test_a_schedule_given_to_an_old_secret_waits_for_its_own_first_time() -> None:
    rotation = {"enabled": True, "schedule": "0 3 * * *"}
    assert schedules.next_due(rotation, NOON - timedelta(days=400), NOON) == at("2026-03-29 03:00")


@pytest.mark.parametrize(
    ("counted_from", "due"), [(NOON - timedelta(days=3), at("2026-03-26 03:00")), ("", at("2026-03-29 03:00"))]
)
def test_a_schedule_counts_from_when_it_was_given(counted_from: Any, due: datetime) -> None:
    """Of a schedule that an older release stored only the secret's last change is known."""
    rotation = {"enabled": True, "schedule": "0 3 * * *", schedules.COUNTED_FROM: str(counted_from)}
    assert schedules.next_due(rotation, NOON - timedelta(days=400), NOON) == due


@pytest.mark.parametrize(
    ("change", "moves"),
    [({"description": "x"}, False), ({"tags": ["a"]}, False), ({"rotation": {"enabled": True, "schedule": "0 3 * * *"}}, False),
     ({"rotation": {"enabled": True, "schedule": "0 3 * * *", "rotation_interval_days": 900}}, False),
     ({"rotation": {"enabled": True, "schedule": "0 4 * * *"}}, True)],
)  # fmt: skip
@pytest.mark.parametrize("stamped", [True, False])
def test_no_edit_moves_a_run_that_is_due(
    primary: None, admin: Person, change: dict[str, Any], moves: bool, stamped: bool
) -> None:
    project = factories.project()
    wish = {"project_id": str(project.id), "key": "K", "value": "v", "rotation": {"enabled": True, "schedule": "0 3 * * *"}}
    path = f"secrets/{admin.post('secrets', wish)[1]['id']}"
    long_ago = now() - timedelta(days=9)
    kept = {**wish["rotation"], **({schedules.COUNTED_FROM: long_ago.isoformat()} if stamped else {})}  # type: ignore[dict-item]
    Secret.objects.update(rotation=kept, updated_at=long_ago)
    SecretVersion.objects.update(created_at=long_ago)
    before = admin.get(f"{path}/rotation-config")[1]["next_due_at"]
    for _ in range(2):
        status, row = admin.call("patch", path, data=change, content_type="application/json")
        assert status == 200 and set(row["rotation"]) <= {"enabled", "schedule", "rotation_interval_days"}
    after = admin.get(f"{path}/rotation-config")[1]["next_due_at"]
    assert datetime.fromisoformat(before) < now() and (after == before) is not moves
    assert moves is (datetime.fromisoformat(after) > now())


ACCEPTED: dict[str, tuple[dict[str, Any], str, str, list[str]]] = {
    "interval": ({"enabled": True, "rotation_interval_days": 30}, "password", "mazevault", []),
    "schedule": ({"enabled": True, "schedule": "0 2 * * 0"}, "password", "mazevault", []),
    "as the client sends it": (
        {"enabled": True, "schedule": "", "rotation_interval_days": 7, "notification_emails": None}, "general", "mazevault", [],
    ),
    "off": ({"enabled": False, "schedule": "0 2 * * 0"}, "certificate", "key_vault", []),
    "nothing says when": ({"enabled": True}, "password", "mazevault", ["enabled: not in force: neither"]),
    "interval 0": ({"enabled": True, "rotation_interval_days": 0}, "password", "mazevault", ["enabled: not in force: neither"]),
    "a certificate": (
        {"enabled": True, "rotation_interval_days": 1}, "certificate", "mazevault", ["enabled: not in force: a secret of"],
    ),
    "in a vault": ({"enabled": True, "schedule": "0 2 * * 0"}, "password", "key_vault", ["enabled: not in force: values of"]),
    "mail": (
        {"enabled": True, "rotation_interval_days": 1, "notification_emails": ["a@b.example"]}, "password", "mazevault",
        ["notification_emails: not in force: this version sends no mail"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_has_no_effect_is_said_in_every_answer_about_the_secret(primary: None, admin: Person, case: str) -> None:
    rotation, kind, storage, idle = ACCEPTED[case]
    project = factories.project()
    wish = {"project_id": str(project.id), "key": "K", "value": "v", "type": kind, "rotation": rotation}
    status, made = admin.post("secrets", wish)
    assert status == 201 and made["rotation"] == rotation
    Project.objects.update(storage=storage)
    if storage == Storage.KEY_VAULT:
        told = [admin.get(f"secrets?project_id={project.id}")[1][0]]
    else:
        told = [made, admin.get(f"secrets/{made['id']}")[1], admin.get(f"secrets?project_id={project.id}")[1][0]]
    for row in told:
        assert len(row["rotation_not_in_force"]) == len(idle), row["rotation_not_in_force"]
        assert all(said.startswith(begin) for said, begin in zip(row["rotation_not_in_force"], idle, strict=True))
    config = admin.get(f"secrets/{made['id']}/rotation-config")[1]
    works = rotation["enabled"] and not any("enabled" in one for one in idle)
    assert config["not_in_force"] == told[0]["rotation_not_in_force"] and config["in_force"] is works
    assert (config["next_due_at"] is not None) is works
    if works and rotation.get("rotation_interval_days"):
        set_at = SecretVersion.objects.get(secret=made["id"]).created_at
        assert datetime.fromisoformat(config["next_due_at"]) == set_at + timedelta(days=rotation["rotation_interval_days"])


@pytest.mark.parametrize(
    ("rotation", "sentence"),
    [
        ({"enabled": True, "schedule": "every full moon"}, "rotation.schedule: must have the 5 fields"),
        ({"rotation_interval_days": 1, "schedule": "0 25 * * *"}, "rotation.schedule: is no schedule of cron (Bad hour)"),
        ({"enabled": False, "schedule": "* * * * *"}, "rotation.schedule: may come once an hour at most"),
        ({"enabled": True, "shedule": "0 0 * * *"}, "rotation.shedule: this field is not known here; did you mean schedule?"),
        ({"notification_emails": ["not an address@"]}, "rotation.notification_emails: "),
        ({"notification_emails": ["@"]}, "rotation.notification_emails: "),
        ({"notification_emails": ["a@b@c"]}, "rotation.notif"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(primary: None, admin: Person, rotation: dict[str, Any], sentence: str) -> None:
    wish = {"project_id": str(factories.project().id), "key": "K", "value": "v", "type": "password", "rotation": rotation}
    status, body = admin.post("secrets", wish)
    assert status == 400 and body["error"].startswith(sentence), body
    assert not Secret.objects.exists()


def test_idle_settings_of_projects_environments_and_providers_say_so(primary: None, admin: Person) -> None:
    project = factories.project()
    path = f"projects/{project.id}/settings"
    wish = {"retention_days": 7, "slack_channel": "#x", "notification_webhooks": ["https://h/x"], "sync_interval_minutes": 5}
    assert [one.partition(":")[0] for one in admin.put(path, wish)[1]["not_in_force"]] == [
        "retention_days", "notification_webhooks", "slack_channel", "sync_interval_minutes",
    ]  # fmt: skip
    assert admin.put(path, {"tags": ["a"], "owner_email": "a@b.c", "sync_enabled": True})[1]["not_in_force"] == []
    environment = {"name": "Odd", "slug": "odd", "incident_auto_escalation": True}
    assert len(admin.post(f"organizations/{project.organization_id}/environments", environment)[1]["not_in_force"]) == 1
    provider = {"type": "ldap", "name": "Corp", "sync_schedule": "0 3 * * *"}
    assert [one.partition(":")[0] for one in admin.post("identity-providers", provider)[1]["not_in_force"]] == [
        "type", "sync_schedule",
    ]  # fmt: skip
