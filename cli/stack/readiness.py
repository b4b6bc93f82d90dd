"""What a stack that was started still lacks before it is ready, in words; asked of its Primary."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from cli.stack.layout import GatewaySpec
from cli.stack.primary_client import PrimaryClient

HEARD_SECONDS = 60.0
"""A heartbeat that is older is of an earlier life of the stack."""


def missing(primary: PrimaryClient, gateways: Iterable[GatewaySpec]) -> str:
    """The first thing without which the stack is not ready; empty when nothing is missing."""
    gateways = tuple(gateways)
    health = {row["name"]: row for row in primary.get("admin/gateway-health")}
    for spec in gateways:
        row = health.get(spec.name)
        if row is None:
            return f"{spec.name} is not registered"
        if row["last_heartbeat"] is None or row["heartbeat_age_seconds"] > HEARD_SECONDS:
            return f"no heartbeat of {spec.name} yet"
    return next(filter(None, (_missing_in(primary, code) for code in _codes(gateways))), "")


def _missing_in(primary: PrimaryClient, code: str) -> str:
    status = primary.get(f"admin/failover/{code}")
    if not status["active_gateway"] or not _in_future(status["lease_until"]):
        return f"the active gateway of {code} holds no lease"
    plan = primary.post(f"admin/failover/{code}/plan")
    if status["state"] == "PRIMARY_ACTIVE" and plan["verdict"] == "refused":
        return f"{code} could not be moved: {'; '.join(check['sentence'] for check in _failing(plan))}"
    return ""


def without_copies(primary: PrimaryClient, gateways: Iterable[GatewaySpec]) -> str:
    """What the plans say of copies that are not complete; empty when there is none."""
    plans = [primary.post(f"admin/failover/{code}/plan") for code in _codes(gateways)]
    return "; ".join(check["sentence"] for plan in plans for check in _failing(plan) if check["name"] == "target_copy")


def _codes(gateways: Iterable[GatewaySpec]) -> Iterable[str]:
    return dict.fromkeys(spec.environment for spec in gateways)


def _failing(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [check for check in plan["checks"] if not check["passed"]]


def _in_future(moment: str | None) -> bool:
    return moment is not None and datetime.fromisoformat(moment) > datetime.now(UTC)
