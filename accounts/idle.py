"""Settings that existing clients send and that change nothing here: they are kept and given back, and said to be idle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NO_MAIL = "this version sends no messages; watch the audit trail"
OF_A_PROJECT: Mapping[str, str] = {
    "retention_days": "how long things are kept is set for the whole installation (docs/operations/retention.md)",
    "notification_webhooks": NO_MAIL,
    "slack_channel": NO_MAIL,
    "sync_interval_minutes": "each sync rule has an interval of its own, in its setup",
}
OF_AN_ENVIRONMENT: Mapping[str, str] = {"incident_auto_escalation": "this version has no incidents"}
OF_A_PROVIDER: Mapping[str, str] = {
    "type": "providers are kept for existing clients; people sign in with Entra as the node's ENTRA_ variables say",
    "sync_schedule": "people and their groups are read at each sign-in",
}


def not_in_force(settings: Mapping[str, Any], reasons: Mapping[str, str]) -> list[str]:
    """Each setting that is set and has no effect, as `field: not in force: why`."""
    return [f"{name}: not in force: {why}" for name, why in reasons.items() if settings.get(name)]
