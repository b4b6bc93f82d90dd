"""Breaks a running stack on purpose: one seed, one order of faults. Each fault is begun, held for a while and mended.

What is broken is what breaks in production: processes die or stand still, links are cut in one direction, two operators act at
once and by force, a second Primary comes and goes, an identity runs twice, vaults answer late.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import httpx

from cli.stack.children import Child
from cli.stack.layout import ROOT
from cli.stack.primary_client import PrimaryClient, PrimaryError
from cli.stack.stack import Stack, free_port_base
from tests.faults.network import Cut, Wire

ENVIRONMENT = "NPR"
PAIR = ("gw-npr-primary", "gw-npr-dr")
HELD = (1.0, 12.0)
"""Seconds for which a fault lasts: shorter and longer than the short profile's lease."""
CALM = (1.0, 4.0)
"""Seconds between two faults."""


@dataclass
class Nemesis:
    """`log` tells what was done when, in seconds since the start; a failing run prints it with its seed."""

    stack: Stack
    primary: PrimaryClient
    seed: int
    log: list[str] = field(default_factory=list)
    wires: dict[str, Wire] = field(default_factory=dict)
    second: Child | None = None
    forced: list[float] = field(default_factory=list)
    """When a person forced a move (monotonic seconds): two gateways may then act until the old lease ends."""
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._second_port = free_port_base(1)
        self._lock = threading.Lock()

    def put_wires(self) -> None:
        """Let the gateways of the pair reach the Primaries over wires of ours."""
        for name in PAIR:
            self.wires[name] = Wire(self._primaries)
            self.stack.stop(name)
            self._start_gateway(name)

    def run(self, seconds: float) -> None:
        """Faults until the time is over, then everything mended."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            name, fault = self._dice.choice(self.faults())
            self.say(f"begin {name}")
            with fault():
                time.sleep(self._dice.uniform(*HELD))
            self.say(f"mended {name}")
            time.sleep(self._dice.uniform(*CALM))

    def close(self) -> None:
        for wire in self.wires.values():
            wire.close()
        if self.second:
            self.second.tell(signal.SIGKILL)

    def say(self, what: str) -> None:
        with self._lock:
            self.log.append(f"{time.monotonic() - self._began:7.1f} s  {what}")

    def faults(self) -> list[tuple[str, Callable[[], contextlib.AbstractContextManager[None]]]]:
        """Name and fault; those that are chosen more often stand there more often."""
        either = self._dice.choice(PAIR)
        cuts = [(f"cut {cut.value} of {either}", lambda cut=cut: self._cut(either, cut)) for cut in Cut if cut is not Cut.NONE]
        return [
            *cuts,
            (f"kill {either}", lambda: self._killed(either)),
            (f"freeze {either}", lambda: self._frozen(either)),
            ("freeze primary", lambda: self._frozen("primary")),
            ("kill primary", lambda: self._killed("primary")),
            ("kill worker", lambda: self._killed("worker")),
            ("kill postgres", lambda: self._killed("postgres")),
            ("kill valkey", lambda: self._killed("valkey")),
            ("a second Primary", self._second_primary),
            ("a planned move", self._moved),
            ("a planned move", self._moved),
            ("two operators with force", self._two_operators),
            ("slow vaults", self._slow_vaults),
        ]

    @contextlib.contextmanager
    def _killed(self, name: str) -> Iterator[None]:
        self.stack.kill(name)
        try:
            yield
        finally:
            self.stack.start(name) if name not in PAIR else self._start_gateway(name)

    @contextlib.contextmanager
    def _frozen(self, name: str) -> Iterator[None]:
        """The whole node stands still, all its processes together, as a paused virtual machine does."""
        group = self.stack.pids()[name]
        os.killpg(group, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(group, signal.SIGCONT)

    @contextlib.contextmanager
    def _cut(self, name: str, how: Cut) -> Iterator[None]:
        self.wires[name].cut(how)
        try:
            yield
        finally:
            self.wires[name].cut(Cut.NONE)

    @contextlib.contextmanager
    def _moved(self) -> Iterator[None]:
        self._ask(self._dice.choice(("activate-dr", "failback")))
        yield

    @contextlib.contextmanager
    def _two_operators(self) -> Iterator[None]:
        """Both ask at once for different things, and both force whatever is open."""
        both = [threading.Thread(target=self._ask_and_force, args=(kind,)) for kind in ("activate-dr", "failback")]
        for one in both:
            one.start()
        for one in both:
            one.join()
        yield

    @contextlib.contextmanager
    def _second_primary(self) -> Iterator[None]:
        """A second process tree on the same database; ended the hard way while gateways are connected to it."""
        folder = self.stack.layout.node("primary-2")
        environment = self.stack.environment_of("primary") | {
            "MAZEVAULT_LISTEN_ADDR": f"127.0.0.1:{self._second_port}",
            "MAZEVAULT_TLS_CERT_PATH": str(folder / "tls"),
            "MAZEVAULT_ADMIN_PASSWORD_FILE": str(folder / "admin-password"),
            "MAZEVAULT_CA_FILE": str(folder / "ca.crt"),
        }
        argv = list(self.stack.children["primary"].argv)
        self.second = Child("primary-2", argv, environment, self.stack.layout.logs / "primary-2.log", ROOT)
        self.second.start()
        try:
            yield
        finally:
            self.second.tell(signal.SIGKILL)
            self.second = None

    @contextlib.contextmanager
    def _slow_vaults(self) -> Iterator[None]:
        self._sandbox({"vault_slow_seconds": self._dice.uniform(1, 6)})
        try:
            yield
        finally:
            self._sandbox({"vault_slow_seconds": 0.0})

    def _start_gateway(self, name: str) -> None:
        self.stack.start(name, {"PRIMARY_BACKEND_URL": f"https://localhost:{self.wires[name].port}"})

    def _primaries(self) -> list[int]:
        return [self.stack.layout.primary_port, *([self._second_port] if self.second else [])]

    def _ask_and_force(self, kind: str) -> None:
        if not self._ask(kind):
            return
        with contextlib.suppress(PrimaryError), self.stack.client() as own:
            answer = own.raw("POST", f"admin/failover/{ENVIRONMENT}/force", {"confirm": ENVIRONMENT, "reason": "rehearsal"})
            self.say(f"force of {kind}: {answer.status_code}")
            if answer.status_code == 202:
                self.forced.append(time.monotonic())

    def _ask(self, kind: str) -> bool:
        try:
            with self.stack.client() as own:
                answer = own.raw("POST", f"admin/failover/{ENVIRONMENT}/{kind}", {})
        except PrimaryError as error:
            self.say(f"{kind}: {error}")
            return False
        self.say(f"{kind}: {answer.status_code}")
        return answer.status_code in (200, 202)

    def _sandbox(self, faults: Mapping[str, float]) -> None:
        url, ca = self.stack.layout.sandbox_url, self.stack.layout.node("sandbox") / "ca.crt"
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(f"{url}/_control/faults", json=dict(faults), verify=str(ca), timeout=10, trust_env=False)
