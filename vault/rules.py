"""What a change of a secret may look like, who may make it, and in which state: questions answered without a database.

The Primary asks before it applies a change and a gateway before it accepts one, so both refuse with the same sentences.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from accounts.access import Principal, Scope
from accounts.models import Environment, Project
from accounts.roles import SECRETS_DELETE, SECRETS_READ, SECRETS_WRITE
from common.errors import Conflict, NotFound, PermissionRefused, ValidationFailed
from common.nearest import refusal
from protocol.spelling import hidden, normal
from protocol.vocabulary import WriteOperation
from protocol.writes import LARGEST_VALUE, WriteBody
from vault import schedules
from vault.models import SecretStatus, SecretType
from vault.ports import SecretChange

LONGEST_KEY = 255
LONGEST_TTL_HOURS = 87_600
"""Ten years."""
LARGEST_METADATA = 16 * 1024
"""Bytes of the metadata as JSON in UTF-8."""
MOST_TAGS, LONGEST_TAG = 50, 100
LONGEST_DESCRIPTION, LONGEST_REASON = 1000, 500
LONGEST_SCHEDULE, LONGEST_INTERVAL_DAYS, MOST_EMAILS = 100, 3650, 50
NEWEST_VERSION = 2**31 - 1

ABSENT = "there is no such secret"
PROJECT_ABSENT = "there is no such project"

NEEDED: Mapping[WriteOperation, str] = {
    WriteOperation.CREATE: SECRETS_WRITE,
    WriteOperation.UPDATE: SECRETS_WRITE,
    WriteOperation.METADATA: SECRETS_WRITE,
    WriteOperation.ROLLBACK: SECRETS_WRITE,
    WriteOperation.ROTATE: SECRETS_WRITE,
    WriteOperation.ARCHIVE: SECRETS_WRITE,
    WriteOperation.RESTORE: SECRETS_WRITE,
    WriteOperation.DELETE: SECRETS_DELETE,
    WriteOperation.PURGE: SECRETS_DELETE,
}
"""The permission each operation needs in the place of the secret."""

CARRIES_VALUE = frozenset({WriteOperation.CREATE, WriteOperation.UPDATE, WriteOperation.ROTATE})
CARRIES_FIELDS = frozenset({WriteOperation.CREATE, WriteOperation.UPDATE, WriteOperation.METADATA})
_FIELDS = ("ttl_hours", "metadata", "type", "description", "tags", "rotation")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ADDRESS = re.compile(r"[^\s@\x00-\x1f\x7f]+@[^\s@\x00-\x1f\x7f]+")
ROTATION = frozenset({"enabled", "schedule", "rotation_interval_days", "notification_emails"})
"""The settings of a rotation."""
_VAULT_NAME = re.compile(r"[0-9a-zA-Z-]{1,127}")
_BECOMES_HYPHEN = str.maketrans("_.", "--")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""What neither PostgreSQL nor UTF-8 can hold."""


class Step(StrEnum):
    """What an operation means for a secret in one status."""

    MAKE = "make"
    FULFILLED = "fulfilled"
    """The secret is already as wished; nothing changes."""
    ABSENT = "absent"
    ARCHIVED = "archived"
    IN_USE = "in_use"


_CHANGES = (WriteOperation.UPDATE, WriteOperation.METADATA, WriteOperation.ROLLBACK, WriteOperation.ROTATE)
STEPS: Mapping[tuple[str, WriteOperation], Step] = {
    **{(SecretStatus.ACTIVE, operation): Step.MAKE for operation in _CHANGES},
    (SecretStatus.ACTIVE, WriteOperation.ARCHIVE): Step.MAKE,
    (SecretStatus.ACTIVE, WriteOperation.RESTORE): Step.FULFILLED,
    (SecretStatus.ACTIVE, WriteOperation.DELETE): Step.MAKE,
    (SecretStatus.ACTIVE, WriteOperation.PURGE): Step.IN_USE,
    **{(SecretStatus.ARCHIVED, operation): Step.ARCHIVED for operation in _CHANGES},
    (SecretStatus.ARCHIVED, WriteOperation.ARCHIVE): Step.FULFILLED,
    (SecretStatus.ARCHIVED, WriteOperation.RESTORE): Step.MAKE,
    (SecretStatus.ARCHIVED, WriteOperation.DELETE): Step.MAKE,
    (SecretStatus.ARCHIVED, WriteOperation.PURGE): Step.MAKE,
    **{(SecretStatus.DELETED, operation): Step.ABSENT for operation in _CHANGES},
    (SecretStatus.DELETED, WriteOperation.ARCHIVE): Step.ABSENT,
    (SecretStatus.DELETED, WriteOperation.RESTORE): Step.MAKE,
    (SecretStatus.DELETED, WriteOperation.DELETE): Step.FULFILLED,
    (SecretStatus.DELETED, WriteOperation.PURGE): Step.MAKE,
    **{(SecretStatus.PURGED, operation): Step.ABSENT for operation in _CHANGES},
    (SecretStatus.PURGED, WriteOperation.ARCHIVE): Step.ABSENT,
    (SecretStatus.PURGED, WriteOperation.RESTORE): Step.ABSENT,
    (SecretStatus.PURGED, WriteOperation.DELETE): Step.FULFILLED,
    (SecretStatus.PURGED, WriteOperation.PURGE): Step.FULFILLED,
}
"""Every pair of status and operation. A creation has no secret yet."""


def folded_vault_name(key: str) -> str:
    """The same for keys that a vault would take for the same name."""
    return key.translate(_BECOMES_HYPHEN).lower()


def vault_name_of(key: str) -> str:
    """What a key is called in a vault: letters, digits and hyphens, so `_` and `.` become `-`. Raises `ValidationFailed`."""
    name = key.translate(_BECOMES_HYPHEN)
    if not _VAULT_NAME.fullmatch(name):
        raise ValidationFailed(
            "key: the values of this project rest in a vault, whose names have 1 to 127 letters, digits and hyphens; "
            "`_` and `.` are taken for hyphens"
        )
    return name


def place_of(project: Project, environment: Environment) -> Scope:
    """Where the secrets of a project in an environment are, for `Principal.may`."""
    return Scope(str(project.organization_id), str(project.id), environment.slug.lower())


def refuse_unless_allowed(caller: Principal | None, operation: WriteOperation, place: Scope, absent: str = ABSENT) -> None:
    """Who may not even read there learns nothing: `NotFound`. Who may read only gets `PermissionRefused`. None may all."""
    if caller is None or caller.may(NEEDED[operation], place):
        return
    if caller.may(SECRETS_READ, place):
        raise PermissionRefused(f"this needs the permission {NEEDED[operation]} for this project and environment")
    raise NotFound(absent, code="PROJECT_NOT_FOUND" if absent == PROJECT_ABSENT else None)


def fulfilled(operation: WriteOperation, status: str) -> bool:
    """Whether the secret is already as wished. Raises `NotFound` or `Conflict` when it cannot become so."""
    step = STEPS[status, operation]
    if step is Step.ABSENT:
        raise NotFound(ABSENT)
    if step is Step.ARCHIVED:
        raise Conflict("the secret is archived; restore it first", code="SECRET_ARCHIVED")
    if step is Step.IN_USE:
        raise Conflict("the secret is in use; delete or archive it before it is destroyed for good", code="SECRET_IN_USE")
    return step is Step.FULFILLED


def refuse_malformed(change: SecretChange) -> None:
    """Raise `ValidationFailed` for the first field that is wrong; the sentence begins with its name."""
    operation, body = change.operation, change.body
    if operation is WriteOperation.CREATE:
        _check_key(change.key)
    if change.base_version is not None and not 0 <= change.base_version <= NEWEST_VERSION:
        raise ValidationFailed(f"base_version: must be from 0 to {NEWEST_VERSION}")
    _check_carried(operation, body)
    for sentence in _wrong(body):
        raise ValidationFailed(sentence)


def _check_key(key: str) -> None:
    if not 1 <= len(key) <= LONGEST_KEY:
        raise ValidationFailed(f"key: must have 1 to {LONGEST_KEY} characters")
    if _CONTROL.search(key) or _UNSTORABLE.search(key):
        raise ValidationFailed("key: control characters are not allowed")
    if found := hidden(key):
        raise ValidationFailed(f"key: must not have {found}")
    if key != normal(key):
        raise ValidationFailed("key: must be in the composed form of Unicode (NFC)")
    if key != key.strip():
        raise ValidationFailed("key: must not begin or end with a space")


def _check_carried(operation: WriteOperation, body: WriteBody) -> None:
    if operation in CARRIES_VALUE and body.value is None and body.external_version is None:
        raise ValidationFailed("value: is required")
    if operation not in CARRIES_VALUE and body.value is not None:
        raise ValidationFailed(f"value: is not part of {operation.value}")
    carried = [name for name in _FIELDS if getattr(body, name) is not None]
    if operation not in CARRIES_FIELDS and carried:
        raise ValidationFailed(f"{carried[0]}: is not part of {operation.value}")
    if operation is WriteOperation.METADATA and not carried:
        raise ValidationFailed(f"the body names nothing to change; name one of {', '.join(_FIELDS)}")
    if (body.rollback_to is not None) != (operation is WriteOperation.ROLLBACK):
        raise ValidationFailed(
            "version: is required" if body.rollback_to is None else f"version: is not part of {operation.value}"
        )


def _wrong(body: WriteBody) -> Iterator[str]:
    yield from _wrong_value(body.value)
    yield from _wrong_fields(body)
    if body.metadata is not None:
        yield from _wrong_metadata(body.metadata)
    if body.tags is not None:
        yield from _wrong_tags(body.tags)
    if body.rotation is not None:
        yield from _wrong_rotation(body.rotation)


def _wrong_value(value: str | None) -> Iterator[str]:
    if value is None:
        return
    if not value:
        yield "value: must not be empty"
    if _UNSTORABLE.search(value):
        yield "value: must be text without NUL characters; encode binary content as base64"
    elif len(value.encode()) > LARGEST_VALUE:
        yield f"value: must have at most {LARGEST_VALUE} bytes in UTF-8"


def _wrong_fields(body: WriteBody) -> Iterator[str]:
    if body.ttl_hours is not None and not 0 <= body.ttl_hours <= LONGEST_TTL_HOURS:
        yield f"ttl_hours: must be from 0 to {LONGEST_TTL_HOURS}; 0 means no end"
    if body.type is not None and body.type not in SecretType.values:
        yield f"type: must be one of {', '.join(SecretType.values)}"
    if body.description is not None:
        yield from _wrong_text("description", body.description, LONGEST_DESCRIPTION)
    if body.rollback_to is not None and not 1 <= body.rollback_to <= NEWEST_VERSION:
        yield f"version: must be from 1 to {NEWEST_VERSION}"
    yield from _wrong_text("change_reason", body.reason, LONGEST_REASON)


def _wrong_text(name: str, text: str, longest: int) -> Iterator[str]:
    if len(text) > longest:
        yield f"{name}: must have at most {longest} characters"
    if _UNSTORABLE.search(text):
        yield f"{name}: NUL characters are not allowed"


def _wrong_metadata(metadata: dict[str, str]) -> Iterator[str]:
    for name, text in metadata.items():
        if not isinstance(text, str):
            yield f"metadata.{name}: must be a string"
        elif _UNSTORABLE.search(name) or _UNSTORABLE.search(text):
            yield "metadata: NUL characters are not allowed"
            return
    for name in metadata:
        if found := hidden(name):
            yield f"metadata: a name must not have {found}"
    if not all(metadata):
        yield "metadata: a name must not be empty"
    if len(json.dumps(metadata, ensure_ascii=False).encode()) > LARGEST_METADATA:
        yield f"metadata: must have at most {LARGEST_METADATA} bytes as JSON"


def _wrong_tags(tags: list[str]) -> Iterator[str]:
    if len(tags) > MOST_TAGS:
        yield f"tags: must be at most {MOST_TAGS}"
    for tag in tags:
        if found := hidden(tag):
            yield f"tags: must not have {found}"
        if not tag or len(tag) > LONGEST_TAG or _CONTROL.search(tag) or _UNSTORABLE.search(tag):
            yield f"tags: each must have 1 to {LONGEST_TAG} characters and no control characters"


def _wrong_rotation(rotation: dict[str, Any]) -> Iterator[str]:
    if unknown := refusal(("rotation", name, ROTATION) for name in rotation if name not in ROTATION):
        yield unknown.sentence
    if not isinstance(rotation.get("enabled", False), bool):
        yield "rotation.enabled: must be true or false"
    yield from _wrong_schedule(rotation.get("schedule", ""))
    days = rotation.get("rotation_interval_days", 0)
    if type(days) is not int or not 0 <= days <= LONGEST_INTERVAL_DAYS:
        yield f"rotation.rotation_interval_days: must be a whole number from 0 to {LONGEST_INTERVAL_DAYS}"
    emails = rotation.get("notification_emails")
    if emails is not None and not _are_addresses(emails):
        yield f"rotation.notification_emails: must be a list of at most {MOST_EMAILS} addresses, or null"


def _wrong_schedule(schedule: Any) -> Iterator[str]:
    if not isinstance(schedule, str) or len(schedule) > LONGEST_SCHEDULE or _UNSTORABLE.search(schedule):
        yield f"rotation.schedule: must be a text of at most {LONGEST_SCHEDULE} characters"
    elif schedule:
        try:
            schedules.read(schedule)
        except schedules.ScheduleInvalid as invalid:
            yield f"rotation.schedule: {invalid}"


def _are_addresses(emails: Any) -> bool:
    return (
        isinstance(emails, list)
        and len(emails) <= MOST_EMAILS
        and all(isinstance(one, str) and len(one) <= 254 and _ADDRESS.fullmatch(one) for one in emails)
    )
