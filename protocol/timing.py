"""Time constants of heartbeat, lease and failover, chosen together and checked together (DESIGN §7, reliability §4.3).

All values are seconds. A node builds one `TimeProfile` at start from a named profile plus overrides and refuses to start
when the numbers do not keep the promises that depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields


class TimingError(ValueError):
    """The chosen numbers would break a promise; the sentence names the setting and the rule."""


LONGEST = 86400
"""No time constant may be longer than a day, in seconds; that also refuses infinity."""


@dataclass(frozen=True)
class TimeProfile:
    name: str
    heartbeat_interval: float
    """A gateway tells how it is this often (seed: 60 s)."""
    heartbeat_full_age: float
    """Up to this age a heartbeat says everything about now."""
    heartbeat_zero_age: float
    """From this age on it says nothing: the score is 0."""
    standby_fresh_age: float
    """A standby whose last heartbeat is older is no target for a failover."""
    lease_renew: float
    """The active gateway renews its lease this often."""
    lease_ttl: float
    """A lease lives this long, counted from the send time on the gateway's own clock."""
    drift_fraction: float
    """Share of the lease by which two clocks may run apart."""
    drift_fixed: float
    """Fixed part of the drift allowance."""
    fence_margin: float
    """Added after lease and drift, so that promotion is strictly later."""
    effect_deadline: float
    """Hard limit of one outside call; an effect starts only when the lease outlives it."""
    round_trip_max: float
    """Longest answer of the Primary a renewal waits for."""
    directive_wait: float
    """Longest wait of one directive call."""
    task_poll: float
    """Idle pause between two task claims."""
    replica_poll: float
    """A gateway asks this often what changed in its environment."""
    drain_limit: float
    """A drain before a failback that is not finished by then is undone."""
    queue_wait: float
    """Before the DR gateway is activated a living gateway has this long to bring its queue; it takes no writes meanwhile."""
    sign_of_life: float
    """A living gateway answers the question whether it is alive within this; longer than the longest pause between two of its
    directive calls (15 s where the Primary is crowded)."""
    cooldown: float
    """Advised pause between two switches of one environment."""
    failback_stable: float
    """How long the primary gateway should have been healthy before a failback."""
    label_dwell: float
    """A gateway is called unhealthy only after its score has been low for this long."""
    vault_retry: float
    """Pause before a sync run asks a vault again that was busy and named no time; each further one is twice as long."""

    @property
    def drift(self) -> float:
        """How far the lease may live on at a gateway whose clock is slow."""
        return self.lease_ttl * self.drift_fraction + self.drift_fixed

    @property
    def fence_wait(self) -> float:
        """What is added to the stored end of the lease before anybody else may be promoted."""
        return self.drift + self.fence_margin

    def check(self) -> TimeProfile:
        """Return self, or raise `TimingError` naming the first broken rule."""
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "name" and not 0 < value <= LONGEST:
                raise TimingError(f"{item.name} must be greater than 0 and at most {LONGEST} seconds, got {value}")
        rules = (
            (
                self.lease_ttl > 2 * self.lease_renew + self.round_trip_max,
                "lease_ttl must be longer than 2 x lease_renew + round_trip_max, or one lost renewal stops the active gateway",
            ),
            (
                self.effect_deadline < self.lease_ttl / 2,
                "effect_deadline must be shorter than half of lease_ttl, or no effect could ever start late in a lease",
            ),
            (
                self.heartbeat_full_age > self.heartbeat_interval,
                "heartbeat_full_age must be longer than heartbeat_interval, or a punctual gateway loses health",
            ),
            (self.heartbeat_zero_age > self.heartbeat_full_age, "heartbeat_zero_age must be longer than heartbeat_full_age"),
            (
                self.sign_of_life < self.lease_ttl,
                "sign_of_life must be shorter than lease_ttl, or a silent gateway is waited for longer than its lease lives",
            ),
            (
                self.standby_fresh_age > self.heartbeat_interval,
                "standby_fresh_age must be longer than heartbeat_interval, or a healthy standby is refused",
            ),
        )
        for holds, sentence in rules:
            if not holds:
                raise TimingError(sentence)
        return self


STANDARD = TimeProfile(
    name="standard", heartbeat_interval=60, heartbeat_full_age=75, heartbeat_zero_age=195, standby_fresh_age=90,
    lease_renew=15, lease_ttl=45, drift_fraction=0.01, drift_fixed=1, fence_margin=1, effect_deadline=10,
    round_trip_max=10, directive_wait=25, task_poll=2, replica_poll=2, drain_limit=300, queue_wait=60, sign_of_life=20,
    cooldown=900, failback_stable=300, label_dwell=120, vault_retry=1,
)  # fmt: skip
SHORT = TimeProfile(
    name="short", heartbeat_interval=2, heartbeat_full_age=3.5, heartbeat_zero_age=8, standby_fresh_age=6,
    lease_renew=1, lease_ttl=5, drift_fraction=0.01, drift_fixed=0.3, fence_margin=0.3, effect_deadline=1.5,
    round_trip_max=2, directive_wait=5, task_poll=0.3, replica_poll=0.5, drain_limit=20, queue_wait=10, sign_of_life=4,
    cooldown=10, failback_stable=6, label_dwell=3, vault_retry=0.05,
)  # fmt: skip
PROFILES: Mapping[str, TimeProfile] = {"standard": STANDARD, "short": SHORT}


def time_profile(name: str, overrides: Mapping[str, float]) -> TimeProfile:
    """Build and check a profile. Raises `TimingError` for an unknown name, an unknown override or a broken rule."""
    if name not in PROFILES:
        raise TimingError(f"unknown time profile {name!r}; choose one of {', '.join(PROFILES)}")
    known = {item.name for item in fields(TimeProfile)} - {"name"}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise TimingError(f"unknown time constant {unknown[0]!r}; known ones are {', '.join(sorted(known))}")
    return TimeProfile(**{**asdict(PROFILES[name]), **overrides}).check()
