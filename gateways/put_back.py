"""What becomes of a vault when a write that was made there first is discarded: the recorded state is put back (ADR 24, 30).

The vault took the change when the gateway promised it; the Primary never recorded it. Discarding the row alone leaves it there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from accounts.models import Storage
from common.errors import Conflict
from gateways import dispatch
from gateways.kinds import KINDS
from gateways.write_bodies import BodyUnusable, open_body
from gateways.write_held import AnyWrite
from gateways.write_scene import place_of_write
from integrations.access import method_of
from integrations.azure.cloud import AuthMethod
from integrations.keeping import owner_of
from integrations.models import Integration
from integrations.storing import storage_of
from protocol.vocabulary import WriteOperation
from vault import elsewhere, rules, secrets, values
from vault.encryption import SealBroken
from vault.models import Secret, SecretStatus

KIND = "vault.put_back"
VAULT_STILL_HOLDS = "VAULT_STILL_HOLDS"
STILL_THERE = "the vault still holds this change, and no gateway reaches it"


class Wish(StrEnum):
    """What a person who discards such a write wants of the vault."""

    RESTORE_RECORDED = "restore_recorded"
    """The recorded state counts there again, by a task of the active gateway."""
    ACCEPT_VAULT_VALUE = "accept_vault_value"
    """The vault keeps what it has. Reads through MazeVault give the recorded version all the same; `apply` would record it."""


@dataclass(frozen=True)
class Undoing:
    """How the recorded state is put back. `does`: set (the recorded value again), delete, or recover."""

    secret: Secret
    integration: Integration | None
    """None when the project has none there any more: then only a person can see to it."""
    does: str
    version: str
    recorded: str

    def payload(self, row: AnyWrite) -> dict[str, Any]:
        assert self.integration is not None  # noqa: S101  `_gateway_may`
        return {
            "integration": str(self.integration.id), "name": rules.vault_name_of(self.secret.key), "key": self.secret.key,
            "does": self.does, "version": self.version, "recorded": self.recorded, "operation": str(row.id),
            "owner": owner_of(self.secret.project_id, self.secret.environment_id),
        }  # fmt: skip


def undoing_of(row: AnyWrite) -> Undoing | None:
    """What discarding this write leaves behind in a vault; None when it left nothing there."""
    secret = _secret_of(row)
    if secret is None or secret.project.storage != Storage.KEY_VAULT or not row.operation:
        return None
    if secret._state.adding and elsewhere.name_is_anothers(secret):
        return None  # a version of a name that a living secret has: to delete it would take that one's value
    version, operation = _version_of(row), WriteOperation(row.operation)
    newest = None if secret._state.adding else values.resting(secret)
    recorded = newest.external_version if newest else ""
    lives = not secret._state.adding and secret.status in (SecretStatus.ACTIVE, SecretStatus.ARCHIVED)
    does = _doing(operation, version, recorded, lives=lives)
    if not does:
        return None
    try:
        return Undoing(secret, storage_of(secret.project, secret.environment), does, version, recorded)
    except Conflict:  # it names no vault any more; the one that was written to has the change all the same
        return Undoing(secret, None, does, version, recorded)


def shown(row: AnyWrite) -> dict[str, Any] | None:
    """For who decides: that the vault has it already, and what discarding can do about that."""
    found = undoing_of(row)
    if found is None:
        return None
    choices = [Wish.ACCEPT_VAULT_VALUE.value]
    if _gateway_may(found):
        choices.insert(0, Wish.RESTORE_RECORDED.value)
    return {"holds_it": True, "version": found.version or None, "recorded": found.recorded or None, "choices": choices}


def carry_out(row: AnyWrite, wish: Wish, *, actor: str, address: str) -> dict[str, Any] | None:
    """In the transaction that discards the write, before its content is wiped. Returns what becomes of the vault.

    Raises `Conflict` (VAULT_STILL_HOLDS) where nobody but a person can put it back.
    """
    found = undoing_of(row)
    if found is None:
        return None
    if wish is Wish.ACCEPT_VAULT_VALUE:
        return {"wish": wish.value, "task": None, "version": found.version or None}
    if not _gateway_may(found):
        raise Conflict(
            f"vault: {STILL_THERE}: discard it with vault {Wish.ACCEPT_VAULT_VALUE.value!r}, or apply it",
            code=VAULT_STILL_HOLDS,
        )
    task = dispatch.offer(
        row.environment_id, KINDS[KIND], found.payload(row), actor=actor, address=address, pause=timedelta(0)
    )  # fmt: skip
    return {"wish": wish.value, "task": str(task.id), "version": found.version or None}


def carry_out_policy(row: AnyWrite) -> bool:
    """The same where a project's policy drops the write. False when the vault keeps it, so that a person has to decide."""
    found = undoing_of(row)
    if found is None:
        return True
    if not _gateway_may(found):
        return False
    dispatch.offer(row.environment_id, KINDS[KIND], found.payload(row), actor="policy", address="")
    return True


def _doing(operation: WriteOperation, version: str, recorded: str, *, lives: bool) -> str:
    if operation in secrets.SEALS:
        if not version or version == recorded:
            return ""
        return "set" if recorded and lives else "delete"
    if operation in (WriteOperation.DELETE, WriteOperation.PURGE):
        return "recover" if recorded and lives else ""
    return "delete" if operation is WriteOperation.RESTORE and recorded and not lives else ""


def _gateway_may(found: Undoing) -> bool:
    return found.integration is not None and method_of(found.integration) is not AuthMethod.ON_BEHALF_OF


def _version_of(row: AnyWrite) -> str:
    try:
        return open_body(row).external_version or ""
    except (BodyUnusable, SealBroken):
        return ""


def _secret_of(row: AnyWrite) -> Secret | None:
    """The secret of a write in its place; for a creation one that is not saved."""
    if row.secret is None or row.project is None or row.project_environment is None:
        return None
    place = place_of_write(row.environment_id, row.project, row.project_environment)
    if place is None:
        return None
    found = Secret.objects.select_related("project", "environment").filter(id=row.secret).first()
    if found is not None:
        return found if (found.project_id, found.environment_id) == (row.project, row.project_environment) else None
    return Secret(id=row.secret, project=place[0], environment=place[1], key=row.key)
