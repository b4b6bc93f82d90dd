"""Kinds of work with database connections of their own, so that none can take the last one from another (ADR 30).

A thread is in one lane for its whole life. Requests of people are the default; machines, the loops and what keeps an environment
served say so when their threads begin.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from enum import StrEnum


class Lane(StrEnum):
    PEOPLE = "people"
    """Requests of people and programs, tasks of Celery, commands."""
    MACHINES = "machines"
    """Calls of gateways at a Primary: heartbeats, leases, orders, writes, copies."""
    LOOPS = "loops"
    """The light loops of a node, each with one connection while it works."""
    CORE = "core"
    """The failover driver and the judge; at a gateway its lease, directive and heartbeat, with all they commit."""


CONNECTIONS: Mapping[Lane, int] = {Lane.LOOPS: 8, Lane.CORE: 5}
"""At most so many connections of a process. A lane that is not used has none."""
LEAST_OF_PEOPLE, MOST_OF_PEOPLE = 8, 24
"""People's requests get one connection for two threads, within these bounds: who waits for the outside holds none."""
MACHINES_BESIDE_BULK, MOST_OF_MACHINES = 16, 48
"""Machines get one for each thread that is not waiting for a directive, so that a lease never waits behind copies and results."""
WAIT_SECONDS = 8.0
"""How long a thread waits for a connection of its lane."""

_here = threading.local()
_process = Lane.PEOPLE


def connections_of(lane: Lane, threads: int) -> int:
    """How many connections a lane has in a process with so many threads for people."""
    if lane is Lane.MACHINES:
        return min(MOST_OF_MACHINES, max(MACHINES_BESIDE_BULK, threads // 2 + MACHINES_BESIDE_BULK))
    return CONNECTIONS.get(lane) or min(MOST_OF_PEOPLE, max(LEAST_OF_PEOPLE, threads // 2))


def enter(lane: Lane) -> None:
    """This thread works in the lane from now on. For its beginning, before it uses the database."""
    _here.lane = lane


def lane() -> Lane:
    """The lane of this thread; that of its process when it said nothing."""
    return getattr(_here, "lane", _process)


def process_is(lane: Lane) -> None:
    """What threads of this process do that say nothing else. For the beginning of a process that has one kind of work."""
    global _process
    _process = lane
