"""What the front of a node costs: requests and handshakes a second of a real Primary, and the memory of its processes.

Closed loop from this process over TLS 1.3. The load generator shares the machine, so the figures are for comparison in one run;
the CPU of the front alone is in `handshakes_per_front_cpu_second` and `requests_per_front_cpu_second`.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cli.stack.stack import Stack, throwaway

SECONDS = 5.0
CLIENTS = 8
LIVE, HEALTH = "/api/v1/health/live", "/api/v1/health"


def front() -> dict[str, object]:
    with throwaway(time_profile="standard") as stack:
        time.sleep(3)
        pid = _pids(stack.pids()["primary"])["mv-front"]
        return {
            "live_answered_by_the_front": _requests(stack, LIVE, pid),
            "health_through_the_front": _requests(stack, HEALTH, pid),
            "handshakes": _handshakes(stack, pid),
            "idle_cpu_percent_of_a_core": _idle(stack),
            "memory_mb": {name: _memory(stack.pids()[name]) for name in ("primary", "gw-npr-primary")},
        }


def _requests(stack: Stack, path: str, pid: int) -> dict[str, float]:
    """Each client has one connection and asks again when it has its answer."""
    asked = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

    def client(go_on: Callable[[], bool]) -> int:
        count = 0
        with _connect(stack) as connection:
            while go_on():
                connection.sendall(asked)
                _take_answer(connection)
                count += 1
        return count

    rate, cpu = _measured(client, pid)
    return {"per_second": rate, "requests_per_front_cpu_second": cpu}


def _take_answer(connection: ssl.SSLSocket) -> None:
    """All of it, in however many pieces it comes."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, body = answer.split(b"\r\n\r\n", 1)
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert head.startswith(b"HTTP/1.1 200") and length, head[:100]
    while len(body) < int(length[1]):
        body += connection.recv(65536)


def _handshakes(stack: Stack, pid: int) -> dict[str, float]:
    """A new session each, without a client certificate."""

    def client(go_on: Callable[[], bool]) -> int:
        count = 0
        while go_on():
            _connect(stack).close()
            count += 1
        return count

    rate, cpu = _measured(client, pid)
    return {"per_second": rate, "handshakes_per_front_cpu_second": cpu}


def _measured(client: Callable[[Callable[[], bool]], int], pid: int) -> tuple[float, float]:
    """(done per second, done per second of CPU of this process)."""
    until, done, before = time.monotonic() + SECONDS, [0] * CLIENTS, _cpu(pid)

    def run(number: int) -> None:
        done[number] = client(lambda: time.monotonic() < until)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(run, range(CLIENTS)))  # raises what a client met
    return round(sum(done) / SECONDS, 1), round(sum(done) / max(0.01, _cpu(pid) - before), 1)


def _connect(stack: Stack) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", stack.layout.primary_port), 20)
    return _context(stack.layout.ca_file).wrap_socket(raw, server_hostname="localhost")


_contexts: dict[Path, ssl.SSLContext] = {}


def _context(ca_file: Path) -> ssl.SSLContext:
    if ca_file not in _contexts:
        _contexts[ca_file] = ssl.create_default_context(cafile=str(ca_file))
    return _contexts[ca_file]


def _idle(stack: Stack) -> dict[str, float]:
    """CPU of each process while nobody asks anything."""
    pids = {f"{node} {name}": pid for node in ("primary", "gw-npr-primary") for name, pid in _pids(stack.pids()[node]).items()}
    before = {name: _cpu(pid) for name, pid in pids.items()}
    time.sleep(4 * SECONDS)
    return {name: round((_cpu(pid) - before[name]) / (4 * SECONDS) * 100, 1) for name, pid in pids.items()}


def _pids(group: int) -> dict[str, int]:
    """The processes of one node by name; the parent leads their process group."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getpgid(int(folder.name)) == group:
                found[(folder / "comm").read_text().strip()] = int(folder.name)
    return found


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(group: int) -> dict[str, dict[str, int]]:
    """RSS, and PSS, which counts a page that several processes share once in all."""
    found = {}
    for name, pid in _pids(group).items():
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
        found[name] = {kind: int(lines[kind].split()[0]) // 1024 for kind in ("Rss", "Pss")}
    return found
