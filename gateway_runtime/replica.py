"""Keeping the copy of the environment: pages of changes, stored as they come and sealed under keys of this node (DESIGN §9).

A page and the cursor behind it commit together, so a crash repeats a page and never skips one. Reading everything again marks
what it sees with the number of the round and drops the rest at the end.
"""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Greatest

from accounts.models import Environment, Organization, Project
from common import audit
from common.clock import now as clock_now
from common.process_locks import ProcessLock, Rank
from gateway_runtime import copy_digest, copying, lost_rights, marks, state
from gateway_runtime.client import Channel
from gateway_runtime.models import NodeState, ReplicaPrincipal, ReplicaRow
from protocol import paths
from protocol.replica import AskChanges, Changes, ReplicaKind
from vault.models import Secret

log = logging.getLogger("mazevault.gateway.replica")

PULL_SECONDS = 15.0
"""Longest wait for one page."""
PAGE = 500
"""Most changes of a page; its bytes are bounded as well, by the Primary."""
LONGEST_AGE = 1e9
"""What is reported in seconds when nobody knows the age, since a message holds no infinity."""
_SWEPT = (
    (ReplicaKind.SECRET, Secret),
    (ReplicaKind.PROJECT, Project),
    (ReplicaKind.ENVIRONMENT, Environment),
    (ReplicaKind.ORGANIZATION, Organization),
)
"""What refers to others goes first."""
SWEPT_AT_ONCE = 1000
"""Things dropped with one statement."""
pulling = ProcessLock("the copy", Rank.PULL)
"""Held while something is asked for that is then stored: what was asked for first is stored first."""


class Pulled(StrEnum):
    """What came of asking for changes."""

    MORE = "more"
    COMPLETE = "complete"
    REFUSED = "refused"
    RIGHTS_ONLY = "rights_only"
    """This gateway is quarantined: who lost what is stored to the end, and everything else stays as it was. With more to hear it
    is `MORE`."""
    OUTDATED = "outdated"
    """Somebody else moved the cursor meanwhile; nothing was stored."""


@dataclass(frozen=True)
class Report:
    """What a heartbeat says of the copy. `age` in seconds; -1 while it was never complete."""

    position: int
    age: float
    digest: str

    @property
    def complete(self) -> bool:
        """Whether the copy was complete at least once, so that callers can be served from it."""
        return self.age >= 0


def pull(channel: Channel, environment: str, timeout: float = PULL_SECONDS) -> Pulled:
    """Ask for the next page of this gateway environment and store it. One at a time in this process."""
    with pulling:
        return _pull(channel, environment, timeout)


def apply_page(page: Changes, cursor: NodeState, environment: str, asked_at: datetime) -> Pulled:
    """Store a page that was asked for at this cursor, unless it tells of a database older than what was seen already (I4)."""
    refusal = _why_refuse(page, cursor)
    if refusal:
        log.error("a page of changes is refused: %s", refusal)
        if cursor.replica_resyncing:
            begin_resync()
        return Pulled.REFUSED
    if page.rights_only:
        return _take_rights_away(page, cursor)
    with transaction.atomic():
        copying.store(page, cursor, environment, asked_at)
        if not page.more and cursor.replica_resyncing:
            _end_resync(cursor)
        if not _move_cursor(page, cursor, asked_at):
            transaction.set_rollback(True)
            return Pulled.OUTDATED
        marks.keep(page.mark)
    return Pulled.MORE if page.more else Pulled.COMPLETE


def begin_resync() -> None:
    """Read everything again from the beginning. What is there goes on answering meanwhile."""
    NodeState.objects.filter(id=1).update(
        replica_generation="", replica_position=0, replica_round=F("replica_round") + 1, replica_resyncing=True,
        rights_position=0,
    )  # fmt: skip
    log.warning("the copy of the environment is read again from the beginning")


def catch_up(channel: Channel, environment: str, secret: uuid.UUID, version: int, timeout: float) -> Secret | None:
    """The copy of a secret in at least this version, asking for changes once if need be; None when it has not arrived.

    `timeout` is the whole wait in seconds, also for the pull of somebody else.
    """
    deadline = time.monotonic() + timeout
    found = _copied(secret, version)
    if found is not None or not pulling.acquire(timeout=timeout):
        return found
    try:
        found = _copied(secret, version)  # whoever pulled meanwhile may have brought it
        left = deadline - time.monotonic()
        if found is not None or left <= 0:
            return found
        _pull(channel, environment, left)
    finally:
        pulling.release()
    return _copied(secret, version)


def report(now: datetime) -> Report:
    """Position and digest belong together, or the digest is left out: as it is while the copy is read again."""
    row = state.this_life()
    age = state.age_of_copy(row, now)
    if age is None:
        return Report(row.replica_position, -1.0, "")
    age = min(age, LONGEST_AGE)
    known = "" if row.replica_resyncing else copy_digest.at(row.replica_round, row.replica_position)
    return Report(row.replica_position, age, known)


def _pull(channel: Channel, environment: str, timeout: float) -> Pulled:
    asked_at, cursor = clock_now(), state.this_life()
    heard = max(cursor.replica_position, cursor.rights_position)
    ask = AskChanges(after=cursor.replica_position, generation=cursor.replica_generation, limit=PAGE, rights_after=heard)
    return apply_page(channel.call(paths.CHANGES, ask, Changes, timeout=timeout), cursor, environment, asked_at)


def _take_rights_away(page: Changes, cursor: NodeState) -> Pulled:
    """A page for a quarantined gateway. It only takes, so in whatever order such pages are stored, nobody gets anything; one that
    comes behind an ordinary page is not stored, or it would take what that gave."""
    with transaction.atomic():
        lost_rights.narrow(page.principals)
        stands = NodeState.objects.filter(
            id=1, replica_round=cursor.replica_round, replica_position=cursor.replica_position,
            replica_complete_at=cursor.replica_complete_at,
        )  # fmt: skip
        if not stands.update(rights_position=Greatest("rights_position", page.rights_position)):
            transaction.set_rollback(True)
            return Pulled.OUTDATED
    return Pulled.MORE if page.more else Pulled.RIGHTS_ONLY


def _why_refuse(page: Changes, cursor: NodeState) -> str:
    if cursor.replica_position == 0:
        return ""
    if page.generation != cursor.replica_generation:
        return "it is of another life of the Primary's database"
    if page.head < cursor.replica_position or page.position < cursor.replica_position:
        return f"it ends at {page.head}, but changes up to {cursor.replica_position} were seen already"
    return ""


def _end_resync(cursor: NodeState) -> None:
    dropped = _sweep(cursor.replica_round)
    audit.record(actor="system", action="gateway.replica.resynced", entity="gateway", entity_id="", details={"dropped": dropped})
    log.info("the copy was read again; %s things were dropped", dropped)


def _move_cursor(page: Changes, cursor: NodeState, asked_at: datetime) -> bool:
    """False when somebody else moved it meanwhile. Last in its transaction: writes and fences need the row, a page is long."""
    completed = {} if page.more else {"replica_complete_at": asked_at, "replica_resyncing": False}
    as_it_was = NodeState.objects.filter(
        id=1, replica_round=cursor.replica_round, replica_position=cursor.replica_position,
        replica_resyncing=cursor.replica_resyncing,
    )  # fmt: skip
    return bool(as_it_was.update(replica_generation=page.generation, replica_position=page.position, **completed))


def _sweep(seen_in: int) -> int:
    """Drop what this round of reading did not see."""
    dropped = 0
    for kind, model in _SWEPT:
        unseen = ReplicaRow.objects.filter(kind=kind.value, round__lt=seen_in).order_by("id")
        while gone := list(unseen[:SWEPT_AT_ONCE]):
            model.objects.filter(id__in=[one.entity_id for one in gone]).delete()
            copy_digest.forget(gone)
            dropped += len(gone)
    ReplicaPrincipal.objects.filter(round__lt=seen_in).delete()
    return dropped


def _copied(secret: uuid.UUID, version: int) -> Secret | None:
    return Secret.objects.select_related("project", "environment").filter(id=secret, version__gte=version).first()
