"""`storage.look`: read in the vault what was moved there, and prove it to the Primary (`gateways.storage_kept`). Reads only."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from gateway_runtime import vaults
from gateway_runtime.frames import TaskFrame
from integrations.azure.egress import CALL_SECONDS
from integrations.azure.errors import AzureTrouble
from integrations.azure.keyvault import KeyVault
from integrations.sights import closed, look_at
from protocol import paths
from protocol.storage import LookAnswer, LookReport, MovedVersion, MovingSecret, Sight, VersionSeen, seen_digest
from protocol.vault_access import VaultAccess

WORK_SECONDS = 40.0
"""For so long one task looks; what is left is due in another one."""


def work_on(frame: TaskFrame, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Look for secrets until none is due, or for as long as one task may."""
    whose: dict[str, Any] = {"move": str(payload["move"]), "claim": frame.claim, "epoch": frame.epoch}
    until, looked, report = time.monotonic() + WORK_SECONDS, set[str](), LookReport(**whose)
    while True:
        answer = frame.ask(paths.STORAGE_LOOK, report, LookAnswer)
        if answer.secret is None or answer.access is None or time.monotonic() > until or answer.secret.secret in looked:
            return {"looked": len(looked)}  # who is asked for the same again was not understood, and will not be now
        try:
            seen = _seen(frame, answer.access, answer.secret, answer.nonce)
        except AzureTrouble as trouble:
            if not closed(trouble):
                raise
            told = f"{trouble.cause}. Fix: {trouble.fix}"[:1000]
            frame.ask(paths.STORAGE_LOOK, LookReport(**whose, code=trouble.code, detail=told), LookAnswer)
            return {"looked": len(looked), "code": trouble.code}
        report = LookReport(**whose, secret=answer.secret.secret, seen=seen)
        looked.add(answer.secret.secret)


def _seen(frame: TaskFrame, access: VaultAccess, asked: MovingSecret, nonce: str) -> list[VersionSeen]:
    connection = vaults.connection_of(access)
    seconds = min(frame.deadline, CALL_SECONDS)
    with KeyVault(connection, vaults.credential_of(connection), vaults.guard(), seconds=seconds) as vault:
        return [_one(vault, asked, version, nonce) for version in asked.versions]


def _one(vault: KeyVault, asked: MovingSecret, row: MovedVersion, nonce: str) -> VersionSeen:
    found = look_at(vault, asked.name, row.external_version)
    if found.sight is not Sight.READ:
        return VersionSeen(row.version, found.sight, detail=found.detail[:1000])
    return VersionSeen(row.version, Sight.READ, seen_digest(nonce, asked.secret, row.version, row.external_version, found.value))
