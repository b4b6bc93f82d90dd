"""The way to an integration's vault: given to the active gateway of the environment the vault belongs to, and tried for people.

Who acts decides where a trial runs: a person's own name and an application's secret count at the Primary, the managed identity
of an environment only where it lives, at its active gateway.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction

from accounts import changes, obo, sso
from accounts.changes import By
from accounts.entra import EntraError
from accounts.models import Session
from common.direct import give_connection_back
from common.errors import MazeVaultError, NotFound, PermissionRefused, ValidationFailed
from gateways import dispatch, routes
from gateways.kinds import KINDS
from gateways.models import Gateway, Task
from integrations.access import OF_THE_GATEWAY, checked_access, connection_of, method_of, vault_access
from integrations.azure.cloud import AuthMethod, Connection
from integrations.azure.connection_test import test_connection
from integrations.azure.credentials import Credential, Credentials, Refusing
from integrations.azure.egress import Guard
from integrations.azure.errors import Owner, TokenTrouble
from integrations.models import Integration
from protocol.vault_access import VaultAccess
from protocol.vocabulary import TaskState

TASK_SECONDS = 15.0
"""How long a person's request waits for the gateway's answer; later it is found in the task."""
LOOK_SECONDS = 0.2
WAITING = (TaskState.PENDING, TaskState.CLAIMED)


@dataclass(frozen=True)
class Trial:
    """A trial that has ended, with its stages; or one that a gateway still makes, with the task to look at."""

    ran_at: str
    method: AuthMethod
    stages: list[dict[str, Any]]
    task: uuid.UUID | None = None
    detail: str = ""

    @property
    def ok(self) -> bool | None:
        """None while it is not known."""
        return all(stage["outcome"] != "failed" for stage in self.stages) if self.stages else None


def access_for(gateway: Gateway, epoch: int, identifier: uuid.UUID) -> VaultAccess:
    """Raises `PermissionRefused` for who is not active, `Conflict` for an old epoch, `NotFound`, and `Conflict`
    (VAULT_OF_OTHER_ENVIRONMENT) for a vault of another environment (I3, I13)."""
    with transaction.atomic():
        dispatch.refuse_unless_active(gateway, epoch)
        integration = Integration.objects.filter(id=identifier, deleted_at=None).first()
        if integration is None:
            raise NotFound("there is no such integration")
        return checked_access(integration, gateway.environment_id)


def try_integration(integration: Integration, session: Session | None, by: By, *, write: bool, now: datetime) -> Trial:
    """Try the way to the vault stage by stage; the person and the outcome are audited. Raises `Conflict` for what is no vault."""
    vault_access(integration)
    method = method_of(integration)
    if method in OF_THE_GATEWAY:
        trial = _at_the_gateway(integration, method, by, write=write)
    else:
        if write:
            raise ValidationFailed("write: is tried by the gateway only, with its own identity, since it alone holds the lease")
        trial = _here(connection_of(integration), method, session, now)
    with transaction.atomic():
        details = {"ran_at": trial.ran_at, "method": method.value, "ok": trial.ok, "task": str(trial.task or "")}
        changes.record(by, "integration.tested", "integration", integration.id, details)
    return trial


def _here(way: Connection, method: AuthMethod, session: Session | None, now: datetime) -> Trial:
    cloud = settings.MAZEVAULT.azure.cloud
    credential = _tried_credential(way, session, now) if method is AuthMethod.ON_BEHALF_OF else Credentials(way, cloud).own()
    give_connection_back()
    return Trial("primary", method, [asdict(one) for one in test_connection(way, credential, Guard(cloud))])


def credential_of_person(way: Connection, session: Session | None, now: datetime) -> Credential:
    """The signed-in person at Azure. Raises `PermissionRefused` (ENTRA_SESSION_NEEDED), `EntraError`, `AuthenticationExpired`."""
    if session is None:
        raise PermissionRefused(
            "this needs a sign-in with Entra: an API token has no person at Entra behind it", code="ENTRA_SESSION_NEEDED"
        )
    assertion = obo.assertion_for(sso.entra(), session, now)
    return Credentials(way, settings.MAZEVAULT.azure.cloud).of_user(assertion)


def _tried_credential(way: Connection, session: Session | None, now: datetime) -> Credential:
    """For the staged test: what stands in the way is told at the stage of the token, after address and network."""
    try:
        return credential_of_person(way, session, now)
    except EntraError as error:
        return Refusing(TokenTrouble(str(error), error.diagnosis.fix, owner=Owner.DIRECTORY))
    except TokenTrouble as trouble:
        return Refusing(trouble)
    except MazeVaultError as error:
        return Refusing(TokenTrouble(str(error), "sign in with Entra, then try again", owner=Owner.PERSON))


def _at_the_gateway(integration: Integration, method: AuthMethod, by: By, *, write: bool) -> Trial:
    task = ask_gateway(integration, "integration.test", by, write=write)
    return Trial(name_of(task), method, list(task.result.get("stages", [])), task.id, task.detail)


def ask_gateway(integration: Integration, kind: str, by: By, **payload: Any) -> Task:
    """Have the active gateway of the vault's environment do this and wait a while. Returns the task as it is then."""
    environment = integration.environment
    if environment is None:
        raise ValidationFailed("environment: the integration names none, so no gateway is known that could reach its vault")
    code = environment.gateway_environment
    checked_access(integration, code)
    wish = {"integration": str(integration.id), **payload}
    task = dispatch.offer(code, KINDS[kind], wish, actor=by.actor, address=by.address)
    deadline = time.monotonic() + TASK_SECONDS
    while time.monotonic() < deadline:
        task.refresh_from_db()
        if task.state not in WAITING:
            break
        give_connection_back()
        time.sleep(LOOK_SECONDS)
    return task


def name_of(task: Task) -> str:
    return task.gateway.name if task.gateway else f"no gateway of {routes.environment_of(task.environment_id).code} yet"
