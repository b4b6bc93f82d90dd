"""A gateway in this process: active in its environment, with a copy of one project, before a Primary in memory."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction
from rest_framework.views import APIView

from accounts.models import Environment, Project
from accounts.sessions import hash_token
from common.clock import now
from gateway_runtime import current, state
from gateway_runtime.identity import Identity, Keys
from gateway_runtime.models import NodeState, ReplicaPrincipal, ReplicaToken
from gateway_runtime.node import Node
from gateway_runtime.principals import GatewayAuthentication
from gateway_runtime.secrets_node import GatewayNode
from gateway_runtime.state import OneProcess
from gateway_runtime.storage_ways import GatewayWays
from gateway_runtime.supervisor import Supervisor
from integrations.keeping import VaultKeeper
from orchestrator.environment import GatewaySettings
from protocol.vocabulary import Assignment, WriteOperation
from protocol.writes import WriteBody
from tests import factories
from tests.conftest import Person
from tests.fakes.primary import FakePrimary
from vault import values
from vault.models import Secret, SecretVersion
from vault.ports import SecretChange

SECRETS = ["secrets:delete", "secrets:read", "secrets:write"]
GATEWAY = GatewaySettings(
    name="gw-npr-primary", environment="NPR", role="primary", primary_urls=(), bootstrap_token="", state_file=Path("/nowhere"),
    server_names=(), offline_auth_max=8 * 3600,
)  # fmt: skip


@dataclass
class Site:
    """One gateway and everything around it."""

    supervisor: Supervisor
    primary: Any
    project: Project
    environment: Environment
    node: GatewayNode

    def secret(self, key: str = "db/password", value: str = "one", version: int = 1) -> Secret:
        """A secret in the copy."""
        made = Secret.objects.create(
            project=self.project, environment=self.environment, key=key, version=version, created_by="user:ann"
        )
        for number in range(1, version + 1):
            with transaction.atomic():
                sealed = values.seal_value(made, number, value) if number == version else None
                SecretVersion.objects.create(
                    secret=made, version=number, sealed_value=sealed, operation="update", author="user:ann"
                )  # fmt: skip
        return made

    def change(self, secret: Secret, value: str = "two", *, base: int | None = None,
               operation: WriteOperation = WriteOperation.UPDATE) -> SecretChange:  # fmt: skip
        body = WriteBody(value=value) if operation in (WriteOperation.UPDATE, WriteOperation.CREATE) else WriteBody()
        return SecretChange(operation, secret.id, self.project.id, self.environment.id, secret.key, base, body)

    def person(self, permissions: Any = SECRETS, *, name: str = "ann", scopes: Any = None, **where: str) -> GatewayPerson:
        """Somebody the copy knows."""
        everywhere = {"organization": "", "project": "", "environment": "", "expires_at": None}
        grant = {"permissions": list(permissions), **everywhere, **where}
        holder = ReplicaPrincipal.objects.create(id=uuid.uuid4(), kind="user", name=name, round=0, grants=[grant])
        token = f"mzv_{name}-token"
        ReplicaToken.objects.create(
            hash=hash_token(token), principal=holder, expires_at=now() + timedelta(hours=1), scopes=scopes
        )  # fmt: skip
        return GatewayPerson(token, f"user:{holder.id}")

    def upload(self) -> float:
        """One step of the upload loop, whatever was to be waited for."""
        return self.supervisor.upload_step()

    def restart(self) -> None:
        """A new process on the same database."""
        self.supervisor = start(self.supervisor.known_identity(), self.primary)

    def cut_off_for(self, **time: float) -> None:
        NodeState.objects.update(replica_complete_at=now() - timedelta(**time))

    def become(self, role: Assignment, epoch: int = 1) -> None:
        NodeState.objects.update(highest_epoch=epoch, assigned_role=role.value, assigned_epoch=epoch)


class GatewayPerson(Person):
    """Somebody who calls the gateway."""

    def __init__(self, token: str, actor: str) -> None:
        super().__init__(token)
        self.actor = actor

    def call(self, method: str, path: str, *, headers: Any = None, **more: Any) -> tuple[int, Any]:
        answer = self.response(method, path, headers=headers, **more)
        return answer.status_code, answer.json() if answer.content else None

    def response(self, method: str, path: str, body: Any = None, *, headers: Any = None, **more: Any) -> Any:
        if body is not None:
            more |= {"data": body, "content_type": "application/json"}
        return getattr(self.client, method)(f"/gw/api/v1/{path}", headers={**self.headers, **(headers or {})}, **more)

    def put(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        return self.call("put", path, data=body, content_type="application/json", headers=headers)


def identity_of(keys: Keys, generation: uuid.UUID, gateway_id: str) -> Identity:
    return Identity(
        gateway_id=gateway_id, name="gw-npr-primary", environment="NPR", role="primary", generation=generation, token_id="",
        urls=(), pin="", root="", certificate="", chain="", server_certificate="", keys=keys,
    )  # fmt: skip


def start(identity: Identity, primary: Any) -> Supervisor:
    """A process of the gateway, up to the point where its loops would begin."""
    supervisor = Supervisor()
    supervisor.node = Node(supervisor.timing)
    supervisor.identity, supervisor.channel = identity, primary
    current.supervisor = supervisor
    return supervisor


def take_lock(process: OneProcess) -> None:
    """Become the one process; the database ends the session of the one before a moment after it closed it."""
    until = time.monotonic() + 10
    while not process.take():
        assert time.monotonic() < until, "another process holds the lock"
        time.sleep(0.02)


@pytest.fixture
def as_gateway(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings and routes of a gateway beside those of the Primary."""
    monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, gateway=GATEWAY))
    monkeypatch.setattr(settings, "ROOT_URLCONF", "tests.both_urls")
    monkeypatch.setattr(APIView, "authentication_classes", [GatewayAuthentication])
    yield
    if current.supervisor is not None:
        current.supervisor.one_process.give_up()
    current.supervisor = None


@pytest.fixture
def site(as_gateway: None) -> Site:
    """An active gateway whose copy is complete."""
    keys = Keys.generate()
    row = state.this_life()
    NodeState.objects.update(highest_epoch=1, assigned_role="active", assigned_epoch=1, replica_complete_at=now())
    primary = FakePrimary(keys.signing.public_key())
    supervisor = start(identity_of(keys, row.generation, str(uuid.uuid4())), primary)
    project = factories.project()
    return Site(supervisor, primary, project, factories.environment_of(project), GatewayNode(VaultKeeper(GatewayWays())))
