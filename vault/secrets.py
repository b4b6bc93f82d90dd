"""Changing secrets, and giving out their values. One road for every change: a person's, a gateway's, a queued write's.

Each function runs in its caller's transaction; the audit entry commits with what it tells of.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.db import IntegrityError, connection, transaction

from accounts.access import Principal
from accounts.models import Environment, Project, Storage
from common import audit
from common.errors import Conflict, MazeVaultError, NotFound, ValidationFailed
from common.rowsets import Row
from protocol.vocabulary import WriteOperation
from protocol.writes import WriteBody
from vault import marks, rules, schedules, values
from vault.found import Found
from vault.held import hold
from vault.models import Secret, SecretStatus, SecretVersion
from vault.ports import Applied, Asker, Origin, SecretChange, Shown, ValueKeeper, VersionConflict
from vault.recording import Recorder

ACTIONS = {
    WriteOperation.CREATE: "secret.created",
    WriteOperation.UPDATE: "secret.updated",
    WriteOperation.METADATA: "secret.updated",
    WriteOperation.ROLLBACK: "secret.version.rollback",
    WriteOperation.ROTATE: "secret.rotated",
    WriteOperation.ARCHIVE: "secret.archived",
    WriteOperation.RESTORE: "secret.restored",
    WriteOperation.DELETE: "secret.deleted",
    WriteOperation.PURGE: "secret.purged",
}
"""How the audit names each operation."""
SEALS = frozenset({WriteOperation.CREATE, WriteOperation.UPDATE, WriteOperation.ROLLBACK, WriteOperation.ROTATE})
IN_VAULT = SEALS | {WriteOperation.DELETE, WriteOperation.RESTORE, WriteOperation.PURGE}
"""What a vault has to hear of."""
CHOOSES = frozenset({WriteOperation.UPDATE, WriteOperation.ROTATE})
"""Brings a value that somebody chose, which may be one that a rotation replaced."""
NEEDS_ITS_OWN = frozenset({WriteOperation.ROLLBACK, WriteOperation.RESTORE})
"""Looks at versions or keys in the database, so nothing that is not stored yet may come before it."""
_FIELDS = ("ttl_hours", "metadata", "type", "description", "tags", "rotation")
_CHANGING = (*_FIELDS, "status", "version", "rotated_version", "archived_at", "deleted_at", "updated_at")
_SHARE_PROJECTS = "SELECT 1 FROM accounts_project WHERE id = ANY(%s) ORDER BY id FOR SHARE"
_SHARE_ENVIRONMENTS = "SELECT 1 FROM accounts_environment WHERE id = ANY(%s) ORDER BY id FOR SHARE"

Place = tuple[Project, Environment]


def apply_change(
    change: SecretChange, origin: Origin, caller: Principal | None, now: datetime, *, held: Secret | None = None,
    place: Place | None = None, into: Recorder | None = None,
) -> Applied:  # fmt: skip
    """Make one change and its new version. `caller` None is the system itself, which may everything.

    `held` is the secret of the change, with its project and environment, when the caller's transaction has locked it already;
    `place` the project and environment of a creation, locked as by `hold_places`. With `into` the change is stored when that is:
    whoever gives it looks out for keys that are taken (NEEDS_ITS_OWN), and the secret in memory is ahead of the stored one.

    Raises `ValidationFailed`, `NotFound` (also where the caller may not read), `PermissionRefused`, `VersionConflict`, or
    `Conflict` with code DUPLICATE_NAME, SECRET_ARCHIVED, SECRET_IN_USE or STORAGE_NOT_AVAILABLE; then the secret is as it was.
    """
    rules.refuse_malformed(change)
    if change.operation is WriteOperation.CREATE:
        return _create(change, origin, caller, now, place, into)
    secret = held or _locked(change)
    rules.refuse_unless_allowed(caller, change.operation, rules.place_of(secret.project, secret.environment))
    if change.base_version is not None and change.base_version != secret.version:
        raise VersionConflict(secret.version, change.base_version)
    if rules.fulfilled(change.operation, secret.status):
        return Applied(secret, secret.version, changed=False)
    return _make(secret, change, origin, now, into)


def hold_places(projects: Iterable[uuid.UUID], environments: Iterable[uuid.UUID]) -> None:
    """Keep projects and environments from being deleted until the transaction ends, in one order."""
    with connection.cursor() as cursor:
        for statement, identifiers in ((_SHARE_PROJECTS, projects), (_SHARE_ENVIRONMENTS, environments)):
            cursor.execute(statement, [list(identifiers)])


def check_change(change: SecretChange, origin: Origin, caller: Principal | None, now: datetime) -> bool:
    """Whether `apply_change` would change something; raises what it would raise and leaves nothing behind."""
    with transaction.atomic():
        applied = apply_change(change, origin, caller, now)
        transaction.set_rollback(True)
    return applied.changed


def reveal(secret: Secret, version: int | None, *, actor: str, address: str) -> str:
    """The value the secret had in `version` (None: has now), with the audit entry that must commit before it leaves (I17).

    Raises `Conflict` with code VALUE_NOT_HELD where this node has none, VERSION_RETIRED for one that a rotation retired.
    """
    row = values.holding(secret, version)
    _refuse_retired(row)
    if row is None:
        raise Conflict("the value of this version is not held on this node; ask the Primary for it", code="VALUE_NOT_HELD")
    text = values.open_value(secret, row)
    tell_read(secret, version, actor, address)
    return text


def show(secret: Secret, version: int | None, asker: Asker, keeper: ValueKeeper) -> Shown:
    """`reveal`, wherever the value rests, in transactions of its own; a vault is asked outside of any.

    With `version` None it is the value of this instant, with the secret it belongs to. What the vault refuses is refused, whoever
    else might be let in.
    """
    row = values.resting_now(secret.id) if version is None else values.resting(secret, version)
    _refuse_retired(row)
    if row is None:
        raise Conflict("the value of this version is not held on this node; ask the Primary for it", code="VALUE_NOT_HELD")
    seen = row.secret if version is None else secret
    if row.sealed_value is not None:
        text = values.open_value(seen, row)
        tell_read(seen, version, asker.actor, asker.address)
        return Shown(text, secret=seen)
    try:
        shown = keeper.read(seen, row.external_version, asker, newest=version is None)
    except MazeVaultError as refused:
        if refused.status == 403:
            with transaction.atomic():
                tell_denial(seen, asker, refused.code)
        raise
    tell_read(seen, version, asker.actor, asker.address, external_version=shown.external_version)
    return replace(shown, secret=seen, changed=shown.external_version != row.external_version)


def tell_read(secret: Secret | Found, version: int | None, actor: str, address: str, external_version: str = "") -> None:
    """Commit the audit entry of a read, before the value leaves (I17). `version` None: the present one was read."""
    where = {"external_version": external_version} if external_version else {}
    shown = secret.version if version is None else version
    audit.commit(
        actor=actor, action="secret.read", entity="secret", entity_id=str(secret.id), environment=values.scope_of(secret),
        address=address, organization=secret.project.organization_id, project=secret.project_id,
        details={"version": shown, **where, **_where(secret)},
    )  # fmt: skip


def tell_denial(secret: Secret, asker: Asker, code: str, operation: WriteOperation | None = None) -> None:
    """The audit entry of what the vault denied; `operation` None for a read."""
    details = {"code": code, "operation": operation.value if operation else "read", **_where(secret)}
    _audit("secret.denied_by_vault", secret, asker.actor, asker.address, details)


def tell_ended(secret: Secret, actor: str, operation: WriteOperation, outcome: str) -> None:
    """The audit entry of a change in a vault whose maker never came back to record it, or could not."""
    _audit("secret.vault_change_ended", secret, actor, "", {"operation": operation.value, "outcome": outcome, **_where(secret)})


def in_vault(project: Project, operation: WriteOperation) -> bool:
    """Whether the change has to be made in the project's vault first."""
    return project.storage == Storage.KEY_VAULT and operation in IN_VAULT


def _create(
    change: SecretChange, origin: Origin, caller: Principal | None, now: datetime, place: Place | None, into: Recorder | None
) -> Applied:
    project, environment = place or _target(change)
    rules.refuse_unless_allowed(caller, change.operation, rules.place_of(project, environment), rules.PROJECT_ABSENT)
    if change.base_version:
        raise VersionConflict(0, change.base_version)
    secret = Secret(
        id=change.secret, project=project, environment=environment, key=change.key, created_by=origin.actor,
        created_at=now, updated_at=now,
    )  # fmt: skip
    return _make(secret, change, origin, now, into)


def _target(change: SecretChange) -> Place:
    """Project and environment of a creation. Both stay locked against deletion until the transaction ends."""
    hold_places([change.project], [change.environment])
    project = Project.objects.filter(id=change.project, deleted_at=None).first()
    if project is None:
        raise NotFound(rules.PROJECT_ABSENT, code="PROJECT_NOT_FOUND")
    environment = Environment.objects.filter(
        id=change.environment, organization_id=project.organization_id, deleted_at=None
    ).first()
    if environment is None:
        raise ValidationFailed("environment: the project's organization has no such environment")
    return project, environment


def _locked(change: SecretChange) -> Secret:
    """The secret, nobody else's to change until the transaction ends. A change names its place, and it must be the very one."""
    secret = hold(change.secret)
    if secret is None or (secret.project_id, secret.environment_id) != (change.project, change.environment):
        raise NotFound(rules.ABSENT)
    return secret


def _make(secret: Secret, change: SecretChange, origin: Origin, now: datetime, into: Recorder | None) -> Applied:
    book, before = into or Recorder(), {name: getattr(secret, name) for name in _CHANGING}
    try:
        value = _value_after(secret, change, book)
        secret.version += 1
        if change.operation is WriteOperation.ROTATE:
            secret.rotated_version = secret.version
        _take_fields(secret, change.body, now)
        secret.updated_at = now
        _take_status(secret, change.operation, now)
        version = _version_row(secret, change, origin, value, now, book)
        details = {"version": secret.version, **_where(secret), **_circumstances(change, origin)}
        entry = _entry(ACTIONS[change.operation], secret, origin.actor, origin.address, details)
        book.keep(secret, version, entry, new=change.operation is WriteOperation.CREATE)
        if change.operation is WriteOperation.PURGE:
            book.purged.append(secret.id)
        if into is None:
            _store(book, secret, change.operation)
    except BaseException:
        for name, told in before.items():
            setattr(secret, name, told)
        raise
    return Applied(secret, secret.version)


def _value_after(secret: Secret, change: SecretChange, book: Recorder) -> str | None:
    """The value to seal for the new version; None when the change repeats the one before."""
    if change.operation not in SEALS:
        return None
    _refuse_other_storage(secret, change.body)
    if change.operation in CHOOSES and not change.generated:
        marks.refuse_replaced(secret, change.body.value, change.body.value_hash, book)
    wanted = change.body.rollback_to or 0
    if change.operation is WriteOperation.ROLLBACK:
        refuse_no_former(secret, wanted, values.resting(secret, wanted))
    if change.body.external_version is not None:
        return None
    if change.operation is not WriteOperation.ROLLBACK:
        return change.body.value
    row = values.holding(secret, wanted)
    if row is None:
        raise Conflict(f"version: the value of version {wanted} is not held here", code="VALUE_NOT_HELD")
    return values.open_value(secret, row)


def refuse_no_former(secret: Secret, wanted: int, row: SecretVersion | None) -> None:
    """Raise for a version nobody can go back to: the present one, one to come, or one that was retired."""
    if wanted >= secret.version:
        raise ValidationFailed(f"version: must be one before the current version {secret.version}")
    _refuse_retired(row)


def _refuse_retired(row: SecretVersion | None) -> None:
    if row is not None and row.retired_at is not None:
        raise Conflict(
            f"version: the value of version {row.version} was retired by a rotation and is not given out any more",
            code="VERSION_RETIRED",
        )


def _refuse_other_storage(secret: Secret, body: WriteBody) -> None:
    """A value goes where the project keeps its values. What was set in a vault before a move rests there."""
    elsewhere = secret.project.storage == Storage.KEY_VAULT
    if elsewhere and (body.value is not None or not body.external_version):
        raise Conflict(
            "storage: values of this project rest in its vault; a value that was not set there is not kept here",
            code="STORAGE_NOT_AVAILABLE",
        )


def _take_fields(secret: Secret, body: WriteBody, now: datetime) -> None:
    before = secret.rotation
    for name in _FIELDS:
        wished = getattr(body, name)
        if wished is not None:
            setattr(secret, name, wished)
    secret.rotation = schedules.kept(secret.rotation, before, secret.updated_at, now)


def _take_status(secret: Secret, operation: WriteOperation, now: datetime) -> None:
    if operation is WriteOperation.ARCHIVE:
        secret.status, secret.archived_at = SecretStatus.ARCHIVED, now
    elif operation is WriteOperation.RESTORE:
        secret.status, secret.archived_at, secret.deleted_at = SecretStatus.ACTIVE, None, None
    elif operation is WriteOperation.DELETE:
        secret.status, secret.deleted_at = SecretStatus.DELETED, now
    elif operation is WriteOperation.PURGE:
        secret.status, secret.deleted_at = SecretStatus.PURGED, secret.deleted_at or now
        secret.metadata, secret.tags, secret.description, secret.rotation, secret.ttl_hours = {}, [], "", None, 0


def _store(book: Recorder, secret: Secret, operation: WriteOperation) -> None:
    """Only a new or restored secret can find its key taken; nothing else pays for a savepoint."""
    if operation not in (WriteOperation.CREATE, WriteOperation.RESTORE):
        book.store()
        return
    try:
        with transaction.atomic():
            book.store_secrets()
    except IntegrityError as error:
        there = Secret.objects.filter(
            project=secret.project_id, environment=secret.environment_id, key=secret.key, deleted_at=None
        ).values_list("id", flat=True).first()  # fmt: skip
        raise Conflict(
            f"key: a secret {secret.key!r} already exists in {secret.environment.slug} of this project", code="DUPLICATE_NAME",
            details=f"the id of the one that exists: {there}" if there else None,
        ) from error  # fmt: skip
    book.store_rest()


def _version_row(
    secret: Secret, change: SecretChange, origin: Origin, value: str | None, now: datetime, book: Recorder
) -> Row:  # fmt: skip
    sealing = None if value is None else book.sealing_in(values.scope_of(secret))
    return {
        "id": uuid.uuid4(), "secret_id": secret.id, "version": secret.version,
        "sealed_value": None if value is None else values.seal_value(secret, secret.version, value, sealing),
        "value_digest": "" if value is None else values.digest_of(secret, value, sealing),
        "external_version": change.body.external_version or "", "operation": change.operation.value, "author": origin.actor,
        "origin": origin.node, "write": origin.write, "epoch": origin.epoch, "reason": change.body.reason, "created_at": now,
        "value_mark": _mark(secret, change, value),
    }  # fmt: skip


def _mark(secret: Secret, change: SecretChange, value: str | None) -> str:
    """The mark of the new version's value: of what is sealed here, of what a gateway set in a vault, or of the version it was."""
    if value is not None:
        return marks.mark_of(secret.id, marks.hash_of(value))
    if change.operation is WriteOperation.ROLLBACK:
        row = values.resting(secret, change.body.rollback_to)
        return row.value_mark if row else ""
    return marks.mark_of(secret.id, change.body.value_hash)


def _where(secret: Secret | Found) -> dict[str, Any]:
    return {"key": secret.key, "project": str(secret.project_id), "environment": secret.environment.slug}


def _circumstances(change: SecretChange, origin: Origin) -> dict[str, Any]:
    """What the audit says beside the place: names of fields and origins, never their content."""
    said: dict[str, Any] = {"fields": [name for name in ("value", *_FIELDS) if getattr(change.body, name) is not None]}
    if change.body.rollback_to:
        said["rollback_to"] = change.body.rollback_to
    if change.body.reason:
        said["reason"] = change.body.reason
    if origin.write:
        via = {"principal": origin.actor, "via": origin.node} if origin.node != "primary" else {}
        said |= {"node": origin.node, "write": str(origin.write), "epoch": origin.epoch, **via}
    return said


def _audit(action: str, secret: Secret, actor: str, address: str, details: dict[str, Any]) -> None:
    audit.record_all([_entry(action, secret, actor, address, details)])


def _entry(action: str, secret: Secret, actor: str, address: str, details: dict[str, Any]) -> Row:
    return audit.entry_of(
        actor=actor, action=action, entity="secret", entity_id=str(secret.id), environment=values.scope_of(secret),
        address=address, organization=secret.project.organization_id, project=secret.project_id, details=details,
    )  # fmt: skip
