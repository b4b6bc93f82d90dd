"""One stack of real processes for all journeys of a worker, with the short time profile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cli.stack.observer import Observer
from cli.stack.primary_client import PrimaryClient, PrimaryError
from cli.stack.stack import Stack, throwaway

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Journeys share the machine's two cores: all in one worker, one after the other."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.journey)
            item.add_marker(pytest.mark.xdist_group("journeys"))


PATIENCE_SECONDS = 180.0
"""How long a journey waits for what must come. Long, since other tests load the machine; what is quick costs nothing."""


class NotYet(Exception):
    """What is waited for has not come; the sentence says what speaks against it."""


class Town:
    """The running stack and what a journey asks of it."""

    def __init__(self, stack: Stack, primary: PrimaryClient) -> None:
        self.stack, self.primary = stack, primary

    def observe(self, code: str = "NPR") -> Observer:
        return Observer(self.stack.layout, [spec for spec in self.stack.layout.gateways if spec.environment == code])

    def status(self, code: str = "NPR") -> dict[str, Any]:
        return dict(self.primary.get(f"admin/failover/{code}"))

    def health(self, name: str) -> dict[str, Any]:
        return next(dict(row) for row in self.primary.get("admin/gateway-health") if row["name"] == name)

    def wait_for(self, what: str, true: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
        """The first true answer. The Primary may be away meanwhile."""
        deadline, last = time.monotonic() + seconds, "no answer"
        while time.monotonic() < deadline:
            try:
                found = true()
                if found:
                    return found
                last = repr(found)
            except (PrimaryError, NotYet) as error:
                last = str(error)
            time.sleep(0.1)
        raise AssertionError(f"{what} did not come true within {seconds:g} s; last: {last}")

    def wait_for_task(self, identifier: str, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """The row of the task once it has succeeded."""

        def look() -> dict[str, Any] | None:
            row = self.primary.get(f"admin/tasks/{identifier}")
            return dict(row) if row["state"] == "succeeded" else None

        return dict(self.wait_for("the task", look, seconds))

    def died_in_a_move(self) -> bool:
        """Whether the Primary has died. Raises with the state of NPR when its move ended and the Primary still lives."""
        if "primary" not in self.stack.pids():
            return True
        row = self.status()
        if row["operation"] is None:
            raise AssertionError(f"the move ended in {row['state']} without a crash: {row['last_operation']}")
        return False

    def wait_for_state(self, state: str, code: str = "NPR", seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            row = self.status(code)
            return row if row["state"] == state and row["operation"] is None else None

        return dict(self.wait_for(f"{code} in {state}", look, seconds))

    def move(self, kind: str, code: str = "NPR") -> dict[str, Any]:
        """Ask for a move, wait for its end, and for the new active gateway to serve."""
        goal = "DR_ACTIVE" if kind == "activate-dr" else "PRIMARY_ACTIVE"
        self.wait_for_a_plan(kind, code)
        self.ask_for(kind, code)
        return self.wait_for_state(goal, code)

    def go_home(self, code: str = "NPR") -> None:
        """Everything runs, the environment is on its primary gateway, both gateways are well."""
        for name in self.stack.children:
            self.stack.start(name)
        self.stack.wait_until_primary_answers()
        self.wait_for("an operation's end", lambda: self.status(code)["operation"] is None)
        if self.status(code)["state"] == "DR_ACTIVE":
            self.move("failback", code)
        self.wait_for_state("PRIMARY_ACTIVE", code)
        self.wait_for_a_plan("activate-dr", code)
        self.wait_for_a_lease(code)

    def ask_for(self, kind: str, code: str = "NPR") -> dict[str, Any]:
        """The answer to the request once it is taken: a machine under load misses a heartbeat, and the next one comes."""

        def look() -> Any:
            try:
                return self.primary.post(f"admin/failover/{code}/{kind}")
            except PrimaryError as error:
                if error.status != 409:
                    raise
                raise NotYet(str(error)) from error

        return dict(self.wait_for(f"{kind} to be taken", look))

    def wait_for_a_lease(self, code: str = "NPR") -> None:
        """Return when the active gateway holds a lease."""

        def held() -> bool:
            until = self.status(code)["lease_until"]
            return until is not None and datetime.fromisoformat(until) > datetime.now(UTC)

        self.wait_for(f"a lease in {code}", held)

    def wait_for_a_plan(self, kind: str, code: str = "NPR") -> None:
        """Return when nothing but haste speaks against this move."""

        def movable() -> bool:
            plan = self.primary.post(f"admin/failover/{code}/plan", {"kind": kind})
            failed = [check for check in plan["checks"] if not check["passed"]]
            if {check["name"] for check in failed} <= {"cooldown", "target_stable"}:
                return True
            raise NotYet(str(failed))

        self.wait_for(f"a plan for {kind}", movable)


@pytest.fixture(scope="package")
def _town() -> Iterator[Town]:
    """Until the last journey and no longer: a stack at rest takes half a core from the other tests."""
    with throwaway(azure=True) as stack, stack.client() as primary:
        yield Town(stack, primary)


@pytest.fixture
def town(_town: Town) -> Iterator[Town]:
    """The stack at rest: NPR on its primary gateway."""
    _town.go_home()
    yield _town
