"""Silent and dripping connections against a real Primary: leases live on, people are answered, a restarted gateway comes back."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
import pytest

from cli.stack.stack import Stack, throwaway

pytestmark = [pytest.mark.long, pytest.mark.journey, pytest.mark.xdist_group("journeys")]

SECONDS = 60.0
LEAST_LEASE = 20.0
"""Of 45 s, in seconds; an effect needs 10 s."""
LONGEST_HEALTH = 2.0
BACK_SECONDS = 30.0
"""A gateway that is restarted has its lease again after so long, imports on a busy machine included."""
RESTARTED, UNTOUCHED = "gw-npr-primary", "PRO"


@dataclass
class Watched:
    """What was seen from outside while the strangers were there. Times are monotonic seconds."""

    leases: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {"NPR": [], "PRO": []})
    health: list[tuple[float, int]] = field(default_factory=list)

    def least(self, code: str, since: float = 0.0) -> float:
        return min(left for at, left in self.leases[code] if at >= since)

    def held_again(self, code: str, since: float) -> float:
        """Seconds from `since` until this environment had a full lease again, having lost it."""
        lost = next(at for at, left in self.leases[code] if at > since and left < LEAST_LEASE)
        return next(at for at, left in self.leases[code] if at > lost and left > LEAST_LEASE) - since


@contextlib.contextmanager
def strangers(stack: Stack, count: int) -> Iterator[None]:
    """Half of them say nothing, half send a sign-in one byte a second. What is closed is opened anew."""
    over, port = threading.Event(), stack.layout.primary_port
    context = ssl.create_default_context(cafile=str(stack.layout.ca_file))
    begun = b"POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n"

    def hold(number: int) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 60) as raw:
                if number % 2:
                    raw.recv(1)
                    continue
                with context.wrap_socket(raw, server_hostname="localhost") as connection:
                    connection.sendall(begun)
                    while not over.wait(1):
                        connection.sendall(b" ")

    for number in range(count):
        threading.Thread(target=hold, args=(number,), daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextlib.contextmanager
def watching(stack: Stack) -> Iterator[Watched]:
    """Look once a second, as an operator with a warm connection and as a probe with a new one each time."""
    seen, over = Watched(), threading.Event()
    context = ssl.create_default_context(cafile=str(stack.layout.ca_file))

    def look_at_leases() -> None:
        with stack.client() as primary:
            while not over.wait(1):
                for code, leases in seen.leases.items():
                    until = primary.get(f"admin/failover/{code}")["lease_until"]
                    left = (datetime.fromisoformat(until) - datetime.now(UTC)).total_seconds() if until else 0.0
                    leases.append((time.monotonic(), left))

    def ask_for_health() -> None:
        while not over.wait(0.5):
            began, status = time.monotonic(), 0
            with contextlib.suppress(httpx.HTTPError):
                status = httpx.get(f"{stack.layout.primary_url}/api/v1/health", verify=context, timeout=10).status_code
            seen.health.append((time.monotonic() - began, status))

    threads = [threading.Thread(target=one, daemon=True) for one in (look_at_leases, ask_for_health)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join(20)


@pytest.mark.timeout(900)
def test_three_hundred_connections_cost_no_lease_and_no_answer() -> None:
    with throwaway(time_profile="standard") as stack:
        for count in (0, 40, 96, 300):
            with watching(stack) as seen, strangers(stack, count):
                time.sleep(SECONDS / 4)
                restarted = time.monotonic()
                stack.stop(RESTARTED)
                stack.start(RESTARTED)
                time.sleep(max(0.0, restarted + 3 * SECONDS / 4 - time.monotonic()))
            longest, answers = max(seen.health)[0], {status for _, status in seen.health}
            back = seen.held_again("NPR", restarted)
            print(
                f"{count} connections: least lease {seen.least(UNTOUCHED):.1f} s, "
                f"restarted gateway active again after {back:.1f} s, health {longest:.2f} s at most, answers {sorted(answers)}"
            )
            assert seen.least(UNTOUCHED) >= LEAST_LEASE and answers == {200} and longest <= LONGEST_HEALTH
            assert back <= BACK_SECONDS and seen.least("NPR", restarted + back) >= LEAST_LEASE
