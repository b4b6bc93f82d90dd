"""The way to an integration's vault: given to the active gateway of the environment the vault belongs to, and tried for people.

Who acts decides where a trial runs: a person's own name and an application's secret count at the Primary, the managed identity
of an environment only where it lives, at its active gateway.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict
from datetime import datetime

from django.conf import settings
from django.db import transaction

from accounts import obo, sso
from accounts.changes import By
from accounts.entra import EntraError
from accounts.models import Session
from common.clock import now
from common.direct import give_connection_back
from common.errors import MazeVaultError, NotFound, PermissionRefused, ValidationFailed
from gateways import dispatch, vault_questions
from gateways.models import Gateway
from integrations.access import OF_THE_GATEWAY, checked_access, connection_of, method_of, vault_access
from integrations.azure.cloud import AuthMethod, Connection
from integrations.azure.connection_test import test_connection
from integrations.azure.credentials import Credential, Credentials, Refusing
from integrations.azure.egress import Guard
from integrations.azure.errors import Owner, TokenTrouble
from integrations.models import Integration, VaultQuestion
from integrations.providers import AZURE_KEY_VAULT
from integrations.vaults import environment_of
from protocol.vault_access import VaultAccess


def access_for(gateway: Gateway, epoch: int, identifier: uuid.UUID) -> VaultAccess:
    """Raises `PermissionRefused` for who is not active, `Conflict` for an old epoch, and `NotFound`, which another environment's
    integration is too: whether an id is one of those is not to be learned here (I3, I13)."""
    with transaction.atomic():
        dispatch.refuse_unless_active(gateway, epoch)
        rows = Integration.objects.filter(id=identifier, deleted_at=None, provider=AZURE_KEY_VAULT)
        integration = rows.select_related("environment").first()
        if integration is None or not _is_of(integration, gateway.environment_id):
            raise NotFound("there is no such integration")
        return checked_access(integration, gateway.environment_id)


def _is_of(integration: Integration, code: str) -> bool:
    """Whether nothing says that it belongs to another gateway environment than this one."""
    place, belongs_to = integration.environment, environment_of(str(integration.config.get("vault_url", "")))
    return (place is None or place.gateway_environment == code) and belongs_to in ("", code)


def try_integration(integration: Integration, session: Session | None, by: By, *, write: bool) -> VaultQuestion:
    """Have the way to the vault tried stage by stage; who asked and how it ended are audited. Nobody's request waits for it.

    Raises `Conflict` for what is no vault or is being tried already, and `TooManyRequests`.
    """
    vault_access(integration)
    method = method_of(integration)
    if method in OF_THE_GATEWAY:
        return vault_questions.ask_gateway(integration, VaultQuestion.TEST, method, by, write=write)
    if write:
        raise ValidationFailed("write: is tried by the gateway only, with its own identity, since it alone holds the lease")
    way = connection_of(integration)
    return vault_questions.ask_here(integration, VaultQuestion.TEST, method, by, lambda: _tried(way, method, session))


def _tried(way: Connection, method: AuthMethod, session: Session | None) -> vault_questions.Answer:
    """In a thread of this node. A person's session is asked for its right when the trial begins, and nothing of it is kept."""
    cloud = settings.MAZEVAULT.azure.cloud
    credential = _tried_credential(way, session, now()) if method is AuthMethod.ON_BEHALF_OF else Credentials(way, cloud).own()
    give_connection_back()
    return {"stages": [asdict(one) for one in test_connection(way, credential, Guard(cloud))]}, ""


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
