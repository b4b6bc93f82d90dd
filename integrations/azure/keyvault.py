"""Secrets of one vault: a port with few verbs, and Azure Key Vault behind it.

Every call has one attempt and one deadline. Whether to try again is for the caller, who knows the lease and the vault's budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypedDict

from azure.keyvault.secrets import DeletedSecret, SecretClient, SecretProperties

from common.errors import ValidationFailed
from integrations.azure.cloud import Connection
from integrations.azure.credentials import Credential
from integrations.azure.egress import CALL_SECONDS, Guard
from integrations.azure.errors import AzureTrouble, ObjectMissing, ValueRefused
from integrations.azure.guarded import GuardedClient, settings
from integrations.azure.translation import one_call

EPOCH, OPERATION, OWNER = "mazevault-epoch", "mazevault-operation", "mazevault-owner"
RESTORES = "mazevault-restores"
"""Tag of a version that repeats a recorded one, because what had come between them was taken back: the version it stands for."""
KEY = "mazevault-key"
"""Tag that says which key of a project a name in the vault belongs to."""
LONGEST_MARK = 256
MOST_TAGS = 15
"""Of one secret, ours among them (learn.microsoft.com/azure/key-vault/secrets/about-secrets)."""
SETTLE_SECONDS = 0.5
"""Between two looks at whether a deletion or recovery has finished."""
CERTIFICATE_TYPES = ("application/x-pkcs12", "application/x-pem-file")


@dataclass(frozen=True)
class Marks:
    """What each of our writes carries as tags: its epoch, its operation, and for whom (a sync rule, a project)."""

    epoch: int
    operation: str
    owner: str
    restores: str = ""

    def __post_init__(self) -> None:
        for name in ("operation", "owner"):
            if not 0 < len(getattr(self, name)) <= LONGEST_MARK:
                raise ValidationFailed(f"{name}: must have 1 to {LONGEST_MARK} characters")

    def tags(self) -> dict[str, str]:
        restores = {RESTORES: self.restores} if self.restores else {}
        return {EPOCH: str(self.epoch), OPERATION: self.operation, OWNER: self.owner, **restores}


def marks_of(tags: Mapping[str, str]) -> Marks | None:
    """The marks among the tags of a secret; None when they are not all there, so when somebody else wrote it."""
    epoch, operation, owner = (tags.get(name, "") for name in (EPOCH, OPERATION, OWNER))
    whole = epoch.isascii() and epoch.isdecimal() and len(epoch) < 19 and operation and owner
    return Marks(int(epoch), operation, owner, tags.get(RESTORES, "")) if whole else None


@dataclass(frozen=True)
class Entry:
    """A secret, or one version of it, without its value. In lists of secrets `version` is empty: Azure does not tell it there."""

    name: str
    version: str
    enabled: bool
    tags: Mapping[str, str]
    content_type: str
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    of_certificate: bool
    not_before: datetime | None = None
    purgeable: bool = True
    """False where the vault keeps what is deleted until its retention ends."""

    @property
    def stands_for(self) -> str:
        """The version our rows know it by: its own, unless it repeats one that was recorded before."""
        marks = self.marks
        return (marks.restores if marks else "") or self.version

    @property
    def marks(self) -> Marks | None:
        return marks_of(self.tags)


@dataclass(frozen=True)
class Held:
    """A secret with its value."""

    entry: Entry
    value: str = field(repr=False)


@dataclass(frozen=True)
class Deleted:
    """A secret that is deleted and still recoverable."""

    entry: Entry
    deleted_at: datetime | None
    purged_at: datetime | None


class Attributes(TypedDict):
    """What stands beside a value in a vault."""

    tags: Mapping[str, str]
    content_type: str
    enabled: bool
    expires_at: datetime | None
    not_before: datetime | None


def attributes_after(before: Entry | None, key: str, way: Connection, now: datetime) -> Attributes:
    """What a new version gets: what people gave the version before it, and what the integration says (`Connection`).

    Tags, content type, not-before and an expiry that is still to come are carried over. Where the integration says how long a
    value is good for, that counts from now instead; an expiry that has passed ends with its version, and so does a not-before
    that would come after the new end. A new value is enabled, whatever the version before was: that one stays as it is.
    """
    tags = dict(before.tags) if before else {}
    expires_at, not_before = (before.expires_at, before.not_before) if before else (None, None)
    if way.expires_days:
        expires_at = (now + timedelta(days=way.expires_days)).replace(microsecond=0)
    elif expires_at is not None and expires_at <= now:
        expires_at = None
    if not_before is not None and expires_at is not None and not_before >= expires_at:
        not_before = None
    return Attributes(
        tags={**tags, KEY: key}, content_type=(before.content_type if before else "") or way.content_type, enabled=True,
        expires_at=expires_at, not_before=not_before,
    )  # fmt: skip


class SecretStore(Protocol):
    """What the rest of the product needs of a vault. Every verb raises `AzureTrouble` and nothing else."""

    def entries(self) -> Iterator[Entry]: ...
    def versions(self, name: str) -> Iterator[Entry]: ...
    def deleted(self) -> Iterator[Deleted]: ...
    def get(self, name: str, version: str = "") -> Held: ...
    def set(
        self, name: str, value: str, marks: Marks, *, tags: Mapping[str, str] | None = None, content_type: str = "",
        enabled: bool = True, expires_at: datetime | None = None, not_before: datetime | None = None,
    ) -> Entry: ...  # fmt: skip
    def put(self, name: str, value: str, marks: Marks, *, key: str, before: Entry | None = None) -> Entry: ...
    def retag(self, entry: Entry, tags: Mapping[str, str]) -> Entry: ...
    def switch_off(self, entry: Entry) -> Entry: ...
    def deleted_one(self, name: str) -> Deleted | None: ...
    def delete(self, name: str) -> Deleted: ...
    def recover(self, name: str) -> None: ...
    def purge(self, name: str) -> None: ...


class KeyVault(GuardedClient):
    """A `SecretStore` in Azure Key Vault, seen by one identity."""

    def __init__(self, connection: Connection, credential: Credential, guard: Guard, *, seconds: float = CALL_SECONDS) -> None:
        target = guard.vault(connection.vault_url)
        self._seconds, self._way = seconds, connection
        session = guard.session(target)
        self._client = SecretClient(target.origin, credential, **settings(session))
        super().__init__(session, self._client)

    def entries(self) -> Iterator[Entry]:
        """All secrets that are not deleted, page by page; a deadline for each page."""
        for row in self._paged(self._client.list_properties_of_secrets(), "the list of secrets"):
            yield _entry(row)

    def versions(self, name: str) -> Iterator[Entry]:
        """All versions of a secret, in no order; none when there is no such secret."""
        for row in self._paged(self._client.list_properties_of_secret_versions(name), f"the versions of {name}"):
            yield _entry(row)

    def deleted(self) -> Iterator[Deleted]:
        """All secrets that can be recovered."""
        for row in self._paged(self._client.list_deleted_secrets(), "the list of deleted secrets"):
            yield _deleted(row)

    def switch_off(self, entry: Entry) -> Entry:
        """Disable one version: its value is given to nobody until somebody enables it again."""
        with one_call(self._session, self._seconds, f"the secret {entry.name}", effect=True):
            return _entry(self._client.update_secret_properties(entry.name, entry.version, enabled=False))

    def deleted_one(self, name: str) -> Deleted | None:
        """A secret that can be recovered, by its name."""
        try:
            with one_call(self._session, self._seconds, f"the deleted secret {name}"):
                return _deleted(self._client.get_deleted_secret(name))
        except ObjectMissing:
            return None

    def get(self, name: str, version: str = "") -> Held:
        """The latest version, or a named one."""
        with one_call(self._session, self._seconds, f"the secret {name}"):
            found = self._client.get_secret(name, version or None)
            return Held(_entry(found.properties), found.value or "")

    def set(
        self, name: str, value: str, marks: Marks, *, tags: Mapping[str, str] | None = None, content_type: str = "",
        enabled: bool = True, expires_at: datetime | None = None, not_before: datetime | None = None,
    ) -> Entry:  # fmt: skip
        """Write a new version as it is told; what follows another one is `put`. Marks win over tags of the same names."""
        tags = {name: text for name, text in (tags or {}).items() if name != RESTORES}
        _refuse_too_many(name, {**tags, **marks.tags()})
        with one_call(self._session, self._seconds, f"the secret {name}", effect=True):
            made = self._client.set_secret(
                name, value, tags={**tags, **marks.tags()}, content_type=content_type or None, enabled=enabled,
                expires_on=expires_at, not_before=not_before,
            )  # fmt: skip
            return _entry(made.properties)

    def put(self, name: str, value: str, marks: Marks, *, key: str, before: Entry | None = None) -> Entry:
        """A new version for this key. It keeps what people gave the version `before` (`attributes_after`)."""
        return self.set(name, value, marks, **attributes_after(before, key, self._way, datetime.now(UTC)))

    def retag(self, entry: Entry, tags: Mapping[str, str]) -> Entry:
        """Give one version these tags in place of the ones it has. Value and version stay."""
        with one_call(self._session, self._seconds, f"the secret {entry.name}", effect=True):
            return _entry(self._client.update_secret_properties(entry.name, entry.version, tags=dict(tags)))

    def delete(self, name: str) -> Deleted:
        """Delete it so that it can be recovered, and wait within the deadline until it can."""
        with one_call(self._session, self._seconds, f"the secret {name}", effect=True) as deadline:
            gone = _deleted(self._client.begin_delete_secret(name).result())
            left = deadline.left
        self._wait_for(self._client.get_deleted_secret, name, left)
        return gone

    def recover(self, name: str) -> None:
        """Bring a deleted secret back, and wait within the deadline until it is there."""
        with one_call(self._session, self._seconds, f"the secret {name}", effect=True) as deadline:
            self._client.begin_recover_deleted_secret(name).result()
            left = deadline.left
        self._wait_for(self._client.get_secret, name, left)

    def purge(self, name: str) -> None:
        """End a deleted secret for good, and wait within the deadline until it is gone."""
        with one_call(self._session, self._seconds, f"the secret {name}", effect=True) as deadline:
            self._client.purge_deleted_secret(name)
            left = deadline.left
        end = time.monotonic() + left
        with suppress(AzureTrouble):  # it is agreed to; whether it is over, the caller looks
            while self.deleted_one(name) is not None and time.monotonic() < end:
                time.sleep(min(SETTLE_SECONDS, max(0.0, end - time.monotonic())))

    def _wait_for(self, look: Callable[[str], object], name: str, seconds: float) -> None:
        """Azure finishes a deletion or recovery some seconds later. Not seeing that in time is no error: it comes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                with one_call(self._session, max(end - time.monotonic(), 0.1), f"the secret {name}"):
                    look(name)
                return
            except ObjectMissing:
                time.sleep(min(SETTLE_SECONDS, max(0.0, end - time.monotonic())))
            except AzureTrouble:  # it is there but disabled, not for this identity, or Azure is busy: the change itself is done
                return

    def _paged(self, rows: Any, what: str) -> Iterator[Any]:
        pages = rows.by_page()
        while True:
            with one_call(self._session, self._seconds, what):
                page = next(pages, None)
                found = list(page) if page is not None else []
            if page is None:
                return
            yield from found


def _entry(found: SecretProperties) -> Entry:
    epoch = datetime.fromtimestamp(0, UTC)
    return Entry(
        name=str(found.name),
        version=found.version or "",
        enabled=bool(found.enabled),
        tags=dict(found.tags or {}),
        content_type=found.content_type or "",
        created_at=found.created_on or epoch,
        updated_at=found.updated_on or epoch,
        expires_at=found.expires_on,
        not_before=found.not_before,
        of_certificate=bool(found.managed) and found.content_type in CERTIFICATE_TYPES,
        purgeable="Purgeable" in (found.recovery_level or "Purgeable"),
    )


def _deleted(found: DeletedSecret) -> Deleted:
    return Deleted(_entry(found.properties), found.deleted_date, found.scheduled_purge_date)


def _refuse_too_many(name: str, tags: Mapping[str, str]) -> None:
    """Before anything is sent, since Azure does not say which of its limits it means."""
    if len(tags) > MOST_TAGS:
        ours = len([one for one in tags if one in (EPOCH, OPERATION, OWNER, RESTORES, KEY)])
        raise ValueRefused(
            f"the secret {name} would have {len(tags)} tags, and a vault takes {MOST_TAGS}",
            f"remove {len(tags) - MOST_TAGS} of its tags in the vault: {ours} are needed for what MazeVault writes",
        )
