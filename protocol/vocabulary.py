"""Words both ends of the wire use. Values are what is stored, sent and shown; do not rename one without a migration."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What a gateway was enrolled to be (DESIGN §2)."""

    PRIMARY = "primary"
    DR_STANDBY = "dr-standby"

    @property
    def counterpart(self) -> Role:
        return Role.DR_STANDBY if self is Role.PRIMARY else Role.PRIMARY


class StandbyMode(StrEnum):
    """A warm standby runs and sends heartbeats; a cold one is stopped and its silence is no alarm."""

    WARM = "warm"
    COLD = "cold"


class Assignment(StrEnum):
    """What the Primary tells a gateway to be right now."""

    ACTIVE = "active"
    STANDBY = "standby"
    FENCED = "fenced"
    DRAINING = "draining"


class ActivationStatus(StrEnum):
    """What people read in `GET admin/gateway-health`."""

    ACTIVE = "active"
    STANDBY = "standby"
    COLD = "cold"
    FENCED = "fenced"
    DRAINING = "draining"
    FAILED = "failed"
    STOPPED = "stopped"
    BANNED = "banned"


class HealthLabel(StrEnum):
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    SILENT = "silent"


class BreakerState(StrEnum):
    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"

    @property
    def metric(self) -> int:
        """0 closed, 1 half-open, 2 open (DESIGN §11)."""
        return {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}[self]


class TaskState(StrEnum):
    """The life of a task at the Primary (DESIGN §8, reliability §4.4)."""

    PENDING = "pending"
    CLAIMED = "claimed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEAD_LETTER = "dead_letter"
    NEEDS_REVIEW = "needs_review"


class TaskOutcome(StrEnum):
    """What a gateway reports about one attempt."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"  # the gateway had no right to act: no lease, fenced, or too little lease left


class ResultVerdict(StrEnum):
    """What the Primary did with a reported result."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REJECTED_STALE_EPOCH = "rejected_stale_epoch"
    REJECTED_STALE_CLAIM = "rejected_stale_claim"
    UNKNOWN_TASK = "unknown_task"


class LeaseVerdict(StrEnum):
    """Answer to a lease renewal."""

    GRANTED = "granted"
    NOT_ACTIVE = "not_active"
    STALE_EPOCH = "stale_epoch"
    FENCING = "fencing"
    CLOCK_SKEW = "clock_skew"
    HELD = "held"  # the Primary's database was restored; no lease until the gateways have reported
    ANOTHER_INSTANCE = "another_instance"  # another running copy of this gateway may still hold the lease
    QUARANTINED = "quarantined"  # two machines use this identity; no lease until an administrator has looked


class WriteOperation(StrEnum):
    """What a write does to a secret. Each one makes a new version, so each can be compared, conflicted and audited."""

    CREATE = "create"
    UPDATE = "update"
    METADATA = "metadata"
    ROLLBACK = "rollback"
    ROTATE = "rotate"
    """A new value in place of one that is to be retired once the new one has arrived everywhere."""
    ARCHIVE = "archive"
    RESTORE = "restore"
    DELETE = "delete"
    PURGE = "purge"


class WriteOutcome(StrEnum):
    """Where a write is or how it ended (DESIGN §9); serves code, log, metric and API alike."""

    QUEUED = "queued"
    """Committed at the gateway only."""
    RECEIVED = "received"
    """Stored at the Primary, waiting for its turn."""
    APPLIED = "applied"
    SUPERSEDED = "superseded"
    """Not applied, because the policy let the other side win."""
    CONFLICT = "conflict"
    """Kept for a person: its base is not the current version."""
    QUARANTINED = "quarantined"
    """Kept for policy or a person: it is of an old epoch or generation, or its stream contradicts itself."""
    DEAD_LETTER = "dead_letter"
    """Kept for a person: it cannot be applied, for a named reason."""
    REFUSED = "refused"
    """Answered with an error while the caller waited, so nothing was promised and nothing is kept."""
    DUPLICATE = "duplicate"
    """It repeats a request that was answered before, and ends with that answer. Counted too when a write itself arrives again."""

    @property
    def terminal(self) -> bool:
        """The gateway may forget the write: the Primary answers for it."""
        return self not in (WriteOutcome.QUEUED, WriteOutcome.RECEIVED)
