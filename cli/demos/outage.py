"""The outage story on a throw-away stack: the Primary is killed under load, the gateways go on, it returns, every write is
applied once and in order or shown as a conflict. The last line is the summary; exit status 1 when it does not hold."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cli.demos.story import Broken, Story, profile_name
from cli.demos.writers import Accepted, Ledger, Verdict, Writer, client_of, judge
from cli.stack.layout import GatewaySpec, StackError
from cli.stack.primary_client import PrimaryClient, PrimaryError
from cli.stack.stack import Stack, stop_on_signals, throwaway

ACCEPTED, SECRETS, CHANGED = 500, 40, 10
"""Writes to be accepted, secrets they go to in each environment, and secrets of those that are changed before the cut."""
WRITERS = 2
"""Writers at each gateway."""
RECONCILED_SECONDS = 120.0
ANSWERED_SECONDS = 1.0
"""After so long, what a gateway asked before it was frozen has been answered, and what was answered has been stored."""
ACTIVE = {"dev": "gw-npr-primary", "prod": "gw-pro-primary"}


@dataclass
class Stage:
    """The project, its secrets by gateway, and what the Primary itself wrote to them."""

    secrets: dict[str, list[str]]
    known: dict[str, set[str]]
    changed: set[str]


def main() -> int:
    story, asked = Story(), stop_on_signals()
    profile = profile_name()
    story.say(f"time profile {profile}")
    try:
        with throwaway(story.say, time_profile=profile) as stack, stack.client() as primary:
            verdict = tell(stack, primary, story, asked)
    except (StackError, PrimaryError, Broken, TimeoutError) as error:
        print(f"outage demo: does not hold: {error}")
        return 1
    for trouble in (*verdict.lost, *verdict.duplicated, *verdict.reordered, *verdict.unexpected):
        print(f"  {trouble}")
    print(verdict.line())
    return 0 if verdict.holds else 1


def tell(stack: Stack, primary: PrimaryClient, story: Story, asked: Callable[[], bool], *, accepted: int = ACCEPTED,
         vandal: Callable[[Stack], None] | None = None) -> Verdict:  # fmt: skip
    """Play the whole story; `vandal` may break things in the middle of the outage and must leave everything startable."""
    stage = prepare(stack, primary)
    story.say(f"{2 * SECRETS} secrets in two environments; the gateways hold their copies")
    ledger, stop = Ledger(), threading.Event()
    load = [
        _writer(stack, primary, name, mine, ledger, stop, pause=0.02)
        for name, secrets in stage.secrets.items()
        for mine in _shares([one for one in secrets if one not in stage.changed])
    ]
    for writer in load:
        writer.start()
    _until(lambda: ledger.total() >= accepted // 10, 60, "the gateways did not accept writes", asked)
    story.say(f"{ledger.total()} writes accepted while the Primary is there, {ledger.queued()} of them queued")
    _cut(stack, primary, stage)
    story.say(f"{len(stage.changed)} secrets changed at the Primary where no gateway could see it; then kill -9 of the Primary")
    late = [
        _writer(stack, primary, name, mine, ledger, stop, label="-late", limit=2 * len(mine))
        for name, secrets in stage.secrets.items()
        for mine in [[one for one in secrets if one in stage.changed]]
    ]
    for writer in late:
        writer.start()
    if vandal:
        vandal(stack)
    _until(lambda: ledger.total() >= accepted, 180, "the gateways stopped accepting", asked)
    for writer in late:
        writer.join(60)
    stop.set()
    for writer in load:
        writer.join(60)
    story.say(f"{ledger.total()} writes accepted, {ledger.queued()} of them queued; answers that were none: {_refusals(ledger)}")
    for name in stack.children:
        stack.start(name)
    stack.wait_until_primary_answers()
    begun, stale = time.monotonic(), dict[str, str]()

    def taken() -> bool:
        stale.update(_heartbeats(primary))
        return True

    _until(taken, 30, "the Primary does not answer", asked)
    story.say("the Primary is back")
    _until(lambda: _open_writes(primary, stale) == 0, RECONCILED_SECONDS, "the queues did not become empty", asked)
    story.say(f"every write has its end after {time.monotonic() - begun:.1f} s")
    verdict = judge(primary, ledger, stage.known, known=stage.known, conflict_expected=lambda one: _is_late(stage, one))
    _table(story, ledger, verdict)
    return verdict


def prepare(stack: Stack, primary: PrimaryClient) -> Stage:
    """An organization with a project and its secrets, once the gateways have them."""
    organization = primary.post("organizations", {"name": f"outage {time.time():.3f}"})["id"]
    project = primary.post("projects", {"name": "payments", "organization_id": organization})["id"]
    secrets: dict[str, list[str]] = {name: [] for name in ACTIVE.values()}
    known: dict[str, set[str]] = {}
    for environment, gateway in ACTIVE.items():
        for number in range(SECRETS):
            value = f"first value {environment} {number}"
            wish = {"project_id": project, "environment": environment, "key": f"key-{number:03}", "value": value}
            identifier = primary.post("secrets", wish)["id"]
            secrets[gateway].append(identifier)
            known[identifier] = {value}
    changed = {one for name in secrets for one in secrets[name][: CHANGED // 2]}
    for spec in stack.layout.gateways:
        if spec.name in secrets:
            _wait_for_copy(stack, primary, spec, secrets[spec.name][-1])
    return Stage(secrets, known, changed)


def _cut(stack: Stack, primary: PrimaryClient, stage: Stage) -> None:
    """Freeze the gateways, change some secrets, kill the Primary, let the gateways go on. A change that a gateway had asked for
    before it froze, and was answered late, is taken out of `stage.changed`: it is known there."""
    for name in stage.secrets:
        stack.freeze(name)
    try:
        time.sleep(ANSWERED_SECONDS)
        for secret in sorted(stage.changed):
            value = f"changed at the Primary {secret}"
            primary.put(f"secrets/{secret}", {"value": value})
            stage.known[secret].add(value)
        stack.kill("primary")
    finally:
        for name in stage.secrets:
            stack.thaw(name)
    time.sleep(ANSWERED_SECONDS)
    for spec in stack.layout.gateways:
        with client_of(spec.url, stack.layout.ca_file, primary.token) as gateway:
            for secret in stage.changed.intersection(stage.secrets.get(spec.name, [])):
                answer = gateway.get(f"secrets/{secret}")
                if answer.status_code == 200 and answer.json()["value"].startswith("changed"):
                    stage.changed.remove(secret)


def _writer(stack: Stack, primary: PrimaryClient, gateway: str, secrets: list[str], ledger: Ledger, stop: threading.Event,
            **more: Any) -> Writer:  # fmt: skip
    spec = next(one for one in stack.layout.gateways if one.name == gateway)
    return Writer(gateway, spec.url, stack.layout.ca_file, primary.token, secrets, ledger, stop, **more)


def _shares(secrets: list[str]) -> list[list[str]]:
    return [secrets[number::WRITERS] for number in range(WRITERS)]


def _is_late(stage: Stage, one: Accepted) -> bool:
    return one.secret in stage.changed


def _wait_for_copy(stack: Stack, primary: PrimaryClient, spec: GatewaySpec, secret: str) -> None:
    with client_of(spec.url, stack.layout.ca_file, primary.token) as gateway:
        _until(lambda: gateway.get(f"secrets/{secret}").status_code == 200, 90, f"{spec.name} has no copy", lambda: False)


def _open_writes(primary: PrimaryClient, stale: Mapping[str, str]) -> float:
    """Writes without an end: at the gateways by their heartbeats, at the Primary by its rows. No number yet is infinitely many:
    a heartbeat of before the outage tells of a queue that was empty then."""
    rows = [row for row in primary.get("admin/gateway-health") if row["name"] in ACTIVE.values()]
    if any(row["last_heartbeat"] == stale[row["name"]] for row in rows):
        return math.inf
    at_gateways = sum(row["write_queue"]["depth"] for row in rows)
    return float(at_gateways + len(primary.get("admin/writes?outcome=received")))


def _heartbeats(primary: PrimaryClient) -> dict[str, str]:
    return {row["name"]: row["last_heartbeat"] for row in primary.get("admin/gateway-health")}


def _table(story: Story, ledger: Ledger, verdict: Verdict) -> None:
    by_gateway: dict[str, int] = {}
    for one in ledger.accepted:
        by_gateway[one.gateway] = by_gateway.get(one.gateway, 0) + 1
    rows: list[tuple[str, Any]] = [(f"accepted at {name}", count) for name, count in sorted(by_gateway.items())]
    rows += [("applied", verdict.applied), ("conflicts", verdict.conflicts), ("lost", len(verdict.lost)),
             ("duplicated", len(verdict.duplicated)), ("reordered", len(verdict.reordered)),
             ("answers that told nothing", len(ledger.unknown))]  # fmt: skip
    for name, count in rows:
        story.say(f"  {name:<28} {count:>5}")


def _refusals(ledger: Ledger) -> str:
    return ", ".join(f"{count} x {what}" for what, count in sorted(ledger.refused.items())) or "none"


def _until(true: Callable[[], bool], seconds: float, sorry: str, interrupted: Callable[[], bool]) -> None:
    deadline, last = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        if interrupted():
            raise Broken("interrupted")
        try:
            if true():
                return
        except PrimaryError as error:
            last = str(error)
        time.sleep(0.1)
    raise Broken(f"{sorry} within {seconds:g} s {last}".strip())


if __name__ == "__main__":
    sys.exit(main())
