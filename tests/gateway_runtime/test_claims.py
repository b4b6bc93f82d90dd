"""A change of a vault is claimed, made, recorded: what a crash, a twin or a refusal in between leaves (ADR 30)."""

# ruff: noqa: F811 - fixtures are imported

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from common.clock import database_now
from common.errors import Conflict
from common.models import AuditEntry
from gateway_runtime import secrets_node, write_queue
from gateway_runtime.models import PendingWrite
from gateways import inbox
from integrations.keeping import VaultKeeper
from orchestrator.metrics import exposition
from tests.gateway_runtime.test_storage import CANARY, VAULT, Keeping, keeping, portal  # noqa: F401  the fixture
from tests.gateway_runtime.test_with_the_primary import pair  # noqa: F401  the fixture
from vault import claims, elsewhere, marks
from vault.models import Secret, SecretVersion, VaultClaim


class Killed(BaseException):
    """Nothing of the product runs after it."""


def kill(*_: Any, **__: Any) -> Any:
    raise Killed


def run_out() -> None:
    """The time of every claim is over, and it is time to look."""
    past = database_now() - timedelta(seconds=1)
    VaultClaim.objects.update(until=past, look_at=past)


def put_and_be_killed(keeping: Keeping, monkeypatch: pytest.MonkeyPatch, path: str, value: str, **headers: str) -> None:
    """The process dies when the vault has the value and no row names it."""
    with monkeypatch.context() as dying:
        dying.setattr(elsewhere, "_record", kill)
        with pytest.raises(Killed):
            keeping.pair.ann.put(path, {"value": value}, **headers)


@pytest.fixture
def path(keeping: Keeping) -> str:
    return f"secrets/{keeping.create()[1]['id']}"


def test_a_change_ends_its_claim_when_it_is_recorded(keeping: Keeping, path: str) -> None:
    assert keeping.pair.ann.put(path, {"value": "two"})[0] == 200
    assert not VaultClaim.objects.exists()


def test_what_the_vault_took_before_a_crash_is_recorded_once_afterwards(
    keeping: Keeping, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_and_be_killed(keeping, monkeypatch, path, "two")
    assert keeping.there() == {"DB-PASSWORD": "two"}
    read = keeping.pair.ann.get(path)[1]
    assert (read["value"], read["version"], read["changed_in_vault"]) == (CANARY, 1, False), "nothing is in effect unrecorded"
    assert secrets_node.sweep_claims() == 0, "the call could still be under way"
    run_out()
    assert (secrets_node.sweep_claims(), secrets_node.sweep_claims()) == (1, 0)
    PendingWrite.objects.update(not_before=database_now() - timedelta(seconds=1))
    keeping.pair.site.upload()
    keeping.pair.pull()
    inbox.apply_pending()
    keeping.pair.pull()
    read = keeping.pair.ann.get(path)[1]
    assert (read["value"], read["version"]) == ("two", 2) and keeping.sets() == 2
    row = SecretVersion.objects.get(secret=read["id"], version=2)
    assert row.value_mark == marks.mark_of(row.secret_id, marks.hash_of("two")), "it is known again, should a rotation replace it"
    assert "two" not in str(list(VaultClaim.objects.values())) + str(list(AuditEntry.objects.values()))


def test_no_value_lies_in_a_claim(keeping: Keeping, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_and_be_killed(keeping, monkeypatch, path, "canary-0815")
    assert "canary-0815" not in str(VaultClaim.objects.values().get())


def test_the_same_request_after_a_crash_is_made_once(keeping: Keeping, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_and_be_killed(keeping, monkeypatch, path, "two", **{"Idempotency-Key": "k"})
    run_out()
    status, body = keeping.pair.ann.put(path, {"value": "two"}, **{"Idempotency-Key": "k"})
    assert status in (200, 202), body
    assert keeping.sets() == 2 and PendingWrite.objects.count() == 2, "the creation, and this change once"


def test_the_next_writer_ends_what_a_crash_left(keeping: Keeping, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_and_be_killed(keeping, monkeypatch, path, "two")
    run_out()
    assert keeping.pair.ann.put(path, {"value": "three"})[0] in (200, 202)
    assert keeping.there() == {"DB-PASSWORD": "three"} and not VaultClaim.objects.exists()
    assert [write.operation for write in PendingWrite.objects.order_by("sequence")] == ["create", "update", "update"]


def test_a_claim_before_the_call_leaves_nothing(keeping: Keeping, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as dying:
        dying.setattr(VaultKeeper, "carry_out", kill)
        with pytest.raises(Killed):
            keeping.pair.ann.put(path, {"value": "two"})
    run_out()
    assert secrets_node.sweep_claims() == 1
    assert PendingWrite.objects.count() == 1 and keeping.there() == {"DB-PASSWORD": CANARY}


def test_a_second_writer_of_the_same_name_waits_a_little_and_is_told_when_to_come_again(
    keeping: Keeping, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "WAIT_SECONDS", 0.3)
    put_and_be_killed(keeping, monkeypatch, path, "two")
    answer = keeping.pair.ann.response("put", path, {"value": "three"})
    assert (answer.status_code, answer.json()["code"]) == (503, "SECRET_BUSY") and int(answer["Retry-After"]) > 0
    assert keeping.pair.ann.call("patch", path, data={"tags": ["x"]}, content_type="application/json")[1]["code"] == "SECRET_BUSY"
    assert keeping.create(key="OTHER")[0] == 201, "another name is not held up"


def nobody_can_find_out(
    keeping: Keeping, path: str, control: httpx.Client, monkeypatch: pytest.MonkeyPatch, *, waits: float
) -> None:
    """A change was killed in the middle, and its vault lets nobody look. The next writer waits so many seconds."""
    monkeypatch.setattr(claims, "WAIT_SECONDS", waits)
    put_and_be_killed(keeping, monkeypatch, path, "two")
    control.post("/faults", json={"vault_forbidden": [VAULT]})
    run_out()


def tagged(keeping: Keeping, path: str) -> Any:
    """A change that no vault hears of."""
    return keeping.pair.ann.call("patch", path, data={"tags": ["x"]}, content_type="application/json")


def test_a_change_that_no_vault_hears_of_ends_what_a_crash_left(
    keeping: Keeping, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_and_be_killed(keeping, monkeypatch, path, "two")
    run_out()
    assert tagged(keeping, path)[0] in (200, 202) and not VaultClaim.objects.exists()
    assert [write.operation for write in PendingWrite.objects.order_by("sequence")] == ["create", "update", "metadata"]


def test_what_nobody_can_find_out_holds_such_a_change_up_for_a_while_only(
    keeping: Keeping, path: str, control: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody_can_find_out(keeping, path, control, monkeypatch, waits=0.3)
    status, refused = tagged(keeping, path)
    assert (status, refused["code"], VaultClaim.objects.get().looks) == (503, "SECRET_BUSY", 1), "asked once for each request"
    assert all(part in refused["error"] for part in ("nobody knows yet", "waits 15 minutes", "update, begun 20"))
    assert "mazevault_vault_changes_in_doubt 1.0" in exposition().decode()
    VaultClaim.objects.update(begun_at=database_now() - claims.HOLDS_UP - timedelta(seconds=1))
    assert tagged(keeping, path)[0] in (200, 202) and VaultClaim.objects.exists()
    control.post("/faults", json={"vault_forbidden": []})
    run_out()
    assert secrets_node.sweep_claims() == 1 and not VaultClaim.objects.exists()


def test_a_writer_who_waits_in_vain_looks_once_and_puts_the_sweep_off_once(
    keeping: Keeping, path: str, control: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody_can_find_out(keeping, path, control, monkeypatch, waits=1.0)
    status, refused = keeping.pair.ann.put(path, {"value": "three"})
    assert (status, refused["code"], VaultClaim.objects.get().looks) == (503, "SECRET_BUSY", 1)


def test_who_slept_over_the_end_of_its_claim_records_nothing(
    keeping: Keeping, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out = VaultKeeper.carry_out

    def asleep(self: VaultKeeper, *arguments: Any) -> Any:
        done = carry_out(self, *arguments)
        monkeypatch.setattr(VaultKeeper, "carry_out", carry_out)
        run_out()
        assert secrets_node.sweep_claims() == 1
        return done

    monkeypatch.setattr(VaultKeeper, "carry_out", asleep)
    status, body = keeping.pair.ann.put(path, {"value": "two"})
    assert (status, body["code"]) == (503, "CLAIM_LOST") and PendingWrite.objects.count() == 2, "recorded once, by the sweep"


def test_no_effect_begins_under_a_lost_claim(keeping: Keeping, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    look = claims.prolong

    def late(claim: VaultClaim, seconds: float) -> None:
        run_out()
        look(claim, seconds)

    monkeypatch.setattr(claims, "prolong", late)
    assert keeping.pair.ann.put(path, {"value": "two"})[1]["code"] == "CLAIM_LOST" and keeping.sets() == 1


def test_what_cannot_be_recorded_after_all_is_put_back(keeping: Keeping, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    accept, asked = write_queue.accept, list[bool]()

    def refuse(*arguments: Any, **named: Any) -> Any:
        asked.append(True)
        if len(asked) > 1:
            raise Conflict("changed meanwhile", code="VERSION_CONFLICT")
        return accept(*arguments, **named)

    with monkeypatch.context() as changing:
        changing.setattr(write_queue, "accept", refuse)
        assert keeping.pair.ann.put(path, {"value": "two"})[1]["code"] == "VERSION_CONFLICT"
    assert keeping.there() == {"DB-PASSWORD": CANARY} and not VaultClaim.objects.exists()
    read = keeping.pair.ann.get(path)[1]
    assert (read["value"], read["version"], read["changed_in_vault"]) == (CANARY, 1, False)
    assert AuditEntry.objects.get(action="secret.vault_change_ended").details["outcome"] == "put back"


@pytest.mark.parametrize("since", ["", "from the portal"])
def test_a_restoration_is_taken_back_unless_somebody_set_it_since(
    keeping: Keeping, path: str, monkeypatch: pytest.MonkeyPatch, since: str
) -> None:
    keeping.pair.ann.delete(path)
    with monkeypatch.context() as dying:
        dying.setattr(elsewhere, "_record", kill)
        with pytest.raises(Killed):
            keeping.pair.ann.post(f"{path}/restore")
    assert keeping.there() == {"DB-PASSWORD": CANARY}
    if since:
        portal(keeping).set_secret("DB-PASSWORD", since)

    def refuse(*_: Any, **__: Any) -> Any:
        raise Conflict("no", code="SECRET_ARCHIVED")

    monkeypatch.setattr(write_queue, "accept", refuse)
    run_out()
    assert secrets_node.sweep_claims() == 1
    assert keeping.there() == ({"DB-PASSWORD": since} if since else {})
    outcome = AuditEntry.objects.get(action="secret.vault_change_ended").details["outcome"]
    assert outcome == ("changed since, so the vault is left as it is" if since else "put back")


def test_what_the_primary_refuses_afterwards_is_put_back(keeping: Keeping, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(write: Any, change: Any) -> Any:
        raise Conflict("no", code="SECRET_ARCHIVED")

    with monkeypatch.context() as refusing:
        refusing.setattr(secrets_node, "_apply_now", refuse)
        assert keeping.pair.ann.put(path, {"value": "two"})[0] == 409
    assert keeping.there() == {"DB-PASSWORD": CANARY}
    recorded = Secret.objects.get(id=path.removeprefix("secrets/")).versions.get()
    assert keeping.pair.ann.get(path)[1]["vault_version"] == recorded.external_version


def test_an_answer_that_was_lost_is_looked_into(keeping: Keeping, path: str, control: httpx.Client) -> None:
    control.post("/faults", json={"vault_replies_lost": 1})
    status, body = keeping.pair.ann.put(path, {"value": "two"})
    assert (status, body["code"]) == (503, "KEY_VAULT_OUTCOME_UNKNOWN") and VaultClaim.objects.count() == 1
    run_out()
    assert secrets_node.sweep_claims() == 1 and PendingWrite.objects.count() == 2 and keeping.sets() == 2


def test_what_nobody_can_look_into_is_dropped_after_its_time(
    keeping: Keeping, path: str, control: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_and_be_killed(keeping, monkeypatch, path, "two")
    control.post("/faults", json={"vault_forbidden": [VAULT]})
    run_out()
    assert secrets_node.sweep_claims() == 0 and VaultClaim.objects.get().looks == 1
    VaultClaim.objects.update(begun_at=database_now() - claims.KEPT - timedelta(hours=1))
    run_out()
    assert secrets_node.sweep_claims() == 1 and not VaultClaim.objects.exists()
    assert "nobody could find out" in AuditEntry.objects.get(action="secret.vault_change_ended").details["outcome"]
