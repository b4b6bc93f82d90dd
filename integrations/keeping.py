"""`vault.ports.ValueKeeper` for Azure Key Vault, the same at the Primary and at a gateway (DESIGN §10).

Whose identity the vault sees, and whether this node may write now, the node says (`Ways`). What the vault denies is denied:
nobody else is tried. Names carry the project and the key as tags, so that two keys, or two projects, never share one.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Protocol

from accounts.models import Environment
from common.clock import now
from common.direct import give_connection_back
from common.errors import Conflict, MazeVaultError
from integrations import places
from integrations.azure.cloud import Connection
from integrations.azure.credentials import Credential
from integrations.azure.egress import Guard
from integrations.azure.errors import NameTaken, ObjectBusy, ObjectDisabled, ObjectMissing
from integrations.azure.keyvault import KEY, Entry, KeyVault, Marks, SecretStore
from integrations.models import Integration
from integrations.name_refusals import protected, settling, taken
from integrations.storing import storage_of
from protocol.vocabulary import WriteOperation
from vault import rules, secrets, values
from vault.models import Secret, SecretStatus
from vault.ports import Asker, Done, Hold, SecretChange, Shown

log = logging.getLogger("mazevault.vault")

LONGEST_SETTLING = timedelta(minutes=10)
"""A name that is in neither collection for so long is not on its way any more, it was purged: Azure takes seconds."""


class Ways(Protocol):
    """How this node reaches a vault. `seconds` is the longest call."""

    @property
    def seconds(self) -> float: ...

    def guard(self) -> Guard: ...

    def connect(self, integration: Integration, asker: Asker | None) -> tuple[Connection, Credential]:
        """Whom the vault sees. Raises `Conflict` where this node has no identity for it, and the errors of the token."""

    def refuse_unless_writing(self, environment: Environment) -> None:
        """Raises what `effect` would raise now; asked before a vault is called."""

    def effect(self, environment: Environment) -> AbstractContextManager[int]:
        """The right to make one change, with its epoch; no transaction is open in it. Raises when this node may not write."""


def owner_of(project: uuid.UUID, environment: uuid.UUID) -> str:
    """The tag that says whose a name in a vault is: several environments of a project may share a vault, and no name."""
    return f"project:{project}/{environment}"


class VaultKeeper:
    """Reads and writes values in the vaults of projects, outside of any transaction."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways

    @property
    def seconds(self) -> float:
        return self._ways.seconds

    def read(self, secret: Secret, recorded: str, asker: Asker, *, newest: bool) -> Shown:
        """The newest version counts when a person set it. One of ours that is not recorded is on its way, or never arrived."""
        name = rules.vault_name_of(secret.key)
        with self._opened(secret, asker) as vault:
            held = vault.get(name, "" if newest else recorded)
            _refuse_foreign(held.entry, secret, name)
            if newest and held.entry.marks is not None and held.entry.stands_for != recorded:
                held = vault.get(name, recorded)
        return Shown(held.value, held.entry.stands_for)

    def place_to_write(self, secret: Secret) -> str:
        rules.vault_name_of(secret.key)
        integration = storage_of(secret.project, secret.environment)
        self._ways.refuse_unless_writing(secret.environment)
        return self._ways.guard().vault(str(integration.config.get("vault_url", ""))).origin

    def carry_out(self, change: SecretChange, secret: Secret, asker: Asker | None, hold: Hold) -> Done:
        with self._opened(secret, asker) as vault:
            return self._work(vault, secret, hold).carry_out(change)

    def look_into(self, change: SecretChange, secret: Secret, asker: Asker | None, operation: str) -> Done | None:
        with self._opened(secret, asker) as vault:
            return Look(vault, secret).found(change, operation)

    def put_back(self, change: SecretChange, secret: Secret, asker: Asker | None, hold: Hold, version: str) -> bool:
        self._ways.refuse_unless_writing(secret.environment)
        with self._opened(secret, asker) as vault:
            return self._work(vault, secret, hold).put_back(change, version)

    def _work(self, vault: SecretStore, secret: Secret, hold: Hold) -> Work:
        return Work(vault, secret, lambda one: self._effect(one, hold), hold=hold)

    @contextmanager
    def _opened(self, secret: Secret, asker: Asker | None) -> Iterator[KeyVault]:
        integration = storage_of(secret.project, secret.environment)
        connection, credential = self._ways.connect(integration, asker)
        guard = self._ways.guard()
        with (
            places.taken(guard.vault(connection.vault_url).host, str(secret.project_id)),
            KeyVault(connection, credential, guard, seconds=self._ways.seconds) as vault,
        ):
            yield vault

    @contextmanager
    def _effect(self, secret: Secret, hold: Hold) -> Iterator[int]:
        """The claim outlives the call, and no connection of the database is held while it lasts."""
        hold.prolong(self._ways.seconds)
        with self._ways.effect(secret.environment) as epoch:
            give_connection_back()
            yield epoch


class Look:
    """What there is in a vault of one secret."""

    def __init__(self, vault: SecretStore, secret: Secret) -> None:
        self._vault, self._secret = vault, secret
        self._name = rules.vault_name_of(secret.key)

    def found(self, change: SecretChange, operation: str) -> Done | None:
        """What came of an operation nobody saw the end of; None for nothing, also when somebody changed the name since."""
        newest = self.newest()
        marks = newest.marks if newest else None
        if change.operation in secrets.SEALS:
            made = newest is not None and marks is not None and marks.operation == operation
            return Done(newest.version) if made and newest else None
        if change.operation is WriteOperation.RESTORE:
            set_anew = marks is not None and marks.operation == operation
            return Done(newest.version if newest and set_anew else "") if newest is not None else None
        if newest is not None:
            return None
        kept = change.operation is WriteOperation.PURGE and self._vault.deleted_one(self._name) is not None
        if not kept:
            return Done()
        return None if self._secret.status == SecretStatus.DELETED else Done(instead=WriteOperation.DELETE)

    def newest(self) -> Entry | None:
        """The newest version without its value, also a disabled one; None where the name does not live."""
        try:
            return self._vault.get(self._name).entry
        except ObjectMissing:
            return None
        except ObjectDisabled:
            return max(self._vault.versions(self._name), key=lambda one: one.created_at, default=None)


class Work(Look):
    """One change of one secret in its vault. Everything that is set carries `operation`."""

    def __init__(self, vault: SecretStore, secret: Secret, effect: Callable[[Secret], AbstractContextManager[int]],
                 takes_over: Collection[str] = (), *, hold: Hold | None = None) -> None:  # fmt: skip
        super().__init__(vault, secret)
        self._effect, self._takes_over, self._hold = effect, takes_over, hold

    def carry_out(self, change: SecretChange) -> Done:
        if change.operation is WriteOperation.CREATE:
            return Done(self.create(change.body.value or ""))
        if change.operation in (WriteOperation.UPDATE, WriteOperation.ROTATE):
            return Done(self.update(change.body.value or ""))
        if change.operation is WriteOperation.ROLLBACK:
            return Done(self.update(self._former(change.body.rollback_to or 0)))
        if change.operation is WriteOperation.RESTORE:
            return Done(self._restore())
        if change.operation is WriteOperation.PURGE:
            return self._purge()
        if change.operation is WriteOperation.DELETE:
            self.delete()
        return Done()

    def create(self, value: str) -> str:
        """Set a name that is free, or that was this very key's before."""
        held = self.newest()
        if held is not None:
            self._refuse_others(held)
            return self._set(value, held)
        try:
            return self._set(value)
        except ObjectBusy:
            raise
        except NameTaken:
            gone = self._vault.deleted_one(self._name)
            if gone is None:
                raise
            self._refuse_others(gone.entry)
            self._recover()
            return self._follow(value, gone.entry)

    def _follow(self, value: str, recovered: Entry) -> str:
        """Set the value for which a name was recovered. Where that fails the old value must not live on: it is deleted again, now
        or, where that cannot be done or the recovery is not over yet, when it is looked into."""
        try:
            return self._set(value, recovered)
        except NameTaken:
            raise settling(self._name, begun=True) from None
        except MazeVaultError as trouble:
            if not trouble.in_doubt:
                try:
                    self._delete_recovered()
                except MazeVaultError as left:
                    log.warning("what was recovered for %s lives for now: %s", self._name, left)
                    trouble.in_doubt = True
            raise

    def update(self, value: str) -> str:
        """A new version over whatever is there now, unless the name is somebody else's."""
        held = self.newest()
        if held is not None:
            _refuse_foreign(held, self._secret, self._name)
        return self._set(value, held)

    def put_back(self, change: SecretChange, version: str) -> bool:
        """Undo what was done and not recorded. `version` is what it set; another newest one is somebody's since, and stays.

        A restoration that set nothing brought the recorded version back: what stands for another one is somebody's too.
        """
        newest = self.newest()
        if newest is None and change.operation in (WriteOperation.CREATE, WriteOperation.RESTORE):
            return self._end_recovery()
        if change.operation is WriteOperation.CREATE and not version:
            return newest is not None and self._is_older(newest) and self._end_recovered(newest)
        if change.operation in secrets.SEALS:
            if newest is None or newest.version != version:
                return False
            row = None if change.operation is WriteOperation.CREATE else values.resting(self._secret)
            if row is None or not row.external_version:
                self._delete()
            else:
                self._set(self._vault.get(self._name, row.external_version).value, newest, restores=row.external_version)
            return True
        if change.operation is WriteOperation.DELETE:
            self._recover()
            return True
        if change.operation is WriteOperation.RESTORE and newest is not None and self._is_restored(newest, version):
            self.delete()
            return True
        return False

    def _is_older(self, newest: Entry) -> bool:
        """Whether it was there before this change began: what came later is another node's, and stays."""
        return self._hold is not None and newest.created_at <= self._hold.since

    def _end_recovered(self, newest: Entry) -> bool:
        """Delete again what a creation that came to nothing recovered. Whose name it is, is looked at like before it was."""
        try:
            self._refuse_others(newest)
        except Conflict:
            return False
        self._delete()
        return True

    def _end_recovery(self) -> bool:
        """Nothing lives of what may have been recovered for this change; whether it still comes is found out, and ended.

        Raises `ObjectBusy` while it may come: then it is looked for again.
        """
        since = self._hold.recovering_since if self._hold is not None else None
        if since is None or (now() - since > LONGEST_SETTLING and self._vault.deleted_one(self._name) is None):
            return False
        return self._delete_recovered()

    def _delete_recovered(self) -> bool:
        """Delete what was recovered. Asking for it tells apart what no look does: a name that lies deleted is missing (False),
        one that is on its way back is busy, one that has come back in this instant is deleted."""
        if self._delete():
            return True
        if self._vault.deleted_one(self._name) is None:
            raise settling(self._name)
        return False

    def _is_restored(self, newest: Entry, version: str) -> bool:
        row = values.resting(self._secret)
        return newest.version == version if version else row is not None and newest.stands_for == row.external_version

    def _former(self, version: int) -> str:
        row = values.resting(self._secret, version)
        secrets.refuse_no_former(self._secret, version, row)
        if row is None:
            raise Conflict(f"version: the value of version {version} is not held here or in the vault", code="VALUE_NOT_HELD")
        if row.sealed_value is not None:
            return values.open_value(self._secret, row)
        return self._vault.get(self._name, row.external_version).value

    def _set(self, value: str, before: Entry | None = None, *, restores: str = "") -> str:
        operation = self._hold.operation if self._hold is not None else str(uuid.uuid4())
        with self._effect(self._secret) as epoch:
            owner = owner_of(self._secret.project_id, self._secret.environment_id)
            marks = Marks(epoch, operation, owner, restores)
            return self._vault.put(self._name, value, marks, key=self._secret.key, before=before).version

    def delete(self) -> None:
        """Soft-delete the name. One that is just being recovered shows nowhere, and lives in a moment: the vault says so."""
        held = self.newest()
        if held is not None:
            _refuse_foreign(held, self._secret, self._name)
        self._delete()

    def _delete(self) -> bool:
        """Whether there was something to delete."""
        try:
            with self._effect(self._secret):
                self._vault.delete(self._name)
        except ObjectMissing:
            return False
        return True

    def _deleted_lately(self) -> bool:
        """Azure may not have finished that: until then the name is in neither collection, as it is after a purge. Where a later
        secret of the name was purged since, that is why."""
        at, one = self._secret.deleted_at, self._secret
        if at is None or now() - at > LONGEST_SETTLING:
            return False
        purged = Secret.objects.filter(
            project=one.project_id, environment=one.environment_id, status=SecretStatus.PURGED, updated_at__gt=at
        )
        return rules.folded_vault_name(one.key) not in map(rules.folded_vault_name, purged.values_list("key", flat=True))

    def _purge(self) -> Done:
        """End the name for good. What cannot be purged (now, or in this vault) stays deleted, and that is recorded."""
        held = self.newest()
        if held is not None:
            _refuse_foreign(held, self._secret, self._name)
        deleted = self._delete()
        try:
            self._end_for_good(just_deleted=deleted or self._deleted_lately())
        except MazeVaultError as trouble:
            if trouble.in_doubt or self._secret.status == SecretStatus.DELETED:
                raise
            return Done(instead=WriteOperation.DELETE, trouble=trouble)
        return Done()

    def _end_for_good(self, *, just_deleted: bool) -> None:
        """Over only when the vault was seen without it."""
        gone = self._vault.deleted_one(self._name)
        if gone is not None:
            _refuse_foreign(gone.entry, self._secret, self._name)
            if not gone.entry.purgeable:
                raise protected(self._name, gone)
        try:
            with self._effect(self._secret):
                self._vault.purge(self._name)
        except ObjectMissing:
            if just_deleted:
                raise settling(self._name) from None
            return
        if self._vault.deleted_one(self._name) is not None:
            raise settling(self._name)

    def _restore(self) -> str:
        """Recover the name. Where a later secret of the same key had it since, this one's own value is set again."""
        recovered = self._recover()
        row, held = values.resting(self._secret), self.newest()
        if row is None:
            return ""
        if held is None and recovered:
            raise settling(self._name, begun=True)
        if held is None:
            raise Conflict(
                "the vault has nothing left of this secret: it was purged there, or its retention is over; create a new one",
                code="VALUE_GONE",
            )
        if held.stands_for == row.external_version:
            return ""
        _refuse_foreign(held, self._secret, self._name)
        return self._set(self._vault.get(self._name, row.external_version).value, held)

    def _recover(self) -> bool:
        """Whether there was something to recover."""
        if self.newest() is not None:
            return False
        if self._hold is not None:
            self._hold.recovering()
        try:
            with self._effect(self._secret):
                self._vault.recover(self._name)
        except ObjectMissing:
            return False
        return True

    def _refuse_others(self, entry: Entry) -> None:
        marks = entry.marks
        if marks is not None and marks.owner in self._takes_over:
            return
        if (
            marks is None
            or marks.owner != owner_of(self._secret.project_id, self._secret.environment_id)
            or entry.tags.get(KEY) != self._secret.key
        ):
            raise taken(self._name)


def _refuse_foreign(entry: Entry, secret: Secret, name: str) -> None:
    """A version without our tags is a person's, of the same name; one with the tags of something else is not this secret."""
    marks = entry.marks
    if marks is not None and (
        marks.owner != owner_of(secret.project_id, secret.environment_id) or entry.tags.get(KEY, secret.key) != secret.key
    ):
        raise taken(name)
