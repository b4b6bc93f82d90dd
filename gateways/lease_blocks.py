"""A block of leases ends after the longest time it can be for, whatever the database's clock says meanwhile (DESIGN §8, ADR 6).

The end of a block is a time of the database's clock. Put that clock back by a day, and nobody may act for a day. So each process
notes by its own boot clock, which nobody can set, when it first saw a block, and takes it away once it has counted the longest
time that any block is for. That is never too early: what the block waits for began before the block was seen. A block that was
asked for again meanwhile, perhaps with the same end, has another number and is another one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from common import audit
from common.clock import boottime
from gateways import generation, routes
from gateways.models import PrimaryNode, Route

log = logging.getLogger("mazevault.gateways.lease_blocks")

Block = tuple[str, datetime | None, int]
"""Environment, end, number."""


def longest() -> timedelta:
    """No block of nodes with the times of this one is for longer, and its clock may be as far off as anybody's."""
    return timedelta(seconds=generation.longest_block_seconds() + settings.MAZEVAULT.timing.drift)


def longest_ever() -> timedelta:
    """The same for all nodes of the last hour: one that was started with shorter times must not cut a block of before short."""
    kept = PrimaryNode.objects.filter(id=1).values_list("longest_block_seconds", flat=True).first() or 0.0
    return max(longest(), timedelta(seconds=kept + settings.MAZEVAULT.timing.drift))


def shown_until(blocked_until: datetime | None, moment: datetime) -> datetime | None:
    """The end of a block as people are told it: a later one than the longest comes of a clock that was put back."""
    return min(blocked_until, moment + longest_ever()) if blocked_until else None


class BlockWitness:
    """When this process first saw each block that lasts, by its own clock. For one thread."""

    def __init__(self) -> None:
        self._first_seen: dict[Block, float] = {}

    def overdue(self, blocks: Iterable[Block], mine: float) -> list[Block]:
        """Those of the blocks of now that were first seen longer ago than any block is for. `mine`: the boot clock."""
        self._first_seen = {block: self._first_seen.get(block, mine) for block in blocks}
        old = {block: mine - since for block, since in self._first_seen.items() if mine - since > longest().total_seconds()}
        limit = longest_ever().total_seconds() if old else 0.0
        return [block for block, age in old.items() if age > limit]


witness = BlockWitness()


def end_overdue() -> int:
    """Take away the blocks that have lasted for as long as any may by this process's own clock. Returns how many."""
    lasting = Route.objects.filter(lease_blocked_until__gt=Now()).values_list(
        "environment_id", "lease_blocked_until", "lease_blocks"
    )
    return sum(_end(block) for block in witness.overdue(lasting, boottime()))


def _end(block: Block) -> bool:
    code, until, number = block
    with transaction.atomic():
        same = Route.objects.filter(environment_id=code, lease_blocked_until=until, lease_blocks=number)
        if until is None or not same.update(lease_blocked_until=None):
            return False
        audit.record(
            actor="system", action="failover.block_ended", entity="environment", entity_id=code, environment=code,
            severity=audit.Severity.WARNING, details={"stored_end": until.isoformat(), "seconds": longest_ever().total_seconds()},
        )  # fmt: skip
        routes.wake(code)
    log.warning(
        "%s: the block of leases has lasted %s and ends, though its stored end is %s", code, longest_ever(), until.isoformat()
    )
    return True
