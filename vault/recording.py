"""What changes of secrets leave behind, kept until it is stored: in one statement for each table, however many they are.

One change is stored as many are. Nothing is decided here.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from django.db import connection

from common import audit, feed
from common.rowsets import Row, Rowset
from protocol.replica import ReplicaKind
from vault import values
from vault.encryption import Sealing
from vault.models import KeptValue, Secret, SecretVersion

_CHANGING = {
    "type": "text", "description": "text", "tags": "jsonb", "metadata": "jsonb", "ttl_hours": "integer", "rotation": "jsonb",
    "status": "text", "version": "integer", "rotated_version": "integer", "archived_at": "timestamptz",
    "deleted_at": "timestamptz", "updated_at": "timestamptz",
}  # fmt: skip
_NEW = {
    "project_id": "uuid", "environment_id": "uuid", "key": "text", "created_by": "text", "created_at": "timestamptz",
}  # fmt: skip
_SECRETS = Rowset("vault_secret", {"id": "uuid", **_CHANGING})
_NEW_SECRETS = Rowset("vault_secret", {"id": "uuid", **_NEW, **_CHANGING})
_VERSIONS = Rowset("vault_secretversion", {
    "id": "uuid", "secret_id": "uuid", "version": "integer", "sealed_value": "bytea", "value_digest": "text",
    "external_version": "text", "operation": "text", "author": "text", "origin": "text", "write": "uuid", "epoch": "bigint",
    "reason": "text", "created_at": "timestamptz", "value_mark": "text",
})  # fmt: skip


@dataclass
class Recorder:
    """Changes of one transaction that are not stored yet. What is kept here is invisible to every statement until `store`."""

    changed: dict[uuid.UUID, Secret] = field(default_factory=dict)
    created: dict[uuid.UUID, Secret] = field(default_factory=dict)
    versions: list[Row] = field(default_factory=list)
    purged: list[uuid.UUID] = field(default_factory=list)
    entries: list[Row] = field(default_factory=list)
    notes: list[tuple[str, str, uuid.UUID]] = field(default_factory=list)
    _sealings: dict[str, Sealing] = field(default_factory=dict)

    def sealing_in(self, scope: str) -> Sealing:
        if scope not in self._sealings:
            self._sealings[scope] = Sealing.begin(scope)
        return self._sealings[scope]

    def keep(self, secret: Secret, version: Row, entry: Row, *, new: bool) -> None:
        """A change that was made of a secret: how it is now, its version, and what the audit says."""
        (self.created if new or secret.id in self.created else self.changed)[secret.id] = secret
        self.versions.append(version)
        self.entries.append(entry)
        self.notes.append((values.scope_of(secret), ReplicaKind.SECRET.value, secret.id))

    def store(self) -> None:
        """Store all of it and begin anew. Raises `IntegrityError` for a taken key or id, `Unavailable` without an audit."""
        self.store_secrets()
        self.store_rest()

    def store_secrets(self) -> None:
        """Those that were there first: one of them may have given up the key that a new one takes."""
        _SECRETS.update([_row(secret, _SECRETS) for secret in self.changed.values()])
        _NEW_SECRETS.insert([_row(secret, _NEW_SECRETS) for secret in self.created.values()])
        for secret in self.created.values():
            secret._state.adding, secret._state.db = False, connection.alias
        self.changed, self.created = {}, {}

    def store_rest(self) -> None:
        """What tells of the secrets: versions, audit, change feed."""
        _VERSIONS.insert(self.versions)
        if self.purged:
            emptied = {"sealed_value": None, "value_digest": "", "external_version": "", "value_mark": ""}
            SecretVersion.objects.filter(secret__in=self.purged).update(**emptied)
            KeptValue.objects.filter(version__secret__in=self.purged).delete()
        audit.record_all(self.entries)
        feed.note_all(self.notes)
        self.versions, self.purged, self.entries, self.notes = [], [], [], []


def _row(secret: Secret, table: Rowset) -> Row:
    return {name: getattr(secret, name) for name in table.columns}
