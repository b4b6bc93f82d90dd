"""A write that its vault has, set aside and then decided on: what readers get before, and what the vault has afterwards."""
# ruff: noqa: F811 - fixtures are imported

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
from django.db import transaction

from accounts.models import Project
from common.clock import database_now
from common.errors import Conflict, ValidationFailed
from common.models import AuditEntry
from gateway_runtime import work
from gateway_runtime.frames import TaskFrame
from gateways import left_undone, write_resolution
from gateways.models import ReceivedWrite, Route, Task
from integrations.azure.errors import ObjectBusy
from integrations.models import Integration
from tests import factories
from tests.gateway_runtime.test_storage import CANARY, Keeping, keeping, portal  # noqa: F401  the fixture
from tests.gateway_runtime.test_with_the_primary import pair  # noqa: F401  the fixture
from vault import claims
from vault.models import VaultClaim


@pytest.fixture
def path(keeping: Keeping) -> str:
    return f"secrets/{keeping.create()[1]['id']}"


def late(keeping: Keeping, change: Any, outcome: str = "quarantined") -> uuid.UUID:
    """A promised change that reaches the Primary after the environment was moved; then the gateway is active again."""
    gateway = keeping.pair.gateway
    keeping.pair.site.primary.down = True
    assert change()[0] == 202
    Route.objects.filter(pk="NPR").update(epoch=gateway.epoch + 1)
    keeping.pair.site.primary.down = False
    keeping.pair.site.upload()
    Route.objects.filter(pk="NPR").update(epoch=gateway.epoch)
    write = ReceivedWrite.objects.exclude(outcome="applied").get()
    assert write.outcome == outcome
    return write.id


def decide(write: uuid.UUID, resolution: str = "discard", vault: str = "") -> Any:
    caller = factories.principal("admin")
    return write_resolution.resolve(write, resolution, caller, address="", now=database_now(), vault=vault).vault


def do_task(keeping: Keeping) -> dict[str, Any]:
    site = keeping.pair.site
    frame = TaskFrame(site.primary, site.supervisor.node, keeping.pair.gateway.epoch, 10.0)
    return work.put_back(frame, Task.objects.get(kind="vault.put_back").payload)


def test_a_discarded_write_is_in_effect_nowhere_afterwards(keeping: Keeping, path: str) -> None:
    ann = keeping.pair.ann
    write = late(keeping, lambda: ann.put(path, {"value": "queued"}))
    assert keeping.there() == {"DB-PASSWORD": "queued"} and ann.get(path)[1]["value"] == CANARY
    seen = write_resolution.preview(write, factories.principal("admin"))["vault"]
    assert seen["holds_it"] and seen["choices"] == ["restore_recorded", "accept_vault_value"]
    assert decide(write)["wish"] == "restore_recorded"
    assert do_task(keeping)["put_back"] is True
    assert keeping.there() == {"DB-PASSWORD": CANARY}
    read = ann.get(path)[1]
    assert (read["value"], read["version"], read["changed_in_vault"]) == (CANARY, 1, False)
    assert AuditEntry.objects.get(action="gateway.write.resolved").details["vault"] == "restore_recorded"
    sets = keeping.sets()
    assert do_task(keeping)["put_back"] is False and keeping.sets() == sets, "done twice it changes nothing more"


def test_what_somebody_set_since_is_not_overwritten(keeping: Keeping, path: str) -> None:
    write = late(keeping, lambda: keeping.pair.ann.put(path, {"value": "queued"}))
    portal(keeping).set_secret("DB-PASSWORD", "from the portal")
    decide(write)
    assert do_task(keeping)["put_back"] is False and keeping.there() == {"DB-PASSWORD": "from the portal"}


def test_a_person_may_leave_it_in_the_vault(keeping: Keeping, path: str) -> None:
    write = late(keeping, lambda: keeping.pair.ann.put(path, {"value": "queued"}))
    with pytest.raises(ValidationFailed, match="vault: "):
        decide(write, vault="both")
    assert decide(write, vault="accept_vault_value")["task"] is None
    assert not Task.objects.filter(kind="vault.put_back").exists()
    assert AuditEntry.objects.get(action="gateway.write.resolved").details["vault"] == "accept_vault_value"


def test_a_discarded_deletion_brings_the_secret_back(keeping: Keeping, path: str) -> None:
    write = late(keeping, lambda: keeping.pair.ann.delete(path))
    assert keeping.there() == {}
    decide(write)
    assert do_task(keeping)["put_back"] is True and keeping.there() == {"DB-PASSWORD": CANARY}


def restored(keeping: Keeping, path: str) -> uuid.UUID:
    """A restoration that the vault has and the Primary set aside; the secret is deleted as far as anybody knows."""
    ann = keeping.pair.ann
    assert ann.delete(path)[0] in (200, 202, 204)
    write = late(keeping, lambda: ann.post(f"{path}/restore"))
    assert keeping.there() == {"DB-PASSWORD": CANARY}
    return write


def test_a_discarded_restoration_is_taken_back(keeping: Keeping, path: str) -> None:
    decide(restored(keeping, path))
    assert do_task(keeping)["put_back"] is True and keeping.there() == {}


def test_a_restoration_that_azure_has_not_finished_is_waited_for(keeping: Keeping, path: str, control: Any) -> None:
    """The name is in neither collection: told as "not there", it would live a moment later."""
    decide(restored(keeping, path))
    portal(keeping).begin_delete_secret("DB-PASSWORD").wait()
    control.post("/faults", json={"vault_settle_seconds": 0.7})
    portal(keeping).begin_recover_deleted_secret("DB-PASSWORD")
    with pytest.raises(ObjectBusy):
        do_task(keeping)
    control.post("/faults", json={"vault_settle_seconds": 0})
    time.sleep(0.8)
    assert do_task(keeping)["put_back"] is True and keeping.there() == {}
    assert do_task(keeping)["put_back"] is False, "and what lies deleted is left alone"


def test_what_somebody_set_after_a_discarded_restoration_stays_and_is_told(keeping: Keeping, path: str) -> None:
    write = restored(keeping, path)
    portal(keeping).set_secret("DB-PASSWORD", "from the portal")
    decide(write)
    said = do_task(keeping)
    assert said["put_back"] is False and said["kept"] == said["newest"]
    assert keeping.there() == {"DB-PASSWORD": "from the portal"}
    task = Task.objects.get(kind="vault.put_back")
    task.result = said
    with transaction.atomic():
        left_undone.tell_kept(task)
    told = AuditEntry.objects.get(action="vault.not_put_back")
    assert (told.severity, told.details["secret"], told.details["kept"]) == ("warning", "DB_PASSWORD", said["kept"])


def test_a_discarded_creation_leaves_nothing(keeping: Keeping) -> None:
    write = late(keeping, lambda: keeping.create(key="NEW", value="new"))
    caller = factories.principal("admin")
    write_resolution.resolve_many([write], "discard", caller, address="", now=database_now())
    assert do_task(keeping)["put_back"] is True and keeping.there() == {}


@pytest.mark.parametrize("way", ["value", "deletion"])
def test_what_policy_discards_is_put_back_too(keeping: Keeping, path: str, way: str) -> None:
    Project.objects.update(stale_epoch_policy="discard")
    ann = keeping.pair.ann
    write = late(keeping, lambda: ann.put(path, {"value": "queued"}) if way == "value" else ann.delete(path))
    assert ReceivedWrite.objects.get(id=write).resolution == "discard"
    assert do_task(keeping)["put_back"] is True and keeping.there() == {"DB-PASSWORD": CANARY}
    assert AuditEntry.objects.filter(action="task.created", details__kind="vault.put_back", actor="policy").exists()


def test_what_no_gateway_can_put_back_waits_for_a_person_whatever_the_policy(keeping: Keeping, path: str) -> None:
    Project.objects.update(stale_epoch_policy="discard")

    def change() -> Any:
        answer = keeping.pair.ann.put(path, {"value": "queued"})
        Integration.objects.update(deleted_at=database_now())
        return answer

    write = late(keeping, change, "conflict")
    row = ReceivedWrite.objects.get(id=write)
    assert (row.code, row.resolution, row.sealed_body is not None) == ("VAULT_STILL_HOLDS", "", True)
    seen = write_resolution.preview(write, factories.principal("admin"))["vault"]
    assert seen["holds_it"] and seen["choices"] == ["accept_vault_value"]
    with pytest.raises(Conflict, match="vault: "):
        decide(write)


def test_nobody_is_told_meanwhile_that_the_name_is_made_again(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    write = late(keeping, lambda: keeping.create(key="NEW", value="discarded"))
    decide(write)
    monkeypatch.setattr(claims, "WAIT_SECONDS", 0.0)
    look, told = work._newest, list[Any]()

    def slow(vault: Any, name: str) -> Any:
        found = look(vault, name)
        keeping.lease()
        told.append(keeping.create(key="NEW", value="made again"))
        return found

    monkeypatch.setattr(work, "_newest", slow)
    assert do_task(keeping)["put_back"] is True
    assert told[0][0] == 503 and "SECRET_BUSY" in str(told[0][1])
    assert keeping.there() == {} and not VaultClaim.objects.exists()
    assert keeping.create(key="NEW", value="made again")[0] in (201, 202)
