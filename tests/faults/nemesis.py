"""Breaks a running stack on purpose: one seed, one order of faults. Each fault is begun, held for a while and mended.

What is broken is what breaks in production: processes die or stand still, links are cut in one direction, two operators act at
once and by force, a second Primary comes and goes, an identity runs twice, a clock is set, vaults answer late. What each fault
did is counted (`effects`): one that did nothing has tried nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from cli.stack.children import Child
from cli.stack.layout import ROOT, GatewaySpec
from cli.stack.observer import Observer, Sighting
from cli.stack.primary_client import PrimaryClient, PrimaryError, is_ready
from cli.stack.stack import Stack, free_port_base
from protocol.timing import TimeProfile
from tests.faults.clocks import ABSENT, Clock, library
from tests.faults.effects import Effects, all_stand_still, own_clock_of
from tests.faults.network import Cut, Wire
from tests.journeys.machines import Machine

ENVIRONMENT = "NPR"
PAIR = ("gw-npr-primary", "gw-npr-dr")
NOTICED_SECONDS, RELEASE_SECONDS, START_SECONDS = 45.0, 60.0, 60.0
"""Longest waits for a clone to be told apart, for an administrator to be heard, and for a second Primary to serve."""
SHORTEST, LEASES = 1.0, 1.6
"""A fault lasts from one second to so many leases: shorter and longer than what is promised."""
CALM = (1.0, 4.0)
"""Seconds between two faults."""


Fault = tuple[str, str, Callable[[], contextlib.AbstractContextManager[None]]]
"""Kind, what the log calls it, and the fault itself."""


@dataclass
class Nemesis:
    """`log` tells what was done when, in seconds since the start; a failing run prints it with its seed."""

    stack: Stack
    primary: PrimaryClient
    seed: int
    folder: Path
    timing: TimeProfile
    log: list[str] = field(default_factory=list)
    wires: dict[str, Wire] = field(default_factory=dict)
    effects: Effects = field(default_factory=Effects)
    second: Child | None = None
    forced: list[float] = field(default_factory=list)
    """When a person forced a move (monotonic seconds): two gateways may then act until the old lease ends."""
    sightings: list[Sighting] = field(default_factory=list)
    """Of the copies of gateways; they count beside those of the pair."""
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._second_port = free_port_base(1)
        self._lock = threading.Lock()
        self._copies = itertools.count(1)
        self.clocks = {name: Clock(self.folder / f"clock-{name}") for name in (*PAIR, "primary")}
        if library() is None:
            self.effects.skipped["clock step"] = ABSENT

    def take_hold(self) -> None:
        """Let the gateways of the pair reach the Primaries over wires of ours, and all three keep a time that can be stepped."""
        if library() is not None:
            self.stack.stop("primary")
            self.start("primary")
            self.stack.wait_until_primary_answers()
        for name in PAIR:
            self.wires[name] = Wire(self._primaries)
            self.stack.stop(name)
            self.start(name)

    def run(self, seconds: float) -> None:
        """Faults until the time is over, each kind once before any comes again, then everything mended."""
        until, left = time.monotonic() + seconds, list[str]()
        while time.monotonic() < until:
            known = self.faults()
            left = left or self._dice.sample(sorted({kind for kind, *_ in known}), len({kind for kind, *_ in known}))
            kind = left.pop()
            _, name, fault = self._dice.choice([one for one in known if one[0] == kind])
            self.say(f"begin {name}")
            with fault():
                time.sleep(self._dice.uniform(SHORTEST, LEASES * self.timing.lease_ttl))
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

    def faults(self) -> list[Fault]:
        """One of each kind at least; which gateway it meets is thrown anew each time."""
        either = self._dice.choice(PAIR)
        cuts: list[Fault] = [
            (f"cut {cut.value}", f"cut {cut.value} of {either}", lambda cut=cut: self._cut(either, cut))
            for cut in Cut if cut is not Cut.NONE
        ]  # fmt: skip
        clocks: list[Fault] = [
            ("clock step", f"clock step of {name}", lambda name=name: self._stepped(name)) for name in self.clocks
        ]  # fmt: skip
        return [
            *cuts,
            *(clocks if library() is not None else []),
            *[(f"kill {what}", f"kill {name}", lambda what=what, name=name: self._killed(what, name))
              for what, name in (("gateway", either), *((one, one) for one in ("primary", "worker", "postgres", "valkey")))],
            ("freeze gateway", f"freeze {either}", lambda: self._frozen("gateway", either)),
            ("freeze primary", "freeze primary", lambda: self._frozen("primary", "primary")),
            ("clone", f"clone of {either}", lambda: self._cloned(either)),
            ("second Primary", "a second Primary", self._second_primary),
            ("planned move", "a planned move", self._moved),
            ("move again", "a planned move", self._moved),
            ("operators with force", "two operators with force", self._two_operators),
            ("slow vaults", "slow vaults", self._slow_vaults),
        ]  # fmt: skip

    @contextlib.contextmanager
    def _killed(self, what: str, name: str) -> Iterator[None]:
        ran = name in self.stack.pids()
        self.stack.kill(name)
        self.effects.note(f"kill {what}", ran and name not in self.stack.pids())
        try:
            yield
        finally:
            self.start(name)

    @contextlib.contextmanager
    def _frozen(self, what: str, name: str) -> Iterator[None]:
        """The whole node stands still, all its processes together, as a paused virtual machine does."""
        group = self.stack.pids().get(name)
        assert group is not None, f"{name} has ended by itself"
        os.killpg(group, signal.SIGSTOP)
        self.effects.note(f"freeze {what}", all_stand_still(group))
        try:
            yield
        finally:
            os.killpg(group, signal.SIGCONT)

    @contextlib.contextmanager
    def _cut(self, name: str, how: Cut) -> Iterator[None]:
        wire = self.wires[name]
        before, until = wire.dropped + wire.refused, time.monotonic() + self.timing.lease_ttl
        wire.cut(how)
        try:
            while wire.dropped + wire.refused == before and time.monotonic() < until:
                time.sleep(0.05)  # a cut begins to count with the first thing it swallows
            yield
        finally:
            self.effects.note(f"cut {how.value}", wire.dropped + wire.refused > before)
            wire.cut(Cut.NONE)

    @contextlib.contextmanager
    def _stepped(self, name: str) -> Iterator[None]:
        """Minutes or hours, forwards or back, and back again: both are steps."""
        seconds = self._dice.choice((-1, 1)) * self._dice.choice((20, 120, 3600))
        url = self.stack.layout.primary_url if name == "primary" else self._spec(name).url
        self.clocks[name].step(seconds)
        self.say(f"{name} is {seconds:+d} s off")
        try:
            yield
        finally:
            off = own_clock_of(url, self.stack.layout)
            self.effects.note("clock step", off is not None and abs(off - seconds) < 10)
            self.clocks[name].step(0)

    @contextlib.contextmanager
    def _cloned(self, name: str) -> Iterator[None]:
        """A copy of the gateway's volume and database runs beside it, until both lives are proven and for a while after that."""
        machine = Machine(self.stack, name, self.folder / f"copy-{next(self._copies)}", self.start)
        copy, spec = machine.copied({"PRIMARY_BACKEND_URL": f"https://localhost:{self.wires[name].port}"})
        try:
            with Observer(self.stack.layout, [spec]) as observer:
                copy.start()
                self.effects.note("clone", self._is_noticed(name))
                yield
            self.sightings += observer.sightings
        finally:
            copy.tell(signal.SIGKILL)
            if copy.process:
                copy.process.wait()
            self._release(name)

    def _is_noticed(self, name: str) -> bool:
        until = time.monotonic() + NOTICED_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(PrimaryError, StopIteration):
                row = next(one for one in self.primary.get("admin/gateway-health") if one["name"] == name)
                told = " | ".join(row["why"])
                if "quarantined" in told or "two machines use this identity" in told or "another instance" in told:
                    self.say(f"the clone is noticed: {told[:200]}")
                    return True
            time.sleep(0.5)
        return False

    def release_all(self) -> None:
        for name in PAIR:
            self._release(name)

    def _release(self, name: str) -> None:
        """An administrator has looked: the copy is gone. Tried until somebody answers."""
        until = time.monotonic() + RELEASE_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(PrimaryError):
                for row in self.primary.get("gateways"):
                    if row["name"] == name and row["held_at"]:
                        self.primary.post(f"gateways/{row['id']}/release", {"reason": "the copy is gone"})
                        self.say(f"{name} is released")
                return
            time.sleep(0.5)

    @contextlib.contextmanager
    def _moved(self) -> Iterator[None]:
        self.effects.note("planned move", self._ask(self._dice.choice(("activate-dr", "failback"))) == 202)
        yield

    @contextlib.contextmanager
    def _two_operators(self) -> Iterator[None]:
        """Both ask at once for different things, and both force whatever is open."""
        before = len(self.forced)
        both = [threading.Thread(target=self._ask_and_force, args=(kind,)) for kind in ("activate-dr", "failback")]
        for one in both:
            one.start()
        for one in both:
            one.join()
        self.effects.note("operators with force", len(self.forced) > before)
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
        carried = sum(wire.carried[self._second_port] for wire in self.wires.values())
        self.second = Child("primary-2", argv, environment, self.stack.layout.logs / "primary-2.log", ROOT)
        self.second.start()
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and not self._second_is_ready():
            time.sleep(0.5)
        for wire in self.wires.values():
            wire.cut(Cut.NONE)  # ends what is open, so that new connections are shared out
        try:
            yield
        finally:
            now = sum(wire.carried[self._second_port] for wire in self.wires.values())
            self.effects.note("second Primary", now > carried)
            self.second.tell(signal.SIGKILL)
            self.second = None

    def _second_is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return is_ready(f"https://localhost:{self._second_port}", self.stack.layout.ca_file)
        return False

    @contextlib.contextmanager
    def _slow_vaults(self) -> Iterator[None]:
        self._sandbox({"vault_slow_seconds": self._dice.uniform(1, 6)})
        before = len(self._sandbox_rows("vault-writes"))
        try:
            yield
        finally:
            self.effects.note("slow vaults", len(self._sandbox_rows("vault-writes")) > before)
            self._sandbox({"vault_slow_seconds": 0.0})

    def _spec(self, name: str) -> GatewaySpec:
        return next(one for one in self.stack.layout.gateways if one.name == name)

    def start(self, name: str) -> None:
        """As it was before: over its wire, with its clock. The server's port may still be held for a moment."""
        more = dict(self.clocks[name].variables()) if name in self.clocks else {}
        if name in self.wires:
            more["PRIMARY_BACKEND_URL"] = f"https://localhost:{self.wires[name].port}"
        self.stack.start(name, more)

    def _primaries(self) -> list[int]:
        return [self.stack.layout.primary_port, *([self._second_port] if self.second else [])]

    def _ask_and_force(self, kind: str) -> None:
        if self._ask(kind) not in (200, 202):
            return
        with contextlib.suppress(PrimaryError), self.stack.client() as own:
            answer = own.raw("POST", f"admin/failover/{ENVIRONMENT}/force", {"confirm": ENVIRONMENT, "reason": "rehearsal"})
            self.say(f"force of {kind}: {answer.status_code}")
            if answer.status_code == 202:
                self.forced.append(time.monotonic())

    def _ask(self, kind: str) -> int:
        try:
            with self.stack.client() as own:
                answer = own.raw("POST", f"admin/failover/{ENVIRONMENT}/{kind}", {})
        except PrimaryError as error:
            self.say(f"{kind}: {error}")
            return 0
        self.say(f"{kind}: {answer.status_code}")
        return int(answer.status_code)

    def _sandbox(self, faults: Mapping[str, float]) -> None:
        url, ca = self.stack.layout.sandbox_url, self.stack.layout.node("sandbox") / "ca.crt"
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(f"{url}/_control/faults", json=dict(faults), verify=str(ca), timeout=10, trust_env=False)

    def _sandbox_rows(self, what: str) -> list[dict[str, Any]]:
        url, ca = self.stack.layout.sandbox_url, self.stack.layout.node("sandbox") / "ca.crt"
        with contextlib.suppress(httpx.HTTPError):
            return list(httpx.get(f"{url}/_control/{what}", verify=str(ca), timeout=10, trust_env=False).json()["value"])
        return []
