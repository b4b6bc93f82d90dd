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
        for row in self.environments.values():
            shown.append(f"{row['headline']}  ({row['state']}, epoch {row['epoch']}, standby {row['standby_gateway']})")
            if row["next"]:
                shown.append(f"  next: {row['next']}")
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
    rows = environments.values()
    stuck = [row["headline"] for row in rows if row["state"] == "HOLD" or row["active_gateway"] is None]
    if stuck:
        return Overview(ERROR, "; ".join(stuck), gateways, environments)
    idle = [row["headline"] for row in rows if row["next"]]
    moved = [row["headline"] for row in rows if row["state"] != "PRIMARY_ACTIVE" and not row["next"]]
    ill = [f"{row['name']} is not healthy" for row in gateways if _is_ill(row)]
    if idle + moved + ill:
        return Overview(DEGRADED, "; ".join(idle + moved + ill), gateways, environments)
    return Overview(HEALTHY, "healthy: every environment is on its primary gateway", gateways, environments)


def _is_ill(row: dict[str, Any]) -> bool:
    return bool(row["health"] != "healthy" and row["activation_status"] != "cold")
