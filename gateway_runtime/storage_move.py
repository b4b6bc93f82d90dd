"""`storage.move`: take the values of a project into its vault, or out of it, secret by secret (`gateways.storage_moves`)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from accounts.models import Environment, Project
from common.errors import Conflict, MazeVaultError
from gateway_runtime import vaults
from gateway_runtime.frames import TaskFrame
from integrations.azure.egress import CALL_SECONDS
from integrations.azure.errors import AccessDenied, AzureTrouble, ObjectDisabled, ObjectMissing, OutcomeUnknown, TokenTrouble
from integrations.azure.keyvault import KeyVault
from integrations.keeping import Work
from protocol import paths
from protocol.messages import Acknowledged
from protocol.storage import EndMove, MoveAnswer, MovedSecret, MovedVersion, MoveProgress, MovingSecret
from protocol.vault_access import VaultAccess
from vault.models import Secret

WORK_SECONDS = 40.0
"""For so long one task moves secrets; then other tasks get their turn."""


def work_on(frame: TaskFrame, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Move secrets until none is left, or for as long as one task may."""
    whose: dict[str, Any] = {"move": str(payload["move"]), "claim": frame.claim, "epoch": frame.epoch}
    until, moved, ended = time.monotonic() + WORK_SECONDS, 0, list[MovedSecret]()
    while True:
        answer = frame.ask(paths.STORAGE_MOVE, MoveProgress(**whose, ended=ended), MoveAnswer)
        if answer.secret is None or answer.access is None:
            frame.ask(paths.STORAGE_END, EndMove(**whose), Acknowledged)
            return {"moved": moved}
        if moved and time.monotonic() > until:
            frame.ask(paths.STORAGE_END, EndMove(**whose, paused=True), Acknowledged)
            return {"moved": moved, "paused": True}
        try:
            ended = [_moved(frame, answer, answer.secret, answer.access)]
        except (AccessDenied, TokenTrouble) as denied:
            told = f"{denied.cause}. Fix: {denied.fix}"[:1000]
            frame.ask(paths.STORAGE_END, EndMove(**whose, code=denied.code, detail=told), Acknowledged)
            return {"moved": moved, "code": denied.code}
        moved += not ended[0].code


def _moved(frame: TaskFrame, answer: MoveAnswer, told: MovingSecret, access: VaultAccess) -> MovedSecret:
    """One secret with its versions. What the vault does not take stays where it is, and the others go on."""
    connection = vaults.connection_of(access)
    seconds = min(frame.deadline, CALL_SECONDS)
    with KeyVault(connection, vaults.credential_of(connection), vaults.guard(), seconds=seconds) as vault:
        try:
            if not answer.to_vault:
                versions = _taken_out(frame, vault, told)
            else:
                _refuse_other_value(vault, told, answer.takes_over)
                work = Work(vault, _secret(told, answer.owner), lambda _secret: frame.effect(), answer.takes_over)
                versions = _put_in(work, told)
        except AzureTrouble as trouble:
            if trouble.retrying_helps or isinstance(trouble, OutcomeUnknown | TokenTrouble) or _denied(trouble):
                raise
            return MovedSecret(told.secret, code=trouble.code, detail=f"{trouble.cause}. Fix: {trouble.fix}"[:1000])
        except MazeVaultError as refused:
            return MovedSecret(told.secret, code=refused.code, detail=refused.sentence[:1000])
    return MovedSecret(told.secret, versions, told.at)


def _denied(trouble: AzureTrouble) -> bool:
    """Whether the vault denies this gateway, which ends the move; a single disabled object only stays where it is."""
    return isinstance(trouble, AccessDenied) and not isinstance(trouble, ObjectDisabled)


def _refuse_other_value(vault: KeyVault, told: MovingSecret, takes_over: Collection[str]) -> None:
    """A name that a rule of the project brought is taken over when it has the project's value, and not when that was changed."""
    if not takes_over or told.deleted:
        return
    with suppress(ObjectMissing):
        held = vault.get(told.name)
        marks = held.entry.marks
        if marks is not None and marks.owner in takes_over and held.value != told.versions[-1].value:
            raise Conflict(
                f"the name {told.name!r} in the vault was brought there by a sync rule and has another value now; let the rule "
                "bring them into step, then move again",
                code="VALUE_DIFFERS_IN_VAULT",
            )


def _put_in(work: Work, told: MovingSecret) -> list[MovedVersion]:
    versions = [
        MovedVersion(one.version, work.update(one.value or "") if number else work.create(one.value or ""))
        for number, one in enumerate(told.versions)
    ]
    if told.deleted:
        work.delete()
    return versions


def _taken_out(frame: TaskFrame, vault: KeyVault, told: MovingSecret) -> list[MovedVersion]:
    """A deleted one is recovered to be read, and deleted again; where the lease went in between, the Primary has that done."""
    if told.deleted:
        with suppress(ObjectMissing), frame.effect():
            vault.recover(told.name)
    try:
        newest = vault.get(told.name).entry.version
        if newest != told.versions[-1].external_version:
            raise Conflict(
                f"{told.name}: was changed in the vault after version {told.versions[-1].version}; read the value, set "
                "it here, then it rests here", code="CHANGED_IN_VAULT",
            )  # fmt: skip
        return [MovedVersion(one.version, value=vault.get(told.name, one.external_version).value) for one in told.versions]
    finally:
        if told.deleted:
            with frame.effect():
                vault.delete(told.name)


def _secret(told: MovingSecret, owner: str) -> Secret:
    """The secret as far as its vault is concerned: its key and its project."""
    project, environment = owner.removeprefix("project:").split("/")
    return Secret(id=uuid.UUID(told.secret), key=told.key, project=Project(id=project), environment=Environment(id=environment))
