"""The secrets API at a gateway: applied or queued, never lost, never said wrongly (DESIGN §9, I7, I17).

Proven here: which answer each state of the Primary leads to, and what the queue holds afterwards.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from accounts.models import Project
from common.clock import now
from common.errors import Unavailable
from common.models import AuditEntry
from gateway_runtime import write_queue
from gateway_runtime.models import NodeState, PendingWrite
from protocol.vocabulary import Assignment, WriteOutcome
from tests.gateway_runtime.conftest import Site
from vault.models import Secret


def only() -> PendingWrite:
    return PendingWrite.objects.get()


def test_a_read_answers_from_the_copy_and_says_how_old_it_is(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    status, body = ann.get(f"secrets/{secret.id}")
    assert (status, body["value"], body["stale"], body["pending_write"]) == (200, "one", False, None)
    site.cut_off_for(seconds=60)
    status, body = ann.get(f"secrets/{secret.id}")
    assert (status, body["value"], body["stale"]) == (200, "one", True)
    assert AuditEntry.objects.filter(action="secret.read", actor=ann.actor).count() == 2


def test_a_copy_older_than_the_project_allows_is_not_given_out_and_nothing_is_opened(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    Project.objects.update(max_staleness_seconds=30)
    site.cut_off_for(seconds=31)
    for path in (f"secrets/{secret.id}", f"secrets?project_id={site.project.id}", f"secrets/{secret.id}/versions"):
        status, body = ann.get(path)
        assert (status, body["code"]) == (503, "STALE"), path
    assert not AuditEntry.objects.filter(action="secret.read").exists()


def test_a_copy_from_the_future_counts_as_stale(site: Site) -> None:
    site.cut_off_for(seconds=-50)
    fresh = site.node.freshness(site.project)
    assert fresh is not None and not fresh.stale
    site.cut_off_for(seconds=-90)
    fresh = site.node.freshness(site.project)
    assert fresh is not None and fresh.stale
    site.project.max_staleness_seconds = 3600
    with pytest.raises(Unavailable, match="may be at most 3600 s old"):
        site.node.freshness(site.project)


def test_a_change_is_applied_while_the_primary_is_there(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    status, body = ann.put(f"secrets/{secret.id}", {"value": "two"})
    assert (status, body["version"], body["value"], body["id"]) == (200, 2, "two", str(secret.id))
    assert site.primary.applied == [(str(secret.id), str(only().id), "two")]
    assert (only().outcome, only().sealed_body, only().promised) == ("applied", None, False)


def test_successive_changes_do_not_conflict_while_the_copy_lags(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    site.primary.no_changes = True
    versions = [ann.put(f"secrets/{secret.id}", {"value": f"v{number}"})[1]["version"] for number in range(3)]
    assert versions == [2, 3, 4]


def test_a_complete_copy_outweighs_what_own_writes_became_before_it(site: Site) -> None:
    """The Primary was restored: the version this gateway's write had become does not exist any more."""
    secret, ann = site.secret(), site.person()
    assert ann.put(f"secrets/{secret.id}", {"value": "two"})[1]["version"] == 2
    site.primary.versions[str(secret.id)] = 1
    Secret.objects.filter(id=secret.id).update(version=1)
    NodeState.objects.update(replica_complete_at=now())
    status, body = ann.put(f"secrets/{secret.id}", {"value": "again"}, **{"If-Match": '"1"'})
    assert (status, body["version"]) == (200, 2)


def test_a_change_without_the_primary_is_queued_and_a_read_names_it(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    site.primary.down = True
    status, body = ann.put(f"secrets/{secret.id}", {"value": "two"})
    assert (status, body["durability"], body["status"], body["secret_id"]) == (202, "gateway", "queued", str(secret.id))
    assert body["status_url"] == f"/api/v1/writes/{body['id']}" and body["because"] == "it is on its way to the Primary"
    site.supervisor.node.breaker.failed(time.monotonic() - 60)
    told = ann.get(f"writes/{body['id']}")[1]
    assert "the Primary does not answer" in told["because"] and told["since"] < body["since"]
    after = ann.put(f"secrets/{secret.id}", {"value": "three"})[1]
    assert "the Primary does not answer" in after["because"]
    site.supervisor.node.breaker.succeeded(time.monotonic())
    assert body["id"] in ann.get(f"writes/{after['id']}")[1]["because"]
    after_ids = [row["because"] for row in ann.get("writes")[1]["writes"]]
    assert len(after_ids) == 2 and all(after_ids)
    read = ann.get(f"secrets/{secret.id}")[1]
    assert (read["value"], read["version"], read["pending_write"]) == ("one", 1, after["id"])
    followed = ann.get(f"writes/{body['id']}")[1]
    assert (followed["outcome"], followed["where"], followed["promised"]) == ("queued", "queued@gateway", True)
    site.primary.down = False
    site.upload()
    followed = ann.get(f"writes/{body['id']}")[1]
    assert (followed["outcome"], followed["version"], followed["where"]) == ("applied", 2, "settled@primary")
    assert (followed["because"], followed["since"]) == (None, None)


def test_a_list_names_the_writes_that_wait_in_one_query(site: Site) -> None:
    secrets, ann = [site.secret(f"k{number}") for number in range(4)], site.person()
    path = f"secrets?project_id={site.project.id}"
    site.primary.down = True
    for secret in (*secrets[:3], secrets[0]):
        newest = ann.put(f"secrets/{secret.id}", {"value": "two"})[1]["id"]
    with CaptureQueriesContext(connection) as asked:
        rows = ann.get(path)[1]
    assert sum("pendingwrite" in one["sql"] for one in asked) == 1
    assert rows[0]["pending_write"] == newest and rows[3]["pending_write"] is None
    assert len({row["pending_write"] for row in rows}) == 4


def test_a_lost_answer_is_a_promise_and_the_change_is_made_once(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    site.primary.lose_answers = 1
    assert ann.put(f"secrets/{secret.id}", {"value": "two"})[0] == 202
    site.upload()
    assert [value for _, _, value in site.primary.applied] == ["two"]
    assert only().outcome == "applied"


def test_a_change_the_primary_holds_back_is_promised_and_asked_for_later(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    site.primary.hold = True
    assert ann.put(f"secrets/{secret.id}", {"value": "two"})[0] == 202
    site.upload()
    assert only().outcome == "received"
    site.primary.settle_held()
    PendingWrite.objects.update(not_before=now())
    site.upload()
    assert only().outcome == "applied" and site.primary.batches[-1].writes == []


@pytest.mark.parametrize(
    ("code", "status"),
    [("VERSION_CONFLICT", 409), ("VALIDATION_ERROR", 400), ("ACTOR_NOT_ALLOWED", 403), ("RESOURCE_NOT_FOUND", 404),
     ("STALE_EPOCH", 503), ("GATEWAY_HELD", 503), ("ENVIRONMENT_HELD", 503), ("AUDIT_UNAVAILABLE", 503)],
)  # fmt: skip
def test_a_refusal_of_the_primary_is_answered_as_it_is_and_promises_nothing(site: Site, code: str, status: int) -> None:
    secret, ann = site.secret(), site.person()
    site.primary.refuse = (code, "key: the Primary says no")
    answer = ann.response("put", f"secrets/{secret.id}", {"value": "two"}, headers={"If-Match": '"1"'})
    said = answer.json()
    assert (answer.status_code, said["code"], said["error"]) == (status, code, "key: the Primary says no")
    assert ("Retry-After" in answer) == (status == 503)
    assert (only().outcome, only().promised, only().sealed_body) == ("refused", False, None)


def test_a_change_that_names_no_version_is_made_again_on_the_newest_one(site: Site) -> None:
    """Somebody changed the secret at the Primary a moment ago, which the copy has not heard of."""
    secret, ann = site.secret(), site.person()
    site.primary.versions[str(secret.id)] = 2
    Secret.objects.filter(id=secret.id).update(version=1)
    site.primary.records = []
    calls = site.primary.call

    def call(path: str, message: Any, kind: Any, *, timeout: float) -> Any:
        if path.endswith("changes"):
            Secret.objects.filter(id=secret.id).update(version=2)
        return calls(path, message, kind, timeout=timeout)

    site.primary.call = call
    status, body = ann.put(f"secrets/{secret.id}", {"value": "three"})
    assert (status, body["version"]) == (200, 3)
    assert list(PendingWrite.objects.order_by("sequence").values_list("outcome", flat=True)) == ["refused", "applied"]


def test_offline_changes_of_one_secret_build_on_each_other(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    site.primary.down = True
    for value in ("a", "b", "c"):
        assert ann.put(f"secrets/{secret.id}", {"value": value})[0] == 202
    rows = list(PendingWrite.objects.order_by("sequence"))
    assert [(row.sequence, row.previous, row.base_version) for row in rows] == [
        (1, None, 1), (2, rows[0].id, None), (3, rows[1].id, None)
    ]  # fmt: skip
    site.primary.down = False
    site.upload()
    assert [value for _, _, value in site.primary.applied] == ["a", "b", "c"]
    assert set(PendingWrite.objects.values_list("outcome", flat=True)) == {"applied"}


@pytest.mark.parametrize("base", ["0", "2", "99"])
def test_another_version_than_the_copy_has_is_a_conflict_and_accepts_nothing(site: Site, base: str) -> None:
    secret, ann = site.secret(), site.person()
    site.primary.down = True
    status, body = ann.put(f"secrets/{secret.id}", {"value": "two"}, **{"If-Match": f'"{base}"'})
    assert (status, body["code"], body["current_version"]) == (409, "VERSION_CONFLICT", 1)
    assert not PendingWrite.objects.exists() and NodeState.objects.get().write_sequence == 0


def test_a_named_version_does_not_pass_a_write_that_waits(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    site.primary.down = True
    waiting = ann.put(f"secrets/{secret.id}", {"value": "two"})[1]["id"]
    status, body = ann.put(f"secrets/{secret.id}", {"value": "three"}, **{"If-Match": '"1"'})
    assert (status, body["code"]) == (409, "VERSION_CONFLICT") and waiting in body["error"]


def test_a_new_secret_is_created_through_the_queue_and_its_key_is_taken_at_once(site: Site) -> None:
    ann = site.person()
    wish = {"project_id": str(site.project.id), "environment": "dev", "key": "new", "value": "x"}
    site.primary.down = True
    status, body = ann.post("secrets", wish)
    assert status == 202
    assert ann.post("secrets", wish)[1]["code"] == "DUPLICATE_NAME"
    site.primary.down = False
    site.upload()
    assert site.primary.applied == [(body["secret_id"], body["id"], "x")]


def test_a_secret_that_waits_to_be_created_can_be_changed_and_names_its_write(site: Site) -> None:
    ann, reader = site.person(), site.person(["secrets:read"], name="rob")
    stranger = site.person(name="eve", project="00000000-0000-0000-0000-000000000001")
    site.primary.down = True
    wish = {"project_id": str(site.project.id), "environment": "dev", "key": "new", "value": "x"}
    made = ann.post("secrets", wish)[1]
    path = f"secrets/{made['secret_id']}"
    status, body = ann.get(path)
    assert (status, body["pending_write"]) == (404, made["id"]) and made["id"] in body["error"]
    assert made["id"] not in str([stranger.get(path), stranger.put(path, {"value": "y"})])
    assert stranger.get(path)[0] == stranger.put(path, {"value": "y"})[0] == stranger.call("delete", path)[0] == 404
    assert reader.put(path, {"value": "y"})[0] == 403 and reader.get(path)[1]["pending_write"] == made["id"]
    assert ann.put(path, {"value": "y"})[0] == 202
    assert ann.post(f"{path}/archive", {})[0] == 202
    assert ann.call("delete", path)[0] == 202
    rows = list(PendingWrite.objects.order_by("sequence"))
    assert [(row.operation, row.previous) for row in rows] == [
        ("create", None), ("update", rows[0].id), ("archive", rows[1].id), ("delete", rows[2].id)
    ]  # fmt: skip
    site.primary.down = False
    site.upload()
    assert set(PendingWrite.objects.values_list("outcome", flat=True)) == {"applied"}
    assert site.primary.versions[made["secret_id"]] == 4


def test_an_id_that_no_write_creates_is_unknown_as_ever(site: Site) -> None:
    ann = site.person()
    for identifier in ("00000000-0000-0000-0000-000000000009", "nonsense"):
        status, body = ann.get(f"secrets/{identifier}")
        assert status == 404 and "pending_write" not in body
        assert ann.put(f"secrets/{identifier}", {"value": "y"})[0] == 404


def test_a_secret_created_at_once_is_answered_with_201(site: Site) -> None:
    ann = site.person()
    status, body = ann.post("secrets", {"project_id": str(site.project.id), "environment": "dev", "key": "new", "value": "x"})
    assert (status, body["version"], body["key"], body["status"]) == (201, 1, "new", "active")


@pytest.mark.parametrize(
    ("role", "status", "code"),
    [(Assignment.STANDBY, 503, "NOT_ACTIVE"), (Assignment.FENCED, 503, "NOT_ACTIVE"), (Assignment.DRAINING, 503, "DRAINING")],
)
def test_only_the_active_gateway_takes_changes(site: Site, role: Assignment, status: int, code: str) -> None:
    secret, ann = site.secret(), site.person()
    site.become(role)
    answer = ann.response("put", f"secrets/{secret.id}", {"value": "two"})
    assert (answer.status_code, answer.json()["code"]) == (status, code) and int(answer["Retry-After"]) >= 1
    assert not PendingWrite.objects.exists()
    assert ann.get(f"secrets/{secret.id}")[0] == (200 if role is Assignment.DRAINING else 503)


def test_a_gateway_that_has_heard_of_a_later_epoch_serves_nothing(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    NodeState.objects.update(highest_epoch=2)
    assert ann.get(f"secrets/{secret.id}")[1]["code"] == "NOT_ACTIVE"


def test_a_fenced_gateway_serves_nothing_until_the_fence_is_lifted(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    NodeState.objects.update(fenced_operation=secret.id, fenced_epoch=1)
    assert ann.put(f"secrets/{secret.id}", {"value": "x"})[1]["code"] == "NOT_ACTIVE"
    NodeState.objects.update(fenced_operation=None, fenced_epoch=None)
    assert ann.get(f"secrets/{secret.id}")[0] == 200


def test_a_full_queue_refuses_before_it_writes_anything(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, other, ann = site.secret(), site.secret("other"), site.person()
    site.primary.down = True
    monkeypatch.setattr(write_queue, "MOST_WRITES", 1)
    assert ann.put(f"secrets/{secret.id}", {"value": "two"})[0] == 202
    entries = AuditEntry.objects.count()
    answer = ann.response("put", f"secrets/{other.id}", {"value": "two"})
    assert (answer.status_code, answer.json()["code"]) == (503, "WRITE_QUEUE_FULL") and "Retry-After" in answer
    assert (PendingWrite.objects.count(), AuditEntry.objects.count()) == (1, entries)


def test_a_queue_is_full_by_bytes_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, ann = site.secret(), site.person()
    monkeypatch.setattr(write_queue, "MOST_BYTES", 100)
    assert ann.put(f"secrets/{secret.id}", {"value": "x" * 101})[1]["code"] == "WRITE_QUEUE_FULL"


@pytest.mark.parametrize("down", [True, False])
def test_a_repeated_request_is_accepted_once(site: Site, down: bool) -> None:
    secret, ann = site.secret(), site.person()
    site.primary.down = down
    first = ann.put(f"secrets/{secret.id}", {"value": "two"}, **{"Idempotency-Key": "k"})
    again = ann.put(f"secrets/{secret.id}", {"value": "two"}, **{"Idempotency-Key": "k"})
    assert (again[0], again[1]["id"]) == (first[0], first[1]["id"])
    assert PendingWrite.objects.count() == 1
    other = ann.put(f"secrets/{secret.id}", {"value": "three"}, **{"Idempotency-Key": "k"})
    assert (other[0], other[1]["code"]) == (409, "IDEMPOTENCY_MISMATCH")


def test_a_write_whose_promise_met_no_database_is_not_called_refused_and_is_found_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit that queued it was there; whoever repeats it with the key gets that write and no second one."""
    secret, ann = site.secret(), site.person()
    site.primary.down = True

    def gone(*_: object) -> PendingWrite:
        raise OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as patch:
        patch.setattr(write_queue, "promise", gone)
        status, body = ann.put(f"secrets/{secret.id}", {"value": "two"}, **{"Idempotency-Key": "k"})
    assert (status, body["code"]) == (503, "UNAVAILABLE")
    assert "may have been kept or not" in body["error"] and "Idempotency-Key" in body["error"]
    status, body = ann.put(f"secrets/{secret.id}", {"value": "two"}, **{"Idempotency-Key": "k"})
    assert (status, body["id"]) == (202, str(only().id))


def test_an_idempotency_key_belongs_to_its_principal(site: Site) -> None:
    secret, ann, bob = site.secret(), site.person(), site.person(name="bob")
    site.primary.down = True
    ids = {who.put(f"secrets/{secret.id}", {"value": who.token}, **{"Idempotency-Key": "k"})[1]["id"] for who in (ann, bob)}
    assert len(ids) == 2


def test_a_refused_request_may_be_repeated_under_its_key(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    site.primary.refuse = ("VALIDATION_ERROR", "value: no")
    assert ann.put(f"secrets/{secret.id}", {"value": "two"}, **{"Idempotency-Key": "k"})[0] == 400
    site.primary.refuse = None
    assert ann.put(f"secrets/{secret.id}", {"value": "two"}, **{"Idempotency-Key": "k"})[0] == 200


def test_who_may_only_read_changes_nothing(site: Site) -> None:
    secret, reader = site.secret(), site.person(["secrets:read"])
    assert reader.put(f"secrets/{secret.id}", {"value": "x"})[0] == 403
    stranger = site.person(name="eve", project="00000000-0000-0000-0000-000000000001")
    assert stranger.get(f"secrets/{secret.id}")[0] == 404
    assert stranger.put(f"secrets/{secret.id}", {"value": "x"})[0] == 404
    assert not PendingWrite.objects.exists()


def test_the_queue_shows_what_the_caller_may_see_and_never_a_value(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    site.primary.down = True
    queued = ann.put(f"secrets/{secret.id}", {"value": "canary-7c1"})[1]["id"]
    status, body = ann.get("writes")
    assert (status, body["open"], [row["id"] for row in body["writes"]]) == (200, 1, [queued])
    assert body["bytes"] == body["writes"][0]["size"] > 0 and "canary-7c1" not in str(body)
    stranger = site.person(name="eve", project="00000000-0000-0000-0000-000000000001")
    assert stranger.get("writes")[1] == {"open": 0, "bytes": 0, "oldest_seconds": 0.0, "writes": []}
    assert stranger.get(f"writes/{queued}")[0] == 404
    assert b"canary-7c1" not in bytes(only().sealed_body or b"") and "canary-7c1" not in only().head


def test_signing_in_needs_the_primary(site: Site) -> None:
    ann = site.person()
    status, body = ann.post("auth/login", {"email": "a@example.com", "password": "x"})
    assert (status, body["code"]) == (503, "PRIMARY_NEEDED") and "audience" in body["error"]
    for audience in (["NPR"], "PRIMARY NPR", None):
        wish = {"email": "a@example.com", "password": "x", "audience": audience}
        assert ann.post("auth/login", wish)[1]["code"] == "PRIMARY_NEEDED", audience


def test_who_am_i_is_answered_from_the_copy(site: Site) -> None:
    ann = site.person()
    assert ann.get("auth/me")[1]["email"] == "ann"
    assert ann.get("auth/me/permissions")[1] == {"permissions": ["secrets:delete", "secrets:read", "secrets:write"]}


def test_the_outcomes_are_counted_and_every_step_is_in_the_audit(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    site.primary.down = True
    ann.put(f"secrets/{secret.id}", {"value": "two"})
    site.primary.down = False
    site.upload()
    actions = list(AuditEntry.objects.filter(entity="write").order_by("id").values_list("action", flat=True))
    assert actions == ["gateway.write.accepted", "gateway.write.applied"]
    from gateway_runtime.models import WriteTally

    assert dict(WriteTally.objects.values_list("outcome", "total")) == {"queued": 1, "applied": 1}


def test_a_write_that_the_primary_keeps_for_a_person_is_followed_not_refused(site: Site) -> None:
    secret, ann = site.secret(), site.person()
    site.primary.down = True
    queued = ann.put(f"secrets/{secret.id}", {"value": "two"})[1]["id"]
    site.primary.down = False
    site.primary.versions[str(secret.id)] = 9
    site.upload()
    assert ann.get(f"writes/{queued}")[1]["outcome"] == WriteOutcome.CONFLICT
