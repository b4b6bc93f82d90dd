"""Tasks: only the active gateway of the current epoch gets them, and only its answer counts (DESIGN §2, I3, I5)."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from common.clock import now
from common.models import AuditEntry
from failover import driver
from gateways import dispatch
from gateways.kinds import KINDS
from gateways.models import DurationTally, RejectedResult, Task
from protocol import messages
from protocol.vocabulary import TaskOutcome
from tests.conftest import Person
from tests.failover.test_api import activate
from tests.fakes.gateway import FakeGateway

Pair = tuple[FakeGateway, FakeGateway]


def offer(admin: Person, **payload: Any) -> str:
    status, body = admin.post("admin/tasks", {"environment": "npr", "kind": "gateway.probe", "payload": payload})
    assert status == 201, body
    return str(body["id"])


def result(offered: messages.OfferedTask, **other: Any) -> messages.TaskResult:
    facts = {
        "task": offered.id, "claim": offered.claim, "epoch": offered.epoch, "outcome": TaskOutcome.SUCCEEDED,
        "duration_seconds": 0.2,
    }  # fmt: skip
    return messages.TaskResult(**{**facts, **other})


def take(gateway: FakeGateway) -> messages.OfferedTask:
    offers = gateway.claim()
    assert isinstance(offers, messages.TaskOffers), offers.content
    assert len(offers.tasks) == 1
    return offers.tasks[0]


def state(admin: Person, task: str) -> dict[str, Any]:
    return dict(admin.get(f"admin/tasks/{task}")[1])


def test_a_task_goes_to_the_active_gateway_and_its_result_is_stored(npr: Pair, admin: Person) -> None:
    first, _ = npr
    identifier = offer(admin, targets=["database"])
    task = take(first)
    assert (task.id, task.payload, task.epoch, task.attempt) == (identifier, {"targets": ["database"]}, 1, 1)
    assert first.results(result(task, result={"database": "ok"})).verdicts == {task.id: "accepted"}
    row = state(admin, identifier)
    assert (row["state"], row["gateway"], row["result"]) == ("succeeded", "gw-npr-primary", {"database": "ok"})
    assert first.results(result(task)).verdicts == {task.id: "duplicate"}


def test_the_primary_refuses_a_standby_whatever_it_believes(npr: Pair, admin: Person) -> None:
    _, second = npr
    identifier = offer(admin)
    for epoch in (0, 1, 2):
        answer = second.claim(epoch)
        assert (answer.status_code, answer.json()["code"]) == (403, "NOT_ACTIVE")
    assert state(admin, identifier)["state"] == "pending"


def test_an_outdated_epoch_gets_nothing(npr: Pair, admin: Person) -> None:
    offer(admin)
    answer = npr[0].claim(0)
    assert (answer.status_code, answer.json()["code"]) == (409, "STALE_EPOCH")


def test_a_drained_or_held_gateway_gets_nothing(npr: Pair, admin: Person) -> None:
    first, _ = npr
    offer(admin)
    admin.post(f"gateways/{first.id}/drain")
    assert first.claim().json()["code"] == "NOT_ACTIVE"
    assert first.renew_lease().verdict == "granted"
    admin.post(f"gateways/{first.id}/drain", {"draining": False})
    assert len(first.claim().tasks) == 1


def test_a_late_result_of_an_old_epoch_is_kept_as_evidence_and_changes_nothing(npr: Pair, admin: Person) -> None:
    first, second = npr
    identifier = offer(admin)
    task = take(first)
    activate(admin, first)
    assert first.results(result(task, result={"late": True})).verdicts == {task.id: "rejected_stale_epoch"}
    assert RejectedResult.objects.get().epoch == 1
    assert (state(admin, identifier)["state"], state(admin, identifier)["result"]) == ("pending", {})
    second.take_over()
    again = take(second)
    assert (again.id, again.epoch, again.attempt) == (identifier, 2, 2)
    assert second.results(result(again)).verdicts == {task.id: "accepted"}
    assert state(admin, identifier)["rejected_results"] == 1


def test_a_result_for_a_claim_that_was_given_to_another_is_rejected(npr: Pair, admin: Person) -> None:
    first, _ = npr
    identifier = offer(admin)
    old = take(first)
    Task.objects.update(claim_until=Now() - timedelta(seconds=1))
    assert dispatch.sweep(now()) == 1
    Task.objects.update(not_before=Now())
    new = take(first)
    assert first.results(result(old)).verdicts == {identifier: "rejected_stale_claim"}
    assert first.results(result(new)).verdicts == {identifier: "accepted"}


def test_a_result_that_comes_after_the_last_claim_ran_out_is_kept_as_evidence(npr: Pair, admin: Person) -> None:
    first, _ = npr
    wish = {"integration": str(uuid.uuid4())}
    task = dispatch.offer("NPR", KINDS["integration.access"], wish, actor="user:x", address="").id
    late = take(first)
    Task.objects.update(claim_until=Now() - timedelta(seconds=1))
    dispatch.sweep(now())
    assert Task.objects.get(id=task).state == "dead_letter"
    assert first.results(result(late)).verdicts == {late.id: "rejected_stale_claim"}
    assert RejectedResult.objects.get().task_id == task


@pytest.mark.parametrize("more", [{"result": {"x": ["a\0b"]}}, {"result": {"a\0b": 1}}])
def test_a_nul_in_a_result_is_spelled_out_where_it_is_kept(npr: Pair, admin: Person, more: dict[str, Any]) -> None:
    first, _ = npr
    offer(admin)
    taken = take(first)
    assert first.results(result(taken, **more)).verdicts == {taken.id: "accepted"}
    kept = Task.objects.get(id=taken.id)
    assert "a\\x00b" in f"{kept.detail} {kept.result}".replace("\\\\", "\\")


def test_gateways_of_one_name_are_one_series(npr: Pair, admin: Person) -> None:
    first, _ = npr
    offer(admin)
    first.results(result(take(first)))
    activate(admin, first)
    assert admin.post(f"gateways/{first.id}/decommission")[0] == 200
    again = FakeGateway(first.name).enrol()
    DurationTally.objects.create(gateway=again.row, upper_bound="+Inf", total=2, seconds=5.0)
    text = admin.client.get("/metrics", headers=admin.headers).content.decode()
    series = [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))
    (count,) = [line for line in text.splitlines() if line.startswith("mazevault_gateway_task_duration_seconds_count")]
    assert count.endswith(" 3.0"), count


def test_failures_are_retried_with_growing_pauses_and_buried_after_the_last_attempt(npr: Pair, admin: Person) -> None:
    first, _ = npr
    identifier = offer(admin)
    pauses = []
    for _ in range(KINDS["gateway.probe"].attempts):
        Task.objects.update(not_before=Now())
        task = take(first)
        first.results(result(task, outcome=TaskOutcome.FAILED, retry=True, detail="no answer"))
        row = Task.objects.get()
        pauses.append((row.not_before - now()).total_seconds())
    assert all(0 <= wanted - pause < 1.5 for wanted, pause in zip([2, 4, 8, 16], pauses, strict=False)), pauses
    assert state(admin, identifier)["state"] == "dead_letter"
    assert "5 of 5" in state(admin, identifier)["detail"]


def test_a_failure_that_no_retry_can_heal_ends_at_once(npr: Pair, admin: Person) -> None:
    identifier = offer(admin)
    npr[0].results(result(take(npr[0]), outcome=TaskOutcome.FAILED, retry=False, detail="unknown host"))
    assert (state(admin, identifier)["state"], state(admin, identifier)["detail"]) == ("failed", "unknown host")


@pytest.mark.parametrize("kind", ["vault.put_back", "vault.survey"])
def test_what_breaks_a_promise_is_tried_for_an_hour_and_then_told(npr: Pair, kind: str) -> None:
    first, _ = npr
    integration = str(uuid.uuid4())
    more = {"name": "DB-PASSWORD", "key": "DB_PASSWORD", "does": "set"} if kind == "vault.put_back" else {}
    made = dispatch.offer("NPR", KINDS[kind], {"integration": integration, **more}, actor="system", address="")
    waited = 0.0
    for _ in range(KINDS[kind].attempts):
        assert not AuditEntry.objects.filter(action="task.left_undone").exists(), "it is still tried"
        waited += max(0.0, (Task.objects.get().not_before - now()).total_seconds())
        Task.objects.update(not_before=Now())
        first.results(result(take(first), outcome=TaskOutcome.FAILED, retry=True, detail="the vault denies"))
    assert waited > 3600
    told = AuditEntry.objects.get(action="task.left_undone")
    assert (told.severity, told.environment, told.entity_id) == ("critical", "NPR", str(made.id))
    said = told.details
    assert (said["kind"], said["environment"], said["integration"]) == (kind, "NPR", integration)
    assert said["left_undone"] == KINDS[kind].left_undone and said["what_to_do"] and "the vault denies" in said["why"]
    if more:
        assert (said["secret"], said["name_in_vault"]) == ("DB_PASSWORD", "DB-PASSWORD")


def test_a_probe_that_fails_breaks_no_promise(npr: Pair, admin: Person) -> None:
    offer(admin)
    npr[0].results(result(take(npr[0]), outcome=TaskOutcome.FAILED, retry=False, detail="unknown host"))
    assert not AuditEntry.objects.filter(action="task.left_undone").exists()


def test_an_unknown_task_is_said_so(npr: Pair, admin: Person) -> None:
    offer(admin)
    task = take(npr[0])
    ghost = str(uuid.uuid4())
    assert npr[0].results(result(task, task=ghost)).verdicts == {ghost: "unknown_task"}


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"kind": "gateway.probe"}, "environment"), ({"environment": "NPR"}, "kind"),
        ({"environment": "NPR", "kind": "gateway.dance"}, "kind"),
        ({"environment": "NPR", "kind": "gateway.probe", "payload": []}, "payload"),
        ({"environment": "NPR", "kind": "gateway.probe", "payload": {"target": 1}}, "payload.target"),
        ({"environment": "NPR", "kind": "gateway.probe", "payload": {"targets": ["moon"]}}, "payload.targets"),
    ],
)  # fmt: skip
def test_a_bad_task_names_the_field_and_makes_nothing(primary: None, admin: Person, wish: dict[str, Any], field: str) -> None:
    status, body = admin.post("admin/tasks", wish)
    assert status == 400 and body["error"].startswith(field), body
    assert not Task.objects.exists()


def test_lists_can_be_narrowed(npr: Pair, admin: Person) -> None:
    offer(admin)
    assert len(admin.get("admin/tasks?environment=npr&state=pending")[1]) == 1
    assert admin.get("admin/tasks?state=succeeded")[1] == []
    assert admin.get("admin/tasks?state=lost")[0] == 400
    assert admin.get("admin/tasks?environment=moon")[0] == 404


def test_the_fleet_metrics_of_the_seed_have_their_names_types_and_labels(npr: Pair, admin: Person) -> None:
    first, _ = npr
    offer(admin)
    first.results(result(take(first)))
    activate(admin, first)
    answer = admin.client.get("/metrics", headers=admin.headers)
    text = answer.content.decode()
    for line in (
        "# TYPE mazevault_gateway_health_score gauge",
        "# TYPE mazevault_gateway_heartbeat_age_seconds gauge",
        "# TYPE mazevault_gateway_failover_active gauge",
        "# TYPE mazevault_gateway_tasks_total counter",
        "# TYPE mazevault_gateway_task_duration_seconds histogram",
        'mazevault_gateway_failover_active{environment="NPR"} 1.0',
        'mazevault_gateway_failover_active{environment="PRO"} 0.0',
        'mazevault_gateway_tasks_total{environment="NPR",status="succeeded"} 1.0',
        'mazevault_gateway_task_duration_seconds_bucket{environment="NPR",gateway="gw-npr-primary",le="0.1",role="primary"} 0.0',
        'mazevault_gateway_task_duration_seconds_bucket{environment="NPR",gateway="gw-npr-primary",le="0.25",role="primary"} 1.0',
        'mazevault_gateway_task_duration_seconds_sum{environment="NPR",gateway="gw-npr-primary",role="primary"} 0.2',
    ):
        assert line in text, line
    assert 'mazevault_gateway_health_score{environment="NPR",gateway="gw-npr-dr",role="dr-standby"} 1.0' in text


def test_metrics_need_a_reader(npr: Pair, anybody: Person, person: Any, settings: Any) -> None:
    assert anybody.get("/metrics")[0] == 401
    assert person("auditor").get("/metrics")[0] == 403
    settings.MAZEVAULT = type(settings.MAZEVAULT)(**{**vars(settings.MAZEVAULT), "metrics_token": "scrape-me"})
    answer = anybody.client.get("/metrics", headers={"Authorization": "Bearer scrape-me"})
    assert answer.status_code == 200
    assert driver.drive_all() == 0
