"""One real run: start the Primary, enrol the fleet, let it speak, bring the faults, count."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any

from cli.simulation.faults import Fault, Spell, schedule
from cli.simulation.limits import require_open_files
from cli.simulation.real.counts import Counts
from cli.simulation.real.enrolment import Enroller
from cli.simulation.real.gateway import LightGateway, Surroundings
from cli.simulation.real.http import read_little
from cli.simulation.real.outcome import Outcome, Restart, problems_of, spread
from cli.simulation.real.primary import SimulatedPrimary, cpu_seconds, require_linux, resident_mb, running
from cli.stack.stack import PRIMARY
from protocol.timing import TimeProfile, time_profile

SPARE_FILES = 300
"""Open files of either process beside the gateways' connections."""
SETTLE_SECONDS = 600.0
"""Longest wait until every environment has an active gateway with a lease."""
LONGEST_WAIT = 180.0
"""After the last restart it is waited so long for gateways that are not heard yet."""
FIRST_ADDRESS = (127 << 24) + (16 << 16)

Say = Callable[[str], None]


def run(gateways: int, seconds: float, seed: int, faults: Sequence[Fault], waiting: int, say: Say) -> Outcome:
    """Raises `TooFewFiles`, `StackError`, `PrimaryError` where it cannot be done here."""
    require_linux()
    require_open_files(gateways + waiting + SPARE_FILES)
    read_little()
    codes = tuple(f"S{number:04}" for number in range(gateways // 2))
    with running(codes, say, os.environ) as stack, stack.client() as primary:
        made = _Run(stack, codes, seconds, seed, faults, waiting, say)
        return asyncio.run(made.go(primary.token, dict(primary.get("gateways/trust"))))


class _Run:
    def __init__(self, stack: SimulatedPrimary, codes: tuple[str, ...], seconds: float, seed: int, faults: Sequence[Fault],
                 waiting: int, say: Say) -> None:  # fmt: skip
        self._stack, self._codes, self._seconds, self._seed, self._say = stack, codes, seconds, seed, say
        self._random = random.Random(seed)  # noqa: S311  the same seed brings the same faults
        self._spells = schedule(faults, seconds, random.Random(self._random.random()))  # noqa: S311
        self._timing: TimeProfile = time_profile(stack.layout.time_profile, {})
        self._waits = waiting
        self._twice = 0.0
        self._counts = Counts()
        self._gateways: list[LightGateway] = []
        self._restarts: list[Restart] = []
        self._quiet: dict[str, Any] = {}
        self._enrol_seconds = self._ready_seconds = 0.0

    async def go(self, bearer: str, trust: dict[str, Any]) -> Outcome:
        port = self._stack.layout.primary_port
        person = ssl.create_default_context(cafile=str(self._stack.layout.ca_file))
        self._say(f"enrolling {2 * len(self._codes)} gateways")
        enrolled = await Enroller(port, person, bearer, trust, self._say).enrol(self._codes)
        self._enrol_seconds = enrolled.seconds
        around = Surroundings(port, trust["root"], self._timing, self._counts, lambda: self._random.random() < self._twice)
        for number, speaker in enumerate(enrolled.speakers):
            own = random.Random(self._random.random())  # noqa: S311
            self._gateways.append(LightGateway(speaker, around, _address(number), own, waits=number < self._waits))
        loops = [asyncio.ensure_future(loop) for one in self._gateways for loop in one.loops()]
        try:
            await self._settle()
            await self._live()
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
        found = self._outcome()
        for one in self._gateways:
            one.close()
        return found

    async def _settle(self) -> None:
        """Wait until every environment is served and every gateway was heard."""
        self._say("waiting until every environment has an active gateway")
        began = time.monotonic()
        while time.monotonic() < began + SETTLE_SECONDS:
            held = sum(one.least_left is not None for one in self._gateways)
            if held >= len(self._codes) and all(one.heard_at for one in self._gateways):
                break
            await asyncio.sleep(0.2)
        self._ready_seconds = time.monotonic() - began
        self._counts.begin_anew()
        for one in self._gateways:
            one.least_left = None

    async def _live(self) -> None:
        """The run itself: its length, with the faults at their times."""
        began = time.monotonic()
        self._say(f"running for {self._seconds:g} s")
        first = min((spell.begins for spell in self._spells), default=self._seconds)
        await self._measure_quiet(first)
        spells = [asyncio.ensure_future(self._suffer(spell, began)) for spell in self._spells]
        await asyncio.gather(*spells)
        await asyncio.sleep(max(0.0, began + self._seconds - time.monotonic()))
        for one in self._gateways:
            if not one.was_hit:
                one.note_lease()

    async def _measure_quiet(self, seconds: float) -> None:
        processes = self._stack.processes()
        before = {name: cpu_seconds(pids) for name, pids in processes.items()}
        own, kinds = time.process_time(), self._counts.kinds.copy()
        began = time.monotonic()
        await asyncio.sleep(seconds)
        took, messages = time.monotonic() - began, sum((self._counts.kinds - kinds).values())
        spent = {name: cpu_seconds(pids) - before[name] for name, pids in processes.items()}
        each = {name: round(value * 1000 / max(1, messages), 2) for name, value in spent.items()}
        self._quiet = {
            "seconds": round(took, 1), "messages_per_second": round(messages / took, 1),
            "kinds": dict(self._counts.kinds - kinds), "cpu_ms_a_message": each,
            "cpu_share_of_a_core": {name: round(value / took, 3) for name, value in spent.items()},
            "simulator_cpu_ms_a_message": round((time.process_time() - own) * 1000 / max(1, messages), 2),
        }  # fmt: skip

    async def _suffer(self, spell: Spell, began: float) -> None:
        """One spell from its begin to its end, and after a restart until everybody was heard."""
        await asyncio.sleep(max(0.0, began + spell.begins - time.monotonic()))
        hit = [one for one in self._gateways if self._random.random() < spell.share] if spell.share < 1 else self._gateways
        self._say(f"{spell.fault.value} begins")
        killed = time.monotonic()
        self._begin(spell, hit)
        await asyncio.sleep(max(0.0, began + spell.ends - time.monotonic()))
        self._end(spell, hit)
        self._say(f"{spell.fault.value} ends")
        if spell.fault is Fault.RESTART:
            self._restarts.append(await self._heard_again(killed))

    def _begin(self, spell: Spell, hit: list[LightGateway]) -> None:
        if spell.fault is Fault.RESTART:
            self._stack.kill(PRIMARY)
        elif spell.fault is Fault.SLOW_DISK:
            self._stack.slow_down(slow=True)
        elif spell.fault is Fault.DUPLICATES:
            self._twice = spell.share
        for one in hit if spell.fault in (Fault.PARTITION, Fault.ONE_WAY, Fault.SKEW) else []:
            one.was_hit = True
            if spell.fault is Fault.SKEW:
                one.speaker.skew += spell.strength
            else:
                one.cut = spell.loss

    def _end(self, spell: Spell, hit: list[LightGateway]) -> None:
        if spell.fault is Fault.RESTART:
            self._stack.start(PRIMARY)
        elif spell.fault is Fault.SLOW_DISK:
            self._stack.slow_down(slow=False)
        elif spell.fault is Fault.DUPLICATES:
            self._twice = 0.0
        for one in hit if spell.fault in (Fault.PARTITION, Fault.ONE_WAY, Fault.SKEW) else []:
            if spell.fault is Fault.SKEW:
                one.speaker.skew -= spell.strength
            else:
                one.cut = None

    async def _heard_again(self, killed: float) -> Restart:
        """Wait until the port is open and every gateway that is not cut off has been answered since."""
        opened = await self._port_opens(killed + LONGEST_WAIT)
        most = opened
        while time.monotonic() < opened + LONGEST_WAIT:
            silent = [one for one in self._gateways if one.heard_at < opened and one.cut is None]
            if len(silent) > len(self._gateways) / 10:
                most = time.monotonic()
            if not silent:
                break
            await asyncio.sleep(0.1)
        late = sum(one.heard_at < opened and one.cut is None for one in self._gateways)
        ended = time.monotonic()
        self._say(f"the port was open after {opened - killed:.1f} s, everybody was heard {ended - opened:.1f} s later")
        return Restart(round(opened - killed, 1), round(most - opened, 1), round(ended - opened, 1), late)

    async def _port_opens(self, deadline: float) -> float:
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self._stack.layout.primary_port)
                writer.close()
                return time.monotonic()
            await asyncio.sleep(0.05)
        return time.monotonic()

    def _outcome(self) -> Outcome:
        counts, processes = self._counts, self._stack.processes()
        arrivals = counts.arrivals
        mean = arrivals.total() / max(1.0, time.monotonic() - counts.began)
        least = [one.least_left for one in self._gateways if one.least_left is not None and not one.was_hit]
        found = Outcome(
            seed=self._seed, gateways=len(self._gateways), environments=len(self._codes), waiting=self._waits,
            seconds=self._seconds, enrol_seconds=round(self._enrol_seconds, 1), ready_seconds=round(self._ready_seconds, 1),
            quiet=self._quiet, mean_per_second=round(mean, 1), peak_per_second=max(arrivals.values(), default=0),
            kinds=dict(counts.kinds), statuses=dict(sorted(counts.statuses.items())), without_answer=counts.broken,
            sent_twice=counts.doubled, taken_twice=counts.doubled_taken,
            latency_ms={kind: spread(values) for kind, values in counts.latencies.items()},
            least_lease_left_seconds=round(min(least), 1) if least else None, restarts=self._restarts,
            memory_mb={name: resident_mb(pids) for name, pids in processes.items()},
            simulator_memory_mb=resident_mb([os.getpid()]), load_average=round(os.getloadavg()[0], 1),
            cores=os.cpu_count() or 1, spells=list(self._spells), last_refusal=counts.last_refusal,
        )  # fmt: skip
        found.problems.extend(problems_of(found))
        return found


def _address(number: int) -> str:
    """An address of its own on the loopback network, as a fleet has."""
    value = FIRST_ADDRESS + number + 1
    return ".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))
