"""What `mazevault status` says: the fleet as its Primary sees it, and one exit status."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.stack.primary_client import PrimaryClient, PrimaryError

HEALTHY, ERROR, DEGRADED = 0, 1, 2


@dataclass(frozen=True)
class Overview:
    """`code` is the exit status: 0 healthy, 1 error, 2 degraded or DR active."""

    code: int
    sentence: str
    gateways: list[dict[str, Any]]
    environments: dict[str, dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        words = {HEALTHY: "healthy", ERROR: "error", DEGRADED: "degraded"}
        return {
            "status": words[self.code],
            "summary": self.sentence,
            "environments": self.environments,
            "gateways": self.gateways,
        }

    def lines(self) -> list[str]:
        """The same for people."""
        shown = [self.sentence]
        for code, row in self.environments.items():
            active = row["active_gateway"] or "nobody"
            shown.append(f"{code}: {row['state']}, epoch {row['epoch']}, active {active}, standby {row['standby_gateway']}")
        for row in self.gateways:
            age = row["heartbeat_age_seconds"]
            heard = "never heard" if age is None else f"heard {age:.0f} s ago"
            why = f"  ({'; '.join(row['why'])})" if row["why"] else ""
            shown.append(
                f"  {row['name']:<15} {row['activation_status']:<9} {row['health']:<9} {row['health_score']:.2f}  {heard}{why}"
            )
        return shown


def overview(run: dict[str, Any]) -> Overview:
    """Ask the Primary of a running stack."""
    client = PrimaryClient(
        run["primary_url"], Path(run["ca_file"]), run["admin_email"], Path(run["admin_password_file"]), timeout=8
    )
    try:
        with client as primary:
            gateways = primary.get("admin/gateway-health")
            codes = sorted({row["environment"] for row in gateways})
            environments = {code: primary.get(f"admin/failover/{code}") for code in codes}
    except (PrimaryError, OSError) as error:
        return Overview(ERROR, f"the Primary cannot be asked: {error}", [], {})
    return _judged(gateways, environments)


def _judged(gateways: list[dict[str, Any]], environments: dict[str, dict[str, Any]]) -> Overview:
    held = [code for code, row in environments.items() if row["state"] == "HOLD" or row["active_gateway"] is None]
    if held:
        return Overview(ERROR, f"{', '.join(held)}: no active gateway, or held", gateways, environments)
    moved = [code for code, row in environments.items() if row["state"] != "PRIMARY_ACTIVE"]
    ill = [row["name"] for row in gateways if row["health"] != "healthy" and row["activation_status"] != "cold"]
    troubles = [f"{code} is not on its primary gateway" for code in moved] + [f"{name} is not healthy" for name in ill]
    if troubles:
        return Overview(DEGRADED, "; ".join(troubles), gateways, environments)
    return Overview(HEALTHY, "healthy: every environment is on its primary gateway", gateways, environments)
