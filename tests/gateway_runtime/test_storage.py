"""Values that rest in a vault, at a gateway: set there first, under the lease, kept nowhere here, read without the Primary."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.db import transaction
from django.test import override_settings

from accounts import sealed_config
from accounts.models import Environment, Project, User
from common import feed
from common.clock import boottime
from common.models import AuditEntry
from gateway_runtime import vaults
from gateway_runtime.client import PrimaryRefused
from gateway_runtime.models import PendingWrite
from gateways.models import ReceivedWrite
from integrations.azure.keyvault import KeyVault
from integrations.azure.node_cloud import AzureNode
from integrations.models import Integration, Vault
from protocol.replica import ReplicaKind
from protocol.vault_access import VaultAccess
from sandbox.azure.server import Sandbox
from tests.gateway_runtime.test_with_the_primary import Pair, pair  # noqa: F401  the fixture
from tests.gateways.vault_desk import cloud_of, opened_vault, sandbox_vault
from vault.models import Secret, SecretVersion

VAULT = "kv-mazevault-npr"
CANARY = "canary-4711"


@dataclass
class Keeping:
    """A project of which everything rests in the vault."""

    pair: Pair
    sandbox: Sandbox
    project: Project

    def lease(self) -> None:
        node = self.pair.site.supervisor.node
        node.take_lease(epoch=self.pair.gateway.epoch, ttl=45.0, sent_boot=boottime(), sent_wall=time.time())

    def create(self, key: str = "DB_PASSWORD", value: str = CANARY, **headers: str) -> tuple[int, Any]:
        wish = {"project_id": str(self.project.id), "environment": "dev", "key": key, "value": value}
        return self.pair.ann.call("post", "secrets", data=wish, content_type="application/json", headers=headers)

    def owner(self) -> str:
        environment = Environment.objects.get(slug="dev", organization=self.project.organization)
        return f"project:{self.project.id}/{environment.id}"

    def there(self) -> dict[str, str]:
        vault = self.sandbox.world.vaults.named(VAULT)
        assert vault is not None
        return {item.name: str(item.latest.data["value"]) for item in vault.listed("secrets")}

    def sets(self) -> int:
        return sum(write.action == "set" for write in self.sandbox.world.vaults.journal)


@pytest.fixture
def keeping(pair: Pair, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: F811  the fixture
    url = sandbox_vault(sandbox, VAULT)
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"{sandbox.plain_url}/hosts/npr")
    with override_settings(MAZEVAULT=replace(settings.MAZEVAULT, azure=AzureNode(cloud_of(sandbox), (url,)))):
        project = Project.objects.create(
            organization=pair.site.project.organization, name="vaulted", storage="key_vault", default_environment="dev"
        )
        made = Integration(
            project=project, environment=pair.site.environment, name="v", type="key_vault", provider="azure_key_vault",
            sealed_under="NPR",
        )  # fmt: skip
        with transaction.atomic():
            sealed_config.put(made, "NPR", {"vault_url": url, "auth_method": "managed_identity"})
            made.save()
            opened_vault(url, project)
            feed.note(["NPR"], ReplicaKind.PROJECT, project.id)
        pair.pull()
        found = Keeping(pair, sandbox, project)
        found.lease()
        yield found


def test_a_value_goes_into_the_vault_and_nowhere_else(keeping: Keeping) -> None:
    status, row = keeping.create()
    assert (status, row["version"], row["storage"]) == (201, 1, "key_vault"), row
    assert keeping.there() == {"DB-PASSWORD": CANARY}
    write = keeping.sandbox.world.vaults.journal[-1]
    assert write.tags["mazevault-owner"] == keeping.owner() and write.tags["mazevault-key"] == "DB_PASSWORD"
    version = SecretVersion.objects.get(secret=row["id"])
    assert (version.sealed_value, version.external_version) == (None, write.version)
    assert CANARY not in ReceivedWrite.objects.get().head and PendingWrite.objects.get().sealed_body is None
    status, read = keeping.pair.ann.get(f"secrets/{row['id']}")
    assert (status, read["value"], read["vault_version"], read["changed_in_vault"]) == (200, CANARY, write.version, False)
    assert CANARY not in str(list(AuditEntry.objects.values()))


def test_a_restore_is_refused_when_the_vault_has_nothing_left(keeping: Keeping) -> None:
    ann, row = keeping.pair.ann, keeping.create()[1]
    path = f"secrets/{row['id']}"
    assert ann.delete(path)[0] == 204
    portal(keeping).purge_deleted_secret("DB-PASSWORD")
    status, body = ann.post(f"{path}/restore")
    assert (status, body["code"]) == (409, "VALUE_GONE") and Secret.objects.get(id=row["id"]).status == "deleted"


def test_reading_goes_on_while_the_primary_is_away_and_writing_as_long_as_the_lease(keeping: Keeping) -> None:
    row = keeping.create()[1]
    keeping.pair.site.primary.down = True
    assert keeping.pair.ann.get(f"secrets/{row['id']}")[1]["value"] == CANARY
    status, queued = keeping.pair.ann.put(f"secrets/{row['id']}", {"value": "two"})
    assert (status, queued["durability"]) == (202, "gateway") and keeping.there() == {"DB-PASSWORD": "two"}
    assert "two" not in str(PendingWrite.objects.order_by("sequence").last().head)
    keeping.pair.site.supervisor.node.drop_lease("it ran out")
    before = PendingWrite.objects.count()
    status, refused = keeping.pair.ann.put(f"secrets/{row['id']}", {"value": "three"})
    assert (status, refused["code"]) == (503, "LEASE_NEEDED")
    assert PendingWrite.objects.count() == before and keeping.there() == {"DB-PASSWORD": "two"}
    read = keeping.pair.ann.get(f"secrets/{row['id']}")[1]
    assert (read["value"], read["version"], read["changed_in_vault"]) == (CANARY, 1, False), "what waits is not in effect yet"
    assert read["pending_write"] == queued["id"]


def test_what_cannot_be_recorded_is_not_set_in_the_vault(keeping: Keeping) -> None:
    row = keeping.create()[1]
    path = f"secrets/{row['id']}"
    assert keeping.pair.ann.put(path, {"value": "two"}, **{"If-Match": '"9"'})[0] == 409
    assert keeping.create()[1]["code"] == "DUPLICATE_NAME"
    assert keeping.create(key="no spaces")[0] == 400
    assert keeping.sets() == 1 and keeping.there() == {"DB-PASSWORD": CANARY}


def test_what_the_primary_would_refuse_never_reaches_the_vault(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy here says that the caller may; the Primary knows better."""
    row = keeping.create()[1]
    monkeypatch.setattr("gateways.write_checks.principal_named", lambda actor, now: None)
    answers = [keeping.create(key="B"), keeping.pair.ann.put(f"secrets/{row['id']}", {"value": "two"})]
    answers.append(keeping.pair.ann.delete(f"secrets/{row['id']}"))
    assert [(status, body["code"]) for status, body in answers] == [(403, "ACTOR_NOT_ALLOWED")] * 3
    assert keeping.there() == {"DB-PASSWORD": CANARY} and PendingWrite.objects.count() == 1


@pytest.mark.parametrize("busy", [(503, "UNAVAILABLE"), (429, "RATE_LIMITED")])
def test_a_primary_that_is_busy_has_refused_nothing(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch, busy: tuple[int, str]
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PrimaryRefused(*busy, "not now", retry_after=7)

    monkeypatch.setattr(keeping.pair.site.supervisor.channel, "call", refuse)
    wish = {"project_id": str(keeping.project.id), "environment": "dev", "key": "A", "value": CANARY}
    answer = keeping.pair.ann.response("post", "secrets", wish)
    assert (answer.status_code, answer["Retry-After"]) == (503, "7") and not keeping.there()


def test_deleting_an_older_secret_leaves_the_one_that_has_its_name_now(keeping: Keeping) -> None:
    first = keeping.create(value="one")[1]
    keeping.pair.ann.delete(f"secrets/{first['id']}")
    second = keeping.create(value="two")[1]
    status, body = keeping.pair.ann.delete(f"secrets/{first['id']}/permanent")
    assert (status, body["code"]) == (409, "VALUE_STILL_IN_VAULT"), "its versions lie under the later one's name"
    assert keeping.there() == {"DB-PASSWORD": "two"} and Secret.objects.get(id=first["id"]).status == "deleted"
    keeping.pair.ann.delete(f"secrets/{second['id']}")
    assert keeping.pair.ann.delete(f"secrets/{second['id']}/permanent")[0] == 204
    assert keeping.pair.ann.delete(f"secrets/{first['id']}/permanent")[0] == 204
    assert vault_of(keeping).item("secrets", "DB-PASSWORD", deleted=True) is None and keeping.there() == {}


def test_a_restored_secret_has_its_own_value_again(keeping: Keeping) -> None:
    """Although a later secret of the same key had the name in the vault since."""
    ann, first = keeping.pair.ann, keeping.create(value="one")[1]
    ann.delete(f"secrets/{first['id']}")
    second = keeping.create(value="two")[1]
    ann.delete(f"secrets/{second['id']}")
    assert ann.post(f"secrets/{first['id']}/restore")[0] == 200
    assert keeping.there() == {"DB-PASSWORD": "one"} and ann.get(f"secrets/{first['id']}")[1]["value"] == "one"


def test_going_back_to_a_version_to_come_does_not_reach_the_vault(keeping: Keeping) -> None:
    row = keeping.create(value="one")[1]
    for away in (False, True):
        keeping.pair.site.primary.down = away
        status, body = keeping.pair.ann.post(f"secrets/{row['id']}/rollback", {"version": 1})
        assert (status, keeping.sets()) == (400, 1) and body["error"].startswith("version: "), body


def test_a_repeated_request_is_carried_out_once(keeping: Keeping) -> None:
    first = keeping.create(**{"Idempotency-Key": "k1"})
    assert keeping.create(**{"Idempotency-Key": "k1"})[1]["id"] == first[1]["id"] and keeping.sets() == 1
    assert keeping.create(value="other", **{"Idempotency-Key": "k1"})[1]["code"] == "IDEMPOTENCY_MISMATCH"
    assert keeping.sets() == 1


def test_versions_rollback_deletion_and_return(keeping: Keeping) -> None:
    ann, row = keeping.pair.ann, keeping.create(value="one")[1]
    path = f"secrets/{row['id']}"
    ann.put(path, {"value": "two"})
    assert ann.get(f"{path}/versions/1")[1]["value"] == "one"
    assert ann.post(f"{path}/rollback", {"version": 1})[0] == 200 and keeping.there() == {"DB-PASSWORD": "one"}
    assert ann.delete(path)[0] == 204 and keeping.there() == {}
    assert ann.post(f"{path}/restore")[0] == 200 and keeping.there() == {"DB-PASSWORD": "one"}
    assert ann.get(path)[1]["value"] == "one"
    ann.delete(path)
    assert ann.delete(f"{path}/permanent")[0] == 204
    status, again = keeping.create(value="anew")
    assert status == 201 and keeping.there() == {"DB-PASSWORD": "anew"}, again


def test_a_deleted_name_is_recovered_when_its_key_is_made_again(keeping: Keeping) -> None:
    row = keeping.create(value="one")[1]
    keeping.pair.ann.delete(f"secrets/{row['id']}")
    assert keeping.create(value="two")[0] == 201 and keeping.there() == {"DB-PASSWORD": "two"}


def test_a_name_that_is_somebody_elses_is_left_alone(keeping: Keeping) -> None:
    keeping.create(key="A-B")
    for key in ("A_B", "a.b"):
        status, body = keeping.create(key=key, value="theirs")
        assert (status, body["code"]) == (409, "NAME_TAKEN_IN_VAULT"), body
    assert keeping.there() == {"A-B": CANARY}


def vault_of(keeping: Keeping) -> Any:
    return keeping.sandbox.world.vaults.named(VAULT)


def portal(keeping: Keeping) -> Any:
    """The vendor's client, as a person with the portal uses the vault."""
    way = vaults.connection_of(VaultAccess(str(uuid.uuid4()), sandbox_vault(keeping.sandbox, VAULT), "managed_identity"))
    return KeyVault(way, vaults.credential_of(way), vaults.guard())._client


def test_a_protected_vault_keeps_what_is_destroyed_and_both_sides_say_so(keeping: Keeping) -> None:
    ann, row = keeping.pair.ann, keeping.create()[1]
    path = f"secrets/{row['id']}"
    assert ann.post(f"{path}/archive")[0] == 200
    vault_of(keeping).purge_protection = True
    try:
        for _ in range(2):
            status, body = ann.delete(f"{path}/permanent")
            assert (status, body["code"]) == (403, "KEY_VAULT_PURGE_PROTECTED") and "ends by itself" in body["error"], body
        assert Secret.objects.get(id=row["id"]).status == "deleted" and keeping.there() == {}
        assert AuditEntry.objects.filter(action="secret.deleted", entity_id=row["id"]).count() == 1
        assert ann.post(f"{path}/restore")[0] == 200 and ann.get(path)[1]["value"] == CANARY
    finally:
        vault_of(keeping).purge_protection = False


def test_destroying_is_done_when_the_vault_was_seen_without_it(keeping: Keeping, control: httpx.Client) -> None:
    ann, row = keeping.pair.ann, keeping.create()[1]
    path = f"secrets/{row['id']}"
    assert ann.post(f"{path}/archive")[0] == 200
    control.post("/faults", json={"vault_settle_seconds": 25.0})
    answer = ann.response("delete", f"{path}/permanent")
    assert (answer.status_code, answer.json()["code"]) == (503, "KEY_VAULT_OBJECT_BUSY") and answer["Retry-After"]
    assert Secret.objects.get(id=row["id"]).status == "deleted", "what did happen is recorded"
    status, body = ann.post(f"{path}/restore")
    assert status == 503 and "create" not in body["error"], body
    control.post("/faults", json={"vault_settle_seconds": 0.0})
    settled(keeping)
    assert ann.delete(f"{path}/permanent")[0] == 204
    assert Secret.objects.get(id=row["id"]).status == "purged" and not vault_of(keeping).items


def settled(keeping: Keeping) -> None:
    for item in vault_of(keeping).items.values():
        item.settles_at = 0.0


def test_a_disabled_secret_is_not_read_and_can_be_replaced_and_deleted(keeping: Keeping) -> None:
    ann, row = keeping.pair.ann, keeping.create(value="leaked")[1]
    path = f"secrets/{row['id']}"
    portal(keeping).update_secret_properties("DB-PASSWORD", enabled=False)
    assert ann.get(path)[1]["code"] == "KEY_VAULT_OBJECT_DISABLED"
    assert ann.post(f"{path}/rotate", {"value": "fresh"})[0] == 200 and ann.get(path)[1]["value"] == "fresh"
    portal(keeping).update_secret_properties("DB-PASSWORD", enabled=False)
    assert ann.delete(path)[0] == 204 and keeping.there() == {}


def test_a_value_that_was_set_in_the_portal_counts_and_is_told(keeping: Keeping) -> None:
    row = keeping.create(value="one")[1]
    portal(keeping).set_secret("DB-PASSWORD", "from the portal")
    read = keeping.pair.ann.get(f"secrets/{row['id']}")[1]
    assert (read["value"], read["changed_in_vault"]) == ("from the portal", True)
    assert keeping.pair.ann.get(f"secrets/{row['id']}/versions/1")[1]["value"] == "one"


def test_a_name_that_something_else_took_over_is_neither_read_nor_touched(keeping: Keeping) -> None:
    path = f"secrets/{keeping.create(value='one')[1]['id']}"
    tags = {"mazevault-epoch": "1", "mazevault-operation": "x", "mazevault-owner": "project:another"}
    portal(keeping).set_secret("DB-PASSWORD", "another project's", tags=tags)
    ann = keeping.pair.ann
    answers = [ann.get(path), ann.put(path, {"value": "two"}), ann.delete(path)]
    assert {body["code"] for _, body in answers} == {"NAME_TAKEN_IN_VAULT"} and "another project's" not in str(answers)
    assert keeping.there() == {"DB-PASSWORD": "another project's"}


def test_what_the_vault_denies_is_denied_counted_and_audited(keeping: Keeping, control: httpx.Client) -> None:
    row = keeping.create(value="one")[1]
    control.post("/faults", json={"vault_forbidden": [VAULT]})
    status, body = keeping.pair.ann.get(f"secrets/{row['id']}")
    assert (status, body["code"]) == (403, "KEY_VAULT_ROLE_MISSING") and "Fix: " in body["details"]
    assert AuditEntry.objects.filter(action="secret.denied_by_vault").count() == 1
    assert keeping.pair.ann.put(f"secrets/{row['id']}", {"value": "two"})[0] == 403
    told = AuditEntry.objects.filter(action="secret.denied_by_vault").order_by("id")
    assert [entry.details["operation"] for entry in told] == ["read", "update"]
    assert Secret.objects.get(id=row["id"]).version == 1 and PendingWrite.objects.count() == 1


def test_a_vault_of_another_environment_is_never_told_to_the_gateway(keeping: Keeping) -> None:
    Vault.objects.update(gateway_environment="PRO")
    with transaction.atomic():
        feed.note(["NPR"], ReplicaKind.PROJECT, keeping.project.id)
    keeping.pair.pull()
    assert keeping.create()[1]["code"] == "VAULT_MISSING" and keeping.there() == {}


def test_a_vault_that_is_none_of_this_gateways_is_refused_here_too(keeping: Keeping) -> None:
    with override_settings(MAZEVAULT=replace(settings.MAZEVAULT, azure=AzureNode(cloud_of(keeping.sandbox), ()))):
        assert keeping.create()[1]["code"] == "VAULT_NOT_ALLOWED"
    assert keeping.there() == {}


def test_who_may_not_write_here_does_not_reach_the_vault(keeping: Keeping) -> None:
    User.objects.update(role="viewer")
    with transaction.atomic():
        feed.note(["NPR"], ReplicaKind.PRINCIPAL, User.objects.get().id)
    keeping.pair.pull()
    assert keeping.create()[0] in (401, 403, 404) and keeping.there() == {}
