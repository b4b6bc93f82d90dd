"""What the product promises of its speed: ratios to a peer or a limit that was measured in the same run, never plain numbers.

Machines are noisy and differ; a ratio of two figures of one run does not. `check` is what `make bench-check` insists on, with a
wide margin below `must`, so that a busy machine does not fail it and a regression by half does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Goal:
    """`ours` and `other` are paths into the results; a higher ratio is better."""

    title: str
    ours: str
    other: str
    other_title: str
    must: float
    moonshot: float
    check: float


@dataclass(frozen=True)
class Outcome:
    """A goal beside what was seen. `ratio` is None where one of both was not measured."""

    goal: Goal
    ours: float | None
    other: float | None

    @property
    def ratio(self) -> float | None:
        return self.ours / self.other if self.ours is not None and self.other else None

    @property
    def verdict(self) -> str:
        if self.ratio is None:
            return NOT_MEASURED
        if self.ratio >= self.goal.moonshot:
            return "moonshot"
        return "holds" if self.ratio >= self.goal.must else "below"

    @property
    def passes_check(self) -> bool:
        """What could not be measured is shown and fails nothing."""
        return self.ratio is None or self.ratio >= self.goal.check


LANE, ETCD, BAO, LIMITS = "lane.primary", "lane.peers.etcd", "lane.peers.bao", "limits"
PER_SECOND = "per_second"

GOALS = (
    Goal("heartbeat, durable, client certificate, sealed", f"{LANE}.heartbeat", f"{ETCD}.put_1kb",
         "etcd put of 1 KB, client certificate", 0.35, 1.0, 0.17),
    Goal("lease renewal", f"{LANE}.lease", f"{ETCD}.lease_keepalive", "etcd lease keepalive", 0.3, 1.0, 0.15),
    Goal("heartbeat on a new connection each", f"{LANE}.heartbeat_new_connection", f"{ETCD}.put_new_connection",
         "etcd put on a new connection each", 0.3, 0.6, 0.15),
    Goal("secret read of 1 KB, audited", f"{LANE}.secret_read", f"{BAO}.kv_read_1kb", "OpenBao KV v2 read, audited",
         0.35, 1.0, 0.17),
    Goal("secret write of 1 KB, audited", f"{LANE}.secret_write", f"{BAO}.kv_write_1kb", "OpenBao KV v2 write, raft, audited",
         0.6, 2.0, 0.3),
    Goal("registration: token, CSR, signature, record", f"{LANE}.registration", f"{BAO}.pki_sign", "OpenBao pki/sign, stored",
         0.3, 0.8, 0.15),
    Goal("queued writes applied", "reconcile.writes.applied", "reconcile.raw_upserts",
         "bare upserts on the same database", 0.08, 0.2, 0.04),
    Goal("queued writes replayed", "reconcile.writes.replayed", "reconcile.writes.applied",
         "the same writes applied", 5.0, 10.0, 2.5),
    Goal("lease renewal against one statement", f"{LANE}.lease", f"{LIMITS}.indexed_update", "one indexed UPDATE", 0.2, 0.5, 0.1),
)  # fmt: skip


def outcomes(results: Mapping[str, Any]) -> list[Outcome]:
    """Every goal beside what these results hold."""
    return [Outcome(goal, number_at(results, goal.ours), number_at(results, goal.other)) for goal in GOALS]


def number_at(results: Mapping[str, Any], path: str) -> float | None:
    """The figure at a path like `lane.primary.lease`; of a measured loop its rate. None when it is not there."""
    found: Any = results
    for name in path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    if isinstance(found, Mapping):
        found = found.get(PER_SECOND)
    return float(found) if isinstance(found, int | float) else None
