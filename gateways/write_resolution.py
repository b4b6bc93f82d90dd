"""What people decide about writes that wait for them: apply, discard, try again; and what applying would do (DESIGN §9).

Who decides answers for it: an applied write is a change of theirs, in the current epoch, that names the write it came from (I3).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.db import transaction

from accounts.access import EVERYWHERE, Principal, Scope
from accounts.models import Environment, Project
from accounts.roles import SECRETS_READ, SECRETS_WRITE
from common import audit
from common.api import rfc3339
from common.clock import database_now
from common.errors import Conflict, MazeVaultError, NotFound, PermissionRefused, ValidationFailed
from gateways import losses, put_back, write_firsts
from gateways.models import ReceivedWrite
from gateways.settlement import KEPT, change_of, finish, tell
from gateways.write_bodies import BodyUnusable, open_body
from gateways.write_scene import Scene
from protocol.vocabulary import WriteOutcome
from vault import rules, values
from vault.answered import MISMATCH
from vault.encryption import SealBroken
from vault.models import Secret
from vault.ports import Applied, Origin
from vault.secrets import apply_change

MOST_AT_ONCE = 500
ABSENT = "there is no such write"


class Resolution(StrEnum):
    APPLY = "apply"
    """Make the change now, on top of whatever is there."""
    DISCARD = "discard"
    """Drop it and wipe its content."""
    RETRY = "retry"
    """Decide anew, as if it had arrived just now."""


@dataclass(frozen=True)
class Resolved:
    """One write after a decision, or why the decision was refused."""

    write: ReceivedWrite
    refused: MazeVaultError | None = None
    vault: Mapping[str, Any] | None = None
    """What becomes of the vault that has the change of a discarded write."""


def resolve(
    identifier: uuid.UUID, resolution: str, caller: Principal, *, address: str, now: datetime, base_version: int | None = None,
    vault: str = "",
) -> Resolved:  # fmt: skip
    """Decide on one write. `base_version`: apply only if the secret is still in this version. `vault`: what becomes of the vault
    that has the change of a discarded write; the recorded state is put back unless told otherwise.

    Raises `NotFound`, `PermissionRefused`, `Conflict` (SYNC_CONFLICT when it is decided already, VAULT_STILL_HOLDS) and what
    applying raises.
    """
    wanted, wish, left = _resolution(resolution), _wish(vault), None
    with transaction.atomic():
        row = _locked(identifier, now)
        _refuse_unless_allowed(row, caller)
        before = row.outcome
        if wanted is Resolution.APPLY:
            scene = Scene.open(row.environment_id, now)
            applied = _apply(row, scene, caller, address, base_version)
            finish(row, WriteOutcome.APPLIED, scene, version=applied.version, by=caller.actor, resolution=wanted.value)
            scene.close()
        elif wanted is Resolution.DISCARD:
            left = put_back.carry_out(row, wish, actor=caller.actor, address=address)
            _discard(row, caller, now)
        else:
            _retry(row, now)
        tell(
            row, "gateway.write.resolved", actor=caller.actor, severity=audit.Severity.WARNING, address=address,
            resolution=wanted.value, before=before, **({"vault": left["wish"]} if left else {}),
        )  # fmt: skip
    losses.close_finished(row.environment_id)
    return Resolved(row, vault=left)


def resolve_many(
    identifiers: Iterable[uuid.UUID], resolution: str, caller: Principal, *, address: str, now: datetime, vault: str = ""
) -> list[Resolved]:
    """Decide on many, each for itself, in the order in which their gateways made them."""
    _resolution(resolution)
    wanted = list(dict.fromkeys(identifiers))
    found = ReceivedWrite.objects.filter(id__in=wanted).defer("sealed_body", "head")
    rows = found.order_by("gateway_id", "generation", "sequence", "id")
    return [_resolved(row, resolution, caller, address, now, vault) for row in rows]


def preview(identifier: uuid.UUID, caller: Principal) -> dict[str, Any]:
    """Both sides without their values, and what applying would do; it is tried and taken back."""
    row = ReceivedWrite.objects.select_related("gateway").filter(id=identifier).first()
    if row is None:
        raise NotFound(ABSENT)
    current = _secret_of(row)
    return {
        "current": _current_row(current) if current else None,
        "values": _compared(row, current, caller),
        "applying": _tried(row, caller),
        "vault": put_back.shown(row),
    }


def _resolution(text: str) -> Resolution:
    if text not in {one.value for one in Resolution}:
        raise ValidationFailed(f"resolution: must be one of {', '.join(one.value for one in Resolution)}")
    return Resolution(text)


def _wish(text: str) -> put_back.Wish:
    if text and text not in {one.value for one in put_back.Wish}:
        raise ValidationFailed(f"vault: must be one of {', '.join(one.value for one in put_back.Wish)}")
    return put_back.Wish(text or put_back.Wish.RESTORE_RECORDED)


def _locked(identifier: uuid.UUID, now: datetime) -> ReceivedWrite:
    """The write, if it still waits for a person. The route comes first in the order of locks."""
    environment = ReceivedWrite.objects.filter(id=identifier).values_list("environment_id", flat=True).first()
    if environment is None:
        raise NotFound(ABSENT)
    Scene.open(environment, now)
    row = ReceivedWrite.objects.select_for_update().get(id=identifier)
    if row.outcome not in KEPT or row.resolution:
        raise Conflict(
            f"this write does not wait for a decision: it is {row.outcome}" + (f", {row.resolution}" if row.resolution else ""),
            code="SYNC_CONFLICT",
        )
    return row


def _refuse_unless_allowed(row: ReceivedWrite, caller: Principal) -> None:
    """Deciding about a secret needs the right to write it; where no place is known, the right to write everywhere."""
    if not caller.may(SECRETS_WRITE, _scope_of(row)):
        raise PermissionRefused(f"this needs the permission {SECRETS_WRITE} for the project and environment of the write")


def _scope_of(row: ReceivedWrite) -> Scope:
    """The place a write is about, also when it does not live any more."""
    if row.project is None or row.project_environment is None:
        return EVERYWHERE
    environment = Environment.objects.filter(id=row.project_environment, gateway_environment=row.environment_id).first()
    project = Project.objects.filter(id=row.project).first()
    if environment is None or project is None or environment.organization_id != project.organization_id:
        return EVERYWHERE
    return rules.place_of(project, environment)


def _apply(row: ReceivedWrite, scene: Scene, caller: Principal, address: str, base: int | None) -> Applied:
    if scene.route.danger:
        raise Conflict("the environment is held; resume it first", code="ENVIRONMENT_HELD")
    if scene.place(row) is None:
        raise NotFound("there is no such project or project environment here any more")
    origin = Origin(caller.actor, address, f"gateway:{row.gateway_id}", row.id, scene.route.epoch)
    try:
        scene.secret(row)
        scene.give_free_id(row)
        change = change_of(row, base)
    except (BodyUnusable, SealBroken) as error:
        raise Conflict(f"this write cannot be applied: {error}", code="SYNC_CONFLICT") from error
    _refuse_repeated(row, scene)
    applied = apply_change(change, origin, caller, scene.now, held=scene.secret(row))
    scene.remember(row, write_firsts.answer_of(row, scene, applied.version))  # unless the key stands for another request
    return applied


def _refuse_repeated(row: ReceivedWrite, scene: Scene) -> None:
    """What the same request made elsewhere meanwhile is not made twice, whoever decides. Another request under the same key is a
    change of its own for who decides so; the key goes on standing for the first one."""
    scene.hold_request(row)
    try:
        first = write_firsts.of_write(row, scene)
    except Conflict as another:
        if another.code != MISMATCH:
            raise
        return
    if first is not None:
        raise Conflict(
            f"the same request made version {first.version} of the secret before, at another node; discard this write",
            code="SYNC_CONFLICT",
        )


def _discard(row: ReceivedWrite, caller: Principal, now: datetime) -> None:
    row.resolution, row.settled_by, row.settled_at, row.sealed_body = Resolution.DISCARD.value, caller.actor, now, None
    row.save(update_fields=["resolution", "settled_by", "settled_at", "sealed_body"])


def _retry(row: ReceivedWrite, now: datetime) -> None:
    if not row.in_stream or row.sealed_body is None or row.code == "WRONG_ENVIRONMENT":
        raise Conflict("this write contradicts itself or another one; apply it as a change of your own, or discard it",
                       code="SYNC_CONFLICT")  # fmt: skip
    row.outcome, row.code, row.detail, row.attempts = WriteOutcome.RECEIVED.value, "", "", 0
    row.promised, row.not_before, row.settled_at, row.settled_by = True, now, None, ""
    row.received_at = now  # so that what it waits for has its whole time to arrive again
    row.save()


def _resolved(
    row: ReceivedWrite, resolution: str, caller: Principal, address: str, now: datetime, vault: str
) -> Resolved:  # fmt: skip
    try:
        return resolve(row.id, resolution, caller, address=address, now=now, vault=vault)
    except MazeVaultError as refused:
        return Resolved(row, refused)


def _secret_of(row: ReceivedWrite) -> Secret | None:
    if row.secret is None:
        return None
    rows = Secret.objects.select_related("project", "environment")
    return rows.filter(id=row.secret, environment__gateway_environment=row.environment_id).first()


def _current_row(secret: Secret) -> dict[str, Any]:
    newest = secret.versions.defer("sealed_value").order_by("-version").first()
    return {
        "version": secret.version,
        "status": secret.status,
        "key": secret.key,
        "operation": newest.operation if newest else None,
        "author": newest.author if newest else None,
        "origin": newest.origin if newest else None,
        "changed_at": rfc3339(secret.updated_at),
    }


def _compared(row: ReceivedWrite, secret: Secret | None, caller: Principal) -> str:
    """`equal`, `different`, `none` when one side has no value, `hidden` from whoever may not read there."""
    if not caller.may(SECRETS_READ, _scope_of(row)):
        return "hidden"
    try:
        value = open_body(row).value
    except (BodyUnusable, SealBroken):
        return "none"
    held = values.holding(secret) if secret else None
    if value is None or held is None or secret is None:
        return "none"
    return "equal" if values.digest_of(secret, value) == held.value_digest else "different"


def _tried(row: ReceivedWrite, caller: Principal) -> dict[str, Any]:
    """Apply it and take it back."""
    try:
        with transaction.atomic():
            applied = _apply(row, Scene.open(row.environment_id, database_now()), caller, "", None)
            transaction.set_rollback(True)
    except MazeVaultError as refused:
        return {"possible": False, "version": None, "code": refused.code, "sentence": refused.sentence}
    sentence = f"{row.operation} makes version {applied.version}" if applied.changed else "nothing would change"
    return {"possible": True, "version": applied.version, "code": "", "sentence": sentence}
