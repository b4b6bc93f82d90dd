"""Changes of secrets whose values rest in a vault: the vault first, then the row that names what was set there.

The other way round, a row would promise a value that the vault may refuse. What was set and never recorded, because this node
died in between, is an unacknowledged version in the vault and nothing more; the vault keeps the ones before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from django.db import transaction
from msgspec import structs

from accounts.models import Environment, Project
from common.errors import Conflict, MazeVaultError
from common.locks import transaction_lock
from protocol.vocabulary import WriteOperation
from vault import rules, secrets, values
from vault.models import Secret
from vault.ports import Asker, SecretChange, ValueKeeper

PENDING = "pending"
"""Stands for the vault's version while a change is only tried."""


def in_vault_first(
    change: SecretChange, asker: Asker, keeper: ValueKeeper, goes_on: Callable[[SecretChange], bool]
) -> SecretChange:
    """The change as it is to be recorded: when its project keeps values in a vault, made there and without its value.

    Runs in the caller's transaction and keeps other changes of the secret out until that ends. `goes_on` tries what comes after
    the vault and raises what it would raise, so that nothing is set in the vault for a change that cannot be recorded; False when
    there is nothing to do.
    """
    project = Project.objects.filter(id=change.project).first()
    if project is None or not secrets.in_vault(project, change.operation) or change.body.external_version:
        return change
    transaction_lock(f"vault-name:{rules.vault_name_of(change.key).lower()}")
    secret = _secret_of(change, project)
    sealing = change.operation in secrets.SEALS
    if not sealing and (_rests_here(secret) or _name_is_anothers(secret)):
        return change  # the vault has nothing of it
    _refuse_while_it_moves(secret)
    if not goes_on(recorded(change, PENDING) if sealing else change):
        return change
    try:
        version = keeper.carry_out(change, secret, asker)
    except MazeVaultError as refused:
        if refused.status == 403:
            raise _Denied(refused, secret) from refused
        raise
    return recorded(change, version) if sealing or version else change


class _Denied(Exception):
    """The vault denies a change; on its way out of the transaction that is taken back with it."""

    def __init__(self, refused: MazeVaultError, secret: Secret) -> None:
        super().__init__(refused.sentence)
        self.refused, self.secret = refused, secret


@contextmanager
def denials_told(change: SecretChange, asker: Asker) -> Iterator[None]:
    """Around the transaction of `in_vault_first`: audits what the vault denied, and raises it as the vault did."""
    try:
        yield
    except _Denied as denied:
        with transaction.atomic():
            secrets.tell_denial(denied.secret, asker, denied.refused.code, change.operation)
        raise denied.refused from None


def recorded(change: SecretChange, external_version: str) -> SecretChange:
    """The same change, with the place of its value instead of the value."""
    return replace(change, body=structs.replace(change.body, value=None, external_version=external_version))


def _refuse_while_it_moves(secret: Secret) -> None:
    """A secret moves with all its versions in their order, so nothing may come in between."""
    if _rests_here(secret):
        raise Conflict(
            "storage: the value of this secret has not arrived in the project's vault; try again when it is there, and see "
            "GET projects/{id}/storage for what could not be moved",
            code="STORAGE_MOVING",
        )


def _rests_here(secret: Secret) -> bool:
    row = None if secret._state.adding else values.resting(secret)
    return row is not None and row.sealed_value is not None


def _name_is_anothers(secret: Secret) -> bool:
    """Whether a living secret has the name in the vault now: an older tombstone of it must not touch that one."""
    place = Secret.objects.filter(project_id=secret.project_id, environment_id=secret.environment_id, deleted_at=None)
    keys = place.exclude(id=secret.id).values_list("key", flat=True)
    return rules.folded_vault_name(secret.key) in map(rules.folded_vault_name, keys)


def _secret_of(change: SecretChange, project: Project) -> Secret:
    found = Secret.objects.select_related("project", "environment").filter(id=change.secret).first()
    if found is not None and change.operation is not WriteOperation.CREATE:
        return found
    environment = Environment.objects.get(id=change.environment)
    return Secret(id=change.secret, project=project, environment=environment, key=change.key)
