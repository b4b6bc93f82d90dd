"""How many of this process's threads may wait for vaults at once: for one vault, for one project, and in all (ADR 30).

A vault that answers slowly holds at most its own places. Who finds none waits a little, without a database connection, and is
then told which vault it is.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings

from common import outside
from common.direct import give_connection_back
from common.errors import Unavailable
from common.process_locks import Condition

OF_A_VAULT = 6
"""Calls to one vault at once; Azure throttles one at some hundred a second, so a healthy one needs no more."""
OF_A_PROJECT = 4
"""Of one project, so that one project's people do not take a shared vault from the others."""
SHARE_OF_THREADS = 2
"""All vaults together hold at most every second thread that serves people."""
SHARE_OF_ONE = 4
"""And one of them every fourth."""
WAIT_SECONDS = 2.0
RETRY_SECONDS = 5


def most(threads: int) -> tuple[int, int]:
    """Calls to one vault and to all at once, of a node with so many threads for people: one vault never takes it."""
    return max(1, min(OF_A_VAULT, threads // SHARE_OF_ONE)), max(1, threads // SHARE_OF_THREADS)


class Places:
    """Counted places, each taken for a vault and a project together."""

    def __init__(self) -> None:
        self._freed = Condition("places at vaults")
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, vault: str, project: str) -> Iterator[None]:
        """A place for as long as the block lasts. Raises `Unavailable` (VAULT_BUSY) when none became free in time."""
        of_a_vault, of_all = most(settings.MAZEVAULT.threads)
        limits = {f"vault {vault}": of_a_vault, f"project {project}": OF_A_PROJECT, "all": of_all}
        outside.begins(vault)
        give_connection_back()
        self._take(limits, vault)
        try:
            yield
        finally:
            self._give(limits)

    def _take(self, limits: dict[str, int], vault: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        with self._freed:
            while full := [name for name, most in limits.items() if self._taken[name] >= most]:
                left = deadline - time.monotonic()
                if left <= 0 or not self._freed.wait(left):
                    raise _busy(vault, full[0])
            self._taken.update(limits.keys())

    def _give(self, limits: dict[str, int]) -> None:
        with self._freed:
            self._taken.subtract(limits.keys())
            self._taken += Counter()  # forgets what nobody holds, so that the table stays small
            self._freed.notify_all()


def _busy(vault: str, full: str) -> Unavailable:
    whose = "calls of this project wait for it" if full.startswith("project") else "calls wait for it"
    whose = "calls of this node wait for vaults" if full == "all" else whose
    return Unavailable(
        f"the vault {vault} answers slowly: too many {whose} already; nothing was sent, try again",
        code="VAULT_BUSY", retry_after=RETRY_SECONDS,
    )  # fmt: skip


_here = Places()
taken = _here.taken
