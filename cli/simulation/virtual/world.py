"""A whole run in virtual time: the fleet, the Primary, people who move environments, callers who write, and the faults."""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cli.simulation.faults import Fault, Spell, schedule
from cli.simulation.virtual.events import EventLog, Events
from cli.simulation.virtual.gateway import VirtualGateway
from cli.simulation.virtual.judge import InvariantBroken, Judge
from cli.simulation.virtual.network import Network
from cli.simulation.virtual.primary import Environment, VirtualPrimary
from cli.simulation.virtual.wire import Wire
from cli.simulation.virtual.writes import SECRETS
from failover.machine import Event, Move, State
from protocol.timing import STANDARD, TimeProfile

SETTLED = 0.1
"""Share of the run before people begin to move environments."""
MOVED_SHARE = 0.1
"""Share of the environments that people move to DR and back during a run, at least one."""
WRITE_SECONDS = 120.0
"""Mean pause between two writes in one environment."""
HASTY_SHARE, HASTY_SECONDS = 0.5, (0.0, 30.0)
"""Share of the environments whose active gateway is cut off that somebody moves at once, while its lease may live, and when."""
SEEN_SECONDS = (20.0, 120.0)
"""How long people take to move an environment whose active gateway fell silent."""
STALL_SHARE = 0.9
"""Longest stop of a cut-off gateway's clock, as a share of the fixed part of the drift allowance: a machine that stood still."""
BACK_SECONDS = (60.0, 300.0)
"""How long they leave it on DR."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to. `broken` is the invariant that did not hold, empty when all did."""

    seed: int
    gateways: int
    seconds: float
    events: int
    checks: int
    moves: dict[str, int]
    writes: dict[str, int]
    messages: int
    refused_twice: int
    mean_per_second: float
    peak_per_second: int
    peak_at: int
    spells: tuple[Spell, ...]
    log_lines: int
    log_digest: str
    tail: tuple[str, ...]
    broken: str = ""


class World:
    """Everything of one run; all randomness comes from the seed."""

    def __init__(self, gateways: int, seconds: float, seed: int, faults: Sequence[Fault], *, timing: TimeProfile = STANDARD,
                 write: Callable[[str], object] = lambda _line: None) -> None:  # fmt: skip
        self.seconds, self.seed, self.timing = seconds, seed, timing
        self.random = random.Random(seed)  # noqa: S311  the same seed is the same run
        self.events = Events()
        self.log = EventLog(self.events, write)
        self.network = Network(random.Random(self.random.random()))  # noqa: S311
        self.judge = Judge(timing.drift)
        self.wire = Wire(self)
        self.primary = VirtualPrimary(self)
        self.outcomes: Counter[str] = Counter()
        self.moves: Counter[str] = Counter()
        self.promised: set[str] = set()
        self.gateways: list[VirtualGateway] = []
        self.spells = schedule(faults, seconds, random.Random(self.random.random()))  # noqa: S311
        self._build(gateways)

    def run(self) -> Outcome:
        """Until the end, or until an invariant breaks."""
        broken = ""
        collects = gc.isenabled()
        gc.disable()  # nothing here refers to itself in a circle but the world, which lives as long as the run
        try:
            self.events.run(self.seconds)
            self._count_writes()
        except InvariantBroken as found:
            broken = str(found)
            self.log.say("judge", f"BROKEN {broken}")
        finally:
            if collects:
                gc.enable()
        return self._outcome(broken)

    def peers_of(self, gateway: VirtualGateway) -> list[VirtualGateway]:
        """Who else could act in its environment."""
        return [self.primary.environments[gateway.environment].peer_of(gateway)]

    def moved(self, environment: Environment, move: Move) -> None:
        """Somebody reads the history: what ended on DR is brought back after a while."""
        self.moves[move.event.value] += 1
        if move.to is State.DR_ACTIVE and move.event is Event.PROMOTED:
            self.events.after(self.random.uniform(*BACK_SECONDS), self._wish, environment, Event.FAILBACK)

    def fell_silent(self, gateway: VirtualGateway) -> None:
        """Somebody is woken, looks, and moves the environment, unless it has come back meanwhile."""
        environment = self.primary.environments[gateway.environment]
        if environment.active is gateway:
            self.events.after(self.random.uniform(*SEEN_SECONDS), self._wish, environment, self._away_from(gateway))

    def _build(self, count: int) -> None:
        drift = self.timing.drift_fraction * 0.9
        for number in range((count + 1) // 2):
            code = f"E{number:05}"
            pair = [self._gateway(f"{code}-{role}", code, drift) for role in ("primary", "dr")]
            self.primary.add(Environment(code, (pair[0], pair[1])))
            self.events.at(self.random.expovariate(1 / WRITE_SECONDS), self._write, self.primary.environments[code])
        self.primary.start_judging()
        for spell in self.spells:
            self.events.at(spell.begins, self._begin, spell)
        codes = sorted(self.primary.environments)
        for code in self.random.sample(codes, max(1, int(len(codes) * MOVED_SHARE))):
            moment = self.random.uniform(self.seconds * SETTLED, self.seconds)
            self.events.at(moment, self._wish, self.primary.environments[code], Event.ACTIVATE_DR)

    def _gateway(self, name: str, code: str, drift: float) -> VirtualGateway:
        rate, start = 1 + self.random.uniform(-drift, drift), self.random.uniform(0, self.timing.heartbeat_interval)
        made = VirtualGateway(self, len(self.gateways), name, code, rate, start)
        self.gateways.append(made)
        return made

    def _begin(self, spell: Spell) -> None:
        hit = [one for one in self.gateways if self.random.random() < spell.share] if spell.share < 1 else self.gateways
        self.log.say("fault", f"{spell.fault.value} begins: {len(hit)} gateways, {spell.strength:+.1f} s, {spell.loss.value}")
        indexes = [one.index for one in hit]
        self.network.begin(spell, indexes)
        if spell.fault is Fault.RESTART:
            self.primary.kill()
        elif spell.fault is Fault.SKEW:
            self._jump(hit, spell.strength)
        elif spell.fault in (Fault.PARTITION, Fault.ONE_WAY):
            for one in hit:
                wait = self.random.uniform(0, self.timing.directive_wait) + self.timing.round_trip_max
                self.events.after(wait, self._notice, one)
                self._move_hastily(one)
                one.stall(self.random.uniform(0, self.timing.drift_fixed * STALL_SHARE))
        self.events.at(spell.ends, self._end, spell, hit)

    def _end(self, spell: Spell, hit: list[VirtualGateway]) -> None:
        self.log.say("fault", f"{spell.fault.value} ends")
        self.network.end(spell, [one.index for one in hit])
        if spell.fault is Fault.RESTART:
            self.primary.start()
        elif spell.fault is Fault.SKEW:
            self._jump(hit, -spell.strength)

    def _jump(self, hit: list[VirtualGateway], seconds: float) -> None:
        for one in hit:
            one.skew += seconds

    def _notice(self, gateway: VirtualGateway) -> None:
        """A waiting call that should have ended by now has not, if its gateway is still cut off."""
        cut = gateway.index in self.network.lost_up or gateway.index in self.network.lost_down
        if cut and gateway.index in self.primary.waiting:
            self.primary.waiting.discard(gateway.index)
            gateway.lost_its_call()

    def _move_hastily(self, gateway: VirtualGateway) -> None:
        environment = self.primary.environments[gateway.environment]
        if environment.active is gateway and self.random.random() < HASTY_SHARE:
            self.events.after(self.random.uniform(*HASTY_SECONDS), self._wish, environment, self._away_from(gateway))

    def _away_from(self, gateway: VirtualGateway) -> Event:
        first, _ = self.primary.environments[gateway.environment].gateways
        return Event.ACTIVATE_DR if gateway is first else Event.FAILBACK

    def _wish(self, environment: Environment, kind: Event) -> None:
        if self.primary.activate(environment, kind):
            self.log.say("person", f"asks for {kind.value} of {environment.code}")

    def _write(self, environment: Environment) -> None:
        """Callers write where they find a gateway that takes it."""
        secret = self.random.randrange(SECRETS)
        for gateway in environment.gateways:
            accepted = gateway.queue.accept(secret)
            if accepted is not None:
                self.promised.add(accepted.id)
        self.events.after(self.random.expovariate(1 / WRITE_SECONDS), self._write, environment)

    def _count_writes(self) -> None:
        waiting = {name for one in self.gateways for name in one.queue.ids()}
        settled = {name for one in self.primary.environments.values() for name in one.kept.settled}
        self.judge.nothing_lost(self.promised, settled, waiting)
        self.outcomes["waiting"] = len(waiting - settled)

    def _outcome(self, broken: str) -> Outcome:
        arrivals = self.primary.arrivals
        peak_at = max(arrivals, key=lambda second: (arrivals[second], -second), default=0)
        return Outcome(
            seed=self.seed, gateways=len(self.gateways), seconds=self.events.now, events=self.events.done,
            checks=self.judge.checked, moves=dict(sorted(self.moves.items())), writes=dict(sorted(self.outcomes.items())),
            messages=arrivals.total(), refused_twice=self.primary.refused,
            mean_per_second=round(arrivals.total() / max(1.0, self.events.now), 1), peak_per_second=arrivals[peak_at],
            peak_at=peak_at, spells=self.spells, log_lines=self.log.lines, log_digest=self.log.digest,
            tail=tuple(self.log.tail), broken=broken,
        )  # fmt: skip
