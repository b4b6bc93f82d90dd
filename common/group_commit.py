"""Group commit for an event loop: what many callers ask of the database at once is one statement and one commit.

While a group is on its way the next one gathers, so a quiet node waits for nobody and a busy one commits seldom. Whoever asks is
answered after the commit. A group that fails as a whole was taken back as a whole: then each of its items is run alone, so a
poisoned one fails by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from common import outages
from common.errors import Unavailable
from common.grouped import Grouped, Item, Row, rows_by_place

log = logging.getLogger("mazevault.lane")

MOST_AT_ONCE = 128
"""Items of one group: large enough that its commit costs each of them little, small enough to take a few milliseconds."""
MOST_WAITING = 1024
"""Items that wait for the next group; who comes beyond is told to come again."""
PATIENCE_SECONDS = 6.0
"""A statement that takes longer is given up with its connection, before those who asked give up themselves (15 s and more)."""
LOCK_SECONDS = 1
"""A group waits for a lock that is none of its own rows' (those are skipped) so long, then its items are run alone."""
PAUSE_SECONDS = 0.2
"""Between two attempts to connect."""

Alone = Callable[[Grouped, Item], Awaitable[Row | None]]


@dataclass(eq=False)
class _Asked:
    item: Item
    key: Any
    answer: asyncio.Future[Row | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Group:
    """One statement on a connection of its own. `alone` runs one item where a group cannot; it is bounded itself."""

    def __init__(self, statement: Grouped, parameters: dict[str, Any], alone: Alone) -> None:
        self._statement, self._parameters, self._alone = statement, parameters, alone
        self._sql = statement.sql(group=True).encode()
        self._waiting: deque[_Asked] = deque()
        self._moved = asyncio.Event()
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._names: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, item: Item) -> Row | None:
        """The row for this item, after the commit; None when there is none. Raises `Unavailable` or `psycopg.Error`."""
        if len(self._waiting) >= MOST_WAITING:
            raise Unavailable("this node has more to store than it can at the moment; try again", retry_after=2)
        asked = _Asked(item, item[self._statement.key])
        self._waiting.append(asked)
        self._moved.set()
        return await asked.answer

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            while True:
                await self._moved.wait()
                group = self._next_group()
                if not self._waiting:
                    self._moved.clear()
                await self._serve(group)
        finally:
            if self._connection is not None:
                await self._connection.close()

    def _next_group(self) -> list[_Asked]:
        """The oldest items, no two of the same key; those left out come first in the next one."""
        group: list[_Asked] = []
        left: list[_Asked] = []
        seen = set()
        while self._waiting and len(group) < MOST_AT_ONCE:
            asked = self._waiting.popleft()
            if asked.answer.done():
                continue  # nobody waits for it any more, and it was never begun
            if asked.key in seen:
                left.append(asked)
            else:
                seen.add(asked.key)
                group.append(asked)
        self._waiting.extendleft(reversed(left))
        return group

    async def _serve(self, group: list[_Asked]) -> None:
        if not group:
            return
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                rows = await self._stated(group)
        except (psycopg.OperationalError, TimeoutError, OSError) as error:
            if isinstance(error, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected):
                self._one_by_one(group)
            else:
                await self._give_up(group, error)
        except psycopg.Error as error:
            log.warning("a group of %s was taken back (%s); its items are run alone", self._statement.name, type(error).__name__)
            self._one_by_one(group)
        else:
            self._answer(group, rows)

    async def _stated(self, group: list[_Asked]) -> dict[int, Row]:
        connection = await self._connected()
        cursor = await connection.execute(self._sql, self._statement.binary_arrays([asked.item for asked in group]), prepare=True)
        if not self._names:
            self._names = [column.name for column in cursor.description or ()]
        return rows_by_place(self._names, await cursor.fetchall())

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = await psycopg.AsyncConnection.connect(**self._parameters, autocommit=True)
            outages.database.answered()
            await self._connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
            await self._connection.execute("SET plan_cache_mode = force_generic_plan")  # planning costs more than running
        return self._connection

    def _answer(self, group: list[_Asked], rows: dict[int, Row]) -> None:
        skipped = []
        for place, asked in enumerate(group):
            if place not in rows:
                skipped.append(asked)
            elif not asked.answer.done():
                asked.answer.set_result(rows[place])
        self._one_by_one(skipped)

    def _one_by_one(self, group: list[_Asked]) -> None:
        """Beside the next group, not before it."""
        for asked in group:
            task = asyncio.ensure_future(self._run_alone(asked))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run_alone(self, asked: _Asked) -> None:
        try:
            row = await self._alone(self._statement, asked.item)
        except Exception as error:  # whatever it is, it is the answer to who asked
            if not asked.answer.done():
                asked.answer.set_exception(error)
        else:
            if not asked.answer.done():
                asked.answer.set_result(row)

    async def _give_up(self, group: list[_Asked], error: BaseException) -> None:
        """The database does not answer. Nobody knows whether the group was stored, so nobody is told that it was."""
        outages.database.failed(error)
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
        for asked in group:
            if not asked.answer.done():
                asked.answer.set_exception(
                    Unavailable("the database does not answer right now; what was sent may have been kept or not", retry_after=2)
                )
        await asyncio.sleep(PAUSE_SECONDS)
