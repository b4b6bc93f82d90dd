"""A project, a vault of the local Azure and the gateway between them: sync runs from the request to the last step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from gateway_runtime import vaults
from gateway_runtime.client import PrimaryRefused
from gateway_runtime.frames import TaskFrame, TaskImpossible
from gateway_runtime.work import EXECUTORS
from integrations.azure.keyvault import KeyVault
from protocol import messages, paths
from protocol.messages import Message
from protocol.vault_access import VaultAccess
from protocol.vocabulary import TaskOutcome
from sandbox.azure.server import Sandbox
from sandbox.azure.vaults import Write
from tests.conftest import Person, fleet_of
from tests.fakes.gateway import FakeGateway
from tests.gateways.vault_desk import Leased, be_on, cloud_of, sandbox_vault

VAULT = "kv-mazevault-npr"


class Killed(Exception):
    """Stands for kill -9: nothing after it happens."""


@dataclass
class Line:
    """The channel of a gateway to the real views. `cut` may raise before a message or after its answer."""

    gateway: FakeGateway
    cut: Callable[[str, str], None] = lambda path, moment: None

    def call(self, path: str, body: Message, kind: type[Message], *, timeout: float) -> Any:
        self.cut(path, "before")
        answer = self.gateway.call(path, body, kind)
        self.cut(path, "after")
        if not isinstance(answer, Message):
            said = answer.json()
            raise PrimaryRefused(answer.status_code, said["code"], said["error"])
        return answer


@dataclass
class SyncDesk:
    """`here` and `there` are what both sides hold now."""

    admin: Person
    sandbox: Sandbox
    monkeypatch: pytest.MonkeyPatch
    rule: str = ""
    integration: str = ""
    project: str = ""
    npr: FakeGateway = field(init=False)
    dr: FakeGateway = field(init=False)

    def __post_init__(self) -> None:
        self.url = sandbox_vault(self.sandbox, VAULT)
        be_on(self.monkeypatch, cloud_of(self.sandbox), (self.url,))
        self.monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"{self.sandbox.plain_url}/hosts/npr")
        self.npr, self.dr = fleet_of("NPR")
        self.project = self.made("projects", {"name": "payments"})
        wish = {"name": "vault", "type": "key_vault", "provider": "azure_key_vault", "environment": "dev",
                "config": {"vault_url": self.url}}  # fmt: skip
        self.integration = self.made(f"projects/{self.project}/integrations", wish)

    def made(self, path: str, body: dict[str, Any]) -> str:
        status, row = self.admin.post(path, body)
        assert status == 201, row
        return str(row["id"])

    def with_rule(self, **wish: Any) -> SyncDesk:
        named = {"name": f"rule {len(self.rule)}", "integration_id": self.integration, "sync_direction": "push", **wish}
        self.rule = self.made(f"projects/{self.project}/sync-rules", named)
        return self

    def put(self, key: str, value: str) -> str:
        """Create or change a secret of the project, as a person does."""
        rows = self.ids()
        if key in rows:
            status, row = self.admin.put(f"secrets/{rows[key]}", {"value": value})
        else:
            wish = {"project_id": self.project, "environment": "dev", "key": key, "value": value}
            status, row = self.admin.post("secrets", wish)
        assert status in (200, 201), row
        return str(row["id"])

    def delete(self, key: str) -> None:
        assert self.admin.delete(f"secrets/{self.ids()[key]}")[0] in (200, 204)

    def ids(self) -> dict[str, str]:
        return {row["key"]: row["id"] for row in self.admin.get(f"secrets?project_id={self.project}&environment=dev")[1]}

    def here(self) -> dict[str, str]:
        from accounts.models import Project
        from vault import values
        from vault.models import Secret

        rows = Secret.objects.filter(project=Project.objects.get(id=self.project), deleted_at=None)
        found = {}
        for row in rows.select_related("environment"):
            held = values.holding(row)
            found[row.key] = values.open_value(row, held) if held else ""
        return found

    def there(self) -> dict[str, str]:
        vault = self.sandbox.world.vaults.named(VAULT)
        assert vault is not None
        return {item.name: str(item.latest.data["value"]) for item in vault.listed("secrets")}

    def journal(self) -> list[Write]:
        return list(self.sandbox.world.vaults.journal)

    def portal(self) -> Any:
        """The vendor's client, as a person with the portal uses the vault."""
        connection = vaults.connection_of(VaultAccess(self.integration, self.url, "managed_identity"))
        vault = KeyVault(connection, vaults.credential_of(connection), vaults.guard())
        return vault._client

    def ask(self, phase: str = "apply", **wish: Any) -> dict[str, Any]:
        status, run = self.admin.post(f"projects/sync-rules/{self.rule}/runs", {"phase": phase, **wish})
        assert status == 202, run
        return dict(run)

    def run(self, phase: str = "apply", **wish: Any) -> dict[str, Any]:
        """Ask for a run and let the gateway work on it to its end."""
        return self.finish(self.ask(phase, **wish)["id"])

    def first(self) -> dict[str, Any]:
        """The confirmed first run."""
        return self.run(confirm=self.run("preview")["digest"])

    def undo(self, run: str, confirm: str = "") -> dict[str, Any]:
        status, body = self.admin.post(f"projects/sync-runs/{run}/undo", {"confirm": confirm})
        assert status == 202, body
        return self.finish(body["id"])

    def finish(self, run: str) -> dict[str, Any]:
        for _ in range(20):
            self.work()
            found = self.look(run)
            if found["state"] != "running":
                return found
        raise AssertionError(found)

    def look(self, run: str) -> dict[str, Any]:
        return dict(self.admin.get(f"projects/sync-runs/{run}")[1])

    def steps(self, run: str) -> list[tuple[str, str, str]]:
        rows = self.admin.get(f"projects/sync-runs/{run}/steps?limit=1000")[1]
        return [(row["kind"], row["name"], row["state"]) for row in rows]

    def notes(self, run: str) -> dict[str, str]:
        return {row["name"]: row["reason"] for row in self.admin.get(f"projects/sync-runs/{run}/notes?limit=1000")[1]}

    def setup(self, **wish: Any) -> dict[str, Any]:
        status, row = self.admin.patch(f"projects/sync-rules/{self.rule}/setup", wish)
        assert status == 200, row
        return dict(row)

    def work(self, *, node: Leased | None = None, line: Line | None = None, gateway: FakeGateway | None = None) -> None:
        """Claim what is offered and do it as a gateway does; an exception is the outcome of the task."""
        speaker = gateway or self.npr
        offers = speaker.call(paths.TASK_CLAIM, messages.ClaimTasks(epoch=speaker.epoch, limit=5), messages.TaskOffers)
        for offer in offers.tasks:
            frame = TaskFrame(
                cast(Any, line or Line(speaker)), cast(Any, node or Leased(offer.epoch)), offer.epoch, 10.0, offer.claim
            )
            outcome, detail, result, retry = TaskOutcome.SUCCEEDED, "", dict[str, Any](), False
            try:
                result = EXECUTORS[offer.kind].work(frame, offer.payload)
            except Killed:
                raise
            except Exception as error:
                outcome, detail = TaskOutcome.FAILED, f"{type(error).__name__}: {error}"
                retry = not isinstance(error, TaskImpossible)
            done = messages.TaskResult(offer.id, offer.claim, offer.epoch, outcome, 0.1, detail, result, retry)
            speaker.call(paths.TASK_RESULTS, messages.TaskResults([done]), messages.TaskVerdicts)
