"""Writes that reach a vault late, after its environment has moved: found by their epoch, told, and the rule plans again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from common.clock import now
from common.models import AuditEntry
from failover import driver
from failover.operations import Asked, Wish, request
from gateways import surveys
from gateways.models import Gateway, Route, Task
from integrations.models import Integration, SyncRun
from sandbox.azure.server import Sandbox
from tests.conftest import Person
from tests.gateways.sync_desk import SyncDesk
from tests.gateways.vault_desk import sandbox_vault

pytestmark = pytest.mark.usefixtures("primary")
LONG_AGO = timedelta(minutes=5)


@pytest.fixture
def desk(admin: Person, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> SyncDesk:
    desk = SyncDesk(admin, sandbox, monkeypatch)
    desk.with_rule().put("A", "one")
    desk.put("B", "one")
    desk.first()
    return desk


def moved(desk: SyncDesk) -> None:
    """NPR is on its DR gateway, in epoch 2, and the survey may be claimed."""
    route = Route.objects.get(environment_id="NPR")
    Route.objects.filter(pk=route.pk).update(epoch=2, active_gateway=desk.dr.row, switched_at=now() - LONG_AGO)
    route.refresh_from_db()
    assert surveys.offer(route, now() - LONG_AGO) == 1
    Task.objects.filter(kind=surveys.KIND).update(not_before=now())
    desk.dr.epoch = 2


def write_of_before(desk: SyncDesk, name: str, value: str, *, late: bool) -> None:
    """What a process of epoch 1 sent: in time, or when it woke up."""
    world = desk.sandbox.world
    world.faults = world.faults.changed({"clock_offset_seconds": 0.0 if late else -600.0})
    tags = {"mazevault-epoch": "1", "mazevault-operation": "x", "mazevault-owner": desk.rule, "mazevault-key": name}
    desk.portal().set_secret(name, value, tags=tags)
    world.faults = world.faults.changed({"clock_offset_seconds": 0.0})


def test_a_late_write_is_found_told_and_planned_for(desk: SyncDesk) -> None:
    desk.setup(interval_minutes=60)
    write_of_before(desk, "B", "in time", late=False)
    moved(desk)
    write_of_before(desk, "A", "stale", late=True)
    desk.work(gateway=desk.dr)
    task = Task.objects.get(kind=surveys.KIND)
    assert [one["name"] for one in task.result["late"]] == ["A"] and task.result["looked_at"] == 2, task.detail
    assert (surveys.judge(now()), surveys.judge(now())) == (1, 0)
    told = AuditEntry.objects.get(action="vault.late_writes")
    assert (told.severity, told.details["count"], told.environment) == ("critical", 1, "NPR") and "stale" not in str(told.details)
    assert desk.admin.get(f"projects/sync-rules/{desk.rule}/runs")[1][0]["state"] == "running", "the rule plans again"


def test_without_a_late_write_nothing_is_told(desk: SyncDesk) -> None:
    for name in ("A", "B"):
        write_of_before(desk, name, "in time", late=False)
    moved(desk)
    desk.work(gateway=desk.dr)
    assert surveys.judge(now()) == 1 and not AuditEntry.objects.filter(action="vault.late_writes").exists()
    assert "no write" in Task.objects.get(kind=surveys.KIND).detail


def test_a_promotion_offers_the_look_and_the_first_one_does_not(desk: SyncDesk) -> None:
    assert not Task.objects.filter(kind=surveys.KIND).exists(), "nothing can be late in the first epoch"
    for gateway in (desk.npr, desk.dr):
        gateway.heartbeat()
    request("NPR", "activate-dr", Wish(), Asked("user:test", ""))
    for _ in range(20):
        directive = desk.npr.directive()
        if directive.drain and not directive.fence:
            desk.npr.report_drained(directive.drain.operation, directive.drain.epoch)
        if directive.fence:
            desk.npr.acknowledge_fence(directive.fence.operation, directive.fence.epoch)
        driver.drive_all()
    assert Route.objects.get(environment_id="NPR").epoch == 2
    task = Task.objects.get(kind=surveys.KIND)
    assert task.not_before > now() and task.payload["epoch"] == 2


def test_a_broken_integration_stops_no_promotion(desk: SyncDesk, caplog: Any) -> None:
    Integration.objects.update(config={"vault_url": "http://nonsense"})
    assert surveys.offer(Route.objects.get(environment_id="NPR"), now()) == 0 and "is not looked at" in caplog.text


def said(desk: SyncDesk, result: Any, *, code: str = "PRO", integration: str = "") -> Task:
    """What the active gateway of an environment answered to a look at a vault."""
    teller = Route.objects.get(environment_id=code).active_gateway
    asked = {"integration": integration or desk.integration, "epoch": 2, "since": now().isoformat()}
    return Task.objects.create(
        environment_id=code, kind=surveys.KIND, created_by="system", state="succeeded", finished_at=now(), gateway=teller,
        payload=asked, result=result,
    )  # fmt: skip


LATE = {"name": "A", "owner": "project:x/y", "epoch": 1, "operation": "o", "at": "2026-01-01T00:00:00+00:00"}
MALFORMED: tuple[Any, ...] = (
    {}, {"late": 7}, {"looked_at": 1, "late": None}, {"looked_at": 1, "late": 7}, {"looked_at": 1, "late": ["x"]},
    {"looked_at": 1, "late": [{}]}, {"looked_at": 1, "late": [{**LATE, "owner": 5}]},
    {"looked_at": 1, "late": [{**LATE, "name": "x" * 1000}]}, {"looked_at": -1, "late": []},
)  # fmt: skip


@pytest.mark.parametrize("result", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_word_hides_no_late_write_of_others_and_holds_who_said_it(desk: SyncDesk, result: Any) -> None:
    bad = said(desk, result, code="NPR")
    said(desk, {"looked_at": 1, "late": [LATE]})
    assert surveys.judge(now()) == 2 and surveys.judge(now()) == 0
    assert AuditEntry.objects.get(action="vault.late_writes").environment == "PRO"
    bad.refresh_from_db()
    assert bad.state == "needs_review" and bad.detail.startswith("result: ")
    told = AuditEntry.objects.get(action="vault.survey_not_believed")
    assert (told.severity, told.entity_id, told.environment) == ("critical", str(bad.id), "NPR")
    assert Gateway.objects.get(id=desk.npr.row.id).held_at is not None
    assert Task.objects.get(kind=surveys.KIND, state="pending").payload == bad.payload, "the vault is looked at again"


def test_a_survey_that_fails_stops_no_other(desk: SyncDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    good = surveys._found

    def failing(task: Task) -> Any:
        if task.environment_id == "NPR":
            raise RuntimeError("nobody foresaw this")
        return good(task)

    monkeypatch.setattr(surveys, "_found", failing)
    said(desk, {"looked_at": 1, "late": []}, code="NPR")
    said(desk, {"looked_at": 1, "late": [LATE]})
    assert surveys.judge(now()) == 1 and AuditEntry.objects.filter(action="vault.late_writes").exists()


def test_only_rules_of_the_vault_that_was_looked_at_run(desk: SyncDesk) -> None:
    desk.setup(interval_minutes=60)
    before = SyncRun.objects.count()
    late = {"looked_at": 1, "late": [{**LATE, "owner": desk.rule}]}
    said(desk, late)  # another environment's gateway names the rule
    url = sandbox_vault(desk.sandbox, "kv-mazevault-we-npr")
    wish = {
        "name": "other",
        "type": "key_vault",
        "provider": "azure_key_vault",
        "environment": "dev",
        "config": {"vault_url": url},
    }
    said(desk, late, code="NPR", integration=desk.made(f"projects/{desk.project}/integrations", wish))  # another vault's tags do
    assert surveys.judge(now()) == 2 and SyncRun.objects.count() == before
    said(desk, {"looked_at": 1, "late": [{**LATE, "owner": "nobody"}, {**LATE, "owner": desk.rule}]}, code="NPR")
    assert surveys.judge(now()) == 1 and SyncRun.objects.count() == before + 1
