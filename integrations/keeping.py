"""`vault.ports.ValueKeeper` for Azure Key Vault, the same at the Primary and at a gateway (DESIGN §10).

Whose identity the vault sees, and whether this node may write now, the node says (`Ways`). What the vault denies is denied:
nobody else is tried. Names carry the project and the key as tags, so that two keys, or two projects, never share one.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from accounts.models import Environment
from common.direct import give_connection_back
from common.errors import Conflict
from integrations.azure.cloud import Connection
from integrations.azure.credentials import Credential
from integrations.azure.egress import Guard
from integrations.azure.errors import NameTaken, ObjectMissing
from integrations.azure.keyvault import KEY, Entry, Held, KeyVault, Marks, SecretStore
from integrations.models import Integration
from integrations.storing import storage_of
from protocol.vocabulary import WriteOperation
from vault import rules, secrets, values
from vault.models import Secret
from vault.ports import Asker, SecretChange, Shown

Made = TypeVar("Made")


class Ways(Protocol):
    """How this node reaches a vault. `seconds` is the longest call."""

    @property
    def seconds(self) -> float: ...

    def guard(self) -> Guard: ...

    def connect(self, integration: Integration, asker: Asker) -> tuple[Connection, Credential]:
        """Whom the vault sees. Raises `Conflict` where this node has no identity for it, and the errors of the token."""

    def effect(self, environment: Environment) -> AbstractContextManager[int]:
        """The right to make one change, with its epoch. Raises when this node may not write there now."""


def owner_of(project: uuid.UUID, environment: uuid.UUID) -> str:
    """The tag that says whose a name in a vault is: several environments of a project may share a vault, and no name."""
    return f"project:{project}/{environment}"


class VaultKeeper:
    """Reads and writes values in the vaults of projects."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways

    def read(self, secret: Secret, external_version: str, asker: Asker) -> Shown:
        """Outside of any transaction, since the vault may be slow."""
        name = rules.vault_name_of(secret.key)
        with self._opened(secret, asker, give_back=True) as vault:
            held = vault.get(name, external_version)
        _refuse_foreign(held.entry, secret, name)
        return Shown(held.value, held.entry.version)

    def carry_out(self, change: SecretChange, secret: Secret, asker: Asker) -> str:
        """In the caller's transaction, which keeps other changes of the secret out."""
        with self._opened(secret, asker) as vault:
            return Work(vault, secret, self._effect).carry_out(change)

    def _opened(self, secret: Secret, asker: Asker, *, give_back: bool = False) -> KeyVault:
        integration = storage_of(secret.project, secret.environment)
        connection, credential = self._ways.connect(integration, asker)
        if give_back:
            give_connection_back()
        return KeyVault(connection, credential, self._ways.guard(), seconds=self._ways.seconds)

    def _effect(self, secret: Secret) -> AbstractContextManager[int]:
        return self._ways.effect(secret.environment)


class Work:
    """One change of one secret in its vault."""

    def __init__(self, vault: SecretStore, secret: Secret, effect: Callable[[Secret], AbstractContextManager[int]],
                 takes_over: Collection[str] = ()) -> None:  # fmt: skip
        self._vault, self._secret, self._effect, self._takes_over = vault, secret, effect, takes_over
        self._name = rules.vault_name_of(secret.key)

    def carry_out(self, change: SecretChange) -> str:
        """Returns the version that holds the value, empty where none was set."""
        if change.operation is WriteOperation.CREATE:
            return self.create(change.body.value or "")
        if change.operation in (WriteOperation.UPDATE, WriteOperation.ROTATE):
            return self.update(change.body.value or "")
        if change.operation is WriteOperation.ROLLBACK:
            return self.update(self._former(change.body.rollback_to or 0))
        if change.operation is WriteOperation.RESTORE:
            return self._restore()
        if change.operation in (WriteOperation.DELETE, WriteOperation.PURGE):
            self.delete(for_good=change.operation is WriteOperation.PURGE)
        return ""

    def create(self, value: str) -> str:
        """Set a name that is free, or that was this very key's before."""
        held = self._look()
        if held is not None:
            self._refuse_others(held.entry)
            return self._set(value, held.entry)
        try:
            return self._set(value)
        except NameTaken:
            gone = self._vault.deleted_one(self._name)
            if gone is None:
                raise
            self._refuse_others(gone.entry)
            self._recover()
            return self._set(value, gone.entry)

    def update(self, value: str) -> str:
        """A new version over whatever is there now, unless the name is somebody else's."""
        held = self._look()
        if held is not None:
            _refuse_foreign(held.entry, self._secret, self._name)
        return self._set(value, held.entry if held else None)

    def _former(self, version: int) -> str:
        row = values.resting(self._secret, version)
        secrets.refuse_no_former(self._secret, version, row)
        if row is None:
            raise Conflict(f"version: the value of version {version} is not held here or in the vault", code="VALUE_NOT_HELD")
        if row.sealed_value is not None:
            return values.open_value(self._secret, row)
        return self._vault.get(self._name, row.external_version).value

    def _set(self, value: str, before: Entry | None = None) -> str:
        tags = {**(before.tags if before else {}), KEY: self._secret.key}
        kind = before.content_type if before else ""
        with self._effect(self._secret) as epoch:
            marks = Marks(epoch, str(uuid.uuid4()), owner_of(self._secret.project_id, self._secret.environment_id))
            return self._vault.set(self._name, value, marks, tags=tags, content_type=kind).version

    def delete(self, *, for_good: bool) -> None:
        """Soft-delete the name, or purge it."""
        held = self._look()
        if held is not None:
            _refuse_foreign(held.entry, self._secret, self._name)
            self._once(lambda: self._vault.delete(self._name))
        if for_good:
            self._once(lambda: self._vault.purge(self._name))

    def _restore(self) -> str:
        """Recover the name. Where a later secret of the same key had it since, this one's own value is set again."""
        self._recover()
        row, held = values.resting(self._secret), self._look()
        if row is None:
            return ""
        if held is None:
            raise Conflict(
                "the vault has nothing left of this secret, its retention is over; delete it for good and create it again",
                code="VALUE_GONE",
            )
        if held.entry.version == row.external_version:
            return ""
        _refuse_foreign(held.entry, self._secret, self._name)
        return self._set(self._vault.get(self._name, row.external_version).value, held.entry)

    def _recover(self) -> None:
        if self._look() is None:
            self._once(lambda: self._vault.recover(self._name))

    def _once(self, change: Callable[[], object]) -> None:
        """A change that is as good as done when the vault does not know the name."""
        try:
            with self._effect(self._secret):
                change()
        except ObjectMissing:
            return

    def _look(self) -> Held | None:
        try:
            return self._vault.get(self._name)
        except ObjectMissing:
            return None

    def _refuse_others(self, entry: Entry) -> None:
        marks = entry.marks
        if marks is not None and marks.owner in self._takes_over:
            return
        if (
            marks is None
            or marks.owner != owner_of(self._secret.project_id, self._secret.environment_id)
            or entry.tags.get(KEY) != self._secret.key
        ):
            raise _taken(self._name)


def _refuse_foreign(entry: Entry, secret: Secret, name: str) -> None:
    """A version without our tags is a person's, of the same name; one with the tags of something else is not this secret."""
    marks = entry.marks
    if marks is not None and (
        marks.owner != owner_of(secret.project_id, secret.environment_id) or entry.tags.get(KEY, secret.key) != secret.key
    ):
        raise _taken(name)


def _taken(name: str) -> Conflict:
    return Conflict(
        f"key: the name {name!r} in the vault is used for something else; choose another key, or free the name there",
        code="NAME_TAKEN_IN_VAULT",
    )
