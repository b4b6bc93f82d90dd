"""Who can read what in the vault of an integration, by its role assignments: asked of Azure, kept a while, always dated.

MazeVault's own permission is needed to ask, and Azure's to be answered: in the person's name where the integration acts on behalf
of users, else as the application or as the gateway's identity. A refusal is final and nobody else is asked instead.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction

from accounts import changes
from accounts.changes import By
from accounts.models import Session
from common.direct import give_connection_back
from common.errors import Conflict, MazeVaultError, Unavailable, ValidationFailed
from gateways import vault_questions, vault_ways
from integrations.access import connection_of, method_of, vault_access
from integrations.azure.cloud import AuthMethod
from integrations.azure.credentials import Credentials
from integrations.azure.egress import Guard
from integrations.azure.rbac import RoleAssignments
from integrations.models import AccessSnapshot, Integration, VaultQuestion

KEPT = timedelta(minutes=10)
"""A new role assignment takes as long to reach a vault, so nothing fresher would be true."""


def access_of(integration: Integration, session: Session | None, by: By, *, fresh: bool, now: datetime) -> AccessSnapshot | None:
    """The list as it was asked for at most `KEPT` ago, or anew; None while a gateway is being asked.

    Raises `ValidationFailed`, `AzureTrouble`, `Unavailable`, and `Conflict` (INTEGRATION_CHANGED) when the integration was
    pointed elsewhere while Azure was asked.
    """
    vault_id = vault_access(integration).vault_id
    if not vault_id:
        raise ValidationFailed("config.vault_id: name the resource id of the vault; Resource Manager knows it by that only")
    method = method_of(integration)
    seen_by = by.actor if method is AuthMethod.ON_BEHALF_OF else ""
    kept = AccessSnapshot.objects.filter(integration=integration, seen_by=seen_by, vault_id=vault_id, at__gt=now - KEPT)
    if not fresh and (found := kept.first()):
        return found
    if method in _AT_THE_PRIMARY:
        return _keep(integration, by, vault_id, seen_by, *_here(integration, session, now))
    answered = _at_the_gateway(integration, method, by, now)
    return _keep(integration, by, answered[0], seen_by, *answered[1:]) if answered else None


def _keep(
    integration: Integration, by: By, vault_id: str, seen_by: str, at: datetime, grants: list[dict[str, Any]]
) -> AccessSnapshot:
    with transaction.atomic():
        _refuse_elsewhere(integration, vault_id)
        changes.record(by, "integration.access_listed", "integration", integration.id, {"grants": len(grants)})
        snapshot, _ = AccessSnapshot.objects.update_or_create(
            integration=integration, seen_by=seen_by, defaults={"vault_id": vault_id, "at": at, "grants": grants}
        )
    return snapshot


def _refuse_elsewhere(integration: Integration, vault_id: str) -> None:
    """The gateway looks up the way itself, so which vault its answer is about is known only if the way stayed the same."""
    present = Integration.objects.select_for_update().get(id=integration.id)
    if present.deleted_at is not None or vault_access(present).vault_id != vault_id:
        raise Conflict("the integration was changed while Azure was asked; ask again", code="INTEGRATION_CHANGED")


_AT_THE_PRIMARY = (AuthMethod.ON_BEHALF_OF, AuthMethod.CLIENT_SECRET)


def _here(integration: Integration, session: Session | None, now: datetime) -> tuple[datetime, list[dict[str, Any]]]:
    way, cloud = connection_of(integration), settings.MAZEVAULT.azure.cloud
    if way.auth_method is AuthMethod.ON_BEHALF_OF:
        credential = vault_ways.credential_of_person(way, session, now)
    else:
        credential = Credentials(way, cloud).own()
    give_connection_back()
    with RoleAssignments(str(integration.config["vault_id"]), credential, Guard(cloud)) as assignments:
        found = assignments.access(now)
    return found.at, [asdict(grant) for grant in found.grants]


def _at_the_gateway(
    integration: Integration, method: AuthMethod, by: By, now: datetime
) -> tuple[str, datetime, list[dict[str, Any]]] | None:
    """What a gateway has answered since it was asked last, with the vault it was asked of; else it is asked, and None."""
    question = vault_questions.newest(integration, VaultQuestion.ACCESS, method)
    if question is not None and question.ended_at is None:
        return None
    late = question is not None and question.ended_at is not None and question.ended_at < now - KEPT
    if question is None or not vault_questions.taken(question) or late:
        vault_questions.ask_gateway(integration, VaultQuestion.ACCESS, method, by)
        return None
    trouble = question.answer.get("trouble")
    if trouble:
        details = f"Fix: {trouble['fix']}. Owner: {trouble['owner']}."
        raise MazeVaultError(trouble["cause"], code=trouble["code"], status=502, details=details)
    if "grants" not in question.answer or "at" not in question.answer:
        said = question.detail or "it has not answered"
        raise Unavailable(f"the gateway could not say who has access: {said}", code="GATEWAY_SILENT", retry_after=5)
    return question.vault_id, datetime.fromisoformat(question.answer["at"]), list(question.answer["grants"])
