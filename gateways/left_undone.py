"""What a task leaves undone when it ends without success: told in the audit where a promise hangs from it (DESIGN §1, §10)."""

from __future__ import annotations

from typing import Any

from common import audit
from gateways.kinds import KINDS
from gateways.models import Task
from integrations.models import Integration
from protocol.plain import plain

ACTION = "task.left_undone"
PUT_BACK = "vault.put_back"


def tell(task: Task, why: str) -> None:
    """A critical entry that says what remains undone and what to do. In the transaction that ends the task."""
    kind = KINDS.get(task.kind)
    if kind is None or not kind.left_undone:
        return
    audit.record(
        actor="system", action=ACTION, entity="task", entity_id=str(task.id), severity=audit.Severity.CRITICAL,
        environment=task.environment_id,
        details={"kind": kind.name, "environment": task.environment_id, **_where(task.payload), "left_undone": kind.left_undone,
                 "what_to_do": kind.what_to_do, "state": task.state, "attempts": task.attempts, "why": why[:500]},
    )  # fmt: skip


def tell_kept(task: Task) -> None:
    """What a gateway found changed since, and left as it is: a person has to say which value counts."""
    kept = task.result.get("kept") if isinstance(task.result, dict) else None
    if task.kind != PUT_BACK or not kept:
        return
    audit.record(
        actor="system", action="vault.not_put_back", entity="task", entity_id=str(task.id), severity=audit.Severity.WARNING,
        environment=task.environment_id,
        details={"environment": task.environment_id, **_where(task.payload), "kept": plain(str(kept))[:200],
                 "recorded": task.payload.get("recorded", ""),
                 "why": "somebody changed it in the vault since, so the vault is left as it is",
                 "what_to_do": "look at the newest version there; save the secret anew in MazeVault if it should not count"},
    )  # fmt: skip


def _where(payload: dict[str, Any]) -> dict[str, str]:
    """Which integration, vault and secret it was about. A deleted integration is named as well; a survey is of no one secret."""
    identifier, key = str(payload.get("integration", "")), str(payload.get("key", ""))
    found = Integration.objects.filter(id=identifier).first() if identifier else None
    place = {"integration": identifier, "integration_name": found.name if found else "",
             "vault": str(found.config.get("vault_url", "")) if found else ""}  # fmt: skip
    return {**place, "secret": key, "name_in_vault": str(payload.get("name", ""))} if key else place
