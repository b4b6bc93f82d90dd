"""The failover story on a throw-away stack: a gateway is killed, its environment moves to DR, the old one returns and is
refused, the environment moves back. Prints times; the last line is the summary; exit status 1 when a promise did not hold."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from cli.demos.story import Broken, Story, profile_name
from cli.stack.layout import StackError
from cli.stack.observer import Observer
from cli.stack.primary_client import PrimaryClient, PrimaryError
from cli.stack.stack import Stack, stop_on_signals, throwaway
from protocol.timing import PROFILES

OLD, NEW = "gw-npr-primary", "gw-npr-dr"
PROMISES: dict[str, float] = {"unplanned": 55.0, "planned": 5.0}
"""Longest times in seconds from the accepted request to the new gateway's first effect, and of nobody active."""


def main() -> int:
    story, asked = Story(), stop_on_signals()
    timing = PROFILES[profile_name()]
    story.say(
        f"time profile {timing.name}: heartbeat {timing.heartbeat_interval:g} s, lease {timing.lease_ttl:g} s "
        "(MAZEVAULT_TIME_PROFILE=standard for the real ones)"
    )
    try:
        with throwaway(story.say, time_profile=profile_name()) as stack, stack.client() as primary:
            specs = [spec for spec in stack.layout.gateways if spec.environment == "NPR"]
            with Observer(stack.layout, specs) as observer:
                summary = _tell(stack, primary, observer, story, asked)
    except (StackError, PrimaryError, Broken, TimeoutError) as error:
        print(f"failover demo: does not hold: {error}")
        return 1
    print(summary)
    return 0


def _tell(stack: Stack, primary: PrimaryClient, observer: Observer, story: Story, asked: Callable[[], bool]) -> str:
    until = _Until(primary, asked)
    observer.wait_until_serving(OLD, 10)
    pid = stack.pids()[OLD]
    stack.kill(OLD)
    killed = time.monotonic()
    story.say(f"kill -9 {pid}: {OLD} is gone, NPR has no active gateway")
    ill = until.health(OLD, lambda row: row["health_score"] < 0.5, 260)
    story.say(f"{OLD}: health {ill['health_score']:.2f} ({ill['health']}): {'; '.join(ill['why'])}")
    plan = primary.post("admin/failover/NPR/plan")
    story.say(f"plan: {plan['verdict']}, {plan['estimate']['writes_at_risk']} writes at risk, "
              f"about {plan['estimate']['seconds_to_serve']:g} s to serve ({plan['estimate']['way']})")  # fmt: skip
    task = primary.post("admin/tasks", {"environment": "NPR", "kind": "gateway.probe"})["id"]
    begun = time.monotonic()
    accepted = primary.post("admin/failover/NPR/activate-dr", {"plan_id": plan["plan_id"]})
    story.say(f"activate-dr accepted: {accepted['state']}, waits for {accepted['operation']['waits_for']}")
    done = until.task(task, 90)
    unplanned = time.monotonic() - begun
    _hold(done["gateway"] == NEW and done["epoch"] == 2, f"the first effect came from {done['gateway']} in {done['epoch']}")
    serving = observer.wait_until_serving(NEW, 10, since=killed)
    story.say(f"{NEW} serves in epoch 2; its first effect came {unplanned:.1f} s after the request")
    _hold(unplanned <= PROMISES["unplanned"], f"the first effect took {unplanned:.1f} s")
    story.say(f"nobody was active for {serving - killed:.1f} s since the kill")

    stack.start(OLD)
    back = until.health(OLD, lambda row: row["activation_status"] == "fenced" and row["reported_role"] == "fenced", 90)
    story.say(f"{OLD} is back and refused: assigned {back['assigned_role']}, it says {back['reported_role']} itself")
    until.plan_is_green("failback", 400)
    last, planned = _move_back(primary, observer, story, until)

    broken = observer.two_at_once()
    _hold(not broken, f"two gateways served at once: {broken[:1]}")
    looks = len(observer.sightings)
    story.say(f"{looks} looks at both gateways: never two active at once")
    status = primary.get("admin/failover/NPR")
    _hold((status["state"], status["epoch"]) == ("PRIMARY_ACTIVE", 3), f"ended in {status['state']}, epoch {status['epoch']}")
    return (
        f"failover demo: holds; activate-dr to first effect {unplanned:.1f} s (promised {PROMISES['unplanned']:g}), "
        f"planned failback {planned:.1f} s with nobody active for {last:.1f} s (promised {PROMISES['planned']:g}), "
        f"two active at once 0 of {looks} looks"
    )


def _move_back(primary: PrimaryClient, observer: Observer, story: Story, until: _Until) -> tuple[float, float]:
    """Failback; returns the seconds without an active gateway and the seconds from request to service."""
    begun = time.monotonic()
    primary.post("admin/failover/NPR/failback")
    story.say("failback accepted")
    serving = observer.wait_until_serving(OLD, 60, since=begun)
    last = observer.last_serving(NEW, serving)
    gap = max(0.0, serving - last) if last else 0.0
    story.say(f"{OLD} serves again, {serving - begun:.1f} s after the request; nobody was active for {gap:.2f} s")
    _hold(gap <= PROMISES["planned"], f"nobody was active for {gap:.1f} s")
    task = primary.post("admin/tasks", {"environment": "NPR", "kind": "gateway.probe"})["id"]
    done = until.task(task, 30)
    _hold((done["gateway"], done["epoch"]) == (OLD, 3), f"the next effect came from {done['gateway']} in epoch {done['epoch']}")
    return gap, serving - begun


class _Until:
    """Waits for something the Primary says."""

    def __init__(self, primary: PrimaryClient, interrupted: Callable[[], bool]) -> None:
        self._primary, self._interrupted = primary, interrupted

    def health(self, name: str, fits: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            row = next(row for row in self._primary.get("admin/gateway-health") if row["name"] == name)
            return dict(row) if fits(row) else None

        return self._wait(look, seconds, f"the health of {name} did not get there")

    def task(self, identifier: str, seconds: float) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            row = self._primary.get(f"admin/tasks/{identifier}")
            return dict(row) if row["state"] == "succeeded" else None

        return self._wait(look, seconds, "the task was not done")

    def plan_is_green(self, kind: str, seconds: float) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            plan = self._primary.post("admin/failover/NPR/plan", {"kind": kind})
            passed = {check["name"] for check in plan["checks"] if not check["passed"]}
            return dict(plan) if passed <= {"cooldown"} else None

        return self._wait(look, seconds, f"the plan for {kind} did not become green", pause=0.5)

    def _wait(self, look: Callable[[], dict[str, Any] | None], seconds: float, sorry: str, pause: float = 0.1) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._interrupted():
                raise Broken("interrupted")
            found = look()
            if found is not None:
                return found
            time.sleep(pause)
        raise Broken(f"{sorry} within {seconds:g} s")


def _hold(true: bool, otherwise: str) -> None:
    if not true:
        raise Broken(otherwise)


if __name__ == "__main__":
    sys.exit(main())
