"""Audit entries that commit by themselves, before an answer leaves: those of requests at the same time commit together (ADR 36).

One thread stores what waits, its own entry and those of the others; who comes meanwhile waits for the next turn. So a commit of
the database serves many requests, and none of them is answered before it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from django.db import DatabaseError

from common.models import AuditEntry
from common.process_locks import Condition
from common.statements import fetch

log = logging.getLogger("mazevault.audit")

AT_ONCE = 64
"""Entries in one commit; a process has about as many threads for people."""
LONGEST_WAIT = 20.0
"""Seconds after which a request stops waiting for the thread that stores its entry; a lock of the database
takes no longer."""
_STORE: LiteralString = """
INSERT INTO common_auditentry (at, actor, action, entity, entity_id, severity, environment, address, organization, project,
                               details)
SELECT at, actor, action, entity, entity_id, severity, environment, address, organization, project, details
  FROM jsonb_to_recordset(%(entries)s::text::jsonb)
       AS told(at timestamptz, actor text, action text, entity text, entity_id text, severity text, environment text,
               address text, organization uuid, project uuid, details jsonb)
RETURNING 1
"""
_TEXTS = ("at", "actor", "action", "entity", "entity_id", "severity", "environment", "address")


@dataclass(eq=False)
class _Slip:
    """One entry and what became of it."""

    entry: AuditEntry
    stored: bool = False
    refused: BaseException | None = None

    @property
    def ended(self) -> bool:
        return self.stored or self.refused is not None


class Commits:
    """The entries of one process that wait for their commit. No thread may be in a transaction."""

    def __init__(self) -> None:
        self._turn = Condition("audit commits")
        self._waiting: list[_Slip] = []
        self._storing = False

    def commit(self, entry: AuditEntry) -> None:
        """Return once the entry is committed. Raises `DatabaseError` where it is not, or nobody can say."""
        slip, deadline = _Slip(entry), time.monotonic() + LONGEST_WAIT
        with self._turn:
            self._waiting.append(slip)
        while not slip.ended:
            self._store(self._next_batch(slip, deadline))
        if slip.refused is not None:
            raise slip.refused

    def _next_batch(self, slip: _Slip, deadline: float) -> Sequence[_Slip]:
        """What this thread is to store; nothing once another one has stored its entry."""
        with self._turn:
            while self._storing and not slip.ended:
                if time.monotonic() > deadline:
                    slip.refused = DatabaseError("the entry was not stored in time")
                    self._waiting = [one for one in self._waiting if one is not slip]
                self._turn.wait(max(0.0, deadline - time.monotonic()))
            if slip.ended:
                return ()
            self._storing = True
            batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            return batch

    def _store(self, batch: Sequence[_Slip]) -> None:
        if not batch:
            return
        try:
            _store_all(batch)
        finally:
            with self._turn:
                for slip in batch:
                    if not slip.ended:
                        slip.refused = DatabaseError("the thread that stored this entry was ended")
                self._storing = False
                self._turn.notify_all()


def _store_all(batch: Sequence[_Slip]) -> None:
    """All in one statement. Where the database takes them not as a whole, one by one, so that none refuses another's."""
    try:
        _insert(batch)
    except DatabaseError as error:
        if len(batch) == 1:
            batch[0].refused = error
            return
        log.warning("%s audit entries could not be stored together (%s)", len(batch), type(error).__name__)
        for slip in batch:
            _store_all([slip])


def _insert(batch: Sequence[_Slip]) -> None:
    fetch(_STORE, {"entries": json.dumps([_row(slip.entry) for slip in batch], default=str)})
    for slip in batch:
        slip.stored = True


def _row(entry: AuditEntry) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(entry, name) for name in _TEXTS}
    return {**row, "organization": entry.organization, "project": entry.project, "details": entry.details}


commits = Commits()
