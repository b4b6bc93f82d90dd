"""What `mazevault status` says: the fleet as its Primary sees it, and one exit status."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli.stack.primary_client import SESSION_FILE, PrimaryClient, PrimaryError

HEALTHY, ERROR, DEGRADED = 0, 1, 2
_RESUME = '{"gateway":"NAME","confirm":"%s","reason":"WHY"}'


@dataclass(frozen=True)
class Overview:
    """`code` is the exit status: 0 healthy, 1 error, 2 degraded, DR active or nobody who may act. `commands` can be pasted."""

    code: int
    sentence: str
    gateways: list[dict[str, Any]] = field(default_factory=list)
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    commands: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        words = {HEALTHY: "healthy", ERROR: "error", DEGRADED: "degraded"}
        return {
            "status": words[self.code],
            "summary": self.sentence,
            "commands": list(self.commands),
            "environments": self.environments,
            "gateways": self.gateways,
        }

    def lines(self) -> list[str]:
        """The same for people."""
        shown = [self.sentence, *(f"  $ {command}" for command in self.commands)]
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


def overview(run: Mapping[str, Any]) -> Overview:
    """Ask the Primary of a running stack."""
    try:
        with _client(run) as primary:
            gateways = primary.get("admin/gateway-health")
            codes = sorted({row["environment"] for row in gateways})
            environments = {code: primary.get(f"admin/failover/{code}") for code in codes}
    except (PrimaryError, OSError) as error:
        return _unanswered(run, error)
    return _judged(gateways, environments, run)


def _client(run: Mapping[str, Any]) -> PrimaryClient:
    return PrimaryClient(
        run["primary_url"], Path(run["ca_file"]), run["admin_email"], Path(run["admin_password_file"]), timeout=8
    )


def _unanswered(run: Mapping[str, Any], error: Exception) -> Overview:
    """Nothing is known of the fleet. Who is down, and what starts it."""
    if getattr(error, "status", None) is not None:
        return Overview(ERROR, f"the Primary refuses to say how the fleet is: {error}")
    if "primary" in run.get("pids", {}):
        told = f"the Primary runs and does not answer: {error}; it may have just started, else look at its log"
        return Overview(ERROR, told, commands=("./mazevault logs primary", "./mazevault restart primary"))
    told = f"the Primary is not running: {error}. Gateways go on serving without it, but nothing moves and no lease is renewed"
    return Overview(ERROR, told, commands=("./mazevault start primary",))


def _judged(
    gateways: list[dict[str, Any]], environments: dict[str, dict[str, Any]], run: Mapping[str, Any] | None = None
) -> Overview:
    rows, found = environments.values(), run or {}
    down = _not_running(found)
    commands = (*_starts(down), *_calls(rows, found))
    stuck = [f"{row['headline']}; next: {row['next']}" for row in rows if row["state"] == "HOLD" or row["active_gateway"] is None]
    if stuck:
        return Overview(ERROR, "; ".join(stuck), gateways, environments, commands)
    idle = [row["headline"] for row in rows if row["next"] or not row["may_act"]]
    moved = [row["headline"] for row in rows if row["state"] != "PRIMARY_ACTIVE" and row["headline"] not in idle]
    ended = [f"{name} is not running" for name in down]
    ill = [f"{row['name']} is {_how_ill(row)}" for row in gateways if _is_ill(row) and row["name"] not in down]
    if idle + moved + ended + ill:
        return Overview(DEGRADED, "; ".join(idle + moved + ended + ill), gateways, environments, commands)
    return Overview(HEALTHY, "healthy: every environment is on its primary gateway", gateways, environments)


def _is_ill(row: Mapping[str, Any]) -> bool:
    return bool(row["health"] != "healthy" and row["activation_status"] != "cold")


def _how_ill(row: Mapping[str, Any]) -> str:
    return "stopped" if row["activation_status"] == "stopped" else "not healthy"


def _not_running(run: Mapping[str, Any]) -> list[str]:
    """Gateways of this stack that have no process, as its launcher knows within moments."""
    return [one["name"] for one in run.get("gateways", ()) if one["name"] not in run.get("pids", {})]


def _starts(names: Iterable[str]) -> Iterator[str]:
    return (f"./mazevault start {name}" for name in names)


def _calls(rows: Iterable[Mapping[str, Any]], run: Mapping[str, Any]) -> Iterator[str]:
    """The calls that the next steps name, as commands."""
    if not run:
        return
    session = Path(run["admin_password_file"]).with_name(SESSION_FILE)
    for row in rows:
        for path in re.findall(r"POST (admin/failover/\S+)", row["next"]):
            body = f" -H 'Content-Type: application/json' -d '{_RESUME % row['environment']}'" if path.endswith("resume") else ""
            yield (
                f"curl -sS --fail-with-body --cacert {run['ca_file']} -X POST {run['primary_url']}/api/v1/{path} "
                f'-H "Authorization: Bearer $(cat {session})"{body}'
            )
