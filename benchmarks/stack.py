"""A whole stack: how fast it starts, answers and moves. Short time profile; the lease decides an unplanned move."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.measure import spread
from cli.stack.layout import Layout
from cli.stack.observer import Observer
from cli.stack.primary_client import PrimaryClient
from cli.stack.stack import Stack, free_port_base

CALLS, MOVES = 150, 5


def stack() -> dict[str, object]:
    """Seconds to ready (first and second start), milliseconds of calls, seconds without an active gateway."""
    with tempfile.TemporaryDirectory(prefix="mazevault-bench-") as folder:
        layout = Layout(var=Path(folder), port_base=free_port_base(), time_profile="short")
        own = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
        first = _started(layout, own)[0]
        seconds, running = _started(layout, own, keep=True)
        assert running is not None
        try:
            with running.client() as primary:
                calls = _calls(primary)
                planned, unplanned = _moves(running, primary)
        finally:
            running.down()
    return {
        "first_start_seconds": first,
        "second_start_seconds": seconds,
        **calls,
        "planned_move_nobody_active_seconds": planned,
        "unplanned_move_first_effect_seconds": unplanned,
        "method": f"short profile (lease 5 s), {CALLS} calls one after the other over one TLS connection, {MOVES} planned moves "
        "each way seen from outside every 40 ms, one kill -9 with activate-dr at once",
    }


def _started(layout: Layout, environ: dict[str, str], *, keep: bool = False) -> tuple[float, Stack | None]:
    made = Stack(layout, environ, lambda _line: None)
    began = time.monotonic()
    try:
        made.up()
    except BaseException:
        made.down()
        raise
    seconds = round(time.monotonic() - began, 1)
    if keep:
        return seconds, made
    made.down()
    return seconds, None


def _calls(primary: PrimaryClient) -> dict[str, object]:
    paths = {"gateway_health": "admin/gateway-health", "failover_status": "admin/failover/NPR", "health": "health"}
    return {name: spread([_timed(partial(primary.get, path)) for _ in range(CALLS)]) for name, path in paths.items()}


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _moves(running: Stack, primary: PrimaryClient) -> tuple[list[float], float]:
    npr = [spec for spec in running.layout.gateways if spec.environment == "NPR"]
    names = [spec.name for spec in npr]
    gaps: list[float] = []
    with Observer(running.layout, npr) as observer:
        observer.wait_until_serving(names[0], 20)
        for number in range(2 * MOVES):
            kind, old, new = ("activate-dr", *names) if number % 2 == 0 else ("failback", *reversed(names))
            _wait_for_plan(primary, kind)
            began = time.monotonic()
            primary.post(f"admin/failover/NPR/{kind}")
            serving = observer.wait_until_serving(new, 30, since=began)
            last = observer.last_serving(old, serving)
            gaps.append(round(serving - last if last else 0.0, 2))
        _wait_for_plan(primary, "activate-dr")
        os.kill(running.pids()[names[0]], signal.SIGKILL)
        task = primary.post("admin/tasks", {"environment": "NPR", "kind": "gateway.probe"})["id"]
        primary.post("admin/failover/NPR/activate-dr")
        began = time.monotonic()
        while primary.get(f"admin/tasks/{task}")["state"] != "succeeded":
            time.sleep(0.05)
        unplanned = round(time.monotonic() - began, 1)
        assert observer.two_at_once() == []
    return gaps, unplanned


def _wait_for_plan(primary: PrimaryClient, kind: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        plan = primary.post("admin/failover/NPR/plan", {"kind": kind})
        if {check["name"] for check in plan["checks"] if not check["passed"]} <= {"cooldown", "target_stable"}:
            return
        time.sleep(0.1)
    raise RuntimeError(f"no plan for {kind} became possible within 30 s")
