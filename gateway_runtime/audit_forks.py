"""An audit chain that was told to the Primary in two ways: by this gateway, and by a copy of it or by the same database before it
was put back (ADR 42).

Nothing changes here: the chain goes on in its own order, and its entries keep their hashes. Only the name under which the Primary
takes it changes at the fork, behind the last entry both ways have in common; that is stored, and told by a critical entry.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from django.db import transaction

from common import audit
from common.models import AuditLink
from gateway_runtime.client import Channel, PrimaryRefused
from gateway_runtime.models import AuditFork
from protocol import paths
from protocol.audit import CONTRADICTED, FORKED, fork_number, statement_of
from protocol.messages import AuditPlace, AuditRecord, AuditTaken, AuditUpload

log = logging.getLogger("mazevault.gateway.audit")


@dataclass(frozen=True)
class Asking:
    """Questions to the Primary about chains of this gateway, whose present life is `generation`; `timeout` in seconds each."""

    channel: Channel
    generation: str
    timeout: float

    def about(self, name: str, *, records: list[AuditRecord] | None = None, cut_at: int = 0,
              fork_at: AuditPlace | None = None) -> AuditTaken:  # fmt: skip
        """Raises `PrimaryUnreachable` or `PrimaryRefused`."""
        life = None if name == self.generation else name
        said = AuditUpload(records=records or [], cut_at=cut_at, life=life, fork_at=fork_at)
        return self.channel.call(paths.AUDIT, said, AuditTaken, timeout=self.timeout)


def newest(chain: str) -> str:
    """The name under which the Primary takes what is added to a chain now."""
    return next((fork.name for fork in _forks(chain)), chain)


def holding(chain: str, position: int) -> str:
    """The name under which the Primary holds a position of a chain."""
    return next((fork.name for fork in _forks(chain) if position > fork.position), chain)


def last_common(asking: Asking, chain: str) -> int:
    """The last position at which the Primary is known to have the same entry as this chain.

    That is where it stands, unless it holds another past or more than there is here. Then some twenty questions find it: the
    Primary states the hash at a position when it is asked for a cut there. Of what it has not anchored yet it states none, so
    those entries are sent again.
    """
    taken, head = asking.about(newest(chain)), audit.head(chain)[0]
    start = audit.start_of(chain)[0]
    if taken.position <= start or _hash_at(chain, taken.position) == taken.hash:
        return taken.position
    low, high = start, min(head, taken.position)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _agrees(asking, chain, middle) else (low, middle - 1)
    log.warning("the Primary holds audit chain %s up to %s, and says the same as this one up to about %s",
                chain, taken.position, low)  # fmt: skip
    return low


def before(chain: str, refused: PrimaryRefused, known: int, sent: int) -> AuditPlace:
    """The place before the entry that contradicts: the refusal names its position, which counts only where it can be."""
    named = int(refused.details) - 1 if refused.details.isdecimal() and len(refused.details) < 20 else known
    position = named if known <= named < sent else known
    return AuditPlace(position=position, hash=_hash_at(chain, position))


def go_on(asking: Asking, chain: str, place: AuditPlace) -> int | None:
    """Go on under the name that follows, which begins behind `place`, or else where this chain begins here.

    Returns the position up to which the Primary has the entries of this chain under that name. None while nobody released this
    gateway, and for a Primary that knows no forks.
    """
    former = newest(chain)
    for at in (place, AuditPlace(*audit.start_of(chain))):
        try:
            taken = asking.about(former, fork_at=at)
        except PrimaryRefused as refused:
            if refused.code == CONTRADICTED:
                return None
            if refused.status != 400:
                raise
        else:
            assert taken.follows is not None and taken.follows.chain is not None  # noqa: S101  what was asked for
            _begin(chain, former, taken, taken.follows)
            return min(at.position, taken.follows.position)
    return None


def _begin(chain: str, former: str, taken: AuditTaken, follows: AuditPlace) -> None:
    """Store the name together with the entry that tells of it: whoever has one has the other."""
    own_position, own_hash = audit.head(chain)
    with transaction.atomic():
        fork, is_new = AuditFork.objects.get_or_create(
            name=follows.chain, defaults={"chain": chain, "position": follows.position}
        )
        if not is_new:
            return
        audit.record(
            actor="system", action=FORKED, entity="audit-chain", entity_id=fork.name, severity=audit.Severity.CRITICAL,
            details={"chain": former, "position": follows.position, "hash": follows.hash, "own_position": own_position,
                     "own_hash": own_hash, "taken_position": taken.position, "taken_hash": taken.hash},
        )  # fmt: skip
    log.warning("audit chain %s goes on as %s at the Primary, behind position %s", former, fork.name, follows.position)


def _forks(chain: str) -> list[AuditFork]:
    """Newest first."""
    return sorted(AuditFork.objects.filter(chain=chain), key=lambda fork: -fork_number(fork.name))


def _agrees(asking: Asking, chain: str, position: int) -> bool:
    taken = asking.about(holding(chain, position), cut_at=position)
    return taken.cut is not None and statement_of(taken.cut.text).hash == _hash_at(chain, position)


def _hash_at(chain: str, position: int) -> str:
    """The hash at a position of a chain here; empty where there is none."""
    start = audit.start_of(chain)
    if position == start[0]:
        return start[1]
    return AuditLink.objects.filter(chain=chain, position=position).values_list("hash", flat=True).first() or ""
