"""What one core of a Primary carries: the shipped processes over real TLS with client certificates and the sealed channel, driven
from another core, beside peers and physical limits in the same run.

The node's processes are pinned to one core; PostgreSQL and the load share the other. A second at half of the measured maximum in
an open loop gives the latency.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import ssl
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.load import Asker, Tally, closed_loop, open_loop
from cli.simulation.real.http import Connection, request
from cli.simulation.real.speaker import Speaker
from cli.stack import databases
from cli.stack.layout import GatewaySpec, Layout
from cli.stack.primary_client import PrimaryClient
from cli.stack.stack import Stack, free_port_base
from protocol import messages, paths

GATEWAYS, PEOPLE, SECRETS = 64, 16, 200
SECONDS = 6.0
"""Of each closed loop; the open loop behind it takes half of that."""
REGISTRATIONS, STRANGERS = 128, 8
"""Redeemed tokens, and who redeems them at once: as many as a Primary works on at a time (`lanes.STRANGER_SLOTS`)."""
ACTIVE_SECONDS = 30.0
SERVER_CORE, LOAD_CORE = 0, 1


class Alone(Layout):
    """A Primary without gateways of the launcher's."""

    @property
    def gateways(self) -> tuple[GatewaySpec, ...]:
        return ()


@dataclass
class Bench:
    """A running Primary, its fleet and what it takes to ask it."""

    stack: Stack
    primary: PrimaryClient
    trust: dict[str, Any]
    fleet: list[Speaker]

    @property
    def port(self) -> int:
        return self.stack.layout.primary_port

    def person(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.stack.layout.ca_file))

    def cpu_seconds(self) -> float:
        """User and system time of all processes of the Primary so far."""
        return sum(_cpu_of(pid) for pid in self.pids())

    def pids(self) -> list[int]:
        return group_of(self.stack.pids()["primary"])


def lane(seconds: float = SECONDS) -> dict[str, object]:
    """Operations a second, latency and CPU of the Primary's hot paths, and of peers."""
    with _running() as bench:
        results = asyncio.run(_measured(bench, seconds))
        results["resident_mb"] = {_title(pid): _resident_mb(pid) for pid in bench.pids()}
    return {
        "primary": results,
        "peers": asyncio.run(peers.measured(seconds, PEOPLE, GATEWAYS)),
        "method": f"{GATEWAYS} gateways and {PEOPLE} people on kept-alive TLS 1.3 connections, closed loop {seconds:g} s, then "
        "an open loop at half of it; node pinned to one core, PostgreSQL (fsync on) and load on the other; peers the same way",
    }


async def _measured(bench: Bench, seconds: float) -> dict[str, object]:
    results: dict[str, object] = {"registration": await _register_all(bench)}
    root = bench.trust["root"]
    contexts = {gateway.id: gateway.context(root) for gateway in bench.fleet}
    for gateway in bench.fleet:
        await _activate(bench, gateway, contexts[gateway.id])

    def speakers(verb: str) -> list[tuple[Connection, Asker]]:
        return [(Connection(bench.port, contexts[one.id]), getattr(one, verb)) for one in bench.fleet]

    results["heartbeat"] = await _both(bench, speakers("heartbeat"), seconds)
    results["heartbeat_new_connection"] = await _closed(bench, speakers("heartbeat")[:16], seconds, anew=True)
    results["lease"] = await _both(bench, speakers("lease"), seconds)
    ids = _secrets(bench.primary)
    bearer = {"Authorization": f"Bearer {bench.primary.token}"}
    read, written = itertools.cycle(ids), itertools.cycle(ids)
    results["secret_read"] = await _both(
        bench, _people(bench, lambda: request("GET", f"/api/v1/secrets/{next(read)}", b"", **bearer)), seconds
    )

    def write() -> bytes:
        body = b'{"value": "%s"}' % (uuid.uuid4().hex * 32).encode()
        return request("PUT", f"/api/v1/secrets/{next(written)}", body, **bearer)

    results["secret_write"] = await _both(bench, _people(bench, write), seconds)
    results["health"] = await _closed(bench, _people(bench, lambda: request("GET", paths.HEALTH)), seconds)
    for name, path in (("status", "admin/failover/NPR"), ("gateway_health", "admin/gateway-health")):
        one = _people(bench, partial(request, "GET", f"/api/v1/{path}", b"", **bearer))[:1]
        results[name] = await _closed(bench, one, seconds / 3)
    metrics = {"Authorization": f"Bearer {bench.stack.layout.secret('primary', 'metrics.token').read_text().strip()}"}
    results["metrics"] = await _closed(bench, _people(bench, lambda: request("GET", "/metrics", b"", **metrics))[:1], seconds / 3)
    return results


async def _both(bench: Bench, clients: Sequence[tuple[Connection, Asker]], seconds: float) -> dict[str, object]:
    closed = await _closed(bench, clients, seconds)
    rate = float(str(closed["per_second"])) / 2
    if rate:
        half = (await open_loop(clients, rate, seconds / 2)).summary()
        closed["at_half"] = {name: half[name] for name in ("per_second", "p50_ms", "p99_ms")}
        single = (await closed_loop(clients[:1], min(seconds / 3, 2.0))).summary()
        closed["one_client_p50_ms"] = single["p50_ms"]
    return closed


async def _closed(
    bench: Bench, clients: Sequence[tuple[Connection, Asker]], seconds: float, *, anew: bool = False
) -> dict[str, object]:
    before = bench.cpu_seconds()
    tally = await closed_loop(clients, seconds, anew=anew)
    shown = tally.summary()
    shown["cpu_ms_each"] = round((bench.cpu_seconds() - before) * 1000 / max(1, len(tally.latencies)), 2)
    return shown


async def _register_all(bench: Bench) -> dict[str, object]:
    """Redeem a token for each gateway, several at once; those beyond the fleet of the run are only registered."""
    codes = [f"B{number:03}" for number in range(REGISTRATIONS // 2)]
    wishes = [(code, role) for code in codes for role in ("primary", "dr-standby")]
    made = []
    for code, role in wishes:
        wish = {"name": f"gw-{code.lower()}-{role}", "environment": code, "role": role}
        made.append((Speaker(bench.trust, code), bench.primary.post("gateways/bootstrap", wish)["token"]))
    waiting, tally, before = iter(made), Tally(), bench.cpu_seconds()
    began = time.perf_counter()

    async def redeem() -> None:
        connection = Connection(bench.port, bench.person())
        for gateway, token in waiting:
            asked = time.perf_counter()
            status, body = await connection.ask(gateway.registration(token))
            tally.note(status, time.perf_counter() - asked, body)
            if status == 200:
                gateway.take(body)
        connection.close()

    await asyncio.gather(*(redeem() for _ in range(STRANGERS)))
    tally.seconds = time.perf_counter() - began
    bench.fleet = [gateway for gateway, _ in made if gateway.id][::2][:GATEWAYS]
    shown = tally.summary()
    shown["cpu_ms_each"] = round((bench.cpu_seconds() - before) * 1000 / max(1, len(tally.latencies)), 2)
    return shown


async def _activate(bench: Bench, gateway: Speaker, context: ssl.SSLContext) -> None:
    """Wait until the Primary has made this gateway the active one of its environment."""
    connection, until = Connection(bench.port, context), time.monotonic() + ACTIVE_SECONDS
    await connection.ask(gateway.heartbeat())
    while gateway.epoch == 0:
        _, answer = await connection.ask(gateway.directive())
        gateway.epoch = gateway.opened(answer, messages.Directive).epoch
        if time.monotonic() > until:
            raise RuntimeError(f"{gateway.environment} got no active gateway within {ACTIVE_SECONDS:g} s")
        await asyncio.sleep(0.05)
    connection.close()


def _people(bench: Bench, make: Asker) -> list[tuple[Connection, Asker]]:
    context = bench.person()
    return [(Connection(bench.port, context), make) for _ in range(PEOPLE)]


def _secrets(primary: PrimaryClient) -> list[str]:
    project = primary.post("projects", {"name": f"bench {time.time():.3f}"})["id"]
    wish = {"project_id": project, "environment": "dev", "value": uuid.uuid4().hex * 32}
    return [primary.post("secrets", {**wish, "key": f"KEY_{number}"})["id"] for number in range(SECRETS)]


@contextlib.contextmanager
def _running() -> Iterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="mazevault-bench-"))
    layout = Alone(var=folder, port_base=free_port_base(), time_profile="standard")
    codes = ",".join(["NPR", "PRO", *(f"B{number:03}" for number in range(REGISTRATIONS // 2))])
    own = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    stack = _Pinned(layout, own, lambda _line: None, azure=False)
    stack.codes = codes
    try:
        stack.up()
        for name, pid in stack.pids().items():
            pin(pid, SERVER_CORE if name == "primary" else LOAD_CORE)
        os.sched_setaffinity(0, {LOAD_CORE} if (os.cpu_count() or 1) > 1 else {0})
        with stack.client() as primary:
            yield Bench(stack, primary, dict(primary.get("gateways/trust")), [])
    finally:
        stack.down()
        databases.forget(layout)
        shutil.rmtree(folder, ignore_errors=True)


class _Pinned(Stack):
    codes = "NPR,PRO"

    def environment_of(self, name: str) -> dict[str, str]:
        return {
            **super().environment_of(name),
            "MAZEVAULT_GATEWAY_ENVIRONMENTS": self.codes,
            "MAZEVAULT_API_RATE_LIMIT": "10000000",
        }


def pin(pid: int, core: int) -> None:
    """All threads of the process group of `pid` to one core, where there is more than one."""
    if (os.cpu_count() or 1) < 2:
        return
    for member in group_of(pid):
        for thread in Path(f"/proc/{member}/task").iterdir():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(thread.name), {core})


def group_of(leader: int) -> list[int]:
    """The living processes of the group that this process leads."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                if os.getpgid(int(folder.name)) == leader:
                    found.append(int(folder.name))
    return sorted(found)


def _cpu_of(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def _title(pid: int) -> str:
    return f"{pid} " + Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[-60:].strip()
